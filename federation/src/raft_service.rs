//! What other replicas send: held against who they are, and handed to the Raft library.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use isthmus_wire::peer::{RaftMessage, SnapshotPiece, raft_server};
use openraft::error::RaftError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status};

use crate::admission::check_term;
use crate::caller::{self, GatewayCaller};
use crate::claim;
use crate::clocks::Clocks;
use crate::election::Election;
use crate::lineage::LineageCheck;
use crate::protocol::{self, LATEST, Protocols, Spoken};
use crate::quorum::QuorumWord;
use crate::raft_types::{Raft, RegistryRaft};
use crate::snapshot::{Head, Receiver};
use crate::understood;
use crate::voted::Voted;

/// The server side: hands messages of other gateways to the local replica.
pub(crate) struct RaftService {
    pub(crate) raft: Raft,
    /// Where what a leader says of its quorum is noted.
    pub(crate) quorum: QuorumWord,
    pub(crate) lineage: LineageCheck,
    pub(crate) clocks: Clocks,
    pub(crate) protocols: Protocols,
    pub(crate) election: Election,
    pub(crate) receiver: Receiver,
    /// Whether an operator was told of a message that is not understood: it comes several times a second.
    pub(crate) told: AtomicBool,
}

/// A message, with the protocol in which its sender understands the answer.
struct Received<T> {
    message: T,
    protocol: u32,
    quorum_age_ms: Option<u64>,
}

impl RaftService {
    fn encode<T: Serialize>(&self, answer: &T, protocol: u32) -> Result<Response<RaftMessage>, Status> {
        let body = serde_json::to_vec(answer).map_err(|error| Status::internal(error.to_string()))?;
        let (clock_ms, spoken) = (Some(self.clocks.own().0), Some(Spoken::own().tell()));
        Ok(Response::new(RaftMessage { format: protocol, body, clock_ms, spoken, ..RaftMessage::default() }))
    }

    fn note(&self, quorum_age_ms: Option<u64>) {
        if let Some(age) = quorum_age_ms {
            self.quorum.note(Duration::from_millis(age));
        }
    }

    /// A message of a gateway, which may send it as whom it says.
    fn receive<T>(&self, caller: &GatewayCaller, message: RaftMessage) -> Result<Received<T>, Status>
    where
        T: Serialize + DeserializeOwned + Voted,
    {
        let RaftMessage { format, body, quorum_age_ms, lineage, clock_ms, spoken } = message;
        let spoken = Spoken::told(spoken, format);
        let protocol = self.agree(&spoken, format, caller)?;
        self.lineage.check(&lineage, caller)?;
        let message: T = understood::read(&body).map_err(|error| {
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::error!(peer = %caller.id(), "the registry is not replicated any more. Of a message: {error}");
            }
            Status::failed_precondition(error.to_string())
        })?;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let vote = message.vote().ok_or_else(|| Status::invalid_argument("a message of no term"))?;
        check_term(vote.leader_id().term, metrics.current_term)?;
        if let Some(claimed) = vote.leader_id().voted_for() {
            let member = metrics.membership_config.membership().get_node(&claimed);
            claim::check(caller.id(), claimed, member)?;
            if member.is_some() {
                self.clocks.note(claimed, clock_ms, None);
                self.protocols.note(claimed, spoken);
            }
        }
        Ok(Received { message, protocol, quorum_age_ms })
    }

    /// The protocol to answer in.
    fn agree(&self, spoken: &Spoken, format: u32, caller: &GatewayCaller) -> Result<u32, Status> {
        let own_name = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            protocol::name(metrics.id, metrics.membership_config.membership().get_node(&metrics.id))
        };
        let common = protocol::agree(&Spoken::own(), &own_name, spoken, &caller.name())?;
        if (protocol::EARLIEST..=LATEST).contains(&format) {
            return Ok(common);
        }
        // Its sender knew a later version here. It asks anew then, in the earliest that it speaks.
        let own = Spoken::own();
        Err(Status::failed_precondition(format!("the message is in protocol {format}, and {own_name} {own}")))
    }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn append(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let caller = caller::gateway(&request)?;
        let received: Received<AppendEntriesRequest<RegistryRaft>> = self.receive(&caller, request.into_inner())?;
        let answer = self.raft.append_entries(received.message).await;
        if matches!(answer, Ok(AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_))) {
            self.election.heard();
            self.note(received.quorum_age_ms);
        }
        self.encode(&answer, received.protocol)
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let caller = caller::gateway(&request)?;
        let received = self.receive(&caller, request.into_inner())?;
        let answer = self.raft.vote(received.message).await;
        if answer.as_ref().is_ok_and(|answer| answer.vote_granted) {
            self.election.heard();
        }
        self.encode(&answer, received.protocol)
    }

    async fn snapshot(&self, request: Request<SnapshotPiece>) -> Result<Response<RaftMessage>, Status> {
        let caller = caller::gateway(&request)?;
        let SnapshotPiece { message, offset, data } = request.into_inner();
        let message = message.ok_or_else(|| Status::invalid_argument("a piece of no snapshot"))?;
        let received: Received<Head> = self.receive(&caller, message)?;
        let leader = received.message.vote;
        let answer = self.receiver.take(received.message, offset, &data).await?;
        // Only the leader that this replica follows is heard: anybody can send the beginning of a snapshot.
        let follows = self.raft.metrics().borrow().vote == leader && leader.is_committed();
        if follows {
            self.election.heard();
            self.note(received.quorum_age_ms);
        }
        self.encode(&Ok::<_, RaftError<u64>>(answer), received.protocol)
    }

    async fn install_snapshot(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let leader = caller::gateway(&request)?.name();
        let own = Spoken::own();
        let why = format!(
            "the registry's leader {leader} speaks protocol 2, and this gateway {own}: snapshots are not sent as protocol 2 \
             did any more: upgrade {leader}"
        );
        Err(Status::failed_precondition(why))
    }
}
