//! The Raft library's messages to other replicas, over gRPC. What comes in is taken by [`crate::raft_service`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use isthmus_model::registry::node::NodeId;
use isthmus_wire::peer::raft_client::RaftClient;
use isthmus_wire::peer::{Capability, RaftMessage, SnapshotPiece};
use openraft::error::{Fatal, NetworkError, RPCError, RaftError, RemoteError, ReplicationClosed};
use openraft::error::{StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::storage::Snapshot;
use openraft::{OptionalSend, RaftNetwork, RaftNetworkFactory, Vote};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::admission::check_term;
use crate::clocks::Clocks;
use crate::dial::Dialer;
use crate::lineage::LineageCheck;
use crate::protocol::{self, Protocols, Spoken};
use crate::quorum::QuorumWord;
use crate::raft_types::{Peer, RegistryRaft};
use crate::snapshot::{Answer, Encoded, Head, Sending, Transfer};
use crate::voted::Voted;
use crate::writer::Rest;

/// The largest Raft message either way: a batch of entries, of which the store gives no more at once than fit, or a piece
/// of a snapshot.
pub const MESSAGE_LEN_MAX: usize = 8 << 20;
/// How long an unreachable replica is left alone. Short, so that one that is back is soon in step.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(200);
/// How long a piece of a snapshot may take: on a link of 1 Mbit/s it takes 2 s.
const PIECE_PATIENCE: Duration = Duration::from_secs(10);
/// How long the last one may, after which the receiver checks and installs the whole. It is asked again then.
const INSTALL_PATIENCE: Duration = Duration::from_secs(60);
/// Before a transfer that broke goes on: an outage of five seconds is outlasted.
const BROKEN_PAUSE: Duration = Duration::from_millis(500);

/// Makes clients to other replicas.
#[derive(Clone)]
pub struct Network {
    pub(crate) dialer: Dialer,
    pub(crate) quorum: QuorumWord,
    pub(crate) lineage: LineageCheck,
    pub(crate) clocks: Clocks,
    pub(crate) protocols: Protocols,
    pub(crate) sending: Sending,
    /// While it is set, no entries are sent.
    pub(crate) rest: Rest,
}

/// One other replica.
pub struct Replica {
    id: NodeId,
    peer: Peer,
    channel: Option<Channel>,
    network: Network,
    /// Whether its last answer did not come in time, which has been told.
    late: AtomicBool,
    /// Whether it refused the last message as a matter of principle, which has been told.
    refused: AtomicBool,
}

impl RaftNetworkFactory<RegistryRaft> for Network {
    type Network = Replica;

    async fn new_client(&mut self, target: NodeId, node: &Peer) -> Replica {
        let channel = node.0.as_ref().map(|address| self.dialer.channel(address));
        let (late, refused) = (AtomicBool::default(), AtomicBool::default());
        Replica { id: target, peer: node.clone(), channel, network: self.clone(), late, refused }
    }
}

type CallError = RPCError<NodeId, Peer, RaftError<NodeId>>;
type TransferError = StreamingError<RegistryRaft, Fatal<NodeId>>;

/// Which of the calls.
#[derive(Clone, Copy)]
enum Call<'a> {
    Append,
    Vote,
    Snapshot { offset: u64, data: &'a [u8] },
}

/// Why a call brought no answer.
enum Failure {
    /// It was not made.
    Unmade(std::io::Error),
    /// Its answer is an error.
    Refused(Status),
    /// Its answer cannot be read, or is the Raft library's error.
    Answer(Box<CallError>),
}

impl From<Failure> for CallError {
    /// Unreachable peers are left alone for a while; other failures are tried again at once.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unmade(error) => Unreachable::new(&error).into(),
            Failure::Refused(status) if status.code() == Code::Unavailable => Unreachable::new(&status).into(),
            Failure::Refused(status) => NetworkError::new(&status).into(),
            Failure::Answer(error) => *error,
        }
    }
}

