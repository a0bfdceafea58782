//! HTTP/1.1 as a client of the demo speaks it: to an origin, to a forward proxy, and CONNECT.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an exchange may take. The bookshop itself gives up after three seconds.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(5);
/// The largest answer that is taken; the bookshop's are under 4 KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    /// The body of a success, as JSON.
    ///
    /// # Errors
    /// When the answer is anything else.
    pub(super) fn json(&self) -> anyhow::Result<Value> {
        self.success()?;
        serde_json::from_slice(&self.body).context("the answer is not JSON")
    }

    /// The body of a success, as text.
    ///
    /// # Errors
    /// When the answer is anything else.
    pub(super) fn text(&self) -> anyhow::Result<String> {
        self.success()?;
        Ok(String::from_utf8(self.body.to_vec())?)
    }

    /// Whether the request succeeded.
    ///
    /// # Errors
    /// The status and the body, when it did not.
    pub(super) fn success(&self) -> anyhow::Result<()> {
        let text = String::from_utf8_lossy(&self.body);
        ensure!(self.status.is_success(), "status {}: {}", self.status.as_u16(), text.trim());
        Ok(())
    }
}

/// GETs `target` from whoever listens on `dialed`. `target` is a path for an origin, a whole URL for a proxy.
///
/// # Errors
/// When there is no complete answer in time.
pub(super) async fn get(dialed: SocketAddr, host: &str, target: &str) -> anyhow::Result<Answer> {
    let exchange = async {
        let stream = TcpStream::connect(dialed).await.with_context(|| format!("cannot connect to {dialed}"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the exchange; what goes wrong on the connection shows in the answer.
        tokio::spawn(connection);
        let request = Request::get(target).header(header::HOST, host).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await.context("no answer")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
        Ok(Answer { status, body })
    };
    in_time(dialed, exchange).await
}

/// A connection to `authority` by CONNECT through the proxy at `proxy`.
///
/// # Errors
/// When the proxy does not answer 200 in time.
pub(super) async fn connect(proxy: SocketAddr, authority: &str) -> anyhow::Result<TokioIo<Upgraded>> {
    let exchange = async {
        let stream = TcpStream::connect(proxy).await.with_context(|| format!("cannot connect to {proxy}"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        let request = Request::builder().method(Method::CONNECT).uri(authority).header(header::HOST, authority);
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await.context("no answer")?;
        ensure!(response.status() == StatusCode::OK, "CONNECT {authority}: status {}", response.status().as_u16());
        Ok(TokioIo::new(hyper::upgrade::on(response).await?))
    };
    in_time(proxy, exchange).await
}

async fn in_time<T>(dialed: SocketAddr, exchange: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let answered = timeout(EXCHANGE_WITHIN, exchange).await;
    answered.with_context(|| format!("{dialed} did not answer in {} s", EXCHANGE_WITHIN.as_secs()))?
}
