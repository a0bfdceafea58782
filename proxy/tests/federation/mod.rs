//! A small federation in one process: authorities, views, workloads with their sidecars, and gateways that
//! pass sessions through. Every listener is on a free port of the loopback.

#![allow(dead_code, unreachable_pub, missing_docs)] // each test file uses its part

pub mod session;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use isthmus_identity::{
    ClientAuth, ClusterAuthority, INTERMEDIATE_LIFETIME, LiveIdentity, PrivateKey, RootAuthority, TrustBundle,
};
use isthmus_model::catalog::{AppProtocol, Endpoint, ServicePort};
use isthmus_model::health::{Capacity, Reach};
use isthmus_model::http_route::{Action, Backend, HeaderChange, HttpRoute, Match, Parent, Routes, Rule, ServiceRoutes};
use isthmus_model::locality::Proximity;
use isthmus_model::name::{ClusterName, FederationDomain, NamespacedName, ServiceName};
use isthmus_model::shared::OrdMap;
use isthmus_model::snapshot::{Coverage, Gateway, RemoteBackend, RemoteCluster, Service, Site, Snapshot};
use isthmus_model::spiffe::SpiffeId;
use isthmus_proxy::inbound::{InboundListener, serve_terminated};
use isthmus_proxy::ingress::{IngressListener, Security};
use isthmus_proxy::message::quiet::QUIET_DEFAULT;
use isthmus_proxy::opening::{LoadBalancers, Opening};
use isthmus_proxy::outbound::{Mode, OutboundListener};
use isthmus_proxy::passthrough::relay;
use isthmus_proxy::{DataPlane, Demand, Metrics};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const ANY_PORT: SocketAddr = SocketAddr::new(LOOPBACK, 0);
/// The service that everything is about, and its ports for HTTP and TCP.
pub const SERVICE: &str = "shop/reviews";
pub const HTTP: u16 = 9080;
pub const TCP: u16 = 7000;
pub const HOST: &str = "reviews.shop.svc.clusterset.local";

pub struct Federation {
    pub domain: FederationDomain,
    pub root: RootAuthority,
    clusters: HashMap<ClusterName, ClusterAuthority>,
    /// Ends every listener when the test does.
    pub shutdown: CancellationToken,
}

impl Drop for Federation {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub fn service() -> ServiceName {
    SERVICE.parse().expect("valid")
}

pub fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::register(&mut prometheus_client::registry::Registry::default()))
}

impl Federation {
    pub fn found(clusters: &[&str]) -> Self {
        let domain: FederationDomain = "acme.mesh".parse().expect("valid");
        let now = SystemTime::now();
        let root = RootAuthority::create(&domain, now).expect("a root");
        let authority = |name: &&str| {
            let cluster: ClusterName = name.parse().expect("valid");
            let key = PrivateKey::generate().expect("a key");
            let csr = key.csr().expect("a request");
            let certificate =
                root.sign_cluster(&csr, &domain.trust_domain(&cluster), INTERMEDIATE_LIFETIME, now).expect("signed");
            (cluster, ClusterAuthority::new(key, certificate).expect("an authority"))
        };
        let clusters = clusters.iter().map(authority).collect();
        Self { domain, root, clusters, shutdown: CancellationToken::new() }
    }

    /// An identity like `us-east`, `shop/reviews`.
    pub fn identity(&self, cluster: &str, workload: &str) -> LiveIdentity {
        let identity = LiveIdentity::new();
        identity.set_trust(self.bundle());
        self.certify(&identity, cluster, workload);
        identity
    }

    /// Gives `identity` a certificate of this federation.
    pub fn certify(&self, identity: &LiveIdentity, cluster: &str, workload: &str) {
        let authority = &self.clusters[cluster];
        let id = SpiffeId::workload(authority.trust_domain().clone(), workload.parse().expect("valid"));
        let key = PrivateKey::generate().expect("a key");
        let csr = key.csr().expect("a request");
        let chain = authority.sign(&csr, &id, None, Duration::from_secs(3600), SystemTime::now()).expect("signed");
        identity.set_credentials(chain, key).expect("credentials");
    }

