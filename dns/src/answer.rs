//! What the federation says about a name. Pure: a snapshot and a question in, an [`Answer`] out.
//!
//! The names are those of the multi-cluster DNS schema 1.0.0 (KEP-1645, specification.md) for services with
//! one address. A name with names below it exists even when it has no records itself: NODATA, not NXDOMAIN
//! (RFC 8020). `<cluster>.<service>.<namespace>.svc.clusterset.local` must not exist.

use std::net::IpAddr;

use hickory_proto::rr::{LowerName, RecordType};
use isthmus_model::name::{Label, ServiceName};
use isthmus_model::snapshot::{Coverage, Service, Snapshot};

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Neither under `clusterset.local` nor the reverse name of a virtual address: someone else may know.
    NotOurs,
    /// A kind of question that is never answered: zone transfers, ANY and other query-only types. They serve
    /// amplification more than anyone here (RFC 8482).
    Refused,
    /// The name does not exist.
    NxDomain,
    /// The name exists, without records of this type.
    NoData,
    /// The name exists or may exist, and its records are not known here: SERVFAIL. So it is with an exported
    /// service for which the cluster's range of virtual addresses has no address left. NODATA would state
    /// as a fact, to be cached, what is a fault of ours to be fixed; after SERVFAIL a client asks again, or asks
    /// another gateway.
    Unavailable,
    /// Records.
    Records(Content),
}

/// What an answer's records say. Their owner is always the name that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The zone's SOA record.
    Soa,
    /// The zone's NS record.
    Ns,
    /// The version of the DNS schema.
    SchemaVersion,
    /// A service's virtual address: A or AAAA by its family.
    Address(IpAddr),
    /// SRV records for `ports` of a service, with its address for the additional section.
    Ports {
        /// The service: its host name is the target.
        service: ServiceName,
        /// Its virtual address.
        vip: IpAddr,
        /// The port numbers.
        ports: Vec<u16>,
    },
    /// A PTR record to a service's host name.
    Host(ServiceName),
}

/// Answers a question. `has_namespace` tells whether any federated service lives in a namespace: that needs an
/// index over all services, which its owner can keep from one question to the next.
#[must_use]
pub fn answer(
    snapshot: &Snapshot,
    has_namespace: impl FnOnce(&str) -> bool,
    name: &LowerName,
    kind: RecordType,
) -> Answer {
    if is_query_only(kind) {
        return Answer::Refused;
    }
    let mut labels = name.iter().rev();
    if labels.next() != Some(b"local") || labels.next() != Some(b"clusterset") {
        return reverse(snapshot, name, kind);
    }
    let below: [Option<&[u8]>; 6] = std::array::from_fn(|_| labels.next());
    match below {
        [None, ..] => match kind {
            RecordType::SOA => Answer::Records(Content::Soa),
            RecordType::NS => Answer::Records(Content::Ns),
            _ => Answer::NoData,
        },
        [Some(b"dns-version"), None, ..] if kind == RecordType::TXT => Answer::Records(Content::SchemaVersion),
        [Some(b"dns-version" | b"svc"), None, ..] => Answer::NoData,
        [Some(b"svc"), Some(namespace), None, ..] => match std::str::from_utf8(namespace) {
            Ok(namespace) if has_namespace(namespace) => Answer::NoData,
            _ if snapshot.coverage == Coverage::Complete => Answer::NxDomain,
            _ => Answer::Unavailable,
        },
        [Some(b"svc"), Some(namespace), Some(service), protocol, port, None] => {
            match federated(snapshot, namespace, service) {
                Ok(service) => about(service, protocol, port, kind),
                Err(answer) => answer,
            }
        }
        _ => Answer::NxDomain,
    }
}

/// OPT, and the types from 128 to 255, which RFC 6895 §3.1 sets aside for queries: AXFR, IXFR, ANY, TSIG, ….
fn is_query_only(kind: RecordType) -> bool {
    kind == RecordType::OPT || (128..=255).contains(&u16::from(kind))
}

/// The federated service of this name, or the answer when there is none.
fn federated<'a>(snapshot: &'a Snapshot, namespace: &[u8], name: &[u8]) -> Result<&'a Service, Answer> {
    let label = |bytes| std::str::from_utf8(bytes).ok()?.parse::<Label>().ok();
    let (Some(namespace), Some(name)) = (label(namespace), label(name)) else { return Err(Answer::NxDomain) };
    let name = ServiceName { namespace, name };
    match (snapshot.services.get(&name), &snapshot.coverage) {
        (Some(service), _) if service.federated => Ok(service),
        (None, Coverage::Partial { absent, .. }) if !absent.contains(&name) => Err(Answer::Unavailable),
        _ => Err(Answer::NxDomain),
    }
}

/// Answers for `<service>`, `<protocol>.<service>` or `<port>.<protocol>.<service>`.
fn about(service: &Service, protocol: Option<&[u8]>, port: Option<&[u8]>, kind: RecordType) -> Answer {
    let wanted: Option<&[u8]> = match (protocol, port) {
        (None, _) => None,
        (Some(b"_tcp"), None) if named(service, None).next().is_some() => return Answer::NoData,
        (Some(b"_tcp"), Some([b'_', port @ ..])) if named(service, Some(port)).next().is_some() => Some(port),
        _ => return Answer::NxDomain,
    };
    match (kind, service.vip) {
        (RecordType::A | RecordType::AAAA, None) if wanted.is_none() => Answer::Unavailable,
        (RecordType::A, Some(vip @ IpAddr::V4(_))) | (RecordType::AAAA, Some(vip @ IpAddr::V6(_)))
            if wanted.is_none() =>
        {
            Answer::Records(Content::Address(vip))
        }
        (RecordType::SRV, vip) => {
            let ports: Vec<u16> = named(service, wanted).collect();
            match vip {
                _ if ports.is_empty() => Answer::NoData,
                None => Answer::Unavailable,
                Some(vip) => Answer::Records(Content::Ports { service: service.name.clone(), vip, ports }),
            }
        }
        _ => Answer::NoData,
    }
}

/// The numbers of a service's named ports: of all, or of those named `wanted`. Unnamed ports have no SRV record.
fn named<'a>(service: &'a Service, wanted: Option<&'a [u8]>) -> impl Iterator<Item = u16> + 'a {
    let matches = move |name: &Label| wanted.is_none_or(|wanted| name.as_str().as_bytes() == wanted);
    service.ports.iter().filter(move |port| port.name.as_ref().is_some_and(matches)).map(|port| port.port)
}

/// The reverse name of a virtual address. Every other reverse name belongs to someone else.
fn reverse(snapshot: &Snapshot, name: &LowerName, kind: RecordType) -> Answer {
    if kind != RecordType::PTR || name.iter().next_back() != Some(b"arpa") {
        return Answer::NotOurs;
    }
    let Ok(network) = name.parse_arpa_name() else { return Answer::NotOurs };
    let service = snapshot.vips.get(&network.addr()).and_then(|service| snapshot.services.get(service));
    match service {
        Some(service) if service.federated && network.prefix_len() == network.max_prefix_len() => {
            Answer::Records(Content::Host(service.name.clone()))
        }
        _ => Answer::NotOurs,
    }
}

#[cfg(test)]
mod tests;
