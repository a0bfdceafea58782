//! What a gateway keeps on disk, and how it is told apart from an empty start.
//!
//! `node.json` is written last when a gateway founds or joins: with it the directory is a member's, without
//! it the founding or the join goes on where it stopped, under the same key.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use data_encoding::BASE64;
use isthmus_model::blob::Blob;
use isthmus_model::name::{ClusterName, FederationDomain, Label};
use isthmus_model::registry::node::NodeId;
use isthmus_model::registry::token::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A gateway's data directory.
#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
}

/// Who the owner of a data directory is: `node.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    /// The layout of the directory.
    pub format: u32,
    /// The federation.
    pub federation: FederationDomain,
    /// The cluster.
    pub cluster: ClusterName,
    /// The gateway's name.
    pub gateway: Label,
    /// Its id among the replicas.
    pub node: NodeId,
    /// The federated roots that it last knew, DER in base64.
    roots: Vec<String>,
    /// Which registry's file belongs to it, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<Digest>,
    /// The lineage of its registry, in hexadecimal; empty while that was never restored.
    #[serde(default)]
    pub lineage: Blob,
    /// The lineages of registries that an operator had it discard. It takes none of them again: what it had acknowledged
    /// there, and forgot, could be lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discarded: Vec<Blob>,
}

/// The layout that this version writes.
const FORMAT: u32 = 2;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The file system said no.
    #[error("{path}: {source}; check that the data directory exists and is writable")]
    Io {
        /// Which file.
        path: String,
        /// What it said.
        source: std::io::Error,
    },
    /// `node.json` is damaged.
    #[error("{path} is damaged: {reason}; restore it, or empty the directory and join again with a new token")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The directory belongs to another gateway.
    #[error("{path} belongs to gateway {found}, the configuration is for {expected}: use the matching data directory")]
    Foreign {
        /// Which file.
        path: String,
        /// Whose directory it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
}

impl DataDir {
    /// Uses `path`, made if need be, readable by its owner alone.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let io = |source| DataDirError::Io { path: path.display().to_string(), source };
        std::fs::create_dir_all(path).map_err(io)?;
        restrict(path).map_err(io)?;
        Ok(Self { path: path.to_owned() })
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The registry's file.
    #[must_use]
    pub fn registry(&self) -> PathBuf {
        self.path.join("registry.redb")
    }

    /// The registry of a recovery that is under way, sealed to the gateway itself.
    #[must_use]
    pub fn recovery(&self) -> PathBuf {
        self.path.join("recovery.backup")
    }

    /// The gateway's keys and certificates.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.path.join("identity")
    }

    /// Keys that are to become [`identity`](Self::identity) once they are certified. Kept so that a repeated join,
    /// founding or renewal is the same one.
    #[must_use]
    pub fn next_identity(&self) -> PathBuf {
        self.path.join("identity.next")
    }

    /// The key that opens what is sealed to this gateway.
    #[must_use]
    pub fn sealing_key(&self) -> PathBuf {
        self.path.join("sealing.key")
    }

    /// The command that founds the federation, until it is on record.
    #[must_use]
    pub fn founding(&self) -> PathBuf {
        self.path.join("founding.json")
    }

    /// Removes [`founding`](Self::founding): what it founded is on record, or another registry takes its place.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn forget_founding(&self) -> Result<(), DataDirError> {
        let path = self.founding();
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(DataDirError::Io { path: path.display().to_string(), source })
            }
            _ => Ok(()),
        }
    }

    /// The root that the founding of this gateway's federation waits for, while its key is offline.
    #[must_use]
    pub fn founding_request(&self) -> PathBuf {
        self.path.join("founding.request.json")
    }

    fn node_file(&self) -> PathBuf {
        self.path.join("node.json")
    }

    /// Whose directory it is; `None` while it is nobody's.
    ///
    /// # Errors
    /// [`DataDirError`] when that cannot be told.
    pub fn read_node(&self) -> Result<Option<NodeFile>, DataDirError> {
        let path = self.node_file();
        let shown = path.display().to_string();
        let Some(node) = self.read_json::<NodeFile>(&path)? else { return Ok(None) };
        let damaged = |reason: String| DataDirError::Damaged { path: shown.clone(), reason };
        if node.format != FORMAT {
            return Err(damaged(format!("format {} is not format {FORMAT}", node.format)));
        }
        node.roots().map_err(damaged)?;
        Ok(Some(node))
    }

    /// Makes the directory `node`'s.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn write_node(&self, node: &NodeFile) -> Result<(), DataDirError> {
        let path = self.node_file();
        self.write_json(&path, node)
    }

    /// Changes what is said of whose the directory is, if it is anybody's. Of a gateway's tasks one at a time does.
    ///
    /// # Errors
    /// [`DataDirError`]; nothing is changed then.
    pub fn update_node(&self, change: impl FnOnce(NodeFile) -> NodeFile) -> Result<(), DataDirError> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = self.read_node()? else { return Ok(()) };
        let changed = change(file.clone());
        if changed == file { Ok(()) } else { self.write_node(&changed) }
    }

    /// Writes a document so that a crash leaves the old one or the new one, readable by the owner alone.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn write_json<T: Serialize>(&self, path: &Path, document: &T) -> Result<(), DataDirError> {
        let unwritable = |source| DataDirError::Io { path: path.display().to_string(), source };
        let text = serde_json::to_vec_pretty(document).map_err(|error| unwritable(error.into()))?;
        self.write_private(path, &text)
    }

    /// Writes bytes so that a crash leaves the old ones or the new ones, readable by the owner alone.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn write_private(&self, path: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
        let io = |source| DataDirError::Io { path: path.display().to_string(), source };
        let mut draft = path.as_os_str().to_owned();
        draft.push(".new");
        let draft = Path::new(&draft);
        let mut file = private(draft).map_err(io)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
        std::fs::rename(draft, path).map_err(io)?;
        std::fs::File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(io)
    }

    /// Reads a document; `None` where there is none.
    ///
    /// # Errors
    /// [`DataDirError`] when it cannot be read.
    pub fn read_json<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, DataDirError> {
        let shown = path.display().to_string();
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DataDirError::Io { path: shown, source }),
        };
        let damaged = |error: serde_json::Error| DataDirError::Damaged { path: shown, reason: error.to_string() };
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    /// Removes a document, if it is there.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn remove(&self, path: &Path) -> Result<(), DataDirError> {
        match std::fs::remove_file(path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(DataDirError::Io { path: path.display().to_string(), source })
            }
            _ => Ok(()),
        }
    }

    /// Checks that the directory is the one that the configuration means.
    ///
    /// # Errors
    /// [`DataDirError::Foreign`].
    pub fn check_owner(
        &self,
        node: &NodeFile,
        federation: &FederationDomain,
        cluster: &ClusterName,
        gateway: &Label,
    ) -> Result<(), DataDirError> {
        let name = |federation: &FederationDomain, cluster: &ClusterName, gateway: &Label| {
            format!("{gateway} of {cluster} in {federation}")
        };
        let (found, expected) =
            (name(&node.federation, &node.cluster, &node.gateway), name(federation, cluster, gateway));
        if found == expected {
            return Ok(());
        }
        Err(DataDirError::Foreign { path: self.path.display().to_string(), found, expected })
    }
}

