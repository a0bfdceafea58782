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
    /// Closed before the first byte: somebody looked whether anything listens.
    #[error("the connection closed before its first byte")]
    Nothing,
    /// Closed in the middle.
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
    Io(io::Error),
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
            match stream.read_buf(&mut bytes).await {
                Ok(1..) => {}
                Ok(0) | Err(_) if bytes.is_empty() => return Err(HelloError::Nothing),
                Ok(0) => return Err(HelloError::Closed),
                Err(error) => return Err(HelloError::Io(error)),
            }
        }
        match sni(&bytes)? {
            Progress::NeedMore(total) => needed = total,
            Progress::Sni(sni) => return Ok(ClientHello { sni, bytes: bytes.freeze() }),
            Progress::NoSni => return Err(HelloError::NoSni),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_only_looks_is_told_apart_from_who_breaks_off() {
        let read = async |mut bytes: &[u8]| read_client_hello(&mut bytes, Duration::from_secs(1)).await;
        assert!(matches!(read(b"").await, Err(HelloError::Nothing)));
        assert!(matches!(read(&[22, 3, 1]).await, Err(HelloError::Closed)));
    }
}
