//! The status port: `/metrics` in OpenMetrics text, `/readyz` for probes. Plain HTTP/1.1, a request per connection.
//!
//! Ready means: there is a view and a valid certificate, and the sidecar is not draining. Whether a gateway
//! is attached does not matter, for traffic goes on without one; `isthmus_agent_*` tells.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::agent::AgentState;
use crate::limits::{Gate, Limits};
use crate::message::authority::check_framing;

/// Connections at a time: a scraper, a prober, a person, and many times as many again. When there are more, the oldest makes
/// room, so that those who say nothing keep nobody out.
const CONNECTIONS_MAX: usize = 64;
/// From accept to the last byte of the answer.
const CONNECTION_WITHIN: Duration = Duration::from_secs(10);
/// Pause after a failed accept, so that missing file descriptors do not make the loop spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// A bound status port.
pub(super) struct StatusListener {
    listener: TcpListener,
    local: SocketAddr,
    registry: Registry,
    state: watch::Receiver<AgentState>,
}

impl StatusListener {
    /// Binds, and adds the agent's state to `registry`.
    pub(super) fn bind(
        address: SocketAddr,
        mut registry: Registry,
        state: watch::Receiver<AgentState>,
    ) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let local = listener.local_addr()?;
        registry.register_collector(Box::new(AgentMetrics(state.clone())));
        Ok(Self { listener, local, registry, state })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves until `shutdown`; from `draining` on as not ready.
    pub(super) async fn serve(self, draining: CancellationToken, shutdown: CancellationToken) {
        let status = Arc::new(Status { registry: self.registry, state: self.state, draining });
        let gate = Gate::new(Limits::by_age(CONNECTIONS_MAX), Gauge::default());
        let accepting = async {
            loop {
                match self.listener.accept().await {
                    Ok((stream, peer)) => {
                        let entry = gate.enter_when_left(peer.ip()).await;
                        let (connection, pending) = (connection(status.clone(), stream), entry.pend());
                        tokio::spawn(shutdown.clone().run_until_cancelled_owned(async move {
                            tokio::select! {
                                () = connection => {}
                                () = pending.displaced() => {}
                            }
                            drop(entry);
                        }));
                    }
                    Err(error) => {
                        debug!(%error, "cannot accept on the status port");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        shutdown.run_until_cancelled(accepting).await;
    }
}

async fn connection(status: Arc<Status>, stream: TcpStream) {
    let answer = service_fn(move |request: Request<_>| {
        let answer = match check_framing(request.headers()) {
            Ok(()) => status.answer(request.method(), request.uri().path()),
            Err(error) => response(StatusCode::BAD_REQUEST, TEXT, format!("{error}\n")),
        };
        async { Ok::<_, Infallible>(answer) }
    });
    let serving =
        http1::Builder::new().timer(TokioTimer::new()).keep_alive(false).serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(CONNECTION_WITHIN, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "status connection failed"),
        Err(_) => debug!("status connection took too long"),
    }
}

/// What is told.
struct Status {
    registry: Registry,
    state: watch::Receiver<AgentState>,
    draining: CancellationToken,
}

impl Status {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        match (method, path) {
            (&Method::GET | &Method::HEAD, "/metrics") => match self.metrics() {
                Ok(text) => response(StatusCode::OK, OPENMETRICS, text),
                Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            },
            (&Method::GET | &Method::HEAD, "/readyz") => match self.unready() {
                None => response(StatusCode::OK, TEXT, "ready\n".to_owned()),
                Some(reason) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
            },
            (_, "/metrics" | "/readyz") => response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned()),
            _ => response(StatusCode::NOT_FOUND, TEXT, "try /metrics or /readyz\n".to_owned()),
        }
    }

    fn metrics(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Why no traffic should come yet, or any more.
    fn unready(&self) -> Option<String> {
        let state = self.state.borrow();
        if self.draining.is_cancelled() {
            return Some("draining".to_owned());
        }
        if state.is_ready(SystemTime::now()) {
            return None;
        }
        let lacking = if state.generation == 0 { "no view yet" } else { "no valid certificate" };
        let problem = state.problem.as_deref().unwrap_or("waiting for the gateway");
        Some(format!("{lacking}: {problem}"))
    }
}

fn response(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// The agent's state, read at each scrape.
#[derive(Debug)]
struct AgentMetrics(watch::Receiver<AgentState>);

impl Collector for AgentMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.0.borrow().clone();
        let mut gauge = |name: &str, help: &str, value: i64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        let attached = i64::from(state.gateway.is_some());
        gauge("isthmus_agent_attached", "Whether a gateway is attached", attached)?;
        let heard = state.heard_at.map_or(0, unix_seconds);
        gauge("isthmus_agent_heard_timestamp_seconds", "When a gateway last told something; 0 before", heard)?;
        let until = state.certified_until.map_or(0, unix_seconds);
        gauge("isthmus_agent_certified_until_timestamp_seconds", "When the certificate ends; 0 without one", until)?;
        let generation = i64::try_from(state.generation).unwrap_or(i64::MAX);
        gauge("isthmus_agent_view_generation", "Views published so far", generation)
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn state(generation: u64) -> AgentState {
        let now = SystemTime::now();
        AgentState {
            gateway: None,
            since: now,
            heard_at: Some(now),
            certified_until: Some(now + Duration::from_secs(60)),
            generation,
            problem: Some("127.0.0.1:15012: cannot connect".to_owned()),
        }
    }

    async fn get(address: SocketAddr, path: &str) -> (StatusCode, String) {
        let stream = TcpStream::connect(address).await.expect("listening");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let request = Request::get(path).header(header::HOST, "status").body(Full::<Bytes>::default()).expect("valid");
        let response = sender.send_request(request).await.expect("answered");
        let status = response.status();
        let body = response.into_body().collect().await.expect("whole").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn readiness_follows_view_certificate_and_drain() {
        let (agent, watched) = watch::channel(state(0));
        let (draining, shutdown) = (CancellationToken::new(), CancellationToken::new());
        let bound = StatusListener::bind(([127, 0, 0, 1], 0).into(), Registry::default(), watched).expect("a port");
        let address = bound.local_addr();
        let serving = tokio::spawn(bound.serve(draining.clone(), shutdown.clone()));

        let (status, text) = get(address, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "no view yet: 127.0.0.1:15012: cannot connect\n");
        agent.send_replace(state(3));
        assert_eq!(get(address, "/readyz").await, (StatusCode::OK, "ready\n".to_owned()), "without a gateway too");
        agent.send_modify(|state| state.certified_until = Some(SystemTime::now()));
        assert!(get(address, "/readyz").await.1.starts_with("no valid certificate"));
        agent.send_replace(state(3));
        let (status, text) = get(address, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("isthmus_agent_view_generation 3\n") && text.ends_with("# EOF\n"), "{text}");
        assert_eq!(get(address, "/").await.0, StatusCode::NOT_FOUND);
        draining.cancel();
        assert_eq!(get(address, "/readyz").await.1, "draining\n");
        shutdown.cancel();
        serving.await.expect("ends");
    }
}
