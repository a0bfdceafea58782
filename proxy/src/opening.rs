//! What a connection opens with, read without losing a byte of it: whose it is, from a load balancer's header
//! ([`load_balancers`], [`proxy_protocol`]), and whom it is for, from the ClientHello (by [`sni`]).

mod client_hello;
mod load_balancers;
pub mod proxy_protocol;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

pub use client_hello::{CLIENT_HELLO_MAX, Malformed, Progress, sni};
pub use load_balancers::LoadBalancers;

use crate::metrics::{Metrics, Reason};

/// A first buffer that holds the common ClientHello whole, key share for X25519MLKEM768 included.
const FIRST_READ: usize = 2048;

/// What a client opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The name that it asks for, in lower case.
    pub sni: String,
    /// Everything read so far: to be passed on, or put back with [`Prefixed`](crate::tcp::Prefixed).
    pub bytes: Bytes,
}

/// Why a connection cannot be routed.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    /// Not complete in time.
    #[error("what it opens with is not complete in time")]
    Timeout,
    /// Closed before the first byte: somebody looked whether anything listens.
    #[error("the connection closed before its first byte")]
    Nothing,
    /// Closed in the middle.
    #[error("the connection closed before what it opens with was complete")]
    Closed,
    /// Complete, without a name.
    #[error("the ClientHello names no server")]
    NoSni,
    /// See there.
    #[error(transparent)]
    ClientHello(#[from] client_hello::Malformed),
    /// See there.
    #[error(transparent)]
    ProxyHeader(#[from] proxy_protocol::Malformed),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(io::Error),
}

impl OpeningError {
    /// What it counts as among failed handshakes, if it is one: `usual`, where what was read is at fault.
    fn reason(&self, usual: Reason) -> Option<Reason> {
        match self {
            Self::Nothing => None,
            Self::Timeout => Some(Reason::Timeout),
            _ => Some(usual),
        }
    }
}

/// What was read of a connection, unless that failed, which is counted by its reason: `usual`, where what was read is at fault.
pub fn usable<T>(read: Result<T, OpeningError>, usual: Reason, peer: SocketAddr, metrics: &Metrics) -> Option<T> {
    read.inspect_err(|error| {
        if let Some(reason) = error.reason(usual) {
            tracing::debug!(%peer, %error, "a connection that cannot be routed");
            metrics.handshake_failed(reason);
        }
    })
    .ok()
}

/// The first bytes of a connection, and until when they have to be there.
pub struct Opening<'s, S> {
    stream: &'s mut S,
    deadline: Instant,
    /// What was read and not taken.
    bytes: BytesMut,
}

/// What a parser says of the first bytes.
enum Step<T> {
    /// It cannot say before there are so many.
    NeedMore(usize),
    Done(T),
}

impl<'s, S: AsyncRead + Unpin> Opening<'s, S> {
    /// Of a new connection. All that is read of it has to be there within `within` from now.
    pub fn new(stream: &'s mut S, within: Duration) -> Self {
        Self { stream, deadline: Instant::now() + within, bytes: BytesMut::new() }
    }

    /// Takes the header of a load balancer, and tells whose connection it says that this is, if it does.
    ///
    /// # Errors
    /// See [`OpeningError`]; the connection is of no more use then.
    pub async fn proxy_header(&mut self) -> Result<Option<SocketAddr>, OpeningError> {
        let header = |bytes: &[u8]| match proxy_protocol::header(bytes)? {
            proxy_protocol::Progress::NeedMore(total) => Ok(Step::NeedMore(total)),
            proxy_protocol::Progress::Header(header) => Ok(Step::Done(header)),
        };
        let header = self.read(header).await?;
        self.bytes.advance(header.len);
        Ok(header.source)
    }

    /// What was read and not taken: to be put back with [`Prefixed`](crate::tcp::Prefixed).
    #[must_use]
    pub fn rest(self) -> Bytes {
        // Frozen, a buffer stays even if nothing is in it.
        if self.bytes.is_empty() { Bytes::new() } else { self.bytes.freeze() }
    }

