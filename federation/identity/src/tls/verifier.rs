//! rustls's verifier traits over [`TrustBundle::verify`], with whatever roots hold at the time.
//!
//! [`TrustBundle::verify`]: crate::verify::TrustBundle::verify

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};

use super::{Expected, LiveIdentity, PROVIDER};
use crate::error::VerifyError;
use crate::verify::{PeerUsage, Verified};

#[derive(Debug)]
pub(super) struct LiveClientVerifier {
    pub(super) identity: LiveIdentity,
    pub(super) mandatory: bool,
}

impl ClientCertVerifier for LiveClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        verify(&self.identity, end_entity, intermediates, PeerUsage::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12_is_not_offered())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

pub(super) struct LiveServerVerifier {
    pub(super) identity: LiveIdentity,
    pub(super) expected: Expected,
}

impl JudgesServer for LiveServerVerifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), VerifyError> {
        let verified = verify(&self.identity, leaf, issuers, PeerUsage::Server, now)?;
        meant(&verified, &self.expected)
    }
}

/// How a server is known: by the current roots, or at first contact by a token.
pub(super) trait JudgesServer: Send + Sync {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), VerifyError>;
}

/// The rest of a rustls server verifier.
pub(super) struct ServerVerifier(pub(super) Arc<dyn JudgesServer>);

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerVerifier")
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.judge(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12_is_not_offered())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

fn verify(
    identity: &LiveIdentity,
    leaf: &CertificateDer<'_>,
    issuers: &[CertificateDer<'_>],
    usage: PeerUsage,
    now: UnixTime,
) -> Result<Verified, VerifyError> {
    let trust = identity.trust().ok_or(VerifyError::NoTrust)?;
    trust.verify(&presented(leaf, issuers), usage, system_time(now))
}

pub(super) fn meant(verified: &Verified, expected: &Expected) -> Result<(), VerifyError> {
    if expected(verified.id()) { Ok(()) } else { Err(VerifyError::Unexpected(verified.id().clone())) }
}

pub(super) fn presented<'a>(
    leaf: &'a CertificateDer<'_>,
    issuers: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(issuers).map(|certificate| CertificateDer::from(certificate.as_ref())).collect()
}

pub(super) fn system_time(time: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

fn tls12_is_not_offered() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not offered".to_owned())
}
