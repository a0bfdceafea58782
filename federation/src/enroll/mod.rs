//! How a gateway comes to its membership: it resumes it, founds the federation, joins with a token, or starts the
//! federation again from a backup.
//!
//! Each way ends with the same [`Member`]: a node id, certified keys, and the roots.
//! A crash at any point is harmless: keys are on disk before anyone hears of them, and the registry admits
//! the same key to the same place however often it asks.

mod found;
mod join;
mod recover;
mod restore;

use std::net::SocketAddr;
use std::time::Duration;

use isthmus_identity::keyring::{self, GatewayCredentials, GatewayKeys};
use isthmus_identity::{IdentityError, OpeningKey};
use isthmus_model::command::{Command, Introduction, Refusal};
use isthmus_model::locality::Locality;
use isthmus_model::name::{ClusterName, FederationDomain, Label};
use isthmus_model::registry::node::{Certificates, NodeId};

pub use found::{FOUNDER, ask_root, found, found_signed, found_under};
pub use join::join;
pub use recover::{RecoverError, Remains, discard, recover, remains};
pub use restore::{RestoreError, Restored, restore};

use crate::data_dir::{DataDir, DataDirError, NodeFile};

/// How long a join waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// One contact's time to answer, which includes the registry's time to agree.
    pub attempt: Duration,
    /// How long contacts that do not answer are tried again.
    pub deadline: Duration,
}

/// Who a gateway is, from its configuration.
#[derive(Clone, Debug)]
pub struct GatewayName {
    /// The federation.
    pub federation: FederationDomain,
    /// The cluster.
    pub cluster: ClusterName,
    /// Its name within the cluster.
    pub gateway: Label,
    /// Where the cluster stands.
    pub locality: Locality,
    /// Where other gateways reach its east-west port.
    pub east_west: SocketAddr,
    /// Where its cluster's sidecars reach its control port, if that is known.
    pub control: Option<SocketAddr>,
}

/// A gateway with its membership.
pub struct Member {
    /// Who it is.
    pub name: GatewayName,
    /// Its id among the replicas.
    pub node: NodeId,
    /// Its certificates and keys.
    pub credentials: GatewayCredentials,
    /// Opens what is sealed to it.
    pub opening_key: OpeningKey,
    /// The federated roots as of the founding or join, DER.
    pub roots: Vec<Vec<u8>>,
    /// The command that founds the federation, on the gateway that starts it, until it is on record.
    pub founding: Option<Command>,
    /// Its directory.
    pub data: DataDir,
}

/// A new gateway's keys, and how it introduces itself with them.
struct Newborn {
    keys: GatewayKeys,
    opening_key: OpeningKey,
    introduction: Introduction,
}

impl Newborn {
    /// Takes up the keys that an earlier attempt left, or makes new ones.
    fn prepare(name: &GatewayName, data: &DataDir) -> Result<Self, EnrollError> {
        // Killed between the last two steps: these keys are the ones that were admitted.
        keyring::set_back(&data.identity(), &data.next_identity())?;
        let keys = GatewayKeys::load_or_generate(&data.next_identity())?;
        let opening_key = if data.sealing_key().exists() {
            OpeningKey::load(&data.sealing_key())?
        } else {
            let key = OpeningKey::generate()?;
            key.save(&data.sealing_key())?;
            key
        };
        let introduction = Introduction {
            cluster: name.cluster.clone(),
            gateway: name.gateway.clone(),
            locality: name.locality.clone(),
            east_west: name.east_west,
            sealing_key: opening_key.public(),
            requests: keys.requests()?,
        };
        Ok(Self { keys, opening_key, introduction })
    }

    /// Becomes a member with what was certified. `node.json` is written last.
    fn settle(
        self,
        name: &GatewayName,
        data: &DataDir,
        node: NodeId,
        certificates: &Certificates,
        roots: Vec<Vec<u8>>,
    ) -> Result<Member, EnrollError> {
        let credentials = self.keys.certified(certificates)?;
        credentials.install(&data.next_identity(), &data.identity())?;
        let (federation, cluster, gateway) = (name.federation.clone(), name.cluster.clone(), name.gateway.clone());
        data.write_node(&NodeFile::new(federation, cluster, gateway, node, &roots))?;
        let (name, data, opening_key) = (name.clone(), data.clone(), self.opening_key);
        Ok(Member { name, node, credentials, opening_key, roots, founding: None, data })
    }
}

