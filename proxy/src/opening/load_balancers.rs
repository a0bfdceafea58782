//! Load balancers in front of a listener, which say whose connection they pass on.
//!
//! The PROXY protocol is not detected (§2 of its specification forbids that): whoever is listed sends the header, on
//! every connection, and is believed; of everyone else the bytes are not looked at in this way.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Opening, OpeningError, usable};
use crate::limits::Entry;
use crate::metrics::{Metrics, Reason, ReasonLabels};

/// The load balancers of one listener.
#[derive(Debug)]
pub struct LoadBalancers {
    networks: Vec<IpNet>,
    /// Where the operator lists them.
    setting: &'static str,
    /// Whether it was told that one sends no header, and none was good since.
    is_told: AtomicBool,
}

impl LoadBalancers {
    /// Those with an address in one of `networks`, which the configuration has in `setting`.
    #[must_use]
    pub fn new(networks: &[IpNet], setting: &'static str) -> Self {
        Self { networks: networks.to_vec(), setting, is_told: AtomicBool::new(false) }
    }

    /// Whose connection it is: the one's that a listed load balancer says, or who connected. From then on it counts as that one's. `None`
    /// when that comes to nothing; what failed is counted by its reason.
    pub async fn client(
        &self,
        opening: &mut Opening<'_, TcpStream>,
        peer: SocketAddr,
        entry: &mut Entry,
        stop: &CancellationToken,
        metrics: &Metrics,
    ) -> Option<SocketAddr> {
        if !self.contain(peer.ip()) {
            return Some(peer);
        }
        let pending = entry.pend_for_many();
        let said = pending.unless_cut(opening.proxy_header(), stop, metrics).await?;
        drop(pending);
        self.note(peer, &said);
        // One that a load balancer opens for itself stays its own.
        let Some(client) = usable(said, Reason::ProxyHeader, peer, metrics)? else { return Some(peer) };
        if let Err(reason) = entry.move_to(client.ip()) {
            metrics.refused.get_or_create(&ReasonLabels { reason }).inc();
            return None;
        }
        Some(client)
    }

    /// Whether who connected has to send a header.
    fn contain(&self, peer: IpAddr) -> bool {
        // A socket for IPv6 shows IPv4 peers as `::ffff:a.b.c.d`.
        let peer = peer.to_canonical();
        self.networks.iter().any(|network| network.contains(&peer))
    }

    /// Tells the operator of a load balancer that is not set up for this: every connection through it fails. Once, because
    /// the next ones fail alike.
    fn note<T>(&self, peer: SocketAddr, said: &Result<T, OpeningError>) {
        match said {
            Ok(_) => self.is_told.store(false, Ordering::Relaxed),
            Err(OpeningError::ProxyHeader(error)) if !self.is_told.swap(true, Ordering::Relaxed) => {
                tracing::warn!(
                    load_balancer = %peer, %error,
                    "a connection is closed: have the load balancer send the PROXY protocol, or take its address out of `{}`",
                    self.setting
                );
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_compared_in_one_form() {
        let networks = ["10.0.0.0/24", "2001:db8::/64"].map(|network| network.parse().expect("valid"));
        let load_balancers = LoadBalancers::new(&networks, "here");
        for (peer, expected) in [
            ("10.0.0.7", true),
            ("::ffff:10.0.0.7", true),
            ("10.0.1.7", false),
            ("2001:db8::1", true),
            ("2001:db8:0:1::1", false),
            ("::10.0.0.7", false),
        ] {
            assert_eq!(load_balancers.contain(peer.parse().expect("valid")), expected, "{peer}");
        }
        assert!(!LoadBalancers::new(&[], "here").contain([10, 0, 0, 7].into()));
    }
}
