//! Messages of gRPC that announce more than they are, and whom they may be sent to: row 8.

use super::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, field, frame, request};

/// The bytes of one call.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// What is wrong with it.
    pub what: &'static str,
    /// What the call says that it is packed with.
    pub encoding: Option<&'static str>,
    /// Flag, length and what there is of the rest.
    pub bytes: &'static [u8],
}

impl Message {
    /// The frames of a call on stream 1, for what is between a client and a service.
    #[must_use]
    pub fn in_http2(&self, path: &str, authority: &str) -> Vec<u8> {
        let fields = self.fields().flat_map(|(name, value)| field(name, value.as_bytes()));
        let head = request("POST", path, authority).into_iter().chain(fields).collect::<Vec<u8>>();
        [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, END_STREAM, 1, self.bytes)].concat()
    }

    /// The same as a request of HTTP/1.1, where nobody speaks HTTP/2.
    #[must_use]
    pub fn in_http1(&self, path: &str, authority: &str) -> Vec<u8> {
        let fields: String = self.fields().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = self.bytes.len();
        let framing = format!("Host: {authority}\r\nContent-Length: {length}\r\nConnection: close\r\n");
        let head = format!("POST {path} HTTP/1.1\r\n{framing}{fields}\r\n");
        [head.as_bytes(), self.bytes].concat()
    }

    fn fields(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let encoding = self.encoding.map(|encoding| ("grpc-encoding", encoding));
        [("content-type", CONTENT_TYPE), ("te", "trailers")].into_iter().chain(encoding)
    }
}

/// What every call says that it is.
pub const CONTENT_TYPE: &str = "application/grpc";

/// Every message. None of them may be taken, and none may cost what it announces.
pub const MESSAGES: [Message; 5] = [
    Message { what: "4 GiB", encoding: None, bytes: b"\0\xff\xff\xff\xff" },
    Message { what: "1 GiB", encoding: None, bytes: b"\0\x40\0\0\0abc" },
    Message { what: "packed without saying how", encoding: None, bytes: b"\x01\0\0\0\x04\x1f\x8b\x08\0" },
    Message { what: "a bomb", encoding: Some("gzip"), bytes: BOMB },
    Message { what: "an unknown flag", encoding: None, bytes: b"\x07\0\0\0\0" },
];

/// The start of what unpacks to any number of zeros (RFC 1952): whoever looks at it has begun to unpack.
const BOMB: &[u8] = b"\x01\0\0\0\x14\x1f\x8b\x08\0\0\0\0\0\x02\x03\xec\xc1\x01\x0d\0\0\0\xc2\xa0\xf7";

/// The calls that gateways take from gateways.
pub const GATEWAYS: [&str; 9] = [
    "/isthmus.peer.v1.Raft/Append",
    "/isthmus.peer.v1.Raft/Vote",
    "/isthmus.peer.v1.Raft/Snapshot",
    "/isthmus.peer.v1.Raft/InstallSnapshot",
    "/isthmus.peer.v1.Election/Canvass",
    "/isthmus.peer.v1.Election/Stand",
    "/isthmus.peer.v1.Registry/Propose",
    "/isthmus.peer.v1.Join/Redeem",
    "/isthmus.peer.v1.Health/Watch",
];
/// The call that gateways take from newcomers.
pub const NEWCOMERS: [&str; 1] = ["/isthmus.peer.v1.Join/Redeem"];
/// The call that gateways take from sidecars.
pub const SIDECARS: [&str; 1] = ["/isthmus.control.v1.Control/Attach"];
/// The calls that sidecars take from applications.
pub const APPLICATIONS: [&str; 2] = ["/SpiffeWorkloadAPI/FetchX509SVID", "/SpiffeWorkloadAPI/FetchX509Bundles"];
