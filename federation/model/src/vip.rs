//! Stable virtual addresses: one number per service for the whole federation, which each cluster turns
//! into an address of its own range.
//!
//! The number is assigned when the service is first exported and survives a withdrawal, so that a client
//! that remembers an address never reaches another service by it soon after. Numbers are reused only when
//! all are taken, the longest withdrawn first.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::ServiceName;

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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipTable {
    assigned: BTreeMap<ServiceName, VipNumber>,
    /// Withdrawn services, the longest withdrawn first.
    retired: VecDeque<ServiceName>,
}

impl VipTable {
    /// The number of a service, if it ever was exported and its number was not reused.
    #[must_use]
    pub fn get(&self, service: &ServiceName) -> Option<VipNumber> {
        self.assigned.get(service).copied()
    }

    /// Gives `service` a number, or its old one back. Without effect when every number belongs to a
    /// service that is on offer.
    pub fn assign(&mut self, service: &ServiceName) {
        if self.assigned.contains_key(service) {
            self.retired.retain(|retired| retired != service);
            return;
        }
        let taken = u32::try_from(self.assigned.len()).unwrap_or(u32::MAX);
        let number = if taken < VIP_COUNT_MAX {
            // Numbers are never freed before all are taken, so they are dense.
            Some(VipNumber(taken + 1))
        } else {
            self.retired.pop_front().and_then(|oldest| self.assigned.remove(&oldest))
        };
        if let Some(number) = number {
            self.assigned.insert(service.clone(), number);
        }
    }

    /// Marks a service as no longer on offer anywhere.
    pub fn retire(&mut self, service: &ServiceName) {
        if self.assigned.contains_key(service) && !self.retired.contains(service) {
            self.retired.push_back(service.clone());
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
        assert!(table.retired.is_empty());
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
