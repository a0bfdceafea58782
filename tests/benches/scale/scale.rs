//! What a large federation costs: the registry and the snapshot of a gateway by the number of exports, many gateways in
//! one process, and writes of three replicas beside those of three etcd servers.
//!
//! `--bench scale -- model`, `writes` or `fleet` runs one part alone; `fleet 50` leaves out what is larger.

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
    let mut words = args.iter().filter(|arg| !arg.starts_with('-')).cloned();
    let part = words.next();
    let largest = words.next().and_then(|number| number.parse().ok()).unwrap_or(usize::MAX);
    run("scale", Box::pin(scale(part, largest)))
}

async fn scale(part: Option<String>, largest: usize) -> io::Result<Report> {
    let mut report = Report::default();
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    if wanted("model") {
        model::measure(&mut report)?;
    }
    if wanted("writes") {
        writes::measure(&mut report).await?;
    }
    if wanted("fleet") {
        fleet::measure(&mut report, largest).await?;
    }
    Ok(report)
}
