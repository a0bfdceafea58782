//! Sessions at their beginning: what goes out before the far side has said its first word, and what becomes of it when
//! that word is a refusal, or when it comes from somebody of whom the caller has not heard yet.

#![allow(missing_docs)]

mod federation;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use federation::{
    ANY_PORT, Federation, HOST, SERVICE, TCP, app, echo, remote, request, reviews, splicing_gateway, status,
};
use isthmus_identity::ClientAuth;
use isthmus_model::locality::Proximity::{OtherRegion, SameRegion};
use isthmus_proxy::message::body::REPLAYED_MAX;
use isthmus_tests::harness::http::connect_via_proxy;
use isthmus_tests::wan::Link;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Long against all work, so that round trips can be counted on a busy machine.
const ROUND_TRIP: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread")]
async fn a_first_call_takes_three_round_trips_and_four_if_its_body_is_not_kept() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let link = Link::start(ANY_PORT, splicing_gateway(west.address).await).await.expect("a free port");
    link.delay(ROUND_TRIP / 2);
    let long = "x".repeat(usize::try_from(REPLAYED_MAX).expect("some kilobytes") + 1);
    let first = async |method: Option<&str>, body: &str| {
        let offer = remote("us-west", OtherRegion, link.address());
        let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;
        let began = Instant::now();
        match method {
            Some(method) => assert_eq!(status(&request(east.address, method, "/", "", body).await), "200"),
            None => drop(connect_via_proxy(east.address, &format!("{HOST}:{TCP}")).await.expect("a tunnel")),
        }
        began.elapsed()
    };
    let (get, connect, post, upload) =
        tokio::join!(first(Some("GET"), ""), first(None, ""), first(Some("POST"), "body"), first(Some("POST"), &long));
    // TCP, TLS, and the request.
    for took in [get, connect, post] {
        assert!((3 * ROUND_TRIP..4 * ROUND_TRIP).contains(&took), "{took:?}");
    }
    // And the server's first word before that.
    assert!(upload >= 4 * ROUND_TRIP, "{upload:?}");
}

/// How a server ends a session that it does not want, once TLS is done for the client.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// It does not know who signed the client's certificate.
    Alert,
    /// In order, when it has looked at who the client is.
    Closure,
    /// Without a word: it may have read what came, and may have acted on it.
    Silence,
}

/// Ends every session so.
async fn turning_away(federation: &Federation, ending: Ending) -> SocketAddr {
    let identity = federation.identity("us-west", SERVICE);
    if let Ending::Alert = ending {
        identity.set_trust(Federation::found(&["us-east", "us-west"]).bundle());
    }
    let acceptor = TlsAcceptor::from(identity.server_config(ClientAuth::Required, &[b"h2"]));
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match (acceptor.accept(stream).await, ending) {
                (Err(_), Ending::Alert) => {}
                (Ok(mut tls), Ending::Closure) => tls.shutdown().await.expect("written"),
                (Ok(mut tls), Ending::Silence) => {
                    // The request is there, as far as the caller can know.
                    let mut read = Vec::new();
                    while !read.ends_with(b"body") && tls.read_buf(&mut read).await.expect("readable") > 0 {}
                }
                (accepted, _) => panic!("{ending:?}: {accepted:?}"),
            }
        }
        drop(identity);
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn what_met_a_refusal_is_answered_elsewhere_unless_it_may_have_been_read_and_must_not_be_twice() {
    let federation = Federation::found(&["us-east", "us-west", "us-north"]);
    let north = federation.workload("us-north", app("north").await, echo().await).await;
    let far = splicing_gateway(north.address).await;
    for ending in [Ending::Alert, Ending::Closure, Ending::Silence] {
        // As it comes to the caller through a gateway, too.
        let refusing = turning_away(&federation, ending).await;
        for (way, near) in [("itself", refusing), ("a gateway", splicing_gateway(refusing).await)] {
            for method in ["GET", "POST"] {
                let offers = vec![remote("us-west", SameRegion, near), remote("us-north", OtherRegion, far)];
                let east = federation.outbound("us-east", reviews(vec![], offers)).await;
                let response = request(east.address, method, "/", "", "body").await;
                let lost = matches!(ending, Ending::Silence) && method == "POST";
                let expected = if lost { "HTTP/1.1 502" } else { "\r\n\r\nnorth|" };
                assert!(response.contains(expected), "{method}, {ending:?} by {way}: {response}");
            }
        }
    }
}

/// Found by the soak: the other cluster's gateway hands sessions to a new instance before the registry's word of its
/// identity is with the caller, which turned the instance away and had nowhere else to go.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_answers_before_it_is_known_is_waited_for() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let offer = remote("us-west", OtherRegion, listener.local_addr().expect("bound"));
    let mut unheard = offer.clone();
    unheard.identities = BTreeSet::from(["shop/earlier".parse().expect("valid")]);
    let east = federation.outbound("us-east", reviews(vec![], vec![unheard])).await;
    let (view, known) = (east.view.clone(), federation.view("us-east", reviews(vec![], vec![offer])));
    tokio::spawn(async move {
        for number in 0..2 {
            let (mut client, _) = listener.accept().await.expect("accepted");
            let mut upstream = TcpStream::connect(west.address).await.expect("connected");
            // Ends when the caller has turned it away.
            let _ = copy_bidirectional(&mut client, &mut upstream).await;
            if number == 0 {
                view.send_replace(Arc::new(known.clone()));
            }
        }
    });
    let response = request(east.address, "POST", "/", "", "body").await;
    assert!(response.contains("\r\n\r\nwest|"), "{response}");
}
