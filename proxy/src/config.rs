//! The sidecar's configuration: one small YAML file, read and validated once.
//!
//! ```yaml
//! token_file: /var/run/isthmus/token    # or, inline, token: isthmus1.…
//! gateways: [10.0.0.5:15012]            # control ports; default: the contacts in the token
//! workload_address: 10.0.7.21           # as in the cluster's endpoints
//! outbound: 10.0.7.21:15001             # default: port 15001 of workload_address
//! inbound: 10.0.7.21:15006              # default: port 15006 of workload_address
//! metrics: 127.0.0.1:15020              # /metrics and /readyz; default: none
//! workload_api:                         # the SPIFFE Workload API; default: none
//!   socket: /run/isthmus/workload.sock  # an absolute path
//!   uids: [1000]                        # who gets the certificate; default: the sidecar's own user
//! drain_seconds: 5                      # at most
//! log: info                             # or target=level pairs: info,isthmus_proxy=debug
//! ```
//!
//! Fields that are not known are errors. Nothing is read from the environment.

mod workload_api;

use std::fmt;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use isthmus_identity::BearerToken;
use serde::Deserialize;
use serde_saphyr::{Spanned, UserMessageFormatter};
use tracing_subscriber::filter::Targets;

pub use workload_api::{Callers, UIDS_MAX, WorkloadApiConfig};

use crate::agent::AgentConfig;

/// Where applications' connections arrive, by default.
pub const OUTBOUND_PORT: u16 = 15_001;
/// Where tunnels arrive, by default.
pub const INBOUND_PORT: u16 = 15_006;
/// How long requests may finish after a signal, by default and at most: as long as listeners wait for them.
/// Below the 30 s that Kubernetes grants.
pub const DRAIN_MAX: Duration = crate::accept::DRAIN_WITHIN;
/// The most gateways that can be named.
pub const GATEWAYS_MAX: usize = 16;
/// The largest configuration or token file. Real ones are below 1 KiB.
pub const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: std::io::Error,
    },
    /// Not YAML, not text, an unknown field, or a value of the wrong type. The text has line and column.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        reason: String,
    },
    /// A value that makes no sense.
    #[error("{}:{line}: {field}: {reason}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// On which line.
        line: u64,
        /// In which field.
        field: &'static str,
        /// What to change.
        reason: String,
    },
    /// Values that do not fit together, or one that is not there.
    #[error("{}: {reason}", path.display())]
    Whole {
        /// Which file.
        path: PathBuf,
        /// What to change.
        reason: &'static str,
    },
}

/// Where the token came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// From the configuration itself.
    Inline,
    /// From a file.
    File(PathBuf),
}

/// A valid configuration. `Display` writes it as YAML, without the token's secret.
#[derive(Clone, Debug)]
pub struct SidecarConfig {
    /// Who the workload is, and where its gateways are.
    pub agent: AgentConfig,
    /// Where the token came from.
    pub token_source: TokenSource,
    /// Where applications' connections arrive.
    pub outbound: SocketAddr,
    /// Where tunnels arrive.
    pub inbound: SocketAddr,
    /// Where `/metrics` and `/readyz` are served.
    pub metrics: Option<SocketAddr>,
    /// Where the application gets the workload's certificate and its key.
    pub workload_api: Option<WorkloadApiConfig>,
    /// How long requests may finish after a signal.
    pub drain: Duration,
    /// What is logged.
    pub log: Targets,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    token: Option<Spanned<String>>,
    token_file: Option<Spanned<PathBuf>>,
    gateways: Option<Spanned<Vec<SocketAddr>>>,
    workload_address: IpAddr,
    outbound: Option<SocketAddr>,
    inbound: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    workload_api: Option<workload_api::Raw>,
    drain_seconds: Option<Spanned<u64>>,
    log: Option<Spanned<String>>,
}

impl SidecarConfig {
    /// Reads and validates the file at `path`, and the token file that it names.
    ///
    /// # Errors
    /// The first thing that is wrong, with file and line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(path, &read_bounded(path)?)
    }

    /// Validates `text`, which errors call `path`. A relative `token_file` is looked for beside it.
    ///
    /// # Errors
    /// The first thing that is wrong, with file and line.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        // A snippet of the file in an error could show the token.
        let options = serde_saphyr::options! { with_snippet: false };
        let syntax = |error: serde_saphyr::Error| {
            let reason = error.render_with_formatter(&UserMessageFormatter);
            ConfigError::Syntax { path: path.into(), reason }
        };
        let raw: Raw = serde_saphyr::from_str_with_options(text, options).map_err(syntax)?;
        let (token, token_source) = token(path, raw.token, raw.token_file)?;
        let Some(cluster) = token.cluster.clone() else {
            let reason = "the token names no cluster: it is no workload token of `isthmus token create --workload …`";
            return Err(ConfigError::Whole { path: path.into(), reason });
        };
        let gateways = gateways(path, raw.gateways, &token)?;
        let at = |port| SocketAddr::new(raw.workload_address, port);
        Ok(Self {
            agent: AgentConfig { token, cluster, gateways, workload_address: raw.workload_address },
            token_source,
            outbound: raw.outbound.unwrap_or(at(OUTBOUND_PORT)),
            inbound: raw.inbound.unwrap_or(at(INBOUND_PORT)),
            metrics: raw.metrics,
            workload_api: raw.workload_api.map(|raw| raw.validate(path)).transpose()?,
            drain: drain(path, raw.drain_seconds)?,
            log: log(path, raw.log)?,
        })
    }
}

