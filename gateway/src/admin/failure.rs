//! Why a request was not answered, as HTTP.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use isthmus_federation::ProposeError;
use isthmus_model::command::Refusal;

use super::api;

/// A status with the text for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        let status = match &error {
            ProposeError::Refused(Refusal::TokenUnknown | Refusal::ClusterUnknown { .. }) => StatusCode::NOT_FOUND,
            ProposeError::Refused(Refusal::NotAdministrator { .. }) => StatusCode::FORBIDDEN,
            ProposeError::Refused(_) => StatusCode::CONFLICT,
            ProposeError::NoQuorum { .. } => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(api::Failure { error: self.message })).into_response()
    }
}
