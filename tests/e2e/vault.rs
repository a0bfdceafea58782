//! Files that go to a machine with a root's key and come back, and the commands at both ends.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, SystemTime};

use isthmus::ca_files::{RequestsFile, Signed, SignedFile};
use isthmus_identity::RootAuthority;
use isthmus_model::spiffe::SpiffeId;
use serde_json::Value;
use tempfile::TempDir;

use crate::federation::{BINARY, Cluster};

/// A certificate of this life is due for renewal as soon as it is signed: it begins five minutes before.
const DUE_AT_ONCE: Duration = Duration::from_secs(140);
/// Runs a program to its end. Nothing is on its standard input.
pub(crate) async fn run(directory: &Path, program: &str, args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(program);
    command.current_dir(directory).args(args).stdin(std::process::Stdio::null());
    command.output().await.expect("it runs")
}

pub(crate) async fn isthmus(directory: &Path, args: &[&str]) -> Output {
    run(directory, BINARY, args).await
}

pub(crate) fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) async fn done(directory: &Path, args: &[&str]) {
    let output = isthmus(directory, args).await;
    assert!(output.status.success(), "{args:?}: {}", told(&output));
}

pub(crate) async fn refused(directory: &Path, args: &[&str], reason: &str) {
    let output = isthmus(directory, args).await;
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", told(&output));
    assert!(told(&output).contains(reason), "{args:?}: {}", told(&output));
}

/// A machine without a network: only files go in and out.
pub(crate) struct Vault(TempDir);

impl Vault {
    pub(crate) async fn new(federation: &str) -> Self {
        let vault = Self(tempfile::tempdir().expect("a directory"));
        done(vault.path(), &["ca", "root", "--federation", federation, "--out", "root"]).await;
        vault
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Carries the requests in, and what was signed out.
    pub(crate) async fn sign(&self, cluster: &Cluster) {
        fs::copy(cluster.path("requests.json"), self.path().join("requests.json")).expect("carried in");
        done(self.path(), &SIGN).await;
        fs::copy(self.path().join("signed.json"), cluster.path("signed.json")).expect("carried out");
    }

    /// The same, but for a life that is over soon.
    pub(crate) fn sign_shortly(&self, cluster: &Cluster) {
        let requests = fs::read(cluster.path("requests.json")).expect("there");
        let requests = RequestsFile::parse(&requests).expect("requests");
        let root = RootAuthority::load(&self.path().join("root"), requests.federation.clone()).expect("the root");
        let signed = requests.entries.iter().map(|asking| {
            let domain = requests.federation.trust_domain(&asking.cluster);
            let id = SpiffeId::gateway(domain, asking.gateway.clone());
            let certificates = root.certify(&asking.requests, &id, DUE_AT_ONCE, SystemTime::now()).expect("signed");
            let (cluster, gateway) = (asking.cluster.clone(), asking.gateway.clone());
            Signed { cluster, gateway, authority_key: asking.requests.authority_key, certificates }
        });
        let signed = SignedFile::new(requests.federation.clone(), root.digest(), signed.collect());
        fs::write(cluster.path("signed.json"), signed.to_text().expect("text")).expect("written");
    }
}

pub(crate) const SIGN: [&str; 9] =
    ["ca", "sign", "--root-dir", "root", "--requests", "requests.json", "--out", "signed.json", "--yes"];
/// Runs `isthmus ca ...` at the running gateway, in its directory.
pub(crate) async fn ca(cluster: &Cluster, args: &[&str]) -> Output {
    let admin = format!("unix:{}", cluster.path("data/admin.sock").display());
    isthmus(cluster.directory(), &[&["--admin", &admin, "-o", "json", "ca"], args].concat()).await
}

pub(crate) async fn imported(cluster: &Cluster) -> Value {
    let output = ca(cluster, &["import", "signed.json"]).await;
    assert!(output.status.success(), "{}", told(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    answer["issued"][0]["changed"].clone()
}
