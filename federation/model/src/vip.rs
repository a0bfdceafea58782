//! Stable virtual addresses: one number per service for the whole federation, which each cluster turns
//! into an address of its own range.
//!
//! The number is assigned when the service is first exported and survives a withdrawal, so that a client
//! that remembers an address never reaches another service by it soon after. Numbers are reused only when
//! all are taken, the longest withdrawn first.

use std::net::IpAddr;

use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::ServiceName;
use crate::shared::key;

/// How many services can have a virtual address: a /16 without its first and last address.
pub const VIP_COUNT_MAX: u32 = 65_534;

/// A service's number, from 1 to [`VIP_COUNT_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VipNumber(u32);

impl VipNumber {
    /// The address with this number in `range`; `None` when the range is too small (its last address,
    /// the broadcast address of an IPv4 subnet, stays unused).
    #[must_use]
    pub fn address(self, range: &IpNet) -> Option<IpAddr> {
        let host_bits = u32::from(range.max_prefix_len() - range.prefix_len());
        let size = 1_u128.checked_shl(host_bits).unwrap_or(u128::MAX);
        if u128::from(self.0) + 1 >= size {
            return None;
        }
        Some(match range.network() {
            IpAddr::V4(base) => IpAddr::V4((u32::from(base) + self.0).into()),
            IpAddr::V6(base) => IpAddr::V6((u128::from(base) + u128::from(self.0)).into()),
        })
    }
}

/// Which service has which number.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct VipTable {
    assigned: OrdMap<ServiceName, VipNumber>,
    retired: Retired,
}

/// Withdrawn services, in turn: the longest withdrawn first.
#[derive(Clone, Debug, Default)]
struct Retired {
    in_turn: OrdMap<u64, ServiceName>,
    turns: OrdMap<ServiceName, u64>,
    /// The turn of the next one.
    next: u64,
}

impl Retired {
    fn push(&mut self, service: &ServiceName) {
        if !self.turns.contains_key(service) {
            self.in_turn.insert(self.next, service.clone());
            self.turns.insert(service.clone(), self.next);
            self.next += 1;
        }
    }

    fn remove(&mut self, service: &ServiceName) {
        if let Some(turn) = self.turns.remove(service) {
            self.in_turn.remove(&turn);
        }
    }

    fn pop(&mut self) -> Option<ServiceName> {
        let (_, oldest) = self.in_turn.get_min().cloned()?;
        self.remove(&oldest);
        Some(oldest)
    }
}

/// The form in which a table is written.
#[derive(Serialize, Deserialize)]
struct Written {
    assigned: OrdMap<ServiceName, VipNumber>,
    /// Withdrawn services, the longest withdrawn first.
    retired: Vec<ServiceName>,
}

impl From<Written> for VipTable {
    fn from(written: Written) -> Self {
        let mut retired = Retired::default();
        for service in &written.retired {
            retired.push(service);
        }
        Self { assigned: written.assigned, retired }
    }
}

impl From<VipTable> for Written {
    fn from(table: VipTable) -> Self {
        Self { assigned: table.assigned, retired: table.retired.in_turn.values().cloned().collect() }
    }
}

/// Two tables are the same if they go on alike: by the order of what is withdrawn, not by how it is counted.
impl PartialEq for VipTable {
    fn eq(&self, other: &Self) -> bool {
        let (own, others) = (&self.retired.in_turn, &other.retired.in_turn);
        self.assigned == other.assigned && own.len() == others.len() && own.values().eq(others.values())
    }
}

impl Eq for VipTable {}

impl VipTable {
    /// The number of a service, if it ever was exported and its number was not reused.
    #[must_use]
    pub fn get(&self, service: &ServiceName) -> Option<VipNumber> {
        self.assigned.get(service).copied()
    }

    /// The services whose numbers are not the same in `later`. What both share is not looked at.
    pub fn changed<'a>(&'a self, later: &'a Self) -> impl Iterator<Item = &'a ServiceName> {
        self.assigned.diff(&later.assigned).map(key)
    }

    /// Gives `service` a number, or its old one back. Without effect when every number belongs to a
    /// service that is on offer.
    pub fn assign(&mut self, service: &ServiceName) {
        if self.assigned.contains_key(service) {
            self.retired.remove(service);
            return;
        }
        let taken = u32::try_from(self.assigned.len()).unwrap_or(u32::MAX);
        let number = if taken < VIP_COUNT_MAX {
            // Numbers are never freed before all are taken, so they are dense.
            Some(VipNumber(taken + 1))
        } else {
            self.retired.pop().and_then(|oldest| self.assigned.remove(&oldest))
        };
        if let Some(number) = number {
            self.assigned.insert(service.clone(), number);
        }
    }

    /// Marks a service as no longer on offer anywhere.
    pub fn retire(&mut self, service: &ServiceName) {
        if self.assigned.contains_key(service) {
            self.retired.push(service);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(number: u32) -> ServiceName {
        format!("shop/s{number}").parse().expect("valid")
    }

    #[test]
    fn a_withdrawn_service_gets_its_address_back() {
        let mut table = VipTable::default();
        table.assign(&service(1));
        table.retire(&service(1));
        table.assign(&service(2));
        table.assign(&service(1));
        assert_eq!(table.get(&service(1)), Some(VipNumber(1)));
        assert_eq!(table.get(&service(2)), Some(VipNumber(2)));
        assert!(table.retired.in_turn.is_empty() && table.retired.turns.is_empty());
    }

    #[test]
    fn numbers_are_reused_oldest_first_and_only_when_all_are_taken() {
        let mut table = VipTable::default();
        for number in 1..=VIP_COUNT_MAX {
            table.assign(&service(number));
        }
        table.assign(&service(70_000));
        assert_eq!(table.get(&service(70_000)), None, "every number is in use");
        table.retire(&service(7));
        table.retire(&service(3));
        table.assign(&service(70_000));
        assert_eq!(table.get(&service(70_000)), Some(VipNumber(7)));
        assert_eq!(table.get(&service(7)), None);
        assert_eq!(table.get(&service(3)), Some(VipNumber(3)));
    }

    #[test]
    fn addresses_stay_inside_the_range() {
        let range: IpNet = "127.11.0.0/24".parse().expect("valid");
        assert_eq!(VipNumber(1).address(&range), Some([127, 11, 0, 1].into()));
        assert_eq!(VipNumber(254).address(&range), Some([127, 11, 0, 254].into()));
        assert_eq!(VipNumber(255).address(&range), None);
        assert!(VipNumber(VIP_COUNT_MAX).address(&"fd00::/64".parse().expect("valid")).is_some());
        assert_eq!(VipNumber(1).address(&"10.0.0.1/32".parse().expect("valid")), None);
    }
}
