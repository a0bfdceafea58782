//! The registry's replicas.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::Member;

/// How the registry's replicas stand, as the gateway that is asked sees them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryView {
    /// The current term.
    pub term: u64,
    /// Who leads, as far as is known.
    pub leader: Option<Member>,
    /// Index of the last entry in this gateway's log.
    pub last_log: u64,
    /// Index of the last entry applied here.
    pub applied: u64,
    /// Index of the last entry that is in a snapshot on this gateway's disk; 0 before the first.
    pub snapshot: u64,
    /// Index of the last entry that this gateway's log does not have any more.
    pub purged: u64,
    /// Bytes of the registry's file here.
    pub file_bytes: u64,
    /// Bytes that are free where it is.
    pub disk_free_bytes: u64,
    /// Voters that may fail yet before nothing can be agreed; negative when that is so now. Only the leader knows.
    pub quorum_margin: Option<i64>,
    /// All replicas.
    pub replicas: Vec<Replica>,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Whose it is.
    pub member: Member,
    /// `leader`, `voter` or `learner`.
    pub role: Cow<'static, str>,
    /// Entries of the log that it has not confirmed. Only the leader knows.
    pub lag_entries: Option<u64>,
    /// For how long it has been behind, in milliseconds. Only the leader knows.
    pub lag_ms: Option<u64>,
    /// How long ago it was heard, in milliseconds; none if not within a minute, or if it is the one that is asked.
    pub heard_ms_ago: Option<u64>,
}
