//! Header fields that a proxy takes out, and the ones it puts in.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use isthmus_model::http_route::Scheme;
use isthmus_model::spiffe::SpiffeId;

/// Who called, as the receiving side verified it (Envoy's format: `By=<own id>;URI=<peer id>`).
pub const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// How a response came to be, between two data planes; see [`Outcome`].
const OUTCOME: HeaderName = HeaderName::from_static("x-isthmus-outcome");
/// Why, for the operator who reads what the caller's side says.
const REASON: HeaderName = HeaderName::from_static("x-isthmus-reason");
/// The version of HTTP that the client spoke, to a port of which nothing else says what the application speaks: `1` or `2`.
const VERSION: HeaderName = HeaderName::from_static("x-isthmus-http");
/// Fields that only data planes write.
const OWN_PREFIX: &str = "x-isthmus-";
/// What proxies say about where a request comes from.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// W3C Trace Context.
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// What says something about one connection, whether `Connection` nominates it or not.
static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
];

/// What a data plane tells the calling one about a response that is its own and not the application's. It
/// counts only from an authenticated session, is taken out of whatever applications and clients send,
/// and never reaches a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The application has not seen the request: it can be sent elsewhere, whatever it is.
    NotSent,
    /// The same, and nobody is to blame: there is no room at the moment.
    Busy,
    /// The application may have seen the request, and no answer came.
    Broken,
    /// The session is no longer trusted: the application has not seen the request, and another session to the
    /// same place may do.
    SessionOver,
    /// The caller may not. Another place is not going to be asked.
    Denied,
    /// What the application said was nothing to pass on; this is said in its place.
    InPlace,
}

impl Outcome {
    const ALL: [Self; 6] = [Self::NotSent, Self::Busy, Self::Broken, Self::SessionOver, Self::Denied, Self::InPlace];

    fn text(self) -> &'static str {
        match self {
            Self::NotSent => "not-sent",
            Self::Busy => "busy",
            Self::Broken => "broken",
            Self::SessionOver => "session-over",
            Self::Denied => "denied",
            Self::InPlace => "in-place",
        }
    }
}

/// Writes the outcome and why it came to that.
pub fn set_outcome(headers: &mut HeaderMap, outcome: Outcome, reason: &str) {
    headers.insert(OUTCOME, HeaderValue::from_static(outcome.text()));
    if let Ok(reason) = HeaderValue::from_str(reason) {
        headers.insert(REASON, reason);
    }
}

/// Takes the outcome and the reason out.
pub fn take_outcome(headers: &mut HeaderMap) -> Option<(Outcome, String)> {
    let value = headers.remove(OUTCOME)?;
    let outcome = Outcome::ALL.into_iter().find(|outcome| value == outcome.text())?;
    let reason = headers.remove(REASON).and_then(|reason| reason.to_str().ok().map(str::to_owned));
    Some((outcome, reason.unwrap_or_else(|| "no reason given".to_owned())))
}

/// Tells the data plane at the other end whether the application is to get the request as HTTP/2.
pub fn tell_version(headers: &mut HeaderMap, http2: bool) {
    headers.insert(VERSION, HeaderValue::from_static(if http2 { "2" } else { "1" }));
}

/// Takes out whether the application is to get the request as HTTP/2, if the other end told.
pub fn take_version(headers: &mut HeaderMap) -> Option<bool> {
    headers.remove(VERSION).map(|version| version == "2")
}

/// Takes out what says something about one connection only (RFC 9110 §7.6.1), `Upgrade` included, and
/// `Expect`, which is answered on each connection. `TE: trailers` stays, for gRPC checks it. A length beside a transfer coding is
/// none (RFC 9112 §6.3).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        // What goes anyway, `keep-alive` above all, is not worth a name of its own.
        .filter(|name| !HOP_BY_HOP.iter().any(|own| own.as_str().eq_ignore_ascii_case(name)))
        .filter_map(|name| name.parse().ok())
        .collect();
    let codings = headers.get_all(TE).iter().filter_map(|te| te.to_str().ok()).flat_map(|te| te.split(','));
    let trailers = codings.into_iter().any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in nominated.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes out what claims an identity or speaks for a data plane.
pub fn strip_claims(headers: &mut HeaderMap) {
    let claims: Vec<HeaderName> = headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}

/// Whether a field's name, in lower case, is that of a claim.
pub(crate) fn is_claim(name: &str) -> bool {
    let own = name.get(..OWN_PREFIX.len()).is_some_and(|start| reads_alike(start, OWN_PREFIX));
    own || reads_alike(name, CLIENT_CERTIFICATE.as_str()) || reads_alike(name, FORWARDED.as_str())
}

/// An underscore counts as a hyphen: applications that get fields as environment variables cannot tell them apart.
fn reads_alike(text: &str, other: &str) -> bool {
    let hyphen = |byte: u8| if byte == b'_' { b'-' } else { byte };
    text.len() == other.len() && text.bytes().map(hyphen).eq(other.bytes())
}