impl Replica {
    async fn call<Q, A>(&self, call: Call<'_>, question: &Q, patience: Duration) -> Result<A, Failure>
    where
        Q: Serialize + Voted,
        A: DeserializeOwned + Voted,
    {
        let channel = self.channel.clone();
        let channel = channel.ok_or_else(|| Failure::Unmade(std::io::Error::other("the replica has no address")))?;
        let unreadable = |error: serde_json::Error| Failure::Answer(Box::new(NetworkError::new(&error).into()));
        let message = self.message(serde_json::to_vec(question).map_err(unreadable)?);
        let asked = Instant::now();
        let mut waiting = Waiting { to: self, patience, over: matches!(call, Call::Snapshot { .. }) };
        let reply = exchange(channel, call, message, patience).await;
        waiting.over |=
            !matches!(&reply, Err(status) if matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded));
        drop(waiting);
        let reply = reply.map_err(|status| self.failed(status))?;
        self.late.store(false, Ordering::Relaxed);
        self.refused.store(false, Ordering::Relaxed);
        self.network.clocks.note(self.id, reply.clock_ms, Some(asked.elapsed()));
        self.network.protocols.note(self.id, Spoken::told(reply.spoken, reply.format));
        let answer: Result<A, RaftError<NodeId>> = serde_json::from_slice(&reply.body).map_err(unreadable)?;
        let answer = answer.map_err(|error| Failure::Answer(Box::new(RemoteError::new(self.id, error).into())))?;
        // The library takes a later term from an answer as it does from a question.
        if let (Some(theirs), Some(ours)) = (answer.vote(), question.vote()) {
            check_term(theirs.leader_id().term, ours.leader_id().term).map_err(Failure::Refused)?;
        }
        Ok(answer)
    }

    fn message(&self, body: Vec<u8>) -> RaftMessage {
        let Network { quorum, lineage, clocks, protocols, .. } = &self.network;
        RaftMessage {
            format: protocols.with(self.id),
            body,
            quorum_age_ms: quorum.age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            lineage: lineage.own(),
            clock_ms: Some(clocks.own().0),
            spoken: Some(Spoken::own().tell()),
        }
    }

    fn failed(&self, status: Status) -> Failure {
        let (replica, peer) = (self.id, protocol::name(self.id, Some(&self.peer)));
        // Another version, or another registry: what an operator has to see to, once and not with every heartbeat.
        if status.code() == Code::FailedPrecondition {
            self.network.protocols.forget(replica);
            if !self.refused.swap(true, Ordering::Relaxed) {
                tracing::warn!(replica, %peer, "a gateway takes no messages of the registry: {}", status.message());
            }
        }
        tracing::debug!(replica, %peer, %status, "a raft call failed");
        Failure::Refused(status)
    }

    /// Sends a snapshot, from where the receiver wants it, until it has it or nothing moves any more.
    async fn send(&self, vote: Vote<NodeId>, snapshot: Snapshot<RegistryRaft>) -> Result<Vote<NodeId>, TransferError> {
        let (peer, started) = (protocol::name(self.id, Some(&self.peer)), Instant::now());
        if let Err(why) = self.check_can_receive(&peer) {
            // Not again at once.
            tokio::time::sleep(BROKEN_PAUSE).await;
            return Err(NetworkError::new(&std::io::Error::other(why)).into());
        }
        let _place = self.network.sending.place().await;
        let Encoded { bytes, digest, .. } = *snapshot.snapshot;
        let head = Head { vote, meta: snapshot.meta, len: bytes.len() as u64, sha256: digest };
        let (mut transfer, mut sent) = (Transfer::new(head.len), 0);
        loop {
            let piece = transfer.piece();
            let data = usize::try_from(piece.start).ok().zip(usize::try_from(piece.end).ok());
            let data = data.and_then(|(start, end)| bytes.get(start..end)).unwrap_or_default();
            self.network.sending.pass(data.len()).await;
            sent += data.len();
            // Also a question can be the last: when all is there, and only the answer to that was lost.
            let patience = if piece.end == head.len || data.is_empty() { INSTALL_PATIENCE } else { PIECE_PATIENCE };
            let call = Call::Snapshot { offset: piece.start, data };
            match self.call(call, &head, patience).await {
                Ok(Answer::Settled(vote)) => {
                    let took = started.elapsed();
                    tracing::info!(%peer, len = head.len, sent, ?took, "a snapshot of the registry went to a gateway");
                    return Ok(vote);
                }
                Ok(Answer::Next(next)) => transfer.go_on(next).map_err(|error| NetworkError::new(&error))?,
                Err(failure) => {
                    tokio::time::sleep(BROKEN_PAUSE).await;
                    if is_final(&failure) || transfer.broke().is_err() {
                        return Err(streaming(failure));
                    }
                }
            }
        }
    }

