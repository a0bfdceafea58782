//! EndpointSlices: the instances behind a service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use isthmus_model::name::Label;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use super::service::{is_tcp, port_number};
use super::{OwnListeners, Remark, Rules, label};

/// Annotation of an EndpointSlice: the port of the sidecars' inbound listeners. Absent: no sidecar.
pub const SIDECAR_PORT_ANNOTATION: &str = "isthmus.dev/sidecar-port";
/// Annotation of an EndpointSlice: the service account that its endpoints run as.
pub const SERVICE_ACCOUNT_ANNOTATION: &str = "isthmus.dev/service-account";
/// The prefix that all annotations of ours have.
const ANNOTATION_PREFIX: &str = "isthmus.dev/";
/// The label that ties a slice to its service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The service account that Kubernetes gives to who names none.
const DEFAULT_SERVICE_ACCOUNT: &str = "default";
/// Endpoints of one slice: the API server's own bound.
const ENDPOINTS_PER_SLICE_MAX: usize = 1_000;
/// Ports of one slice: the API server's own bound.
const PORTS_PER_SLICE_MAX: usize = 100;
/// Addresses of one endpoint: the API server's own bound.
const ADDRESSES_PER_ENDPOINT_MAX: usize = 100;

/// An EndpointSlice as far as the catalog needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceRecord {
    /// The service that it belongs to, in its own namespace.
    pub(crate) service: Option<Label>,
    /// Its TCP ports by name; a port without a number is the service's own number.
    pub(crate) ports: BTreeMap<Option<Label>, Option<u16>>,
    /// The sidecars' inbound port.
    pub(crate) sidecar_port: Option<u16>,
    /// Who its endpoints run as.
    pub(crate) service_account: Label,
    /// Its endpoints: each address counts as one.
    pub(crate) instances: Vec<(IpAddr, Readiness)>,
}

/// Whether an endpoint takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Readiness {
    /// No.
    Unready,
    /// Terminating but still serving: only when nothing is ready (KEP-1669).
    Draining,
    /// Yes.
    Ready,
}

/// Checks an EndpointSlice.
///
/// # Errors
/// The first thing that makes it unusable. One bad address refuses the whole slice, as the API server does.
pub(crate) fn reduce(slice: &EndpointSlice, rules: &Rules, warnings: &mut Vec<Remark>) -> Result<SliceRecord, Remark> {
    let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
    if service.is_none() {
        let reason = format!("label {SERVICE_NAME_LABEL} is missing: the slice belongs to no service and is not used");
        warnings.push(Remark::about("metadata", reason));
    }
    let service = service.map(|name| label(SERVICE_NAME_LABEL, name)).transpose()?;
    let annotations = slice.metadata.annotations.clone().unwrap_or_default();
    for name in annotations.keys().filter(|name| name.starts_with(ANNOTATION_PREFIX)) {
        if ![SIDECAR_PORT_ANNOTATION, SERVICE_ACCOUNT_ANNOTATION].contains(&name.as_str()) {
            warnings.push(Remark::about(name, format!("annotation {name} is not known and has no effect")));
        }
    }
    let sidecar_port = annotations.get(SIDECAR_PORT_ANNOTATION).map(|text| sidecar_port(text)).transpose()?;
    let account = annotations.get(SERVICE_ACCOUNT_ANNOTATION).map_or(DEFAULT_SERVICE_ACCOUNT, String::as_str);
    let (ports, instances) = (ports(slice.ports.as_deref().unwrap_or_default())?, instances(slice, rules)?);
    let numbers: Vec<_> = ports.values().copied().chain(sidecar_port.map(Some)).collect();
    if let Some((address, _)) = instances.iter().find(|(address, _)| is_own(*address, &numbers, &rules.own)) {
        let reason =
            format!("endpoint {address} has a port of the gateway itself: give the workload's own address and port");
        return Err(Remark::about(address.to_string(), reason));
    }
    let service_account = label(SERVICE_ACCOUNT_ANNOTATION, account)?;
    Ok(SliceRecord { service, ports, sidecar_port, service_account, instances })
}

/// Whether the gateway itself listens there. A port without a number becomes the service's, which may be any.
fn is_own(address: IpAddr, ports: &[Option<u16>], own: &OwnListeners) -> bool {
    let mut here = own.iter().flatten().filter(|listener| listener.ip() == address);
    here.any(|listener| ports.iter().any(|port| port.is_none_or(|port| port == listener.port())))
}

fn sidecar_port(text: &str) -> Result<u16, Remark> {
    let port = text.parse::<u16>().ok().filter(|port| *port > 0);
    let reason = || format!("annotation {SIDECAR_PORT_ANNOTATION}: {text:?} is not a port between 1 and 65535");
    port.ok_or_else(|| Remark::about(SIDECAR_PORT_ANNOTATION, reason()))
}

