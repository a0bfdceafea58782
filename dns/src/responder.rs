//! From a message's bytes to its response's bytes, whatever the transport.
//!
//! [`Responder::decide`] never waits: what the snapshot can answer is answered at once, and only what must go
//! upstream becomes a [`Pending`] query, which [`Responder::finish`] waits for.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, LowerQuery, Message, Metadata, ResponseCode};
use hickory_proto::rr::{DNSClass, Record};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use hickory_server::zone_handler::MessageResponseBuilder;
use isthmus_model::snapshot::Snapshot;
use tokio::sync::watch;
use tracing::debug;

use crate::answer::{Answer, answer};
use crate::forward::{Forwarder, Permit};
use crate::metrics::{Metrics, Outcome};
use crate::namespaces::Namespaces;
use crate::render::{Sections, Zone};
use crate::screen::{HEADER_LEN, RCODE_FORMERR, RCODE_SERVFAIL, Screened, header_only, screen};
use crate::upstream::Question;

/// The largest UDP response, and the size that is offered to upstream servers: what passes unfragmented
/// everywhere (DNS Flag Day 2020). Also bounds what a spoofed query can send to a victim.
pub(crate) const UDP_PAYLOAD_MAX: u16 = 1_232;
/// The largest UDP response to a client without EDNS (RFC 1035 §4.2.1), and the least that EDNS can ask for.
const UDP_PAYLOAD_MIN: u16 = 512;

/// What to do about a message.
pub(crate) enum Step {
    /// Nothing. Over TCP: close the connection.
    Silence,
    /// Send this.
    Reply(Vec<u8>),
    /// Ask someone else first.
    Forward(Box<Pending>),
}

/// A query that an upstream server has to answer.
pub(crate) struct Pending {
    request: Request,
    question: Question,
    permit: Permit,
}

/// Answers messages.
pub(crate) struct Responder {
    view: watch::Receiver<Arc<Snapshot>>,
    namespaces: Namespaces,
    zone: Zone,
    forwarder: Forwarder,
    metrics: Arc<Metrics>,
}

/// A response's code, whether it has authority, and what is in it.
struct Response {
    code: ResponseCode,
    authoritative: bool,
    sections: Sections,
}

impl Response {
    fn error(code: ResponseCode) -> Self {
        Self { code, authoritative: false, sections: Sections::default() }
    }
}

impl Responder {
    pub(crate) fn new(
        view: watch::Receiver<Arc<Snapshot>>,
        zone: Zone,
        forwarder: Forwarder,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { view, namespaces: Namespaces::default(), zone, forwarder, metrics }
    }

    /// Decides about a message that came from `source`.
    pub(crate) fn decide(&self, message: Vec<u8>, source: SocketAddr, protocol: Protocol) -> Step {
        match screen(&message) {
            Screened::Query => {}
            Screened::Silence => {
                self.metrics.record(Outcome::Malformed);
                return Step::Silence;
            }
            Screened::Reply(reply) => {
                self.metrics.record(Outcome::Malformed);
                return Step::Reply(reply);
            }
        }
        let header = message.first_chunk::<HEADER_LEN>().copied();
        let Ok(request) = Request::from_bytes(message, source, protocol) else {
            self.metrics.record(Outcome::Malformed);
            let reply = header.and_then(|header| header_only(&header, RCODE_FORMERR));
            return reply.map_or(Step::Silence, Step::Reply);
        };
        // The screen lets nothing else through.
        let [query] = request.queries.queries() else { return Step::Silence };
        if request.version() > 0 {
            return self.reply(&request, &Response::error(ResponseCode::BADVERS), Outcome::Refused);
        }
        if query.query_class() != DNSClass::IN {
            return self.reply(&request, &Response::error(ResponseCode::Refused), Outcome::Refused);
        }
        let snapshot = self.view.borrow().clone();
        let has_namespace = |namespace: &str| self.namespaces.contains(&snapshot, namespace);
        let found = answer(&snapshot, has_namespace, query.name(), query.query_type());
        if found == Answer::NotOurs {
            return self.forward(request);
        }
        // The serial only has to change with the data; its low 32 bits do (RFC 1982).
        let (response, outcome) = self.own(found, query, snapshot.generation as u32);
        self.reply(&request, &response, outcome)
    }

