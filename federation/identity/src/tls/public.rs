//! Certificates for clients from outside: the operator's, from files, and not of the federation.
//!
//! A client is shown the first certificate that is valid for the name that it asks for, and none for any other name: what is
//! served under a name is what its certificate says. TLS 1.3 only, here too.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};

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

struct Shown {
    file: PathBuf,
    key: Arc<CertifiedKey>,
}

impl Shown {
    fn is_valid_for(&self, name: &str) -> bool {
        let (Some(leaf), Ok(name)) = (self.key.cert.first(), ServerName::try_from(name)) else { return false };
        ParsedCertificate::try_from(leaf).is_ok_and(|leaf| verify_server_name(&leaf, &name).is_ok())
    }
}

impl PublicCertificates {
    /// Reads every `NAME.crt` of a directory with its `NAME.key`, in the order of names, in place of what was read before.
    /// Returns how many there are.
    ///
    /// # Errors
    /// The first file that cannot be used; what was read before stays.
    pub fn read(&self, directory: &Path) -> Result<usize, IdentityError> {
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
        let shown = files.into_iter().map(shown).collect::<Result<Vec<_>, _>>()?;
        let count = shown.len();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = shown.into();
        Ok(count)
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
        self.choose(hello.server_name()?, |shown| shown.key.clone())
    }
}

impl fmt::Debug for PublicCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        f.debug_list().entries(all.iter().map(|shown| &shown.file)).finish()
    }
}

fn shown(file: PathBuf) -> Result<Shown, IdentityError> {
    let content = |path: &Path, expected| IdentityError::FileContent { path: path.to_owned(), expected };
    let chain = read_pem(&file, Secrecy::World)?;
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let chain = chain.ok().filter(|chain| (1..=CHAIN_LEN_MAX).contains(&chain.len()));
    let chain = chain.ok_or_else(|| content(&file, "a chain of PEM certificates, the server's own first"))?;
    let leaf = chain.first().map(ParsedCertificate::try_from);
    if !matches!(leaf, Some(Ok(_))) {
        return Err(content(&file, "a server's certificate"));
    }
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
    Ok(Shown { file, key: Arc::new(key) })
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
        assert_eq!(certificates.read(directory.path()).expect("read"), 2);
        let shown = |name: &str| certificates.choose(name, |shown| shown.file.file_stem().map(|stem| stem.to_owned()));
        assert_eq!(shown("www.example.com").flatten(), Some("a".into()));
        assert_eq!(shown("api.example.com").flatten(), Some("b".into()));
        for name in ["example.org", "a.b.example.com", "10.0.0.1", ""] {
            assert_eq!(shown(name), None, "{name}");
        }
        assert!(certificates.covers("www.example.com", "example.com"));
        assert!(!certificates.covers("www.example.com", "api.example.com"), "the other one is");
        assert!(certificates.covers("api.example.com", "x.example.com"));
    }

    #[test]
    fn what_cannot_be_used_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let certificates = PublicCertificates::default();
        let own = write(directory.path(), "a", &["example.com"]);
        certificates.read(directory.path()).expect("read");
        let nonsense = || fs::write(directory.path().join("a.key"), "nonsense").expect("written");
        let others = || write_key(directory.path(), "a", &KeyPair::generate().expect("a key"));
        for (spoil, expected) in
            [(&others as &dyn Fn(), "the key of the certificate beside it"), (&nonsense, "a PEM private key")]
        {
            spoil();
            let error = certificates.read(directory.path()).expect_err(expected).to_string();
            assert!(error.contains("a.key") && error.contains(expected), "{error}");
            assert!(certificates.covers("example.com", "example.com"), "the earlier one stays");
        }
        write_key(directory.path(), "a", &own);
        fs::write(directory.path().join("b.crt"), "nonsense").expect("written");
        let error = certificates.read(directory.path()).expect_err("nonsense").to_string();
        assert!(error.contains("b.crt") && error.contains("a chain of PEM certificates"), "{error}");
    }
}
