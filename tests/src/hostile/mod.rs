//! What hostile and broken peers send, each written once, to be replayed on every listener that it can reach.
//!
//! Bytes and what is safe to become of them; which listeners there are, and what stands behind them, is for the tests that
//! replay. Rows are numbered as in the list of what peers will throw at a proxy: 1 the framing of HTTP/1, 2 what comes before a tunnel is
//! open, 3 bytes that are no field, 4 the host, 5 floods of HTTP/2, 6 what unpacks to too much, 7 what HTTP/2 can say and
//! HTTP/1 cannot, 8 messages of gRPC, 9 paths, 11 claims, 12 a session's name and its requests', 13 what is nobody's to proxy.

pub mod client_hello;
pub mod frames;
pub mod grpc;
pub mod http1;
pub mod http2;
mod recorder;

pub use recorder::{Recorder, Request};

/// What may become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safe {
    /// It is refused, the connection (HTTP/1) or the stream (HTTP/2) ends, and nobody behind hears of it.
    Refused,
    /// It is for somebody else: 403, 404 or 421, and nobody behind hears of it.
    Elsewhere,
    /// Its body is none, which is seen when it is read: then it is refused. Nobody behind hears all of it, and nothing more is
    /// answered.
    Broken,
    /// It is taken for one request, and nothing that follows is.
    Once,
    /// It arrives behind with this target, byte for byte, or is refused.
    As(&'static [u8]),
    /// It arrives behind without what it [`forged`](FORGED), or is refused.
    Cleaned,
    /// The same if nobody vouches for its client. What a workload says of where a request came from, it may have from an edge.
    Entered,
}

/// What a request that asks for the wrong thing has in its target.
pub const HIDDEN: &str = "/hidden";
/// The name of a field that is hidden in another's value.
pub const SMUGGLED: &str = "x-smuggled";
/// What claims have in their value.
pub const FORGED: &str = "forged";

/// Targets, and how they arrive if they do: as they are, for paths decide about nothing here and whoever decides behind must see
/// what was sent. A fragment is cut off before anything looks at the target, for it is none of it (RFC 9112 §3.2).
pub const PATHS: [(&[u8], &[u8]); 22] = [
    (b"/", b"/"),
    (b"//", b"//"),
    (b"//evil.example/x", b"//evil.example/x"),
    (b"/a//b", b"/a//b"),
    (b"/a/../b", b"/a/../b"),
    (b"/a/./b", b"/a/./b"),
    (b"/..", b"/.."),
    (b"/%2e%2e/b", b"/%2e%2e/b"),
    (b"/a/%2E%2e/b", b"/a/%2E%2e/b"),
    (b"/a%2fb", b"/a%2fb"),
    (b"/a%2Fb", b"/a%2Fb"),
    (b"/a%5cb", b"/a%5cb"),
    (b"/a\\b", b"/a\\b"),
    (b"/a%252e%252e/b", b"/a%252e%252e/b"),
    (b"/a;x=1/b", b"/a;x=1/b"),
    (b"/a%00b", b"/a%00b"),
    (b"/a%", b"/a%"),
    (b"/a%zz", b"/a%zz"),
    (b"/a?b=/../c", b"/a?b=/../c"),
    (b"/a#x", b"/a"),
    (b"/a\xc3\xa9", b"/a\xc3\xa9"),
    (b"/a\xff\xfe", b"/a\xff\xfe"),
];

/// What no listener may lead to: loopback in its forms, link-local, metadata, unspecified, and names that are not the federation's.
pub const STRANGER_HOSTS: [&str; 10] = [
    "127.0.0.1:15000",
    "localhost:15000",
    "[::1]:15000",
    "[::ffff:127.0.0.1]:15000",
    "0.0.0.0:15000",
    "2130706433:15000",
    "169.254.169.254:80",
    "[fe80::1]:80",
    "metadata.google.internal:80",
    "nobody.shop.svc.clusterset.local:9080",
];
