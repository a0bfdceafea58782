//! Redirected connections that are not the federation's: they go where they were going.
//!
//! A redirection that catches the proxy's own connections too leads each of them back to the proxy, which
//! opens the next one, until no descriptor is left. What is forwarded is therefore known by source and
//! destination, which two sockets cannot share: a client that has those of one of our own sockets is that
//! socket, and the circle is cut. Which of the two is noted first depends on who is scheduled first, so each
//! looks for the other.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::accept::Accepted;
use crate::tcp::{IDLE_MAX, connect, copy_both};

/// How long the rest of the world may take to answer for a redirected connection. The client waits for
/// itself; this only keeps abandoned ones from piling up.
const REDIRECTED_WITHIN: Duration = Duration::from_secs(30);

/// The connections of one listener that go elsewhere; the listener's limit bounds them.
#[derive(Clone, Debug, Default)]
pub(super) struct Forwarded(Arc<Mutex<Ends>>);

#[derive(Debug, Default)]
struct Ends {
    clients: HashSet<Flow>,
    own: HashSet<Flow>,
    /// Whether a circle was told of: the next ones are of the same rule.
    told: bool,
}

/// Where a connection comes from, and where it is meant to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    source: SocketAddr,
    original: SocketAddr,
}

/// Whose socket a flow is.
#[derive(Clone, Copy, Debug)]
enum Side {
    Client,
    Own,
}

/// A flow of one side, noted as long as this lives.
struct Noted<'a> {
    forwarded: &'a Forwarded,
    side: Side,
    flow: Flow,
}

impl Forwarded {
    /// Connects to `original` and copies until both sides ended.
    pub(super) async fn forward(&self, original: SocketAddr, accepted: Accepted) {
        if let Err(error) = self.copy(original, accepted.stream, accepted.peer).await {
            tracing::debug!(%error, %original, peer = %accepted.peer, "redirected connection ended");
        }
        drop(accepted.entry);
    }

    async fn copy(&self, original: SocketAddr, client: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let _client = self.note(Side::Client, Flow::new(peer, original))?;
        let upstream = connect(original, REDIRECTED_WITHIN).await?;
        let _own = self.note(Side::Own, Flow::new(upstream.local_addr()?, original))?;
        copy_both(client, upstream, IDLE_MAX).await.map(drop)
    }

    /// # Errors
    /// When the flow is of the other side too: it is led in a circle.
    fn note(&self, side: Side, flow: Flow) -> io::Result<Noted<'_>> {
        let mut ends = self.ends();
        let other = match side {
            Side::Client => &ends.own,
            Side::Own => &ends.clients,
        };
        if !other.contains(&flow) {
            ends.of(side).insert(flow);
            return Ok(Noted { forwarded: self, side, flow });
        }
        if !std::mem::replace(&mut ends.told, true) {
            tracing::warn!(
                "the proxy's own connections are redirected to itself and are cut; \
                 exempt its user from the redirection (iptables: -m owner ! --uid-owner)"
            );
        }
        Err(io::Error::other("the connection is redirected in a circle"))
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        // Sets of plain values are whole whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flow {
    /// A dual-stack listener sees IPv4 addresses mapped.
    fn new(source: SocketAddr, original: SocketAddr) -> Self {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { source: canonical(source), original: canonical(original) }
    }
}

impl Ends {
    fn of(&mut self, side: Side) -> &mut HashSet<Flow> {
        match side {
            Side::Client => &mut self.clients,
            Side::Own => &mut self.own,
        }
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.forwarded.ends().of(self.side).remove(&self.flow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(source: &str, original: &str) -> Flow {
        Flow::new(source.parse().expect("an address"), original.parse().expect("an address"))
    }

    #[test]
    fn a_circle_is_cut_whichever_end_is_seen_first() {
        let forwarded = Forwarded::default();
        let there = flow("10.0.0.1:40000", "10.9.9.9:80");
        for (first, second) in [(Side::Client, Side::Own), (Side::Own, Side::Client)] {
            let noted = forwarded.note(first, there).expect("the first");
            assert!(forwarded.note(second, there).is_err());
            assert!(forwarded.note(second, flow("[::ffff:10.0.0.1]:40000", "[::ffff:10.9.9.9]:80")).is_err());
            drop(noted);
            drop(forwarded.note(second, there).expect("the port is another's now"));
        }
    }

    /// Linux gives sockets to different destinations the same ephemeral port.
    #[test]
    fn a_source_port_may_be_shared_by_different_destinations() {
        let forwarded = Forwarded::default();
        let _own = forwarded.note(Side::Own, flow("10.0.0.1:40000", "10.9.9.9:80")).expect("ours");
        assert!(forwarded.note(Side::Client, flow("10.0.0.1:40000", "10.8.8.8:80")).is_ok());
    }
}
