//! HTTP/2 as no client library would speak it, to both listeners that take it: bounded, and beside it good traffic goes on.
//! Rows 5 to 7 of what peers will throw at them.

#![allow(missing_docs)]

mod federation;
mod frames;

use std::sync::Arc;

use federation::{Federation, HOST, HTTP, Outbound, Workload, counting_app, echo, get, remote, reviews, status};
use frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, LAST_REMEMBERED, Outcome, PING, PROTOCOL_ERROR, Peer,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, field, frame, remembered, request,
};
use isthmus_identity::LiveIdentity;
use isthmus_model::locality::Proximity::OtherRegion;
use isthmus_model::spiffe::SpiffeId;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::rustls::pki_types::ServerName;

/// HPACK's static table (RFC 7541 appendix A): `:status: 200`, and 400 and 431 by their first byte.
const OK: u8 = 0x88;

/// Both listeners, and the application behind.
struct Surfaces {
    east: Outbound,
    west: Workload,
    identity: LiveIdentity,
    count: watch::Receiver<usize>,
    _federation: Federation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Surface {
    /// A client's connection to its sidecar.
    Outbound,
    /// A data plane's session.
    Inbound,
}

const BOTH: [Surface; 2] = [Surface::Outbound, Surface::Inbound];

impl Surfaces {
    async fn start() -> Self {
        let federation = Federation::found(&["us-east", "us-west"]);
        let (app, count) = counting_app("west").await;
        let west = federation.workload("us-west", app, echo().await).await;
        let gateway = federation::splicing_gateway(west.address).await;
        let east = federation.outbound("us-east", reviews(vec![], vec![remote("us-west", OtherRegion, gateway)])).await;
        let identity = federation.identity("us-east", "shop/attacker");
        Self { east, west, identity, count, _federation: federation }
    }

    async fn peer(&self, surface: Surface) -> Peer {
        if surface == Surface::Outbound {
            return Peer::open(TcpStream::connect(self.east.address).await.expect("connected")).await;
        }
        let anyone = Arc::new(|_: &SpiffeId| true);
        let connector = tokio_rustls::TlsConnector::from(self.identity.client_config(anyone, &[b"h2"]));
        let name = ServerName::try_from("reviews.shop.svc.us-west.acme.mesh").expect("a name");
        let stream = TcpStream::connect(self.west.address).await.expect("connected");
        Peer::open(connector.connect(name, stream).await.expect("a handshake")).await
    }

    /// Whether others are served meanwhile, over the session that all share.
    async fn serve_others(&self) {
        let answer = get(self.east.address, "/").await;
        assert_eq!(status(&answer), "200", "{answer}");
    }
}

fn authority() -> String {
    format!("{HOST}:{HTTP}")
}

fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags, stream, block)
}

