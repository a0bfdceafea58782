//! `isthmus config`.

use std::path::PathBuf;

use clap::Subcommand;

use super::{CliError, Output, print};
use crate::config::{ConfigError, GatewayConfig};

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus config check gateway.yaml
  isthmus config show gateway.yaml";

const CHECK_EXAMPLES: &str = "\
Prints `ok`, or every problem as file:line: message and exits with 1.

Examples:
  isthmus config check gateway.yaml";

const SHOW_EXAMPLES: &str = "\
Examples:
  isthmus config show gateway.yaml
  isthmus config show gateway.yaml -o json | jq .listen";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Tell everything that is wrong with a configuration file
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// The configuration file
        file: PathBuf,
    },
    /// Print a configuration file with every default filled in
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The configuration file
        file: PathBuf,
    },
}

pub(super) fn run(command: &Command, output: Output) -> Result<(), CliError> {
    match command {
        Command::Check { file } => check(GatewayConfig::load(file), output),
        Command::Show { file } => show(&GatewayConfig::load(file)?, output),
    }
}

fn check(loaded: Result<GatewayConfig, ConfigError>, output: Output) -> Result<(), CliError> {
    let problems = loaded.as_ref().err().map(|error| error.problems.as_slice()).unwrap_or_default();
    match output {
        Output::Json => print_json(&serde_json::json!({ "ok": loaded.is_ok(), "problems": problems }))?,
        Output::Table if loaded.is_ok() => print("ok\n")?,
        Output::Table => {}
    }
    loaded.map(|_| ()).map_err(CliError::from)
}

fn show(config: &GatewayConfig, output: Output) -> Result<(), CliError> {
    match output {
        Output::Table => print(&config.to_string()),
        Output::Json => print_json(config),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let json = serde_json::to_string_pretty(value).map_err(|error| CliError::Failed(error.to_string()))?;
    print(&(json + "\n"))
}