    /// Who trusts this federation trusts this.
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new(self.domain.clone(), vec![self.root.certificate().to_vec()]).expect("a bundle")
    }

    /// The view of a cluster that knows every other one as a member.
    pub fn view(&self, cluster: &str, service: Service) -> Snapshot {
        let site = Site {
            federation: self.domain.clone(),
            cluster: cluster.parse().expect("valid"),
            locality: "r1".parse().expect("valid"),
        };
        let members = self.clusters.keys().filter(|name| name.as_str() != cluster);
        let known = Snapshot {
            generation: 1,
            roots: Arc::from([self.root.certificate().to_vec()]),
            clusters: members
                .map(|name| (name.clone(), remote_cluster(name.as_str(), Proximity::OtherRegion, &[])))
                .collect(),
            ..Snapshot::empty(site, Coverage::Complete)
        };
        let offering = service.remotes.iter().map(|remote| (remote.cluster.name.clone(), remote.cluster.clone()));
        let clusters = offering.collect::<OrdMap<_, _>>().union(known.clusters.clone());
        Snapshot { clusters, ..known }.with([service])
    }

    /// The sidecar of a workload in `cluster`, listening for clients; what it sees can be changed.
    pub async fn outbound(&self, cluster: &str, service: Service) -> Outbound {
        let (view, watched) = watch::channel(Arc::new(self.view(cluster, service)));
        let plane = DataPlane::new(watched, None, self.identity(cluster, "shop/productpage"), metrics());
        self.listen(plane, view)
    }

    pub fn outbound_asking(&self, snapshot: Snapshot, demand: Demand) -> Outbound {
        let cluster = snapshot.site.cluster.to_string();
        let (view, watched) = watch::channel(Arc::new(snapshot));
        let plane = DataPlane::new(watched, Some(demand), self.identity(&cluster, "shop/productpage"), metrics());
        self.listen(plane, view)
    }

    /// A listener of `outbound`'s data plane in another mode.
    pub fn listen_as(&self, outbound: &Outbound, mode: Mode) -> SocketAddr {
        let listener = OutboundListener::bind(ANY_PORT, outbound.plane.clone(), mode).expect("bound");
        let address = listener.local_addr();
        tokio::spawn(listener.serve(self.shutdown.clone()));
        address
    }

    /// A listener of `outbound`'s data plane for clients from outside, whose every request is for the service.
    pub fn ingress(&self, outbound: &Outbound) -> SocketAddr {
        self.ingress_quiet(outbound, QUIET_DEFAULT)
    }

    /// The same, where nothing may be quiet for longer.
    pub fn ingress_quiet(&self, outbound: &Outbound, quiet: Duration) -> SocketAddr {
        self.edge(outbound, &[], quiet)
    }

    /// The same behind load balancers.
    pub fn ingress_behind(&self, outbound: &Outbound, load_balancers: &[IpNet]) -> SocketAddr {
        self.edge(outbound, load_balancers, QUIET_DEFAULT)
    }

    fn edge(&self, outbound: &Outbound, load_balancers: &[IpNet], quiet: Duration) -> SocketAddr {
        let backend = Backend { service: service(), port: HTTP, weight: 1 };
        let rule = Rule {
            matches: vec![Match::default()],
            request_headers: HeaderChange::default(),
            response_headers: HeaderChange::default(),
            rewrite: None,
            action: Action::Forward(vec![backend]),
            timeout: None,
        };
        let parents = vec![Parent::Gateway { gateway: "public".to_owned(), section: None }];
        let route = HttpRoute { parents, hostnames: Vec::new(), rules: Arc::from([rule]) };
        let name = NamespacedName { namespace: "shop".parse().expect("valid"), name: "all".to_owned() };
        let routes = Routes::of(&OrdMap::unit(name, Arc::new(route)), "public");
        outbound.view.send_modify(|view| *view = Arc::new(Snapshot { routes, ..Snapshot::clone(view) }));
        let (plane, load_balancers) = (outbound.plane.clone(), LoadBalancers::new(load_balancers, "here"));
        let listener = IngressListener::bind(ANY_PORT, plane, Security::None, load_balancers, quiet).expect("bound");
        let address = listener.local_addr();
        tokio::spawn(listener.serve(self.shutdown.clone()));
        address
    }

    fn listen(&self, plane: DataPlane, view: watch::Sender<Arc<Snapshot>>) -> Outbound {
        let listener = OutboundListener::bind(ANY_PORT, plane.clone(), Mode::Proxy).expect("bound");
        let address = listener.local_addr();
        tokio::spawn(listener.serve(self.shutdown.clone()));
        Outbound { address, view, plane }
    }

    /// A workload of the service with a sidecar in `cluster`: `app` answers HTTP, `tcp` echoes.
    pub async fn workload(&self, cluster: &str, app: SocketAddr, tcp: SocketAddr) -> Workload {
        self.workload_as(cluster, SERVICE, app, tcp, true).await
    }

    pub async fn workload_as(
        &self,
        cluster: &str,
        workload: &str,
        app: SocketAddr,
        tcp: SocketAddr,
        exported: bool,
    ) -> Workload {
        let endpoint = |sidecar| endpoint(workload, app, tcp, Some(sidecar));
        let service = Service { exported_here: exported, ..reviews(vec![endpoint(1)], vec![]) };
        let (view, watched) = watch::channel(Arc::new(self.view(cluster, service)));
        let plane = DataPlane::new(watched, None, self.identity(cluster, workload), metrics());
        let listener = InboundListener::bind(ANY_PORT, plane.clone(), isthmus_proxy::inbound::Workload::at(LOOPBACK))
            .expect("bound");
        let address = listener.local_addr();
        let shutdown = self.shutdown.child_token();
        let ended = tokio::spawn(listener.serve(shutdown.clone()));
        Workload { address, endpoint: endpoint(address.port()), view, plane, shutdown, ended }
    }

    /// A gateway of `cluster` that opens sessions for `service`, whose instances have no sidecar.
    pub async fn terminating_gateway(&self, cluster: &str, service: Service) -> SocketAddr {
        self.terminating(cluster, service).await.address
    }

    /// The same; what it sees can be changed.
    pub async fn terminating(&self, cluster: &str, service: Service) -> Outbound {
        let (view, watched) = watch::channel(Arc::new(self.view(cluster, service)));
        let plane = DataPlane::new(watched, None, self.identity(cluster, SERVICE), metrics());
        let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (shutdown, serving, held) = (self.shutdown.clone(), plane.clone(), view.clone());
        tokio::spawn(async move {
            let config = serving.identity().server_config(ClientAuth::Required, &[b"h2"]);
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            while let Ok((stream, peer)) = listener.accept().await {
                let (acceptor, plane, shutdown) = (acceptor.clone(), serving.clone(), shutdown.clone());
                tokio::spawn(async move {
                    // Whoever fails is nobody else's trouble.
                    if let Ok(tls) = acceptor.accept(stream).await {
                        serve_terminated(tls, plane, peer, shutdown).await;
                    }
                });
            }
            drop(held);
        });
        Outbound { address, view, plane }
    }
}

