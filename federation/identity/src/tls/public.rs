//! Certificates for clients from outside: the operator's, from files, and not of the federation.
//!
//! A client is shown the first certificate that is valid for the name that it asks for, and none for any other name: what is
//! served under a name is what its certificate says. TLS 1.3 only, here too.
//!
//! Files are read, and what is in them is taken apart, when they have changed; a handshake only looks a name up. A file that cannot be
//! used keeps nobody else's certificate from being renewed: its own last good one stays.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use webpki::EndEntityCert;

use super::{PROVIDER, protocols};
use crate::error::IdentityError;
use crate::file::{Secrecy, read_pem};

/// Certificates of one directory.
const CERTIFICATES_MAX: usize = 256;
/// Certificates of one chain; public authorities use two or three.
const CHAIN_LEN_MAX: usize = 8;

/// The certificates, replaceable at any time. Clones share them.
#[derive(Clone, Default)]
pub struct PublicCertificates(Arc<RwLock<Arc<[Shown]>>>);

#[derive(Clone)]
struct Shown {
    file: PathBuf,
    key: Arc<CertifiedKey>,
    /// What it is valid for, in lower case; `*.` stands for one label (RFC 9525 §6.3). Addresses are not among them: no server name
    /// is one (RFC 6066 §3). By these one of our own is chosen: to judge whether it is valid is for the client who is shown it.
    names: Arc<HashSet<String>>,
}

impl Shown {
    /// Whether it is valid for a name in lower case.
    fn is_valid_for(&self, name: &str) -> bool {
        // Nor is `*.example.com`, which a certificate may have, a host's name.
        DnsName::try_from(name).is_ok()
            && (self.names.contains(name)
                || name.split_once('.').is_some_and(|(_, parent)| self.names.contains(&format!("*.{parent}"))))
    }
}

/// What came of reading a directory.
#[derive(Debug)]
pub struct Reading {
    /// How many certificates are shown now.
    pub shown: usize,
    /// Files that cannot be used. The last good one of each is still shown, if there was one.
    pub failed: Vec<IdentityError>,
}

impl PublicCertificates {
    /// Reads every `NAME.crt` of a directory with its `NAME.key`, in the order of names, in place of what was read before.
    ///
    /// # Errors
    /// When the directory cannot be read, or holds too few or too many; what was read before stays.
    pub fn read(&self, directory: &Path) -> Result<Reading, IdentityError> {
        let failed = |source| IdentityError::File { action: "read", path: directory.to_owned(), source };
        let entries = fs::read_dir(directory).map_err(failed)?;
        let mut files = Vec::new();
        for entry in entries {
            let file = entry.map_err(failed)?.path();
            if file.extension().is_some_and(|extension| extension == "crt") {
                files.push(file);
            }
        }
        files.sort();
        if files.is_empty() || files.len() > CERTIFICATES_MAX {
            let (path, expected) = (directory.to_owned(), "1 to 256 certificates, each as NAME.crt with NAME.key");
            return Err(IdentityError::FileContent { path, expected });
        }
        let before = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut failed = Vec::new();
        let mut shown = Vec::with_capacity(files.len());
        for file in files {
            match read_one(&file) {
                Ok(read) => shown.push(read),
                Err(error) => {
                    failed.push(error);
                    shown.extend(before.iter().find(|known| known.file == file).cloned());
                }
            }
        }
        let count = shown.len();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = shown.into();
        Ok(Reading { shown: count, failed })
    }

    /// A server configuration that shows them.
    #[must_use]
    pub fn server_config(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&version::TLS13])
            .expect("the provider has TLS 1.3 suites");
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = protocols(alpn);
        Arc::new(config)
    }

    /// Whether a client that asked for `name` was shown a certificate that is valid for `host` too.
    #[must_use]
    pub fn covers(&self, name: &str, host: &str) -> bool {
        self.choose(name, |shown| shown.is_valid_for(host)).unwrap_or(false)
    }

    fn choose<T>(&self, name: &str, use_it: impl Fn(&Shown) -> T) -> Option<T> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        all.iter().find(|shown| shown.is_valid_for(name)).map(use_it)
    }
}

impl ResolvesServerCert for PublicCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(&hello.server_name()?.to_ascii_lowercase(), |shown| shown.key.clone())
    }
}

impl fmt::Debug for PublicCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        f.debug_list().entries(all.iter().map(|shown| &shown.file)).finish()
    }
}

