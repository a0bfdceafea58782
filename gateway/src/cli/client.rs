//! The admin API's client: HTTP/1.1 over a Unix socket or a TCP connection, one request each.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::{CliError, tell};
use crate::admin::api;

/// How long a connection to the same machine may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an answer may take: a write looks for a quorum for ten seconds, and then says so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// After this long, a person wants to know what is being waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// The largest answer: 50,000 services with a kilobyte for each of a few clusters.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Where a gateway's admin API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AdminAddress {
    /// The socket in the data directory.
    Socket(PathBuf),
    /// The read-only port: `host:port`.
    Port(String),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not an admin address: write unix:PATH or http://HOST:PORT");
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Socket(path.into()));
        }
        let authority = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let authority = authority.and_then(|rest| rest.parse::<http::uri::Authority>().ok()).ok_or_else(bad)?;
        if authority.port_u16().is_none() {
            return Err(bad());
        }
        Ok(Self::Port(authority.to_string()))
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Port(authority) => write!(f, "http://{authority}"),
        }
    }
}

/// Asks one gateway.
#[derive(Clone, Debug)]
pub(crate) struct AdminClient {
    address: AdminAddress,
}

impl AdminClient {
    pub(crate) fn new(address: AdminAddress) -> Self {
        Self { address }
    }

    /// Reads a route.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Creates something.
    pub(crate) async fn post(&self, path: &str, body: &impl serde::Serialize) -> Result<Value, CliError> {
        let body = serde_json::to_vec(body).map_err(|error| CliError::Failed(error.to_string()))?;
        self.call(Method::POST, path, body.into()).await
    }

    /// Has something made that is not JSON.
    pub(super) async fn fetch(&self, path: &str, body: &impl serde::Serialize) -> Result<Bytes, CliError> {
        let body = serde_json::to_vec(body).map_err(|error| CliError::Failed(error.to_string()))?;
        self.answer(Method::POST, path, body.into()).await
    }

    /// Removes something.
    pub(super) async fn delete(&self, path: &str) -> Result<Value, CliError> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Value, CliError> {
        let answer = self.answer(method, path, body).await?;
        serde_json::from_slice(&answer).map_err(|error| unreadable(&error))
    }

    async fn answer(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CliError> {
        let mut answer = std::pin::pin!(tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(method, path, body)));
        let answered = tokio::select! {
            answered = answer.as_mut() => answered,
            () = tokio::time::sleep(PATIENCE) => {
                tell(format_args!("isthmus: waiting for the gateway at {} ...", self.address));
                answer.await
            }
        };
        let silent = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {ANSWER_TIMEOUT:?}"));
        answered.unwrap_or_else(|_| Err(self.unreachable(silent())))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, CliError> {
        let host = match &self.address {
            AdminAddress::Socket(_) => "localhost",
            AdminAddress::Port(authority) => authority,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| CliError::Failed(error.to_string()))?;
        match &self.address {
            AdminAddress::Socket(path) => self.send(UnixStream::connect(path), request).await,
            AdminAddress::Port(authority) => self.send(TcpStream::connect(authority), request).await,
        }
    }

    async fn send<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        connect: impl Future<Output = io::Result<IO>>,
        request: Request<Full<Bytes>>,
    ) -> Result<Bytes, CliError> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
        let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = stream.map_err(|error| self.unreachable(error))?;
        let broke = |error: hyper::Error| self.unreachable(io::Error::other(error));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
        // Ends with the exchange; what goes wrong on the connection shows in the answer.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broke)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| self.unreachable(io::Error::other(error)))?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(refusal(status, &body)) }
    }

    fn unreachable(&self, source: io::Error) -> CliError {
        CliError::Unreachable { address: self.address.clone(), source }
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> CliError {
    let told = serde_json::from_slice::<api::Failure>(body).map(|failure| failure.error);
    let told = told.unwrap_or_else(|_| format!("the gateway answered {status}: is this its admin API?"));
    match status {
        StatusCode::SERVICE_UNAVAILABLE => CliError::Unavailable(told),
        _ => CliError::Failed(told),
    }
}

/// The error for an answer that is not what this release expects.
pub(super) fn unreadable(error: &serde_json::Error) -> CliError {
    CliError::Failed(format!(
        "the gateway's answer is unreadable ({error}): is it of another release than this command?"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_addresses_have_two_forms() {
        for text in ["unix:/run/admin.sock", "http://127.0.0.1:15000", "http://[::1]:15000"] {
            assert_eq!(text.parse::<AdminAddress>().expect("valid").to_string(), text);
        }
        for bad in ["", "unix:", "/run/admin.sock", "http://localhost", "https://localhost:1", "http://a:1/x"] {
            assert!(bad.parse::<AdminAddress>().is_err(), "{bad}");
        }
    }
}
