//! Every listener of the data plane, with one application behind them all that remembers what it was sent, and clients beside
//! the hostile ones who have to be served on.

#![allow(dead_code, unreachable_pub, missing_docs)] // each test file uses its part

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_identity::LiveIdentity;
use isthmus_model::locality::Proximity::OtherRegion;
use isthmus_model::snapshot::Snapshot;
use isthmus_model::spiffe::SpiffeId;
use isthmus_proxy::accept::Accepting;
use isthmus_proxy::inbound::{self, serve_in_the_clear};
use isthmus_proxy::metrics::Direction;
use isthmus_proxy::outbound::Mode;
use isthmus_tests::hostile::Recorder;
use isthmus_tests::hostile::frames::{END_HEADERS, END_STREAM, HEADERS, Outcome, Peer, Stream, frame, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::federation::session::tunnel;
use crate::federation::{
    self, ANY_PORT, Federation, HOST, HTTP, LOOPBACK, Outbound, Workload, echo, endpoint, read_head, remote, reviews,
    service, splicing_gateway, status,
};

/// A listener, and how it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A client's connection to its sidecar.
    Outbound,
    /// What its CONNECT opened there.
    WithinConnect,
    /// A gateway's forward proxy.
    Egress,
    /// A service's virtual address.
    Vip,
    /// The same of a port of which nobody said what it speaks.
    Detected,
    /// What a data plane's CONNECT to such a port opened at a sidecar.
    WithinTunnel,
    /// A workload's port whose sidecar lets in who is not of the mesh.
    Clear,
    /// The same of a port of which nobody said what it speaks.
    ClearDetected,
    /// What clients from outside come to, by a route for every host.
    Ingress,
    /// The same behind a load balancer, which says whose the connection is.
    Balanced,
    /// A data plane's session with a sidecar.
    Inbound,
    /// The same with a gateway, for instances without a sidecar.
    Terminated,
}

pub const CLIENTS: [Way; 10] = [
    Way::Outbound,
    Way::WithinConnect,
    Way::Egress,
    Way::Vip,
    Way::Detected,
    Way::WithinTunnel,
    Way::Clear,
    Way::ClearDetected,
    Way::Ingress,
    Way::Balanced,
];
pub const SESSIONS: [Way; 2] = [Way::Inbound, Way::Terminated];

impl Way {
    pub fn all() -> impl Iterator<Item = Self> {
        CLIENTS.into_iter().chain(SESSIONS)
    }

    /// Whether its connections are for one service whatever they call it, as long as that is not another.
    pub fn is_scoped(self) -> bool {
        !self.is_session() && !matches!(self, Self::Outbound | Self::Egress)
    }

    /// Whether its connections were opened for one service, by who may not open another within.
    pub fn takes_no_connect(self) -> bool {
        self.is_clear() || self.is_edge() || matches!(self, Self::WithinConnect | Self::WithinTunnel)
    }

    /// Whether the application is called as its client calls it: without a sidecar it would be, too.
    pub fn is_clear(self) -> bool {
        matches!(self, Self::Clear | Self::ClearDetected)
    }

    /// Whether clients from outside come by it.
    pub fn is_edge(self) -> bool {
        matches!(self, Self::Ingress | Self::Balanced)
    }

    /// Whether nobody vouches for who comes by it.
    pub fn is_strangers(self) -> bool {
        self.is_clear() || self.is_edge() || matches!(self, Self::Egress | Self::Vip | Self::Detected)
    }

    /// Whether what is no HTTP passes as bytes.
    pub fn detects(self) -> bool {
        matches!(self, Self::Detected | Self::WithinTunnel | Self::ClearDetected)
    }

    pub fn is_session(self) -> bool {
        SESSIONS.contains(&self)
    }
}

pub struct Surfaces {
    pub recorder: Recorder,
    pub federation: Federation,
    pub east: Outbound,
    egress: SocketAddr,
    vip: SocketAddr,
    detected: SocketAddr,
    clear: SocketAddr,
    clear_detected: SocketAddr,
    ingress: SocketAddr,
    balanced: SocketAddr,
    west: Workload,
    /// The same, where nobody said what its ports speak.
    unsaid: Workload,
    terminating: Outbound,
    attacker: LiveIdentity,
    _detecting: Outbound,
}

/// Where clients behind the load balancer come from, as it says.
pub const BALANCERS_HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 80\r\n";

/// The name that sessions are opened under.
pub const SNI: &str = "reviews.shop.svc.us-west.acme.mesh";

pub fn authority() -> String {
    format!("{HOST}:{HTTP}")
}

impl Surfaces {
    pub async fn start() -> Self {
        let federation = Federation::found(&["us-east", "us-west"]);
        let recorder = Recorder::start().await.expect("bound");
        let tcp = echo().await;
        let west = federation.workload("us-west", recorder.address(), tcp).await;
        let gateway = splicing_gateway(west.address).await;
        let east = federation.outbound("us-east", reviews(vec![], vec![remote("us-west", OtherRegion, gateway)])).await;
        let egress = federation.listen_as(&east, Mode::Egress { allow_loopback: false });
        let vip = federation.listen_as(&east, Mode::Service { name: service(), port: HTTP });
        let ingress = federation.ingress(&east);
        let balanced = federation.ingress_behind(&east, &[LOOPBACK.into()]);
        let unsaid = federation.workload("us-west", recorder.address(), tcp).await;
        unsaid.unsay();
        let detecting = remote("us-west", OtherRegion, splicing_gateway(unsaid.address).await);
        let detecting = federation.outbound("us-east", federation::unsaid(reviews(vec![], vec![detecting]))).await;
        let detected = federation.listen_as(&detecting, Mode::Service { name: service(), port: HTTP });
        let [clear, clear_detected] = [&west, &unsaid].map(|west| in_the_clear(&federation, west, recorder.address()));
        let bare = endpoint("shop/reviews", recorder.address(), tcp, None);
        let terminating = federation.terminating("us-west", reviews(vec![bare], vec![])).await;
        let attacker = federation.identity("us-east", "shop/attacker");
        Self {
            recorder,
            federation,
            east,
            egress,
            vip,
            detected,
            clear,
            clear_detected,
            ingress,
            balanced,
            west,
            unsaid,
            terminating,
            attacker,
            _detecting: detecting,
        }
    }

