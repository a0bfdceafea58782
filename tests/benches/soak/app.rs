//! The application that is called: this program again, with [`WORD`]. It is a process of its own, so that it can be killed.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::process::ExitCode;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy, split};
use tokio::net::{TcpListener, TcpStream};

use crate::stage::{HTTP, HTTP2};
use crate::workload::TCP;

/// The argument that asks for it, before its address and its name.
pub(crate) const WORD: &str = "app";

/// Serves until it is killed.
pub(crate) fn run(ip: &str, name: &str) -> ExitCode {
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(serve(ip, name)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name} at {ip}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(ip: &str, name: &str) -> io::Result<()> {
    let ip: IpAddr = ip.parse().map_err(io::Error::other)?;
    let (http, http2) = (TcpListener::bind((ip, HTTP)).await?, TcpListener::bind((ip, HTTP2)).await?);
    let lines = TcpListener::bind((ip, TCP)).await?;
    loop {
        // Why a connection ended is its peer's to judge.
        tokio::select! {
            accepted = http.accept() => drop(tokio::spawn(by_http1(accepted?.0))),
            accepted = http2.accept() => drop(tokio::spawn(by_http2(accepted?.0))),
            accepted = lines.accept() => drop(tokio::spawn(by_line(accepted?.0, format!("hello from {name}\n")))),
        }
    }
}

async fn by_http1(stream: TcpStream) -> hyper::Result<()> {
    stream.set_nodelay(true).ok();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new());
    http.serve_connection(TokioIo::new(stream), service_fn(answer)).with_upgrades().await
}

async fn by_http2(stream: TcpStream) -> hyper::Result<()> {
    stream.set_nodelay(true).ok();
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service_fn(answer)).await
}

async fn by_line(stream: TcpStream, greeting: String) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(greeting.as_bytes()).await?;
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        stream.write_all(line.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

/// `GET /N`: N bytes. `POST`: how many bytes came. A WebSocket: the same bytes back.
async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.headers().contains_key(header::UPGRADE) {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut from, mut to) = split(TokioIo::new(upgraded.await.map_err(io::Error::other)?));
            copy(&mut from, &mut to).await?;
            to.shutdown().await
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        return Ok(response);
    }
    if request.method() == Method::POST {
        let mut body = request.into_body();
        let mut len = 0;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => len += frame.data_ref().map_or(0, Bytes::len),
                Err(_) => return Ok(status(StatusCode::BAD_REQUEST)),
            }
        }
        return Ok(Response::new(Full::from(len.to_string())));
    }
    match request.uri().path().trim_start_matches('/').parse() {
        Ok(len) => Ok(Response::new(Full::from(vec![b'x'; len]))),
        Err(_) => Ok(status(StatusCode::NOT_FOUND)),
    }
}

fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code;
    response
}
