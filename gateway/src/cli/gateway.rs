//! `isthmus gateway`.

use std::convert::Infallible;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use isthmus_identity::{BearerToken, TokenParseError};

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

/// A token as it was given, which `Debug` does not show. It is read after the command line: an error of the command
/// line's parser would repeat it, and it may be damaged in one character only.
#[derive(Clone)]
struct TokenArgument(String);

impl FromStr for TokenArgument {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for TokenArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenArgument(..)")
    }
}

impl TokenArgument {
    fn read(&self) -> Result<BearerToken, CliError> {
        let bad = |why: String| CliError::Usage(format!("--join: {why}"));
        match self.0.strip_prefix('@') {
            Some(file) => {
                let told = |why: &dyn fmt::Display| bad(format!("{file}: {why}"));
                let text = read_token(Path::new(file)).map_err(|error| told(&error))?;
                text.parse().map_err(|error: TokenParseError| told(&error))
            }
            None => self.0.parse().map_err(|error: TokenParseError| bad(error.to_string())),
        }
    }
}

fn read_token(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(file)?.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

pub(super) async fn run(args: Args) -> Result<(), CliError> {
    let token = args.join.map(|token| token.read()).transpose()?;
    let config = GatewayConfig::load(&args.config)?;
    Ok(crate::app::run(config, token).await?)
}