/// A listener, and what its data plane sees.
pub struct Outbound {
    pub address: SocketAddr,
    pub view: watch::Sender<Arc<Snapshot>>,
    pub plane: DataPlane,
}

pub struct Workload {
    pub address: SocketAddr,
    pub endpoint: Endpoint,
    pub view: watch::Sender<Arc<Snapshot>>,
    pub plane: DataPlane,
    /// Ends its sidecar's inbound listener, gracefully.
    pub shutdown: CancellationToken,
    pub ended: tokio::task::JoinHandle<()>,
}

impl Workload {
    /// From now on, nobody has said what its ports speak.
    pub fn unsay(&self) {
        self.view.send_modify(|view| {
            let services = view.services.values().map(|known| unsaid(Service::clone(known)));
            *view = Arc::new(Snapshot::clone(view).with(services));
        });
    }
}

pub fn endpoint(workload: &str, app: SocketAddr, tcp: SocketAddr, sidecar_port: Option<u16>) -> Endpoint {
    Endpoint {
        address: app.ip(),
        ports: BTreeMap::from([(HTTP, app.port()), (TCP, tcp.port())]),
        sidecar_port,
        workload: workload.parse().expect("valid"),
        ready: true,
    }
}

pub fn reviews(endpoints: Vec<Endpoint>, remotes: Vec<RemoteBackend>) -> Service {
    Service {
        name: service(),
        vip: None,
        ports: vec![
            ServicePort { name: None, port: TCP, protocol: AppProtocol::Tcp },
            ServicePort { name: None, port: HTTP, protocol: AppProtocol::Http },
        ],
        federated: true,
        exported_here: true,
        endpoints: endpoints.into(),
        remotes,
        traffic: isthmus_model::traffic::TrafficPolicy::usual(),
        routes: ServiceRoutes::default(),
    }
}

/// The same, and nobody said what its ports speak.
pub fn unsaid(mut service: Service) -> Service {
    service.ports.iter_mut().for_each(|port| port.protocol = AppProtocol::Detect);
    service
}

fn remote_cluster(name: &str, proximity: Proximity, gateways: &[SocketAddr]) -> Arc<RemoteCluster> {
    let gateway =
        |address: &SocketAddr| Gateway { name: "gw-1".parse().expect("valid"), east_west: *address, reach: Reach::Up };
    Arc::new(RemoteCluster {
        name: name.parse().expect("valid"),
        locality: "r2".parse().expect("valid"),
        proximity,
        gateways: (1..).zip(gateways.iter().map(gateway)).collect(),
    })
}

/// Another cluster's offer through a gateway.
pub fn remote(cluster: &str, proximity: Proximity, gateway: SocketAddr) -> RemoteBackend {
    RemoteBackend {
        cluster: remote_cluster(cluster, proximity, &[gateway]),
        ports: vec![TCP, HTTP],
        identities: BTreeSet::from([SERVICE.parse().expect("valid")]),
        terminated: false,
        capacity: Capacity { ready: 1, total: 1 },
    }
}

