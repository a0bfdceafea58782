//! Objects joined into the catalog. Pure.
//!
//! A service's endpoints are the instances of every EndpointSlice with its name on the label
//! `kubernetes.io/service-name`; ports meet by name. A service is exported while a ServiceExport of its name
//! exists, whichever of the two came first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_model::catalog::{
    AppProtocol, ENDPOINTS_PER_SERVICE_MAX, Endpoint, LocalCatalog, LocalService, ServicePort,
};
use isthmus_model::http_route::{ByService, Parent, TooLarge};
use isthmus_model::name::{Label, NamespacedName, ServiceName};
use isthmus_model::spiffe::WorkloadName;

use crate::object::{Kind, Object, ObjectKey, Readiness, ServiceRecord, SliceRecord};

/// Something that only shows when objects are seen together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) key: ObjectKey,
    pub(crate) reason: String,
}

/// Joins objects. Each key is there once; the order does not matter.
pub(crate) fn build<'a>(
    objects: impl IntoIterator<Item = (&'a ObjectKey, &'a Object)>,
) -> (LocalCatalog, Vec<Mismatch>) {
    let mut services: BTreeMap<ServiceName, Parts<'_>> = BTreeMap::new();
    let mut mismatches = Vec::new();
    let mut catalog = LocalCatalog::default();
    for (key, object) in objects {
        let named = || NamespacedName { namespace: key.namespace.clone(), name: key.name.clone() };
        let name = match object {
            Object::Service(_) | Object::ServiceExport => key.name.parse().ok(),
            Object::EndpointSlice(slice) => slice.service.clone(),
            Object::HttpRoute(route) => {
                catalog.routes.insert(named(), Arc::new(route.clone()));
                continue;
            }
            Object::ServiceEntry(entry) => {
                catalog.outside.insert(named(), Arc::new(entry.clone()));
                continue;
            }
        };
        // A slice without its label was reported when it was read.
        let Some(name) = name else { continue };
        let parts = services.entry(ServiceName { namespace: key.namespace.clone(), name }).or_default();
        match object {
            Object::Service(record) => parts.service = Some(record),
            Object::EndpointSlice(slice) => parts.slices.push((key, slice)),
            Object::ServiceExport => parts.export = Some(key),
            Object::HttpRoute(_) | Object::ServiceEntry(_) => {}
        }
    }
    for (name, parts) in services {
        match parts.service {
            Some(record) => {
                let service = parts.join(&name, record, &mut mismatches);
                catalog.services.insert(name, service);
            }
            None => parts.report_orphans(&name, &mut mismatches),
        }
    }
    mismatches.extend(routes_in_vain(&catalog));
    (catalog, mismatches)
}

/// Routes that are for a service, and of no effect there.
fn routes_in_vain(catalog: &LocalCatalog) -> Vec<Mismatch> {
    let mismatch = |name: &NamespacedName, reason| {
        let key = ObjectKey { kind: Kind::HttpRoute, namespace: name.namespace.clone(), name: name.name.clone() };
        Mismatch { key, reason }
    };
    let mut mismatches = Vec::new();
    for (name, route) in &catalog.routes {
        for parent in &route.parents {
            let Parent::Service { service, port: Some(port) } = parent else { continue };
            // Of a service that only other clusters have, nothing is known here.
            let Some(local) = catalog.services.get(service) else { continue };
            let reason = match local.ports.iter().find(|known| known.port == *port).map(|known| known.protocol) {
                Some(AppProtocol::Tcp) => "takes no requests: its bytes are passed on as they are",
                None => "is not there: check parentRefs.port, which is the Service's and not the application's",
                Some(AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Detect) => continue,
            };
            mismatches.push(mismatch(name, format!("port {port} of {service} {reason}")));
        }
    }
    let routes = ByService::of(&catalog.routes);
    mismatches.extend(routes.left_out().map(|(service, route)| {
        mismatch(
            route,
            format!("it is not used for {service}, which has too many routes before it by name: {TooLarge}"),
        )
    }));
    mismatches
}

/// All objects of one service.
#[derive(Default)]
struct Parts<'a> {
    service: Option<&'a ServiceRecord>,
    slices: Vec<(&'a ObjectKey, &'a SliceRecord)>,
    export: Option<&'a ObjectKey>,
}

