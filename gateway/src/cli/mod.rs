//! The command line.
//!
//! Each command has a file with its arguments and its output. Commands that ask a running gateway go through
//! [`client`]; what they print is a table for people, or with `-o json` the API's own answer.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the gateway's admin API could not be reached.

mod audit;
mod backup;
mod ca;
pub(crate) mod client;
mod cluster;
mod clusters;
mod config;
mod endpoints;
mod gateway;
mod init;
mod logging;
mod problems;
mod registry;
mod root_source;
mod services;
mod status;
mod table;
mod time;
mod token;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use serde::de::DeserializeOwned;
use serde_json::Value;

use client::{AdminAddress, AdminClient};
use logging::Logged;

/// Joins clusters into one federation: east-west gateway, sidecar and operator's tool in one binary.
#[derive(Debug, Parser)]
#[command(name = "isthmus", version, max_term_width = 100, after_help = EXAMPLES, subcommand_required = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  isthmus gateway --config gateway.yaml
  isthmus --admin unix:/var/lib/isthmus/admin.sock token create --cluster us-west --ttl 10m
  isthmus gateway --config gateway.yaml --join isthmus1.AbC...
  isthmus status

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the gateway could not be reached.";

/// Set apart in every command's help from the command's own options.
const GLOBAL: &str = "Asking a gateway";

#[derive(Debug, clap::Args)]
struct Global {
    /// The gateway to ask: unix:PATH of admin.sock in its data directory, or http://HOST:PORT of its
    /// read-only admin port
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        env = "ISTHMUS_ADMIN",
        help_heading = GLOBAL,
        default_value = "unix:/var/lib/isthmus/admin.sock"
    )]
    admin: AdminAddress,
    /// How to print answers
    #[arg(short, long, global = true, value_enum, default_value_t, help_heading = GLOBAL)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Aligned columns, for people
    #[default]
    Table,
    /// What the admin API answered
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepare the first gateway of a federation, and choose where the root's key is
    #[command(after_help = init::EXAMPLES)]
    Init(init::Args),
    /// Run a cluster's gateway
    #[command(after_help = gateway::EXAMPLES)]
    Gateway(Logged<gateway::Args>),
    /// Run a workload's sidecar
    #[command(after_help = PROXY_EXAMPLES)]
    Proxy(isthmus_proxy::app::Args),
    /// Run a service of the sample bookshop
    #[command(after_help = crate::sample::EXAMPLES)]
    SampleApp(Logged<crate::sample::Args>),
    /// Run three clusters with a sample application on this machine
    #[command(after_help = crate::demo::EXAMPLES)]
    Demo(crate::demo::Args),
    /// Show how the gateway and its federation stand
    #[command(after_help = status::EXAMPLES)]
    Status,
    /// List the member clusters and their gateways
    #[command(after_help = clusters::EXAMPLES)]
    Clusters,
    /// List services, and the clusters that offer them
    #[command(after_help = services::EXAMPLES)]
    Services,
    /// Show where requests for a service go
    #[command(after_help = endpoints::EXAMPLES)]
    Endpoints(endpoints::Args),
    /// List what is wrong with the cluster's manifests
    #[command(after_help = problems::EXAMPLES)]
    Problems,
    /// Create, list and revoke the tokens that let clusters join and sidecars attach
    #[command(after_help = token::EXAMPLES)]
    #[command(subcommand)]
    Token(token::Command),
    /// Drain a cluster, let it leave, or cut it off
    #[command(after_help = cluster::EXAMPLES)]
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Show who did what to membership and trust
    #[command(after_help = audit::EXAMPLES)]
    Audit,
    /// Save the registry and the root's key, sealed to a key that is kept elsewhere
    #[command(after_help = backup::EXAMPLES)]
    #[command(subcommand)]
    Backup(backup::Command),
    /// Prepare a gateway to start the federation again from a backup
    #[command(after_help = backup::RESTORE_EXAMPLES)]
    Restore(backup::RestoreArgs),
    /// Show how the registry's replicas stand, and start it again when most of them are lost
    #[command(after_help = registry::EXAMPLES)]
    #[command(subcommand)]
    Registry(registry::Command),
    /// Show and replace the federation's root of trust, and sign where its key is offline
    #[command(after_help = ca::EXAMPLES)]
    #[command(subcommand)]
    Ca(ca::Command),
    /// Check or show a gateway's configuration file
    #[command(after_help = config::EXAMPLES)]
    #[command(subcommand)]
    Config(config::Command),
}

const PROXY_EXAMPLES: &str = "\
Examples:
  isthmus --admin unix:PATH token create --workload shop/reviews --ttl 720h > token
  printf 'token_file: token\\nworkload_address: 10.0.7.21\\n' > sidecar.yaml
  isthmus proxy --config sidecar.yaml --check
  isthmus proxy --config sidecar.yaml
  curl -x http://10.0.7.21:15001 http://reviews.shop.svc.clusterset.local:9080/";

