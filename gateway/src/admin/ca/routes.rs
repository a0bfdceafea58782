//! The routes about roots: one that reads, for everyone, and those that change, for the owner of the socket.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};

use crate::admin::AdminState;
use crate::admin::failure::Failure;
use crate::admin::view::Reading;

use super::api;

/// What everyone may ask.
pub(in crate::admin) fn reads() -> Router<AdminState> {
    Router::new().route("/v1/ca", get(async |State(now): State<Reading>| Json(now.ca())))
}

/// What changes something.
pub(in crate::admin) fn changes() -> Router<AdminState> {
    Router::new().route("/v1/ca/rotation", post(start).delete(abort)).route("/v1/ca/rotation/advance", post(advance))
}

async fn start(State(state): State<AdminState>) -> Result<Json<api::RotationStarted>, Failure> {
    super::start(&state).await.map(Json)
}

async fn abort(State(state): State<AdminState>) -> Result<Json<api::RotationChanged>, Failure> {
    super::abort(&state).await.map(Json)
}

async fn advance(
    State(state): State<AdminState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<api::RotationChanged>, Failure> {
    let body = body.map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))?;
    let request = serde_json::from_slice(&body);
    let request = request.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("advance: {error}")))?;
    super::advance(&state, request).await.map(Json)
}
