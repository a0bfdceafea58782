//! Reads a ClientHello from a connection without losing a byte of it.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::client_hello::{CLIENT_HELLO_MAX, Malformed, Progress, sni};

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
pub enum HelloError {
    /// Not complete in time.
    #[error("no complete ClientHello in time")]
    Timeout,
    /// Closed before.
    #[error("the connection closed before a complete ClientHello")]
    Closed,
    /// Complete, without a name.
    #[error("the ClientHello names no server")]
    NoSni,
    /// See there.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// Reads the ClientHello, within `within` from now for all of it.
///
/// # Errors
/// See [`HelloError`]; the connection is of no more use then.
pub async fn read_client_hello<S: AsyncRead + Unpin>(
    stream: &mut S,
    within: Duration,
) -> Result<ClientHello, HelloError> {
    timeout(within, read(stream)).await.unwrap_or(Err(HelloError::Timeout))
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<ClientHello, HelloError> {
    let mut bytes = BytesMut::with_capacity(FIRST_READ);
    let mut needed = 1;
    loop {
        // Looked at only when it can have become complete: dribbled bytes cost nothing but their reads.
        while bytes.len() < needed {
            if bytes.capacity() == bytes.len() {
                bytes.reserve(needed.saturating_sub(bytes.len()).min(CLIENT_HELLO_MAX));
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(HelloError::Closed);
            }
        }
        match sni(&bytes)? {
            Progress::NeedMore(total) => needed = total,
            Progress::Sni(sni) => return Ok(ClientHello { sni, bytes: bytes.freeze() }),
            Progress::NoSni => return Err(HelloError::NoSni),
        }
    }
}
