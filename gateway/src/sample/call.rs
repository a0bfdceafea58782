//! What the bookshop's services ask each other.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// How long a call may take, connecting included. A failover within it goes unnoticed.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// The largest answer that is taken.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Tells how many calls led to this one, so that services that call each other in a circle stop.
pub(super) const DEPTH_HEADER: &str = "x-bookshop-depth";
/// The bookshop is three deep.
const DEPTH_MAX: u32 = 8;

/// A service that is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name in the answer.
    pub name: String,
    /// What is requested: an absolute `http` URL.
    pub url: Uri,
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("{text:?} is not NAME=URL, for example ratings=http://ratings.shop.svc.clusterset.local:9080/");
        let (name, url) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(bad)?;
        let url: Uri = url.parse().map_err(|_| bad())?;
        if url.scheme_str() != Some("http") || url.host().is_none() {
            return Err(bad());
        }
        Ok(Self { name: name.to_owned(), url })
    }
}

/// Reads `http://HOST:PORT` and gives back `HOST:PORT`.
pub(super) fn parse_proxy(text: &str) -> Result<String, String> {
    let authority = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let authority = authority.and_then(|rest| rest.parse::<http::uri::Authority>().ok());
    let authority = authority.filter(|authority| authority.port_u16().is_some());
    authority.map(|authority| authority.to_string()).ok_or_else(|| format!("{text:?} is not http://HOST:PORT"))
}

/// How deep a request is, from its headers.
pub(super) fn depth(headers: &HeaderMap) -> u32 {
    let told = headers.get(DEPTH_HEADER).and_then(|value| value.to_str().ok());
    told.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Makes a call on behalf of a request that is `depth` calls deep. A failure is an answer too.
pub(super) async fn make(call: &Call, proxy: Option<&str>, depth: u32) -> Value {
    if depth >= DEPTH_MAX {
        return json!({ "error": format!("{DEPTH_MAX} calls deep: the services call each other in a circle") });
    }
    let answered = tokio::time::timeout(CALL_TIMEOUT, exchange(&call.url, proxy, depth + 1)).await;
    match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => json!({ "error": format!("{error:#}") }),
        Err(_) => json!({ "error": format!("no answer in {} s", CALL_TIMEOUT.as_secs()) }),
    }
}

async fn exchange(url: &Uri, proxy: Option<&str>, depth: u32) -> anyhow::Result<Value> {
    let authority = url.authority().context("the URL has no host")?;
    let origin = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let dialed = proxy.unwrap_or(&origin);
    let stream = TcpStream::connect(dialed).await.with_context(|| format!("cannot connect to {dialed}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the exchange; what goes wrong on the connection shows in the answer.
    tokio::spawn(connection);
    // A proxy is asked in absolute form, an origin in origin form (RFC 9112 §3.2).
    let target = match (proxy, url.path_and_query()) {
        (None, Some(path)) => path.as_str().parse()?,
        _ => url.clone(),
    };
    let request = Request::get(target).header(header::HOST, authority.as_str()).header(DEPTH_HEADER, depth);
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
    if !status.is_success() {
        bail!("status {}: {}", status.as_u16(), String::from_utf8_lossy(&body).trim());
    }
    serde_json::from_slice(&body).context("the answer is not JSON")
}