/// The exit code for wrong usage.
const USAGE: u8 = 2;
/// The exit code when standard output is closed: that of a process which SIGPIPE ends, as a shell tells it.
const UNREAD: u8 = 141;
/// What every token begins with.
const TOKEN_PREFIX: &str = "isthmus1.";

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// An argument that cannot be what was meant.
    #[error("{0}")]
    Usage(String),
    /// Nobody answered.
    #[error(
        "cannot reach the gateway at {address}: {source}\n\
         Check that it runs on this machine, that --admin or ISTHMUS_ADMIN names admin.sock in its data_dir\n\
         (unix:PATH) or its admin port (http://HOST:PORT), and that you may open the socket."
    )]
    Unreachable {
        /// Where.
        address: AdminAddress,
        /// What the system said.
        source: io::Error,
    },
    /// It was tried.
    #[error("{0}")]
    Failed(String),
    /// It was tried, and may go through later: the registry takes no writes at present.
    #[error("{0}")]
    Unavailable(String),
    /// A configuration file with problems.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The system refused what every command needs, such as writing to standard output.
    #[error("{0}; is standard output open, and are there file descriptors left?")]
    System(#[from] io::Error),
    /// A long-running command ended.
    #[error("{}", causes(.0))]
    Run(#[from] anyhow::Error),
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Unavailable(_) | Self::Config(_) | Self::System(_) | Self::Run(_) => 1,
            Self::Usage(_) => USAGE,
            Self::Unreachable { .. } => 3,
        }
    }
}

/// An error and what caused it, each said once: some errors tell their cause in their own text already.
fn causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told {
        told if told.contains(&cause) => told,
        told if told.is_empty() => cause,
        told => format!("{told}: {cause}"),
    })
}

/// Runs the process's command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            // Arguments that are not understood are repeated, and a token may be among them.
            tell(without_tokens(error.render().to_string().trim_end()));
            return ExitCode::from(USAGE);
        }
        // Help and version, which were asked for.
        Err(error) => error.exit(),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the answer has read enough (`isthmus services | head -1`).
        Err(CliError::System(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(UNREAD),
        Err(error) => {
            match &error {
                // Editors and CI jump to lines that begin with `file:line:`.
                CliError::Config(problems) => tell(problems),
                _ => tell(format_args!("isthmus: {error}")),
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    let Cli { global, command } = cli;
    let asker = Asker { client: AdminClient::new(global.admin), output: global.output };
    match command {
        Command::Init(args) => init::run(&args, asker.output),
        Command::Gateway(Logged { args, log }) => {
            log.start()?;
            serving()?.block_on(gateway::run(args))
        }
        Command::Proxy(args) => {
            let runtime = isthmus_proxy::app::runtime(args.threads)?;
            Ok(runtime.block_on(isthmus_proxy::app::run(args))?)
        }
        Command::SampleApp(Logged { args, log }) => {
            log.start()?;
            Ok(serving()?.block_on(crate::sample::run(args))?)
        }
        Command::Demo(args) => Ok(serving()?.block_on(crate::demo::run(args))?),
        Command::Status => asking()?.block_on(asker.show("/v1/status", status::table)),
        Command::Clusters => asking()?.block_on(asker.show("/v1/clusters", clusters::table)),
        Command::Services => asking()?.block_on(asker.show("/v1/services", services::table)),
        Command::Endpoints(args) => asking()?.block_on(asker.show(&args.path(), endpoints::table)),
        Command::Problems => asking()?.block_on(asker.show("/v1/problems", problems::table)),
        Command::Token(command) => asking()?.block_on(token::run(&asker, command)),
        Command::Cluster(command) => asking()?.block_on(cluster::run(&asker, command)),
        Command::Audit => asking()?.block_on(asker.show("/v1/audit", audit::table)),
        Command::Backup(command) => asking()?.block_on(backup::run(&asker, command)),
        Command::Restore(args) => backup::restore(&args, global.output),
        Command::Registry(command) => asking()?.block_on(registry::run(&asker, command)),
        Command::Ca(command) => asking()?.block_on(ca::run(&asker, command)),
        Command::Config(command) => config::run(&command, global.output),
    }
}

/// `text` with nothing left of tokens but what they begin with.
fn without_tokens(text: &str) -> String {
    let mut parts = text.split(TOKEN_PREFIX);
    let before = parts.next().unwrap_or_default().to_owned();
    parts.fold(before, |told, part| {
        let secret = part.find(|c: char| c.is_whitespace() || c == '\'').unwrap_or(part.len());
        told + TOKEN_PREFIX + "..." + part.get(secret..).unwrap_or_default()
    })
}

/// The runtime of commands that serve.
fn serving() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// The runtime of commands that ask one question.
fn asking() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Asks a gateway and prints the answer.
struct Asker {
    client: AdminClient,
    output: Output,
}

impl Asker {
    async fn show<T: DeserializeOwned>(&self, path: &str, table: fn(&T) -> String) -> Result<(), CliError> {
        let answer = self.client.get(path).await?;
        self.print(answer, table)
    }

    fn print<T: DeserializeOwned>(&self, answer: Value, table: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        match self.output {
            Output::Json => print(&format!("{answer:#}\n")),
            Output::Table => {
                let typed = serde_json::from_value(answer).map_err(|error| client::unreadable(&error))?;
                print(&table(&typed))
            }
        }
    }
}

/// Says something beside the answer, on standard error. Who closed that has no use for it.
fn tell(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests;