/// A gateway that passes every session to `workload`, as long as `frozen` is false.
pub async fn gateway(workload: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let (freeze, frozen) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass(client, workload, frozen.clone()));
        }
    });
    (address, freeze)
}

/// Passes a session until it ends, or for ever holds both ends without moving a byte once frozen.
async fn pass(mut client: TcpStream, workload: SocketAddr, mut frozen: watch::Receiver<bool>) {
    let mut passing = std::pin::pin!(async {
        let hello = Opening::new(&mut client, Duration::from_secs(5)).client_hello().await.expect("a ClientHello");
        let mut upstream = TcpStream::connect(workload).await.expect("connected");
        upstream.write_all(&hello.bytes).await.expect("written");
        let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
    });
    let stopped = async { frozen.wait_for(|frozen| *frozen).await.is_ok() };
    tokio::select! {
        biased;
        _ = stopped => std::future::pending().await,
        () = passing.as_mut() => {}
    }
}

/// A gateway whose every socket closes at once when the returned token is cancelled, like a killed process.
pub async fn mortal_gateway(workload: SocketAddr) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let killed = CancellationToken::new();
    let (_freeze, frozen) = watch::channel(false);
    let token = killed.clone();
    tokio::spawn(async move {
        let mut sessions = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (client, _) = accepted.expect("accepted");
                    sessions.spawn(pass(client, workload, frozen.clone()));
                }
                () = token.cancelled() => break,
            }
        }
        drop((listener, sessions, _freeze));
    });
    (address, killed)
}

/// As a gateway does it: spliced.
pub async fn splicing_gateway(workload: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(hello) = Opening::new(&mut client, Duration::from_secs(5)).client_hello().await else { return };
                let Ok(upstream) = TcpStream::connect(workload).await else { return };
                let _ = relay(client, hello.bytes, upstream, &metrics()).await;
            });
        }
    });
    address
}

/// The head of a response, and no byte of what follows it.
pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(stream.read_u8().await.expect("an answer")));
    }
    head
}

/// An HTTP/1.1 application that answers with its name, the path, and who its sidecar says the caller is.
pub async fn app(name: &'static str) -> SocketAddr {
    counting_app(name).await.0
}

/// The same, with how many requests it has begun.
pub async fn counting_app(name: &'static str) -> (SocketAddr, watch::Receiver<usize>) {
    let (begun, count) = watch::channel(0);
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(name, stream, begun.clone()));
        }
    });
    (address, count)
}

async fn answer(name: &str, stream: TcpStream, begun: watch::Sender<usize>) -> Option<()> {
    // `/slow` takes this long: enough for something to happen meanwhile.
    const SLOW: Duration = Duration::from_millis(300);
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let field = |name: &str| {
            let found = head.iter().find(|line| line.to_ascii_lowercase().starts_with(name));
            found.map(|line| line[name.len()..].trim().to_owned()).unwrap_or_default()
        };
        let length: usize = field("content-length:").parse().unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        begun.send_modify(|count| *count += 1);
        if head[0].contains("/slow") {
            tokio::time::sleep(SLOW).await;
        }
        let caller = field("x-forwarded-client-cert:");
        let text = format!("{name}|{}|{}|{caller}|{}", head[0], field("host:"), String::from_utf8_lossy(&body));
        let response =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-isthmus-outcome: not-sent\r\n\r\n{text}", text.len());
        stream.write_all(response.as_bytes()).await.ok()?;
    }
}

/// An application that sends back what it gets, and ends when its client does.
pub async fn echo() -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    address
}

/// Accepts connections in the kernel and never answers, like a stopped process.
pub async fn frozen() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    (listener.local_addr().expect("bound"), listener)
}

/// An address on which nothing listens.
pub async fn dead() -> SocketAddr {
    let (address, listener) = frozen().await;
    drop(listener);
    address
}

/// Writes `request` and reads the response to the end of the connection.
pub async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut response = Vec::new();
    // A reset after a refusal is as good as an end.
    let _ = stream.read_to_end(&mut response).await;
    String::from_utf8_lossy(&response).into_owned()
}

pub async fn get(outbound: SocketAddr, path: &str) -> String {
    request(outbound, "GET", path, "", "").await
}

pub async fn request(outbound: SocketAddr, method: &str, path: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    let text = format!(
        "{method} http://{HOST}:{HTTP}{path} HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n{fields}\r\n{body}"
    );
    exchange(outbound, &text).await
}

pub fn status(response: &str) -> &str {
    response.split(' ').nth(1).unwrap_or("none")
}
