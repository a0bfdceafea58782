//! `isthmus registry`: how the replicas of the registry stand, and the way out when most of them are lost.

mod recover;

use clap::Subcommand;

use super::{CliError, Output};

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus registry recover --config gateway.yaml";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start the federation again on this gateway alone, when most voters are lost for good
    #[command(after_help = recover::EXAMPLES)]
    Recover(recover::Args),
}

pub(super) fn run(command: &Command, output: Output) -> Result<(), CliError> {
    match command {
        Command::Recover(args) => recover::run(args, output),
    }
}
