//! More requests at once than an HTTP/2 application takes streams on one connection.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use federation::{ANY_PORT, Federation, endpoint, get, reviews, status};
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_model::catalog::AppProtocol;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

/// What the application takes on one connection.
const STREAMS: u32 = 20;
const SOON: Duration = Duration::from_secs(10);

/// An HTTP/2 application that never answers `/stay`, with how many of these are there.
async fn patient_app() -> (SocketAddr, watch::Receiver<u32>) {
    let (staying, count) = watch::channel(0);
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let staying = staying.clone();
            let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let staying = staying.clone();
                async move {
                    if request.uri().path() == "/stay" {
                        staying.send_modify(|count| *count += 1);
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, hyper::Error>(http::Response::new(Empty::<Bytes>::new()))
                }
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.max_concurrent_streams(STREAMS);
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), answer));
        }
    });
    (address, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_stay_do_not_hold_up_the_others() {
    let federation = Federation::found(&["us-east"]);
    let (app, mut staying) = patient_app().await;
    let mut service = reviews(vec![endpoint(federation::SERVICE, app, app, None)], vec![]);
    service.ports[1].protocol = AppProtocol::Http2;
    let east = federation.outbound("us-east", service).await;
    assert_eq!(status(&get(east.address, "/").await), "200", "and it has said how many streams it takes");
    for _ in 0..3 * STREAMS {
        let address = east.address;
        tokio::spawn(async move { get(address, "/stay").await });
    }
    let all = staying.wait_for(|count| *count == 3 * STREAMS);
    timeout(SOON, all).await.expect("each has a stream").expect("the application runs");
    let answer = timeout(SOON, get(east.address, "/")).await.expect("there is room on another connection");
    assert_eq!(status(&answer), "200", "{answer}");
}
