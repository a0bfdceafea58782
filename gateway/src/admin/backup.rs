//! Backups: the registry as this gateway knows it, sealed to whom the operator names.
//!
//! What leaves the process is sealed already; nothing of it is written to disk here.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use isthmus_federation::backup::{self, Author, BackupError};
use isthmus_identity::Recipient;
use std::time::SystemTime;

use super::failure::Failure;
use super::{AdminState, api};

/// `POST /v1/backup`.
pub(super) async fn create(
    State(state): State<AdminState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let body = body.map_err(|rejection| Failure::new(rejection.status(), rejection.body_text()))?;
    let bad = |text: String| Failure::new(StatusCode::BAD_REQUEST, text);
    let request: api::BackupRequest =
        serde_json::from_slice(&body).map_err(|error| bad(format!("backup request: {error}")))?;
    let recipient: Recipient = request.recipient.parse().map_err(bad)?;
    // A large registry takes seconds to seal.
    let sealed = tokio::task::spawn_blocking(move || seal(&state, recipient)).await;
    let sealed = sealed.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))??;
    tracing::info!(%recipient, bytes = sealed.len(), "made a backup of the registry");
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(([kind], sealed).into_response())
}

fn seal(state: &AdminState, recipient: Recipient) -> Result<Vec<u8>, Failure> {
    let registry = state.registry.borrow().clone();
    let (node, stale_since) = {
        let status = state.status.borrow();
        (status.node, status.stale_since)
    };
    let (cluster, gateway) = (&state.config.cluster, &state.config.gateway);
    let author = Author { cluster, gateway, node, opening_key: &state.opening_key, stale_since };
    Ok(backup::create(&registry, &author, recipient, SystemTime::now().into())?)
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let status = match &error {
            BackupError::NotFounded => StatusCode::SERVICE_UNAVAILABLE,
            BackupError::NotKeeper { .. } => StatusCode::CONFLICT,
            BackupError::TooLarge | BackupError::Identity(_) | BackupError::Write(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, error.to_string())
    }
}
