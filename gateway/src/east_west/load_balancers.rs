//! Load balancers in front of the port, which say whose connection they pass on.
//!
//! The PROXY protocol is not detected (§2 of its specification forbids that): whoever is listed sends the header, on
//! every connection, and is believed; of everyone else the bytes are not looked at in this way.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;
use isthmus_proxy::passthrough::OpeningError;

/// The load balancers of one port.
#[derive(Debug)]
pub(super) struct LoadBalancers {
    networks: Vec<IpNet>,
    /// Whether it was told that one sends no header, and none was good since.
    is_told: AtomicBool,
}

impl LoadBalancers {
    /// Those with an address in one of `networks`.
    pub(super) fn new(networks: &[IpNet]) -> Self {
        Self { networks: networks.to_vec(), is_told: AtomicBool::new(false) }
    }

    /// Whether who connected has to send a header.
    pub(super) fn contain(&self, peer: IpAddr) -> bool {
        // A socket for IPv6 shows IPv4 peers as `::ffff:a.b.c.d`.
        let peer = peer.to_canonical();
        self.networks.iter().any(|network| network.contains(&peer))
    }

    /// Tells the operator of a load balancer that is not set up for this: every connection through it fails. Once, because
    /// the next ones fail alike.
    pub(super) fn note<T>(&self, peer: SocketAddr, said: &Result<T, OpeningError>) {
        match said {
            Ok(_) => self.is_told.store(false, Ordering::Relaxed),
            Err(OpeningError::ProxyHeader(error)) if !self.is_told.swap(true, Ordering::Relaxed) => {
                tracing::warn!(
                    load_balancer = %peer, %error,
                    "a connection is closed: have the load balancer send the PROXY protocol, or take its address out of `proxy_protocol.east_west`"
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
        let load_balancers = LoadBalancers::new(&networks);
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
        assert!(!LoadBalancers::new(&[]).contain([10, 0, 0, 7].into()));
    }
}
