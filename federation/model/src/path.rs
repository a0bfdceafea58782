//! One canonical form of a request's path, for rules and for whoever gets the request.
//!
//! A rule about `/public` must not be left by `/public/../admin`, however that is written. What all readers agree on is written
//! in one way here (RFC 3986 §6.2.2: percent-encoded letters, dot segments; and several slashes as one). What only some readers
//! take for a dot segment, because they decode once more or cut parameters off, is refused.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// A byte that has no place in a path, or a percent sign without two hexadecimal digits.
    #[error("the path has a character that is not allowed, or a % without two hexadecimal digits")]
    Malformed,
    /// A dot segment behind what only some take for a slash or for the end of a segment.
    #[error("the path hides a segment of dots behind an encoded slash, a backslash or a semicolon")]
    Ambiguous,
}

/// The canonical form of `path`, which is without its query.
///
/// # Errors
/// [`PathError`].
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathError> {
    let decoded = decode_unreserved(path)?;
    let Some(rest) = decoded.strip_prefix('/') else { return Err(PathError::NotAbsolute) };
    if rest.split('/').any(hides_dots) {
        return Err(PathError::Ambiguous);
    }
    let plain = rest.is_empty() || rest.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    let trailing = rest.strip_suffix('/').filter(|rest| !rest.is_empty());
    let tidy = trailing.is_some_and(|rest| rest.split('/').all(|segment| !matches!(segment, "" | "." | "..")));
    if plain || tidy {
        return Ok(decoded);
    }
    let mut kept: Vec<&str> = Vec::new();
    for segment in rest.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let directory = matches!(rest.rsplit('/').next(), Some("" | "." | ".."));
    let mut written = String::with_capacity(decoded.len());
    for segment in &kept {
        written.push('/');
        written.push_str(segment);
    }
    if directory || kept.is_empty() {
        written.push('/');
    }
    Ok(Cow::Owned(written))
}

/// Writes percent-encoded letters, digits and marks as themselves, and the digits of others in upper case.
fn decode_unreserved(path: &str) -> Result<Cow<'_, str>, PathError> {
    if path.bytes().any(|byte| byte.is_ascii_control() || byte == b' ' || matches!(byte, b'#' | b'?')) {
        return Err(PathError::Malformed);
    }
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let mut written = String::with_capacity(path.len());
    let mut parts = path.split('%');
    written.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(PathError::Malformed)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(PathError::Malformed);
        }
        let byte = u8::from_str_radix(digits, 16).map_err(|_| PathError::Malformed)?;
        match char::from(byte) {
            '\0' => return Err(PathError::Malformed),
            unreserved if unreserved.is_ascii_alphanumeric() || "-._~".contains(unreserved) => written.push(unreserved),
            _ => {
                written.push('%');
                written.push_str(&digits.to_ascii_uppercase());
            }
        }
        written.push_str(rest);
    }
    Ok(Cow::Owned(written))
}

/// Whether a reader that takes `%2F`, `%5C` or a backslash for a slash, or cuts a segment at a semicolon, would see a dot segment that
/// others do not.
fn hides_dots(segment: &str) -> bool {
    if matches!(segment, "." | "..") || !segment.contains(['%', '\\', ';']) {
        return false;
    }
    let unified = segment.replace("%2F", "/").replace("%5C", "/").replace('\\', "/").replace("%3B", ";");
    unified.split('/').any(|part| matches!(part.split(';').next(), Some("." | "..")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_form_for_each_path() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b//", "/a/b/"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/../../a", "/a"),
            ("/%61/%2e%2E/b", "/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/...", "/..."),
            ("/%c3%a4", "/%C3%A4"),
            ("/ä", "/ä"),
        ] {
            assert_eq!(canonical(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        for (path, expected) in [
            ("", PathError::NotAbsolute),
            ("a", PathError::NotAbsolute),
            ("/%", PathError::Malformed),
            ("/%2", PathError::Malformed),
            ("/%+1", PathError::Malformed),
            ("/%00", PathError::Malformed),
            ("/a#b", PathError::Malformed),
            ("/a%2f..%2fb", PathError::Ambiguous),
            ("/a%2F%2e%2e", PathError::Ambiguous),
            ("/..%5cb", PathError::Ambiguous),
            ("/a\\..\\b", PathError::Ambiguous),
            ("/..;/b", PathError::Ambiguous),
            ("/a/.;x=1/b", PathError::Ambiguous),
            ("/..%3bx/b", PathError::Ambiguous),
        ] {
            assert_eq!(canonical(path), Err(expected), "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_its_own(path in "/([a.;%/\\\\]|%2[eEfF]|%5c|%41|b){0,24}") {
            if let Ok(once) = canonical(&path) {
                prop_assert_eq!(canonical(&once), Ok(once.clone()));
                prop_assert!(once.starts_with('/') && !once.contains("//"));
                prop_assert!(once.split('/').all(|segment| segment != "." && segment != ".."));
            }
        }

        /// A reader that decodes everything at once, takes backslashes for slashes and cuts parameters off ends where all others do.
        #[test]
        fn no_reader_leaves_the_directory(rest in "([a.;/\\\\]|%2[eEfF]|%5[cC]|%3[bB]|b){0,24}") {
            let path = format!("/public/{rest}");
            let Ok(once) = canonical(&path) else { return Ok(()) };
            if !once.starts_with("/public/") {
                return Ok(());
            }
            let lower = once.to_lowercase();
            let eager = lower.replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").replace("%3b", ";");
            let eager = eager.replace('\\', "/");
            let mut depth = 0_i32;
            for segment in eager.split('/').skip(1) {
                match segment.split(';').next().unwrap_or_default() {
                    "" | "." => {}
                    ".." => depth -= 1,
                    _ => depth += 1,
                }
                prop_assert!(depth >= 0, "{once}");
            }
        }
    }
}
