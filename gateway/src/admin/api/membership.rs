//! Who goes and how, and what was done.

use isthmus_model::name::ClusterName;
use isthmus_model::registry::audit::Record;
use isthmus_model::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// A cluster that is no member any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departed {
    /// Its name.
    pub cluster: ClusterName,
    /// Why it was fenced; null when it left.
    pub fenced_because: Option<String>,
    /// The cluster whose operator brought it about.
    pub by: ClusterName,
    /// When.
    pub at: UnixMillis,
}

/// A change to a cluster's membership, such as `{"fence":{"why":"its machine was stolen"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum MembershipChange {
    /// Moves traffic away, or lets it come back.
    Drain {
        /// Away, or back.
        draining: bool,
    },
    /// Ends the membership.
    Leave {},
    /// Ends the membership and trust in all keys, at once.
    Fence {
        /// Why.
        why: String,
    },
    /// Takes a fence back.
    Unfence {},
    /// Lets the cluster's operators act on others, or no longer.
    Administer {
        /// May they?
        administrator: bool,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipChanged {
    /// Of which cluster.
    pub cluster: ClusterName,
    /// False when it was so already.
    pub changed: bool,
}

/// What was done to membership and trust, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The last thousand.
    pub records: Vec<Record>,
}
