//! What the demo says. Unlike `println!`, it does not panic when nobody listens any more: a terminal that
//! closes must not keep the demo from stopping its processes.

use std::fmt::Display;
use std::io::Write;

use anyhow::Context;

/// Tells the person what happens, on standard error.
pub(super) fn notice(text: impl Display) {
    // Who cannot hear it has no use for it.
    let _ = writeln!(std::io::stderr(), "isthmus demo: {text}");
}

/// Prints what was asked for, on standard output.
///
/// # Errors
/// When the reader went away.
pub(super) fn print(text: impl Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")
}
