//! The routes of both surfaces, and what every request is checked for before it reaches one.

use std::net::IpAddr;
use std::time::SystemTime;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRef, Path, Query, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use isthmus_model::name::{ClusterName, Label, ServiceName};
use isthmus_model::registry::token::TokenId;
use serde::Deserialize;

use super::ca_requests::ANSWER_BYTES_MAX;
use super::failure::Failure;
use super::view::Reading;
use super::{AdminState, api, backup, ca, ca_requests, membership, tokens};
use crate::config::{GatewayConfig, is_loopback};

/// The largest request. A token request has under 300 bytes.
const BODY_BYTES_MAX: usize = 4096;

/// Who can send a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Any process of this machine, through the loopback port: may read.
    Loopback,
    /// The owner of the data directory, through the socket in it: may change.
    Socket,
}

/// The API as `surface` has it.
pub fn router(state: AdminState, surface: Surface) -> Router {
    let routes = Router::new()
        .route("/v1/status", get(async |State(now): State<Reading>| Json(now.status())))
        .route("/v1/snapshot", get(async |State(now): State<Reading>| Json(now.snapshot_age())))
        .route("/v1/clusters", get(async |State(now): State<Reading>| Json(now.clusters())))
        .route("/v1/services", get(async |State(now): State<Reading>| Json(now.services())))
        .route("/v1/endpoints/{namespace}/{name}", get(endpoints))
        .route("/v1/problems", get(async |State(now): State<Reading>| Json(now.problems())))
        .route("/v1/config", get(async |State(now): State<Reading>| Json(GatewayConfig::clone(&now.config))))
        .route("/v1/registry", get(async |State(state): State<AdminState>| Json(state.replicas())))
        .route("/v1/audit", get(async |State(now): State<Reading>| Json(now.audit())))
        .route("/v1/tokens", get(async |State(now): State<Reading>| Json(now.tokens())))
        .route("/v1/ca/requests", get(async |State(now): State<Reading>| now.ca_requests().map(Json)))
        .merge(ca::reads());
    let routes = match surface {
        Surface::Loopback => routes,
        Surface::Socket => routes
            .merge(ca::changes())
            .route("/v1/tokens", post(create_token))
            .route("/v1/tokens/{id}", delete(revoke_token))
            .route("/v1/clusters/{name}", post(change_membership))
            .route("/v1/backup", post(backup::create))
            .route("/v1/ca/certificates", post(take_certificates).layer(DefaultBodyLimit::max(ANSWER_BYTES_MAX))),
    };
    let read_only = surface == Surface::Loopback;
    let routes = routes
        .fallback(async move |method: Method, uri: Uri| {
            let changes = !matches!(method, Method::GET | Method::HEAD);
            let missing = || Failure::new(StatusCode::NOT_FOUND, format!("there is no {}", uri.path()));
            if read_only && changes { not_allowed() } else { missing() }
        })
        .method_not_allowed_fallback(async || not_allowed())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state);
    match surface {
        Surface::Loopback => routes.layer(middleware::from_fn(refuse_foreign_host)),
        Surface::Socket => routes,
    }
}

fn not_allowed() -> Failure {
    let message = "not allowed here: changes are taken only on admin.sock in the gateway's data directory";
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

impl FromRef<AdminState> for Reading {
    fn from_ref(state: &AdminState) -> Self {
        state.read(SystemTime::now().into())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortQuery {
    port: Option<u16>,
}

async fn endpoints(
    State(now): State<Reading>,
    path: Result<Path<(Label, Label)>, PathRejection>,
    query: Result<Query<PortQuery>, QueryRejection>,
) -> Result<Json<api::Endpoints>, Failure> {
    let bad = |text: String| Failure::new(StatusCode::BAD_REQUEST, text);
    let Path((namespace, name)) = path.map_err(|rejection| bad(rejection.body_text()))?;
    let Query(PortQuery { port }) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let found = now.endpoints(&ServiceName { namespace, name }, port);
    found.map(Json).map_err(|error| Failure::new(StatusCode::NOT_FOUND, error.to_string()))
}

async fn create_token(
    State(state): State<AdminState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<api::TokenCreated>), Failure> {
    let body = body.map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))?;
    let request = serde_json::from_slice(&body);
    let request = request.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("token request: {error}")))?;
    Ok((StatusCode::CREATED, Json(tokens::create(&state, request).await?)))
}

async fn take_certificates(
    State(state): State<AdminState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<api::CaIssued>, Failure> {
    let body = body.map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))?;
    let signed = serde_json::from_slice(&body);
    let signed = signed.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("certificates: {error}")))?;
    Ok(Json(ca_requests::take(&state, &signed).await?))
}

async fn revoke_token(
    State(state): State<AdminState>,
    path: Result<Path<TokenId>, PathRejection>,
) -> Result<Json<api::TokenRevoked>, Failure> {
    let Path(id) = path.map_err(|rejection| Failure::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
    Ok(Json(tokens::revoke(&state, id).await?))
}

async fn change_membership(
    State(state): State<AdminState>,
    path: Result<Path<ClusterName>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<api::MembershipChanged>, Failure> {
    let Path(cluster) = path.map_err(|rejection| Failure::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
    let body = body.map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))?;
    let change = serde_json::from_slice(&body);
    let change = change.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("membership: {error}")))?;
    Ok(Json(membership::change(&state, cluster, change).await?))
}

/// Refuses requests that were sent to a name. A web page that points its own name at 127.0.0.1 (DNS
/// rebinding) can make a browser send them, and could read the answers.
async fn refuse_foreign_host(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let own = match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_own_host(host) && request.uri().authority().is_none_or(|a| is_own_name(a.host())),
        _ => false,
    };
    if own {
        return next.run(request).await;
    }
    let message = "the Host has to be localhost or a loopback address: dial the admin port by its address";
    Failure::new(StatusCode::FORBIDDEN, message).into_response()
}

fn is_own_host(host: &HeaderValue) -> bool {
    let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| !authority.as_str().contains('@') && is_own_name(authority.host()))
}

fn is_own_name(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(is_loopback)
}
