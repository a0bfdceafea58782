//! HTTP/2 frame by frame (RFC 9113 §4.1), for what no client library would send.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::timeout;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PROTOCOL_ERROR: u32 = 1;
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SOON: Duration = Duration::from_secs(10);

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field without compression (RFC 7541 §6.2.2).
pub fn field(name: &str, value: &[u8]) -> Vec<u8> {
    [&[0][..], &string(name.as_bytes()), &string(value)].concat()
}

/// A field that is remembered (§6.2.1).
pub fn remembered(name: &str, value: &[u8]) -> Vec<u8> {
    [&[0x40][..], &string(name.as_bytes()), &string(value)].concat()
}

/// The last field that was remembered (§6.1): the dynamic table begins at 62.
pub const LAST_REMEMBERED: u8 = 0x80 | 62;

fn string(text: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    match u8::try_from(text.len()).ok().filter(|length| *length < 127) {
        Some(length) => encoded.push(length),
        None => {
            encoded.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                encoded.push(u8::try_from(rest % 128).expect("below 128") | 128);
                rest /= 128;
            }
            encoded.push(u8::try_from(rest).expect("below 128"));
        }
    }
    encoded.extend_from_slice(text);
    encoded
}

/// The pseudo fields of a request.
pub fn request(method: &str, path: &str, authority: &str) -> Vec<u8> {
    [
        field(":method", method.as_bytes()),
        field(":scheme", b"http"),
        field(":path", path.as_bytes()),
        field(":authority", authority.as_bytes()),
    ]
    .concat()
}

/// What became of a connection or of a stream on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole connection is going, for that reason.
    GoAway(u32),
    /// The stream was reset, for that reason.
    Reset(u32),
    /// The stream was answered; the first byte of the header block, which tells common statuses.
    Answered(u8),
    /// The connection ended without a word.
    Closed,
    /// Nothing happened, for long.
    Silence,
}

pub struct Peer {
    read: ReadHalf<Box<dyn Stream>>,
    write: WriteHalf<Box<dyn Stream>>,
}

impl Peer {
    /// Opens a connection in order.
    pub async fn open(stream: impl Stream + 'static) -> Self {
        let stream: Box<dyn Stream> = Box::new(stream);
        let (read, write) = split(stream);
        let mut peer = Self { read, write };
        peer.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        peer
    }

    /// Sends what may be too much: what is refused half way is refused.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(SOON, self.write.write_all(bytes)).await;
        let _ = timeout(SOON, self.write.flush()).await;
    }

    /// What becomes of `stream`. Whatever else comes is passed over.
    pub async fn outcome(&mut self, stream: u32) -> Outcome {
        timeout(SOON, self.wait(stream)).await.unwrap_or(Outcome::Silence)
    }

    async fn wait(&mut self, stream: u32) -> Outcome {
        while let Some(Frame { kind, of, payload, .. }) = read_frame(&mut self.read).await {
            let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
            match kind {
                GOAWAY => return Outcome::GoAway(number(4)),
                RST_STREAM if of == stream => return Outcome::Reset(number(0)),
                HEADERS if of == stream => return Outcome::Answered(payload[0]),
                _ => {}
            }
        }
        Outcome::Closed
    }
}

pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    /// The stream that it is of.
    pub of: u32,
    pub payload: Vec<u8>,
}

/// The next frame; `None` when the connection ended.
pub async fn read_frame(read: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let mut head = [0; 9];
    read.read_exact(&mut head).await.ok()?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let mut payload = vec![0; length];
    read.read_exact(&mut payload).await.ok()?;
    let of = u32::from_be_bytes(head[5..9].try_into().expect("four bytes"));
    Some(Frame { kind: head[3], flags: head[4], of, payload })
}