    /// Reads the ClientHello.
    ///
    /// # Errors
    /// See [`OpeningError`]; the connection is of no more use then.
    pub async fn client_hello(mut self) -> Result<ClientHello, OpeningError> {
        let name = |bytes: &[u8]| match sni(bytes)? {
            client_hello::Progress::NeedMore(total) => Ok(Step::NeedMore(total)),
            client_hello::Progress::Sni(sni) => Ok(Step::Done(sni)),
            client_hello::Progress::NoSni => Err(OpeningError::NoSni),
        };
        let sni = self.read(name).await?;
        Ok(ClientHello { sni, bytes: self.bytes.freeze() })
    }

    async fn read<T>(&mut self, parse: impl Fn(&[u8]) -> Result<Step<T>, OpeningError>) -> Result<T, OpeningError> {
        let deadline = self.deadline;
        let read = async {
            let mut needed = 1;
            loop {
                self.fill(needed).await?;
                match parse(&self.bytes)? {
                    Step::NeedMore(total) => needed = total,
                    Step::Done(parsed) => return Ok(parsed),
                }
            }
        };
        timeout_at(deadline, read).await.unwrap_or(Err(OpeningError::Timeout))
    }

    /// Reads until there are so many bytes. They are looked at only when they can have become complete: dribbled bytes cost
    /// nothing but their reads.
    async fn fill(&mut self, needed: usize) -> Result<(), OpeningError> {
        while self.bytes.len() < needed {
            if self.bytes.capacity() == self.bytes.len() {
                let missing = (needed - self.bytes.len()).min(CLIENT_HELLO_MAX);
                self.bytes.reserve(if self.bytes.is_empty() { FIRST_READ } else { missing });
            }
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(1..) => {}
                Ok(0) | Err(_) if self.bytes.is_empty() => return Err(OpeningError::Nothing),
                Ok(0) => return Err(OpeningError::Closed),
                Err(error) => return Err(OpeningError::Io(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(5);
    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n";

    #[tokio::test]
    async fn who_only_looks_is_told_apart_from_who_breaks_off() {
        let read = async |mut bytes: &[u8]| Opening::new(&mut bytes, WITHIN).client_hello().await;
        assert!(matches!(read(b"").await, Err(OpeningError::Nothing)));
        assert!(matches!(read(&[22, 3, 1]).await, Err(OpeningError::Closed)));
    }

    #[tokio::test]
    async fn what_follows_a_header_is_kept_for_the_client_hello() {
        let read = async |mut bytes: &[u8]| {
            let mut opening = Opening::new(&mut bytes, WITHIN);
            let source = opening.proxy_header().await.expect("a header");
            assert_eq!(source, Some("192.0.2.1:56324".parse().expect("valid")));
            opening.client_hello().await
        };
        assert!(matches!(read(HEADER).await, Err(OpeningError::Nothing)), "a client that only looks, behind it");
        assert!(matches!(read(&[HEADER, &[22, 3, 1]].concat()).await, Err(OpeningError::Closed)));
        let twice = read(&[HEADER, HEADER].concat()).await;
        assert!(matches!(twice, Err(OpeningError::ClientHello(client_hello::Malformed::NotTls))), "one header");
    }

    #[tokio::test(start_paused = true)]
    async fn header_and_client_hello_share_one_deadline() {
        let (mut theirs, mut ours) = tokio::io::duplex(64);
        let begun = Instant::now();
        let dribble = tokio::spawn(async move {
            for byte in HEADER.iter().chain(&[22, 3, 1, 1, 0, 1, 0, 0, 252]).chain(std::iter::repeat(&0)) {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if theirs.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        });
        let mut opening = Opening::new(&mut ours, WITHIN);
        opening.proxy_header().await.expect("in time");
        assert!(matches!(opening.client_hello().await, Err(OpeningError::Timeout)));
        assert_eq!(begun.elapsed(), WITHIN);
        drop(ours);
        dribble.await.expect("it ends with the connection");
    }
}
