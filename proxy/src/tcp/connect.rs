//! Opens a TCP connection, within a bound.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

/// Connects within `within`, without Nagle's delay.
///
/// # Errors
/// The system's, or [`io::ErrorKind::TimedOut`].
pub async fn connect(address: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    let stream = timeout(within, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
