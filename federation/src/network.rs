//! The Raft library's messages over gRPC, both ways.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use isthmus_model::registry::node::NodeId;
use isthmus_wire::peer::RaftMessage;
use isthmus_wire::peer::raft_client::RaftClient;
use isthmus_wire::peer::raft_server;
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{RaftNetwork, RaftNetworkFactory};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::admission::{Receiving, check_term};
use crate::caller;
use crate::claim;
use crate::clocks::Clocks;
use crate::dial::Dialer;
use crate::lineage::LineageCheck;
use crate::quorum::QuorumWord;
use crate::raft_types::{Peer, PeerAddress, Raft, RegistryRaft};
use crate::voted::Voted;

/// The encoding of [`RaftMessage::body`]: JSON of openraft 0.9's messages.
const FORMAT: u32 = 2;
/// The largest Raft message either way: a snapshot chunk of [`SNAPSHOT_CHUNK_LEN`] as JSON, four characters
/// per byte at worst, or a batch of entries.
pub const MESSAGE_LEN_MAX: usize = 8 << 20;
/// Bytes of snapshot per message.
pub const SNAPSHOT_CHUNK_LEN: u64 = 1 << 20;

/// Makes clients to other replicas.
#[derive(Clone)]
pub struct Network {
    dialer: Dialer,
    quorum: QuorumWord,
    lineage: LineageCheck,
    clocks: Clocks,
}

impl Network {
    /// A network over the dialer's channels, which passes on how old `quorum`'s last word is.
    #[must_use]
    pub fn new(dialer: Dialer, quorum: QuorumWord, lineage: LineageCheck, clocks: Clocks) -> Self {
        Self { dialer, quorum, lineage, clocks }
    }
}

/// One other replica.
pub struct Replica {
    id: NodeId,
    address: Option<PeerAddress>,
    channel: Option<Channel>,
    quorum: QuorumWord,
    lineage: LineageCheck,
    clocks: Clocks,
    /// Whether its last answer did not come in time, which has been told.
    late: AtomicBool,
}

impl RaftNetworkFactory<RegistryRaft> for Network {
    type Network = Replica;

    async fn new_client(&mut self, target: NodeId, node: &Peer) -> Replica {
        let channel = node.0.as_ref().map(|address| self.dialer.channel(address));
        let (quorum, lineage, clocks) = (self.quorum.clone(), self.lineage.clone(), self.clocks.clone());
        Replica { id: target, address: node.0.clone(), channel, quorum, lineage, clocks, late: AtomicBool::default() }
    }
}

type CallError<E> = RPCError<NodeId, Peer, RaftError<NodeId, E>>;

/// Which of the three calls.
#[derive(Clone, Copy)]
enum Call {
    Append,
    Vote,
    InstallSnapshot,
}

impl Replica {
    async fn call<Q, A, E>(&self, call: Call, message: &Q, option: &RPCOption) -> Result<A, CallError<E>>
    where
        Q: Serialize + Voted,
        A: DeserializeOwned + Voted,
        E: std::error::Error + DeserializeOwned,
    {
        let Some(channel) = self.channel.clone() else {
            let missing = std::io::Error::other("the replica has no address");
            return Err(Unreachable::new(&missing).into());
        };
        let body = serde_json::to_vec(message).map_err(|error| NetworkError::new(&error))?;
        let quorum_age_ms = self.quorum.age().map(millis);
        let (lineage, clock_ms) = (self.lineage.own(), Some(self.clocks.own().0));
        let mut request = Request::new(RaftMessage { format: FORMAT, body, quorum_age_ms, lineage, clock_ms });
        request.set_timeout(option.hard_ttl());
        let mut client = RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_LEN_MAX)
            .max_encoding_message_size(MESSAGE_LEN_MAX);
        let asked = Instant::now();
        let mut question = Question { to: self, patience: option.hard_ttl(), over: false };
        let reply = match call {
            Call::Append => client.append(request).await,
            Call::Vote => client.vote(request).await,
            Call::InstallSnapshot => client.install_snapshot(request).await,
        };
        question.over =
            !matches!(&reply, Err(status) if matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded));
        drop(question);
        let reply = reply.map_err(|status| self.transport_error(&status))?.into_inner();
        self.late.store(false, Ordering::Relaxed);
        self.clocks.note(self.id, reply.clock_ms, Some(asked.elapsed()));
        let answer: Result<A, RaftError<NodeId, E>> =
            serde_json::from_slice(&reply.body).map_err(|error| NetworkError::new(&error))?;
        let answer = answer.map_err(|error| RemoteError::new(self.id, error))?;
        // The library takes a later term from an answer as it does from a question.
        if let (Some(theirs), Some(ours)) = (answer.vote(), message.vote()) {
            check_term(theirs.leader_id().term, ours.leader_id().term).map_err(|status| NetworkError::new(&status))?;
        }
        Ok(answer)
    }

    /// Unreachable peers are left alone for a while; other failures are tried again at once.
    fn transport_error<E: std::error::Error>(&self, status: &Status) -> CallError<E> {
        tracing::debug!(replica = self.id, address = ?self.address, %status, "a raft call failed");
        match status.code() {
            Code::Unavailable => Unreachable::new(status).into(),
            _ => NetworkError::new(status).into(),
        }
    }
}

