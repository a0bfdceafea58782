//! HTTP/2, frame by frame: header blocks that are no request, and floods.

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, LAST_REMEMBERED, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    field, frame, remembered, request,
};
use super::{FORGED, HIDDEN, PATHS, STRANGER_HOSTS, Safe};

/// One stream's worth.
#[derive(Clone, Debug)]
pub struct Case {
    /// The row that it is of.
    pub row: u8,
    /// What is wrong with it.
    pub what: &'static str,
    /// The frames of stream 1.
    pub frames: Vec<u8>,
    /// What may become of it.
    pub safe: Safe,
}

/// What is no request, or unpacks to too much, whomever it is for: rows 6 and 7, for every server. A good request for `path` by
/// `method` at `authority` would be answered with 200.
#[must_use]
pub fn messages(method: &str, path: &str, authority: &str) -> Vec<Case> {
    let good = request(method, path, authority);
    let with = |name: &str, value: &[u8]| [&good[..], &field(name, value)].concat();
    let pseudo = |fields: &[(&str, &str)]| -> Vec<u8> {
        fields.iter().flat_map(|(name, value)| field(name, value.as_bytes())).collect()
    };
    let (method, scheme, path, authority) =
        ((":method", method), (":scheme", "http"), (":path", path), (":authority", authority));
    let blocks = [
        ("CR and LF in a value", with("x", b"a\r\nX-Smuggled: 1")),
        ("a bare LF in a value", with("x", b"a\nX-Smuggled: 1")),
        ("NUL in a value", with("x", b"a\0b")),
        ("CR and LF in a name", with("x\r\ny", b"1")),
        ("an upper-case name", with("X-Upper", b"1")),
        ("a space in a name", with("x y", b"1")),
        ("a colon in a name", with("x:y", b"1")),
        ("an empty name", with("", b"1")),
        ("connection", with("connection", b"close")),
        ("keep-alive", with("keep-alive", b"1")),
        ("upgrade", with("upgrade", b"h2c")),
        ("transfer-encoding", with("transfer-encoding", b"chunked")),
        ("te", with("te", b"gzip")),
        ("a second path", with(":path", b"/other")),
        ("a pseudo field after a field", [&with("x", b"1")[..], &field(":authority", b"other")].concat()),
        ("no path", pseudo(&[method, scheme, authority])),
        ("an empty path", pseudo(&[method, scheme, authority, (":path", "")])),
        ("no scheme", pseudo(&[method, path, authority])),
        ("no method", pseudo(&[scheme, path, authority])),
        ("a method that is none", pseudo(&[(":method", "G T"), scheme, path, authority])),
        ("CR and LF in the path", pseudo(&[method, scheme, (":path", "/ HTTP/1.1\r\nX: 1"), authority])),
        ("a space in the path", pseudo(&[method, scheme, (":path", "/ x"), authority])),
        ("an unknown pseudo field", with(":admin", b"1")),
        ("a response's pseudo field", with(":status", b"200")),
        ("a length that is not", with("content-length", b"5")),
        ("two lengths", [&with("content-length", b"0")[..], &field("content-length", b"1")].concat()),
        ("a length that is none", with("content-length", b"-1")),
    ];
    let bombs = [
        ("a bomb", [&good[..], &remembered("x-bomb", &[b'x'; 3_900]), &[LAST_REMEMBERED; 4_000]].concat()),
        ("cookie crumbs", [&good[..], &remembered("cookie", b"a=1"), &[LAST_REMEMBERED; 4_000]].concat()),
        ("an index that is not there", [&good[..], &[0x80 | 126]].concat()),
        ("half a field", [&good[..], &[0, 127]].concat()),
    ];
    let case = |row| move |(what, block)| Case { row, what, frames: whole(block), safe: Safe::Refused };
    blocks.into_iter().map(case(7)).chain(bombs.into_iter().map(case(6))).collect()
}

