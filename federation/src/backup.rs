//! Backups: an image of the registry, sealed to a recipient whose key the operator keeps elsewhere.
//!
//! An image is one agreed state, so it is consistent by itself; it needs no quorum. Where the root's key is sealed to the
//! gateways that vote, one of them makes the backup and seals the key to the recipient on its own, under the recipient's
//! place among the keepers: the rest of the image is no secret to a gateway, the root's key is. The whole is then
//! sealed once more, because it names every service and address of the federation.
//!
//! [`crate::enroll::restore`] starts a gateway from an image.

use std::io::{self, BufReader, Read, Write};

use isthmus_identity::{ArchiveReader, ArchiveWriter, IdentityError, OpeningKey, Recipient, RootAuthority};
use isthmus_model::name::{ClusterName, FederationDomain, Label};
use isthmus_model::registry::node::NodeId;
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::{Custody, Envelope, Envelopes, Root};
use isthmus_model::registry::{Federation, Registry};
use isthmus_model::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::understood::{self, NotUnderstood};

/// The image's layout. Raised when an older version would misread it.
const FORMAT: u32 = 1;
/// The recipient's number among those that a root's key is sealed to. Gateways are numbered from 1.
const RECIPIENT: NodeId = 0;
/// The largest backup, in bytes: a thousand services of each of two hundred clusters, several times over. A gateway has
/// it in memory while it is sent.
pub const BACKUP_LEN_MAX: usize = 256 << 20;

/// The registry at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Image {
    format: u32,
    /// When it was made, by the clock of the gateway that made it.
    pub taken_at: UnixMillis,
    /// The cluster of that gateway.
    pub cluster: ClusterName,
    /// That gateway.
    pub gateway: Label,
    /// Since when no quorum stood behind the state; none while one did.
    pub stale_since: Option<UnixMillis>,
    /// What was agreed.
    pub registry: Registry,
    /// The key of each root that is kept in the registry, sealed to the recipient.
    root_keys: Vec<(Digest, Envelope)>,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Nothing to save.
    #[error("this gateway has not heard of its federation yet: see `isthmus status` for the registry")]
    NotFounded,
    /// The root's key cannot be opened here, and a federation that was restored without it could admit nobody.
    #[error("this gateway does not keep the root's key, which a backup needs: ask one that does: {}", keepers.join(", "))]
    NotKeeper {
        /// Those that do, as `cluster/gateway`.
        keepers: Vec<String>,
    },
    /// The root's key could not be sealed.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Larger than a backup may be.
    #[error("the registry is too large for a backup: {BACKUP_LEN_MAX} bytes at most")]
    TooLarge,
    /// The image could not be written.
    #[error("the backup could not be written: {0}")]
    Write(io::Error),
}

/// The gateway that makes a backup.
pub struct Author<'a> {
    /// Its cluster.
    pub cluster: &'a ClusterName,
    /// Its name.
    pub gateway: &'a Label,
    /// Its number.
    pub node: NodeId,
    /// Opens what is sealed to it.
    pub opening_key: &'a OpeningKey,
    /// Since when it has no quorum.
    pub stale_since: Option<UnixMillis>,
}

/// Makes a backup of `registry` for `recipient`: what goes into the file.
///
/// # Errors
/// [`BackupError`].
pub fn create(
    registry: &Registry,
    author: &Author<'_>,
    recipient: Recipient,
    now: UnixMillis,
) -> Result<Vec<u8>, BackupError> {
    let federation = registry.federation().ok_or(BackupError::NotFounded)?;
    let sealed = federation.trust.roots().iter().filter(|root| matches!(root.custody, Custody::Sealed { .. }));
    let root_keys = sealed.map(|root| seal_root(registry, federation, root, author, recipient));
    let image = Image {
        format: FORMAT,
        taken_at: now,
        cluster: author.cluster.clone(),
        gateway: author.gateway.clone(),
        stale_since: author.stale_since,
        registry: registry.clone(),
        root_keys: root_keys.collect::<Result<_, BackupError>>()?,
    };
    let mut writer = ArchiveWriter::new(Bounded(Vec::new()), recipient)?;
    serde_json::to_writer(&mut writer, &image).map_err(|error| write_error(error.into()))?;
    Ok(writer.finish().map_err(write_error)?.0)
}

fn seal_root(
    registry: &Registry,
    federation: &Federation,
    root: &Root,
    author: &Author<'_>,
    recipient: Recipient,
) -> Result<(Digest, Envelope), BackupError> {
    if !federation.trust.is_keeper(&root.key, author.node) {
        let keeps = |id: &NodeId| federation.trust.is_keeper(&root.key, *id);
        let keepers = registry.nodes().iter().filter(|(id, _)| keeps(id));
        let keepers = keepers.map(|(_, node)| format!("{}/{}", node.cluster, node.gateway)).collect();
        return Err(BackupError::NotKeeper { keepers });
    }
    let authority = RootAuthority::unseal(&federation.domain, root, author.node, author.opening_key)?;
    Ok((root.key, authority.seal(RECIPIENT, &recipient.0)?))
}

/// Memory up to [`BACKUP_LEN_MAX`].
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > BACKUP_LEN_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_error(error: io::Error) -> BackupError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => BackupError::TooLarge,
        _ => BackupError::Write(error),
    }
}

/// Why a backup cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read, was altered, or is sealed to another key.
    #[error("the backup cannot be opened: {0}")]
    Archive(io::Error),
    /// It opens, and holds something else, or what only a later version knows: restored, that would be lost.
    #[error("the backup is not one, or not one for this version: {0}")]
    Content(NotUnderstood),
    /// Written by a later version.
    #[error("the backup has format {0}, this version reads format {FORMAT}: use the version that wrote it")]
    Format(u32),
    /// There is no federation in it.
    #[error("the backup holds no federation: use another one")]
    NotFounded,
}

