//! The other side of a join: redeem the token in the registry, then sign the cluster's intermediate.
//!
//! Any gateway takes a join and passes it to the custodian of the root's key. The token is checked against
//! the local registry before anything is proposed, so that a guess costs no write; the redemption itself is
//! decided inside `Registry::apply`, so that of any number of concurrent ones exactly one wins.

use std::time::{Duration, SystemTime};

use isthmus_identity::{RootAuthority, csr_key_digest, sha256};
use isthmus_model::command::{Command, Introduction, Outcome, Refusal};
use isthmus_model::name::FederationDomain;
use isthmus_model::registry::Registry;
use isthmus_model::registry::token::{Digest, TokenId};
use isthmus_wire::peer::join_client::JoinClient;
use isthmus_wire::peer::join_reply::Result as ReplyResult;
use isthmus_wire::peer::{Admission, JoinReply, JoinRequest, join_server};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tonic::{Request, Response, Status};

use crate::propose::{ProposeError, Proposer};
use crate::raft_types::PeerAddress;

/// Joins worked on at once. Each costs at most one write; the rest are told to come back.
const JOINS_AT_ONCE: usize = 8;
/// How long a token that another gateway just minted may take to arrive here.
const TOKEN_ARRIVAL: Duration = Duration::from_secs(1);
/// A CSR for a P-256 key is under 300 bytes.
const CSR_LEN_MAX: usize = 4 << 10;

/// Serves joins.
pub struct JoinService {
    federation: FederationDomain,
    proposer: Proposer,
    registry: watch::Receiver<Arc<Registry>>,
    /// Present on the custodian.
    root: Option<Arc<RootAuthority>>,
    at_once: Semaphore,
}

impl JoinService {
    pub(crate) fn new(
        federation: FederationDomain,
        proposer: Proposer,
        registry: watch::Receiver<Arc<Registry>>,
        root: Option<Arc<RootAuthority>>,
    ) -> Self {
        Self { federation, proposer, registry, root, at_once: Semaphore::new(JOINS_AT_ONCE) }
    }

    /// Passes a join to the custodian.
    async fn pass_on(&self, request: JoinRequest) -> Result<JoinReply, Status> {
        let custodian = {
            let registry = self.registry.borrow();
            let node = registry.federation().and_then(|federation| registry.nodes().get(&federation.custodian));
            node.map(PeerAddress::from)
        };
        let custodian = custodian.ok_or_else(|| Status::unavailable("the root's custodian is not known here yet"))?;
        let mut client = JoinClient::new(self.proposer.dialer.channel(&custodian));
        client.redeem(request).await.map(Response::into_inner).map_err(|status| {
            let cluster = &custodian.cluster;
            Status::unavailable(format!("the root's custodian in {cluster} does not answer: {}", status.message()))
        })
    }

    /// Redeems and signs.
    async fn admit(&self, root: &RootAuthority, request: JoinRequest) -> Result<JoinReply, Status> {
        let Newcomer { id, secret_hash, introduction, csr } = Newcomer::read(request)?;
        let now = SystemTime::now();
        let checked = self.check(&id, &secret_hash, &introduction, now).await;
        if let Err(refusal) = checked {
            tracing::warn!(token = %id, cluster = %introduction.cluster, %refusal, "refused a join");
            return refused(&refusal);
        }
        let domain = self.federation.trust_domain(&introduction.cluster);
        let intermediate = root
            .sign_cluster(&csr, &domain, now)
            .map_err(|error| Status::invalid_argument(format!("the certificate request: {error}")))?;
        let (cluster, gateway) = (introduction.cluster.clone(), introduction.gateway.clone());
        let command = Command::RedeemToken { id: id.clone(), secret_hash, newcomer: introduction };
        match self.proposer.propose(command).await {
            Ok(Outcome::Admitted { node }) => {
                tracing::info!(token = %id, %cluster, %gateway, node, "admitted a gateway");
                let roots = vec![root.certificate().to_vec()];
                let federation = self.federation.to_string();
                let admission = Admission { node, intermediate, roots, federation };
                Ok(JoinReply { result: Some(ReplyResult::Admission(admission)) })
            }
            Ok(other) => Err(Status::internal(format!("the registry answered a redemption with {other:?}"))),
            Err(ProposeError::Refused(refusal)) => {
                tracing::warn!(token = %id, %cluster, %refusal, "refused a join");
                refused(&refusal)
            }
            Err(error @ ProposeError::NoQuorum { .. }) => Err(Status::unavailable(error.to_string())),
        }
    }

    /// What the local registry says of the token, once it had time to hear of it.
    async fn check(
        &self,
        id: &TokenId,
        secret_hash: &Digest,
        newcomer: &Introduction,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let mut registry = self.registry.clone();
        let known = registry.wait_for(|registry| registry.token(id).is_ok());
        // Waiting in vain is an answer too: the look-up below gives it.
        let _ = tokio::time::timeout(TOKEN_ARRIVAL, known).await;
        let registry = self.registry.borrow();
        registry.token(id)?.admits(secret_hash, &newcomer.cluster, &newcomer.key, now.into())
    }
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
    csr: Vec<u8>,
}

impl Newcomer {
    fn read(request: JoinRequest) -> Result<Self, Status> {
        fn field<T, E: std::fmt::Display>(name: &str, value: Result<T, E>) -> Result<T, Status> {
            value.map_err(|error| Status::invalid_argument(format!("{name}: {error}")))
        }
        if request.csr.len() > CSR_LEN_MAX {
            return Err(Status::invalid_argument(format!("csr: longer than {CSR_LEN_MAX} bytes")));
        }
        Ok(Self {
            id: field("token_id", request.token_id.parse::<TokenId>())?,
            secret_hash: sha256(&request.token_secret),
            introduction: Introduction {
                cluster: field("cluster", request.cluster.parse())?,
                gateway: field("gateway", request.gateway.parse())?,
                locality: field("locality", request.locality.parse())?,
                east_west: field("east_west", request.east_west.parse())?,
                key: field("csr", csr_key_digest(&request.csr))?,
            },
            csr: request.csr,
        })
    }
}

#[tonic::async_trait]
impl join_server::Join for JoinService {
    async fn redeem(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let busy = |_| Status::resource_exhausted("too many joins at once: try again");
        let _permit = self.at_once.try_acquire().map_err(busy)?;
        let request = request.into_inner();
        let reply = match &self.root {
            Some(root) => self.admit(root, request).await?,
            None => self.pass_on(request).await?,
        };
        Ok(Response::new(reply))
    }
}
