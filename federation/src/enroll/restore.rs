//! Starting a federation again from a backup, on one gateway.
//!
//! The gateway is one of those that the backup knows. With the keys that the backup has on record it keeps its place;
//! without them it gets new ones, which the root signs here, and takes the place of the gateway of its name. Its registry
//! is written as a snapshot with this gateway as the only voter; the others come back as learners. The registry's file
//! is put in place last: until then the same command goes on where it stopped.

use std::time::SystemTime;

use isthmus_identity::{INTERMEDIATE_LIFETIME, IdentityError, OpeningKey, RootAuthority, random_digest};
use isthmus_model::command::Refusal;
use isthmus_model::name::{ClusterName, FederationDomain, Label};
use isthmus_model::registry::Registry;
use isthmus_model::registry::node::{Node, NodeId};
use isthmus_model::registry::restoration::{Restoration, Survivor};
use isthmus_model::spiffe::SpiffeId;

use super::{EnrollError, GatewayName, Member, Newborn, resume};
use crate::backup::Image;
use crate::data_dir::{DataDir, DataDirError};
use crate::raft_types::{Peer, PeerAddress};
use crate::{lineage, store};

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Another federation's backup.
    #[error("the backup is of federation {found}, the configuration says {configured}: check `federation`")]
    WrongFederation {
        /// The backup's.
        found: FederationDomain,
        /// The configuration's.
        configured: FederationDomain,
    },
    /// The backup does not know this gateway.
    #[error(
        "the backup has no gateway {cluster}/{gateway}: restore on one that it has ({}), check `cluster` and `gateway`",
        members.join(", ")
    )]
    NotMember {
        /// The configuration's cluster.
        cluster: ClusterName,
        /// The configuration's gateway.
        gateway: Label,
        /// Those that it has, as `cluster/gateway`.
        members: Vec<String>,
    },
    /// There is a registry already.
    #[error(
        "{path} exists: a registry that is there is not replaced. If it is lost for good, stop the gateway and move the file away"
    )]
    RegistryExists {
        /// Its file.
        path: String,
    },
    /// Nothing here can sign new keys.
    #[error(
        "the root's key is with the operator, not in the backup: restore on a gateway whose data directory still has its identity"
    )]
    NoRootKey,
    /// The data directory or the keys in it are unusable.
    #[error(transparent)]
    Enroll(#[from] EnrollError),
    /// The registry does not take it.
    #[error("the backup cannot be restored: {0}")]
    Refused(#[from] Refusal),
    /// The registry's file was not written.
    #[error(transparent)]
    Store(#[from] store::SeedError),
}

impl From<IdentityError> for RestoreError {
    fn from(error: IdentityError) -> Self {
        Self::Enroll(error.into())
    }
}

impl From<DataDirError> for RestoreError {
    fn from(error: DataDirError) -> Self {
        Self::Enroll(error.into())
    }
}

/// What was prepared.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The gateway's number from now on.
    pub node: NodeId,
    /// Whether it goes on with the keys that it had.
    pub kept_identity: bool,
    /// The registry that it starts from.
    pub registry: Registry,
}

/// Prepares the data directory of gateway `name`, from which it starts the federation again.
///
/// # Errors
/// [`RestoreError`], before anything of the registry was written.
pub fn restore(
    image: Image,
    identity: &OpeningKey,
    name: &GatewayName,
    data: &DataDir,
) -> Result<Restored, RestoreError> {
    let now = SystemTime::now();
    let known = known(&image, name)?;
    if data.registry().exists() {
        return Err(RestoreError::RegistryExists { path: data.registry().display().to_string() });
    }
    let roots = image.open_roots(identity)?;
    let present = resume(name, data)?.filter(|member| is_on_record(member, known));
    let (node, taken_at, drawn) = (known.0, image.taken_at, random_digest()?);
    let restoration = |survivor| Restoration { lineage: drawn, survivor, taken_at, at: now.into() };
    let registry = image.registry;
    let (kept_identity, (registry, node)) = match present {
        Some(member) => (true, reopen(registry, &restoration(Survivor::Known(node)), &roots, &member.opening_key)?),
        None => {
            let newborn = Newborn::prepare(name, data)?;
            let issuer = registry.trust().map(|trust| trust.issuer().key);
            let issuer = roots.iter().find(|root| Some(root.digest()) == issuer).ok_or(RestoreError::NoRootKey)?;
            let id = SpiffeId::gateway(name.federation.trust_domain(&name.cluster), name.gateway.clone());
            let introduction = newborn.introduction.clone();
            let certificates = issuer.certify(&introduction.requests, &id, INTERMEDIATE_LIFETIME, now)?;
            let survivor = Survivor::Anew { introduction: Box::new(introduction), certificates: certificates.clone() };
            let restored = reopen(registry, &restoration(survivor), &roots, &newborn.opening_key)?;
            newborn.settle(name, data, restored.1, &certificates, restored.0.root_certificates())?;
            (false, restored)
        }
    };
    data.forget_founding()?;
    // Before the file is there: a gateway that is started in between misses it, and does not begin an empty one.
    let id = random_digest()?;
    data.update_node(|file| file.with_registry(id).with_lineage(lineage::mark(&registry)))?;
    let (cluster, gateway) = (name.cluster.clone(), name.gateway.clone());
    let address = PeerAddress { cluster, gateway, east_west: name.east_west };
    store::seed(&data.registry(), id, node, Peer(Some(address)), &registry)?;
    Ok(Restored { node, kept_identity, registry })
}

/// The gateway's record in the backup.
fn known<'a>(image: &'a Image, name: &GatewayName) -> Result<(NodeId, &'a Node), RestoreError> {
    let configured = name.federation.clone();
    if let Some(found) = image.domain().filter(|found| **found != configured).cloned() {
        return Err(RestoreError::WrongFederation { found, configured });
    }
    image.registry.member(&name.cluster, &name.gateway).ok_or_else(|| RestoreError::NotMember {
        cluster: name.cluster.clone(),
        gateway: name.gateway.clone(),
        members: image.registry.members().map(|(_, node)| format!("{}/{}", node.cluster, node.gateway)).collect(),
    })
}

