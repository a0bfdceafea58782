//! Requests that only some servers take for requests: those without a version of HTTP, or of another protocol.

use super::{LINE_BYTES_MAX, is_line_end, is_space, is_token};

/// Versions of other protocols that Node's server takes beside HTTP's, and serves alike.
const OTHER_VERSIONS: [&[u8]; 2] = [b"RTSP/", b"ICE/"];

/// Whether `text`, which is no request of a version of HTTP, is one all the same to some server: a method and a path alone, as in
/// HTTP/0.9, if a header follows, or a request of another protocol. None when more has to come.
pub(super) fn is_disguised(text: &[u8]) -> Option<bool> {
    let (method, rest) = text.split_at(text.iter().take_while(|byte| is_token(**byte)).count());
    let to_node = is_disguised_to_node(method, rest);
    let disguised = match (to_node, method) {
        (Some(false) | None, b"GET") => match (is_disguised_to_python(rest), to_node) {
            (Some(false), to_node) => to_node,
            (to_python, _) => to_python,
        },
        (to_node, _) => to_node,
    };
    disguised.or((text.len() > LINE_BYTES_MAX).then_some(true))
}

/// As Node's server reads it, by any method, of upper case: words end at blanks, a line at a CR or an LF.
fn is_disguised_to_node(method: &[u8], rest: &[u8]) -> Option<bool> {
    if method.is_empty() || method.iter().any(|byte| !byte.is_ascii_uppercase() && *byte != b'-') {
        return Some(false);
    }
    let end = rest.iter().position(|byte| is_line_end(*byte) || *byte == 0);
    let line = &rest[..end.unwrap_or(rest.len())];
    if line.first().is_some_and(|byte| *byte != b' ') || end.is_some_and(|end| rest[end] == 0) {
        return Some(false);
    }
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let Some(target) = words.next() else { return end.map(|_| false) };
    let is_target = matches!(target[0], b'/' | b'*') || method == b"CONNECT" || target.contains(&b':');
    match (words.next(), end) {
        (Some(version), _) => {
            let begins = |other: &[u8]| other.starts_with(version) && end.is_none();
            let is_other = OTHER_VERSIONS.iter().any(|other| version.starts_with(other));
            if !is_other && OTHER_VERSIONS.iter().any(|other| begins(other)) { None } else { Some(is_other) }
        }
        (None, None) => None,
        (None, Some(_)) if !is_target => Some(false),
        (None, Some(end)) => header_follows(&rest[end..], false),
    }
}

/// As Python's reads it, of a `GET` alone: a line ends at an LF, and everything like a blank parts words, a CR too. A CR alone
/// may end it all the same, to others.
fn is_disguised_to_python(rest: &[u8]) -> Option<bool> {
    if rest.first().is_some_and(|byte| !is_space(*byte) && !is_line_end(*byte)) {
        return Some(false);
    }
    let until = |ends: fn(u8) -> bool| {
        let end = rest.iter().position(|byte| ends(*byte))?;
        let mut words = rest[..end].split(|byte| is_space(*byte) || *byte == b'\r').filter(|word| !word.is_empty());
        match (words.next(), words.next()) {
            (Some(_), None) => header_follows(&rest[end..], true),
            _ => Some(false),
        }
    };
    match (until(|byte| byte == b'\n'), until(is_line_end)) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

/// Whether the next line is a header's, as only Python's server reads it, with what it `generous`ly makes of a line. None when more
/// has to come.
fn header_follows(rest: &[u8], generous: bool) -> Option<bool> {
    let is_of_name = |byte: &u8| if generous { is_of_name(*byte) } else { is_token(*byte) };
    let next = &rest[rest.iter().take_while(|byte| is_line_end(**byte)).count()..];
    let at = next.iter().position(|byte| !is_of_name(byte))?;
    // It may go on with a header that did not come.
    let goes_on = at == 0 && matches!(next[0], b' ' | b'\t');
    Some((next[at] == b':' && (generous || at > 0)) || (generous && (goes_on || &next[..=at] == b"From ")))
}

/// What the most generous of them, Python's, take for a part of a header's name.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b':'
}
