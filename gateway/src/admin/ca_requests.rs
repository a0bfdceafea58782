//! What waits for the root, and the answers that an operator brings from where its key is.
//!
//! An answer is judged here against the registry's root and the request that waits in it, so that a bad file is
//! refused with its reason. Proposing the same answer again changes nothing.

use std::time::SystemTime;

use axum::http::StatusCode;
use isthmus_identity::check_issued;
use isthmus_model::command::{Command, Outcome};
use isthmus_model::name::{ClusterName, FederationDomain, Label};
use isthmus_model::registry::admission::DER_LEN_MAX;
use isthmus_model::registry::node::{Node, NodeId, Requests};
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::{Custody, Trust};
use isthmus_model::spiffe::SpiffeId;
use isthmus_model::time::UnixMillis;
use serde::{Deserialize, Serialize};

use super::AdminState;
use super::failure::Failure;
use super::view::Reading;
use crate::ca_files::Signed;

/// The largest answer: two certificates of the registry's limit, in hexadecimal digits, and the names around them.
pub(super) const ANSWER_BYTES_MAX: usize = 4 * DER_LEN_MAX + 4096;

/// What waits for the root that signs at present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaRequests {
    /// The federation.
    pub federation: FederationDomain,
    /// SHA-256 of the root's key (SPKI).
    pub root: Digest,
    /// Whether the root's key is with an operator. If not, voters sign by themselves.
    pub offline: bool,
    /// What waits, the longest first.
    pub requests: Vec<CaRequest>,
}

/// One gateway's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaRequest {
    /// The gateway's number.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name.
    pub gateway: Label,
    /// Since when it waits.
    pub since: UnixMillis,
    /// How long that is, in milliseconds.
    pub waiting_ms: u64,
    /// When its present certificates end; null for a gateway that is joining.
    pub certificates_end: Option<UnixMillis>,
    /// What it asks for.
    pub requests: Requests,
}

/// An answer that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaIssued {
    /// The gateway's number.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name.
    pub gateway: Label,
    /// False when it had been answered before.
    pub changed: bool,
    /// When the certificates end.
    pub certificates_end: UnixMillis,
}

/// How the certificates of the gateway that is asked, and of all others, stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuance {
    /// Whether the root's key is with an operator; null before this gateway has heard of its federation.
    pub offline: Option<bool>,
    /// Gateways that wait for the root.
    pub waiting: usize,
    /// How long the first of them waits, in milliseconds.
    pub longest_wait_ms: Option<u64>,
    /// When this gateway's own certificates end.
    pub own_certificates_end: Option<UnixMillis>,
}

impl Reading {
    fn waiting(&self) -> Vec<CaRequest> {
        let request = |(id, node): (&NodeId, &Node)| {
            let pending = node.pending.as_ref()?;
            Some(CaRequest {
                node: *id,
                cluster: node.cluster.clone(),
                gateway: node.gateway.clone(),
                since: pending.since,
                waiting_ms: self.now.0.saturating_sub(pending.since.0),
                certificates_end: certificates_end(node),
                requests: pending.requests.clone(),
            })
        };
        let mut waiting: Vec<CaRequest> = self.registry.nodes().iter().filter_map(request).collect();
        waiting.sort_by_key(|request| (request.since, request.node));
        waiting
    }

    pub(super) fn ca_requests(&self) -> Result<CaRequests, Failure> {
        let trust = self.trust()?;
        let (federation, requests) = (self.config.federation.clone(), self.waiting());
        Ok(CaRequests { federation, root: trust.issuer().key, offline: is_offline(trust), requests })
    }

    pub(crate) fn issuance(&self) -> Issuance {
        let waiting = self.waiting();
        Issuance {
            offline: self.registry.trust().map(is_offline),
            waiting: waiting.len(),
            longest_wait_ms: waiting.first().map(|request| request.waiting_ms),
            own_certificates_end: self.registry.nodes().get(&self.status.node).and_then(certificates_end),
        }
    }

    fn trust(&self) -> Result<&Trust, Failure> {
        let message = "this gateway has not heard of its federation yet: see `isthmus status` for the registry";
        self.registry.trust().ok_or_else(|| Failure::new(StatusCode::SERVICE_UNAVAILABLE, message))
    }

    /// What `signed` does, once it is shown to be the root's answer.
    fn judge(&self, signed: &Signed) -> Result<Judged, Failure> {
        let refused = |message: String| Failure::new(StatusCode::CONFLICT, message);
        let who = format!("{}/{}", signed.cluster, signed.gateway);
        let mut nodes = self.registry.nodes().iter();
        let named = nodes.find(|(_, node)| node.cluster == signed.cluster && node.gateway == signed.gateway);
        let (id, node) = named.ok_or_else(|| {
            let message = format!("{who} is not a gateway of this federation: see `isthmus ca pending`");
            Failure::new(StatusCode::NOT_FOUND, message)
        })?;
        if let Some(known) = node.issued.iter().find(|issued| issued.authority_key == signed.authority_key) {
            return Ok(Judged::Known(told(*id, node, false, known.certificates.not_after)));
        }
        let pending = node.pending.as_ref().filter(|pending| pending.requests.authority_key == signed.authority_key);
        let pending = pending.ok_or_else(|| {
            refused(format!(
                "{who} does not wait for this key, or not any more: export the requests anew and sign those"
            ))
        })?;
        let federation = &self.config.federation;
        let identity = SpiffeId::gateway(federation.trust_domain(&node.cluster), node.gateway.clone());
        let (root, now) = (&self.trust()?.issuer().certificate.0, self.now.into());
        let judged = check_issued(root, federation, &pending.requests, &identity, &signed.certificates, now);
        let certificates = judged.map_err(|error| refused(format!("{who}: {error}")))?;
        let answer = told(*id, node, true, certificates.not_after);
        let command = Command::Issue { node: *id, authority_key: signed.authority_key, certificates };
        Ok(Judged::Good(Box::new(command), answer))
    }
}

enum Judged {
    /// To be agreed on, and what to say then.
    Good(Box<Command>, CaIssued),
    /// Taken before.
    Known(CaIssued),
}

fn told(node: NodeId, record: &Node, changed: bool, certificates_end: UnixMillis) -> CaIssued {
    let (cluster, gateway) = (record.cluster.clone(), record.gateway.clone());
    CaIssued { node, cluster, gateway, changed, certificates_end }
}

fn is_offline(trust: &Trust) -> bool {
    trust.issuer().custody == Custody::Offline
}

fn certificates_end(node: &Node) -> Option<UnixMillis> {
    node.latest().map(|issued| issued.certificates.not_after)
}

/// Takes what the root signed for one gateway, and agrees on it with the federation.
pub(super) async fn take(state: &AdminState, signed: &Signed) -> Result<CaIssued, Failure> {
    let judged = state.read(SystemTime::now().into()).judge(signed);
    match judged.inspect_err(|error| tracing::warn!(%error, "refused certificates that an operator brought"))? {
        Judged::Known(answer) => Ok(answer),
        Judged::Good(command, answer) => {
            let changed = state.proposals.propose(*command).await? == Outcome::Changed;
            let CaIssued { cluster, gateway, node, .. } = &answer;
            tracing::info!(%cluster, %gateway, node, "took certificates that an operator brought from the root");
            Ok(CaIssued { changed, ..answer })
        }
    }
}