/// A question that is under way. The library drops it when it has waited long enough.
struct Question<'a> {
    to: &'a Replica,
    patience: Duration,
    over: bool,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let Replica { id, address, late, .. } = self.to;
        if !self.over && !late.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                replica = id,
                ?address,
                "no answer within {:?}: the gateway is gone, or further away than `raft.heartbeat`, which has to be longer \
                 than the round trip",
                self.patience
            );
        }
    }
}

impl RaftNetwork<RegistryRaft> for Replica {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<RegistryRaft>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, CallError<openraft::error::Infallible>> {
        self.call(Call::Append, &rpc, &option).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<RegistryRaft>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, CallError<InstallSnapshotError>> {
        self.call(Call::InstallSnapshot, &rpc, &option).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, CallError<openraft::error::Infallible>> {
        self.call(Call::Vote, &rpc, &option).await
    }

    fn backoff(&self) -> openraft::network::Backoff {
        openraft::network::Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE))
    }
}

/// How long an unreachable replica is left alone. Short, so that one that is back is soon in step.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(200);

/// The server side: hands messages of other gateways to the local replica.
pub struct RaftService {
    raft: Raft,
    quorum: QuorumWord,
    lineage: LineageCheck,
    clocks: Clocks,
    receiving: Receiving,
}

impl RaftService {
    /// Serves `raft`, noting in `quorum` what its leader says of one.
    #[must_use]
    pub fn new(raft: Raft, quorum: QuorumWord, lineage: LineageCheck, clocks: Clocks) -> Self {
        Self { raft, quorum, lineage, clocks, receiving: Receiving::default() }
    }

    fn encode<T: Serialize>(&self, answer: &T) -> Result<Response<RaftMessage>, Status> {
        let body = serde_json::to_vec(answer).map_err(|error| Status::internal(error.to_string()))?;
        let clock_ms = Some(self.clocks.own().0);
        Ok(Response::new(RaftMessage { format: FORMAT, body, clock_ms, ..RaftMessage::default() }))
    }

    fn note(&self, quorum_age_ms: Option<u64>) {
        if let Some(age) = quorum_age_ms {
            self.quorum.note(Duration::from_millis(age));
        }
    }

    /// A message of a gateway, which may send it as whom it says.
    fn receive<T>(&self, request: Request<RaftMessage>) -> Result<T, Status>
    where
        T: DeserializeOwned + Voted,
    {
        let caller = caller::gateway(&request)?;
        let message = request.into_inner();
        if message.format != FORMAT {
            let format = message.format;
            return Err(Status::failed_precondition(format!(
                "raft message format {format}, this gateway speaks {FORMAT}: run the same version on all gateways"
            )));
        }
        self.lineage.check(&message.lineage, &caller)?;
        let message_clock = message.clock_ms;
        let message: T =
            serde_json::from_slice(&message.body).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let vote = message.vote().ok_or_else(|| Status::invalid_argument("a message of no term"))?;
        check_term(vote.leader_id().term, metrics.current_term)?;
        if let Some(claimed) = vote.leader_id().voted_for() {
            let member = metrics.membership_config.membership().get_node(&claimed);
            claim::check(caller.id(), claimed, member)?;
            if member.is_some() {
                self.clocks.note(claimed, message_clock, None);
            }
        }
        Ok(message)
    }
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn append(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let quorum_age_ms = request.get_ref().quorum_age_ms;
        let answer = self.raft.append_entries(self.receive(request)?).await;
        if matches!(answer, Ok(AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_))) {
            self.note(quorum_age_ms);
        }
        self.encode(&answer)
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        self.encode(&self.raft.vote(self.receive(request)?).await)
    }

    async fn install_snapshot(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let quorum_age_ms = request.get_ref().quorum_age_ms;
        let chunk: InstallSnapshotRequest<RegistryRaft> = self.receive(request)?;
        let (snapshot, offset, len) = (chunk.meta.snapshot_id.clone(), chunk.offset, chunk.data.len());
        self.receiving.check(&snapshot, offset, len)?;
        let answer = self.raft.install_snapshot(chunk).await;
        if answer.is_ok() {
            self.receiving.note(&snapshot, offset, len);
            self.note(quorum_age_ms);
        }
        self.encode(&answer)
    }
}
