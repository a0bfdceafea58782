//! Lines that begin as the fields do which say who called, wherever they come: the last resort, against servers whose reading of a
//! request nobody here knows.

use super::is_line_end;
use crate::message::fields::is_claim;

/// How far it is looked. Further on a request would have come before, with its line; and what passes for long may hold anything.
const LOOKED_AT_MAX: usize = crate::message::server::HEAD_BYTES_MAX;
/// As much of a name as tells: longer than any that is known in full.
const NAME_BYTES_MAX: usize = 32;

/// Looks at a client's bytes, as they come.
#[derive(Debug)]
pub(super) struct Claims {
    /// How many were not looked at yet that are to be.
    left: usize,
    /// How the line begins, if it can go on as a name does.
    name: Option<NameBuffer>,
}

#[derive(Debug, Default)]
struct NameBuffer {
    bytes: [u8; NAME_BYTES_MAX],
    len: usize,
}

impl Default for Claims {
    fn default() -> Self {
        Self { left: LOOKED_AT_MAX, name: Some(NameBuffer::default()) }
    }
}

impl Claims {
    /// Whether one is made in what just `came`, behind what was looked at before.
    pub(super) fn are_made(&mut self, came: &[u8]) -> bool {
        let looked_at = came.len().min(self.left);
        self.left -= looked_at;
        came[..looked_at].iter().any(|byte| self.next(*byte))
    }

    fn next(&mut self, byte: u8) -> bool {
        if is_line_end(byte) {
            self.name = Some(NameBuffer::default());
            return false;
        }
        let Some(name) = &mut self.name else { return false };
        if byte == b':' {
            let claims = is_claim(name.text());
            self.name = None;
            return claims;
        }
        name.push(byte);
        false
    }
}

impl NameBuffer {
    /// One more byte. Blanks around a name are nothing to some.
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len)
            && !matches!(byte, b' ' | b'\t')
        {
            *place = byte.to_ascii_lowercase();
            self.len += 1;
        }
    }

    /// Empty if it is no text.
    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_found_at_the_beginning_of_a_line_however_it_is_cut_and_only_there() {
        for (text, expected) in [
            ("x-forwarded-client-cert:", true),
            ("a b\nX_Forwarded_Client-Cert : URI", true),
            ("a\rX-Isthmus-Whatever-it-is-called-in-the-end: 1", true),
            ("a\r\n\tforwarded:", true),
            ("{\"x-forwarded-client-cert\": 1}", false),
            ("a: x-forwarded-client-cert:", false),
            ("x-forwarded-client-cert-of-somebody:", false),
            ("x-forwarded-for: 1.2.3.4\n", false),
            ("\u{e9}forwarded:", false),
        ] {
            let mut claims = Claims::default();
            assert_eq!(claims.are_made(text.as_bytes()), expected, "{text:?}");
            let mut claims = Claims::default();
            let found = text.as_bytes().chunks(1).any(|byte| claims.are_made(byte));
            assert_eq!(found, expected, "{text:?}, byte by byte");
        }
        let late = format!("{}\nforwarded:", "a".repeat(LOOKED_AT_MAX));
        assert!(!Claims::default().are_made(late.as_bytes()), "anything may come later");
    }
}
