//! What a large federation costs: the registry and the snapshot of a gateway by the number of exports, many gateways in
//! one process, and writes of three replicas beside those of three etcd servers.
//!
//! `--bench scale -- model`, `fleet` or `writes` runs one part alone.

mod etcd;
mod fleet;
#[path = "../../../federation/tests/gateway/mod.rs"]
#[allow(dead_code, clippy::panic, reason = "shared with the tests of isthmus-federation, which use all of it")]
mod gateway;
mod model;
mod world;
mod writes;

use std::io;
use std::process::ExitCode;

use isthmus_tests::bench::{Report, run};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--bench")).collect();
    if let [flag, file, exports] = &args[..]
        && flag == model::HOLD
    {
        return if model::hold(file, exports).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let part = args.iter().find(|arg| !arg.starts_with('-')).cloned();
    run("scale", Box::pin(scale(part)))
}

async fn scale(part: Option<String>) -> io::Result<Report> {
    let mut report = Report::default();
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    if wanted("model") {
        model::measure(&mut report)?;
    }
    if wanted("writes") {
        writes::measure(&mut report).await?;
    }
    if wanted("fleet") {
        fleet::measure(&mut report).await?;
    }
    Ok(report)
}
