//! Whom a request is for. An input is a request line's method and target, then a line for each `Host`.

use std::net::Ipv6Addr;

use bolero::check;
use http::header::HOST;
use http::{Method, Request};
use isthmus_proxy::message::authority::{Authority, BadRequest, HTTP_PORT, passed_on, requested};

use crate::bends::{Bends, corpus};

/// A request as it stands in an input, if hyper would make one of it.
fn request(text: &str) -> Option<Request<()>> {
    let mut lines = text.lines();
    let (method, target) = lines.next()?.split_once(' ')?;
    let request = Request::builder().method(method).uri(target);
    lines.fold(request, |request, host| request.header(HOST, host)).body(()).ok()
}

/// A host and a port, read from the left where the parser reads from the right.
fn slowly(text: &str, default: Option<u16>) -> Option<(String, u16)> {
    let end = if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
    let (host, rest) = text.split_at(end);
    let port = match rest.strip_prefix(':') {
        Some(digits) if digits.chars().all(|digit| digit.is_ascii_digit()) => digits.parse().ok(),
        None if rest.is_empty() => default,
        _ => None,
    };
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<Ipv6Addr>();
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    Some((literal.map_or(host, |literal| format!("[{literal}]")), port?))
}

fn is_canonical(authority: &Authority) {
    let Authority { host, port } = authority;
    let text = format!("{host}:{port}");
    assert_eq!(Authority::parse(&text, None).as_ref(), Ok(authority), "what is canonical means itself");
    assert_eq!(Authority::parse(&text.to_ascii_uppercase(), None).as_ref(), Ok(authority));
    let uri: http::uri::Authority = text.parse().expect("it can be passed on");
    assert_eq!((uri.host(), uri.port_u16()), (&**host, Some(*port)));
    assert!(!host.contains(['@', '/', '?', '#', '%', ' ', ',']) && !host.ends_with('.'), "{host}");
}

fn holds(bytes: &[u8]) {
    let Some(request) = std::str::from_utf8(bytes).ok().and_then(request) else { return };
    let Ok(found) = requested(&request) else { return };
    is_canonical(&found);
    // Every place that names one names this one.
    let connect = *request.method() == Method::CONNECT;
    let default = (!connect).then_some(HTTP_PORT);
    let target = request.uri().authority().map(|authority| slowly(authority.as_str(), default));
    let hosts: Vec<&str> = request.headers().get_all(HOST).iter().filter_map(|host| host.to_str().ok()).collect();
    let host_default = if connect { Some(found.port) } else { default };
    let hosts: Vec<_> = hosts.into_iter().map(|host| slowly(host, host_default)).collect();
    assert!(hosts.len() <= 1 && (target.is_some() || !hosts.is_empty()));
    for named in target.into_iter().chain(hosts) {
        assert_eq!(named, Some((found.host.clone(), found.port)));
    }
    // The case of a host says nothing.
    let mut shouted = request.clone();
    for host in shouted.headers_mut().values_mut() {
        *host = host.to_str().expect("text").to_ascii_uppercase().parse().expect("still one");
    }
    assert_eq!(requested(&shouted), Ok(found.clone()));
    // One more is one too many.
    shouted.headers_mut().append(HOST, "another".parse().expect("valid"));
    assert!(matches!(requested(&shouted), Err(BadRequest::TwoHosts | BadRequest::HostMismatch)));
    if !connect {
        let authority = format!("{}:{}", found.host, found.port).parse().expect("it can be passed on");
        let uri = passed_on(authority, request.into_parts().0.uri).expect("a path");
        assert!(uri.path().starts_with('/') || uri.path() == "*", "{uri}");
        assert_eq!(uri.port_u16(), Some(found.port));
    }
}

#[test]
fn bytes() {
    check!(name = "authority").with_iterations(2_000).for_each(holds);
}

#[test]
fn bent() {
    let seeds = corpus("authority");
    check!().with_iterations(20_000).with_type::<Bends>().for_each(|bends| holds(&bends.of(&seeds)));
}
