//! Whom a request is for: one canonical authority, for routing *and* policy, or a refusal.
//!
//! hyper lets through what the two of RFC 9112 §3.2 and RFC 9113 §8.3.1 forbid a proxy to guess about: no
//! host, two hosts, a target that disagrees with `Host`, user information. All of these are 400 here.

use std::net::Ipv6Addr;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};

use super::upgrade::{is_tunnel, is_understood};

/// The port that an `http` authority without a port means.
pub const HTTP_PORT: u16 = 80;
/// The longest host name (RFC 1035 §2.3.4, in presentation form, with the root's dot).
const HOST_LEN_MAX: usize = 254;

/// A host and a port, in canonical form: lower case, no trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The host; an IPv6 literal keeps its brackets.
    pub host: String,
    /// The port, explicit or implied.
    pub port: u16,
}

/// Why a request is answered with 400. The text goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Neither a target with an authority nor `Host`.
    #[error("the request names no host: send a Host header or an absolute target")]
    NoHost,
    /// More than one `Host`.
    #[error("the request has more than one Host header")]
    TwoHosts,
    /// Target and `Host` disagree.
    #[error("the request's target and its Host header disagree")]
    HostMismatch,
    /// `user@`.
    #[error("the request's authority carries user information")]
    UserInfo,
    /// Not a host and port.
    #[error("the request's authority is not host:port")]
    Malformed,
    /// CONNECT with a body.
    #[error("CONNECT has no body: send no Content-Length and no Transfer-Encoding")]
    ConnectBody,
    /// CONNECT without a port.
    #[error("CONNECT needs host:port")]
    NoPort,
    /// `https://` in the clear.
    #[error("only http:// targets can be proxied: for anything else use CONNECT")]
    Scheme,
    /// A path that does not start with a slash.
    #[error("the request's path does not start with a slash")]
    Path,
    /// An extended CONNECT for another protocol, which is no request at all without it.
    #[error("the only protocol that a request can change to is websocket")]
    Protocol,
    /// A transfer coding other than one `chunked`.
    #[error("the only transfer coding understood is a single chunked")]
    TransferCoding,
}

impl Authority {
    /// As clients write it: without the port that is meant anyway.
    #[must_use]
    pub fn text(&self) -> String {
        if self.port == HTTP_PORT { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Reads `host[:port]`.
    ///
    /// # Errors
    /// [`BadRequest::UserInfo`] or [`BadRequest::Malformed`].
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, BadRequest> {
        if text.contains('@') {
            return Err(BadRequest::UserInfo);
        }
        let bracket = text.rfind(']');
        let colon = text.rfind(':').filter(|colon| bracket.is_none_or(|bracket| bracket < *colon));
        let (host, port) = match colon {
            Some(colon) => (&text[..colon], Some(parse_port(&text[colon + 1..])?)),
            None => (text, None),
        };
        let port = port.or(default_port).ok_or(BadRequest::NoPort)?;
        Ok(Self { host: canonical_host(host).ok_or(BadRequest::Malformed)?, port })
    }
}

/// The one spelling of a host: a name of labels in lower case, or an IPv6 address as RFC 5952 writes it, in its brackets.
fn canonical_host(host: &str) -> Option<String> {
    if let Some(literal) = host.strip_prefix('[') {
        let address: Ipv6Addr = literal.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(allowed);
    let is_name = name.len() <= HOST_LEN_MAX && name.split('.').all(is_label);
    is_name.then(|| name.to_ascii_lowercase())
}

/// Digits only: `u16::from_str` would take a sign.
fn parse_port(text: &str) -> Result<u16, BadRequest> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or(BadRequest::Malformed)
}

/// A target as it is passed on: the canonical authority, and a path that starts with a slash.
///
/// # Errors
/// When the path is none.
pub fn passed_on(authority: http::uri::Authority, target: Uri) -> Result<Uri, http::Error> {
    let path = target.into_parts().path_and_query;
    let path = match path {
        // `http://host?query` has an empty path, which means the slash (RFC 9110 §4.2.3).
        Some(path) if path.as_str().starts_with('?') => PathAndQuery::try_from(format!("/{}", path.as_str()))?,
        Some(path) => path,
        None => PathAndQuery::from_static("/"),
    };
    Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(path).build()
}

/// The authority of a request whose head hyper accepted.
///
/// # Errors
/// The reason for a 400.
pub fn requested<B>(request: &Request<B>) -> Result<Authority, BadRequest> {
    check_framing(request.headers())?;
    if !is_understood(request) {
        return Err(BadRequest::Protocol);
    }
    let connect = is_tunnel(request);
    if connect && has_body(request.headers()) {
        return Err(BadRequest::ConnectBody);
    }
    check_target(request, connect)?;
    let default_port = if connect { None } else { Some(HTTP_PORT) };
    let target = request.uri().authority().map(|authority| Authority::parse(authority.as_str(), default_port));
    let target = target.transpose()?;
    let host = host(request)?;
    match (target, host) {
        (None, None) => Err(BadRequest::NoHost),
        // CONNECT's Host repeats the target, often without its port.
        (Some(target), Some(host)) => {
            let host = Authority::parse(host, Some(if connect { target.port } else { HTTP_PORT }))?;
            if host == target { Ok(target) } else { Err(BadRequest::HostMismatch) }
        }
        (Some(target), None) => Ok(target),
        (None, Some(host)) => Authority::parse(host, default_port),
    }
}

/// As [`requested`], for a connection whose address says whom it is for: HTTP/1.0 needs no host, and gets `fallback`.
///
/// # Errors
/// The reason for a 400.
pub fn requested_or<B>(request: &Request<B>, fallback: impl FnOnce() -> Authority) -> Result<Authority, BadRequest> {
    match requested(request) {
        Err(BadRequest::NoHost) if request.version() == Version::HTTP_10 => Ok(fallback()),
        read => read,
    }
}

fn check_target<B>(request: &Request<B>, connect: bool) -> Result<(), BadRequest> {
    if request.uri().scheme().is_some_and(|scheme| *scheme != Scheme::HTTP) {
        return Err(BadRequest::Scheme);
    }
    let path = request.uri().path();
    let asterisk = request.method() == Method::OPTIONS && path == "*";
    if connect || asterisk || path.starts_with('/') { Ok(()) } else { Err(BadRequest::Path) }
}

/// Whether a request says that it brings a body.
pub fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0")
}

/// RFC 9112 §6.1: hyper accepts any list that ends in `chunked`; codings before it would be lost here.
///
/// # Errors
/// [`BadRequest::TransferCoding`].
pub fn check_framing(headers: &HeaderMap) -> Result<(), BadRequest> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if chunked && codings.next().is_none() { Ok(()) } else { Err(BadRequest::TransferCoding) }
}

