//! Sessions at their beginning: what goes out before the far side has said its first word, and what becomes of it when
//! that word is a refusal, or when it comes from somebody of whom the caller has not heard yet.

#![allow(missing_docs)]

mod federation;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use federation::{
    ANY_PORT, Federation, HOST, SERVICE, TCP, app, counting_app, echo, remote, request, reviews, splicing_gateway,
    status,
};
use isthmus_identity::ClientAuth;
use isthmus_model::locality::Proximity::{OtherRegion, SameRegion};
use isthmus_tests::harness::http::connect_via_proxy;
use isthmus_tests::wan::Link;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Long against all work, so that round trips can be counted on a busy machine.
const ROUND_TRIP: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread")]
async fn a_first_call_takes_three_round_trips_and_four_if_it_must_not_be_lost() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app("west").await, echo().await).await;
    let link = Link::start(ANY_PORT, splicing_gateway(west.address).await).await.expect("a free port");
    link.delay(ROUND_TRIP / 2);
    let first = async |method: Option<&str>| {
        let offer = remote("us-west", OtherRegion, link.address());
        let east = federation.outbound("us-east", reviews(vec![], vec![offer])).await;
        let began = Instant::now();
        match method {
            Some(method) => assert_eq!(status(&request(east.address, method, "/", "", "body").await), "200"),
            None => drop(connect_via_proxy(east.address, &format!("{HOST}:{TCP}")).await.expect("a tunnel")),
        }
        began.elapsed()
    };
    let (get, connect, post) = tokio::join!(first(Some("GET")), first(None), first(Some("POST")));
    // TCP, TLS, and the request.
    for took in [get, connect] {
        assert!((3 * ROUND_TRIP..4 * ROUND_TRIP).contains(&took), "{took:?}");
    }
    // And the server's first word before that.
    assert!((4 * ROUND_TRIP..5 * ROUND_TRIP).contains(&post), "{post:?}");
}

/// What a far side that serves nobody does once TLS is done.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// It ends the session without a word, as a server does that turns the client away.
    Away,
    /// It says nothing, for ever.
    Mute,
    /// It says that, and no more.
    Saying(&'static [u8]),
}

/// HTTP/2 from one that takes nothing: its settings, and that it has not looked at any stream (RFC 9113 §6.8).
const GOING: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A far side that is who it should be, and serves nobody.
async fn turning(federation: &Federation, turn: Turn) -> SocketAddr {
    let identity = federation.identity("us-west", SERVICE);
    let acceptor = TlsAcceptor::from(identity.server_config(ClientAuth::Required, &[b"h2"]));
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut session) = acceptor.accept(stream).await else { continue };
            match turn {
                Turn::Away => {}
                Turn::Mute => held.push(session),
                Turn::Saying(words) => {
                    // Whoever is gone already does not hear it.
                    let _ = session.write_all(words).await;
                    held.push(session);
                }
            }
        }
        drop(identity);
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn what_met_a_refusal_is_answered_elsewhere_whatever_it_was() {
    let federation = Federation::found(&["us-east", "us-west", "us-north"]);
    let (north, begun) = counting_app("north").await;
    let north = federation.workload("us-north", north, echo().await).await;
    let far = splicing_gateway(north.address).await;
    for turn in [Turn::Away, Turn::Mute, Turn::Saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Turn::Saying(GOING)] {
        for method in ["GET", "POST", "CONNECT"] {
            let near = turning(&federation, turn).await;
            let offers = vec![remote("us-west", SameRegion, near), remote("us-north", OtherRegion, far)];
            let east = federation.outbound("us-east", reviews(vec![], offers)).await;
            let before = *begun.borrow();
            if method == "CONNECT" {
                connect_via_proxy(east.address, &format!("{HOST}:{TCP}")).await.expect("a tunnel");
                continue;
            }
            let response = request(east.address, method, "/", "", "body").await;
            assert!(response.contains("\r\n\r\nnorth|"), "{method} to {turn:?}: {response}");
            assert_eq!(*begun.borrow(), before + 1, "{method} to {turn:?}: once");
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
