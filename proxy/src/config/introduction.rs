//! Who the workload is, in the sidecar's configuration: by a token, or by the user that the sidecar runs as.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use isthmus_identity::BearerToken;
use isthmus_model::name::TrustDomain;
use serde_saphyr::Spanned;

use super::{ConfigError, Quoted, read_bounded, value};
use crate::agent::Introduction;
use crate::unix_socket::PATH_BYTES_MAX;

/// The most gateways that can be named.
pub const GATEWAYS_MAX: usize = 16;

/// Where the token came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// From the configuration itself.
    Inline,
    /// From a file.
    File(PathBuf),
}

/// The fields as they are written.
pub(super) struct Raw {
    pub(super) token: Option<Spanned<String>>,
    pub(super) token_file: Option<Spanned<PathBuf>>,
    pub(super) gateways: Option<Spanned<Vec<SocketAddr>>>,
    pub(super) gateway_socket: Option<Spanned<PathBuf>>,
    pub(super) federation: Option<Spanned<String>>,
    pub(super) cluster: Option<Spanned<String>>,
}

/// What they mean.
pub(super) struct Introduced {
    pub(super) trust_domain: TrustDomain,
    pub(super) introduction: Introduction,
    pub(super) token_source: Option<TokenSource>,
}

impl Raw {
    pub(super) fn validate(self, path: &Path) -> Result<Introduced, ConfigError> {
        let whole = |reason| ConfigError::Whole { path: path.into(), reason };
        match (self.token, self.token_file, self.gateway_socket) {
            (Some(inline), None, None) => {
                let token = inline.value.parse().map_err(|error| value(path, "token", &inline, error))?;
                by_token(path, token, TokenSource::Inline, self.gateways, [self.federation, self.cluster])
            }
            (None, Some(file), None) => {
                let (token, source) = token_file(path, &file)?;
                by_token(path, token, source, self.gateways, [self.federation, self.cluster])
            }
            (None, None, Some(socket)) => {
                if let Some(gateways) = &self.gateways {
                    let reason = "not with gateway_socket: only the gateway of this machine knows its users";
                    return Err(value(path, "gateways", gateways, reason));
                }
                let missing = || whole("gateway_socket needs federation and cluster: which gateway is meant");
                let federation = name(path, "federation", &self.federation.ok_or_else(missing)?)?;
                let cluster = name(path, "cluster", &self.cluster.ok_or_else(missing)?)?;
                let trust_domain = TrustDomain { federation, cluster };
                let introduction = Introduction::User { socket: absolute(path, "gateway_socket", socket)? };
                Ok(Introduced { trust_domain, introduction, token_source: None })
            }
            (None, None, None) => Err(whole(
                "no token: set token_file to a file with the output of `isthmus token create --workload …`, \
                 or gateway_socket to the control socket of this machine's gateway",
            )),
            _ => Err(whole("more than one of token, token_file and gateway_socket: keep one")),
        }
    }
}

/// The path of a Unix socket, which has to be absolute and of a length that the system takes.
pub(super) fn absolute(path: &Path, field: &'static str, socket: Spanned<PathBuf>) -> Result<PathBuf, ConfigError> {
    let refused = |reason: String| Err(value(path, field, &socket, reason));
    if !socket.value.is_absolute() {
        return refused("set an absolute path: others are told it too".to_owned());
    }
    if socket.value.as_os_str().len() > PATH_BYTES_MAX {
        return refused(format!("a socket's path has at most {PATH_BYTES_MAX} bytes"));
    }
    Ok(socket.value)
}

fn name<T: FromStr<Err: fmt::Display>>(
    path: &Path,
    field: &'static str,
    text: &Spanned<String>,
) -> Result<T, ConfigError> {
    text.value.parse().map_err(|error| value(path, field, text, error))
}

fn token_file(path: &Path, file: &Spanned<PathBuf>) -> Result<(BearerToken, TokenSource), ConfigError> {
    let file_path = path.parent().unwrap_or(Path::new("")).join(&file.value);
    let text = read_bounded(&file_path)?;
    let token = text.parse().map_err(|error| {
        let reason = format!("{}: {error}", file_path.display());
        value(path, "token_file", file, reason)
    })?;
    Ok((token, TokenSource::File(file_path)))
}

fn by_token(
    path: &Path,
    token: BearerToken,
    source: TokenSource,
    gateways: Option<Spanned<Vec<SocketAddr>>>,
    [federation, cluster]: [Option<Spanned<String>>; 2],
) -> Result<Introduced, ConfigError> {
    for (field, given) in [("federation", federation), ("cluster", cluster)] {
        if let Some(given) = given {
            return Err(value(path, field, &given, "the token says it already: leave it out"));
        }
    }
    let Some(cluster) = &token.cluster else {
        let reason = "the token names no cluster: it is no workload token of `isthmus token create --workload …`";
        return Err(ConfigError::Whole { path: path.into(), reason });
    };
    let trust_domain = token.federation.trust_domain(cluster);
    let gateways = control_ports(path, gateways, &token)?;
    Ok(Introduced { trust_domain, introduction: Introduction::Token { token, gateways }, token_source: Some(source) })
}

fn control_ports(
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

/// Writes the fields back, without the token's secret.
pub(super) fn write(
    f: &mut fmt::Formatter<'_>,
    trust_domain: &TrustDomain,
    introduction: &Introduction,
    source: Option<&TokenSource>,
) -> fmt::Result {
    let TrustDomain { federation, cluster } = trust_domain;
    match introduction {
        Introduction::Token { token, gateways } => {
            writeln!(f, "# token {} for cluster {cluster} of {federation}", token.id)?;
            match source {
                Some(TokenSource::File(path)) => writeln!(f, "token_file: {}", path.display())?,
                _ => writeln!(f, "token: (not shown)")?,
            }
            writeln!(f, "gateways:")?;
            gateways.iter().try_for_each(|gateway| writeln!(f, "  - {}", Quoted(gateway)))
        }
        Introduction::User { socket } => {
            writeln!(f, "gateway_socket: {socket:?}")?;
            writeln!(f, "federation: {}", Quoted(federation))?;
            writeln!(f, "cluster: {}", Quoted(cluster))
        }
    }
}