    pub fn address(&self, way: Way) -> SocketAddr {
        match way {
            Way::Outbound | Way::WithinConnect => self.east.address,
            Way::Egress => self.egress,
            Way::Vip => self.vip,
            Way::Detected => self.detected,
            Way::WithinTunnel => self.unsaid.address,
            Way::Clear => self.clear,
            Way::ClearDetected => self.clear_detected,
            Way::Ingress => self.ingress,
            Way::Balanced => self.balanced,
            Way::Inbound => self.west.address,
            Way::Terminated => self.terminating.address,
        }
    }

    /// A connection on which HTTP may be spoken.
    pub async fn open(&self, way: Way) -> Box<dyn Stream> {
        if way == Way::WithinTunnel {
            return Box::new(tunnel(&self.federation, self.address(way), HTTP).await);
        }
        let mut stream = TcpStream::connect(self.address(way)).await.expect("connected");
        match way {
            Way::WithinConnect => {
                let connect = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", authority());
                stream.write_all(connect.as_bytes()).await.expect("written");
                let head = read_head(&mut stream).await;
                assert_eq!(status(&head), "200", "{head}");
                Box::new(stream)
            }
            Way::Balanced => {
                stream.write_all(BALANCERS_HEADER).await.expect("written");
                Box::new(stream)
            }
            Way::Inbound | Way::Terminated => {
                Box::new(handshake(stream, &self.attacker, SNI).await.expect("a handshake"))
            }
            _ => Box::new(stream),
        }
    }

    /// Whether there is a session under that name for who shows that identity: then it is answered with a SETTINGS frame.
    pub async fn takes(&self, way: Way, identity: &LiveIdentity, sni: &str) -> bool {
        let stream = TcpStream::connect(self.address(way)).await.expect("connected");
        let asked = async {
            let mut tls = handshake(stream, identity, sni).await?;
            tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
            tls.read_u8().await
        };
        asked.await.is_ok()
    }

    /// What the landing side of a session sees, and whom it trusts.
    pub fn landing(&self, way: Way) -> (&watch::Sender<Arc<Snapshot>>, &LiveIdentity) {
        match way {
            Way::Terminated => (&self.terminating.view, self.terminating.plane.identity()),
            _ => (&self.west.view, self.west.plane.identity()),
        }
    }

    pub async fn peer(&self, way: Way) -> Peer {
        Peer::open(self.open(way).await).await
    }

    /// A client that was there before, and stays.
    pub async fn bystander(&self, way: Way) -> Bystander {
        if way.is_session() {
            return Bystander::Http2(self.peer(way).await, 1);
        }
        Bystander::Http1(self.open(way).await)
    }
}

/// Where connections come that were on their way to `application` and were redirected to the sidecar of `workload`.
fn in_the_clear(federation: &Federation, workload: &Workload, application: SocketAddr) -> SocketAddr {
    let accepting = Accepting::bind(ANY_PORT, Direction::Inbound).expect("bound");
    let (address, plane, shutdown) = (accepting.local_addr(), workload.plane.clone(), federation.shutdown.clone());
    tokio::spawn(async move {
        let metrics = plane.metrics().clone();
        let serve =
            |accepted| serve_in_the_clear(plane.clone(), inbound::Workload::at(LOOPBACK), application, accepted);
        accepting.run(&metrics, shutdown, serve).await;
    });
    address
}

async fn handshake(stream: TcpStream, identity: &LiveIdentity, sni: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let anyone = Arc::new(|_: &SpiffeId| true);
    let connector = tokio_rustls::TlsConnector::from(identity.client_config(anyone, &[b"h2"]));
    connector.connect(ServerName::try_from(sni.to_owned()).expect("a name"), stream).await
}

/// How long a bystander may have to wait, beside a flood and in a test build.
const SERVED_WITHIN: Duration = Duration::from_secs(30);

pub enum Bystander {
    Http1(Box<dyn Stream>),
    /// With the stream that comes next.
    Http2(Peer, u32),
}

/// What bystanders ask for.
pub const BYSTANDER: &str = "/bystander";

impl Bystander {
    /// Asks once more.
    pub async fn is_served(&mut self) -> bool {
        timeout(SERVED_WITHIN, self.ask()).await.unwrap_or(false)
    }

    async fn ask(&mut self) -> bool {
        match self {
            Self::Http1(stream) => {
                let text = format!("GET {BYSTANDER} HTTP/1.1\r\nHost: {}\r\n\r\n", authority());
                stream.write_all(text.as_bytes()).await.expect("written");
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\nxx") {
                    match stream.read_u8().await {
                        Ok(byte) => answer.push(byte),
                        Err(_) => break,
                    }
                }
                answer.starts_with(b"HTTP/1.1 200")
            }
            Self::Http2(peer, stream) => {
                let id = std::mem::replace(stream, *stream + 2);
                let block = request("GET", BYSTANDER, &authority());
                peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, id, &block)).await;
                peer.outcome(id).await == Outcome::Answered(200)
            }
        }
    }
}
