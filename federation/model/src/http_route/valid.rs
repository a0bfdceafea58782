//! What values in a route have to be, whether they were read from a manifest or from a message.
//!
//! Lengths come first: what is too long is neither looked at nor copied.

use std::time::Duration;

use super::{HostPattern, WEIGHT_MAX};
use crate::path::{PathError, canonical};

/// The longest path, as in the Gateway API.
pub const PATH_BYTES_MAX: usize = 1_024;
/// The longest value of a condition or a header, as in the Gateway API.
pub const VALUE_BYTES_MAX: usize = 4_096;
/// The longest name of a header or a parameter, as in the Gateway API.
pub const NAME_BYTES_MAX: usize = 256;
/// The longest that a request can be given.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// The methods that a match can ask for.
pub const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Why a value cannot be in a route. The text follows the value's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A text that is too long.
    #[error("it has more than {0} bytes")]
    TooLong(usize),
    /// A path that is none.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A path in another form than the one in which paths are compared and passed on.
    #[error("it is not in its canonical form: write {0:?}")]
    NotCanonical(String),
    /// Not a method.
    #[error("it is none of {}", METHODS.join(", "))]
    Method,
    /// Not the name of a field.
    #[error("it is not the name of a header")]
    HeaderName,
    /// A field that frames messages, or that data planes vouch for.
    #[error("it cannot be written by a route")]
    NotWritable,
    /// A value that would end its field.
    #[error("it has control characters")]
    Control,
    /// Not a host name.
    #[error("it is not a host name")]
    Host,
    /// Not a status of redirections.
    #[error("it is no redirection: use 301, 302, 303, 307 or 308")]
    Status,
    /// No port.
    #[error("it is no port")]
    Port,
    /// Too much weight.
    #[error("it is more than {}", WEIGHT_MAX)]
    Weight,
    /// Too much time.
    #[error("it is more than 24 hours")]
    Timeout,
}

fn at_most(text: &str, limit: usize) -> Result<(), Invalid> {
    if text.len() <= limit { Ok(()) } else { Err(Invalid::TooLong(limit)) }
}

/// A path that rules compare with, or write.
///
/// # Errors
/// As of all functions here: what is wrong with the value.
pub fn path(text: &str) -> Result<(), Invalid> {
    at_most(text, PATH_BYTES_MAX)?;
    let written = canonical(text)?;
    if written == text { Ok(()) } else { Err(Invalid::NotCanonical(written.into_owned())) }
}

/// A method.
pub fn method(text: &str) -> Result<(), Invalid> {
    if METHODS.contains(&text) { Ok(()) } else { Err(Invalid::Method) }
}

/// A field's name, in lower case (RFC 9110 §5.1).
pub fn header(name: &str) -> Result<String, Invalid> {
    at_most(name, NAME_BYTES_MAX)?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(Invalid::HeaderName);
    }
    Ok(name.to_ascii_lowercase())
}

/// A field that rules may write, in lower case. What frames messages, and what data planes vouch for, is not theirs.
pub fn writable(name: &str) -> Result<String, Invalid> {
    const OURS: [&str; 14] = [
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-client-cert",
    ];
    let lower = header(name)?;
    if OURS.contains(&lower.as_str()) || lower.starts_with("x-isthmus-") || lower.contains('_') {
        return Err(Invalid::NotWritable);
    }
    Ok(lower)
}

/// The name of a query's parameter.
pub fn parameter(name: &str) -> Result<(), Invalid> {
    at_most(name, NAME_BYTES_MAX)
}

/// The value of a field or a parameter.
pub fn value(text: &str) -> Result<(), Invalid> {
    at_most(text, VALUE_BYTES_MAX)?;
    if text.bytes().any(|byte| byte.is_ascii_control()) { Err(Invalid::Control) } else { Ok(()) }
}

/// The host of a redirection.
pub fn host(text: &str) -> Result<(), Invalid> {
    at_most(text, NAME_BYTES_MAX)?;
    match text.parse() {
        Ok(HostPattern::Exact(_)) => Ok(()),
        Ok(HostPattern::Below(_)) | Err(_) => Err(Invalid::Host),
    }
}

/// The status of a redirection.
pub fn status(status: u16) -> Result<(), Invalid> {
    if [301, 302, 303, 307, 308].contains(&status) { Ok(()) } else { Err(Invalid::Status) }
}

/// A port of a service.
pub fn port(port: u16) -> Result<(), Invalid> {
    if port > 0 { Ok(()) } else { Err(Invalid::Port) }
}

/// A backend's weight.
pub fn weight(weight: u32) -> Result<(), Invalid> {
    if weight <= WEIGHT_MAX { Ok(()) } else { Err(Invalid::Weight) }
}

/// What a request is given.
pub fn timeout(timeout: Duration) -> Result<(), Invalid> {
    if timeout <= TIMEOUT_MAX { Ok(()) } else { Err(Invalid::Timeout) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_neither_looked_at_nor_copied() {
        let long = "/../".repeat(2_000);
        assert_eq!(path(&long), Err(Invalid::TooLong(PATH_BYTES_MAX)));
        assert_eq!(header(&long), Err(Invalid::TooLong(NAME_BYTES_MAX)));
        assert_eq!(parameter(&long), Err(Invalid::TooLong(NAME_BYTES_MAX)));
        assert_eq!(value(&long), Err(Invalid::TooLong(VALUE_BYTES_MAX)));
        assert_eq!(host(&long), Err(Invalid::TooLong(NAME_BYTES_MAX)));
    }

    #[test]
    fn what_data_planes_vouch_for_cannot_be_written_in_any_spelling() {
        for name in ["X-Forwarded-Client-Cert", "x_forwarded_client_cert", "Forwarded", "X-Isthmus-Http", "HOST", "te"]
        {
            assert_eq!(writable(name), Err(Invalid::NotWritable), "{name}");
        }
        assert_eq!(writable("X-Canary").as_deref(), Ok("x-canary"));
        assert_eq!(header("Host").as_deref(), Ok("host"), "a rule may ask for it");
        assert_eq!(header("a b"), Err(Invalid::HeaderName));
    }

    #[test]
    fn paths_are_in_the_form_in_which_they_are_compared() {
        assert_eq!(path("/a/b"), Ok(()));
        assert_eq!(path("/%61"), Err(Invalid::NotCanonical("/a".to_owned())));
        assert_eq!(path("/a%2f..%2fb"), Err(Invalid::Path(PathError::Ambiguous)));
        assert_eq!(host("*.example.com"), Err(Invalid::Host), "nobody can be sent to all of them");
    }
}