impl NodeFile {
    /// The record of a gateway that founded or joined.
    #[must_use]
    pub fn new(
        federation: FederationDomain,
        cluster: ClusterName,
        gateway: Label,
        node: NodeId,
        roots: &[Vec<u8>],
    ) -> Self {
        let roots = roots.iter().map(|root| BASE64.encode(root)).collect();
        Self {
            format: FORMAT,
            federation,
            cluster,
            gateway,
            node,
            roots,
            registry: None,
            lineage: Blob::default(),
            discarded: Vec::new(),
        }
    }

    /// The same gateway, which knows these roots by now.
    #[must_use]
    pub fn with_roots(self, roots: &[Vec<u8>]) -> Self {
        Self { roots: roots.iter().map(|root| BASE64.encode(root)).collect(), ..self }
    }

    /// The same gateway, to which that registry belongs by now.
    #[must_use]
    pub fn with_registry(self, registry: Digest) -> Self {
        Self { registry: Some(registry), ..self }
    }

    /// The same gateway, whose registry is of that lineage. One that is empty yet, or lags behind its last snapshot, has
    /// none to tell: what is known stays.
    #[must_use]
    pub fn with_lineage(self, lineage: Blob) -> Self {
        if lineage.0.is_empty() { self } else { Self { lineage, ..self } }
    }

    /// The same gateway without the registry that it has or had, of whose lineage it takes none again.
    #[must_use]
    pub fn without_registry(mut self) -> Self {
        if self.registry.take().is_some() && !self.discarded.contains(&self.lineage) {
            self.discarded.push(std::mem::take(&mut self.lineage));
        }
        self
    }

    /// The roots, DER.
    ///
    /// # Errors
    /// What is wrong with their encoding.
    pub fn roots(&self) -> Result<Vec<Vec<u8>>, String> {
        let decode = |root: &String| BASE64.decode(root.as_bytes()).map_err(|error| format!("a root: {error}"));
        self.roots.iter().map(decode).collect()
    }
}

fn private(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn restrict(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeFile {
        let valid = "valid";
        NodeFile::new(
            "acme.mesh".parse().expect(valid),
            "us-east".parse().expect(valid),
            "gw-1".parse().expect(valid),
            7,
            &[vec![1, 2, 3]],
        )
    }

    #[test]
    fn a_directory_is_nobodys_until_its_node_is_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::open(&dir.path().join("data")).expect("opens");
        assert_eq!(data.read_node().expect("reads"), None);
        data.write_node(&node()).expect("writes");
        let read = data.read_node().expect("reads").expect("is there");
        assert_eq!(read, node());
        assert_eq!(read.roots().expect("decodes"), [vec![1, 2, 3]]);
    }

    #[test]
    fn a_damaged_or_foreign_directory_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::open(dir.path()).expect("opens");
        std::fs::write(data.node_file(), b"{\"format\":1").expect("writes");
        assert!(matches!(data.read_node(), Err(DataDirError::Damaged { .. })));
        let other: ClusterName = "us-west".parse().expect("valid");
        let refusal = data.check_owner(&node(), &node().federation, &other, &node().gateway);
        assert!(matches!(refusal, Err(DataDirError::Foreign { .. })));
    }
}
