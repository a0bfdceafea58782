//! `isthmus registry discard`.

use std::path::PathBuf;

use isthmus_federation::data_dir::DataDir;
use isthmus_federation::enroll;
use serde_json::json;

use crate::cli::{CliError, Output, print};
use crate::config::GatewayConfig;

pub(super) const EXAMPLES: &str = "\
For a gateway of a federation that was restored from a backup, or recovered, on another one. It keeps its
identity, and gets the new registry when it starts. It must not run. Its old registry is put aside, and it
never takes part in that one again: where nothing was restored, join with an empty data directory instead.

Examples:
  isthmus registry discard --config gateway.yaml
  isthmus gateway --config gateway.yaml";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The gateway's configuration
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args, output: Output) -> Result<(), CliError> {
    let config = GatewayConfig::load(&args.config)?;
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    let data = DataDir::open(&config.data_dir).map_err(|error| failed(&error))?;
    let name = config.gateway_name(config.advertised(config.listen.east_west));
    enroll::discard(&name, &data).map_err(|error| failed(&error))?;
    let (directory, config) = (config.data_dir.display(), args.config.display());
    match output {
        Output::Json => print(&format!("{:#}\n", json!({ "data_dir": directory.to_string() }))),
        Output::Table => print(&format!(
            "the registry in {directory} is put aside\nStart the gateway: isthmus gateway --config {config}\n"
        )),
    }
}
