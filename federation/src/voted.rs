//! Which term a message between replicas is of.

use isthmus_model::registry::node::NodeId;
use openraft::Vote;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};

use crate::raft_types::RegistryRaft;
use crate::snapshot::{Answer, Head};

/// A message with the term that it is of, and whose.
pub(crate) trait Voted {
    /// `None` in an answer that tells of no other term than the question.
    fn vote(&self) -> Option<&Vote<NodeId>>;
}

impl Voted for AppendEntriesRequest<RegistryRaft> {
    fn vote(&self) -> Option<&Vote<NodeId>> {
        Some(&self.vote)
    }
}

impl Voted for AppendEntriesResponse<NodeId> {
    fn vote(&self) -> Option<&Vote<NodeId>> {
        match self {
            Self::HigherVote(vote) => Some(vote),
            Self::Success | Self::PartialSuccess(_) | Self::Conflict => None,
        }
    }
}

impl Voted for VoteRequest<NodeId> {
    fn vote(&self) -> Option<&Vote<NodeId>> {
        Some(&self.vote)
    }
}

impl Voted for VoteResponse<NodeId> {
    fn vote(&self) -> Option<&Vote<NodeId>> {
        Some(&self.vote)
    }
}

impl Voted for Head {
    fn vote(&self) -> Option<&Vote<NodeId>> {
        Some(&self.vote)
    }
}

impl Voted for Answer {
    fn vote(&self) -> Option<&Vote<NodeId>> {
        match self {
            Self::Settled(vote) => Some(vote),
            Self::Next(_) => None,
        }
    }
}
