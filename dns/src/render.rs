//! Answers as DNS records.

use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record};
use isthmus_model::name::CLUSTERSET_ZONE;

use crate::answer::Content;

/// The version of the multi-cluster DNS schema (KEP-1645, specification.md §1).
const SCHEMA_VERSION: &str = "1.0.0";
/// The zone's contact. RFC 6303 §3 gives this value for zones that only exist locally.
const CONTACT: &str = "nobody.invalid.";
/// SOA timers for secondaries, seconds, as in RFC 6303 §3. There are no secondaries.
const REFRESH: i32 = 3_600;
const RETRY: i32 = 1_200;
const EXPIRE: i32 = 604_800;

/// The sections of a response after its question.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    /// What was asked for.
    pub(crate) answers: Vec<Record>,
    /// The zone's SOA record in a negative response.
    pub(crate) authorities: Vec<Record>,
    /// Addresses of the targets in `answers`.
    pub(crate) additionals: Vec<Record>,
}

/// The zone's fixed properties.
#[derive(Debug)]
pub(crate) struct Zone {
    apex: Name,
    contact: Name,
    ttl_secs: u32,
}

impl Zone {
    /// The zone `clusterset.local` whose records, and their absence, may be cached for `ttl_secs`.
    pub(crate) fn new(ttl_secs: u32) -> Self {
        let name = |text: &str| Name::from_ascii(text).expect("a constant name is valid");
        let mut apex = name(CLUSTERSET_ZONE);
        apex.set_fqdn(true);
        Self { apex, contact: name(CONTACT), ttl_secs }
    }

    /// Whether a name lies in the zone.
    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.apex.zone_of(name)
    }

    /// The sections of a positive response to a question about `owner`.
    pub(crate) fn positive(&self, owner: &Name, content: Content, serial: u32) -> Sections {
        let mut sections = Sections::default();
        let answers = &mut sections.answers;
        match content {
            Content::Soa => answers.push(self.soa(owner.clone(), serial)),
            // The apex, which has no address: as in RFC 6303 §3, the zone is not meant to be delegated to.
            Content::Ns => answers.push(self.record(owner.clone(), RData::NS(NS(self.apex.clone())))),
            Content::SchemaVersion => {
                answers.push(self.record(owner.clone(), RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()]))));
            }
            Content::Address(address) => answers.push(self.record(owner.clone(), address_data(address))),
            Content::Host(service) => {
                answers.push(self.record(owner.clone(), RData::PTR(PTR(host_name(&service.host())))));
            }
            Content::Ports { service, vip, ports } => {
                let target = host_name(&service.host());
                let srv = |port| RData::SRV(SRV::new(0, 0, port, target.clone()));
                answers.extend(ports.into_iter().map(|port| self.record(owner.clone(), srv(port))));
                sections.additionals.push(self.record(target, address_data(vip)));
            }
        }
        sections
    }

    /// The sections of NXDOMAIN and NODATA: the SOA record, whose presence lets the absence be cached
    /// (RFC 2308 §3 and §5).
    pub(crate) fn negative(&self, serial: u32) -> Sections {
        Sections { authorities: vec![self.soa(self.apex.clone(), serial)], ..Sections::default() }
    }

    fn soa(&self, owner: Name, serial: u32) -> Record {
        let (server, contact) = (self.apex.clone(), self.contact.clone());
        let soa = SOA::new(server, contact, serial, REFRESH, RETRY, EXPIRE, self.ttl_secs);
        self.record(owner, RData::SOA(soa))
    }

    fn record(&self, owner: Name, data: RData) -> Record {
        Record::from_rdata(owner, self.ttl_secs, data)
    }
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn host_name(host: &str) -> Name {
    // Two labels of at most 63 characters and a short zone.
    let mut name = Name::from_ascii(host).expect("a service's host name is a valid domain name");
    name.set_fqdn(true);
    name
}
