//! A gateway's control port without a gateway: greets, signs, and answers from a watched snapshot.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_identity::{
    BearerToken, ClientAuth, ClusterAuthority, INTERMEDIATE_LIFETIME, LiveIdentity, PrivateKey, RootAuthority,
    TrustBundle, csr_key_digest,
};
use isthmus_model::authorization::FORM;
use isthmus_model::name::{ClusterName, FederationDomain, TrustDomain};
use isthmus_model::snapshot::{Coverage, Site, Snapshot};
use isthmus_model::spiffe::SpiffeId;
use isthmus_wire::control::control_server::{Control, ControlServer};
use isthmus_wire::control::{self, FromGateway, FromSidecar, from_gateway, from_sidecar};
use isthmus_wire::view::{Asked, difference};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tower::Service;

use crate::agent::views::blank;

/// Long enough not to be renewed in a test.
pub(crate) const LIFETIME: Duration = Duration::from_secs(3600);

/// A federation of one cluster: its root and the cluster's authority.
pub(crate) struct Federation {
    root: RootAuthority,
    authority: Arc<ClusterAuthority>,
    domain: TrustDomain,
}

impl Federation {
    pub(crate) fn new(cluster: &str) -> Self {
        let (federation, cluster): (FederationDomain, ClusterName) =
            ("acme.mesh".parse().expect("valid"), cluster.parse().expect("valid"));
        let domain = federation.trust_domain(&cluster);
        let root = RootAuthority::create(&federation, SystemTime::now()).expect("a root");
        let key = PrivateKey::generate().expect("a key");
        let csr = key.csr().expect("a request");
        let certificate =
            root.sign_cluster(&csr, &domain, INTERMEDIATE_LIFETIME, SystemTime::now()).expect("an intermediate");
        let authority = Arc::new(ClusterAuthority::new(key, certificate).expect("matches"));
        Self { root, authority, domain }
    }

    pub(crate) fn site(&self) -> Site {
        let locality = "us-east-1/a".parse().expect("valid");
        Site { federation: self.domain.federation.clone(), cluster: self.domain.cluster.clone(), locality }
    }

    /// What a gateway knows when there is no service yet.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let blank = Snapshot::empty(self.site(), Coverage::Complete);
        Snapshot { generation: 40, roots: Arc::from([self.root()]), ..blank }
    }

    pub(crate) fn root(&self) -> Vec<u8> {
        self.root.certificate().to_vec()
    }

    pub(crate) fn trust_domain(&self) -> TrustDomain {
        self.domain.clone()
    }

    pub(crate) fn token(&self) -> BearerToken {
        let Site { federation, cluster, .. } = self.site();
        BearerToken::mint(federation, cluster, Vec::new(), self.root.digest())
    }

    pub(crate) fn workload(&self) -> SpiffeId {
        SpiffeId::workload(self.domain.clone(), "shop/reviews".parse().expect("valid"))
    }

    fn gateway_identity(&self) -> LiveIdentity {
        let key = PrivateKey::generate().expect("a key");
        let id = SpiffeId::gateway(self.domain.clone(), "gw".parse().expect("valid"));
        let csr = key.csr().expect("a request");
        let chain = vec![self.root.sign_gateway(&csr, &id, LIFETIME, SystemTime::now()).expect("signed")];
        let identity = LiveIdentity::new();
        let bundle = TrustBundle::new(self.domain.federation.clone(), vec![self.root()]).expect("a root");
        identity.set_trust(bundle);
        identity.set_credentials(chain, key).expect("matches");
        identity
    }
}

/// What sidecars sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) hellos: Vec<control::Hello>,
    pub(crate) asked: BTreeSet<String>,
    pub(crate) certificates: usize,
    pub(crate) keys: BTreeSet<String>,
    pub(crate) acknowledged: Option<u64>,
}

/// A control port.
pub(crate) struct FakeGateway {
    pub(crate) address: SocketAddr,
    pub(crate) seen: watch::Receiver<Seen>,
    /// Tells every sidecar to renew when it is counted up.
    pub(crate) renewals: watch::Sender<u32>,
    /// The form of policies that it says it knows.
    pub(crate) form: watch::Sender<u32>,
    stop: CancellationToken,
    connections: TaskTracker,
}

#[derive(Clone)]
struct Attending {
    known: watch::Receiver<Snapshot>,
    seen: Arc<watch::Sender<Seen>>,
    renewals: watch::Receiver<u32>,
    form: watch::Receiver<u32>,
    authority: Arc<ClusterAuthority>,
    workload: SpiffeId,
    lifetime: Duration,
}

