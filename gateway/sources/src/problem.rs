//! What is wrong with the input, for the operator: log, metrics and admin API show the same list.

use std::fmt;

use serde::Serialize;

use crate::object::ObjectKey;

/// Problems kept. More than anyone reads, little enough to send over the admin API; the rest is counted.
pub const PROBLEMS_MAX: usize = 1_000;
/// Characters of a reason. Reasons quote the input, which may be a megabyte on one line.
const REASON_LEN_MAX: usize = 400;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something was not taken; what was known before stays.
    Error,
    /// The input was taken, but probably does not do what its author wants.
    Warning,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file, relative to the manifest directory; `None` when the directory itself is meant.
    pub file: Option<String>,
    /// The line in the file, counted from 1.
    pub line: Option<u32>,
    /// The object, when it could be read which one it is.
    pub object: Option<ObjectKey>,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong and what to check.
    pub reason: String,
}

impl Problem {
    /// A problem of a whole file.
    pub(crate) fn of_file(file: &str, reason: &str) -> Self {
        Self { file: Some(file.to_owned()), ..Self::of_directory(reason) }
    }

    /// A problem of the directory.
    pub(crate) fn of_directory(reason: &str) -> Self {
        Self { file: None, line: None, object: None, severity: Severity::Error, reason: printable(reason) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: ")?,
            (Some(file), None) => write!(f, "{file}: ")?,
            (None, _) => {}
        }
        match &self.object {
            Some(object) => write!(f, "{object}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// A bounded list of problems.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Problems {
    pub(crate) list: Vec<Problem>,
    /// How many more there are.
    pub(crate) suppressed: usize,
}

impl Problems {
    /// Adds a problem, or only counts it when the list has `limit`.
    pub(crate) fn push(&mut self, limit: usize, problem: Problem) {
        if self.list.len() < limit {
            self.list.push(problem);
        } else {
            self.suppressed += 1;
        }
    }

    /// Adds another list.
    pub(crate) fn extend(&mut self, limit: usize, other: &Self) {
        for problem in &other.list {
            self.push(limit, problem.clone());
        }
        self.suppressed += other.suppressed;
    }
}

/// Bounds a reason and takes out control characters: it ends up in logs and terminals.
pub(crate) fn printable(reason: &str) -> String {
    let mut text: String = reason
        .chars()
        .take(REASON_LEN_MAX)
        .map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c })
        .map(|c| if c == '\n' { ' ' } else { c })
        .collect();
    if reason.chars().nth(REASON_LEN_MAX).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_bounded_and_safe_to_print() {
        assert_eq!(printable("a\x1b[31mb\nc"), "a\u{fffd}[31mb c");
        assert_eq!(printable(&"x".repeat(10_000)).chars().count(), REASON_LEN_MAX + 1);
    }

    #[test]
    fn problems_read_like_compiler_messages() {
        let mut problem = Problem::of_file("shop.yaml", "it is broken");
        problem.line = Some(3);
        assert_eq!(problem.to_string(), "shop.yaml:3: it is broken");
    }
}