    fn check_can_receive(&self, peer: &str) -> Result<(), String> {
        // Without a word of it, trying tells.
        let spoken = self.network.protocols.of(self.id);
        let Some(spoken) = spoken.filter(|spoken| !spoken.can(Capability::SnapshotStream)) else { return Ok(()) };
        let why = format!("{peer} {spoken} and cannot take this version's snapshots of the registry: upgrade {peer}");
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::warn!("{why}");
        }
        Err(why)
    }
}

async fn exchange(
    channel: Channel,
    call: Call<'_>,
    message: RaftMessage,
    patience: Duration,
) -> Result<RaftMessage, Status> {
    fn within<T>(message: T, patience: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(patience);
        request
    }
    let mut client =
        RaftClient::new(channel).max_decoding_message_size(MESSAGE_LEN_MAX).max_encoding_message_size(MESSAGE_LEN_MAX);
    let reply = match call {
        Call::Append => client.append(within(message, patience)).await,
        Call::Vote => client.vote(within(message, patience)).await,
        Call::Snapshot { offset, data } => {
            let piece = SnapshotPiece { message: Some(message), offset, data: data.to_vec() };
            client.snapshot(within(piece, patience)).await
        }
    };
    reply.map(tonic::Response::into_inner)
}

/// Whether the same would come of trying again at once.
fn is_final(failure: &Failure) -> bool {
    match failure {
        Failure::Unmade(_) | Failure::Answer(_) => true,
        Failure::Refused(status) => !matches!(
            status.code(),
            Code::Unavailable
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::DataLoss
                | Code::Unknown
                | Code::Internal
        ),
    }
}

fn streaming(failure: Failure) -> TransferError {
    match failure {
        Failure::Unmade(error) => Unreachable::new(&error).into(),
        Failure::Refused(status) => NetworkError::new(&status).into(),
        Failure::Answer(error) => NetworkError::new(&error).into(),
    }
}

/// A question that is under way. The library drops it when it has waited long enough.
struct Waiting<'a> {
    to: &'a Replica,
    patience: Duration,
    over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Replica { id, peer, late, .. } = self.to;
        if !self.over && !late.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                replica = id,
                address = ?peer.0,
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
    ) -> Result<AppendEntriesResponse<NodeId>, CallError> {
        if self.network.rest.is_set() {
            return Err(Unreachable::new(&std::io::Error::other("this replica leads, and is not to be heard")).into());
        }
        Ok(self.call(Call::Append, &rpc, option.hard_ttl()).await?)
    }

    async fn vote(&mut self, rpc: VoteRequest<NodeId>, option: RPCOption) -> Result<VoteResponse<NodeId>, CallError> {
        Ok(self.call(Call::Vote, &rpc, option.hard_ttl()).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<NodeId>,
        snapshot: Snapshot<RegistryRaft>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, TransferError> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            settled = self.send(vote, snapshot) => settled.map(SnapshotResponse::new),
        }
    }

    fn backoff(&self) -> openraft::network::Backoff {
        openraft::network::Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE))
    }
}