impl Image {
    /// Reads a backup to its end: what is returned is whole and as it was written.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(source: impl Read, identity: &OpeningKey) -> Result<Self, ReadError> {
        let mut content = Vec::new();
        let archive = ArchiveReader::new(source, identity).map_err(ReadError::Archive)?;
        BufReader::new(archive).read_to_end(&mut content).map_err(ReadError::Archive)?;
        let image: Self = understood::read(&content).map_err(ReadError::Content)?;
        if image.format != FORMAT {
            return Err(ReadError::Format(image.format));
        }
        if image.registry.federation().is_none() {
            return Err(ReadError::NotFounded);
        }
        Ok(image)
    }

    /// The federation's domain.
    #[must_use]
    pub fn domain(&self) -> Option<&FederationDomain> {
        self.registry.federation().map(|federation| &federation.domain)
    }

    /// Whether the federation's present root can sign again from this image alone.
    #[must_use]
    pub fn has_root_key(&self) -> bool {
        let issuer = self.registry.trust().map(|trust| trust.issuer().key);
        self.root_keys.iter().any(|(root, _)| Some(*root) == issuer)
    }

    /// Opens the keys of the roots that are kept in the registry.
    pub(crate) fn open_roots(&self, identity: &OpeningKey) -> Result<Vec<RootAuthority>, IdentityError> {
        let Some(federation) = self.registry.federation() else { return Ok(Vec::new()) };
        let open = |root: &Root| {
            let (_, envelope) = self.root_keys.iter().find(|(key, _)| *key == root.key)?;
            let custody = Custody::Sealed { envelopes: Envelopes([(RECIPIENT, envelope.clone())].into()) };
            let root = Root { custody, ..root.clone() };
            Some(RootAuthority::unseal(&federation.domain, &root, RECIPIENT, identity))
        };
        federation.trust.roots().iter().filter_map(open).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use isthmus_model::command::Entry;
    use tempfile::TempDir;

    use super::*;
    use crate::data_dir::DataDir;
    use crate::enroll::{self, GatewayName, Member};

    pub(crate) fn name() -> GatewayName {
        GatewayName {
            federation: "acme.mesh".parse().expect("valid"),
            cluster: "us-east".parse().expect("valid"),
            gateway: "gw-1".parse().expect("valid"),
            locality: "us-east-1/a".parse().expect("valid"),
            east_west: ([127, 0, 0, 1], 15443).into(),
            control: None,
        }
    }

    /// A founder and the registry that it founds.
    pub(crate) fn founded(dir: &TempDir) -> (Member, Registry) {
        let data = DataDir::open(dir.path()).expect("opens");
        let member = enroll::found(&name(), &data).expect("founds");
        let mut registry = Registry::default();
        let command = member.founding.clone().expect("the founding");
        let entry = Entry { origin: name().cluster, at: UnixMillis(1), command };
        registry.apply(&entry).expect("founded");
        (member, registry)
    }

    pub(crate) fn backup(member: &Member, registry: &Registry, key: &OpeningKey) -> Result<Vec<u8>, BackupError> {
        let (cluster, gateway) = (&member.name.cluster, &member.name.gateway);
        let author =
            Author { cluster, gateway, node: member.node, opening_key: &member.opening_key, stale_since: None };
        create(registry, &author, Recipient(key.public()), UnixMillis(7))
    }

    #[test]
    fn an_image_comes_back_whole_and_its_recipient_has_the_root() {
        let dir = tempfile::tempdir().expect("a directory");
        let (member, registry) = founded(&dir);
        let (key, other) = (OpeningKey::generate().expect("made"), OpeningKey::generate().expect("made"));
        let sealed = backup(&member, &registry, &key).expect("made");
        let image = Image::read(sealed.as_slice(), &key).expect("read");
        assert_eq!((&image.registry, image.taken_at, image.has_root_key()), (&registry, UnixMillis(7), true));
        let roots = image.open_roots(&key).expect("opens");
        assert_eq!(
            roots.iter().map(RootAuthority::digest).collect::<Vec<_>>(),
            [registry.trust().expect("one").issuer().key]
        );
        assert!(image.open_roots(&other).is_err());
        let refused = Image::read(sealed.as_slice(), &other);
        assert!(matches!(refused, Err(ReadError::Archive(_))), "{refused:?}");
        // Cut after whole JSON would do, if the end were not looked for.
        let refused = Image::read(&sealed[..sealed.len() - 1], &key);
        assert!(matches!(refused, Err(ReadError::Archive(_))), "{refused:?}");
    }

    #[test]
    fn only_who_keeps_the_root_makes_one_and_only_of_a_federation() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut member, registry) = founded(&dir);
        let key = OpeningKey::generate().expect("made");
        let refused = backup(&member, &Registry::default(), &key);
        assert!(matches!(refused, Err(BackupError::NotFounded)), "{refused:?}");
        member.node = 2;
        let refused = backup(&member, &registry, &key);
        assert!(
            matches!(&refused, Err(BackupError::NotKeeper { keepers }) if *keepers == ["us-east/gw-1"]),
            "{refused:?}"
        );
    }

    #[test]
    fn something_else_that_was_sealed_is_no_backup() {
        let key = OpeningKey::generate().expect("made");
        let mut writer = ArchiveWriter::new(Vec::new(), Recipient(key.public())).expect("begun");
        writer.write_all(b"{}").expect("written");
        let sealed = writer.finish().expect("finished");
        let refused = Image::read(sealed.as_slice(), &key);
        assert!(matches!(refused, Err(ReadError::Content(_))), "{refused:?}");
    }
}
