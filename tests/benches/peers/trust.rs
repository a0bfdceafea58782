//! Certificates for the others, of the same kinds as ours: ECDSA with P-256, a SPIFFE ID in a leaf.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The identities of a pair's halves.
const CLIENT: &str = "spiffe://peers/client";
const SERVER: &str = "spiffe://peers/server";

/// An authority, whose certificate is in `ca.pem`, and those of both halves in `client.pem` and `server.pem`, with their keys.
pub(crate) struct Trust {
    roots: RootCertStore,
}

impl Trust {
    /// Writes them into `directory`. All are for the name of the service that does TLS itself, too.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // By default all names are the same, and a leaf would look like its own issuer.
        params.distinguished_name.push(DnType::CommonName, "root");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let authority = CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)?;
        fs::write(directory.join("ca.pem"), pem("CERTIFICATE", authority.der()))?;
        for (name, id) in [("client", CLIENT), ("server", SERVER)] {
            let mut params = CertificateParams::default();
            let id = SanType::URI(id.try_into().map_err(io::Error::other)?);
            let dns = SanType::DnsName(super::isthmus::tls_sni().try_into().map_err(io::Error::other)?);
            params.subject_alt_names = vec![id, dns];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            let key = KeyPair::generate().map_err(io::Error::other)?;
            let leaf = params.signed_by(&key, &authority).map_err(io::Error::other)?;
            fs::write(directory.join(format!("{name}.pem")), pem("CERTIFICATE", leaf.der()))?;
            fs::write(directory.join(format!("{name}.key")), pem("PRIVATE KEY", &key.serialize_der()))?;
        }
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).map_err(io::Error::other)?;
        Ok(Self { roots })
    }

    /// A TLS client that trusts the authority. Each of its handshakes is a full one.
    pub(crate) fn client(&self) -> io::Result<Arc<ClientConfig>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
        let builder = builder.map_err(io::Error::other)?.with_root_certificates(self.roots.clone());
        let mut config = builder.with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// The text form of a certificate or key (RFC 7468), which is what the others read.
fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: String =
        (0..text.len()).step_by(64).map(|at| format!("{}\n", &text[at..text.len().min(at + 64)])).collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

/// Envoy's transport socket of a pair's first half.
pub(crate) fn envoy_client() -> String {
    format!(
        "{{name: tls, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, \
         sni: server, common_tls_context: {}}}}}",
        envoy_context("client", SERVER)
    )
}

/// Envoy's transport socket of the second.
pub(crate) fn envoy_server() -> String {
    format!(
        "{{name: tls, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, \
         require_client_certificate: true, common_tls_context: {}}}}}",
        envoy_context("server", CLIENT)
    )
}

fn envoy_context(own: &str, other: &str) -> String {
    format!(
        "{{alpn_protocols: [h2], tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}, \
         tls_certificates: [{{certificate_chain: {{filename: {own}.pem}}, private_key: {{filename: {own}.key}}}}], \
         validation_context: {{trusted_ca: {{filename: ca.pem}}, \
         match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: \"{other}\"}}}}]}}}}"
    )
}
