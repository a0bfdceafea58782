//! `isthmus gateway`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use isthmus_identity::BearerToken;

use super::CliError;
use crate::config::GatewayConfig;

pub(super) const EXAMPLES: &str = "\
Examples:
  # The first gateway of a federation, with `found: true` in its configuration
  isthmus gateway --config gateway.yaml
  # A cluster joins, once; after that the gateway starts without the token
  isthmus gateway --config gateway.yaml --join isthmus1.AbC...
  # The same, without the token in the list of processes
  isthmus gateway --config gateway.yaml --join @token.txt";

/// The longest file that is read as a token.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file; `isthmus config check FILE` checks it
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// A join token, or @FILE with one; not needed any more once the gateway has joined
    #[arg(long, value_name = "TOKEN")]
    join: Option<TokenArgument>,
}

/// A token on the command line. Its `Debug` shows no secret.
#[derive(Clone, Debug)]
struct TokenArgument(BearerToken);

impl FromStr for TokenArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let token = match text.strip_prefix('@') {
            Some(file) => read_token(Path::new(file)).map_err(|error| format!("{file}: {error}"))?,
            None => text.to_owned(),
        };
        token.parse().map(Self).map_err(|error| error.to_string())
    }
}

fn read_token(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::io::Read::read_to_string(
        &mut std::io::Read::take(std::fs::File::open(file)?, TOKEN_FILE_BYTES_MAX),
        &mut text,
    )?;
    Ok(text)
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let config = GatewayConfig::load(&args.config)?;
    Ok(crate::app::run(config, args.join.map(|token| token.0)).await?)
}