/// Why a gateway has no membership.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Keys or certificates cannot be made, read or kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The token is for another federation.
    #[error("the token is for federation {token}, the configuration says {configured}: check `federation`")]
    WrongFederation {
        /// The token's.
        token: FederationDomain,
        /// The configuration's.
        configured: FederationDomain,
    },
    /// The token is for another cluster; found out before anything was sent.
    #[error(
        "the token is for cluster {token}, the configuration says {configured}: check `cluster`, and that it is no workload token: joining takes one of `token create --cluster {configured}`"
    )]
    WrongCluster {
        /// The token's.
        token: ClusterName,
        /// The configuration's.
        configured: ClusterName,
    },
    /// The contact's root is not the one that the token names. The secret was not sent.
    #[error(
        "{contact} shows a root that is not the token's: it is not the federation that minted the token, or the token was altered; the secret was not sent"
    )]
    WrongRoot {
        /// Who was asked.
        contact: SocketAddr,
    },
    /// The contact is a gateway of the federation, but not where gateways join.
    #[error("{contact} takes no joins: is this a workload token? Joining takes one of `token create --cluster`")]
    NoJoins {
        /// Who was asked.
        contact: SocketAddr,
    },
    /// The contact and this gateway are too many versions apart.
    #[error("{contact} does not admit this version: {reason}")]
    Version {
        /// Who was asked.
        contact: SocketAddr,
        /// What it said: which side to upgrade.
        reason: String,
    },
    /// The federation said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nobody answered.
    #[error(
        "no contact of the token answered in time ({last}): check that they are up, reachable from here, and gateways of the token's federation"
    )]
    Unreachable {
        /// What the last try met.
        last: String,
    },
    /// The founding on disk is something else.
    #[error("founding.json in the data directory does not found a federation: restore it, or empty the directory")]
    NotAFounding,
    /// A root's key that is offline has not answered yet.
    #[error(
        "the founding waits for its root, whose key is offline: go on with `isthmus init --signed FILE`, or remove {path} to found otherwise"
    )]
    WaitsForRoot {
        /// What records that it waits.
        path: String,
    },
    /// Another founding was begun in the directory.
    #[error(
        "a founding with a sealed root was begun in the data directory: start the gateway to finish it, or empty the directory"
    )]
    Begun,
    /// An answer without a question.
    #[error("nothing was asked of an offline root here: begin with `isthmus init --root offline --root-cert FILE`")]
    NothingAsked,
    /// The answer is not for this gateway's keys.
    #[error(
        "nothing in it is for this gateway's keys: is it the answer to the latest requests, and is the data directory the one that they were made in?"
    )]
    NotForThisGateway,
    /// The answer makes no sense.
    #[error("{contact} admitted this gateway with an unusable answer: {reason}")]
    BadAdmission {
        /// Who answered.
        contact: SocketAddr,
        /// What is wrong.
        reason: String,
    },
}

/// Takes up the membership that the data directory records, if it records one.
///
/// # Errors
/// [`EnrollError`] when the directory is damaged or another gateway's.
pub fn resume(name: &GatewayName, data: &DataDir) -> Result<Option<Member>, EnrollError> {
    let Some(file) = data.read_node()? else { return Ok(None) };
    data.check_owner(&file, &name.federation, &name.cluster, &name.gateway)?;
    let roots = file.roots().map_err(|reason| DataDirError::Damaged { path: "node.json".to_owned(), reason })?;
    keyring::recover(&data.next_identity(), &data.identity())?;
    Ok(Some(Member {
        name: name.clone(),
        node: file.node,
        credentials: GatewayCredentials::load(&data.identity())?,
        opening_key: OpeningKey::load(&data.sealing_key())?,
        roots,
        founding: data.read_json(&data.founding())?,
        data: data.clone(),
    }))
}
