//! The sidecar proxy as a binary of its own; `isthmus proxy` is the same library.

use std::process::ExitCode;

use clap::Parser;
use isthmus_proxy::app::{Args, run, runtime};

fn main() -> ExitCode {
    let args = Args::parse();
    let done = runtime(args.threads).map_err(Into::into).and_then(|runtime| runtime.block_on(run(args)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("isthmus-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
