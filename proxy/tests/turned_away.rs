//! Requests that an HTTP/2 application did not look at, and says so: they are sent to it again.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;
use std::sync::Arc;

use federation::{ANY_PORT, Federation, Outbound, Workload, echo, endpoint, request, reviews, status};
use isthmus_model::catalog::AppProtocol;
use isthmus_model::snapshot::{Service, Snapshot};
use isthmus_proxy::metrics::ServiceLabels;
use isthmus_tests::hostile::frames::{
    END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame, read_frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ACK: u8 = 1;
const REFUSED_STREAM: u32 = 7;
/// HPACK's static table (RFC 7541 appendix A): `:status: 200`.
const OK: &[u8] = &[0x88];
/// The streams of the second and third request of a connection (RFC 9113 §5.1.1). The first one opens it.
const TAKEN: u32 = 3;
const TURNED_AWAY: u32 = 5;

/// How the third request of the first connection is turned away.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// The connection goes, and the one before was the last that was looked at.
    GoAway,
    /// The stream is refused.
    Refused,
}

impl Turn {
    fn frame(self) -> Vec<u8> {
        match self {
            Self::GoAway => frame(GOAWAY, 0, 0, &[TAKEN.to_be_bytes(), [0; 4]].concat()),
            Self::Refused => frame(RST_STREAM, 0, TURNED_AWAY, &REFUSED_STREAM.to_be_bytes()),
        }
    }
}

/// An application that answers all but the third request of its first connection.
async fn fickle_app(turn: Turn) -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut turn = Some(turn);
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, turn.take()));
        }
    });
    address
}

async fn serve(mut stream: TcpStream, turn: Option<Turn>) {
    let (mut read, mut write) = stream.split();
    let mut preface = [0; PREFACE.len()];
    read.read_exact(&mut preface).await.expect("a preface");
    write.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("written");
    while let Some(received) = read_frame(&mut read).await {
        let answer = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, OK);
        let reply = match (received.kind, turn, received.of) {
            (SETTINGS, _, _) if received.flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
            // Both are under way before either hears anything.
            (HEADERS, Some(_), TAKEN) => continue,
            (HEADERS, Some(turn), TURNED_AWAY) => [answer(TAKEN), turn.frame()].concat(),
            (HEADERS, _, stream) => answer(stream),
            _ => continue,
        };
        if write.write_all(&reply).await.is_err() {
            return;
        }
    }
}

fn http2(mut service: Service) -> Service {
    service.ports[1].protocol = AppProtocol::Http2;
    service
}

/// Opens a connection to the application, and then has two requests on it at once, of which it turns one away.
async fn all_are_answered(east: &Outbound, method: &str, body: &str) {
    let send = || request(east.address, method, "/", "", body);
    let first = send().await;
    let (one, other) = tokio::join!(send(), send());
    for answer in [first, one, other] {
        assert_eq!(status(&answer), "200", "{method}: {answer}");
    }
    let labels = ServiceLabels { service: federation::SERVICE.to_owned() };
    assert_eq!(east.plane.metrics().ejections.get_or_create(&labels).get(), 0, "{method}");
}

const REQUESTS: [(&str, &str); 2] = [("GET", ""), ("POST", "body")];

#[tokio::test(flavor = "multi_thread")]
async fn an_application_without_a_sidecar_is_sent_again_what_it_did_not_look_at() {
    let federation = Federation::found(&["us-east"]);
    for turn in [Turn::GoAway, Turn::Refused] {
        for (method, body) in REQUESTS {
            let app = fickle_app(turn).await;
            let bare = endpoint(federation::SERVICE, app, app, None);
            let east = federation.outbound("us-east", http2(reviews(vec![bare], vec![]))).await;
            all_are_answered(&east, method, body).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_beside_a_sidecar_is_sent_again_what_it_did_not_look_at() {
    let federation = Federation::found(&["us-east"]);
    for turn in [Turn::GoAway, Turn::Refused] {
        for (method, body) in REQUESTS {
            let Workload { endpoint, view, .. } =
                federation.workload("us-east", fickle_app(turn).await, echo().await).await;
            let service = http2(reviews(vec![endpoint], vec![]));
            view.send_modify(|view| *view = Arc::new(Snapshot::clone(view).with([service.clone()])));
            let east = federation.outbound("us-east", service).await;
            all_are_answered(&east, method, body).await;
        }
    }
}
