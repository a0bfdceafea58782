//! What the file of a replica that does not run holds: for when its quorum is lost for good.

use std::collections::BTreeSet;
use std::path::Path;

use isthmus_model::registry::Registry;
use isthmus_model::registry::node::NodeId;

use super::log::{committed, read_range};
use super::{Disk, Failure, OpenError, open_file};
use crate::store::StateMachine;

/// Everything that a replica has.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The registry after its last entry. The last ones may never have been agreed; none that was is missing, if the
    /// replica had it.
    pub registry: Registry,
    /// Term and index of the last entry; 0 if there is none. Of several replicas, the one whose last term is highest, and
    /// then whose last index is, has all that was agreed by any majority of which it was one.
    pub last: (u64, u64),
    /// Index of the last entry that it knew to be agreed.
    pub committed: u64,
    /// Who voted, as the last entry about that says.
    pub voters: BTreeSet<NodeId>,
}

/// Reads the file at `path`, which no gateway may have open.
///
/// # Errors
/// [`OpenError`].
pub fn survey(path: &Path) -> Result<Survey, OpenError> {
    let unreadable = |failure: Failure| OpenError::reading(path, failure);
    let file = open_file(path, &Disk::Real)?;
    let mut machine = StateMachine::load(file.clone()).map_err(unreadable)?;
    let after = machine.last().map_or(0, |log| log.index + 1);
    let committed = committed(&file).map_err(unreadable)?.map_or(0, |log| log.index);
    machine.take(read_range(&file, after..).map_err(unreadable)?);
    let registry = machine.watch().borrow().as_ref().clone();
    let last = machine.last().map_or((0, 0), |log| (log.leader_id.term, log.index));
    Ok(Survey { registry, last, committed, voters: machine.voters() })
}
