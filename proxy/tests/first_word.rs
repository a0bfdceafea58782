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
use isthmus_proxy::message::replay::REPLAYED_MAX;
use isthmus_tests::harness::http::connect_via_proxy;
use isthmus_tests::wan::Link;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The preface and settings of a data plane are shorter than this, and with a request they are longer.
const REQUEST_LEN_MIN: usize = 100;
/// Of which the quickest counts: a machine that halts once does not add a round trip to both.
const ROUNDS: usize = 2;
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
    let (get, post) = (Some("GET"), Some("POST"));
    let mut quickest = [Duration::MAX; 4];
    for _ in 0..ROUNDS {
        let took = tokio::join!(first(get, ""), first(None, ""), first(post, "body"), first(post, &long));
        for (quickest, took) in quickest.iter_mut().zip(<[Duration; 4]>::from(took)) {
            *quickest = took.min(*quickest);
        }
    }
    let [get, connect, post, upload] = quickest;
    // TCP, TLS, and the request.
    for took in [get, connect, post] {
        assert!((3 * ROUND_TRIP..4 * ROUND_TRIP).contains(&took), "{took:?}");
    }
    // And the server's first word before that.
    assert!(upload >= 4 * ROUND_TRIP, "{upload:?}");
}

/// What a far side that serves nobody does with a session, once TLS is done for the client.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// It does not know who signed the client's certificate, and says so.
    Unknown,
    /// It ends the session in order, when it has looked at who the client is.
    Away,
    /// It ends it without a word, with the request before it.
    Silent,
    /// It says nothing, for ever.
    Mute,
    /// It says that to the request, and no more.
    Saying(&'static [u8]),
}

impl Turn {
    /// Whether the caller knows then that nobody has acted on its request.
    fn is_refusal(self) -> bool {
        match self {
            Self::Unknown | Self::Away => true,
            Self::Silent | Self::Mute => false,
            Self::Saying(words) => words == GOING,
        }
    }
}

/// HTTP/2 from one that takes nothing: its settings, and that it has not looked at any stream (RFC 9113 §6.8).
const GOING: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A far side that is who it should be, and serves nobody.
async fn turning(federation: &Federation, turn: Turn) -> SocketAddr {
    let identity = federation.identity("us-west", SERVICE);
    if let Turn::Unknown = turn {
        identity.set_trust(Federation::found(&["us-east", "us-west"]).bundle());
    }
    let acceptor = TlsAcceptor::from(identity.server_config(ClientAuth::Required, &[b"h2"]));
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut session) = acceptor.accept(stream).await else { continue };
            if let Turn::Away = turn {
                session.shutdown().await.expect("written");
                continue;
            }
            // What is said before the request goes out would keep it.
            let mut read = Vec::new();
            while read.len() < REQUEST_LEN_MIN && matches!(session.read_buf(&mut read).await, Ok(1..)) {}
            match turn {
                Turn::Unknown | Turn::Away | Turn::Silent => {}
                Turn::Mute => held.push(session),
                Turn::Saying(words) => {
                    session.write_all(words).await.expect("written");
                    held.push(session);
                }
            }
        }
        drop(identity);
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn what_met_a_refusal_is_answered_elsewhere_unless_it_may_have_been_read_and_must_not_be_twice() {
    let federation = Federation::found(&["us-east", "us-west", "us-north"]);
    let (north, begun) = counting_app("north").await;
    let north = federation.workload("us-north", north, echo().await).await;
    let far = splicing_gateway(north.address).await;
    let nonsense = Turn::Saying(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    for turn in [Turn::Unknown, Turn::Away, Turn::Silent, Turn::Mute, nonsense, Turn::Saying(GOING)] {
        let refusing = turning(&federation, turn).await;
        // As it comes to the caller through a gateway, too.
        for (way, near) in [("itself", refusing), ("a gateway", splicing_gateway(refusing).await)] {
            for method in ["GET", "POST", "CONNECT"] {
                let offers = vec![remote("us-west", SameRegion, near), remote("us-north", OtherRegion, far)];
                let east = federation.outbound("us-east", reviews(vec![], offers)).await;
                if method == "CONNECT" {
                    connect_via_proxy(east.address, &format!("{HOST}:{TCP}")).await.expect("a tunnel");
                    continue;
                }
                let before = *begun.borrow();
                let response = request(east.address, method, "/", "", "body").await;
                let answered = usize::from(method == "GET" || turn.is_refusal());
                let expected = ["HTTP/1.1 502", "\r\n\r\nnorth|"][answered];
                assert!(response.contains(expected), "{method} to {turn:?} by {way}: {response}");
                assert_eq!(*begun.borrow() - before, answered, "{method} to {turn:?} by {way}: once");
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
