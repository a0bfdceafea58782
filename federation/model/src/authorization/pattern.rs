//! Texts that rules compare with, as Istio has them: the whole, a beginning (`a*`), an end (`*a`), or anything (`*`). There is no
//! other sign with a meaning, so that no dot stands for another character.
//!
//! What could never match is refused when it is read: a rule that denies and never matches is worse than none.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::reading::{READINGS, is_plain};
use crate::name::Label;
use crate::path;
use crate::spiffe::SpiffeId;

/// The longest text. Paths are the longest ones.
pub const PATTERN_BYTES_MAX: usize = 1_024;
/// What every SPIFFE ID begins with.
const SCHEME: &str = "spiffe://";

/// Texts of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pattern {
    /// This one.
    Exact(String),
    /// Those that begin with this.
    Prefix(String),
    /// Those that end with this.
    Suffix(String),
    /// Any that is not empty.
    Any,
}

/// A text that could never match, or that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {why}")]
pub struct PatternError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl Pattern {
    /// Reads a pattern of SPIFFE IDs in canonical form: `spiffe://us-east.acme.mesh/ns/shop/sa/*`, `*/ns/shop/sa/reviews`.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn of_principals(text: &str) -> Result<Self, PatternError> {
        let allowed = |text: &str| text.bytes().all(|byte| is_of_label(byte) || b".:/".contains(&byte));
        let pattern = Self::read(text)?;
        match &pattern {
            Self::Exact(exact) => drop(exact.parse::<SpiffeId>().map_err(|error| refused(text, error))?),
            Self::Prefix(part) if !part.starts_with(SCHEME) => {
                return Err(refused(text, "does not begin with spiffe://, as all SPIFFE IDs do"));
            }
            Self::Prefix(part) | Self::Suffix(part) if !allowed(part) => {
                return Err(refused(text, "has a character that is in no SPIFFE ID: they are in lower case"));
            }
            _ => {}
        }
        Ok(pattern)
    }

    /// Reads a pattern of labels: namespaces and clusters.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn of_labels(text: &str) -> Result<Self, PatternError> {
        let pattern = Self::read(text)?;
        match &pattern {
            Self::Exact(exact) => drop(exact.parse::<Label>().map_err(|error| refused(text, error))?),
            Self::Prefix(part) | Self::Suffix(part) if !part.bytes().all(is_of_label) => {
                return Err(refused(text, "has a character that is in no RFC 1123 label"));
            }
            _ => {}
        }
        Ok(pattern)
    }

    /// Reads a pattern of methods, which are in upper case.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn of_methods(text: &str) -> Result<Self, PatternError> {
        let pattern = Self::read(text)?;
        let allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        match &pattern {
            Self::Exact(part) | Self::Prefix(part) | Self::Suffix(part) if !part.bytes().all(allowed) => {
                Err(refused(text, "is no method: they are in upper case"))
            }
            _ => Ok(pattern),
        }
    }

    /// Reads a pattern of paths, whose text has to be as paths are when they are compared ([`crate::path`]).
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn of_paths(text: &str) -> Result<Self, PatternError> {
        let pattern = Self::read(text)?;
        let whole = match &pattern {
            Self::Exact(part) | Self::Prefix(part) => part.clone(),
            Self::Suffix(part) if part.starts_with('/') => part.clone(),
            Self::Suffix(part) => format!("/{part}"),
            Self::Any => return Ok(pattern),
        };
        match path::canonical(&whole) {
            Ok(canonical) if canonical == whole => Ok(pattern),
            Ok(canonical) => {
                Err(refused(text, format_args!("matches no path: their canonical form is as in {canonical:?}")))
            }
            Err(error) => Err(refused(text, format_args!("matches no path: {error}"))),
        }
    }

    fn read(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(refused(text, "is empty: write * for any"));
        }
        if text.len() > PATTERN_BYTES_MAX {
            let start = text.chars().take(64).collect::<String>();
            return Err(refused(&start, format_args!("and more: {PATTERN_BYTES_MAX} bytes at most are possible")));
        }
        let (pattern, rest) = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => return Ok(Self::Any),
            (Some(end), _) => (Self::Suffix(end.to_owned()), end),
            (None, Some(start)) => (Self::Prefix(start.to_owned()), start),
            (None, None) => (Self::Exact(text.to_owned()), text),
        };
        if rest.contains('*') {
            return Err(refused(text, "has a * that is neither its beginning nor its end, or both"));
        }
        Ok(pattern)
    }

    /// Whether it means `text`, byte for byte.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == exact,
            Self::Prefix(start) => text.starts_with(start.as_str()),
            Self::Suffix(end) => text.ends_with(end.as_str()),
            Self::Any => !text.is_empty(),
        }
    }

    /// What it compares with.
    fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) => text,
            Self::Any => "",
        }
    }

    /// Whether it means the canonical `path`: in one of the ways in which it can be read, or in all.
    pub(super) fn matches_path(&self, path: &str, in_one: bool) -> bool {
        let whole = self.matches(path);
        // Nor may a plain path pass a pattern that is not plain, if a reader takes the one for the other.
        if whole == in_one || (is_plain(path) && is_plain(self.text())) {
            return whole;
        }
        let read = |reading: &super::reading::Reading| match self {
            Self::Exact(exact) => reading.of(path) == reading.of(exact),
            Self::Prefix(start) => {
                let (path, start_read) = (reading.of(path), reading.of(start));
                let rest = path.strip_prefix(start_read.as_slice());
                // A segment that was cut is a whole one.
                rest.is_some_and(|rest| !reading.cuts_end_of(start) || matches!(rest, [] | [b'/', ..]))
            }
            Self::Suffix(end) => {
                let end = reading.of(end);
                !end.is_empty() && reading.of(path).ends_with(&end)
            }
            Self::Any => true,
        };
        if in_one { READINGS.iter().any(read) } else { READINGS.iter().all(read) }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => f.write_str(exact),
            Self::Prefix(start) => write!(f, "{start}*"),
            Self::Suffix(end) => write!(f, "*{end}"),
            Self::Any => f.write_str("*"),
        }
    }
}