fn read_bounded(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |reason| ConfigError::Read { path: path.into(), reason };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::Whole { path: path.into(), reason: "the file is larger than 64 KiB" });
    }
    Ok(text)
}

fn value<T>(path: &Path, field: &'static str, at: &Spanned<T>, reason: impl fmt::Display) -> ConfigError {
    ConfigError::Value { path: path.into(), line: at.referenced.line(), field, reason: reason.to_string() }
}

fn token(
    path: &Path,
    inline: Option<Spanned<String>>,
    file: Option<Spanned<PathBuf>>,
) -> Result<(BearerToken, TokenSource), ConfigError> {
    match (inline, file) {
        (Some(inline), None) => {
            let token = inline.value.parse().map_err(|error| value(path, "token", &inline, error))?;
            Ok((token, TokenSource::Inline))
        }
        (None, Some(file)) => {
            let file_path = path.parent().unwrap_or(Path::new("")).join(&file.value);
            let text = read_bounded(&file_path)?;
            let token = text.parse().map_err(|error| {
                let reason = format!("{}: {error}", file_path.display());
                value(path, "token_file", &file, reason)
            })?;
            Ok((token, TokenSource::File(file_path)))
        }
        (None, None) => Err(ConfigError::Whole {
            path: path.into(),
            reason: "no token: set token_file to a file with the output of `isthmus token create --workload …`",
        }),
        (Some(_), Some(_)) => {
            Err(ConfigError::Whole { path: path.into(), reason: "both token and token_file: leave one out" })
        }
    }
}

fn gateways(
    path: &Path,
    configured: Option<Spanned<Vec<SocketAddr>>>,
    token: &BearerToken,
) -> Result<Vec<SocketAddr>, ConfigError> {
    let Some(configured) = configured else {
        return if token.contacts.is_empty() {
            let reason = "no gateways: list the control ports (15012) of the cluster's gateways";
            Err(ConfigError::Whole { path: path.into(), reason })
        } else {
            Ok(token.contacts.clone())
        };
    };
    if configured.value.is_empty() || configured.value.len() > GATEWAYS_MAX {
        return Err(value(path, "gateways", &configured, format!("list 1 to {GATEWAYS_MAX} addresses")));
    }
    Ok(configured.value)
}

fn drain(path: &Path, seconds: Option<Spanned<u64>>) -> Result<Duration, ConfigError> {
    let Some(seconds) = seconds else { return Ok(DRAIN_MAX) };
    let drain = Duration::from_secs(seconds.value);
    if drain > DRAIN_MAX {
        return Err(value(path, "drain_seconds", &seconds, format!("at most {}", DRAIN_MAX.as_secs())));
    }
    Ok(drain)
}

fn log(path: &Path, directives: Option<Spanned<String>>) -> Result<Targets, ConfigError> {
    let Some(directives) = directives else {
        return Ok(Targets::new().with_default(tracing_subscriber::filter::LevelFilter::INFO));
    };
    let reason = "use error, warn, info, debug, trace or off, or target=level pairs joined by commas";
    directives.value.parse().map_err(|_| value(path, "log", &directives, reason))
}

impl fmt::Display for SidecarConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = &self.agent.token;
        writeln!(f, "# token {} for cluster {} of {}", token.id, self.agent.cluster, token.federation)?;
        match &self.token_source {
            TokenSource::Inline => writeln!(f, "token: (not shown)")?,
            TokenSource::File(path) => writeln!(f, "token_file: {}", path.display())?,
        }
        writeln!(f, "gateways:")?;
        for gateway in &self.agent.gateways {
            writeln!(f, "  - {}", Quoted(gateway))?;
        }
        writeln!(f, "workload_address: {}", Quoted(&self.agent.workload_address))?;
        writeln!(f, "outbound: {}", Quoted(&self.outbound))?;
        writeln!(f, "inbound: {}", Quoted(&self.inbound))?;
        match &self.metrics {
            Some(metrics) => writeln!(f, "metrics: {}", Quoted(metrics))?,
            None => writeln!(f, "# metrics: not served")?,
        }
        match &self.workload_api {
            Some(workload_api) => write!(f, "{workload_api}")?,
            None => writeln!(f, "# workload_api: not served")?,
        }
        writeln!(f, "drain_seconds: {}", self.drain.as_secs())?;
        writeln!(f, "log: {}", Quoted(&self.log))
    }
}

/// An IPv6 address is a YAML flow sequence unless it is quoted.
struct Quoted<T>(T);

