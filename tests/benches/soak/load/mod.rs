//! Clients of every kind, each sending its next request a pause after the last was answered.

mod bytes;
mod requests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::federation::port;
use crate::stage::{FAR, HTTP, NEAR, Stage};
use crate::workload::TCP;

/// What takes longer has failed, whatever comes of it.
const DONE_WITHIN: Duration = Duration::from_secs(30);

/// What a client does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// GETs on one HTTP/1.1 connection.
    Kept,
    /// A GET on a connection of its own.
    Fresh,
    /// GETs as streams of an HTTP/2 connection.
    Streams,
    /// POSTs beside those, of 16 KiB.
    StreamUpload,
    /// A POST of 1 MiB.
    Upload,
    /// A GET of 4 MiB.
    Download,
    /// The same, read slowly through a small buffer.
    SlowReader,
    /// A client that leaves in the middle of a download, or of an upload.
    Aborted,
    /// GETs by the gateway's forward proxy.
    Egress,
    /// GETs at the service's virtual address.
    VirtualHttp,
    /// A conversation of lines by CONNECT.
    Tunnel,
    /// The same at the virtual address.
    VirtualTcp,
    /// The same in a WebSocket.
    WebSocket,
}

impl Kind {
    /// All, with how many clients do it and how long each pauses, in milliseconds.
    const ALL: [(Self, usize, u64); 13] = [
        (Self::Kept, 4, 20),
        (Self::Fresh, 2, 20),
        (Self::Streams, 16, 80),
        (Self::StreamUpload, 8, 200),
        (Self::Upload, 1, 200),
        (Self::Download, 1, 300),
        (Self::SlowReader, 2, 100),
        (Self::Aborted, 2, 100),
        (Self::Egress, 1, 20),
        (Self::VirtualHttp, 1, 20),
        (Self::Tunnel, 3, 50),
        (Self::VirtualTcp, 2, 50),
        (Self::WebSocket, 2, 50),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kept => "HTTP/1.1, kept connections",
            Self::Fresh => "HTTP/1.1, new connections",
            Self::Streams => "HTTP/2, streams",
            Self::StreamUpload => "HTTP/2, POST of 16 KiB",
            Self::Upload => "POST of 1 MiB",
            Self::Download => "GET of 4 MiB",
            Self::SlowReader => "GET of 4 MiB, read slowly",
            Self::Aborted => "clients that leave",
            Self::Egress => "HTTP by the egress",
            Self::VirtualHttp => "HTTP at the virtual address",
            Self::Tunnel => "TCP by CONNECT, 20 lines",
            Self::VirtualTcp => "TCP at the virtual address, 20 lines",
            Self::WebSocket => "WebSocket, 20 lines",
        }
    }

    /// Whether a request may be sent twice, so that it is answered whatever is killed.
    pub(crate) fn is_idempotent(self) -> bool {
        !matches!(self, Self::StreamUpload | Self::Upload | Self::Tunnel | Self::VirtualTcp | Self::WebSocket)
    }
}

/// Where to send requests.
#[derive(Clone)]
pub(crate) struct Places {
    outbound: SocketAddr,
    egress: SocketAddr,
    /// The services, with their virtual addresses at the client's gateway.
    services: [(&'static str, std::net::IpAddr); 2],
}

impl Places {
    pub(crate) async fn of(stage: &Stage) -> Self {
        let gateway = &stage.clusters[0];
        let services = [(FAR, gateway.vip(FAR).await), (NEAR, gateway.vip(NEAR).await)];
        Self { outbound: stage.client.outbound(), egress: gateway.at(port::EGRESS), services }
    }
}

/// Why something failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No answer, or not the right one.
    Unanswered(String),
    /// An answer, or a conversation, that broke off.
    CutShort(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered(why) => write!(f, "unanswered: {why}"),
            Self::CutShort(why) => write!(f, "cut short: {why}"),
        }
    }
}

/// What became of a request or conversation.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    pub(crate) failed: Option<Failure>,
}

type Records = Arc<Mutex<BTreeMap<Kind, Vec<Done>>>>;

/// The running clients.
pub(crate) struct Load {
    clients: JoinSet<()>,
    records: Records,
    stop: CancellationToken,
}

impl Load {
    pub(crate) fn start(places: Places) -> Self {
        let (records, stop) = (Records::default(), CancellationToken::new());
        let connections = [(); 2].map(|()| requests::Shared::default());
        let mut clients = JoinSet::new();
        for (kind, count, pause) in Kind::ALL {
            for number in 0..count {
                let client = Client {
                    kind,
                    places: places.clone(),
                    turn: number,
                    kept: None,
                    shared: connections[number % connections.len()].clone(),
                };
                clients.spawn(client.run(Duration::from_millis(pause), records.clone(), stop.clone()));
            }
        }
        Self { clients, records, stop }
    }

    /// Waits for what is under way, closes all connections, and gives everything that was done.
    pub(crate) async fn stop(self) -> BTreeMap<Kind, Vec<Done>> {
        self.stop.cancel();
        self.clients.join_all().await;
        std::mem::take(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Client {
    kind: Kind,
    places: Places,
    turn: usize,
    kept: Option<requests::Kept>,
    shared: requests::Shared,
}

impl Client {
    async fn run(mut self, pause: Duration, records: Records, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let began = Instant::now();
            let done = timeout(DONE_WITHIN, Box::pin(self.once())).await;
            let failed = done.unwrap_or_else(|_| Err(Failure::Unanswered(format!("not done within {DONE_WITHIN:?}"))));
            let done = Done { began, took: began.elapsed(), failed: failed.err() };
            records.lock().unwrap_or_else(PoisonError::into_inner).entry(self.kind).or_default().push(done);
            self.turn += 1;
            sleep(pause).await;
        }
    }

    async fn once(&mut self) -> Result<(), Failure> {
        let Places { outbound, egress, services } = self.places;
        // More go far than near.
        let (service, vip) = services[usize::from(self.turn % 3 == 2)];
        match self.kind {
            Kind::Kept => requests::kept(&mut self.kept, outbound, service).await,
            Kind::Egress => requests::kept(&mut self.kept, egress, service).await,
            // One connection leads to one service.
            Kind::VirtualHttp => requests::kept(&mut self.kept, (services[0].1, HTTP).into(), services[0].0).await,
            Kind::Fresh => requests::fresh(outbound, service).await,
            Kind::Streams => requests::stream(&self.shared, outbound, service, None).await,
            Kind::StreamUpload => requests::stream(&self.shared, outbound, service, Some(16 << 10)).await,
            Kind::Upload => requests::upload(outbound, service, 1 << 20).await,
            Kind::Download => bytes::download(outbound, service, 4 << 20, Duration::ZERO).await,
            Kind::SlowReader => bytes::download(outbound, service, 4 << 20, Duration::from_millis(50)).await,
            Kind::Aborted => bytes::abort(outbound, service, self.turn.is_multiple_of(2)).await,
            Kind::Tunnel => bytes::tunnel(outbound, service).await,
            Kind::VirtualTcp => bytes::direct((vip, TCP).into()).await,
            Kind::WebSocket => bytes::websocket(outbound, service).await,
        }
    }
}
