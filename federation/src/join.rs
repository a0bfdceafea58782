//! The other side of a join: redeem the token in the registry, and hand over what the root signed.
//!
//! Any gateway takes a join. The token is checked against the local registry before anything is proposed, so that a
//! guess costs no write; the redemption itself is decided inside `Registry::apply`, so that of any number of
//! concurrent ones no more win than the token admits. Signing is not done here: whoever keeps the root answers the
//! pending request in the registry ([`crate::custody`]), and this side only waits for it a while.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use isthmus_identity::{csr_key_digest, sha256};
use isthmus_model::command::{Command, Introduction, Outcome, Refusal};
use isthmus_model::name::FederationDomain;
use isthmus_model::registry::Registry;
use isthmus_model::registry::node::{Issued, NodeId, Requests, SealingKey};
use isthmus_model::registry::token::{Admitted, Digest, Redemption, TokenId};
use isthmus_model::registry::trust::Custody;
use isthmus_wire::peer::join_reply::Result as ReplyResult;
use isthmus_wire::peer::{Admission, JoinReply, JoinRequest, Waiting, join_server};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use crate::attempts::Attempts;
use crate::caller;
use crate::propose::{ProposeError, Proposer};
use crate::protocol::{self, EARLIEST, Spoken};

/// Joins worked on at once. Each costs at most one write; the rest are told to come back.
const JOINS_AT_ONCE: usize = 8;
/// How long a token that another gateway just minted may take to arrive here.
const TOKEN_ARRIVAL: Duration = Duration::from_secs(1);
/// How long the answer is held back for the root's signature: a voter needs a write for it. Well below what a newcomer
/// waits for one answer.
const SIGNED_WITHIN: Duration = Duration::from_secs(2);
/// A CSR for a P-256 key is under 300 bytes.
const CSR_LEN_MAX: usize = 4 << 10;

/// Serves joins.
pub struct JoinService {
    federation: FederationDomain,
    proposer: Proposer,
    registry: watch::Receiver<Arc<Registry>>,
    at_once: Semaphore,
    attempts: Mutex<Attempts>,
}

impl JoinService {
    pub(crate) fn new(
        federation: FederationDomain,
        proposer: Proposer,
        registry: watch::Receiver<Arc<Registry>>,
    ) -> Self {
        Self { federation, proposer, registry, at_once: Semaphore::new(JOINS_AT_ONCE), attempts: Mutex::default() }
    }

    /// Redeems.
    async fn admit(&self, request: JoinRequest, from: Option<IpAddr>) -> Result<Admittance, Status> {
        let token_secret = Zeroizing::new(request.token_secret.clone());
        let spoken = Spoken::told(request.spoken.clone(), EARLIEST);
        let Newcomer { id, secret_hash, introduction } = Newcomer::read(request)?;
        let (cluster, gateway) = (introduction.cluster.clone(), introduction.gateway.clone());
        // Before its token is used up: it would be admitted and could not take part.
        let (own, newcomer) = (format!("the gateway in {}", self.proposer.cluster), format!("{cluster}/{gateway}"));
        protocol::agree(&Spoken::own(), &own, &spoken, &newcomer)?;
        let requests = introduction.requests.clone();
        match self.check(&id, &secret_hash, &introduction, from).await {
            // It asks again for what it waits for, as often as the root's answer takes: that costs no write.
            Ok(Some(node)) => return Ok(Admittance::Admitted { node, requests }),
            Ok(None) => {}
            Err(refusal) => {
                // Whoever has a secret is no guesser, whatever else is wrong.
                if matches!(refusal, Refusal::TokenUnknown | Refusal::TokenSecretMismatch) {
                    self.attempts().failed(from, Instant::now());
                }
                tracing::warn!(token = %id, %cluster, ?from, %refusal, "refused a join");
                return refused(&refusal).map(Admittance::Refused);
            }
        }
        let command = Command::RedeemToken { id: id.clone(), secret_hash, newcomer: introduction, from };
        match self.proposer.propose_proven(command, &token_secret).await {
            Ok(Outcome::Admitted { node }) => {
                tracing::info!(token = %id, %cluster, %gateway, node, ?from, "admitted a gateway");
                Ok(Admittance::Admitted { node, requests })
            }
            Ok(other) => Err(Status::internal(format!("the registry answered a redemption with {other:?}"))),
            Err(ProposeError::Refused(refusal)) => {
                tracing::warn!(token = %id, %cluster, ?from, %refusal, "refused a join");
                refused(&refusal).map(Admittance::Refused)
            }
            Err(error @ ProposeError::NoQuorum { .. }) => Err(Status::unavailable(error.to_string())),
        }
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the local registry says of the token, once it had time to hear of it: the place that the newcomer has by
    /// it already, if it has one.
    async fn check(
        &self,
        id: &TokenId,
        secret_hash: &Digest,
        newcomer: &Introduction,
        from: Option<IpAddr>,
    ) -> Result<Option<NodeId>, Refusal> {
        let mut registry = self.registry.clone();
        let known = registry.wait_for(|registry| registry.token(id).is_ok());
        // Waiting in vain is an answer too: the look-up below gives it.
        let _ = tokio::time::timeout(TOKEN_ARRIVAL, known).await;
        let registry = self.registry.borrow();
        match registry.token(id)?.admits(secret_hash, newcomer, from, self.proposer.local.clocks.own())? {
            Admitted::Again(Redemption { node, .. }) if registry.nodes().contains_key(&node) => Ok(Some(node)),
            _ => Ok(None),
        }
    }

    /// The gateway's certificates, if they come in time.
    async fn certified(&self, id: NodeId, requests: &Requests) -> JoinReply {
        let mut registry = self.registry.clone();
        let answered = registry.wait_for(|registry| issued(registry, id, requests).is_some() || is_offline(registry));
        let _ = tokio::time::timeout(SIGNED_WITHIN, answered).await;
        let registry = self.registry.borrow();
        let result = match issued(&registry, id, requests) {
            Some(issued) => ReplyResult::Admission(Admission {
                node: id,
                intermediate: issued.certificates.intermediate.0.clone(),
                certificate: issued.certificates.gateway.0.clone(),
                roots: registry.root_certificates(),
                federation: self.federation.to_string(),
            }),
            None => ReplyResult::Waiting(Waiting { node: id, offline: is_offline(&registry) }),
        };
        JoinReply { result: Some(result) }
    }
}

/// What came of a redemption.
enum Admittance {
    Refused(JoinReply),
    Admitted { node: NodeId, requests: Requests },
}

/// Whether an operator signs, in his own time.
fn is_offline(registry: &Registry) -> bool {
    registry.trust().is_some_and(|trust| trust.issuer().custody == Custody::Offline)
}

fn issued<'a>(registry: &'a Registry, id: NodeId, requests: &Requests) -> Option<&'a Issued> {
    registry.nodes().get(&id)?.issued_for(requests)
}

