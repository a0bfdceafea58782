//! The service's HTTP side.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Args, call, caller, page};

/// Connections at a time; more wait in the backlog.
const CONNECTIONS_MAX: usize = 1024;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after an accept that failed, which is for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn serve(listener: TcpListener, args: Arc<Args>, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let accept = async { (slots.clone().acquire_owned().await, listener.accept().await) };
        let (slot, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (args, shutdown) = (args.clone(), shutdown.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, args, shutdown).await {
                tracing::debug!(%error, "a connection broke");
            }
            drop(slot);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, args: Arc<Args>, shutdown: CancellationToken) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let args = args.clone();
        async move { Ok::<_, Infallible>(answer(&args, &request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        served = serving.as_mut() => return served,
        () = shutdown.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    serving.await
}

async fn answer(args: &Args, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if path == "/healthz" {
        return respond(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::POST) {
        return respond(StatusCode::METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", "use GET\n".to_owned());
    }
    let story = story(args, request).await;
    if page::wanted(request.uri(), request.headers()) {
        return respond(StatusCode::OK, "text/html; charset=utf-8", page::render(&story));
    }
    respond(StatusCode::OK, "application/json", format!("{story:#}\n"))
}

/// Who answers, who asked, and what the called services said.
async fn story(args: &Args, request: &Request<Incoming>) -> Value {
    let depth = call::depth(request.headers());
    let answers = args.calls.iter().map(|call| call::make(call, args.proxy.as_deref(), depth));
    let names = args.calls.iter().map(|call| call.name.clone());
    let calls: Map<String, Value> = names.zip(join_all(answers).await).collect();
    json!({
        "cluster": args.cluster,
        "service": args.service,
        "version": args.version,
        "pid": std::process::id(),
        "caller": caller::identity(request.headers()),
        "path": request.uri().path(),
        "calls": calls,
    })
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
