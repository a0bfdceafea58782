//! TLS configurations that live as long as the process, over credentials and roots that do not.
//!
//! A [`LiveIdentity`] is a shared cell. Configurations made from it look into the cell at every
//! handshake, so renewal and root rotation never rebuild a listener or a connection pool.
//!
//! TLS 1.3 only, with the post-quantum hybrid X25519MLKEM768 preferred. Host names are not verified:
//! whom a client reached is decided by the SPIFFE ID and an [`Expected`] rule.
//!
//! Sessions are never resumed. A resumed session skips the certificates of both sides: it would admit
//! a peer whose root or cluster was removed since, and would go on showing a short-lived certificate
//! that was renewed long ago. Connections are pooled and long-lived, so little is lost.

mod credentials;
mod export;
mod guarded;
mod peer;
mod pinned;
mod public;
#[cfg(test)]
mod tests;
mod verifier;

use std::fmt;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::SystemTime;

use isthmus_model::spiffe::SpiffeId;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, version};
use tokio::sync::watch;

pub use export::ExportedSvid;
pub use guarded::Guarded;
pub use peer::Peer;
pub use pinned::pinned_client_config;
pub use public::{PublicCertificates, Reading};

use crate::error::IdentityError;
use crate::key::PrivateKey;
use crate::verify::TrustBundle;
use credentials::{Credentials, LiveCredentials};
use verifier::{JudgesServer, LiveClientVerifier, LiveServerVerifier, ServerVerifier};

/// Decides whether a verified server is the one that was meant.
pub type Expected = Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync>;

/// What a server asks of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No handshake without a verified certificate.
    Required,
    /// A client may show none; one that it shows must verify.
    Optional,
    /// Never asked for.
    None,
}

/// aws-lc-rs with the key exchanges in our order: first the hybrid that a recording of today's traffic
/// cannot be broken without, then the two that everybody has.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    })
});

/// This process's certificates and roots, replaceable at any time. Clones share one cell.
#[derive(Clone, Default)]
pub struct LiveIdentity {
    cell: Arc<RwLock<Arc<State>>>,
    /// The trust of the cell, for those who wait for it to change.
    trust: watch::Sender<Option<Arc<TrustBundle>>>,
}

#[derive(Clone, Default)]
struct State {
    credentials: Option<Credentials>,
    /// How often they were replaced.
    renewals: u64,
    trust: Option<Arc<TrustBundle>>,
    /// The credentials as a server shows them: with the root, by which a first contact checks its token.
    server: Option<Arc<CertifiedKey>>,
}

impl LiveIdentity {
    /// An identity without credentials and roots: handshakes fail until it has them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the credentials, DER: leaf and intermediate, as [`ClusterAuthority::sign`] returns them, or a
    /// gateway's leaf alone.
    /// Handshakes from now on use them; established sessions stay.
    ///
    /// [`ClusterAuthority::sign`]: crate::ClusterAuthority::sign
    ///
    /// # Errors
    /// When the chain is something else, the leaf has no SPIFFE ID, or the key is another's. The old
    /// credentials stay.
    pub fn set_credentials(&self, chain: Vec<Vec<u8>>, key: PrivateKey) -> Result<(), IdentityError> {
        let credentials = Credentials::read(chain, &key)?;
        self.replace(|state| {
            state.credentials = Some(credentials);
            state.renewals += 1;
        });
        Ok(())
    }

    /// How often the credentials were replaced: tells whether a session was begun with the present ones.
    #[must_use]
    pub fn renewals(&self) -> u64 {
        self.state().renewals
    }

    /// Replaces the roots, and the denied keys, that peers are verified against. Whoever holds a [`Peer`] judges it
    /// again.
    pub fn set_trust(&self, bundle: TrustBundle) {
        let bundle = Arc::new(bundle);
        self.replace(|state| state.trust = Some(bundle.clone()));
        self.trust.send_replace(Some(bundle));
    }

    /// What peers are verified against, as it changes.
    #[must_use]
    pub fn trust_changes(&self) -> watch::Receiver<Option<Arc<TrustBundle>>> {
        self.trust.subscribe()
    }

    /// Who this process is, if it has credentials.
    #[must_use]
    pub fn id(&self) -> Option<SpiffeId> {
        self.state().credentials.as_ref().map(|credentials| credentials.id.clone())
    }

    /// From when to when the current leaf is valid.
    #[must_use]
    pub fn lifetime(&self) -> Option<(SystemTime, SystemTime)> {
        let window = self.state().credentials.as_ref()?.window;
        Some((window.not_before, window.not_after))
    }

    /// The roots that peers are verified against at present.
    #[must_use]
    pub fn trust(&self) -> Option<Arc<TrustBundle>> {
        self.state().trust.clone()
    }

    /// A server configuration that shows the current leaf, intermediate and root.
    #[must_use]
    pub fn server_config(&self, client_auth: ClientAuth, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&version::TLS13])
            .expect("the provider has TLS 1.3 suites");
        let mandatory = match client_auth {
            ClientAuth::Required => Some(true),
            ClientAuth::Optional => Some(false),
            ClientAuth::None => None,
        };
        let builder = match mandatory {
            Some(mandatory) => {
                let identity = self.clone();
                builder.with_client_cert_verifier(Arc::new(LiveClientVerifier { identity, mandatory }))
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(LiveCredentials(self.clone())));
        config.alpn_protocols = protocols(alpn);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    /// A client configuration that shows the current leaf and intermediate, if there are any, and
    /// accepts a verified server for which `expected` holds.
    #[must_use]
    pub fn client_config(&self, expected: Expected, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        client_config(Arc::new(LiveServerVerifier { identity: self.clone(), expected }), Some(self), alpn)
    }

    fn state(&self) -> Arc<State> {
        self.cell.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, change: impl FnOnce(&mut State)) {
        let mut cell = self.cell.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&cell);
        change(&mut state);
        state.server = state.credentials.as_ref().map(|own| own.with_root(state.trust.as_deref()));
        *cell = Arc::new(state);
    }
}

impl fmt::Debug for LiveIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveIdentity").field("id", &self.id().map(String::from)).finish_non_exhaustive()
    }
}

fn client_config(judge: Arc<dyn JudgesServer>, own: Option<&LiveIdentity>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has TLS 1.3 suites")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier(judge)));
    let mut config = match own {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(LiveCredentials(identity.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols(alpn);
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn protocols(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.to_vec()).collect()
}
