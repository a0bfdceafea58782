//! HTTP/2 frame by frame (RFC 9113 §4.1), for what no client library would send.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::timeout;

/// Bytes of a stream.
pub const DATA: u8 = 0;
/// Opens a stream.
pub const HEADERS: u8 = 1;
/// Ends a stream.
pub const RST_STREAM: u8 = 3;
/// Says what is understood.
pub const SETTINGS: u8 = 4;
/// Asks for an answer.
pub const PING: u8 = 6;
/// Ends a connection.
pub const GOAWAY: u8 = 7;
/// Lets more bytes come.
pub const WINDOW_UPDATE: u8 = 8;
/// More of a header block.
pub const CONTINUATION: u8 = 9;
/// The flag of the last frame of a stream.
pub const END_STREAM: u8 = 1;
/// The flag of the last frame of a header block.
pub const END_HEADERS: u8 = 4;
/// The reason of what is no HTTP/2.
pub const PROTOCOL_ERROR: u32 = 1;
/// The reason of header blocks that cannot be unpacked.
pub const COMPRESSION_ERROR: u32 = 9;
/// The reason of what is too much.
pub const ENHANCE_YOUR_CALM: u32 = 11;
/// The client connection preface.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SOON: Duration = Duration::from_secs(10);

/// What frames go over.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A frame.
///
/// # Panics
/// When the payload is longer than a frame can say.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field without compression (RFC 7541 §6.2.2).
#[must_use]
pub fn field(name: &str, value: &[u8]) -> Vec<u8> {
    [&[0][..], &string(name.as_bytes()), &string(value)].concat()
}

/// A field that is remembered (§6.2.1).
#[must_use]
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
#[must_use]
pub fn request(method: &str, path: impl AsRef<[u8]>, authority: &str) -> Vec<u8> {
    [
        field(":method", method.as_bytes()),
        field(":scheme", b"http"),
        field(":path", path.as_ref()),
        field(":authority", authority.as_bytes()),
    ]
    .concat()
}

/// The status that a header block begins with, if the decoder knows it from the static table (RFC 7541 appendix A) or it is spelled
/// out, as it is the first time on a connection; otherwise 0.
fn status(block: &[u8]) -> u16 {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match *block {
        [first @ 0x88..=0x8e, ..] => STATIC[usize::from(first - 0x88)],
        [0x48 | 0x08, 3, a, b, c, ..] => [a, b, c].iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')),
        [0x48 | 0x08, length @ 0x82..=0x83, ..] => {
            packed(block.get(2..2 + usize::from(length - 0x80)).unwrap_or_default())
        }
        _ => 0,
    }
}

/// Digits in Huffman's code (RFC 7541 appendix B): 0 to 2 have five bits, the others six.
fn packed(bytes: &[u8]) -> u16 {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let five = bits.by_ref().take(5).fold(0, |sum, bit| sum << 1 | bit);
        let digit = if five < 3 { five } else { (five << 1 | bits.next().unwrap_or(0)).saturating_sub(22) };
        number = number * 10 + digit;
    }
    number
}

/// What became of a connection or of a stream on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole connection is going, for that reason.
    GoAway(u32),
    /// The stream was reset, for that reason.
    Reset(u32),
    /// The stream was answered, with that status.
    Answered(u16),
    /// The connection ended without a word.
    Closed,
    /// Nothing happened, for long.
    Silence,
}

/// One end of a connection, which may misbehave.
pub struct Peer {
    read: ReadHalf<Box<dyn Stream>>,
    write: WriteHalf<Box<dyn Stream>>,
}

impl Peer {
    /// Opens a connection in order.
    pub async fn open(stream: impl Stream + 'static) -> Self {
        Self::open_with(stream, &[]).await
    }

    /// The same, with settings of its own.
    pub async fn open_with(stream: impl Stream + 'static, settings: &[u8]) -> Self {
        let stream: Box<dyn Stream> = Box::new(stream);
        let (read, write) = split(stream);
        let mut peer = Self { read, write };
        peer.send(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await;
        peer
    }

    /// Sends what may be too much: what is refused half way is refused. Whether all of it was taken in time.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let sending = async {
            self.write.write_all(bytes).await?;
            self.write.flush().await
        };
        matches!(timeout(SOON, sending).await, Ok(Ok(())))
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
                HEADERS if of == stream => return Outcome::Answered(status(&payload)),
                _ => {}
            }
        }
        Outcome::Closed
    }
}

/// A frame.
pub struct Frame {
    /// What it is.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// The stream that it is of.
    pub of: u32,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// What comes before the last of these frames, and that one.
///
/// # Panics
/// When they are no frames.
#[must_use]
pub fn split_last(frames: &[u8]) -> (&[u8], &[u8]) {
    let length = |at: usize| 9 + u32::from_be_bytes([0, frames[at], frames[at + 1], frames[at + 2]]) as usize;
    let mut last = 0;
    while last + length(last) < frames.len() {
        last += length(last);
    }
    frames.split_at(last)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_frame_is_the_rest() {
        let (first, second) = (frame(DATA, 0, 1, &[b'x'; 300]), frame(DATA, END_STREAM, 1, b""));
        assert_eq!(split_last(&[&first[..], &second].concat()), (&first[..], &second[..]));
        assert_eq!(split_last(&first), (&[][..], &first[..]));
    }

    #[test]
    fn statuses_are_read_as_they_are_written() {
        for (block, expected) in [
            (&[0x88][..], 200),
            (&[0x8c], 400),
            (&[0x48, 3, b'4', b'2', b'1'], 421),
            (&[0x48, 0x82, 0x68, 0x41], 421),
            (&[0x48, 0x83, 0x68, 0x0c, 0xff], 403),
            (&[0x48, 0x83, 0x69, 0x90, 0xff], 431),
            (&[0xbe], 0),
        ] {
            assert_eq!(status(block), expected, "{block:?}");
        }
    }
}
