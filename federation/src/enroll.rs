//! How a gateway comes to its membership: it resumes it, founds the federation, or joins with a token.
//!
//! Each way ends with the same [`Member`]: a node id, the cluster's intermediate authority, and the roots.
//! A crash at any point is harmless: keys are on disk before anyone hears of them, and the registry admits
//! the same key to the same place however often it asks.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_identity::{
    BearerToken, ClusterAuthority, Expected, IdentityError, PrivateKey, RootAuthority, VerifyError,
    pinned_client_config,
};
use isthmus_model::command::{Introduction, Refusal};
use isthmus_model::locality::Locality;
use isthmus_model::name::{ClusterName, FederationDomain, Label};
use isthmus_model::registry::node::NodeId;
use isthmus_model::spiffe::SpiffeId;
use isthmus_wire::peer::join_client::JoinClient;
use isthmus_wire::peer::join_reply::Result as ReplyResult;
use isthmus_wire::peer::{Admission, JoinRequest};
use std::net::SocketAddr;
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::data_dir::{DataDir, DataDirError, NodeFile};
use crate::dial::{self, ALPN_H2};

/// How long a join waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// One contact's time to answer, which includes the registry's time to agree.
    pub attempt: Duration,
    /// How long contacts that do not answer are tried again.
    pub deadline: Duration,
}

/// Pause before the contacts are tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// After this long without an answer, a line tells what is being waited for.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);

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
}

/// A gateway with its membership.
pub struct Member {
    /// Who it is.
    pub name: GatewayName,
    /// Its id among the replicas.
    pub node: NodeId,
    /// Signs the identities of its cluster.
    pub authority: Arc<ClusterAuthority>,
    /// Signs clusters' intermediates; only the root's custodian has it.
    pub root: Option<RootAuthority>,
    /// The federated roots as of the founding or join, DER.
    pub roots: Vec<Vec<u8>>,
    /// Whether this gateway starts the federation.
    pub founder: bool,
    /// Its directory.
    pub data: DataDir,
}

impl Member {
    /// How the gateway introduces itself to the registry.
    #[must_use]
    pub fn introduction(&self) -> Introduction {
        introduction(&self.name, &self.authority)
    }
}

fn introduction(name: &GatewayName, authority: &ClusterAuthority) -> Introduction {
    Introduction {
        cluster: name.cluster.clone(),
        gateway: name.gateway.clone(),
        locality: name.locality.clone(),
        east_west: name.east_west,
        key: authority.key_digest(),
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
    #[error(
        "{contact} takes no joins: is this a workload token? Joining takes one of `token create --cluster {cluster}`"
    )]
    NoJoins {
        /// Who was asked.
        contact: SocketAddr,
        /// Who wants to join.
        cluster: ClusterName,
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
    let root = RootAuthority::load(data.path());
    Ok(Some(Member {
        name: name.clone(),
        node: file.node,
        authority: Arc::new(ClusterAuthority::load(data.path())?),
        founder: file.node == FOUNDER,
        root: if file.node == FOUNDER { Some(root?) } else { None },
        roots,
        data: data.clone(),
    }))
}

/// The node id that the first gateway gets.
pub const FOUNDER: NodeId = 1;

/// Makes the federation's root and the first cluster's intermediate.
///
/// # Errors
/// [`EnrollError`] when they cannot be made or kept.
pub fn found(name: &GatewayName, data: &DataDir) -> Result<Member, EnrollError> {
    let now = SystemTime::now();
    let root = match RootAuthority::load(data.path()) {
        Ok(root) => root,
        Err(_) => {
            let root = RootAuthority::create(&name.federation, now)?;
            root.save(data.path())?;
            root
        }
    };
    let key = PrivateKey::generate()?;
    let domain = name.federation.trust_domain(&name.cluster);
    let intermediate = root.sign_cluster(&key.csr()?, &domain, now)?;
    let authority = ClusterAuthority::new(key, intermediate)?;
    authority.save(data.path())?;
    let roots = vec![root.certificate().to_vec()];
    data.write_node(&node_file(name, FOUNDER, &roots))?;
    Ok(Member {
        name: name.clone(),
        node: FOUNDER,
        authority: Arc::new(authority),
        root: Some(root),
        roots,
        founder: true,
        data: data.clone(),
    })
}

fn node_file(name: &GatewayName, node: NodeId, roots: &[Vec<u8>]) -> NodeFile {
    NodeFile::new(name.federation.clone(), name.cluster.clone(), name.gateway.clone(), node, roots)
}