fn ports(given: &[EndpointPort]) -> Result<BTreeMap<Option<Label>, Option<u16>>, Remark> {
    if given.len() > PORTS_PER_SLICE_MAX {
        let reason = format!("ports has {} entries, {PORTS_PER_SLICE_MAX} are allowed", given.len());
        return Err(Remark::about("ports", reason));
    }
    let mut ports = BTreeMap::new();
    for port in given.iter().filter(|port| is_tcp(port.protocol.as_deref())) {
        let name = port.name.as_deref().filter(|name| !name.is_empty());
        let number = port.port.map(|number| port_number("ports.port", number)).transpose()?;
        let parsed = name.map(|name| label("ports.name", name)).transpose()?;
        if ports.insert(parsed, number).is_some() {
            let shown = name.unwrap_or("(none)");
            return Err(Remark::about(name.unwrap_or("ports"), format!("two ports have the name {shown}")));
        }
    }
    Ok(ports)
}

fn instances(slice: &EndpointSlice, rules: &Rules) -> Result<Vec<(IpAddr, Readiness)>, Remark> {
    if slice.endpoints.len() > ENDPOINTS_PER_SLICE_MAX {
        let reason = format!(
            "endpoints has {} entries, {ENDPOINTS_PER_SLICE_MAX} are allowed: use several slices",
            slice.endpoints.len()
        );
        return Err(Remark::about("endpoints", reason));
    }
    let family = match slice.address_type.as_str() {
        "IPv4" => IpAddr::is_ipv4,
        "IPv6" => IpAddr::is_ipv6,
        other => return Err(Remark::about("addressType", format!("addressType {other:?}: use IPv4 or IPv6"))),
    };
    let mut instances = Vec::with_capacity(slice.endpoints.len());
    let mut seen = BTreeSet::new();
    for endpoint in &slice.endpoints {
        if endpoint.addresses.is_empty() || endpoint.addresses.len() > ADDRESSES_PER_ENDPOINT_MAX {
            let reason = format!("an endpoint needs 1 to {ADDRESSES_PER_ENDPOINT_MAX} addresses");
            return Err(Remark::about("addresses", reason));
        }
        for text in &endpoint.addresses {
            let address = address(text, family, &slice.address_type, rules)
                .map_err(|why| Remark::about(text, format!("endpoint address {text:?} {why}")))?;
            if seen.insert(address) {
                instances.push((address, readiness(endpoint)));
            }
        }
    }
    Ok(instances)
}

/// An address that a gateway may be told to connect to. Link-local addresses are where clouds keep their
/// metadata services, with credentials for whoever asks from the right machine.
fn address(text: &str, family: fn(&IpAddr) -> bool, expected: &str, rules: &Rules) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "is not an IP address".to_owned())?;
    if address.to_canonical() != address {
        return Err(format!("is an IPv4 address in IPv6 form: write {}", address.to_canonical()));
    }
    if !family(&address) {
        return Err(format!("is not of addressType {expected}"));
    }
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let why = if address.is_unspecified() {
        "is the unspecified address: give the workload's own"
    } else if address.is_multicast() {
        "is a multicast address"
    } else if link_local {
        "is link-local (where cloud metadata services are) or broadcast: never an endpoint"
    } else if address.is_loopback() && !rules.allow_loopback {
        "is a loopback address: it means another machine to every reader; allow it only where all is on one machine"
    } else {
        return Ok(address);
    };
    Err(why.to_owned())
}

