//! The health stream's messages: which of a cluster's exports can take how much.
//!
//! A stream starts with [`whole`] and goes on with [`changes`]; the receiver keeps one table per stream and
//! hands each message to [`apply`]. [`heartbeat`] says that nothing changed and the sender is alive. A
//! receiver that missed a message has lost the stream with it (HTTP/2 is reliable), so there are no
//! sequence numbers.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::catalog::ENDPOINTS_PER_SERVICE_MAX;
use isthmus_model::health::Capacity;
use isthmus_model::name::ServiceName;
use isthmus_model::registry::EXPORTS_PER_CLUSTER_MAX;
use isthmus_model::shared::DiffItem;
use isthmus_model::shared::OrdMap;

use crate::error::WireError;
use crate::field;
use crate::peer::{HealthUpdate, ServiceCapacity};

/// The largest encoded [`HealthUpdate`]: [`EXPORTS_PER_CLUSTER_MAX`] services of at most 140 bytes each,
/// with room to spare. For gRPC's decoding limit, whose default of 4 MiB is too small.
pub const HEALTH_UPDATE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a cluster can take, by service.
pub type Capacities = OrdMap<ServiceName, Capacity>;

/// The first message of a stream.
#[must_use]
pub fn whole(services: &Capacities) -> HealthUpdate {
    HealthUpdate { services: services.iter().map(encode).collect(), ..heartbeat() }
}

/// The message that turns `from` into `to`; `None` when they are the same. What both share is not looked at.
#[must_use]
pub fn changes(from: &Capacities, to: &Capacities) -> Option<HealthUpdate> {
    let mut update = heartbeat();
    for item in from.diff(to) {
        match item {
            DiffItem::Add(name, capacity) | DiffItem::Update { new: (name, capacity), .. } => {
                update.services.push(encode((name, capacity)));
            }
            DiffItem::Remove(name, _) => update.removed.push(name.to_string()),
        }
    }
    (update != heartbeat()).then_some(update)
}

/// The message that changes nothing.
#[must_use]
pub fn heartbeat() -> HealthUpdate {
    HealthUpdate::default()
}

/// Takes a message over into `services`.
///
/// # Errors
/// What is wrong with the message; `services` is as before.
pub fn apply(services: &mut Capacities, update: &HealthUpdate) -> Result<(), WireError> {
    field::count("health.services", update.services.len(), EXPORTS_PER_CLUSTER_MAX)?;
    field::count("health.removed", update.removed.len(), EXPORTS_PER_CLUSTER_MAX)?;
    let removed = update.removed.iter().map(|name| field::name::<ServiceName>("health.removed", name));
    let removed: BTreeSet<ServiceName> = removed.collect::<Result<_, _>>()?;
    let changed: BTreeMap<ServiceName, Capacity> = update.services.iter().map(decode).collect::<Result<_, _>>()?;
    let gone = removed.iter().filter(|name| services.contains_key(*name) && !changed.contains_key(*name)).count();
    let new = changed.keys().filter(|name| !services.contains_key(*name)).count();
    field::count("health.services", services.len() - gone + new, EXPORTS_PER_CLUSTER_MAX)?;
    for name in &removed {
        services.remove(name);
    }
    services.extend(changed);
    Ok(())
}

fn encode((name, capacity): (&ServiceName, &Capacity)) -> ServiceCapacity {
    ServiceCapacity { service: name.to_string(), ready: capacity.ready, total: capacity.total }
}

fn decode(record: &ServiceCapacity) -> Result<(ServiceName, Capacity), WireError> {
    let name = field::name("health.services.service", &record.service)?;
    let instances = u32::try_from(ENDPOINTS_PER_SERVICE_MAX).unwrap_or(u32::MAX);
    at_most("health.services.total", record.total, instances)?;
    at_most("health.services.ready", record.ready, record.total)?;
    Ok((name, Capacity { ready: record.ready, total: record.total }))
}

fn at_most(field: &'static str, value: u32, limit: u32) -> Result<(), WireError> {
    if value <= limit { Ok(()) } else { Err(WireError::OutOfRange { field, value: value.into(), limit: limit.into() }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capacities() -> impl Strategy<Value = Capacities> {
        let capacity = (0..5_u32, 0..5_u32).prop_map(|(ready, more)| Capacity { ready, total: ready + more });
        let name = (0..12_u8).prop_map(|number| format!("shop/s{number}").parse().expect("valid"));
        prop::collection::btree_map(name, capacity, 0..8).prop_map(Capacities::from)
    }

    proptest! {
        #[test]
        fn a_stream_of_changes_rebuilds_the_table(states in prop::collection::vec(capacities(), 1..6)) {
            let mut heard = Capacities::new();
            apply(&mut heard, &whole(&states[0])).expect("own message");
            for pair in states.windows(2) {
                let update = changes(&pair[0], &pair[1]);
                prop_assert_eq!(update.is_none(), pair[0] == pair[1]);
                apply(&mut heard, &update.unwrap_or_else(heartbeat)).expect("own message");
                prop_assert_eq!(&heard, &pair[1]);
            }
        }
    }

    fn told(service: &str, ready: u32, total: u32) -> HealthUpdate {
        let record = ServiceCapacity { service: service.to_owned(), ready, total };
        HealthUpdate { services: vec![record], ..heartbeat() }
    }

    #[test]
    fn a_bad_message_changes_nothing() {
        let mut heard = Capacities::new();
        apply(&mut heard, &told("shop/reviews", 1, 2)).expect("valid");
        let before = heard.clone();
        let mut removing = told("Shop/Reviews", 0, 0);
        removing.removed.push("shop/reviews".to_owned());
        let flood = HealthUpdate { removed: vec![String::new(); EXPORTS_PER_CLUSTER_MAX + 1], ..heartbeat() };
        for bad in [removing, told("shop/reviews", 3, 2), told("shop/reviews", 0, u32::MAX), flood] {
            assert!(apply(&mut heard, &bad).is_err());
            assert_eq!(heard, before);
        }
    }

    #[test]
    fn many_small_messages_cannot_grow_the_table_past_its_bound() {
        let services = (0..EXPORTS_PER_CLUSTER_MAX).map(|n| format!("shop/s{n}").parse().expect("valid"));
        let mut heard: Capacities = services.map(|name| (name, Capacity::default())).collect();
        let limit = EXPORTS_PER_CLUSTER_MAX;
        let refused = WireError::TooMany { field: "health.services", count: limit + 1, limit };
        assert_eq!(apply(&mut heard, &told("shop/more", 1, 1)), Err(refused));
        let mut swap = told("shop/more", 1, 1);
        swap.removed.push("shop/s0".to_owned());
        assert_eq!(apply(&mut heard, &swap), Ok(()));
    }

    #[test]
    fn the_largest_update_fits_its_bound() {
        let label = "a".repeat(63);
        let record = ServiceCapacity { service: format!("{label}/{label}"), ready: u32::MAX, total: u32::MAX };
        let encoded = prost::Message::encoded_len(&HealthUpdate { services: vec![record], ..heartbeat() });
        assert!(encoded * EXPORTS_PER_CLUSTER_MAX <= HEALTH_UPDATE_BYTES_MAX, "{encoded}");
    }
}
