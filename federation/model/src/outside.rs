//! Hosts outside the federation that clients may call through their gateway: what is not on this list is refused.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::catalog::AppProtocol;
use crate::http_route::HostPattern;
use crate::name::NamespacedName;

/// Host names of one entry.
pub const HOSTS_MAX: usize = 64;
/// Addresses of one entry.
pub const ADDRESSES_MAX: usize = 64;

/// Hosts and their ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideHosts {
    /// The hosts.
    pub hosts: Vec<HostPattern>,
    /// The ports, by number.
    pub ports: Vec<OutsidePort>,
    /// Where they are. Empty: as DNS says.
    pub addresses: Vec<IpAddr>,
}

/// A port of a host outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsidePort {
    /// The number that callers use.
    pub number: u16,
    /// The number that is connected to.
    pub target: u16,
    /// How its bytes are read: requests in the clear, or bytes.
    pub protocol: AppProtocol,
}

/// All hosts that may be called. A copy costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside(Arc<Hosts>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Hosts {
    exact: HashMap<String, Vec<Arc<OutsideHosts>>>,
    below: HashMap<String, Vec<Arc<OutsideHosts>>>,
}

/// What is known of a host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It may be called.
    Granted(OutsidePort, Arc<OutsideHosts>),
    /// Only these ports of it may.
    OtherPorts(Vec<u16>),
    /// It may not.
    Refused,
}

impl Outside {
    /// The hosts of all entries.
    #[must_use]
    pub fn of(entries: &OrdMap<NamespacedName, Arc<OutsideHosts>>) -> Self {
        let mut all = Hosts::default();
        for entry in entries.values() {
            for host in &entry.hosts {
                let known = match host {
                    HostPattern::Exact(name) => all.exact.entry(name.clone()).or_default(),
                    HostPattern::Below(name) => all.below.entry(name.clone()).or_default(),
                };
                known.push(entry.clone());
            }
        }
        Self(Arc::new(all))
    }

    /// Whether `host`, in lower case and without a dot at its end, may be called on `port`. What its most special name allows counts.
    #[must_use]
    pub fn permits(&self, host: &str, port: u16) -> Permission {
        let parents = || host.match_indices('.').filter_map(|(dot, _)| self.0.below.get(host.get(dot + 1..)?));
        let Some(entries) = self.0.exact.get(host).or_else(|| parents().next()) else { return Permission::Refused };
        let mut ports = entries.iter().flat_map(|entry| entry.ports.iter().map(move |known| (known, entry)));
        match ports.find(|(known, _)| known.number == port) {
            Some((known, entry)) => Permission::Granted(*known, entry.clone()),
            None => {
                Permission::OtherPorts(entries.iter().flat_map(|entry| &entry.ports).map(|port| port.number).collect())
            }
        }
    }
}

/// Whether an address may be where a host outside is. Names are others' to give: one that turns out to be a loopback address, of this
/// machine's link, of what clouds keep credentials at, or of nobody, is a way in and not out. Loopback is allowed where the whole
/// federation is on one machine.
#[must_use]
pub fn is_outside(address: IpAddr, allow_loopback: bool) -> bool {
    if address.to_canonical().is_loopback() {
        return allow_loopback;
    }
    match address {
        IpAddr::V4(v4) => is_outside_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => is_outside_v4(v4),
            None => {
                !(v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local() || METADATA_V6.contains(&v6))
            }
        },
    }
}

/// Where clouds answer machines about themselves, outside 169.254.0.0/16: Azure's, Alibaba's.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];
/// Amazon's and Google's.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// 0/8, 127/8 and 240/4 are nobody's (RFC 6890).
fn is_outside_v4(v4: Ipv4Addr) -> bool {
    let first = v4.octets()[0];
    let nobody = first == 0 || first == 127 || first >= 240 || v4.is_multicast();
    !(nobody || v4.is_link_local() || METADATA_V4.contains(&v4))
}

/// The IPv4 address that an IPv6 one leads to: mapped and compatible (RFC 4291 §2.5.5), NAT64 (RFC 6052), 6to4 (RFC 3056).
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outside(entries: &[(&[&str], &[u16])]) -> Outside {
        let entry = |(number, (hosts, ports)): (usize, &(&[&str], &[u16]))| {
            let name = NamespacedName { namespace: "shop".parse().expect("valid"), name: format!("e{number}") };
            let port = |number: &u16| OutsidePort { number: *number, target: *number, protocol: AppProtocol::Tcp };
            let hosts = OutsideHosts {
                hosts: hosts.iter().map(|host| host.parse().expect("valid")).collect(),
                ports: ports.iter().map(port).collect(),
                addresses: Vec::new(),
            };
            (name, Arc::new(hosts))
        };
        Outside::of(&entries.iter().enumerate().map(entry).collect())
    }

    #[test]
    fn what_is_not_listed_is_refused() {
        let outside = outside(&[
            (&["api.example.com"], &[443]),
            (&["api.example.com"], &[8443]),
            (&["*.example.com"], &[80]),
            (&["*.deep.example.com"], &[81]),
        ]);
        let port = |host, port| match outside.permits(host, port) {
            Permission::Granted(port, _) => Ok(port.number),
            Permission::OtherPorts(ports) => Err(ports),
            Permission::Refused => Err(vec![]),
        };
        assert_eq!(port("api.example.com", 443), Ok(443));
        assert_eq!(port("api.example.com", 8443), Ok(8443), "entries of one host add up");
        assert_eq!(port("api.example.com", 80), Err(vec![443, 8443]), "the name itself counts, not those above");
        assert_eq!(port("www.example.com", 80), Ok(80));
        assert_eq!(port("a.b.example.com", 80), Ok(80));
        assert_eq!(port("a.deep.example.com", 80), Err(vec![81]));
        for host in ["example.com", "example.org", "xexample.com", "api.example.com.evil.org", "", "com", "10.0.0.1"] {
            assert_eq!(port(host, 80), Err(vec![]), "{host}");
        }
    }

    #[test]
    fn a_name_does_not_lead_into_this_machine() {
        for (address, expected) in [
            ("192.0.2.1", true),
            ("10.0.0.1", true),
            ("2001:db8::1", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("169.254.169.254", false),
            ("::ffff:169.254.169.254", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("::", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("240.0.0.1", false),
            ("168.63.129.16", false),
            ("fd00:ec2::254", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("64:ff9b::c000:201", true),
            ("2002:7f00:1::", false),
            ("::127.0.0.1", false),
            ("fd00::1", true),
        ] {
            assert_eq!(is_outside(address.parse().expect("an address"), false), expected, "{address}");
        }
        assert!(is_outside([127, 0, 0, 1].into(), true));
    }
}
