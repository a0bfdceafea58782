//! The sidecar's side: the next view, out of the one that it has and a message.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_model::name::ServiceName;
use isthmus_model::shared::OrdMap;
use isthmus_model::snapshot::{Coverage, RemoteBackend, Service, Site, Snapshot};

use super::authorization;
use super::decode::{self, Clusters};
use super::{QUESTIONS_PER_STREAM_MAX, SERVICES_PER_VIEW_MAX};
use crate::control;
use crate::error::WireError;
use crate::field;

type Services = OrdMap<ServiceName, Arc<Service>>;

/// The view that a sidecar has after `update`. How near clusters are is computed from the view's own site.
///
/// # Errors
/// What is wrong with the message. The sidecar's stream should start anew then, from an empty view, for
/// the gateway takes the message for delivered.
pub fn apply(view: &Snapshot, update: control::Update) -> Result<Snapshot, WireError> {
    field::count("services", update.services.len(), SERVICES_PER_VIEW_MAX)?;
    field::count("absent", update.absent.len(), SERVICES_PER_VIEW_MAX)?;
    field::count("absent_addresses", update.absent_addresses.len(), QUESTIONS_PER_STREAM_MAX)?;
    let clusters = match &update.clusters {
        Some(message) => decode::clusters(message, &view.site, &view.clusters)?,
        None => view.clusters.clone(),
    };
    let (mut absent, mut absent_addresses) = match &view.coverage {
        Coverage::Complete => (HashSet::new(), HashSet::new()),
        Coverage::Partial { absent, absent_addresses } => (absent.clone(), absent_addresses.clone()),
    };
    let mut services = view.services.clone();
    for name in &update.absent {
        let name = field::name("absent", name)?;
        services.remove(&name);
        absent.insert(name);
    }
    for record in &update.services {
        let service = decode::service(record, &clusters)?;
        absent.remove(&service.name);
        services.insert(service.name.clone(), Arc::new(service));
    }
    for address in &update.absent_addresses {
        absent_addresses.insert(field::address("absent_addresses", address)?);
    }
    if update.clusters.is_some() {
        link(&mut services, &clusters)?;
    }
    let vips = vips(&services)?;
    absent_addresses.retain(|address| !vips.contains_key(address));
    field::count("services", services.len(), SERVICES_PER_VIEW_MAX)?;
    field::count("absent", absent.len(), SERVICES_PER_VIEW_MAX)?;
    field::count("absent_addresses", absent_addresses.len(), QUESTIONS_PER_STREAM_MAX)?;
    let (roots, denied, epoch) = match &update.roots {
        Some(roots) => decode::roots(roots)?,
        None => (view.roots.clone(), view.denied.clone(), view.epoch),
    };
    let coverage = Coverage::Partial { absent, absent_addresses };
    Ok(Snapshot {
        generation: update.generation,
        roots,
        denied,
        epoch,
        clusters,
        services,
        vips,
        control_ports: match &update.control_ports {
            Some(message) => decode::control_ports(message)?,
            None => view.control_ports.clone(),
        },
        authorizations: match &update.authorizations {
            Some(message) => authorization::decode(message)?,
            None => view.authorizations.clone(),
        },
        agreement: match &update.agreement {
            Some(message) => decode::agreement(message)?,
            None => view.agreement.clone(),
        },
        ..Snapshot::empty(Site::clone(&view.site), coverage)
    })
}

/// Links the backends of all services to `clusters`; services whose clusters are as before stay untouched.
fn link(services: &mut Services, clusters: &Clusters) -> Result<(), WireError> {
    for service in services.clone().values() {
        let linked = |remote: &RemoteBackend| {
            clusters.get(&remote.cluster.name).is_some_and(|cluster| Arc::ptr_eq(cluster, &remote.cluster))
        };
        if !service.remotes.iter().all(linked) {
            let mut relinked = Service::clone(service);
            for remote in &mut relinked.remotes {
                let Some(cluster) = clusters.get(&remote.cluster.name) else {
                    let (service, cluster) = (service.name.clone(), remote.cluster.name.clone());
                    return Err(WireError::UnknownCluster { service, cluster });
                };
                remote.cluster = cluster.clone();
            }
            services.insert(service.name.clone(), Arc::new(relinked));
        }
    }
    Ok(())
}

/// The index by virtual address, which no two services share.
fn vips(services: &Services) -> Result<OrdMap<IpAddr, ServiceName>, WireError> {
    let mut vips = OrdMap::new();
    for service in services.values() {
        if let Some(vip) = service.vip
            && vips.insert(vip, service.name.clone()).is_some()
        {
            return Err(WireError::Duplicate { field: "services.vip", value: vip.to_string() });
        }
    }
    Ok(vips)
}
