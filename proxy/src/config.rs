//! The sidecar's configuration: one small YAML file, read and validated once.
//!
//! ```yaml
//! token_file: /var/run/isthmus/token    # or, inline, token: isthmus1.…
//! gateways: [10.0.0.5:15012]            # control ports; default: the contacts in the token
//!                                       # or, instead of a token and gateways, the gateway on the same machine:
//!                                       # gateway_socket: /run/isthmus/control.sock, federation: acme.mesh, cluster: us-east
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

mod introduction;
mod workload_api;

use std::fmt;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::{Spanned, UserMessageFormatter};
use tracing_subscriber::filter::Targets;

pub use introduction::{GATEWAYS_MAX, TokenSource};
pub use workload_api::{UIDS_MAX, WorkloadApiConfig};

use crate::accept::{DRAIN_WITHIN, DRAIN_WITHIN_MAX};
use crate::agent::AgentConfig;
use crate::inbound::{Inbound, Workload};
use introduction::Introduced;

/// Where applications' connections arrive, by default.
pub const OUTBOUND_PORT: u16 = 15_001;
/// Where tunnels arrive, by default.
pub const INBOUND_PORT: u16 = 15_006;
const STRICT: &str = "strict";
const PERMISSIVE: &str = "permissive";
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

/// A valid configuration. `Display` writes it as YAML, without the token's secret.
#[derive(Clone, Debug)]
pub struct SidecarConfig {
    /// Who the workload is, and where its gateways are.
    pub agent: AgentConfig,
    /// Where the token came from, if there is one.
    pub token_source: Option<TokenSource>,
    /// Where applications' connections arrive.
    pub outbound: SocketAddr,
    /// Where tunnels arrive.
    pub inbound: SocketAddr,
    /// Whom it lets in there.
    pub inbound_mode: Inbound,
    /// Where the application is connected to.
    pub application_address: IpAddr,
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
    gateway_socket: Option<Spanned<PathBuf>>,
    federation: Option<Spanned<String>>,
    cluster: Option<Spanned<String>>,
    workload_address: IpAddr,
    outbound: Option<SocketAddr>,
    inbound: Option<SocketAddr>,
    inbound_mode: Option<Spanned<String>>,
    application_address: Option<Spanned<IpAddr>>,
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

    /// The workload that the sidecar stands beside.
    #[must_use]
    pub fn workload(&self) -> Workload {
        let (address, application) = (self.agent.workload_address, self.application_address);
        let own_ports = [self.outbound.port(), self.inbound.port(), self.metrics.map_or(0, |metrics| metrics.port())];
        Workload { address, application, inbound: self.inbound_mode, own_ports }
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
        let Raw { token, token_file, gateways, gateway_socket, federation, cluster, .. } = raw;
        let introduced = introduction::Raw { token, token_file, gateways, gateway_socket, federation, cluster };
        let Introduced { trust_domain, introduction, token_source } = introduced.validate(path)?;
        let at = |port| SocketAddr::new(raw.workload_address, port);
        Ok(Self {
            agent: AgentConfig { trust_domain, introduction, workload_address: raw.workload_address },
            token_source,
            outbound: raw.outbound.unwrap_or(at(OUTBOUND_PORT)),
            inbound: raw.inbound.unwrap_or(at(INBOUND_PORT)),
            inbound_mode: inbound_mode(path, raw.inbound_mode)?,
            application_address: application_address(path, raw.application_address, raw.workload_address)?,
            metrics: raw.metrics,
            workload_api: raw.workload_api.map(|raw| raw.validate(path)).transpose()?,
            drain: drain(path, raw.drain_seconds)?,
            log: log(path, raw.log)?,
        })
    }
}

fn inbound_mode(path: &Path, mode: Option<Spanned<String>>) -> Result<Inbound, ConfigError> {
    let Some(mode) = mode else { return Ok(Inbound::Strict) };
    match mode.value.as_str() {
        STRICT => Ok(Inbound::Strict),
        PERMISSIVE => Ok(Inbound::Permissive),
        _ => Err(value(path, "inbound_mode", &mode, format!("write {STRICT} or {PERMISSIVE}"))),
    }
}

