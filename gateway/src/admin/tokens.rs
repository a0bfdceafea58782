//! Tokens: the one thing that an operator changes through the admin API.
//!
//! The secret exists in this process only while the answer is written; the registry and the log never see it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use isthmus_identity::{BearerToken, CONTACTS_MAX};
use isthmus_model::command::{Command, Outcome};
use isthmus_model::registry::Registry;
use isthmus_model::registry::node::{Node, NodeId};
use isthmus_model::registry::token::{Digest, Grant, Invitation, Redemption, Token, TokenId};
use isthmus_model::time::UnixMillis;

use super::failure::Failure;
use super::view::Reading;
use super::{AdminState, api};
use crate::config::duration;

/// The longest life of a join token. It is used within minutes, or it lies around.
const JOIN_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest life of a workload token: it is part of a deployment, and a year is a deployment's age.
const WORKLOAD_TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Mints a token and agrees on it with the federation.
pub(super) async fn create(state: &AdminState, request: api::TokenRequest) -> Result<api::TokenCreated, Failure> {
    let Minted { token, command, expires_at } = mint(&state.read(SystemTime::now().into()), request)?;
    state.proposals.propose(command).await?;
    let cluster = token.cluster.as_ref().map(tracing::field::display);
    tracing::info!(id = %token.id, cluster, "minted a token");
    Ok(api::TokenCreated { id: token.id.clone(), token: token.to_string(), expires_at })
}

/// Makes a token useless.
pub(super) async fn revoke(state: &AdminState, id: TokenId) -> Result<api::TokenRevoked, Failure> {
    let known = state.registry.borrow().token(&id).is_ok();
    let outcome = state.proposals.propose(Command::RevokeToken { id: id.clone() }).await?;
    tracing::info!(%id, "revoked a token");
    Ok(api::TokenRevoked { id, changed: outcome == Outcome::Changed, known })
}

struct Minted {
    token: BearerToken,
    command: Command,
    expires_at: UnixMillis,
}

fn mint(reading: &Reading, request: api::TokenRequest) -> Result<Minted, Failure> {
    let own = &reading.config.cluster;
    let (cluster, grant, ttl_max) = match request.grant {
        api::Grant::Join(api::Invitation { cluster, region, from, uses }) => {
            if cluster.is_none() && region.is_none() {
                let message = "a join token is for a cluster, a region, or both: name one";
                return Err(Failure::new(StatusCode::BAD_REQUEST, message));
            }
            (cluster.clone(), Grant::Join(Invitation { cluster, region, from, uses }), JOIN_TTL_MAX)
        }
        api::Grant::Workload { workload } => {
            (Some(own.clone()), Grant::Workload { cluster: own.clone(), workload }, WORKLOAD_TTL_MAX)
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
    let root = shown_root(&reading.registry, reading.status.node).unwrap_or(federation.trust.issuer().key);
    let contacts = match &grant {
        Grant::Join { .. } => newcomer_contacts(&reading.registry, reading.status.node, &root),
        Grant::Workload { .. } => control_contacts(reading, &root),
    };
    let token = BearerToken::mint(federation.domain.clone(), cluster, contacts, root);
    let expires_at = reading.now.saturating_add(ttl);
    let (id, secret_hash, gateway) = (token.id.clone(), token.secret.hash(), reading.config.gateway.clone());
    let command = Command::MintToken { id, secret_hash, grant, expires_at, gateway, root };
    Ok(Minted { token, command, expires_at })
}

/// The root that a gateway shows to whom comes with a token: the one that signed its certificates. During a rotation
/// gateways differ.
fn shown_root(registry: &Registry, node: NodeId) -> Option<Digest> {
    Some(registry.nodes().get(&node)?.latest()?.certificates.root)
}

/// Whom a newcomer calls, in order: the gateway that minted, then the others that show the same root.
fn newcomer_contacts(registry: &Registry, own: NodeId, root: &Digest) -> Vec<SocketAddr> {
    let shows = |id: &NodeId| shown_root(registry, *id).is_some_and(|shown| shown == *root);
    let mut members: Vec<(&NodeId, &Node)> = registry.members().filter(|(id, _)| **id == own || shows(id)).collect();
    members.sort_by_key(|(id, _)| (**id != own, **id));
    members.into_iter().map(|(_, node)| node.east_west).take(CONTACTS_MAX).collect()
}

/// Whom a sidecar calls, in order: this gateway, then the others of its cluster that show the same root.
fn control_contacts(reading: &Reading, root: &Digest) -> Vec<SocketAddr> {
    let shows = |id: &NodeId| shown_root(&reading.registry, *id).is_some_and(|shown| shown == *root);
    let others = reading
        .registry
        .members()
        .filter(|(id, node)| **id != reading.status.node && node.cluster == reading.config.cluster && shows(id));
    let others = others.filter_map(|(_, node)| node.control);
    reading.config.control_contact().into_iter().chain(others).take(CONTACTS_MAX).collect()
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
                Grant::Join(Invitation { cluster, region, from, uses }) => api::Grant::Join(api::Invitation {
                    cluster: cluster.clone(),
                    region: region.clone(),
                    from: *from,
                    uses: *uses,
                }),
                Grant::Workload { workload, .. } => api::Grant::Workload { workload: workload.clone() },
            },
            minted_by: token.minted_by.clone(),
            minted_at_gateway: token.minted_at_gateway.clone(),
            minted_at: token.minted_at,
            expires_at: token.expires_at,
            state: token_state(token, self.now),
            redemptions: token.redemptions.iter().map(redemption).collect(),
        }
    }
}

/// What became of a token.
pub(super) fn token_state(token: &Token, now: UnixMillis) -> api::TokenState {
    if token.is_used_up() {
        api::TokenState::Used
    } else if token.revoked_at.is_some() {
        api::TokenState::Revoked
    } else if now >= token.expires_at {
        api::TokenState::Expired
    } else {
        api::TokenState::Open
    }
}

fn redemption(redemption: &Redemption) -> api::Redemption {
    api::Redemption { node: redemption.node, from: redemption.from, at: redemption.at }
}