    /// The response to a query that the snapshot answers. The owner of its records is the name as the client
    /// wrote it: its letter case goes back as it came.
    fn own(&self, found: Answer, query: &LowerQuery, serial: u32) -> (Response, Outcome) {
        let authoritative = |code, sections| Response { code, authoritative: true, sections };
        match found {
            Answer::Records(content) => {
                let sections = self.zone.positive(query.original().name(), content, serial);
                (authoritative(ResponseCode::NoError, sections), Outcome::Answered)
            }
            Answer::NoData => (authoritative(ResponseCode::NoError, self.zone.negative(serial)), Outcome::Nodata),
            Answer::NxDomain => (authoritative(ResponseCode::NXDomain, self.zone.negative(serial)), Outcome::Nxdomain),
            Answer::Unavailable => {
                debug!(name = %query.name(), "no virtual address: check that the cluster's VIP range is set and large enough");
                (Response::error(ResponseCode::ServFail), Outcome::Failed)
            }
            Answer::Refused | Answer::NotOurs => (Response::error(ResponseCode::Refused), Outcome::Refused),
        }
    }

    fn forward(&self, request: Request) -> Step {
        // Without RD the client asks for what this server knows itself, which is nothing.
        if !request.metadata.recursion_desired || !self.forwarder.is_configured() {
            return self.reply(&request, &Response::error(ResponseCode::Refused), Outcome::Refused);
        }
        let Some(permit) = self.forwarder.permit() else {
            return self.reply(&request, &Response::error(ResponseCode::ServFail), Outcome::Failed);
        };
        let [query] = request.queries.queries() else { return Step::Silence };
        let question = Question {
            query: query.original().clone(),
            dnssec_ok: request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            checking_disabled: request.metadata.checking_disabled,
        };
        Step::Forward(Box::new(Pending { request, question, permit }))
    }

    /// Waits for an upstream server's answer, and relays it.
    pub(crate) async fn finish(&self, pending: Pending) -> Option<Vec<u8>> {
        let Pending { request, question, permit } = pending;
        let (response, outcome) = match self.forwarder.resolve(&question, &permit).await {
            Some(message) => (self.relayed(&message), Outcome::Forwarded),
            None => (Response::error(ResponseCode::ServFail), Outcome::Failed),
        };
        self.metrics.record(outcome);
        self.encode(&request, &response)
    }

    /// An upstream server's answer without what it has no say in: our own zone. Its AA and AD bits do not
    /// travel either: this server has no authority there and validated nothing.
    fn relayed(&self, message: &Message) -> Response {
        let foreign = |records: &[Record]| -> Vec<Record> {
            records.iter().filter(|record| !self.zone.contains(&record.name)).cloned().collect()
        };
        let sections = Sections {
            answers: foreign(&message.answers),
            authorities: foreign(&message.authorities),
            additionals: foreign(&message.additionals),
        };
        Response { code: message.metadata.response_code, authoritative: false, sections }
    }

    fn reply(&self, request: &Request, response: &Response, outcome: Outcome) -> Step {
        self.metrics.record(outcome);
        self.encode(request, response).map_or(Step::Silence, Step::Reply)
    }

    /// The bytes of a response, truncated with TC set where the transport or the client cannot take all.
    fn encode(&self, request: &Request, response: &Response) -> Option<Vec<u8>> {
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD_MAX).set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        let len_max = match request.protocol() {
            Protocol::Udp => request.max_payload().clamp(UDP_PAYLOAD_MIN, UDP_PAYLOAD_MAX),
            _ => u16::MAX,
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = response.authoritative;
        metadata.recursion_available = self.forwarder.is_configured();
        metadata.response_code = response.code;
        let Sections { answers, authorities, additionals } = &response.sections;
        let message = MessageResponseBuilder::new(&request.queries, edns.as_ref()).build(
            metadata,
            answers,
            authorities,
            std::iter::empty::<&Record>(),
            additionals,
        );
        let mut bytes = Vec::with_capacity(usize::from(UDP_PAYLOAD_MIN));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(len_max);
        match message.destructive_emit(&mut encoder) {
            Ok(_) => Some(bytes),
            Err(error) => {
                debug!(%error, "response cannot be encoded");
                header_only(request.as_slice(), RCODE_SERVFAIL)
            }
        }
    }
}
