//! The ways in which an application may read a canonical path, where readers differ: some decode what is percent-encoded, or take a
//! backslash for a slash; some cut parameters off segments.
//!
//! Pattern and path are read in the same way before they are compared, so that a pattern with such a character means what it says.

use std::borrow::Cow;

/// Every way. The first, as it is written, is the canonical form itself.
pub(super) const READINGS: [Reading; 4] = [
    Reading { decodes: false, cuts: false },
    Reading { decodes: false, cuts: true },
    Reading { decodes: true, cuts: false },
    Reading { decodes: true, cuts: true },
];

/// Whether all readers read `path` in the same way.
pub(super) fn is_plain(path: &str) -> bool {
    !path.contains(['%', '\\', ';'])
}

/// One way.
pub(super) struct Reading {
    /// Percent-encoded characters are themselves, and a backslash is a slash.
    decodes: bool,
    /// A segment ends at its first semicolon.
    cuts: bool,
}

impl Reading {
    /// Whether it cuts the last segment of `text`.
    pub(super) fn cuts_end_of(&self, text: &str) -> bool {
        let whole = Self { cuts: false, ..*self }.of(text);
        self.cuts && whole.rsplit(|byte| *byte == b'/').next().is_some_and(|segment| segment.contains(&b';'))
    }

    /// What a reader sees of `text`, which is a canonical path or a part of one. Several slashes count as one.
    pub(super) fn of(&self, text: &str) -> Vec<u8> {
        let text = if self.decodes { Cow::Owned(decoded(text.as_bytes())) } else { Cow::Borrowed(text.as_bytes()) };
        let mut read = Vec::with_capacity(text.len());
        let mut cut = false;
        for byte in text.iter().copied() {
            match byte {
                b'/' => {
                    cut = false;
                    if read.last() != Some(&b'/') {
                        read.push(b'/');
                    }
                }
                b';' if self.cuts => cut = true,
                _ if cut => {}
                byte => read.push(byte),
            }
        }
        read
    }
}

fn decoded(text: &[u8]) -> Vec<u8> {
    let mut read = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (*first, &rest[1..]),
            },
            _ => (*first, after),
        };
        read.push(if byte == b'\\' { b'/' } else { byte });
        rest = after;
    }
    read
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_differ_where_they_do() {
        let readings = |text| READINGS.map(|reading| String::from_utf8(reading.of(text)).expect("text"));
        assert_eq!(readings("/a/b"), ["/a/b"; 4]);
        assert_eq!(readings("/a%2Fb;c/d"), ["/a%2Fb;c/d", "/a%2Fb/d", "/a/b;c/d", "/a/b/d"]);
        assert_eq!(readings("/a\\b%3Bc"), ["/a\\b%3Bc", "/a\\b%3Bc", "/a/b;c", "/a/b"]);
        assert_eq!(readings("/;x/a"), ["/;x/a", "/a", "/;x/a", "/a"]);
    }
}
