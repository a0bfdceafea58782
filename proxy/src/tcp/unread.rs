//! Connections whose peers do not read.

use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Has the system break `stream` when something that was written to it is not taken by the peer within `after`: neither
/// one that is gone nor one that does not read may hold what is sent for ever (`TCP_USER_TIMEOUT`, tcp(7)). An idle
/// connection is not concerned.
pub fn give_up_unread(stream: &TcpStream, after: Duration) {
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(after)) {
        tracing::debug!(%error, "cannot set TCP_USER_TIMEOUT");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let peer = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let (mut stream, _) = listener.accept().await.expect("accepted");
        give_up_unread(&stream, Duration::from_millis(500));
        let writing = async { while stream.write_all(&[0; 65_536]).await.is_ok() {} };
        timeout(Duration::from_secs(30), writing).await.expect("it breaks");
        drop(peer);
    }
}