fn read_one(file: &Path) -> Result<Shown, IdentityError> {
    let content = |path: &Path, expected| IdentityError::FileContent { path: path.to_owned(), expected };
    let chain = read_pem(file, Secrecy::World)?;
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let chain = chain.ok().filter(|chain| (1..=CHAIN_LEN_MAX).contains(&chain.len()));
    let chain = chain.ok_or_else(|| content(file, "a chain of PEM certificates, the server's own first"))?;
    let leaf = chain.first().and_then(|leaf| EndEntityCert::try_from(leaf).ok());
    let leaf = leaf.ok_or_else(|| content(file, "a server's certificate"))?;
    let names = Arc::new(leaf.valid_dns_names().map(str::to_ascii_lowercase).collect());
    let key_file = file.with_extension("key");
    let key = read_pem(&key_file, Secrecy::World)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| content(&key_file, "a PEM private key"))?;
    let key = PROVIDER
        .key_provider
        .load_private_key(key)
        .map_err(|_| content(&key_file, "a key of a kind that TLS 1.3 uses"))?;
    let key = CertifiedKey::new(chain, key);
    // One whose public key cannot be told is compared by the first handshake.
    if key.keys_match().is_err_and(|error| matches!(error, rustls::Error::InconsistentKeys(reason) if reason == rustls::InconsistentKeys::KeyMismatch)) {
        return Err(content(&key_file, "the key of the certificate beside it"));
    }
    Ok(Shown { file: file.to_owned(), key: Arc::new(key), names })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::file::{write_certificate, write_pem};

    fn write(directory: &Path, name: &str, hosts: &[&str]) -> KeyPair {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>());
        let certificate = params.expect("names").self_signed(&key).expect("signed");
        write_certificate(&directory.join(format!("{name}.crt")), certificate.der()).expect("written");
        write_key(directory, name, &key);
        key
    }

    fn write_key(directory: &Path, name: &str, key: &KeyPair) {
        let file = directory.join(format!("{name}.key"));
        write_pem(&file, "PRIVATE KEY", &key.serialize_der(), Secrecy::Owner).expect("written");
    }

    #[test]
    fn a_client_is_shown_what_is_valid_for_its_name_or_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let certificates = PublicCertificates::default();
        assert!(certificates.read(directory.path()).expect_err("empty").to_string().contains("1 to 256 certificates"));
        write(directory.path(), "a", &["www.example.com", "example.com"]);
        write(directory.path(), "b", &["*.example.com"]);
        assert_eq!(certificates.read(directory.path()).expect("read").shown, 2);
        let shown = |name: &str| certificates.choose(name, |shown| shown.file.file_stem().map(|stem| stem.to_owned()));
        assert_eq!(shown("www.example.com").flatten(), Some("a".into()));
        assert_eq!(shown("api.example.com").flatten(), Some("b".into()));
        for name in ["example.org", "a.b.example.com", "*.example.com", ".example.com", "com", "10.0.0.1", ""] {
            assert_eq!(shown(name), None, "{name}");
        }
        assert!(certificates.covers("www.example.com", "example.com"));
        assert!(!certificates.covers("www.example.com", "api.example.com"), "the other one is");
        assert!(certificates.covers("api.example.com", "x.example.com"));
    }

    #[test]
    fn what_cannot_be_used_is_told_and_keeps_nothing_else_from_being_renewed() {
        let directory = tempfile::tempdir().expect("a directory");
        let certificates = PublicCertificates::default();
        let own = write(directory.path(), "a", &["example.com"]);
        write(directory.path(), "b", &["old.example.org"]);
        assert!(certificates.read(directory.path()).expect("read").failed.is_empty());
        let nonsense = || fs::write(directory.path().join("a.key"), "nonsense").expect("written");
        let others = || write_key(directory.path(), "a", &KeyPair::generate().expect("a key"));
        for (renewed, spoil, expected) in [
            ("new.example.org", &others as &dyn Fn(), "the key of the certificate beside it"),
            ("newer.example.org", &nonsense, "a PEM private key"),
        ] {
            spoil();
            write(directory.path(), "b", &[renewed]);
            let Reading { shown, failed } = certificates.read(directory.path()).expect("read");
            let error = failed.iter().map(ToString::to_string).collect::<String>();
            assert!(failed.len() == 1 && error.contains("a.key") && error.contains(expected), "{error}");
            assert!(shown == 2 && certificates.covers("example.com", "example.com"), "the earlier one stays");
            assert!(
                certificates.covers(renewed, renewed) && !certificates.covers("old.example.org", "old.example.org")
            );
        }
        write_key(directory.path(), "a", &own);
        fs::write(directory.path().join("c.crt"), "nonsense").expect("written");
        let Reading { shown, failed } = certificates.read(directory.path()).expect("read");
        let error = failed.iter().map(ToString::to_string).collect::<String>();
        assert!(shown == 2 && error.contains("c.crt") && error.contains("a chain of PEM certificates"), "{error}");
        // What is taken away is no longer shown.
        fs::remove_file(directory.path().join("a.crt")).expect("removed");
        certificates.read(directory.path()).expect("read");
        assert!(!certificates.covers("example.com", "example.com"));
    }
}
