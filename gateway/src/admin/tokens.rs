//! Tokens: the one thing that an operator changes through the admin API.
//!
//! The secret exists in this process only while the answer is written; the registry and the log never see it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use isthmus_identity::{BearerToken, CONTACTS_MAX, certificate_key_digest};
use isthmus_model::command::{Command, Outcome};
use isthmus_model::registry::Registry;
use isthmus_model::registry::node::NodeId;
use isthmus_model::registry::token::{Grant, Token, TokenId, TokenState};
use isthmus_model::time::UnixMillis;

use super::failure::Failure;
use super::view::Reading;
use super::{AdminState, api};
use crate::config::{GatewayConfig, duration};

/// The longest life of a join token. It is used within minutes, or it lies around.
const JOIN_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest life of a workload token: it is part of a deployment, and a year is a deployment's age.
const WORKLOAD_TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Mints a token and agrees on it with the federation.
pub(super) async fn create(state: &AdminState, request: api::TokenRequest) -> Result<api::TokenCreated, Failure> {
    let Minted { token, command, expires_at } = mint(&state.read(SystemTime::now().into()), request)?;
    state.proposals.propose(command).await?;
    tracing::info!(id = %token.id, cluster = %token.cluster, "minted a token");
    Ok(api::TokenCreated { id: token.id.clone(), token: token.to_string(), expires_at })
}

/// Makes a token useless.
pub(super) async fn revoke(state: &AdminState, id: TokenId) -> Result<api::TokenRevoked, Failure> {
    let outcome = state.proposals.propose(Command::RevokeToken { id: id.clone() }).await?;
    tracing::info!(%id, "revoked a token");
    Ok(api::TokenRevoked { id, changed: outcome == Outcome::Changed })
}

struct Minted {
    token: BearerToken,
    command: Command,
    expires_at: UnixMillis,
}

fn mint(reading: &Reading, request: api::TokenRequest) -> Result<Minted, Failure> {
    let own = &reading.config.cluster;
    let (cluster, grant, ttl_max) = match request.grant {
        api::Grant::Join { cluster } => (cluster.clone(), Grant::Join { cluster }, JOIN_TTL_MAX),
        api::Grant::Workload { workload } => {
            (own.clone(), Grant::Workload { cluster: own.clone(), workload }, WORKLOAD_TTL_MAX)
        }
    };
    let ttl = Duration::from_secs(request.ttl_seconds);
    if ttl.is_zero() || ttl > ttl_max {
        let message = format!("the token's life must be from 1s to {}", duration::format(ttl_max));
        return Err(Failure::new(StatusCode::BAD_REQUEST, message));
    }
    let no_federation = || {
        let message = "this gateway has not heard of its federation yet: see `isthmus status` for the registry";
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
    };
    let federation = reading.registry.federation().ok_or_else(no_federation)?;
    let root = federation.roots.first().ok_or_else(no_federation)?;
    let root = certificate_key_digest(root)
        .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the federation's root: {error}")))?;
    let contacts = match &grant {
        Grant::Join { .. } => newcomer_contacts(&reading.registry, federation.custodian, reading.status.node),
        Grant::Workload { .. } => control_contact(&reading.config).into_iter().collect(),
    };
    let token = BearerToken::mint(federation.domain.clone(), cluster, contacts, root);
    let expires_at = reading.now.saturating_add(ttl);
    let command = Command::MintToken { id: token.id.clone(), secret_hash: token.secret.hash(), grant, expires_at };
    Ok(Minted { token, command, expires_at })
}

/// Whom a newcomer calls, in order: the custodian, which signs; the gateway that minted; then the others.
fn newcomer_contacts(registry: &Registry, custodian: NodeId, own: NodeId) -> Vec<SocketAddr> {
    let others = registry.nodes().keys().copied().filter(|id| *id != custodian && *id != own);
    let first = if custodian == own { vec![own] } else { vec![custodian, own] };
    let ordered = first.into_iter().chain(others);
    ordered.filter_map(|id| registry.nodes().get(&id)).map(|node| node.east_west).take(CONTACTS_MAX).collect()
}

/// Where a sidecar reaches this gateway. None when only the kernel knows the port.
fn control_contact(config: &GatewayConfig) -> Option<SocketAddr> {
    let mut control = config.listen.control;
    if control.ip().is_unspecified() {
        control.set_ip(config.advertised(config.listen.east_west).ip());
    }
    (control.port() != 0).then_some(control)
}

impl Reading {
    pub(super) fn tokens(&self) -> api::Tokens {
        let mut tokens: Vec<api::Token> =
            self.registry.tokens().iter().map(|(id, token)| self.token(id, token)).collect();
        tokens.sort_by(|a, b| (b.minted_at, &b.id).cmp(&(a.minted_at, &a.id)));
        api::Tokens { tokens }
    }

    fn token(&self, id: &TokenId, token: &Token) -> api::Token {
        api::Token {
            id: id.clone(),
            grant: match &token.grant {
                Grant::Join { cluster } => api::Grant::Join { cluster: cluster.clone() },
                Grant::Workload { workload, .. } => api::Grant::Workload { workload: workload.clone() },
            },
            minted_by: token.minted_by.clone(),
            minted_at: token.minted_at,
            expires_at: token.expires_at,
            state: match token.state {
                TokenState::Redeemed { .. } => api::TokenState::Used,
                TokenState::Revoked { .. } => api::TokenState::Revoked,
                TokenState::Open if self.now >= token.expires_at => api::TokenState::Expired,
                TokenState::Open => api::TokenState::Open,
            },
        }
    }
}
