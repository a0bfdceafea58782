//! Where a redirected connection was going (`SO_ORIGINAL_DST`, netfilter's REDIRECT and DNAT).

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// The address that the client connected to, when that was not this listener.
pub(crate) fn destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let socket = SockRef::from(stream);
    let original =
        if local.ip().to_canonical().is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    // Without connection tracking the option does not exist: nothing was redirected then.
    let original = original.ok()?.as_socket()?;
    let same = original.port() == local.port() && original.ip().to_canonical() == local.ip().to_canonical();
    if same { None } else { Some(original) }
}
