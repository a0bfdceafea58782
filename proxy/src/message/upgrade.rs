//! WebSocket: the one protocol that a request may change its connection to.
//!
//! HTTP/1.1 asks for it with `Upgrade` (RFC 6455 §4.1) and HTTP/2 with an extended CONNECT (RFC 8441). Within this
//! data plane and between two of them a request that asks has the latter form, whichever way it came, and is
//! accepted by a 101. Any other protocol that `Upgrade` names is dropped, which RFC 9110 §7.8 allows: `h2c` would carry requests past
//! whoever looks at them.

use std::hash::{BuildHasher, RandomState};

use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;

use super::Body;
use super::authority::has_body;
use crate::accept::Lifetime;
use crate::tcp::{IDLE_MAX, copy_both};

const WEBSOCKET: &str = "websocket";

/// Whether a request is a CONNECT that asks for bytes, and not for a protocol.
#[must_use]
pub fn is_tunnel<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none()
}

/// Whether a request in this data plane's form asks for the protocol.
#[must_use]
pub fn is_asked<B>(request: &Request<B>) -> bool {
    request.extensions().get::<Protocol>().is_some()
}

/// Whether what a request in this data plane's form asks for, if anything, is understood.
#[must_use]
pub fn is_understood<B>(request: &Request<B>) -> bool {
    let protocol = request.extensions().get::<Protocol>();
    protocol.is_none_or(|protocol| protocol.as_ref().eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
}

/// Whether a response accepted it.
#[must_use]
pub fn is_accepted<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// A client that asked, and waits.
pub struct Asked {
    client: OnUpgrade,
    http1: bool,
    /// It is told whether its key was understood.
    keyed: bool,
}

impl Asked {
    /// Brings a client's request that asks into this data plane's form. `None` when it does not ask, or not for this: then it
    /// is a request like any other.
    pub fn take<B>(request: &mut Request<B>) -> Option<Self> {
        let http1 = request.version() < Version::HTTP_2;
        if http1 {
            if !asks_by_http1(request) {
                return None;
            }
            request.extensions_mut().insert(Protocol::from_static(WEBSOCKET));
            *request.method_mut() = Method::CONNECT;
        }
        if !is_asked(request) {
            return None;
        }
        let keyed = request.headers().contains_key(SEC_WEBSOCKET_KEY);
        Some(Self { client: on(request), http1, keyed })
    }

    /// The answer to the client. If the upstream accepted, the two streams are joined until both have ended, while `held` is
    /// kept.
    pub fn answer(self, mut response: Response<Body>, life: &Lifetime, held: impl Send + 'static) -> Response<Body> {
        if !is_accepted(&response) {
            if self.http1 {
                // The client may have sent what is no request already.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            return response;
        }
        let upstream = on(&mut response);
        let (mut parts, body) = response.into_parts();
        life.spawn(async move {
            let joined = match tokio::try_join!(self.client, upstream) {
                Ok((client, upstream)) => copy_both(TokioIo::new(client), TokioIo::new(upstream), IDLE_MAX).await,
                Err(error) => Err(std::io::Error::other(error)),
            };
            if let Err(error) = joined {
                tracing::debug!(%error, "a websocket ended");
            }
            drop((body, held));
        });
        // What the connection that it came on may have said has been taken out; this one's is put in.
        parts.headers.remove(CONTENT_LENGTH);
        if self.http1 {
            ask_or_accept(&mut parts.headers);
        } else {
            parts.status = StatusCode::OK;
            if !self.keyed {
                parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
            }
        }
        parts.extensions.clear();
        Response::from_parts(parts, Body::empty())
    }
}

/// The connection's fields, in a request as in a response.
fn ask_or_accept(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

/// Whether a request of HTTP/1.1 asks for this protocol and no other, and brings nothing else.
fn asks_by_http1<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let (first, second) = (upgrades.next(), upgrades.next());
    let websocket = first.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
    let mut options = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let connected = options.any(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case("upgrade")));
    let told = request.version() == Version::HTTP_11 && request.method() == Method::GET;
    told && websocket && second.is_none() && connected && !has_body(headers)
}

/// Writes a request in this data plane's form as HTTP/1.1 has it.
pub fn to_http1<B>(request: &mut Request<B>) {
    request.extensions_mut().remove::<Protocol>();
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    ask_or_accept(headers);
    if !headers.contains_key(SEC_WEBSOCKET_KEY)
        && let Ok(key) = HeaderValue::try_from(key())
    {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
}

/// Sixteen bytes in base64, for a client of HTTP/2, which needs none: it only tells the server's answer from a cached one
/// (RFC 6455 §1.3). Hexadecimal digits are base64 too; the last character holds the last two bits.
fn key() -> String {
    let (first, rest) = (RandomState::new().hash_one(0), RandomState::new().hash_one(1) >> 44);
    format!("{first:016x}{rest:05x}A==")
}

/// Whether a response says that the connection has changed to this protocol.
#[must_use]
pub fn has_switched<B>(response: &Response<B>) -> bool {
    let upgrade = response.headers().get(UPGRADE);
    is_accepted(response) && upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
}

/// Brings the response of an HTTP/2 upstream to a request that asked into this data plane's form.
pub fn from_http2<B>(response: &mut Response<B>) {
    if response.status().is_success() {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request<()> {
        let fields = fields.iter().fold(Request::builder(), |request, (name, value)| request.header(*name, *value));
        fields.body(()).expect("a request")
    }

    #[test]
    fn only_a_bare_request_for_a_websocket_asks() {
        let asking = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert!(asks_by_http1(&request(&asking)));
        assert!(asks_by_http1(&request(&[&asking[..], &[("content-length", "0")]].concat())));
        for more in [("content-length", "1"), ("transfer-encoding", "chunked"), ("upgrade", "h2c")] {
            assert!(!asks_by_http1(&request(&[&asking[..], &[more]].concat())), "{more:?}");
        }
        for other in ["h2c", "websocket, h2c", "websocket/13"] {
            assert!(!asks_by_http1(&request(&[asking[0], ("upgrade", other)])), "{other}");
        }
        assert!(!asks_by_http1(&request(&asking[1..])), "not the connection's");
        let mut posted = request(&asking);
        *posted.method_mut() = Method::POST;
        assert!(!asks_by_http1(&posted));
        let mut old = request(&asking);
        *old.version_mut() = Version::HTTP_10;
        assert!(!asks_by_http1(&old));
    }

    #[test]
    fn it_is_asked_for_in_either_form_and_keys_are_sixteen_bytes() {
        let mut asked = request(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        assert!(Asked::take(&mut asked).is_some());
        assert!(is_asked(&asked) && !is_tunnel(&asked) && asked.method() == Method::CONNECT);
        to_http1(&mut asked);
        assert!(asks_by_http1(&asked) && !is_asked(&asked));
        let key = asked.headers()[SEC_WEBSOCKET_KEY].as_bytes().to_owned();
        assert!(key.len() == 24 && key.ends_with(b"A=="), "{key:?}");
        let mut other = request(&[]);
        *other.version_mut() = Version::HTTP_2;
        *other.method_mut() = Method::CONNECT;
        assert!(is_tunnel(&other) && Asked::take(&mut other).is_none());
        other.extensions_mut().insert(Protocol::from_static("connect-udp"));
        assert!(is_asked(&other) && !is_understood(&other));
    }
}