fn refused(refusal: &Refusal) -> Result<JoinReply, Status> {
    let refusal = serde_json::to_vec(refusal).map_err(|error| Status::internal(error.to_string()))?;
    Ok(JoinReply { result: Some(ReplyResult::Refusal(refusal)) })
}

/// A join request whose every field is what it should be.
struct Newcomer {
    id: TokenId,
    secret_hash: Digest,
    introduction: Introduction,
}

impl Newcomer {
    fn read(request: JoinRequest) -> Result<Self, Status> {
        fn field<T, E: std::fmt::Display>(name: &str, value: Result<T, E>) -> Result<T, Status> {
            value.map_err(|error| Status::invalid_argument(format!("{name}: {error}")))
        }
        if request.gateway_request.len().max(request.authority_request.len()) > CSR_LEN_MAX {
            return Err(Status::invalid_argument(format!("a certificate request is longer than {CSR_LEN_MAX} bytes")));
        }
        let requests = Requests {
            gateway_key: field("gateway_request", csr_key_digest(&request.gateway_request))?,
            authority_key: field("authority_request", csr_key_digest(&request.authority_request))?,
            gateway: request.gateway_request.into(),
            authority: request.authority_request.into(),
        };
        let sealing_key = <[u8; 32]>::try_from(request.sealing_key).map_err(|_| "expected 32 bytes");
        Ok(Self {
            id: field("token_id", request.token_id.parse::<TokenId>())?,
            secret_hash: sha256(&request.token_secret),
            introduction: Introduction {
                cluster: field("cluster", request.cluster.parse())?,
                gateway: field("gateway", request.gateway.parse())?,
                locality: field("locality", request.locality.parse())?,
                east_west: field("east_west", request.east_west.parse())?,
                sealing_key: SealingKey(Digest(field("sealing_key", sealing_key)?)),
                requests,
            },
        })
    }
}

#[tonic::async_trait]
impl join_server::Join for JoinService {
    async fn redeem(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let (from, proof) = (caller::source(&request), caller::proof(&request));
        if !self.attempts().may_try(from, Instant::now()) {
            return Err(Status::resource_exhausted("too many failed joins from this address: wait a minute"));
        }
        let busy = |_| Status::resource_exhausted("too many joins at once: try again");
        let admitted = {
            let _permit = self.at_once.try_acquire().map_err(busy)?;
            self.admit(request.into_inner(), from).await?
        };
        // Waiting for the signature takes nobody's place.
        Ok(Response::new(match admitted {
            Admittance::Refused(reply) => reply,
            Admittance::Admitted { node, requests } => {
                proof.give();
                self.certified(node, &requests).await
            }
        }))
    }
}
