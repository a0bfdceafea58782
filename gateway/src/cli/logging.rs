//! Where the log goes: to standard error, as text for people or JSON for collectors.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::CliError;

/// What is logged by default. The Raft library tells every step of its own at `info`, and every message that did
/// not reach a replica at `warn` and `error`: several lines for each heartbeat, as long as one replica is down.
/// The gateway itself says once when another is down, and when its own replica stopped.
const DEFAULT_FILTER: &str = "info,openraft=error,openraft::replication=off";

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// The arguments of a command that logs. Commands that only ask a gateway have nothing to log, and the sidecar
/// has its own way: its configuration.
#[derive(Debug, clap::Args)]
pub(super) struct Logged<T: clap::Args> {
    #[command(flatten)]
    pub(super) args: T,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// What to log, and how.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct LogArgs {
    /// What to log: a level (error, warn, info, debug, trace), or levels by module as in
    /// `info,isthmus_proxy=debug`
    #[arg(long, value_name = "FILTER", default_value = DEFAULT_FILTER)]
    log: String,
    /// How to write the log to standard error
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

impl LogArgs {
    /// Starts logging, for the rest of the process.
    pub(super) fn start(&self) -> Result<(), CliError> {
        let filter = EnvFilter::try_new(&self.log);
        let filter = filter.map_err(|error| CliError::Usage(format!("--log {:?}: {error}", self.log)))?;
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let started = match self.log_format {
            LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
            LogFormat::Json => log.json().try_init(),
        };
        started.map_err(|error| CliError::Failed(format!("logging: {error}")))
    }
}