/// Joins with a token.
///
/// # Errors
/// [`EnrollError`]; a refused token is refused at once, contacts that do not answer are tried again until
/// the deadline.
pub async fn join(
    name: &GatewayName,
    data: &DataDir,
    token: &BearerToken,
    patience: Patience,
) -> Result<Member, EnrollError> {
    check_token(name, token)?;
    let key = match PrivateKey::load(&data.joining_key()) {
        Ok(key) => key,
        Err(_) => {
            let key = PrivateKey::generate()?;
            key.save(&data.joining_key())?;
            key
        }
    };
    let request = JoinRequest {
        token_id: token.id.to_string(),
        token_secret: token.secret.as_bytes().to_vec(),
        cluster: name.cluster.to_string(),
        gateway: name.gateway.to_string(),
        locality: name.locality.to_string(),
        east_west: name.east_west.to_string(),
        csr: key.csr()?,
    };
    let (contact, admission) = ask_contacts(token, &request, patience).await?;
    let bad = |reason: String| EnrollError::BadAdmission { contact, reason };
    if !admission.roots.iter().any(|root| isthmus_identity::certificate_key_digest(root).is_ok_and(|d| d == token.root))
    {
        return Err(bad("the token's root is not among the roots".to_owned()));
    }
    let authority = ClusterAuthority::new(key, admission.intermediate)?;
    if *authority.trust_domain() != name.federation.trust_domain(&name.cluster) {
        return Err(bad(format!("the intermediate is for {}", authority.trust_domain())));
    }
    authority.save(data.path())?;
    data.write_node(&node_file(name, admission.node, &admission.roots))?;
    // The key is now the authority's; left-overs of the join are only clutter.
    let _ = std::fs::remove_file(data.joining_key());
    Ok(Member {
        name: name.clone(),
        node: admission.node,
        authority: Arc::new(authority),
        root: None,
        roots: admission.roots,
        founder: false,
        data: data.clone(),
    })
}

fn check_token(name: &GatewayName, token: &BearerToken) -> Result<(), EnrollError> {
    if token.federation != name.federation {
        let (token, configured) = (token.federation.clone(), name.federation.clone());
        return Err(EnrollError::WrongFederation { token, configured });
    }
    if token.cluster != name.cluster {
        let (token, configured) = (token.cluster.clone(), name.cluster.clone());
        return Err(EnrollError::WrongCluster { token, configured });
    }
    Ok(())
}

async fn ask_contacts(
    token: &BearerToken,
    request: &JoinRequest,
    patience: Patience,
) -> Result<(SocketAddr, Admission), EnrollError> {
    let started = Instant::now();
    let mut last = "the token names no contact".to_owned();
    let mut told = false;
    loop {
        for contact in &token.contacts {
            match ask(*contact, token, request, patience.attempt).await {
                Ok(admission) => return Ok((*contact, admission)),
                Err(EnrollError::Unreachable { last: why }) => last = format!("{contact}: {why}"),
                Err(error) => return Err(error),
            }
        }
        if started.elapsed() > patience.deadline {
            return Err(EnrollError::Unreachable { last });
        }
        if !told && started.elapsed() > PROGRESS_AFTER {
            tracing::info!(federation = %token.federation, %last, "still waiting for a contact to answer the join");
            told = true;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn ask(
    contact: SocketAddr,
    token: &BearerToken,
    request: &JoinRequest,
    timeout: Duration,
) -> Result<Admission, EnrollError> {
    let expected: Expected = Arc::new(SpiffeId::is_gateway);
    let tls = pinned_client_config(token.root, token.federation.clone(), expected, None, &[ALPN_H2]);
    let mut client = JoinClient::new(dial::channel(contact, token.federation.join_sni(), tls));
    let mut call = Request::new(request.clone());
    call.set_timeout(timeout);
    let reply = client.redeem(call).await.map_err(|status| {
        if matches!(VerifyError::find_in(&status), Some(VerifyError::RootMismatch)) {
            EnrollError::WrongRoot { contact }
        } else if status.code() == Code::Unimplemented {
            EnrollError::NoJoins { contact, cluster: token.cluster.clone() }
        } else if was_closed(&status) {
            // A gateway does not answer to the name of another federation.
            let federation = &token.federation;
            EnrollError::Unreachable { last: format!("it closed the connection: is it a gateway of {federation}?") }
        } else {
            EnrollError::Unreachable { last: describe(&status) }
        }
    })?;
    match reply.into_inner().result {
        Some(ReplyResult::Admission(admission)) => Ok(admission),
        Some(ReplyResult::Refusal(refusal)) => {
            let refusal: Refusal = serde_json::from_slice(&refusal)
                .map_err(|error| EnrollError::BadAdmission { contact, reason: error.to_string() })?;
            Err(refusal.into())
        }
        None => Err(EnrollError::BadAdmission { contact, reason: "it is empty".to_owned() }),
    }
}

/// Whether the contact accepted the connection, and closed it before it said anything.
fn was_closed(status: &tonic::Status) -> bool {
    let status: &(dyn std::error::Error + 'static) = status;
    let errors = std::iter::successors(Some(status), |error| error.source());
    let mut kinds = errors.filter_map(|error| error.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    kinds.any(|kind| matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset))
}

/// A status with the cause that tonic keeps below it.
fn describe(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
