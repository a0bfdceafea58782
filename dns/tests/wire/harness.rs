//! A server with a small federation, raw clients, and a scripted upstream server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use isthmus_dns::{DnsConfig, DnsServer, Metrics};
use isthmus_model::catalog::{AppProtocol, ServicePort};
use isthmus_model::snapshot::{Coverage, Service, Site, Snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Ends a test that would hang. Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const REVIEWS: &str = "reviews.shop.svc.clusterset.local.";

pub(crate) fn service(name: &str, vip: &str, ports: impl IntoIterator<Item = (String, u16)>) -> Service {
    let port = |(name, port): (String, u16)| ServicePort {
        name: Some(name.parse().expect("a label")),
        port,
        protocol: AppProtocol::Http,
    };
    Service {
        name: name.parse().expect("a service name"),
        vip: Some(vip.parse().expect("an address")),
        ports: ports.into_iter().map(port).collect(),
        federated: true,
        exported_here: false,
        endpoints: Arc::from([]),
        remotes: Vec::new(),
        traffic: isthmus_model::traffic::TrafficPolicy::usual(),
        routes: isthmus_model::http_route::ServiceRoutes::default(),
    }
}

pub(crate) fn snapshot(generation: u64, services: Vec<Service>) -> Arc<Snapshot> {
    let site = Site {
        federation: "acme.mesh".parse().expect("a domain"),
        cluster: "us-east".parse().expect("a label"),
        locality: "us-east-1/a".parse().expect("a locality"),
    };
    let empty = Snapshot { generation, ..Snapshot::empty(site, Coverage::Complete) };
    Arc::new(empty.with(services))
}

/// A running server; stops when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) view: watch::Sender<Arc<Snapshot>>,
    _stop: DropGuard,
}

impl Server {
    pub(crate) async fn start(config: DnsConfig) -> Self {
        let many = (1..=64).map(|number| (format!("port-{number}"), number));
        let services = vec![
            service("shop/reviews", "10.96.0.1", [("http".to_owned(), 9080)]),
            service("shop/many", "10.96.0.2", many),
        ];
        let (view, reader) = watch::channel(snapshot(7, services));
        let metrics = Arc::new(Metrics::default());
        let config = DnsConfig { listen: vec![([127, 0, 0, 1], 0).into()], ..config };
        let bound = DnsServer::bind(config, reader, metrics.clone()).await.expect("a free port");
        let address = bound.local_addrs()[0];
        let stop = CancellationToken::new();
        tokio::spawn(bound.serve(stop.clone()));
        Self { address, metrics, view, _stop: stop.drop_guard() }
    }

    /// Asks over UDP with a socket of its own.
    pub(crate) async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.udp().await.ask(&query(name, kind)).await
    }

    pub(crate) async fn udp(&self) -> UdpClient {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        socket.connect(self.address).await.expect("a route");
        UdpClient(socket)
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the server listens")
    }
}

pub(crate) struct UdpClient(UdpSocket);

impl UdpClient {
    pub(crate) async fn send(&self, bytes: &[u8]) {
        self.0.send(bytes).await.expect("sent");
    }

    pub(crate) async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_535];
        let len = timeout(PATIENCE, self.0.recv(&mut buffer)).await.expect("in time").expect("a datagram");
        buffer.truncate(len);
        buffer
    }

    pub(crate) async fn ask(&self, query: &Message) -> Message {
        self.send(&query.to_vec().expect("encodes")).await;
        let response = Message::from_vec(&self.receive().await).expect("a message");
        assert_eq!(response.metadata.id, query.metadata.id);
        response
    }
}

pub(crate) fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a domain name"), kind));
    message
}

/// Writes a message with its length before it.
pub(crate) async fn write_framed(stream: &mut TcpStream, message: &[u8]) {
    let len = u16::try_from(message.len()).expect("fits");
    stream.write_all(&len.to_be_bytes()).await.expect("written");
    stream.write_all(message).await.expect("written");
}

/// Reads a message; `None` when the server closed the connection.
pub(crate) async fn read_framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let read = async {
        let mut message = vec![0; usize::from(stream.read_u16().await.ok()?)];
        stream.read_exact(&mut message).await.ok()?;
        Some(message)
    };
    timeout(PATIENCE, read).await.expect("in time")
}

/// How a question reached the upstream server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    Udp,
    Tcp,
}

/// An upstream server that sends what its script says: any number of messages for each question.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl Upstream {
    pub(crate) async fn start(script: impl Fn(usize, Via, Message) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().expect("bound")).await {
                break (tcp, udp);
            }
        };
        let address = tcp.local_addr().expect("bound");
        let asked = Arc::new(AtomicUsize::new(0));
        let stop = CancellationToken::new();
        let (script, count) = (Arc::new(script), asked.clone());
        let (tcp_script, tcp_count) = (script.clone(), asked.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            let mut buffer = vec![0; 4_096];
            while let Ok((len, client)) = udp.recv_from(&mut buffer).await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let question = Message::from_vec(&buffer[..len]).expect("the server sends valid messages");
                for datagram in script(number, Via::Udp, question) {
                    udp.send_to(&datagram, client).await.expect("sent");
                }
            }
        }));
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let number = tcp_count.fetch_add(1, Ordering::SeqCst);
                let bytes = read_framed(&mut stream).await.expect("a question");
                let question = Message::from_vec(&bytes).expect("the server sends valid messages");
                for message in tcp_script(number, Via::Tcp, question) {
                    write_framed(&mut stream, &message).await;
                }
            }
        }));
        Self { address, asked, _stop: stop.drop_guard() }
    }

    /// How many questions it has heard.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}
