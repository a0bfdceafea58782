//! The first line as servers read it that split it, whatever else is in it: a control character in the target and a CR that ends no
//! line are nothing to them, nor a method that is no word.

use super::{LINE_BYTES_MAX, is_line_end, is_space};

/// What the last word of a request line begins with.
const VERSION: &[u8] = b"HTTP/";

/// How a server reads a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// An LF ends it, and it is split at blanks, CRs among them, as by Python's `http.server`.
    Lines,
    /// The same, but what is no text before the first word is skipped, as by Netty.
    Skipping,
    /// Only CR LF ends it, and it is split at blanks, LFs among them, as by gunicorn up to 21 and Twisted up to 24.
    Wrapped,
    /// Only CR LF ends it, and it is split at spaces alone, as by gunicorn since 22.
    Spaced,
}

impl Manner {
    /// Whether an LF alone ends no line.
    fn wants_cr(self) -> bool {
        matches!(self, Self::Wrapped | Self::Spaced)
    }
}

/// A line, as all of them read it.
#[derive(Debug)]
pub(super) struct Readings([Words; 4]);

impl Default for Readings {
    fn default() -> Self {
        Self([Manner::Lines, Manner::Skipping, Manner::Wrapped, Manner::Spaced].map(Words::new))
    }
}

impl Readings {
    /// Whether a version of HTTP is where one of them takes it for one. None when more has to come.
    pub(super) fn name_http(&mut self, read: &[u8]) -> Option<bool> {
        let named = self.0.each_mut().map(|words| words.name_http(read));
        if named.contains(&Some(true)) { Some(true) } else { named.iter().all(Option::is_some).then_some(false) }
    }
}

#[derive(Debug)]
struct Words {
    manner: Manner,
    /// How far it was looked at.
    seen: usize,
    /// Words that have begun.
    begun: usize,
    /// Whether the last of them goes on.
    within: bool,
    after_cr: bool,
    /// Whether a line is a request's by its third word only: much else may be within quotes, or further down.
    is_strict: bool,
    /// How much of a version's beginning the last has shown. None when it is another word.
    version: Option<usize>,
    verdict: Option<bool>,
}

impl Words {
    fn new(manner: Manner) -> Self {
        let is_strict = manner.wants_cr();
        let (seen, begun, within, after_cr, version, verdict) = (0, 0, false, false, None, None);
        Self { manner, seen, begun, within, after_cr, is_strict, version, verdict }
    }

    fn name_http(&mut self, read: &[u8]) -> Option<bool> {
        while self.verdict.is_none()
            && let Some(byte) = read.get(self.seen)
        {
            self.seen += 1;
            self.verdict = self.next(*byte);
            self.after_cr = *byte == b'\r';
        }
        self.verdict.or_else(|| (read.len() > LINE_BYTES_MAX).then_some(false))
    }

    fn next(&mut self, byte: u8) -> Option<bool> {
        let ends = byte == b'\n' && (self.after_cr || !self.manner.wants_cr());
        if (ends && self.begun > 0) || self.is_blank(byte) {
            self.within = false;
            let over = (ends && self.begun > 0) || (self.is_strict && self.begun == 3);
            return over.then_some(false);
        }
        if !self.within {
            (self.begun, self.within, self.version) = (self.begun + 1, true, Some(0));
        }
        if self.begun == 1 && !is_of_method(byte, self.manner) {
            if self.manner == Manner::Spaced {
                return Some(false);
            }
            self.is_strict = true;
        }
        let shown = self.version.filter(|_| self.begun >= 3)?;
        self.version = byte.eq_ignore_ascii_case(&VERSION[shown]).then_some(shown + 1);
        match self.version {
            Some(shown) => (shown == VERSION.len()).then_some(true),
            None => self.is_strict.then_some(false),
        }
    }

    /// What parts words.
    fn is_blank(&self, byte: u8) -> bool {
        match self.manner {
            Manner::Skipping if self.begun == 0 => byte.is_ascii_control() || is_space(byte),
            Manner::Spaced if self.begun > 0 => byte == b' ',
            _ => is_line_end(byte) || is_space(byte),
        }
    }
}

/// What may be in a method. Of those who split at spaces alone, the most generous take every sign.
fn is_of_method(byte: u8, manner: Manner) -> bool {
    if manner == Manner::Spaced { byte.is_ascii_graphic() } else { super::is_token(byte) }
}
