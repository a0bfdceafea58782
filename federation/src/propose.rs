//! Writing to the registry: to the local replica when it leads, through the leader otherwise.
//!
//! An unclear answer (a lost connection, a new leader) is followed by another try. That is safe because
//! every [`Command`] is idempotent.
//!
//! Who was told that a write is agreed sees it in the own replica from then on, unless that is cut off from the leader.

use std::time::Duration;

use isthmus_identity::sha256;
use isthmus_model::command::{Command, Entry, Outcome, Refusal};
use isthmus_model::name::ClusterName;
use isthmus_model::registry::node::NodeId;
use isthmus_wire::peer::propose_reply::Result as ReplyResult;
use isthmus_wire::peer::registry_client::RegistryClient;
use isthmus_wire::peer::registry_server;
use isthmus_wire::peer::{ProposeReply, ProposeRequest};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::caller;
use crate::clocks::Clocks;
use crate::dial::Dialer;
use crate::protocol::Protocols;
use crate::raft_types::Raft;
use crate::understood;
use crate::writer::{Writer, Written};

/// How long a write may look for a leader and a quorum. Longer than two elections on a slow WAN.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between tries: a fraction of an election.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// One try through another gateway.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the own replica may take to have what was written through another gateway.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);

/// Why a write did not happen, or is not known to have happened.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The registry refused it. Nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No quorum answered in time. The write may still happen; repeating it is safe.
    #[error(
        "the registry did not confirm the write within {} s ({last}): check with `isthmus status` whether a majority of gateways is up",
        PROPOSE_TIMEOUT.as_secs()
    )]
    NoQuorum {
        /// What the last try met.
        last: String,
    },
}

/// Proposes on behalf of the own cluster.
#[derive(Clone)]
pub(crate) struct Proposer {
    pub(crate) cluster: ClusterName,
    pub(crate) local: Local,
    pub(crate) dialer: Dialer,
}

/// What one try came to.
enum Attempt {
    /// By the entry at that index.
    Settled(Result<Outcome, Refusal>, u64),
    /// Another node leads, or nobody known.
    Elsewhere(Option<NodeId>),
    Failed(String),
}