/// Takes out what a client that nobody vouches for says about where its request comes from, and says it anew, as Envoy does at
/// the edge. A workload of the mesh may have it from such an edge, and passes it on.
pub fn enter_at_edge(headers: &mut HeaderMap, from: IpAddr, scheme: Scheme) {
    let said = [FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, FORWARDED_PORT, REAL_IP];
    let said =
        headers.keys().filter(|name| said.iter().any(|other| reads_alike(name.as_str(), other.as_str()))).cloned();
    for name in said.collect::<Vec<_>>() {
        headers.remove(name);
    }
    if let Ok(from) = HeaderValue::try_from(from.to_string()) {
        headers.insert(FORWARDED_FOR, from);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme.text()));
    let mut parents = headers.get_all(TRACE_PARENT).iter();
    let sole = parents.next().filter(|_| parents.next().is_none());
    if !sole.is_some_and(|parent| is_trace_parent(parent.as_bytes())) {
        headers.remove(TRACE_PARENT);
        headers.remove(TRACE_STATE);
    }
}

/// Says how a client from outside called, once it has come in by [`enter_at_edge`]: the application gets its service's own name.
pub fn say_called(headers: &mut HeaderMap, host: &str, port: u16) {
    if let Ok(host) = HeaderValue::try_from(host) {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.insert(FORWARDED_PORT, HeaderValue::from(port));
}

/// `version-trace_id-parent_id-flags` in lower-case hexadecimal, neither id nought (W3C Trace Context §3.2). A later version may
/// have more after it.
fn is_trace_parent(text: &[u8]) -> bool {
    let mut fields = text.split(|byte| *byte == b'-');
    let mut field = |length: usize| {
        let hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        fields.next().filter(|field| field.len() == length && field.iter().all(hex))
    };
    let (version, trace, parent, flags) = (field(2), field(32), field(16), field(2));
    let named = |id: Option<&[u8]>| id.is_some_and(|id| id.iter().any(|digit| *digit != b'0'));
    let known = match version {
        Some(b"ff") | None => false,
        Some(b"00") => text.len() == 55,
        Some(_) => true,
    };
    known && named(trace) && named(parent) && flags.is_some()
}

/// Tells the application who calls. SPIFFE IDs of the model hold no character that needs quoting.
pub fn set_client_certificate(headers: &mut HeaderMap, own: Option<&SpiffeId>, peer: &SpiffeId) {
    let text = match own {
        Some(own) => format!("By={own};URI={peer}"),
        None => format!("URI={peer}"),
    };
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(CLIENT_CERTIFICATE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_fields_and_nominated_ones_go() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret"),
            ("connection", "upgrade"),
            ("x-secret", "1"),
            ("upgrade", "websocket"),
            ("te", "trailers"),
            ("proxy-connection", "keep-alive"),
            ("expect", "100-continue"),
            ("x-kept", "1"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["te", "x-kept"]);
    }

    #[test]
    fn at_the_edge_only_what_is_seen_is_said() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-real-ip", "10.0.0.1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "bank.example"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "a=1"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        enter_at_edge(&mut headers, [192, 0, 2, 7].into(), Scheme::Http);
        assert_eq!(headers.get_all(FORWARDED_FOR).iter().collect::<Vec<_>>(), ["192.0.2.7"]);
        assert_eq!(headers[FORWARDED_PROTO], "http");
        assert!(headers.contains_key(TRACE_PARENT) && headers.contains_key(TRACE_STATE) && headers.len() == 4);
        headers
            .append(TRACE_PARENT, HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"));
        enter_at_edge(&mut headers, [192, 0, 2, 7].into(), Scheme::Http);
        assert!(!headers.contains_key(TRACE_PARENT) && !headers.contains_key(TRACE_STATE), "two are none");
    }

    #[test]
    fn a_trace_is_named_in_one_way() {
        let parent = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for (text, valid) in [
            (format!("00-{parent}"), true),
            (format!("01-{parent}-more"), true),
            (format!("00-{parent}-more"), false),
            (format!("ff-{parent}"), false),
            (format!("00-{}", parent.to_uppercase()), false),
            (format!("00-{}", parent.replace("b7ad6b7169203331", "0000000000000000")), false),
            ("00-1-2-3".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(is_trace_parent(text.as_bytes()), valid, "{text}");
        }
    }

    #[test]
    fn claims_go_and_outcomes_round_trip() {
        let mut headers = HeaderMap::new();
        headers.append(CLIENT_CERTIFICATE, HeaderValue::from_static("URI=spiffe://forged"));
        headers.append(CLIENT_CERTIFICATE, HeaderValue::from_static("URI=spiffe://forged-too"));
        headers.append("x_forwarded_client_cert", HeaderValue::from_static("URI=spiffe://forged-for-cgi"));
        headers.append("x-isthmus-anything", HeaderValue::from_static("1"));
        headers.append("x_isthmus-anything", HeaderValue::from_static("1"));
        headers.append(FORWARDED, HeaderValue::from_static("for=1.2.3.4"));
        set_outcome(&mut headers, Outcome::NotSent, "why");
        strip_claims(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
        for outcome in Outcome::ALL {
            set_outcome(&mut headers, outcome, "why");
            assert_eq!(take_outcome(&mut headers), Some((outcome, "why".to_owned())));
            assert!(headers.is_empty());
        }
    }
}
