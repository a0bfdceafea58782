//! A link for every ordered pair of clusters.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::link::Link;
use crate::harness::Loopback;

/// A cluster at the edge of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Where its gateway really listens.
    pub east_west: SocketAddr,
}

/// Links between all sites, in both directions. Each direction has a listener of its own, so that
/// one-way faults and asymmetric paths can be made.
#[derive(Debug)]
pub struct Wan {
    links: BTreeMap<(String, String), Link>,
}

impl Wan {
    /// Makes all links, each listening on a fresh address of `block` at its target's port. `seed` decides
    /// all jitter.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub async fn mesh(sites: &[Site], block: &Loopback, seed: u64) -> io::Result<Self> {
        let mut links = BTreeMap::new();
        for from in sites {
            for to in sites.iter().filter(|to| to.name != from.name) {
                let listen = SocketAddr::new(block.fresh().into(), to.east_west.port());
                let link = Link::seeded(listen, to.east_west, seed.wrapping_add(links.len() as u64)).await?;
                links.insert((from.name.clone(), to.name.clone()), link);
            }
        }
        Ok(Self { links })
    }

    /// The link on which `from` dials `to`.
    ///
    /// # Panics
    /// When there are no such sites: a mistake in the test.
    #[must_use]
    pub fn link(&self, from: &str, to: &str) -> &Link {
        self.links.get(&(from.to_owned(), to.to_owned())).expect("both sites are in the mesh and differ")
    }

    /// Every link, as (from, to, link).
    pub fn links(&self) -> impl Iterator<Item = (&str, &str, &Link)> {
        self.links.iter().map(|((from, to), link)| (from.as_str(), to.as_str(), link))
    }

    /// Sets the one-way delay between two sites, whoever dials.
    pub fn delay(&self, one: &str, other: &str, one_way: Duration) {
        self.link(one, other).delay(one_way);
        self.link(other, one).delay(one_way);
    }

    /// Cuts a site off from all others.
    pub async fn isolate(&self, site: &str) {
        for (_, _, link) in self.links().filter(|(from, to, _)| *from == site || *to == site) {
            link.cut().await;
        }
    }

    /// Blackholes everything between the sites in `side` and the others: a partition that nobody is told of.
    pub fn partition(&self, side: &[&str]) {
        for (_, _, link) in self.links().filter(|(from, to, _)| side.contains(from) != side.contains(to)) {
            link.blackhole();
        }
    }

    /// Clears every fault on every link.
    ///
    /// # Errors
    /// When a cut link's address was taken meanwhile.
    pub async fn heal(&self) -> io::Result<()> {
        for link in self.links.values() {
            link.heal().await?;
        }
        Ok(())
    }
}
