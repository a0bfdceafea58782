//! The gateway's side: the next view of a sidecar, and the message that leads there.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_model::catalog::Endpoint;
use isthmus_model::name::ServiceName;
use isthmus_model::shared::OrdMap;
use isthmus_model::snapshot::{Coverage, RemoteBackend, Service, Site, Snapshot};

use super::{Asked, authorization, encode};
use crate::control;

/// What a sidecar that has `from` and wants to know `asked` should have now, given the gateway's `full`
/// view, and the message that leads there; no message when the sidecar has it all.
///
/// `from` starts as [`Snapshot::empty`] with partial coverage and the site of `full`, which is fixed for a
/// stream; then it is what this returned last. Services that did not change since then are recognised by their place in memory
/// first; which policies are about the workload is asked of all of them each time.
#[must_use]
pub fn difference(from: &Snapshot, full: &Snapshot, asked: &Asked) -> (Snapshot, Option<control::Update>) {
    let mut to = part(from, full, asked);
    if !tells_roots(from, &to) {
        // The sidecar does not hear how late they are, either.
        to.epoch = from.epoch;
    }
    let update = message(from, &to);
    if update.is_none() {
        // The sidecar does not hear of the new generation, so its view is not of it.
        to.generation = from.generation;
    }
    (to, update)
}

/// The part of `full` for a sidecar: what it asked, what it has already, and what lives at its address.
fn part(from: &Snapshot, full: &Snapshot, asked: &Asked) -> Snapshot {
    let (from_absent, from_absent_addresses) = absent(from);
    let names = from.services.keys().chain(from_absent.into_iter().flatten()).chain(&asked.services);
    let mut services: OrdMap<ServiceName, Arc<Service>> = OrdMap::new();
    let mut absent = HashSet::new();
    for name in names {
        match full.services.get(name) {
            Some(service) => drop(services.insert(name.clone(), service.clone())),
            None => drop(absent.insert(name.clone())),
        }
    }
    let mut absent_addresses = HashSet::new();
    for address in from_absent_addresses.into_iter().flatten().chain(&asked.addresses) {
        match full.vips.get(address).and_then(|name| full.services.get(name)) {
            Some(service) => drop(services.insert(service.name.clone(), service.clone())),
            None => drop(absent_addresses.insert(*address)),
        }
    }
    if let Some(own_address) = asked.own_address {
        services.extend(full.at(own_address).map(|service| (service.name.clone(), service.clone())));
    }
    let overtaxed = authorization::is_overtaxed(full, asked);
    if overtaxed {
        services = services.into_iter().map(|(name, service)| (name, away_from(asked.own_address, service))).collect();
    }
    let vips: OrdMap<IpAddr, ServiceName> =
        services.values().filter_map(|service| Some((service.vip?, service.name.clone()))).collect();
    let coverage = Coverage::Partial { absent, absent_addresses };
    Snapshot {
        generation: full.generation,
        roots: full.roots.clone(),
        denied: full.denied.clone(),
        epoch: full.epoch,
        control_ports: full.control_ports.clone(),
        clusters: full.clusters.clone(),
        services,
        vips,
        agreement: full.agreement.clone(),
        authorizations: if overtaxed { OrdMap::new() } else { authorization::told(full, asked) },
        ..Snapshot::empty(Site::clone(&full.site), coverage)
    }
}

/// The service, without an instance at that address.
fn away_from(address: Option<IpAddr>, service: Arc<Service>) -> Arc<Service> {
    let is_there = |endpoint: &Endpoint| Some(endpoint.address) == address;
    if !service.endpoints.iter().any(is_there) {
        return service;
    }
    let endpoints = service.endpoints.iter().filter(|endpoint| !is_there(endpoint)).cloned().collect();
    Arc::new(Service { endpoints, ..Service::clone(&service) })
}

/// What a view knows not to exist.
fn absent(view: &Snapshot) -> (Option<&HashSet<ServiceName>>, Option<&HashSet<IpAddr>>) {
    match &view.coverage {
        Coverage::Complete => (None, None),
        Coverage::Partial { absent, absent_addresses } => (Some(absent), Some(absent_addresses)),
    }
}

fn message(from: &Snapshot, to: &Snapshot) -> Option<control::Update> {
    let (from_absent, from_absent_addresses) = absent(from);
    let (to_absent, to_absent_addresses) = absent(to);
    let news = control::Update {
        generation: 0,
        clusters: (from.clusters != to.clusters).then(|| encode::clusters(&to.clusters)),
        roots: tells_roots(from, to).then(|| encode::roots(to)),
        services: changed(from, to).into_iter().map(|service| encode::service(service)).collect(),
        absent: added(from_absent, to_absent),
        absent_addresses: added(from_absent_addresses, to_absent_addresses),
        control_ports: (from.control_ports != to.control_ports).then(|| encode::control_ports(&to.control_ports)),
        agreement: (from.agreement != to.agreement).then(|| encode::agreement(&to.agreement)),
        authorizations: (from.authorizations != to.authorizations).then(|| authorization::encode(&to.authorizations)),
    };
    (news != control::Update::default()).then_some(control::Update { generation: to.generation, ..news })
}

fn tells_roots(from: &Snapshot, to: &Snapshot) -> bool {
    from.roots != to.roots || from.denied != to.denied
}

/// Services that `from` lacks or has otherwise, by name: equal views give equal messages.
fn changed<'a>(from: &Snapshot, to: &'a Snapshot) -> Vec<&'a Arc<Service>> {
    let known = |service: &Arc<Service>| {
        from.services.get(&service.name).is_some_and(|known| Arc::ptr_eq(known, service) || same(known, service))
    };
    to.services.values().filter(|service| !known(service)).collect()
}

/// Whether two services read the same on the wire, where backends only name their cluster.
fn same(a: &Service, b: &Service) -> bool {
    let same_backend = |(a, b): (&RemoteBackend, &RemoteBackend)| {
        a.cluster.name == b.cluster.name
            && a.capacity == b.capacity
            && a.terminated == b.terminated
            && a.ports == b.ports
            && a.identities == b.identities
    };
    (a.vip, a.federated, a.exported_here) == (b.vip, b.federated, b.exported_here)
        && a.ports == b.ports
        && (Arc::ptr_eq(&a.traffic, &b.traffic) || a.traffic == b.traffic)
        && a.routes == b.routes
        && (Arc::ptr_eq(&a.endpoints, &b.endpoints) || a.endpoints == b.endpoints)
        && a.remotes.len() == b.remotes.len()
        && a.remotes.iter().zip(&b.remotes).all(same_backend)
}

/// Members of `to` that `from` lacks, sorted.
fn added<T: Ord + std::hash::Hash + ToString>(from: Option<&HashSet<T>>, to: Option<&HashSet<T>>) -> Vec<String> {
    let mut added: Vec<&T> =
        to.into_iter().flatten().filter(|member| !from.is_some_and(|from| from.contains(*member))).collect();
    added.sort_unstable();
    added.into_iter().map(ToString::to_string).collect()
}