/// Whether the keys in the data directory are those that the backup has on record.
fn is_on_record(member: &Member, (id, node): (NodeId, &Node)) -> bool {
    let key = member.credentials.key().digest();
    let certified = node.issued.iter().any(|issued| issued.gateway_key == key);
    member.node == id && certified && node.sealing_key == member.opening_key.public()
}

/// The registry with every root that is kept in it sealed to the survivor.
fn reopen(
    registry: Registry,
    restoration: &Restoration,
    roots: &[RootAuthority],
    survivor: &OpeningKey,
) -> Result<(Registry, NodeId), RestoreError> {
    registry.restored(restoration, |node, root| {
        let authority = roots.iter().find(|authority| authority.digest() == root.key).ok_or(RestoreError::NoRootKey)?;
        Ok(authority.seal(node, &survivor.public())?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::tests::{backup, founded, name};

    fn image(member: &Member, registry: &Registry, key: &OpeningKey) -> Image {
        Image::read(backup(member, registry, key).expect("made").as_slice(), key).expect("read")
    }

    fn stored(data: &DataDir) -> Registry {
        let (_, machine) = store::open(&data.registry(), &store::Disk::Real).expect("opens");
        Registry::clone(&machine.watch().borrow())
    }

    #[test]
    fn a_gateway_with_its_keys_keeps_them_and_a_registry_is_never_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let (member, registry) = founded(&dir);
        let key = OpeningKey::generate().expect("made");
        let restored = restore(image(&member, &registry, &key), &key, &name(), &member.data).expect("restored");
        assert_eq!((restored.node, restored.kept_identity), (member.node, true));
        assert_eq!(stored(&member.data), restored.registry);
        assert!(!member.data.founding().exists(), "nothing is founded any more");
        let again = restore(image(&member, &registry, &key), &key, &name(), &member.data);
        assert!(matches!(again, Err(RestoreError::RegistryExists { .. })), "{again:?}");
    }

    #[test]
    fn a_restore_that_was_interrupted_goes_on_with_the_same_keys() {
        let (dir, empty) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let (member, registry) = founded(&dir);
        let key = OpeningKey::generate().expect("made");
        let data = DataDir::open(empty.path()).expect("opens");
        let once = restore(image(&member, &registry, &key), &key, &name(), &data).expect("restored");
        assert!(!once.kept_identity && once.node > member.node);
        // As if it had been killed before the last step.
        std::fs::remove_file(data.registry()).expect("removed");
        let again = restore(image(&member, &registry, &key), &key, &name(), &data).expect("restored");
        let latest = |restored: &Restored| restored.registry.nodes()[&restored.node].latest().map(|it| it.gateway_key);
        assert_eq!((again.node, latest(&again)), (once.node, latest(&once)));
        assert_ne!(again.registry.lineage(), once.registry.lineage(), "another restored registry");
        // What starts from it is a member whose key opens the root's.
        let resumed = resume(&name(), &data).expect("reads").expect("a member");
        let trust = again.registry.trust().expect("founded");
        assert!(RootAuthority::unseal(&name().federation, trust.issuer(), resumed.node, &resumed.opening_key).is_ok());
    }

    #[test]
    fn strangers_and_other_federations_are_refused_before_anything_is_written() {
        let (dir, empty) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let (member, registry) = founded(&dir);
        let key = OpeningKey::generate().expect("made");
        let data = DataDir::open(empty.path()).expect("opens");
        let stranger = GatewayName { cluster: "eu-central".parse().expect("valid"), ..name() };
        let refused = restore(image(&member, &registry, &key), &key, &stranger, &data);
        assert!(matches!(refused, Err(RestoreError::NotMember { .. })), "{refused:?}");
        let elsewhere = GatewayName { federation: "other.mesh".parse().expect("valid"), ..name() };
        let refused = restore(image(&member, &registry, &key), &key, &elsewhere, &data);
        assert!(matches!(refused, Err(RestoreError::WrongFederation { .. })), "{refused:?}");
        assert_eq!(std::fs::read_dir(empty.path()).expect("reads").count(), 0);
    }
}