/// So many streams, each opened by `open` and followed by `then`.
fn streams(count: u32, open: &[u8], flags: u8, then: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let one = |number: u32| [headers(2 * number + 1, flags, open), then(2 * number + 1)].concat();
    (0..count).flat_map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn well_formed_frames_are_answered() {
    let surfaces = Surfaces::start().await;
    for surface in BOTH {
        let mut peer = surfaces.peer(surface).await;
        peer.send(&headers(1, END_HEADERS | END_STREAM, &request("GET", "/", &authority()))).await;
        assert_eq!(peer.outcome(1).await, Outcome::Answered(OK), "{surface:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_the_connection_and_nothing_else() {
    let surfaces = Surfaces::start().await;
    let get = request("GET", "/slow", &authority());
    let post = request("POST", "/slow", &authority());
    for surface in BOTH {
        let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        let provoke = |stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4]);
        let late = |stream| frame(DATA, 0, stream, b"x");
        let floods: [(&str, Vec<u8>); 5] = [
            ("rapid reset", streams(20_000, &get, END_HEADERS | END_STREAM, reset)),
            ("made you reset", streams(20_000, &post, END_HEADERS, provoke)),
            ("made you reset, by what comes too late", streams(20_000, &get, END_HEADERS | END_STREAM, late)),
            ("continuation", {
                let pieces = (0..10_000).flat_map(|_| frame(CONTINUATION, 0, 1, &field("x", b"y")));
                headers(1, END_STREAM, &get).into_iter().chain(pieces).collect()
            }),
            ("empty data", {
                let pieces = (0..20_000).flat_map(|_| frame(DATA, 0, 1, &[]));
                headers(1, END_HEADERS, &post).into_iter().chain(pieces).collect()
            }),
        ];
        for (what, flood) in floods {
            let mut peer = surfaces.peer(surface).await;
            let before = *surfaces.count.borrow();
            // Both at once, or neither side would read.
            peer.send(&flood).await;
            let outcome = peer.outcome(u32::MAX).await;
            // Some are errors of the whole connection before they are too many.
            assert!(matches!(outcome, Outcome::GoAway(_) | Outcome::Closed), "{what} at {surface:?}: {outcome:?}");
            surfaces.serve_others().await;
            let reached = *surfaces.count.borrow() - before;
            println!("{what} at {surface:?}: {outcome:?}, {reached} requests reached the application");
            assert!(reached < 2_000, "{what} at {surface:?}: {reached} reached the application");
        }
    }
}

/// Acknowledgements are owed for these, and whoever does not read them is not read either.
#[tokio::test(flavor = "multi_thread")]
async fn pings_and_settings_without_end_keep_nobody_busy() {
    let surfaces = Surfaces::start().await;
    for surface in BOTH {
        for (kind, payload) in [(PING, &[0; 8][..]), (SETTINGS, &[0, 4, 0, 0, 255, 255][..])] {
            let mut peer = surfaces.peer(surface).await;
            let flood: Vec<u8> = (0..200_000).flat_map(|_| frame(kind, 0, 0, payload)).collect();
            peer.send(&flood).await;
            surfaces.serve_others().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_unpacks_to_too_much_is_refused() {
    let surfaces = Surfaces::start().await;
    let start = request("GET", "/", &authority());
    let bomb = [&start[..], &remembered("x-bomb", &[b'x'; 3_900]), &[LAST_REMEMBERED; 4_000]].concat();
    let crumbs = [&start[..], &remembered("cookie", b"a=1"), &[LAST_REMEMBERED; 4_000]].concat();
    let huge =
        [&start[..], &(0..5).flat_map(|number| field(&format!("x-{number}"), &[b'x'; 3_000])).collect::<Vec<_>>()]
            .concat();
    for surface in BOTH {
        let before = *surfaces.count.borrow();
        for (what, block) in [("bomb", &bomb), ("crumbs", &crumbs)] {
            let mut peer = surfaces.peer(surface).await;
            peer.send(&headers(1, END_HEADERS | END_STREAM, block)).await;
            let outcome = peer.outcome(1).await;
            // 431, or worse; and 200 it is not.
            let refused = !matches!(outcome, Outcome::Answered(OK) | Outcome::Silence);
            assert!(refused, "{what} at {surface:?}: {outcome:?}");
        }
        assert_eq!(*surfaces.count.borrow(), before, "the application heard nothing");
        let mut peer = surfaces.peer(surface).await;
        peer.send(&headers(1, END_HEADERS | END_STREAM, &huge)).await;
        assert_eq!(peer.outcome(1).await, Outcome::Answered(OK), "what is large but not too large, at {surface:?}");
        surfaces.serve_others().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_none_reach_no_application() {
    let surfaces = Surfaces::start().await;
    let authority = authority();
    let with = |name: &str, value: &[u8]| [request("GET", "/", &authority), field(name, value)].concat();
    let pseudo = |fields: &[(&str, &str)]| -> Vec<u8> {
        fields.iter().flat_map(|(name, value)| field(name, value.as_bytes())).collect()
    };
    let method_scheme = [(":method", "GET"), (":scheme", "http")];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("CR and LF in a value", with("x", b"a\r\nX-Smuggled: 1")),
        ("NUL in a value", with("x", b"a\0b")),
        ("an upper-case name", with("X-Upper", b"1")),
        ("a space in a name", with("x y", b"1")),
        ("connection", with("connection", b"close")),
        ("transfer-encoding", with("transfer-encoding", b"chunked")),
        ("te", with("te", b"gzip")),
        ("another host", with("host", b"ratings.shop.svc.clusterset.local:9080")),
        ("a second path", with(":path", b"/other")),
        ("a pseudo field after a field", [with("x", b"1"), field(":authority", b"other")].concat()),
        ("no authority", pseudo(&[&method_scheme[..], &[(":path", "/")]].concat())),
        ("no path", pseudo(&[&method_scheme[..], &[(":authority", &authority)]].concat())),
        ("a path without a slash", request("GET", "admin", &authority)),
        ("an unknown pseudo field", with(":admin", b"1")),
        ("a length that is not", [request("GET", "/", &authority), field("content-length", b"5")].concat()),
        ("two lengths", [with("content-length", b"0"), field("content-length", b"1")].concat()),
        ("user information", request("GET", "/", &format!("me@{authority}"))),
        (
            "another scheme",
            [
                field(":method", b"GET"),
                field(":scheme", b"https"),
                pseudo(&[(":path", "/"), (":authority", &authority)]),
            ]
            .concat(),
        ),
        ("a protocol without CONNECT", with(":protocol", b"websocket")),
        ("CONNECT with a path", request("CONNECT", "/", &authority)),
        ("an unknown protocol", [request("CONNECT", "/", &authority), field(":protocol", b"connect-udp")].concat()),
    ];
    for surface in BOTH {
        let before = *surfaces.count.borrow();
        for (what, block) in &cases {
            let mut peer = surfaces.peer(surface).await;
            peer.send(&headers(1, END_HEADERS | END_STREAM, block)).await;
            let outcome = peer.outcome(1).await;
            let refused = match outcome {
                Outcome::GoAway(reason) | Outcome::Reset(reason) => reason == PROTOCOL_ERROR,
                Outcome::Answered(first) => first != OK,
                Outcome::Closed => true,
                Outcome::Silence => false,
            };
            assert!(refused, "{what} at {surface:?}: {outcome:?}");
        }
        assert_eq!(*surfaces.count.borrow(), before, "the application heard nothing");
        surfaces.serve_others().await;
    }
}
