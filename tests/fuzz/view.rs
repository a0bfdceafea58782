//! What a sidecar is told: after a message that is taken, every index of the view is right, taking it again changes
//! nothing, and the gateway's side would write the same view.

use std::collections::HashSet;
use std::sync::Arc;

use bolero::check;
use isthmus_model::authorization::FORM;
use isthmus_model::snapshot::{Coverage, Site, Snapshot};
use isthmus_wire::control::Update;
use isthmus_wire::view::{Asked, ROOT_BYTES_MAX, ROOTS_MAX, apply, difference};
use prost::Message;

use crate::bends::{Bends, corpus};

fn empty() -> Snapshot {
    let site = Site {
        federation: "acme.mesh".parse().expect("valid"),
        cluster: "own".parse().expect("valid"),
        locality: "r0/a".parse().expect("valid"),
    };
    Snapshot::empty(site, Coverage::Partial { absent: HashSet::new(), absent_addresses: HashSet::new() })
}

fn is_consistent(view: &Snapshot) {
    assert!(view.roots.len() <= ROOTS_MAX && view.roots.iter().all(|root| root.len() <= ROOT_BYTES_MAX));
    for (name, cluster) in &view.clusters {
        assert_eq!((name, cluster.proximity), (&cluster.name, view.site.locality.proximity(&cluster.locality)));
    }
    for (name, service) in &view.services {
        assert_eq!(name, &service.name);
        assert!(service.vip.is_none_or(|vip| view.vips.get(&vip) == Some(name)));
        for remote in &service.remotes {
            let known = view.clusters.get(&remote.cluster.name).expect("a cluster of the view");
            assert!(Arc::ptr_eq(known, &remote.cluster), "linked");
        }
    }
    let with_vip = view.services.values().filter(|service| service.vip.is_some()).count();
    assert_eq!(with_vip, view.vips.len());
    let Coverage::Partial { absent, absent_addresses } = &view.coverage else { unreachable!("a sidecar's is partial") };
    assert!(!absent.iter().any(|name| view.services.contains_key(name)));
    assert!(!absent_addresses.iter().any(|address| view.vips.contains_key(address)));
}

/// What becomes of a view by a message, if it is one that is taken.
fn next(view: &Snapshot, bytes: &[u8]) -> Option<Snapshot> {
    let update = Update::decode(bytes).ok()?;
    let next = apply(view, update.clone()).ok()?;
    is_consistent(&next);
    assert_eq!(apply(&next, update).as_ref(), Ok(&next), "once more is the same");
    Some(next)
}

/// A gateway that has the view `next` tells it so that a sidecar that has `view` has it too.
fn is_told(view: &Snapshot, next: &Snapshot) {
    let Coverage::Partial { absent, absent_addresses } = next.coverage.clone() else { unreachable!("see above") };
    let services = next.services.keys().cloned().chain(absent).collect();
    let own_address = Some(std::net::Ipv4Addr::LOCALHOST.into());
    let asked = Asked { services, addresses: absent_addresses, own_address, workload: None, rules_form: FORM };
    let full = Snapshot { coverage: Coverage::Complete, ..next.clone() };
    let (to, told) = difference(view, &full, &asked);
    let told = told.map(|told| Update::decode(&*told.encode_to_vec()).expect("our own"));
    let told = told.map_or(Ok(view.clone()), |told| apply(view, told)).expect("what was taken once");
    assert_eq!(told, to);
    assert_eq!((&told.services, &told.vips, &told.coverage), (&next.services, &next.vips, &next.coverage));
    assert_eq!((&told.clusters, &told.roots, &told.denied), (&next.clusters, &next.roots, &next.denied));
    assert_eq!((&told.agreement, &told.control_ports), (&next.agreement, &next.control_ports));
    assert_eq!(told.authorizations, next.authorizations);
}

/// Two messages, one after the other.
fn hold(first: &[u8], second: &[u8]) {
    let mut view = empty();
    for bytes in [first, second] {
        let Some(next) = next(&view, bytes) else { return };
        is_told(&view, &next);
        view = next;
    }
}

#[test]
fn bytes() {
    check!(name = "view").with_iterations(5_000).for_each(|bytes: &[u8]| hold(bytes, bytes));
}

#[test]
fn bent() {
    let seeds = corpus("view");
    check!().with_iterations(10_000).with_type::<(Bends, Bends)>().for_each(|(first, second)| {
        hold(&first.of(&seeds), &second.of(&seeds));
    });
}

#[test]
fn the_corpus_is_taken() {
    for seed in corpus("view") {
        apply(&empty(), Update::decode(&*seed).expect("a message")).expect("a view");
    }
}