/// `ready` unset means ready; `serving` unset means as ready; what terminates is not ready for new work.
fn readiness(endpoint: &Endpoint) -> Readiness {
    let EndpointConditions { ready, serving, terminating } = endpoint.conditions.clone().unwrap_or_default();
    let terminating = terminating.unwrap_or(false);
    if ready.unwrap_or(!terminating) {
        Readiness::Ready
    } else if terminating && serving.or(ready).unwrap_or(true) {
        Readiness::Draining
    } else {
        Readiness::Unready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(addresses: &[&str]) -> EndpointSlice {
        let mut slice = EndpointSlice { address_type: "IPv4".into(), ..EndpointSlice::default() };
        slice.metadata.labels = Some(BTreeMap::from([(SERVICE_NAME_LABEL.into(), "reviews".into())]));
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        slice.endpoints = vec![Endpoint { addresses, ..Endpoint::default() }];
        slice
    }

    fn reduced(slice: &EndpointSlice) -> Result<SliceRecord, Remark> {
        reduce(slice, &Rules::default(), &mut Vec::new())
    }

    #[test]
    fn addresses_that_are_no_workload_are_refused() {
        for (address, why) in [
            ("0.0.0.0", "unspecified"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("169.254.169.254", "link-local"),
            ("127.0.0.1", "loopback"),
            ("::ffff:169.254.169.254", "IPv4 address in IPv6 form"),
            ("fd00::1", "addressType"),
            ("reviews.example", "not an IP address"),
            ("10.0.0.1:80", "not an IP address"),
            ("010.0.0.1", "not an IP address"),
        ] {
            let error = reduced(&slice(&["10.0.0.1", address])).expect_err(address);
            assert!(error.reason.contains(why), "{address}: {error:?}");
            assert_eq!(error.about.as_deref(), Some(address));
        }
        for (address, why) in
            [("::", "unspecified"), ("::1", "loopback"), ("fe80::1", "link-local"), ("ff02::1", "multicast")]
        {
            let mut slice = slice(&[address]);
            slice.address_type = "IPv6".into();
            assert!(reduced(&slice).expect_err(address).reason.contains(why), "{address}");
        }
    }

    #[test]
    fn loopback_is_taken_where_it_is_allowed() {
        let record =
            reduce(&slice(&["127.0.11.21"]), &Rules { allow_loopback: true, ..Rules::default() }, &mut Vec::new());
        assert_eq!(record.expect("allowed").instances, [([127, 0, 11, 21].into(), Readiness::Ready)]);
    }

    #[test]
    fn the_gateways_own_ports_are_no_endpoints() {
        let mut rules = Rules { allow_loopback: true, ..Rules::default() };
        rules.own[0] = Some(([127, 0, 11, 1], 15_000).into());
        let verdict = |address: &str, port: Option<i32>, sidecar: Option<&str>| {
            let mut slice = slice(&["127.0.11.21", address]);
            slice.ports = Some(vec![EndpointPort { port, ..EndpointPort::default() }]);
            let sidecar = sidecar.map(|port| (SIDECAR_PORT_ANNOTATION.to_owned(), port.to_owned()));
            slice.metadata.annotations = Some(sidecar.into_iter().collect());
            reduce(&slice, &rules, &mut Vec::new()).map_err(|error| error.reason)
        };
        // An application beside the gateway is an endpoint like any other.
        verdict("127.0.11.1", Some(8080), None).expect("another port");
        verdict("127.0.11.2", Some(15_000), None).expect("another address");
        verdict("127.0.11.2", None, None).expect("another address");
        for (port, sidecar) in [(Some(15_000), None), (Some(8080), Some("15000")), (None, None)] {
            let refused = verdict("127.0.11.1", port, sidecar).expect_err("the gateway's own");
            assert!(refused.contains("a port of the gateway itself"), "{refused}");
        }
    }

    #[test]
    fn conditions_are_read_as_kubernetes_reads_them() {
        for (ready, serving, terminating, expected) in [
            (None, None, None, Readiness::Ready),
            (Some(true), None, None, Readiness::Ready),
            (Some(false), None, None, Readiness::Unready),
            (Some(false), Some(true), Some(true), Readiness::Draining),
            (Some(false), Some(false), Some(true), Readiness::Unready),
            (None, None, Some(true), Readiness::Draining),
            // publishNotReadyAddresses: the controller says ready whatever happens.
            (Some(true), Some(false), Some(true), Readiness::Ready),
        ] {
            let conditions = Some(EndpointConditions { ready, serving, terminating });
            let endpoint = Endpoint { conditions, ..Endpoint::default() };
            assert_eq!(readiness(&endpoint), expected, "{ready:?} {serving:?} {terminating:?}");
        }
    }

    #[test]
    fn annotations_are_checked_and_typos_reported() {
        let mut annotated = slice(&["10.0.0.1"]);
        let mut annotate = |name: &str, value: &str| {
            annotated.metadata.annotations = Some(BTreeMap::from([(name.into(), value.into())]));
            let mut warnings = Vec::new();
            reduce(&annotated, &Rules::default(), &mut warnings).map(|record| (record, warnings))
        };
        let (record, _) = annotate(SIDECAR_PORT_ANNOTATION, "15006").expect("valid");
        assert_eq!((record.sidecar_port, record.service_account.as_str()), (Some(15006), "default"));
        let (record, _) = annotate(SERVICE_ACCOUNT_ANNOTATION, "reviews").expect("valid");
        assert_eq!((record.sidecar_port, record.service_account.as_str()), (None, "reviews"));
        for bad in ["0", "65536", "", "yes", "-1"] {
            assert!(annotate(SIDECAR_PORT_ANNOTATION, bad).is_err(), "{bad}");
        }
        assert!(annotate(SERVICE_ACCOUNT_ANNOTATION, "a/b").is_err());
        let (_, warnings) = annotate("isthmus.dev/sidecar-prot", "15006").expect("only a typo");
        assert!(warnings[0].reason.contains("sidecar-prot"));
    }

    #[test]
    fn bounds_of_the_api_server_hold() {
        let mut big = slice(&["10.0.0.1"]);
        big.endpoints = vec![big.endpoints[0].clone(); ENDPOINTS_PER_SLICE_MAX + 1];
        assert!(reduced(&big).expect_err("too many").reason.contains("use several slices"));
        assert!(reduced(&slice(&[])).is_err());
        let mut ports = slice(&["10.0.0.1"]);
        ports.ports = Some(vec![EndpointPort::default(); PORTS_PER_SLICE_MAX + 1]);
        assert!(reduced(&ports).is_err());
    }
}