fn host<B>(request: &Request<B>) -> Result<Option<&str>, BadRequest> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        let needed = request.version() == Version::HTTP_11 && !is_tunnel(request);
        return if needed { Err(BadRequest::NoHost) } else { Ok(None) };
    };
    if hosts.next().is_some() {
        return Err(BadRequest::TwoHosts);
    }
    host.to_str().map(Some).map_err(|_| BadRequest::Malformed)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn read(method: &str, target: &str, hosts: &[&str]) -> Result<String, BadRequest> {
        let mut request = Request::builder().method(method).uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        requested(&request.body(()).expect("a request"))
            .map(|authority| format!("{}:{}", authority.host, authority.port))
    }

    #[test]
    fn every_legal_form_has_one_canonical_authority() {
        for (method, target, hosts) in [
            ("GET", "/", &["A.b.SVC.clusterset.local.:9080"][..]),
            ("GET", "http://a.B.svc.clusterset.local:9080/x", &["a.b.svc.clusterset.local:9080"]),
            ("CONNECT", "a.b.svc.clusterset.local:9080", &["a.b.svc.clusterset.local"]),
            ("CONNECT", "a.b.svc.clusterset.local:9080", &[]),
        ] {
            let read = read(method, target, hosts);
            assert_eq!(read.as_deref(), Ok("a.b.svc.clusterset.local:9080"), "{method} {target}");
        }
        assert_eq!(read("GET", "http://a.b/x", &["a.b:80"]).as_deref(), Ok("a.b:80"));
        assert_eq!(read("OPTIONS", "*", &["a.b"]).as_deref(), Ok("a.b:80"));
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        assert_eq!(read("GET", "/", &[]), Err(BadRequest::NoHost));
        assert_eq!(read("GET", "http://a.b/", &[]), Err(BadRequest::NoHost), "RFC 9112 §3.2");
        assert_eq!(read("GET", "/", &["a.b", "a.b"]), Err(BadRequest::TwoHosts));
        assert_eq!(read("GET", "http://a.b/", &["c.d"]), Err(BadRequest::HostMismatch));
        assert_eq!(read("GET", "http://a.b:81/", &["a.b"]), Err(BadRequest::HostMismatch));
        assert_eq!(read("CONNECT", "a.b:81", &["a.b:82"]), Err(BadRequest::HostMismatch));
        assert_eq!(read("GET", "http://x@a.b/", &["a.b"]), Err(BadRequest::UserInfo));
        assert_eq!(read("GET", "/", &["x@a.b"]), Err(BadRequest::UserInfo));
        assert_eq!(read("GET", "https://a.b/", &["a.b"]), Err(BadRequest::Scheme));
        for host in ["", "a.b:", "a.b:+80", "a.b:0", "a.b:65536", "a.b:80:80", "a b", "a,b", "a.b/c", "[::1", ":80"] {
            assert_eq!(read("GET", "/", &[host]), Err(BadRequest::Malformed), "{host:?}");
        }
    }

    #[test]
    fn a_host_with_empty_labels_is_none_and_a_literal_has_one_spelling() {
        for host in
            ["a.b..", ".", "..", ".a", "a..b", "[x]", "[a/../b]", "[::1].", "[::1]x", "[10.0.0.1]", "[fe80::1%1]"]
        {
            assert_eq!(read("GET", "/", &[host]), Err(BadRequest::Malformed), "{host:?}");
        }
        for host in ["[2001:DB8::1]", "[2001:0db8:0::01]:80"] {
            assert_eq!(read("GET", "/", &[host]).as_deref(), Ok("[2001:db8::1]:80"), "{host:?}");
        }
        assert_eq!(read("GET", "http://[0::1]/", &["[::1]:80"]).as_deref(), Ok("[::1]:80"));
    }

    #[test]
    fn only_a_single_chunked_is_understood() {
        let framed = |codings: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for coding in codings {
                headers.append(TRANSFER_ENCODING, http::HeaderValue::from_static(coding));
            }
            check_framing(&headers)
        };
        assert!(framed(&[]).is_ok());
        assert!(framed(&["Chunked"]).is_ok());
        for codings in [&["gzip, chunked"][..], &["chunked", "chunked"], &["chunked, chunked"], &["identity"]] {
            assert_eq!(framed(codings), Err(BadRequest::TransferCoding), "{codings:?}");
        }
    }
}