impl Parts<'_> {
    fn report_orphans(&self, name: &ServiceName, mismatches: &mut Vec<Mismatch>) {
        for key in self.export.into_iter().chain(self.slices.iter().map(|(key, _)| *key)) {
            let reason = format!("no Service of this name: it takes effect when Service {name} exists");
            mismatches.push(Mismatch { key: key.clone(), reason });
        }
    }

    fn join(&self, name: &ServiceName, record: &ServiceRecord, mismatches: &mut Vec<Mismatch>) -> LocalService {
        let mut instances = Instances::default();
        for (key, slice) in &self.slices {
            let ports = match_ports(&record.ports, slice);
            if ports.is_empty() && !slice.instances.is_empty() {
                let reason =
                    format!("none of its ports has the name of a port of Service {name}: check ports.name in both");
                mismatches.push(Mismatch { key: (*key).clone(), reason });
            }
            instances.add(&name.namespace, slice, &ports);
        }
        let mut endpoints = instances.into_endpoints();
        if endpoints.len() > ENDPOINTS_PER_SERVICE_MAX {
            let reason =
                format!("it has {} endpoints, only the first {ENDPOINTS_PER_SERVICE_MAX} are used", endpoints.len());
            let key = ObjectKey {
                kind: Kind::Service,
                namespace: name.namespace.clone(),
                name: name.name.as_str().to_owned(),
            };
            mismatches.push(Mismatch { key, reason });
            endpoints.truncate(ENDPOINTS_PER_SERVICE_MAX);
        }
        LocalService { ports: record.ports.clone(), endpoints: endpoints.into(), exported: self.export.is_some() }
    }
}

/// Service port → port on the endpoints of `slice`. Ports meet by name, the unnamed with the unnamed; one
/// without a number in the slice has the service's own.
fn match_ports(ports: &[ServicePort], slice: &SliceRecord) -> BTreeMap<u16, u16> {
    let matched = ports.iter().filter_map(|port| {
        let number = slice.ports.get(&port.name)?;
        Some((port.port, number.unwrap_or(port.port)))
    });
    matched.collect()
}

/// What makes two mentions of an address the same workload.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    address: IpAddr,
    sidecar_port: Option<u16>,
    service_account: Label,
}

/// Endpoints as they are collected from several slices. Kubernetes lets an endpoint be in more than one slice,
/// also for a moment while slices are rearranged.
#[derive(Default)]
struct Instances(BTreeMap<Identity, Vec<(Endpoint, Readiness)>>);

impl Instances {
    fn add(&mut self, namespace: &Label, slice: &SliceRecord, ports: &BTreeMap<u16, u16>) {
        let service_account = slice.service_account.clone();
        let workload = WorkloadName { namespace: namespace.clone(), service_account: service_account.clone() };
        for (address, readiness) in &slice.instances {
            let identity = Identity {
                address: *address,
                sidecar_port: slice.sidecar_port,
                service_account: service_account.clone(),
            };
            let known = self.0.entry(identity).or_default();
            // Another port for the same service port is another process at the same address.
            let agrees =
                |(port, target): (&u16, &u16), known: &Endpoint| known.ports.get(port).is_none_or(|t| t == target);
            match known.iter_mut().find(|(known, _)| ports.iter().all(|pair| agrees(pair, known))) {
                Some((endpoint, known_readiness)) => {
                    endpoint.ports.extend(ports);
                    *known_readiness = (*known_readiness).max(*readiness);
                }
                None => {
                    let (address, sidecar_port, ready) = (*address, slice.sidecar_port, false);
                    let endpoint =
                        Endpoint { address, ports: ports.clone(), sidecar_port, workload: workload.clone(), ready };
                    known.push((endpoint, *readiness));
                }
            }
        }
    }

    /// The endpoints, sorted. When none is ready, those that drain take what comes (KEP-1669).
    fn into_endpoints(self) -> Vec<Endpoint> {
        let all: Vec<(Endpoint, Readiness)> = self.0.into_values().flatten().collect();
        let any_ready = all.iter().any(|(_, readiness)| *readiness == Readiness::Ready);
        let enough = if any_ready { Readiness::Ready } else { Readiness::Draining };
        let endpoints =
            all.into_iter().map(|(endpoint, readiness)| Endpoint { ready: readiness >= enough, ..endpoint });
        let sorted: BTreeSet<Endpoint> = endpoints.collect();
        sorted.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
