//! What a route is for: listeners of gateways, and services of its own namespace.

use isthmus_model::http_route::{Parent, Scheme, valid};
use isthmus_model::name::{Label, ServiceName};

use super::super::{Remark, Rules, label};
use super::checked;
use super::manifest::ParentRef;

const GROUP: &str = "gateway.networking.k8s.io";

/// What a route asks to be for; none with a warning if nothing here is of that kind.
pub(super) fn read(
    spec: ParentRef,
    own: &Label,
    rules: &Rules,
    warnings: &mut Vec<Remark>,
) -> Result<Option<Parent>, Remark> {
    let (group, kind) = (spec.group.as_deref().unwrap_or(GROUP), spec.kind.as_deref().unwrap_or("Gateway"));
    match (group, kind) {
        (GROUP, "Gateway") => gateway(spec, rules, warnings).map(Some),
        ("", "Service") | ("multicluster.x-k8s.io", "ServiceImport") => service(spec, own).map(Some),
        _ => {
            let name = &spec.name;
            let hint = match kind {
                "Service" => "; the group of Service is \"\"",
                "ServiceImport" => "; the group of ServiceImport is multicluster.x-k8s.io",
                _ => "",
            };
            let kind = format!("{kind} {name} of the group {group:?}");
            let reason = format!("parentRefs: {kind} has no effect: routes are for gateways and services{hint}");
            warnings.push(Remark::about(name, reason));
            Ok(None)
        }
    }
}

fn gateway(spec: ParentRef, rules: &Rules, warnings: &mut Vec<Remark>) -> Result<Parent, Remark> {
    match &rules.ingress {
        Some(known) if *known == spec.name => {}
        Some(known) => {
            let reason =
                format!("parentRefs: there is no gateway {:?} here; `ingress.gateway` is {known:?}", spec.name);
            warnings.push(Remark::about(&spec.name, reason));
        }
        None => {
            let reason = "parentRefs: this gateway takes no requests from outside: `ingress` is not configured";
            warnings.push(Remark::about(&spec.name, reason));
        }
    }
    if spec.port.is_some() {
        let reason = "parentRefs.port: a gateway's listener is chosen by sectionName: http or https";
        return Err(Remark::about("port", reason));
    }
    let section = match spec.section_name.as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(other) => {
            return Err(Remark::about(
                other,
                format!("parentRefs.sectionName: {other:?}: the listeners are http and https"),
            ));
        }
    };
    Ok(Parent::Gateway { gateway: spec.name, section })
}

/// A service whose callers' requests are routed. Only one of the route's own namespace: what becomes of a service's requests
/// is for those to say whose it is.
fn service(spec: ParentRef, own: &Label) -> Result<Parent, Remark> {
    if spec.namespace.as_deref().is_some_and(|namespace| namespace != own.as_str()) {
        let reason = format!(
            "parentRefs.namespace: a route for a service of another namespace (a consumer route) is not supported: \
             {} has to be of {own}, as the route is",
            spec.name
        );
        return Err(Remark::about("namespace", reason));
    }
    if let Some(section) = &spec.section_name {
        let reason =
            format!("parentRefs.sectionName: {section:?}: a port of a service is chosen by its number: use port");
        return Err(Remark::about(section, reason));
    }
    if let Some(port) = spec.port {
        checked("parentRefs.port", &port.to_string(), valid::port(port))?;
    }
    let name = label("parentRefs.name", &spec.name)?;
    Ok(Parent::Service { service: ServiceName { namespace: own.clone(), name }, port: spec.port })
}
