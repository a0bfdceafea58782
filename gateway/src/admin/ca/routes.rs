//! The routes about roots: one that reads, for everyone, and those that change, for the owner of the socket.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;

use crate::admin::AdminState;
use crate::admin::failure::Failure;
use crate::admin::view::Reading;

use super::api;

/// The largest request for a rotation: a certificate and envelopes for more gateways than ever vote, in hexadecimal.
const NEXT_ROOT_BYTES_MAX: usize = 64 * 1024;

/// What everyone may ask.
pub(in crate::admin) fn reads() -> Router<AdminState> {
    Router::new()
        .route("/v1/ca", get(async |State(now): State<Reading>| Json(now.ca())))
        .route("/v1/ca/keepers", get(async |State(now): State<Reading>| now.keepers().map(Json)))
}

/// What changes something.
pub(in crate::admin) fn changes() -> Router<AdminState> {
    Router::new()
        .route("/v1/ca/rotation", post(start).delete(abort).layer(DefaultBodyLimit::max(NEXT_ROOT_BYTES_MAX)))
        .route("/v1/ca/rotation/advance", post(advance))
}

async fn start(
    State(state): State<AdminState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<api::RotationStarted>, Failure> {
    let api::RotationRequest { next } = read("rotation", body)?;
    super::start(&state, next).await.map(Json)
}

async fn abort(State(state): State<AdminState>) -> Result<Json<api::RotationChanged>, Failure> {
    super::abort(&state).await.map(Json)
}

async fn advance(
    State(state): State<AdminState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<api::RotationChanged>, Failure> {
    super::advance(&state, read("advance", body)?).await.map(Json)
}

fn read<T: DeserializeOwned>(what: &str, body: Result<Bytes, BytesRejection>) -> Result<T, Failure> {
    let body = body.map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))?;
    serde_json::from_slice(&body).map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("{what}: {error}")))
}
