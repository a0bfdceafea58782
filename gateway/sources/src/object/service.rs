//! Services: the ports on offer and how their bytes are to be read.

use std::collections::BTreeSet;

use isthmus_model::catalog::{AppProtocol, PORTS_PER_SERVICE_MAX, ServicePort};
use k8s_openapi::api::core::v1::{Service, ServicePort as PortSpec};

use super::{Remark, Rules, label};

/// Ports whose bytes are not looked at, unless the site says otherwise: on most of them the server speaks first, so that
/// a client would wait; others are those of stores and caches that carry much and never HTTP. All of Linkerd's are among them. Of
/// Istio's, those of DNS (53) and MongoDB (27017) need not be: their clients speak first, and with noughts among their first bytes.
/// What comes to a forward proxy (3128) is requests, but for others than the service, and CONNECT: as the service's own they would
/// be refused, or get its name for their host.
pub const OPAQUE_PORTS: [u16; 14] = [21, 22, 25, 110, 143, 587, 3128, 3306, 4222, 4444, 5432, 6379, 9300, 11211];

/// A Service as far as the catalog needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceRecord {
    /// Its TCP ports, sorted by number.
    pub(crate) ports: Vec<ServicePort>,
}

/// Checks a Service by the rules of the API server, as far as they concern what is used.
///
/// # Errors
/// The first thing that makes the Service unusable.
pub(crate) fn reduce(service: &Service, rules: &Rules, warnings: &mut Vec<Remark>) -> Result<ServiceRecord, Remark> {
    let spec = service.spec.as_ref().ok_or_else(|| Remark::new("spec is missing: a Service needs spec.ports"))?;
    if spec.type_.as_deref() == Some("ExternalName") {
        let reason = "a Service of type ExternalName is only a DNS alias and has no endpoints to call";
        return Err(Remark::about("ExternalName", reason));
    }
    let given = spec.ports.as_deref().unwrap_or_default();
    if given.len() > PORTS_PER_SERVICE_MAX {
        let reason = format!("spec.ports has {} ports, {PORTS_PER_SERVICE_MAX} are allowed", given.len());
        return Err(Remark::about("ports", reason));
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let mut ports = Vec::with_capacity(given.len());
    for spec in given {
        let number = port_number("spec.ports.port", spec.port)?;
        let name = spec.name.as_deref().filter(|name| !name.is_empty());
        if name.is_none() && given.len() > 1 {
            let reason = format!("port {number} has no name: with more than one port, each needs one");
            return Err(Remark::about(number.to_string(), reason));
        }
        if let Some(name) = name.filter(|name| !names.insert(*name)) {
            return Err(Remark::about(name, format!("two ports have the name {name:?}")));
        }
        if !is_tcp(spec.protocol.as_deref()) {
            let protocol = spec.protocol.as_deref().unwrap_or_default();
            warnings
                .push(Remark::about(protocol, format!("port {number}/{protocol} is left out: only TCP is carried")));
            continue;
        }
        if !numbers.insert(number) {
            return Err(Remark::about(number.to_string(), format!("port {number} is there twice")));
        }
        let protocol = app_protocol(spec, number, rules, warnings);
        ports.push(ServicePort {
            name: name.map(|name| label("spec.ports.name", name)).transpose()?,
            port: number,
            protocol,
        });
    }
    ports.sort_by_key(|port| port.port);
    Ok(ServiceRecord { ports })
}

/// Whether a `protocol` field means TCP, its default.
pub(super) fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("TCP"))
}

/// A port number from a manifest.
pub(super) fn port_number(field: &str, number: i32) -> Result<u16, Remark> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    port.ok_or_else(|| Remark::about(number.to_string(), format!("{field}: {number} is not between 1 and 65535")))
}

/// `appProtocol` (KEP-3726 and what Istio adds), else the prefix of the port's name, else what each connection turns out
/// to be, but on ports that the site calls opaque. What is stated and not known is carried as opaque bytes, which is right for
/// every protocol.
fn app_protocol(spec: &PortSpec, number: u16, rules: &Rules, warnings: &mut Vec<Remark>) -> AppProtocol {
    let Some(stated) = spec.app_protocol.as_deref() else {
        let unsaid = if rules.opaque_ports.contains(&number) { AppProtocol::Tcp } else { AppProtocol::Detect };
        return spec.name.as_deref().and_then(protocol_of_name).unwrap_or(unsaid);
    };
    match stated.to_ascii_lowercase().as_str() {
        "http" | "kubernetes.io/ws" | "grpc-web" => AppProtocol::Http,
        "http2" | "h2c" | "kubernetes.io/h2c" | "grpc" => AppProtocol::Http2,
        "tcp" | "tls" | "https" | "kubernetes.io/wss" => AppProtocol::Tcp,
        _ => {
            let reason = format!("appProtocol {stated:?} is not known: port {} is carried as plain TCP", spec.port);
            warnings.push(Remark::about(stated, reason));
            AppProtocol::Tcp
        }
    }
}

