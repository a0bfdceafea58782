//! ServiceEntries (`networking.istio.io/v1`): hosts outside the federation that may be called through a gateway.
//!
//! What is not understood refuses the whole entry, with the field's name.

use std::collections::BTreeMap;
use std::net::IpAddr;

use isthmus_model::catalog::{AppProtocol, PORTS_PER_SERVICE_MAX};
use isthmus_model::http_route::HostPattern;
use isthmus_model::name::{CLUSTERSET_ZONE, Label};
use isthmus_model::outside::{ADDRESSES_MAX, HOSTS_MAX, OutsideHosts, OutsidePort, is_outside};
use serde::{Deserialize, Serialize};

use super::service::port_number;
use super::{Remark, Rules};

/// The manifest, as far as it is understood.
pub(crate) type Manifest = super::Manifest<Spec>;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    hosts: Vec<String>,
    ports: Vec<PortSpec>,
    location: Option<String>,
    resolution: Option<String>,
    #[serde(default)]
    endpoints: Vec<EndpointSpec>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PortSpec {
    number: i32,
    name: Option<String>,
    protocol: Option<String>,
    target_port: Option<i32>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct EndpointSpec {
    address: String,
}

/// Checks a ServiceEntry.
///
/// # Errors
/// The first thing that makes it unusable.
pub(crate) fn reduce(manifest: Manifest, rules: &Rules) -> Result<OutsideHosts, Remark> {
    let spec = manifest.spec;
    if spec.location.as_deref().is_some_and(|location| location != "MESH_EXTERNAL") {
        return Err(Remark::about("location", "location: only MESH_EXTERNAL: services of the federation are exported"));
    }
    for (field, found, max) in [
        ("hosts", spec.hosts.len(), HOSTS_MAX),
        ("ports", spec.ports.len(), PORTS_PER_SERVICE_MAX),
        ("endpoints", spec.endpoints.len(), ADDRESSES_MAX),
    ] {
        if found > max || (found == 0 && field != "endpoints") {
            return Err(Remark::about(field, format!("spec.{field} has {found} entries; 1 to {max} are allowed")));
        }
    }
    let hosts = spec.hosts.iter().map(|text| host(text)).collect::<Result<_, _>>()?;
    let mut ports = BTreeMap::new();
    for port in spec.ports {
        let port = self::port(port)?;
        if ports.insert(port.number, port).is_some() {
            return Err(Remark::about(port.number.to_string(), format!("port {} is there twice", port.number)));
        }
    }
    let addresses = spec.endpoints.iter().map(|endpoint| address(&endpoint.address, rules));
    let addresses: Vec<IpAddr> = addresses.collect::<Result<_, _>>()?;
    match (spec.resolution.as_deref(), addresses.is_empty()) {
        (Some("STATIC"), true) => return Err(Remark::about("STATIC", "resolution STATIC needs endpoints")),
        (Some("STATIC"), false) | (None | Some("NONE" | "DNS" | "DNS_ROUND_ROBIN"), true) => {}
        (None | Some("NONE" | "DNS" | "DNS_ROUND_ROBIN"), false) => {
            return Err(Remark::about(
                "endpoints",
                "endpoints are for resolution STATIC: otherwise DNS tells the addresses",
            ));
        }
        (Some(other), _) => {
            return Err(Remark::about(
                other,
                format!("resolution {other:?}: use NONE, STATIC, DNS or DNS_ROUND_ROBIN"),
            ));
        }
    }
    Ok(OutsideHosts { hosts, ports: ports.into_values().collect(), addresses })
}

/// A name of the federation is not outside, and a name of one label is somebody's short form.
fn host(text: &str) -> Result<HostPattern, Remark> {
    let host: HostPattern = text.parse().map_err(|error| Remark::about(text, format!("hosts: {error}")))?;
    let (HostPattern::Exact(name) | HostPattern::Below(name)) = &host;
    let own = name == CLUSTERSET_ZONE || name.ends_with(&format!(".{CLUSTERSET_ZONE}"));
    if own || name.parse::<Label>().is_ok() {
        let reason =
            format!("hosts: {text:?}: write a whole name of two labels or more, and none of {CLUSTERSET_ZONE}");
        return Err(Remark::about(text, reason));
    }
    Ok(host)
}

fn port(spec: PortSpec) -> Result<OutsidePort, Remark> {
    let number = port_number("spec.ports.number", spec.number)?;
    let target = spec.target_port.map(|port| port_number("spec.ports.targetPort", port)).transpose()?;
    let protocol = match spec.protocol.as_deref().unwrap_or("TCP") {
        "HTTP" => AppProtocol::Http,
        "HTTP2" | "GRPC" => AppProtocol::Http2,
        "HTTPS" | "TLS" | "TCP" | "MONGO" => AppProtocol::Tcp,
        other => {
            let reason = format!("spec.ports.protocol: {other:?}: use HTTP, HTTP2, GRPC, HTTPS, TLS, TCP or MONGO");
            return Err(Remark::about(other, reason));
        }
    };
    Ok(OutsidePort { number, target: target.unwrap_or(number), protocol })
}

fn address(text: &str, rules: &Rules) -> Result<IpAddr, Remark> {
    let address: IpAddr =
        text.parse().map_err(|_| Remark::about(text, format!("endpoints: {text:?} is not an IP address")))?;
    if is_outside(address, rules.allow_loopback) {
        return Ok(address);
    }
    Err(Remark::about(text, format!("endpoints: {text} is an address of this machine, of its link, or of nobody")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Kind, Object, ObjectKey, check};
    use super::*;

    fn read(spec: Value) -> Result<OutsideHosts, String> {
        let manifest = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": "payments", "namespace": "shop"}, "spec": spec,
        });
        let namespace = "shop".parse().expect("valid");
        let key = ObjectKey { kind: Kind::ServiceEntry, namespace, name: "payments".to_owned() };
        let checked = check(&key, &manifest, &Rules::default(), &mut Vec::new());
        checked.map_err(|remark| remark.reason).map(|object| match object {
            Object::ServiceEntry(entry) => entry,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn an_entry_as_people_write_it() {
        let entry = read(json!({
            "hosts": ["api.example.com", "*.example.org"], "location": "MESH_EXTERNAL", "resolution": "DNS",
            "ports": [{"number": 443, "name": "https", "protocol": "TLS"}, {"number": 80, "protocol": "HTTP", "targetPort": 8080}],
        }));
        let entry = entry.expect("valid");
        assert_eq!(entry.hosts.len(), 2);
        assert_eq!(
            entry.ports,
            [
                OutsidePort { number: 80, target: 8080, protocol: AppProtocol::Http },
                OutsidePort { number: 443, target: 443, protocol: AppProtocol::Tcp },
            ]
        );
        let fixed = read(json!({
            "hosts": ["db.example.com"], "ports": [{"number": 5432}], "resolution": "STATIC",
            "endpoints": [{"address": "192.0.2.7"}],
        }));
        assert_eq!(fixed.expect("valid").addresses, [IpAddr::from([192, 0, 2, 7])]);
    }

    #[test]
    fn what_opens_too_much_is_refused() {
        let with = |field: &str, value: Value| {
            let mut spec = json!({"hosts": ["api.example.com"], "ports": [{"number": 443, "protocol": "TLS"}]});
            spec[field] = value;
            spec
        };
        for (spec, expected) in [
            (with("hosts", json!(["*"])), "not a host name"),
            (with("hosts", json!(["*.com"])), "two labels or more"),
            (with("hosts", json!(["localhost"])), "two labels or more"),
            (with("hosts", json!(["169.254.169.254"])), "not a host name"),
            (with("hosts", json!(["reviews.shop.svc.clusterset.local"])), "none of clusterset.local"),
            (with("hosts", json!([])), "1 to 64 are allowed"),
            (with("ports", json!([])), "1 to 64 are allowed"),
            (with("ports", json!([{"number": 0}])), "between 1 and 65535"),
            (with("ports", json!([{"number": 80}, {"number": 80}])), "twice"),
            (with("ports", json!([{"number": 80, "protocol": "UDP"}])), "use HTTP"),
            (with("location", json!("MESH_INTERNAL")), "only MESH_EXTERNAL"),
            (with("resolution", json!("STATIC")), "needs endpoints"),
            (with("resolution", json!("DYNAMIC_DNS")), "use NONE"),
            (with("endpoints", json!([{"address": "192.0.2.7"}])), "for resolution STATIC"),
            (with("endpoints", json!([{"address": "169.254.169.254"}])), "of its link"),
            (with("endpoints", json!([{"address": "127.0.0.1"}])), "of this machine"),
            (with("exportTo", json!(["."])), "unknown field `exportTo`"),
            (with("workloadSelector", json!({})), "unknown field `workloadSelector`"),
        ] {
            let error = read(spec.clone()).expect_err(expected);
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }
}