impl FakeGateway {
    pub(crate) async fn start(federation: &Federation, known: watch::Receiver<Snapshot>, lifetime: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let tls = federation.gateway_identity().server_config(ClientAuth::Optional, &[b"h2"]);
        let (seen, watched) = watch::channel(Seen::default());
        let (authority, workload) = (federation.authority.clone(), federation.workload());
        let (renewals, form) = (watch::Sender::new(0), watch::Sender::new(FORM));
        let (renewed, shown) = (renewals.subscribe(), form.subscribe());
        let seen = Arc::new(seen);
        let attending = Attending { known, seen, renewals: renewed, form: shown, authority, workload, lifetime };
        let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
        let (stopped, tracker) = (stop.clone(), connections.clone());
        let serving = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, server) = (TlsAcceptor::from(tls.clone()), ControlServer::new(attending.clone()));
                let connection = async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let call = service_fn(move |request| server.clone().call(request));
                    let builder = http2::Builder::new(TokioExecutor::new());
                    drop(builder.serve_connection(TokioIo::new(stream), call).await);
                };
                tracker.spawn(stopped.clone().run_until_cancelled_owned(connection));
            }
        };
        connections.spawn(stop.clone().run_until_cancelled_owned(serving));
        Self { address, seen: watched, renewals, form, stop, connections }
    }

    /// Closes the port and every connection.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

impl Drop for FakeGateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tonic::async_trait]
impl Control for Attending {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<FromGateway, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<FromSidecar>>) -> Result<Response<Self::AttachStream>, Status> {
        let (outbox, messages) = mpsc::channel(16);
        tokio::spawn(self.clone().attend(request.into_inner(), outbox));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

type Outbox = mpsc::Sender<Result<FromGateway, Status>>;

async fn send(outbox: &Outbox, message: from_gateway::Message) {
    drop(outbox.send(Ok(FromGateway { message: Some(message) })).await);
}

impl Attending {
    async fn attend(mut self, mut incoming: Streaming<FromSidecar>, outbox: Outbox) {
        let site = Site::clone(&self.known.borrow().site);
        let welcome = control::Welcome {
            rules_form: *self.form.borrow(),
            federation: site.federation.to_string(),
            cluster: site.cluster.to_string(),
            locality: site.locality.to_string(),
            identity: self.workload.to_string(),
        };
        let mut view = blank(site);
        let mut asked = Asked::default();
        let mut greeted = false;
        loop {
            if greeted {
                let (next, update) = difference(&view, &self.known.borrow_and_update().clone(), &asked);
                view = next;
                if let Some(update) = update {
                    send(&outbox, from_gateway::Message::Update(update)).await;
                }
            }
            tokio::select! {
                message = incoming.message() => {
                    let Ok(Some(FromSidecar { message: Some(message) })) = message else { return };
                    if let from_sidecar::Message::Hello(hello) = &message {
                        greeted = true;
                        asked.own_address = hello.workload_address.parse().ok();
                        asked.workload = self.workload.as_workload().cloned();
                        asked.rules_form = hello.rules_form;
                        send(&outbox, from_gateway::Message::Welcome(welcome.clone())).await;
                    }
                    self.heard(message, &mut asked, &outbox).await;
                }
                changed = self.known.changed(), if greeted => {
                    if changed.is_err() {
                        return;
                    }
                }
                Ok(()) = self.renewals.changed(), if greeted => {
                    send(&outbox, from_gateway::Message::Renew(control::Renew {})).await;
                }
            }
        }
    }

    async fn heard(&self, message: from_sidecar::Message, asked: &mut Asked, outbox: &Outbox) {
        match message {
            from_sidecar::Message::Hello(hello) => self.seen.send_modify(|seen| seen.hellos.push(hello)),
            from_sidecar::Message::Acknowledged(generation) => {
                self.seen.send_modify(|seen| seen.acknowledged = Some(generation));
            }
            from_sidecar::Message::Ask(ask) => {
                asked.add(&ask).expect("valid questions");
                self.seen.send_modify(|seen| seen.asked.extend(ask.services));
            }
            from_sidecar::Message::CertificateRequest(csr) => {
                let key = csr_key_digest(&csr).expect("a valid request").to_string();
                let signed = self.authority.sign(&csr, &self.workload, None, self.lifetime, SystemTime::now());
                let certificate = control::Certificate { chain: signed.expect("signed") };
                send(outbox, from_gateway::Message::Certificate(certificate)).await;
                self.seen.send_modify(|seen| {
                    seen.certificates += 1;
                    seen.keys.insert(key);
                });
            }
        }
    }
}
