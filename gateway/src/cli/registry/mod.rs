//! `isthmus registry`: how the replicas of the registry stand, and the way out when most of them are lost.

mod discard;
mod recover;
mod status;

use clap::Subcommand;

use super::{Asker, CliError};

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus registry status
  isthmus registry recover --config gateway.yaml
  isthmus registry discard --config gateway.yaml";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show how far each replica is, and how many voters may fail
    #[command(after_help = status::EXAMPLES)]
    Status,
    /// Start the federation again on this gateway alone, when most voters are lost for good
    #[command(after_help = recover::EXAMPLES)]
    Recover(recover::Args),
    /// Put a gateway's registry aside, when the federation was restored or recovered elsewhere
    #[command(after_help = discard::EXAMPLES)]
    Discard(discard::Args),
}

pub(super) async fn run(asker: &Asker, command: Command) -> Result<(), CliError> {
    match command {
        Command::Status => asker.show("/v1/registry", status::table).await,
        Command::Discard(args) => discard::run(&args, asker.output),
        Command::Recover(args) => recover::run(&args, asker.output),
    }
}