/// Whom it is for: rows 4, 9, 11, 12 and 13, for proxies. `authority` is what a listener serves: a service that is not `ratings`.
#[must_use]
pub fn targets(authority: &str) -> Vec<Case> {
    let good = request("GET", "/", authority);
    let with = |name: &str, value: &[u8]| [&good[..], &field(name, value)].concat();
    let refused = |row| move |(what, block)| Case { row, what, frames: whole(block), safe: Safe::Refused };
    let scheme = [field(":method", b"GET"), field(":scheme", b"https"), field(":path", b"/")].concat();
    let asks = |protocol: &[u8]| [request("CONNECT", "/", authority), field(":protocol", protocol)].concat();
    let hosts = [
        ("another host", with("host", b"other.example")),
        ("two hosts", [&with("host", authority.as_bytes())[..], &field("host", authority.as_bytes())].concat()),
        ("no authority", [field(":method", b"GET"), field(":scheme", b"http"), field(":path", b"/")].concat()),
        ("user information", request("GET", "/", &format!("me@{authority}"))),
        ("a huge field beside a wrong authority", [request("GET", "/", "@"), field("x", &[b'x'; 12_000])].concat()),
        ("https in the clear", [scheme, field(":authority", authority.as_bytes())].concat()),
        ("a path without a slash", request("GET", "admin", authority)),
        ("a protocol without CONNECT", with(":protocol", b"websocket")),
        ("CONNECT with a path", request("CONNECT", "/", authority)),
        ("an unknown protocol", asks(b"connect-udp")),
    ];
    let paths = PATHS.iter().map(|(sent, arrives)| Case {
        row: 9,
        what: "a path",
        frames: whole(request("GET", sent, authority)),
        safe: Safe::As(arrives),
    });
    let large = (0..5).flat_map(|number| field(&format!("x-{number}"), &[b'x'; 3_000]));
    let large = [good.clone(), large.collect()].concat();
    let large = [Case { row: 6, what: "much, but not too much", frames: whole(large), safe: Safe::As(b"/") }];
    let claims = ["x-forwarded-client-cert", "x_forwarded_client_cert", "forwarded", "x-isthmus-outcome"];
    let claim = |name| whole(with(name, FORGED.as_bytes()));
    let claims = claims.map(|name| Case { row: 11, what: "a claim", frames: claim(name), safe: Safe::Cleaned });
    let entered = ["x-forwarded-for", "x_forwarded_proto", "x-real-ip"].map(|name| Case {
        row: 11,
        what: "where it comes from",
        frames: claim(name),
        safe: Safe::Entered,
    });
    let elsewhere = |what, block| Case { row: 13, what, frames: whole(block), safe: Safe::Elsewhere };
    let connect = |host: &str| [field(":method", b"CONNECT"), field(":authority", host.as_bytes())].concat();
    let strangers = STRANGER_HOSTS.iter().flat_map(|host| {
        [
            elsewhere("a request to what is not the federation's", request("GET", "/", host)),
            elsewhere("CONNECT to what is not the federation's", connect(host)),
        ]
    });
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let forms = [host.to_ascii_uppercase(), format!("{host}.")].map(|form| {
        let frames = whole(request("GET", "/", &authority.replacen(host, &form, 1)));
        Case { row: 12, what: "another form of the name", frames, safe: Safe::As(b"/") }
    });
    let other = authority.replacen(host.split('.').next().unwrap_or(host), "ratings", 1);
    let other =
        [elsewhere("another service", request("GET", "/", &other)), elsewhere("a tunnel to it", connect(&other))];
    let other = other.map(|case| Case { row: 12, ..case });
    hosts
        .into_iter()
        .map(refused(4))
        .chain(paths)
        .chain(forms)
        .chain(other)
        .chain(large)
        .chain(claims)
        .chain(entered)
        .chain(strangers)
        .collect()
}

/// A request for `/` by POST with a body and those trailers. Without being named in the head, none gets to an application that speaks
/// HTTP/1.
#[must_use]
pub fn with_trailers(authority: &str, name: &str, block: &[u8]) -> Vec<u8> {
    let head = [request("POST", "/", authority), field("trailer", name.as_bytes())].concat();
    let body = frame(DATA, 0, 1, b"hello");
    [headers(1, END_HEADERS, &head), body, headers(1, END_HEADERS | END_STREAM, block)].concat()
}

