//! Responses that the data plane itself writes: a status, a line that says what to check.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode, Version};

use super::body::Body;
use super::fields::{Outcome, set_outcome};

/// A response of a data plane's own, and not an application's.
#[derive(Clone, Copy, Debug)]
pub struct Own;

/// A response with a line of text.
#[must_use]
pub fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::whole(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response.extensions_mut().insert(Own);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A response for the calling data plane.
#[must_use]
pub fn outcome(status: StatusCode, reason: &str, outcome: Outcome) -> Response<Body> {
    let mut response = text(status, reason);
    set_outcome(response.headers_mut(), outcome, reason);
    response
}

/// Makes a response the last one of a connection on which the client speaks `version`, where that is one of requests after each
/// other: what follows is not where we think it is, or no request at all.
pub fn close_after(response: &mut Response<Body>, version: Version) {
    if version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Whether it is a data plane's own word that no more of the request is read.
#[must_use]
pub fn gives_up(response: &Response<Body>) -> bool {
    let given_up = matches!(response.status(), StatusCode::BAD_REQUEST | StatusCode::REQUEST_TIMEOUT);
    given_up && response.extensions().get::<Own>().is_some()
}

/// An empty response.
#[must_use]
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