/// The application is on this machine: elsewhere, the sidecar would be a way around whatever protects it there.
fn application_address(path: &Path, given: Option<Spanned<IpAddr>>, own: IpAddr) -> Result<IpAddr, ConfigError> {
    let Some(given) = given else { return Ok(own) };
    if given.value == own || given.value.to_canonical().is_loopback() {
        return Ok(given.value);
    }
    Err(value(path, "application_address", &given, "a loopback address, or the workload_address itself"))
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

fn drain(path: &Path, seconds: Option<Spanned<u64>>) -> Result<Duration, ConfigError> {
    let Some(seconds) = seconds else { return Ok(DRAIN_WITHIN) };
    let drain = Duration::from_secs(seconds.value);
    if drain > DRAIN_WITHIN_MAX {
        return Err(value(path, "drain_seconds", &seconds, format!("at most {}", DRAIN_WITHIN_MAX.as_secs())));
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
        let AgentConfig { trust_domain, introduction, .. } = &self.agent;
        introduction::write(f, trust_domain, introduction, self.token_source.as_ref())?;
        writeln!(f, "workload_address: {}", Quoted(&self.agent.workload_address))?;
        writeln!(f, "outbound: {}", Quoted(&self.outbound))?;
        writeln!(f, "inbound: {}", Quoted(&self.inbound))?;
        let mode = if self.inbound_mode == Inbound::Strict { STRICT } else { PERMISSIVE };
        writeln!(f, "inbound_mode: {mode}")?;
        writeln!(f, "application_address: {}", Quoted(&self.application_address))?;
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
    use isthmus_identity::BearerToken;
    use isthmus_model::registry::token::Digest;

    use super::*;
    use crate::agent::Introduction;
    use crate::unix_socket::Callers;

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
        let workload = Workload { own_ports: [15001, 15006, 0], ..Workload::at([10, 0, 7, 21].into()) };
        assert_eq!(config.workload(), workload);
        let Introduction::Token { gateways, .. } = config.agent.introduction else { panic!("by token") };
        assert_eq!(gateways, token.contacts);
        assert_eq!(config.outbound, ([10, 0, 7, 21], 15001).into());
        assert_eq!(config.inbound, ([10, 0, 7, 21], 15006).into());
        assert_eq!((config.metrics, config.drain), (None, DRAIN_WITHIN));
    }

    #[test]
    fn the_effective_configuration_reads_back_and_hides_the_secret() {
        let token = token();
        let text = format!(
            "token: {token}\ngateways: [\"[::1]:15012\"]\nworkload_address: ::1\nmetrics: 127.0.0.1:15020\n\
             inbound_mode: permissive\napplication_address: 127.0.0.1\n\
             workload_api:\n  socket: /run/isthmus/workload.sock\n  uids: [1001, 1000]\ndrain_seconds: 3\nlog: warn,isthmus_proxy=debug\n"
        );
        let config = parse(&text).expect("valid");
        let printed = config.to_string();
        assert!(!printed.contains(&token.to_string()) && printed.contains(&token.id.to_string()), "{printed}");
        assert!(!format!("{config:?}").contains(&token.to_string()));
        let again = parse(&printed.replace("(not shown)", &token.to_string())).expect("valid");
        assert_eq!(again.to_string(), printed);
        assert_eq!(again.workload(), config.workload());
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
        let introduction = config.expect("valid").agent.introduction;
        assert!(matches!(introduction, Introduction::Token { token: read, .. } if read == token));
        let error = damaged.expect_err("damaged").to_string();
        assert!(error.contains("sidecar.yaml:1: token_file:"), "{error}");
    }

    #[test]
    fn on_the_gateways_machine_a_socket_takes_the_place_of_the_token() {
        let text = "gateway_socket: /run/isthmus/control.sock\nfederation: acme.mesh\ncluster: us-east\n\
                    workload_address: 10.0.7.21\n";
        let config = parse(text).expect("valid");
        assert_eq!(config.agent.trust_domain.to_string(), "us-east.acme.mesh");
        assert_eq!(parse(&config.to_string()).expect("valid").to_string(), config.to_string());
        let socket = Path::new("/run/isthmus/control.sock");
        assert!(matches!(config.agent.introduction, Introduction::User { socket: read } if read == socket));
        for (replace, with, expected) in [
            ("cluster: us-east\n", "", "gateway_socket needs federation and cluster"),
            ("us-east", "us_east", "sidecar.yaml:3: cluster: "),
            ("/run", "run", "sidecar.yaml:1: gateway_socket: set an absolute path"),
            ("workload", "gateways: [10.0.0.5:15012]\nworkload", "sidecar.yaml:4: gateways: not with gateway_socket"),
            ("workload", "token_file: token\nworkload", "more than one of"),
        ] {
            let error = refused(&text.replacen(replace, with, 1));
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let named = refused(&format!("token: {}\ncluster: us-east\nworkload_address: ::1\n", token()));
        assert!(named.contains("sidecar.yaml:2: cluster: the token says it already"), "{named}");
    }

    #[test]
    fn every_error_says_where_and_what() {
        let token = token();
        let with = |lines: &str| format!("token: {token}\nworkload_address: 10.0.7.21\n{lines}\n");
        for (text, expected) in [
            (with("metric: 1"), "metric"),
            (with("metric: 1"), "3"),
            (with("inbound: 10.0.7.21"), "3"),
            (with("drain_seconds: 601"), "sidecar.yaml:3: drain_seconds: at most 600"),
            (with("log: loud,=x"), "sidecar.yaml:3: log: use error"),
            (with("inbound_mode: open"), "sidecar.yaml:3: inbound_mode: write strict or permissive"),
            (with("application_address: 10.0.7.22"), "sidecar.yaml:3: application_address: a loopback address, or"),
            (
                with("workload_api:\n  socket: run/workload.sock"),
                "sidecar.yaml:4: workload_api.socket: set an absolute",
            ),
            (with(&format!("workload_api:\n  socket: /{}", "a".repeat(100))), "sidecar.yaml:4: workload_api.socket: a"),
            (with("workload_api:\n  socket: /run/s\n  uids: []"), "sidecar.yaml:5: workload_api.uids: list 1 to 64"),
            (with("workload_api:\n  socket: /run/s\n  mode: 0666"), "line 5"),
            (with("workload_api:\n  uids: [1000]"), "socket"),
            (
                with("workload_api:\n  socket: /run/s\n  uids: [65534]"),
                "sidecar.yaml:5: workload_api.uids: 65534 and 4294967295 stand for",
            ),
            (with("workload_api:\n  socket: /run/s\n  uids: [-1]"), "5"),
            (with("gateways: []"), "sidecar.yaml:3: gateways: list 1 to 16"),
            (with("token_file: x"), "more than one of token, token_file"),
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