/// What follows a header block that is in order and is not what it announced, or not allowed there: rows 7 and 11, for proxies. A
/// good request for `/` by POST at `authority` would be answered with 200.
#[must_use]
pub fn bodies(authority: &str) -> Vec<Case> {
    let post = |name: &str, value: &[u8]| {
        headers(1, END_HEADERS, &[request("POST", "/", authority), field(name, value)].concat())
    };
    let data = |flags, bytes: &[u8]| frame(DATA, flags, 1, bytes);
    let trailers = |flags, block: &[u8]| headers(1, END_HEADERS | flags, block);
    let announced =
        |length: &str, rest: &[Vec<u8>]| [post("content-length", length.as_bytes()), rest.concat()].concat();
    let ended = |name: &str, block: &[u8]| with_trailers(authority, name, block);
    let late = |value: &[u8]| ended("x-late", &field("x-late", value));
    let case = |row, safe| move |(what, frames)| Case { row, what, frames, safe };
    let other = request("POST", HIDDEN, authority);
    let refused = [
        ("more than its length", announced("3", &[data(END_STREAM, b"hello")])),
        ("less than its length", announced("5", &[data(END_STREAM, b"hel")])),
        (
            "less than its length, and trailers",
            announced("5", &[data(0, b"hel"), trailers(END_STREAM, &field("x", b"1"))]),
        ),
        ("nothing of its length", announced("5", &[data(END_STREAM, b"")])),
        (
            "trailers that are not the end",
            [post("trailer", b"x"), data(0, b"hello"), trailers(0, &field("x", b"1"))].concat(),
        ),
        ("a second request's header block", [post("x", b"1"), data(0, b"hello"), trailers(0, &other)].concat()),
        ("CR and LF in a trailer's value", late(b"1\r\nX-Smuggled: 1")),
        ("a bare LF in a trailer's value", late(b"1\nX-Smuggled: 1")),
        ("NUL in a trailer's value", late(b"1\0")),
        ("CR and LF in a trailer's name", ended("x", &field("x: 1\r\ny", b"1"))),
        ("an upper-case name in trailers", ended("x-late", &field("X-Late", b"1"))),
        ("connection in trailers", ended("connection", &field("connection", b"close"))),
        ("transfer-encoding in trailers", ended("transfer-encoding", &field("transfer-encoding", b"chunked"))),
    ];
    let once = [
        // Who reads as it comes has a whole request before it is too long.
        ("more than its length, later", announced("3", &[data(0, b"hel"), data(END_STREAM, b"lo")])),
        // They must not be there (RFC 9113 §8.1), and come to nothing: nobody behind is told.
        ("pseudo fields in trailers", ended(":path", &field(":path", HIDDEN.as_bytes()))),
        ("a request in trailers", ended("x", &other)),
        ("a length in trailers", ended("content-length", &field("content-length", b"64"))),
        ("a host in trailers", ended("host", &field("host", HIDDEN.as_bytes()))),
    ];
    let claims = ["x-forwarded-client-cert", "x_forwarded_client_cert", "forwarded", "x-isthmus-outcome"]
        .map(|name| ("a claim in trailers", ended(name, &field(name, FORGED.as_bytes()))));
    let refused = refused.into_iter().map(case(7, Safe::Refused));
    refused
        .chain(once.into_iter().map(case(7, Safe::Once)))
        .chain(claims.into_iter().map(case(11, Safe::Cleaned)))
        .collect()
}

/// What has no end, and nobody has to bear: row 5.
#[derive(Clone, Debug)]
pub struct Flood {
    /// What there is too much of.
    pub what: &'static str,
    /// The frames of a connection that was opened in order.
    pub frames: Vec<u8>,
    /// Whether the connection has to end; otherwise it may go on as slowly as its peer reads the answers.
    pub ends: bool,
}

/// Streams in one flood: many times what any limit allows.
const STREAMS: u32 = 20_000;

fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags, stream, block)
}

/// The frame of a stream that ends with its header block.
fn whole(block: Vec<u8>) -> Vec<u8> {
    headers(1, END_HEADERS | END_STREAM, &block)
}

/// Streams, each opened by `open` and followed by `then`.
fn streams(open: &[u8], flags: u8, then: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let one = |number: u32| [headers(2 * number + 1, flags, open), then(2 * number + 1)].concat();
    (0..STREAMS).flat_map(one).collect()
}

/// Every flood, of requests for `path` by POST at `authority`.
#[must_use]
pub fn floods(path: &str, authority: &str) -> Vec<Flood> {
    let post = request("POST", path, authority);
    let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let provoke = |stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4]);
    let late = |stream| frame(DATA, 0, stream, b"x");
    let (whole, begun) = (END_HEADERS | END_STREAM, END_HEADERS);
    let endless = |first: Vec<u8>, count: usize, next: Vec<u8>| [first, next.repeat(count)].concat();
    let ending = [
        ("rapid reset", streams(&post, whole, reset)),
        ("made you reset", streams(&post, begun, provoke)),
        ("made you reset, by what comes too late", streams(&post, whole, late)),
        ("continuation", endless(headers(1, END_STREAM, &post), 10_000, frame(CONTINUATION, 0, 1, &field("x", b"y")))),
        ("empty continuation", endless(headers(1, END_STREAM, &post), 100_000, frame(CONTINUATION, 0, 1, &[]))),
        ("empty data", endless(headers(1, begun, &post), 20_000, frame(DATA, 0, 1, &[]))),
        (
            "windows beyond the largest",
            endless(Vec::new(), 3, frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        ),
    ];
    let acknowledged = [
        ("pings", frame(PING, 0, 0, &[0; 8]).repeat(200_000)),
        ("settings", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]).repeat(200_000)),
        ("unknown frames", frame(0xbe, 0, 0, &[0; 64]).repeat(50_000)),
        ("small windows", frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).repeat(200_000)),
    ];
    let flood = |ends| move |(what, frames)| Flood { what, frames, ends };
    ending.into_iter().map(flood(true)).chain(acknowledged.into_iter().map(flood(false))).collect()
}
