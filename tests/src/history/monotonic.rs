//! Monotonic reads: whoever has seen a version never sees an older one.
//!
//! Weaker than linearizability and all that is promised to readers of a replica: clients may be behind one
//! another, but none goes back in time.

use std::collections::BTreeMap;
use std::fmt;

/// A client saw an older version than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WentBack<Client, Version> {
    /// Who saw it.
    pub client: Client,
    /// Which observation it was, counted from 0 over all clients.
    pub position: usize,
    /// What the client had seen just before.
    pub before: Version,
    /// What it saw then.
    pub after: Version,
}

/// Finds the first observation that goes back. `observations` pairs clients with the versions that they saw:
/// each client's in the order in which it saw them, and the clients in any order among each other.
///
/// # Errors
///
/// The observation that is older than the same client's previous one.
pub fn monotonic_reads<Client: Ord, Version: Ord>(
    observations: impl IntoIterator<Item = (Client, Version)>,
) -> Result<(), WentBack<Client, Version>> {
    let mut latest: BTreeMap<Client, Version> = BTreeMap::new();
    for (position, (client, after)) in observations.into_iter().enumerate() {
        match latest.remove(&client) {
            Some(before) if after < before => return Err(WentBack { client, position, before, after }),
            _ => latest.insert(client, after),
        };
    }
    Ok(())
}

impl<Client: fmt::Debug, Version: fmt::Debug> fmt::Display for WentBack<Client, Version> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, position, before, after } = self;
        write!(formatter, "client {client:?} saw {after:?} after {before:?} (observation {position})")
    }
}

impl<Client: fmt::Debug, Version: fmt::Debug> std::error::Error for WentBack<Client, Version> {}