impl Proposer {
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.propose_proven(command, &[]).await
    }

    /// Proposes a redemption, with the token's secret for the leader to see. It does not get into the log.
    pub(crate) async fn propose_proven(&self, command: Command, token_secret: &[u8]) -> Result<Outcome, ProposeError> {
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        let mut last = "no leader is known".to_owned();
        loop {
            let attempt = tokio::time::timeout_at(deadline, self.attempt(&command, token_secret)).await;
            match attempt {
                Ok(Attempt::Settled(result, _)) => return Ok(result?),
                Ok(Attempt::Elsewhere(_)) => {}
                Ok(Attempt::Failed(why)) => last = why,
                Err(_) => return Err(ProposeError::NoQuorum { last }),
            }
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(ProposeError::NoQuorum { last });
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Tries once. `None` when it is not known whether that wrote, or will: also who was sent elsewhere may have left an
    /// entry behind.
    #[cfg(feature = "simulation")]
    pub(crate) async fn try_once(&self, command: &Command) -> Option<Result<Outcome, Refusal>> {
        match self.attempt(command, &[]).await {
            Attempt::Settled(result, _) => Some(result),
            Attempt::Elsewhere(_) | Attempt::Failed(_) => None,
        }
    }

    async fn attempt(&self, command: &Command, token_secret: &[u8]) -> Attempt {
        match self.local.write(self.cluster.clone(), command.clone()).await {
            Attempt::Elsewhere(Some(leader)) => {
                let attempt = self.forward(leader, command, token_secret).await;
                if let Attempt::Settled(_, index) = &attempt {
                    self.catch_up(*index).await;
                }
                attempt
            }
            other => other,
        }
    }

    /// Waits for the own replica to have applied the entry at `index`. What is agreed is agreed, if it does not.
    async fn catch_up(&self, index: u64) {
        let applied =
            self.local.raft.wait(Some(CATCH_UP_MAX)).applied_index_at_least(Some(index), "the own write").await;
        if let Err(error) = applied {
            tracing::debug!(index, %error, "a write is agreed and not here yet");
        }
    }

    async fn forward(&self, leader: NodeId, command: &Command, token_secret: &[u8]) -> Attempt {
        let metrics = self.local.raft.metrics();
        let peer = metrics.borrow().membership_config.membership().get_node(&leader).and_then(|peer| peer.0.clone());
        let Some(peer) = peer else { return Attempt::Elsewhere(None) };
        let command = match serde_json::to_vec(command) {
            Ok(command) => command,
            Err(error) => return Attempt::Failed(error.to_string()),
        };
        let mut request = Request::new(ProposeRequest { command, token_secret: token_secret.to_vec() });
        request.set_timeout(FORWARD_TIMEOUT);
        let mut client = RegistryClient::new(self.dialer.channel(&peer));
        match client.propose(request).await.map(Response::into_inner) {
            Ok(ProposeReply { result: Some(result), index }) => read_reply(result, index),
            Ok(ProposeReply { result: None, .. }) => Attempt::Failed("the leader gave an empty answer".to_owned()),
            Err(status) => Attempt::Failed(format!("{} at {}: {}", peer.cluster, peer.east_west, status.message())),
        }
    }
}

/// Writes to the local replica, if it leads. Clones share it.
#[derive(Clone)]
pub(crate) struct Local {
    pub(crate) raft: Raft,
    pub(crate) clocks: Clocks,
    pub(crate) protocols: Protocols,
    pub(crate) writer: Writer,
}

impl Local {
    async fn write(&self, origin: ClusterName, command: Command) -> Attempt {
        {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            if !metrics.state.is_leader() {
                // One that was just elected may not show it yet: then nobody is known, and the next try finds it.
                return Attempt::Elsewhere(metrics.current_leader.filter(|leader| *leader != metrics.id));
            }
            let replicas = metrics.membership_config.membership();
            if let Err(why) = self.protocols.check_command(&command, metrics.id, replicas) {
                return Attempt::Failed(why);
            }
        }
        let at = match self.clocks.stamp(&self.raft) {
            Ok(at) => at,
            Err(why) => return Attempt::Failed(format!("the registry's leader stamps nothing: {why}")),
        };
        match self.writer.write(Entry { origin, at, command }).await {
            Written::Settled(result, index) => Attempt::Settled(result, index),
            Written::Elsewhere(leader) => Attempt::Elsewhere(leader),
            Written::Unclear(why) => Attempt::Failed(why),
        }
    }
}

fn read_reply(result: ReplyResult, index: u64) -> Attempt {
    let settled = match &result {
        ReplyResult::Outcome(outcome) => serde_json::from_slice(outcome).map(Ok),
        ReplyResult::Refusal(refusal) => serde_json::from_slice(refusal).map(Err),
        ReplyResult::NotLeader(leader) => return Attempt::Elsewhere((*leader != 0).then_some(*leader)),
    };
    match settled {
        Ok(settled) => Attempt::Settled(settled, index),
        Err(error) => Attempt::Failed(format!("the leader's answer is unreadable: {error}")),
    }
}

/// The server side: takes writes of other gateways while this one leads.
pub(crate) struct RegistryService(pub(crate) Local);

/// What another gateway may not propose, whoever it is: a founding, and the redemption of a token that it has not seen.
/// Every member knows the hashes of all tokens.
fn check_proposal(command: &Command, token_secret: &[u8]) -> Result<(), Status> {
    match command {
        Command::Found { .. } => Err(Status::permission_denied("a federation is founded by its own first gateway")),
        Command::RedeemToken { secret_hash, .. } if !sha256(token_secret).same_as(secret_hash) => {
            Err(Status::permission_denied("a token is redeemed with its secret"))
        }
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl registry_server::Registry for RegistryService {
    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        let origin = caller::gateway(&request)?.cluster().clone();
        let ProposeRequest { command, token_secret } = request.into_inner();
        let command: Command = understood::read(&command)
            .map_err(|error| Status::failed_precondition(format!("the command, to the registry's leader: {error}")))?;
        check_proposal(&command, &token_secret)?;
        let internal = |error: serde_json::Error| Status::internal(error.to_string());
        let mut index = 0;
        let result = match self.0.write(origin, command).await {
            Attempt::Settled(settled, at) => {
                index = at;
                match settled {
                    Ok(outcome) => ReplyResult::Outcome(serde_json::to_vec(&outcome).map_err(internal)?),
                    Err(refusal) => ReplyResult::Refusal(serde_json::to_vec(&refusal).map_err(internal)?),
                }
            }
            Attempt::Elsewhere(leader) => ReplyResult::NotLeader(leader.unwrap_or(0)),
            Attempt::Failed(why) => return Err(Status::unavailable(why)),
        };
        Ok(Response::new(ProposeReply { result: Some(result), index }))
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::fixture;
    use isthmus_model::registry::token::TokenId;

    use super::*;

    #[test]
    fn the_hash_of_a_token_which_every_member_knows_does_not_redeem_it() {
        let redeem = Command::RedeemToken {
            id: TokenId::from_random([1; 8]),
            secret_hash: sha256(b"secret"),
            newcomer: fixture::introduction("us-west", "gw-1", "r1", 2),
            from: None,
        };
        assert!(check_proposal(&redeem, b"secret").is_ok());
        for guess in [&b""[..], b"guess", &sha256(b"secret").0] {
            assert_eq!(check_proposal(&redeem, guess).expect_err("refused").code(), tonic::Code::PermissionDenied);
        }
    }
}
