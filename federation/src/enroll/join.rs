//! Joining with a token: the newcomer's side. The other one is [`crate::join`].

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_identity::{
    BearerToken, Expected, PeerUsage, TrustBundle, VerifyError, certificate_key_digest, pinned_client_config,
};
use isthmus_model::command::Refusal;
use isthmus_model::registry::node::Certificates;
use isthmus_model::spiffe::SpiffeId;
use isthmus_wire::peer::join_client::JoinClient;
use isthmus_wire::peer::join_reply::Result as ReplyResult;
use isthmus_wire::peer::{Admission, JoinRequest};
use tokio::time::Instant;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tonic::{Code, Request};

use super::{EnrollError, GatewayName, Member, Newborn, Patience};
use crate::data_dir::DataDir;
use crate::dial::{self, ALPN_H2, Connect};
use crate::protocol::Spoken;

/// Pause before the contacts are tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Pause before an admitted gateway asks again whether its certificates are signed. The operator has to walk to the
/// root's key and back.
const SIGNED_PAUSE: Duration = Duration::from_secs(2);
/// After this long without an answer, a line tells what is being waited for.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);

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
    connect: &Connect,
) -> Result<Member, EnrollError> {
    check_token(name, token)?;
    let newborn = Newborn::prepare(name, data)?;
    let introduction = &newborn.introduction;
    let request = JoinRequest {
        token_id: token.id.to_string(),
        token_secret: token.secret.as_bytes().to_vec(),
        cluster: name.cluster.to_string(),
        gateway: name.gateway.to_string(),
        locality: name.locality.to_string(),
        east_west: name.east_west.to_string(),
        gateway_request: introduction.requests.gateway.0.clone(),
        authority_request: introduction.requests.authority.0.clone(),
        sealing_key: introduction.sealing_key.0.0.to_vec(),
        spoken: Some(Spoken::own().tell()),
    };
    let (contact, admission) = ask_contacts(token, &request, patience, connect).await?;
    let bad = |reason: String| EnrollError::BadAdmission { contact, reason };
    // Only the token's root is believed of a contact. Others, if there are any, come with the registry.
    let known = |root: &Vec<u8>| certificate_key_digest(root).is_ok_and(|digest| digest == token.root);
    let mut roots = admission.roots;
    roots.retain(known);
    if roots.is_empty() {
        return Err(bad("the token's root is not among the roots".to_owned()));
    }
    let trust = TrustBundle::new(name.federation.clone(), roots.clone())?;
    let verified = trust
        .verify(&[CertificateDer::from(admission.certificate.clone())], PeerUsage::Server, SystemTime::now())
        .map_err(|error| bad(format!("this gateway's certificate: {error}")))?;
    let meant = SpiffeId::gateway(name.federation.trust_domain(&name.cluster), name.gateway.clone());
    if *verified.id() != meant {
        return Err(bad(format!("the certificate is for {}", verified.id())));
    }
    let certificates = Certificates {
        gateway: admission.certificate.into(),
        intermediate: admission.intermediate.into(),
        root: token.root,
        not_after: verified.not_after().into(),
    };
    newborn.settle(name, data, admission.node, &certificates, roots)
}

fn check_token(name: &GatewayName, token: &BearerToken) -> Result<(), EnrollError> {
    if token.federation != name.federation {
        let (token, configured) = (token.federation.clone(), name.federation.clone());
        return Err(EnrollError::WrongFederation { token, configured });
    }
    if let Some(cluster) = token.cluster.as_ref().filter(|cluster| **cluster != name.cluster) {
        let (token, configured) = (cluster.clone(), name.cluster.clone());
        return Err(EnrollError::WrongCluster { token, configured });
    }
    Ok(())
}

async fn ask_contacts(
    token: &BearerToken,
    request: &JoinRequest,
    patience: Patience,
    connect: &Connect,
) -> Result<(SocketAddr, Admission), EnrollError> {
    let started = Instant::now();
    let mut last = "the token names no contact".to_owned();
    let (mut told, mut waits) = (false, false);
    loop {
        for contact in &token.contacts {
            match ask(*contact, token, request, patience.attempt, connect).await {
                Ok(Answer::Admitted(admission)) => return Ok((*contact, admission)),
                Ok(Answer::Waiting { offline }) => {
                    if !waits {
                        waits = true;
                        wait_for_signature(token, offline);
                    }
                    break;
                }
                Err(EnrollError::Unreachable { last: why }) => last = format!("{contact}: {why}"),
                Err(error) => return Err(error),
            }
        }
        // Who is admitted and waits for an operator waits as long as that takes.
        if !waits && started.elapsed() > patience.deadline {
            return Err(EnrollError::Unreachable { last });
        }
        if !told && started.elapsed() > PROGRESS_AFTER {
            tracing::info!(federation = %token.federation, %last, "still waiting for a contact to answer the join");
            told = true;
        }
        tokio::time::sleep(if waits { SIGNED_PAUSE } else { RETRY_PAUSE }).await;
    }
}

/// Tells, once, what a join waits for that is already admitted.
fn wait_for_signature(token: &BearerToken, offline: bool) {
    let cluster = token.cluster.as_ref().map(ToString::to_string);
    if offline {
        tracing::info!(
            cluster,
            "admitted; waiting for an operator to sign this gateway's certificates: \
            `isthmus ca pending --export FILE` at a member writes the request down, `isthmus ca sign` answers it \
            where the root's key is, `isthmus ca import` at the member brings the answer"
        );
    } else {
        tracing::info!(cluster, "admitted; waiting for a voter to sign this gateway's certificates");
    }
}

/// What a contact says.
enum Answer {
    Admitted(Admission),
    Waiting { offline: bool },
}

async fn ask(
    contact: SocketAddr,
    token: &BearerToken,
    request: &JoinRequest,
    timeout: Duration,
    connect: &Connect,
) -> Result<Answer, EnrollError> {
    let expected: Expected = Arc::new(SpiffeId::is_gateway);
    let tls = pinned_client_config(token.root, token.federation.clone(), expected, None, &[ALPN_H2]);
    let mut client = JoinClient::new(dial::channel(connect, contact, token.federation.join_sni(), tls));
    let mut call = Request::new(request.clone());
    call.set_timeout(timeout);
    let reply = client.redeem(call).await.map_err(|status| {
        if matches!(VerifyError::find_in(&status), Some(VerifyError::RootMismatch)) {
            EnrollError::WrongRoot { contact }
        } else if status.code() == Code::Unimplemented {
            EnrollError::NoJoins { contact }
        } else if status.code() == Code::FailedPrecondition {
            EnrollError::Version { contact, reason: status.message().to_owned() }
        } else if was_closed(&status) {
            // A gateway does not answer to the name of another federation.
            let federation = &token.federation;
            EnrollError::Unreachable { last: format!("it closed the connection: is it a gateway of {federation}?") }
        } else {
            EnrollError::Unreachable { last: describe(&status) }
        }
    })?;
    match reply.into_inner().result {
        Some(ReplyResult::Admission(admission)) => Ok(Answer::Admitted(admission)),
        Some(ReplyResult::Waiting(waiting)) => Ok(Answer::Waiting { offline: waiting.offline }),
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
