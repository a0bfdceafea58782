//! The registry as a whole, from one replica to another: for a learner that joins, and for whoever was away for longer
//! than the log is kept.
//!
//! The sender's part is [`Transfer`] (which piece is next), paced by [`pace`] for all transfers of a gateway together; the
//! receiver's is [`partial`] (what it has of it) and [`receive`] (checks it whole, and installs it). The receiver says with
//! every answer where to go on, so that a transfer which broke, or whose leader started it anew, goes on where it was:
//! a snapshot is known by the digest of its bytes, not by who sends it or over which connection.
//!
//! The Raft library's own way is not used: it sends each byte as up to four characters, begins again after every error,
//! and nothing tells a snapshot that was damaged on the way from a good one.

mod pace;
mod partial;
mod receive;
mod transfer;

use std::sync::Arc;

use isthmus_identity::sha256;
use isthmus_model::registry::Registry;
use isthmus_model::registry::node::NodeId;
use isthmus_model::registry::token::Digest;
use openraft::{SnapshotMeta, Vote};
use serde::{Deserialize, Serialize};

use crate::raft_types::Peer;
use crate::understood::{self, NotUnderstood};

pub use pace::RATE_DEFAULT;
pub(crate) use pace::Sending;
pub(crate) use receive::Receiver;
pub(crate) use transfer::Transfer;

/// The largest snapshot: a registry of 50,000 exports has some 10 MB, and a federation a few times as much.
pub(crate) const SNAPSHOT_LEN_MAX: u64 = 512 << 20;
/// Bytes of a snapshot per message, of which one is on the way at a time. On a link of 10 Mbit/s it takes 0.2 s, so that a
/// heartbeat which has to wait behind it is still answered before the next one. Over 100 ms of round trip that is 2.5 MB/s.
pub(crate) const PIECE_LEN: usize = 256 << 10;

/// A snapshot as it lies on disk and goes over the wire: JSON of [`Image`], with the digest by which it is known.
/// Transfers share one copy.
#[derive(Clone, Debug)]
pub struct Encoded {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) digest: Digest,
    /// What the bytes say, when that was just read of them.
    pub(crate) registry: Option<Arc<Registry>>,
}

/// What a snapshot says.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) meta: SnapshotMeta<NodeId, Peer>,
    pub(crate) registry: Arc<Registry>,
}

impl Encoded {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { digest: sha256(&bytes), bytes: Arc::new(bytes), registry: None }
    }

    /// The snapshot of a registry.
    pub(crate) fn of(image: &Image) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(image).map(Self::new)
    }

    /// What it says, if this version understands all of it.
    pub(crate) fn read(&self) -> Result<Image, NotUnderstood> {
        understood::read(&self.bytes)
    }
}

/// What every piece tells of the snapshot that it is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The leader's.
    pub(crate) vote: Vote<NodeId>,
    /// What the snapshot is of.
    pub(crate) meta: SnapshotMeta<NodeId, Peer>,
    /// Bytes of the whole.
    pub(crate) len: u64,
    /// SHA-256 of the whole.
    pub(crate) sha256: Digest,
}

/// What comes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The receiver wants to go on from there.
    Next(u64),
    /// It has the whole, or has voted for another leader: that is its vote.
    Settled(Vote<NodeId>),
}
