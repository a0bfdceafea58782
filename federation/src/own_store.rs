//! A gateway's own store, told apart from an empty one and from another gateway's.

use std::time::Duration;

use tokio::time::Instant;

use crate::enroll::Member;
use crate::node::{StartError, fatal};
use crate::store::{self, Disk, LogStore, StateMachine};

/// How long a gateway that is being replaced may hold on to the data directory.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(5);
const REOPEN_PAUSE: Duration = Duration::from_millis(20);

/// Opens the store that belongs to the gateway. One that had a registry never starts with an empty one: as a voter it
/// would have forgotten what it acknowledged.
pub(crate) async fn own_store(member: &Member, disk: &Disk) -> Result<(LogStore, StateMachine), StartError> {
    let (path, shown) = (member.data.registry(), || member.data.registry().display().to_string());
    let known = member.data.read_node()?.and_then(|file| file.registry);
    if known.is_some() && !path.exists() {
        return Err(StartError::RegistryGone { path: shown() });
    }
    let (log, machine) = open_store(member, disk).await?;
    let found = log.id().map_err(fatal)?;
    if known.is_some() && found != known {
        return Err(StartError::RegistrySwapped { path: shown() });
    }
    if let Some(found) = found {
        member.data.update_node(|file| file.with_registry(found))?;
    }
    // Of a recovery that was killed in its last step.
    member.data.remove(&member.data.recovery())?;
    Ok((log, machine))
}

/// Opens the store, waiting a little for a predecessor that is still finishing its requests.
async fn open_store(member: &Member, disk: &Disk) -> Result<(LogStore, StateMachine), store::OpenError> {
    let path = member.data.registry();
    let deadline = Instant::now() + PREDECESSOR_PATIENCE;
    loop {
        match store::open(&path, disk) {
            Err(store::OpenError::InUse { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(REOPEN_PAUSE).await;
            }
            result => return result,
        }
    }
}