fn is_of_label(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn refused(text: &str, why: impl fmt::Display) -> PatternError {
    PatternError { text: text.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_as_they_are_written() {
        for text in
            ["spiffe://us-east.acme.mesh/ns/shop/sa/reviews", "spiffe://us-east.acme.mesh/ns/shop/*", "*/sa/a", "*"]
        {
            assert_eq!(Pattern::of_principals(text).expect(text).to_string(), text);
        }
        for text in ["/admin", "/admin/*", "*.jpg", "*/info", "/a%2Fb", "/a;v=1*", "/"] {
            assert_eq!(Pattern::of_paths(text).expect(text).to_string(), text);
        }
        for text in ["GET", "P*", "*", "VERSION-CONTROL"] {
            assert_eq!(Pattern::of_methods(text).expect(text).to_string(), text);
        }
        for text in ["shop", "shop-*", "*-prod"] {
            assert_eq!(Pattern::of_labels(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_could_never_match_is_refused() {
        for text in [
            "",
            "us-east.acme.mesh/ns/shop/sa/reviews",
            "us-east.acme.mesh/*",
            "spiffe://US-EAST.acme.mesh/ns/shop/sa/reviews",
            "spiffe://us-east.acme.mesh./ns/shop/sa/reviews",
            "spiffe://us-east.acme.mesh/ns/shop/sa/reviews/",
            "spiffe://us-east.acme.mesh/ns/Shop/*",
            "spiffe://us-east.acme.mesh/*/sa/reviews",
            "**",
            "*/sa/*",
            "*/sa/rev%69ews",
        ] {
            assert!(Pattern::of_principals(text).is_err(), "{text}");
        }
        for text in
            ["admin", "/a/../b", "/a//b", "//*", "/%61dmin", "/a%2fb", "/a%", "*/../b", "*..", "/a?b", "/a b", "/a*b"]
        {
            assert!(Pattern::of_paths(text).is_err(), "{text}");
        }
        assert!(Pattern::of_methods("get").is_err() && Pattern::of_labels("Shop").is_err());
        assert!(Pattern::of_paths(&format!("/{}", "a".repeat(PATTERN_BYTES_MAX))).is_err());
        let told = Pattern::of_paths("/a//b").map_err(|error| error.to_string());
        assert_eq!(told, Err("\"/a//b\" matches no path: their canonical form is as in \"/a/b\"".to_owned()));
    }
}