/// `<protocol>` or `<protocol>-<anything>`, as Istio reads port names. None where the name says nothing.
fn protocol_of_name(name: &str) -> Option<AppProtocol> {
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return Some(AppProtocol::Http);
    }
    match name.split('-').next()? {
        "http" => Some(AppProtocol::Http),
        "http2" | "grpc" => Some(AppProtocol::Http2),
        "tcp" | "tls" | "https" | "mongo" | "mysql" | "redis" => Some(AppProtocol::Tcp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: Option<&str>, number: i32, app_protocol: Option<&str>) -> PortSpec {
        PortSpec {
            name: name.map(Into::into),
            port: number,
            app_protocol: app_protocol.map(Into::into),
            ..PortSpec::default()
        }
    }

    fn reduce_ports(ports: Vec<PortSpec>) -> (Result<ServiceRecord, Remark>, Vec<Remark>) {
        let mut service = Service { spec: Some(Default::default()), ..Service::default() };
        service.spec.as_mut().expect("just set").ports = Some(ports);
        let mut warnings = Vec::new();
        let rules = Rules { opaque_ports: [3306].into(), ..Rules::default() };
        (reduce(&service, &rules, &mut warnings), warnings)
    }

    #[test]
    fn the_protocol_comes_from_app_protocol_then_the_name_then_the_bytes() {
        use AppProtocol::{Detect, Http, Http2, Tcp};
        for (name, stated, expected) in [
            (None, Some("http"), Http),
            (None, Some("kubernetes.io/h2c"), Http2),
            (None, Some("grpc"), Http2),
            (None, Some("kubernetes.io/ws"), Http),
            (None, Some("tcp"), Tcp),
            (Some("http"), Some("tcp"), Tcp),
            (Some("http"), None, Http),
            (Some("http-web"), None, Http),
            (Some("http2-web"), None, Http2),
            (Some("grpc-api"), None, Http2),
            (Some("grpc-web"), None, Http),
            (Some("tcp-db"), None, Tcp),
            (Some("mysql"), None, Tcp),
            (Some("https"), None, Tcp),
            (Some("httpx"), None, Detect),
            (Some("web"), None, Detect),
            (None, None, Detect),
        ] {
            let (record, warnings) = reduce_ports(vec![port(name, 80, stated)]);
            assert_eq!(record.expect("valid").ports[0].protocol, expected, "{name:?} {stated:?}");
            assert!(warnings.is_empty());
        }
        for (name, stated, expected) in [(None, None, Tcp), (Some("web"), None, Tcp), (Some("http"), None, Http)] {
            let (record, _) = reduce_ports(vec![port(name, 3306, stated)]);
            assert_eq!(record.expect("valid").ports[0].protocol, expected, "{name:?} on a port that is opaque");
        }
    }

    #[test]
    fn an_unknown_app_protocol_is_opaque_and_reported() {
        let (record, warnings) = reduce_ports(vec![port(Some("http"), 80, Some("example.com/x"))]);
        assert_eq!(record.expect("valid").ports[0].protocol, AppProtocol::Tcp);
        assert!(warnings[0].reason.contains("example.com/x"));
    }

    #[test]
    fn ports_that_the_api_server_refuses_are_refused() {
        let many = (1..=65).map(|number| port(Some(&format!("p{number}")), number, None)).collect();
        for (ports, reason) in [
            (vec![port(None, 0, None)], "between 1 and 65535"),
            (vec![port(None, 65_536, None)], "between 1 and 65535"),
            (vec![port(None, 80, None), port(Some("a"), 81, None)], "has no name"),
            (vec![port(Some("a"), 80, None), port(Some("a"), 81, None)], "two ports have the name"),
            (vec![port(Some("a"), 80, None), port(Some("b"), 80, None)], "twice"),
            (vec![port(Some("A_b"), 80, None)], "RFC 1123"),
            (many, "64 are allowed"),
        ] {
            let error = reduce_ports(ports).0.expect_err(reason);
            assert!(error.reason.contains(reason), "{error:?}");
        }
    }

    #[test]
    fn udp_is_left_out_with_a_warning_and_ports_are_sorted() {
        let mut dns = port(Some("dns"), 53, None);
        dns.protocol = Some("UDP".into());
        let (record, warnings) = reduce_ports(vec![port(Some("b"), 90, None), dns, port(Some("a"), 53, None)]);
        let numbers: Vec<u16> = record.expect("valid").ports.iter().map(|port| port.port).collect();
        assert_eq!(numbers, [53, 90]);
        assert!(warnings[0].reason.contains("53/UDP"));
    }

    #[test]
    fn a_service_may_be_headless_but_not_external() {
        let mut service = Service { spec: Some(Default::default()), ..Service::default() };
        let rules = Rules::default();
        assert!(reduce(&service, &rules, &mut Vec::new()).expect("headless without ports").ports.is_empty());
        service.spec.as_mut().expect("just set").type_ = Some("ExternalName".into());
        assert!(reduce(&service, &rules, &mut Vec::new()).is_err());
    }
}