impl<T: fmt::Display> fmt::Display for Quoted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::registry::token::Digest;

    use super::*;

    fn token() -> BearerToken {
        let valid = "valid";
        let contact = ([10, 0, 0, 5], 15012).into();
        BearerToken::mint(
            "acme.mesh".parse().expect(valid),
            Some("us-east".parse().expect(valid)),
            vec![contact],
            Digest([7; 32]),
        )
    }

    fn parse(text: &str) -> Result<SidecarConfig, ConfigError> {
        SidecarConfig::parse(Path::new("sidecar.yaml"), text)
    }

    fn refused(text: &str) -> String {
        parse(text).map(|config| config.to_string()).expect_err("must be refused").to_string()
    }

    #[test]
    fn the_smallest_file_gets_the_usual_ports() {
        let token = token();
        let config = parse(&format!("token: {token}\nworkload_address: 10.0.7.21\n")).expect("valid");
        assert_eq!(config.agent.gateways, token.contacts);
        assert_eq!(config.outbound, ([10, 0, 7, 21], 15001).into());
        assert_eq!(config.inbound, ([10, 0, 7, 21], 15006).into());
        assert_eq!((config.metrics, config.drain), (None, DRAIN_MAX));
    }

    #[test]
    fn the_effective_configuration_reads_back_and_hides_the_secret() {
        let token = token();
        let text = format!(
            "token: {token}\ngateways: [\"[::1]:15012\"]\nworkload_address: ::1\nmetrics: 127.0.0.1:15020\n\
             workload_api:\n  socket: /run/isthmus/workload.sock\n  uids: [1001, 1000]\ndrain_seconds: 3\nlog: warn,isthmus_proxy=debug\n"
        );
        let config = parse(&text).expect("valid");
        let printed = config.to_string();
        assert!(!printed.contains(&token.to_string()) && printed.contains(&token.id.to_string()), "{printed}");
        assert!(!format!("{config:?}").contains(&token.to_string()));
        let again = parse(&printed.replace("(not shown)", &token.to_string())).expect("valid");
        assert_eq!(again.to_string(), printed);
        assert_eq!((again.metrics, again.log), (config.metrics, config.log));
        assert_eq!(again.workload_api, config.workload_api);
        let callers = again.workload_api.expect("served").callers;
        assert_eq!(callers, Callers::Uids([1000, 1001].into()));
        assert!(callers.admit(1000) && !callers.admit(0), "nobody is let in for being root");
    }

    #[test]
    fn a_token_file_is_looked_for_beside_the_configuration() {
        let token = token();
        let dir = std::env::temp_dir().join(format!("isthmus-sidecar-config-{}", token.id));
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join("token"), format!("{token}\n")).expect("a file");
        let path = dir.join("sidecar.yaml");
        std::fs::write(&path, "token_file: token\nworkload_address: 10.0.7.21\n").expect("a file");
        let config = SidecarConfig::load(&path);
        std::fs::write(dir.join("token"), "isthmus1.AAAA").expect("a file");
        let damaged = SidecarConfig::load(&path);
        std::fs::remove_dir_all(&dir).expect("removable");
        assert_eq!(config.expect("valid").agent.token, token);
        let error = damaged.expect_err("damaged").to_string();
        assert!(error.contains("sidecar.yaml:1: token_file:"), "{error}");
    }

    #[test]
    fn every_error_says_where_and_what() {
        let token = token();
        let with = |lines: &str| format!("token: {token}\nworkload_address: 10.0.7.21\n{lines}\n");
        for (text, expected) in [
            (with("metric: 1"), "metric"),
            (with("metric: 1"), "3"),
            (with("inbound: 10.0.7.21"), "3"),
            (with("drain_seconds: 6"), "sidecar.yaml:3: drain_seconds: at most 5"),
            (with("log: loud,=x"), "sidecar.yaml:3: log: use error"),
            (
                with("workload_api:\n  socket: run/workload.sock"),
                "sidecar.yaml:4: workload_api.socket: set an absolute",
            ),
            (with(&format!("workload_api:\n  socket: /{}", "a".repeat(100))), "sidecar.yaml:4: workload_api.socket: a"),
            (with("workload_api:\n  socket: /run/s\n  uids: []"), "sidecar.yaml:5: workload_api.uids: list 1 to 64"),
            (with("workload_api:\n  socket: /run/s\n  mode: 0666"), "line 5"),
            (with("workload_api:\n  uids: [1000]"), "socket"),
            (with("workload_api:\n  socket: /run/s\n  uids: [-1]"), "5"),
            (with("gateways: []"), "sidecar.yaml:3: gateways: list 1 to 16"),
            (with("token_file: x"), "both token and token_file"),
            (with("inbound: 10.0.7.21:1\ninbound: 10.0.7.21:2"), "inbound"),
            ("workload_address: 10.0.7.21\n".to_owned(), "no token"),
            ("token: isthmus1.AAAA\nworkload_address: 10.0.7.21\n".to_owned(), "sidecar.yaml:1: token:"),
            (
                "token_file: /nonexistent/token\nworkload_address: 10.0.7.21\n".to_owned(),
                "cannot read /nonexistent/token",
            ),
        ] {
            let error = refused(&text);
            assert!(!error.contains("Options"), "the parser's advice to programmers: {error}");
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(!error.contains(&token.to_string()), "{error}");
        }
    }
}
