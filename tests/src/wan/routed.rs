//! A wide area network of namespaces: sites with addresses of their own, and a router between them that drops packets.
//!
//! What a [`Link`](super::Link) cannot do: each ordered pair of sites has a way of its own, whoever dials, and what is
//! lost are packets, so that it is TCP that notices. What it does not do is distance: there is no netem everywhere. Needs root, `ip` and
//! `iptables`.

use std::net::Ipv4Addr;

use crate::harness::Netns;

/// The sites' own addresses, which all of a site's processes share: 10.78.SITE.0/24.
const SITES: [u8; 2] = [10, 78];
/// The ways from the router to the sites: 10.79.SITE.0/30.
const WAYS: [u8; 2] = [10, 79];

/// The network. Gone with this value.
#[derive(Debug)]
pub struct RoutedWan {
    router: Netns,
    sites: Vec<Netns>,
}

impl RoutedWan {
    /// Makes it, and moves the calling thread to the router, from where every site is reached whatever happens between
    /// them.
    ///
    /// # Errors
    /// Why that is not possible here.
    pub fn enter(sites: u8) -> Result<Self, String> {
        let router = Netns::new("router")?;
        let sites = (0..sites).map(|number| site(&router, number)).collect::<Result<_, _>>()?;
        router.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
        router.run("iptables", &["-L", "-n"])?;
        router.enter().map_err(|error| format!("cannot move to {}: {error}", router.name()))?;
        Ok(Self { router, sites })
    }

    /// A site's namespace.
    ///
    /// # Panics
    /// When there is no such site: a mistake in the test.
    #[must_use]
    pub fn namespace(&self, site: u8) -> &str {
        self.sites[usize::from(site)].name()
    }

    /// The addresses of a site, a /24.
    #[must_use]
    pub fn network(&self, site: u8) -> Ipv4Addr {
        let [first, second] = SITES;
        Ipv4Addr::new(first, second, site, 0)
    }

    /// Drops every packet from the sites `from` to the sites `to`.
    ///
    /// # Panics
    /// When the rule cannot be set.
    pub fn deafen(&self, from: &[u8], to: &[u8]) {
        for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (from, to))) {
            let (from, to) = (interface(*from), interface(*to));
            let rule = ["-A", "FORWARD", "-i", &from, "-o", &to, "-j", "DROP"];
            self.router.run("iptables", &rule).expect("a rule");
        }
    }

    /// Drops every packet between the sites `one` and the sites `other`.
    pub fn part(&self, one: &[u8], other: &[u8]) {
        self.deafen(one, other);
        self.deafen(other, one);
    }

    /// Lets all packets pass again.
    ///
    /// # Panics
    /// When the rules cannot be taken back.
    pub fn heal(&self) {
        self.router.run("iptables", &["-F", "FORWARD"]).expect("no rules");
    }
}

/// The router's interface to a site.
fn interface(site: u8) -> String {
    format!("site{site}")
}

/// A site with its way to the router. Its whole network is its own, address by address, without any being set up.
fn site(router: &Netns, number: u8) -> Result<Netns, String> {
    let site = Netns::new(&format!("site{number}"))?;
    let ([a, b], [c, d]) = (SITES, WAYS);
    let network = format!("{a}.{b}.{number}.0/24");
    let (near, far) = (format!("{c}.{d}.{number}.1"), format!("{c}.{d}.{number}.2"));
    let out = interface(number);
    router.run("ip", &["link", "add", &out, "type", "veth", "peer", "name", "wan", "netns", site.name()])?;
    router.run("ip", &["addr", "add", &format!("{near}/30"), "dev", &out])?;
    router.run("ip", &["link", "set", &out, "up"])?;
    site.run("ip", &["addr", "add", &format!("{far}/30"), "dev", "wan"])?;
    site.run("ip", &["link", "set", "wan", "up"])?;
    site.run("ip", &["route", "add", "default", "via", &near])?;
    site.run("ip", &["route", "add", "local", &network, "dev", "lo"])?;
    router.run("ip", &["route", "add", &network, "via", &far])?;
    Ok(site)
}
