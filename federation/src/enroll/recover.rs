//! Starting a federation again on one gateway that is left, when most of those that voted are lost for good.
//!
//! Its registry is saved to itself as a backup is, put aside, and restored: the same steps, with the same marks by which
//! replicas of the lost registry and of the new one refuse each other. What the gateway has of the log is taken whole:
//! of what was agreed, nothing that it had is lost, and some may be in it that never was. A recovery that is interrupted
//! goes on where it stopped.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use isthmus_identity::Recipient;
use isthmus_model::time::UnixMillis;

use super::{EnrollError, GatewayName, Member, RestoreError, Restored, restore, resume};
use crate::backup::{self, Author, BackupError, Image, ReadError};
use crate::data_dir::{DataDir, DataDirError};
use crate::store::{self, Survey};

/// Why nothing was recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// There is no member here.
    #[error("{path} is no member's: recover on a gateway that has its data, or restore a backup")]
    NoMember {
        /// The data directory.
        path: String,
    },
    /// There is nothing to recover from.
    #[error("{path} does not exist: recover on a gateway that has its registry, or restore a backup")]
    NoRegistry {
        /// The registry's file.
        path: String,
    },
    /// A gateway has the registry open.
    #[error("{0}. The gateway must not run")]
    Running(store::OpenError),
    /// The registry cannot be read.
    #[error("{0}")]
    Store(store::OpenError),
    /// An earlier run was interrupted.
    #[error("a recovery was interrupted here, after the registry was put aside: run this with --force to finish it")]
    Interrupted,
    /// The root's key cannot be opened here.
    #[error("{0}")]
    Save(#[from] BackupError),
    /// What was saved cannot be read.
    #[error("{path}: {reason}: remove the file if the recovery was not begun here")]
    Saved {
        /// The file.
        path: String,
        /// Why not.
        reason: ReadError,
    },
    /// A file could not be written or moved.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory is unusable.
    #[error(transparent)]
    Enroll(#[from] EnrollError),
    /// The last step failed; the registry is put aside, and what was saved is still there.
    #[error("{0}; run this again")]
    Restore(#[from] RestoreError),
}

impl From<store::OpenError> for RecoverError {
    fn from(error: store::OpenError) -> Self {
        if matches!(error, store::OpenError::InUse { .. }) { Self::Running(error) } else { Self::Store(error) }
    }
}

impl From<DataDirError> for RecoverError {
    fn from(error: DataDirError) -> Self {
        Self::Enroll(error.into())
    }
}

/// What a recovery would start from.
#[derive(Clone, Debug)]
pub struct Remains {
    /// What this gateway has.
    pub survey: Survey,
    /// Its own number.
    pub node: u64,
}

/// What is left of the federation on this gateway, which does not run.
///
/// # Errors
/// [`RecoverError`].
pub fn remains(name: &GatewayName, data: &DataDir) -> Result<Remains, RecoverError> {
    let member = member(name, data)?;
    let path = data.registry();
    if !path.exists() {
        let interrupted = data.recovery().exists();
        let missing = RecoverError::NoRegistry { path: path.display().to_string() };
        return Err(if interrupted { RecoverError::Interrupted } else { missing });
    }
    Ok(Remains { survey: store::survey(&path)?, node: member.node })
}

fn member(name: &GatewayName, data: &DataDir) -> Result<Member, RecoverError> {
    let path = data.path().display().to_string();
    resume(name, data)?.ok_or(RecoverError::NoMember { path })
}

/// Makes this gateway the only voter of the federation that it remembers. The old registry's file is put aside.
///
/// # Errors
/// [`RecoverError`]. Whatever was done by then, it may be run again.
pub fn recover(name: &GatewayName, data: &DataDir) -> Result<Restored, RecoverError> {
    let (member, now) = (member(name, data)?, SystemTime::now().into());
    let (registry, saved) = (data.registry(), data.recovery());
    if registry.exists() {
        save(&member, data, now)?;
        put_aside(&registry, now)?;
    } else if !saved.exists() {
        return Err(RecoverError::NoRegistry { path: registry.display().to_string() });
    }
    let file = fs::File::open(&saved).map_err(|source| failed("open", &saved, source))?;
    let image = Image::read(io::BufReader::new(file), &member.opening_key);
    let image = image.map_err(|reason| RecoverError::Saved { path: saved.display().to_string(), reason })?;
    let restored = restore(image, &member.opening_key, name, data)?;
    data.remove(&saved)?;
    Ok(restored)
}

/// Puts the registry's file of a gateway aside whose federation was restored or recovered elsewhere: it gets the new one
/// when it starts. Until then it takes part in none, and never again in the one that it had.
///
/// # Errors
/// [`RecoverError`].
pub fn discard(name: &GatewayName, data: &DataDir) -> Result<(), RecoverError> {
    let path = data.path().display().to_string();
    member(name, data)?;
    let file = data.read_node()?.ok_or(RecoverError::NoMember { path })?;
    let registry = data.registry();
    // Whoever runs has it open; what else is wrong with it does not matter any more.
    if registry.exists()
        && let Err(error @ store::OpenError::InUse { .. }) = store::survey(&registry)
    {
        return Err(RecoverError::Running(error));
    }
    data.write_node(&file.without_registry())?;
    if registry.exists() {
        put_aside(&registry, SystemTime::now().into())?;
    }
    Ok(())
}

fn put_aside(registry: &Path, now: UnixMillis) -> Result<(), RecoverError> {
    let aside = registry.with_extension(format!("redb.lost-{}", now.0));
    fs::rename(registry, &aside).map_err(|source| failed("move away", registry, source))
}

/// Saves the registry to the gateway itself.
fn save(member: &Member, data: &DataDir, now: UnixMillis) -> Result<(), RecoverError> {
    let Survey { registry, .. } = store::survey(&data.registry())?;
    let (cluster, gateway, opening_key) = (&member.name.cluster, &member.name.gateway, &member.opening_key);
    let author = Author { cluster, gateway, node: member.node, opening_key, stale_since: None };
    let sealed = backup::create(&registry, &author, Recipient(opening_key.public()), now)?;
    let saved = data.recovery();
    data.write_private(&saved, &sealed)?;
    Ok(())
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> RecoverError {
    RecoverError::File { action, path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use isthmus_identity::OpeningKey;
    use isthmus_model::command::{Command, Entry};
    use isthmus_model::registry::Registry;
    use isthmus_model::registry::trust::Envelopes;

    use super::*;
    use crate::backup::tests::{founded, name};
    use crate::raft_types::{Peer, PeerAddress};

    fn seeded(member: &Member, registry: &Registry) {
        let name = name();
        let (cluster, gateway) = (name.cluster, name.gateway);
        let peer = Peer(Some(PeerAddress { cluster, gateway, east_west: name.east_west }));
        let id = isthmus_identity::random_digest().expect("drawn");
        store::seed(&member.data.registry(), id, member.node, peer, registry).expect("seeded");
    }

    #[test]
    fn a_gateway_that_is_left_goes_on_with_its_keys_and_what_it_has() {
        let dir = tempfile::tempdir().expect("a directory");
        let (member, registry) = founded(&dir);
        let nothing = remains(&name(), &member.data);
        assert!(matches!(nothing, Err(RecoverError::NoRegistry { .. })), "{nothing:?}");
        seeded(&member, &registry);
        let left = remains(&name(), &member.data).expect("readable");
        assert_eq!((left.node, &left.survey.registry, left.survey.voters.len()), (member.node, &registry, 1));
        let recovered = recover(&name(), &member.data).expect("recovered");
        assert!(recovered.kept_identity && recovered.registry.lineage().is_some());
        assert_eq!(store::survey(&member.data.registry()).expect("readable").registry, recovered.registry);
        let files: Vec<String> = fs::read_dir(member.data.path())
            .expect("readable")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        assert!(files.iter().any(|file| file.starts_with("registry.redb.lost-")), "{files:?}");
        assert!(!member.data.recovery().exists(), "{files:?}");
    }

    #[test]
    fn an_interrupted_recovery_goes_on_and_one_without_the_roots_key_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let (member, registry) = founded(&dir);
        seeded(&member, &registry);
        save(&member, &member.data, UnixMillis(1)).expect("saved");
        // Killed after the registry was put aside.
        fs::remove_file(member.data.registry()).expect("there");
        let recovered = recover(&name(), &member.data).expect("goes on");
        assert!(recovered.registry.lineage().is_some());

        // One that did not vote has no envelope.
        let mut without = registry;
        let at = UnixMillis(2);
        let other = OpeningKey::generate().expect("made").public();
        let key = without.trust().expect("founded").issuer().key;
        let root = isthmus_identity::RootAuthority::unseal(
            &name().federation,
            without.trust().expect("founded").issuer(),
            member.node,
            &member.opening_key,
        );
        let envelope = root.expect("it kept it").seal(member.node, &other).expect("sealed");
        let envelopes = Envelopes([(member.node, envelope)].into());
        let command = Command::Reseal { root: key, envelopes };
        without.apply(&Entry { origin: name().cluster, at, command }).expect("taken");
        fs::remove_file(member.data.registry()).expect("there");
        seeded(&member, &without);
        let refused = recover(&name(), &member.data);
        assert!(matches!(refused, Err(RecoverError::Save(_))), "{refused:?}");
        assert!(member.data.registry().exists(), "it is where it was");
    }
}
