//! `isthmus problems`.

use super::table::printable;
use crate::admin::api::{Problem, Problems};

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus problems
  isthmus problems -o json | jq -r '.problems[].file' | sort -u";

/// Problems as compilers print them, one a line, so that editors can jump to them.
pub(super) fn table(problems: &Problems) -> String {
    if problems.problems.is_empty() {
        return "no problems\n".to_owned();
    }
    let mut text: String = problems.problems.iter().map(|problem| line(problem) + "\n").collect();
    if problems.suppressed > 0 {
        text.push_str(&format!("and {} more\n", problems.suppressed));
    }
    text
}

fn line(problem: &Problem) -> String {
    let file = problem.file.as_deref().unwrap_or("manifests");
    let line = problem.line.map(|line| format!("{line}:")).unwrap_or_default();
    let object = problem.object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
    printable(&format!("{file}:{line} {}: {object}{}", problem.severity, problem.reason))
}
