//! One sidecar's stream, from hello to the end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_federation::caller;
use isthmus_identity::{LiveAuthority, Verified, sha256};
use isthmus_model::registry::Registry;
use isthmus_model::registry::token::{Digest, TokenId};
use isthmus_model::snapshot::{Coverage, Site, Snapshot};
use isthmus_model::spiffe::{Principal, SpiffeId, WorkloadName};
use isthmus_wire::control::from_gateway::Message as ToSidecar;
use isthmus_wire::control::from_sidecar::Message as FromSidecarMessage;
use isthmus_wire::control::{Certificate, FromGateway, FromSidecar, Hello, Renew, Welcome, control_server};
use isthmus_wire::view::{Asked, difference};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::attached::{Attached, Seat};

/// How long a new stream may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that may wait for a slow sidecar; updates are merged while it does not read.
const WAITING_MAX: usize = 4;
/// Certificates that one stream may ask for in [`CERTIFICATE_WINDOW`]: renewal needs one in hours.
const CERTIFICATES_PER_WINDOW: u32 = 10;
const CERTIFICATE_WINDOW: Duration = Duration::from_secs(60);

/// Serves sidecars of the own cluster.
pub struct ControlService {
    shared: Arc<Shared>,
}

struct Shared {
    site: Site,
    authority: LiveAuthority,
    certificate_ttl: Duration,
    registry: watch::Receiver<Arc<Registry>>,
    view: watch::Receiver<Arc<Snapshot>>,
    attached: Attached,
    shutdown: CancellationToken,
}

impl ControlService {
    /// Serves what `view` says and signs with `authority`; who is attached is in `attached`.
    #[must_use]
    pub fn new(
        site: Site,
        authority: LiveAuthority,
        certificate_ttl: Duration,
        registry: watch::Receiver<Arc<Registry>>,
        view: watch::Receiver<Arc<Snapshot>>,
        attached: Attached,
        shutdown: CancellationToken,
    ) -> Self {
        Self { shared: Arc::new(Shared { site, authority, certificate_ttl, registry, view, attached, shutdown }) }
    }
}

/// Why a stream's identity is believed.
enum Warrant {
    Token(TokenId),
    Certificate(Verified),
}

impl Shared {
    /// Who the stream is.
    fn authenticate(&self, hello: &Hello, shown: Option<Verified>) -> Result<(WorkloadName, Warrant), Status> {
        if hello.token_id.is_empty() {
            let shown = shown.ok_or_else(|| Status::unauthenticated("show a workload token or a certificate"))?;
            let SpiffeId { trust_domain, principal } = shown.id().clone();
            let own = trust_domain == self.site.trust_domain();
            return match principal {
                Principal::Workload(workload) if own => Ok((workload, Warrant::Certificate(shown))),
                _ => Err(Status::permission_denied(format!("{} is not a workload of this cluster", shown.id()))),
            };
        }
        let id: TokenId = hello.token_id.parse().map_err(Status::invalid_argument)?;
        let registry = self.registry.borrow();
        let now = SystemTime::now().into();
        let hash = sha256(&hello.token_secret);
        let vouched = registry.token(&id).and_then(|token| token.vouches(&hash, &self.site.cluster, now).cloned());
        let workload = vouched.map_err(|refusal| Status::unauthenticated(refusal.to_string()))?;
        Ok((workload, Warrant::Token(id)))
    }

    /// Whether the warrant still holds when a further certificate is asked for. A token's expiry ends first
    /// contacts, not streams; its revocation ends both.
    fn still_holds(&self, warrant: &Warrant) -> Result<(), Status> {
        match warrant {
            Warrant::Token(id) => {
                let registry = self.registry.borrow();
                match registry.token(id).map(|token| token.revoked_at) {
                    Ok(Some(_)) => Err(Status::unauthenticated("the workload token was revoked")),
                    Ok(None) | Err(_) => Ok(()),
                }
            }
            Warrant::Certificate(shown) if shown.not_after() <= SystemTime::now() => {
                Err(Status::unauthenticated("the certificate that the stream was attached with has expired"))
            }
            Warrant::Certificate(_) => Ok(()),
        }
    }
}

/// An attached sidecar.
struct Session {
    shared: Arc<Shared>,
    identity: SpiffeId,
    warrant: Warrant,
    asked: Asked,
    seat: Seat,
    /// What the sidecar has been sent.
    sent: Snapshot,
    /// The generation with which it was told the roots, until it acknowledges that.
    roots_told: Option<u64>,
    certificates: u32,
    window_began: tokio::time::Instant,
}

type Outgoing = mpsc::Sender<Result<FromGateway, Status>>;

impl Session {
    async fn run(mut self, mut incoming: Streaming<FromSidecar>, outgoing: &Outgoing) -> Result<(), Status> {
        let mut view = self.shared.view.clone();
        let shutdown = self.shared.shutdown.clone();
        let first = view.borrow_and_update().clone();
        self.update(&first, outgoing).await?;
        self.renew(outgoing).await?;
        loop {
            tokio::select! {
                () = self.seat.asked() => self.renew(outgoing).await?,
                () = shutdown.cancelled() => return Err(Status::unavailable("the gateway is stopping")),
                () = outgoing.closed() => return Ok(()),
                message = incoming.message() => match message? {
                    None => return Ok(()),
                    Some(message) => {
                        self.take(message, outgoing).await?;
                        let current = view.borrow().clone();
                        self.update(&current, outgoing).await?;
                    }
                },
                changed = view.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let current = view.borrow_and_update().clone();
                    self.update(&current, outgoing).await?;
                }
            }
        }
    }

    async fn take(&mut self, message: FromSidecar, outgoing: &Outgoing) -> Result<(), Status> {
        match message.message {
            Some(FromSidecarMessage::CertificateRequest(csr)) => {
                let (chain, issuer) = self.sign(&csr)?;
                send(outgoing, ToSidecar::Certificate(Certificate { chain })).await?;
                self.seat.certified(issuer);
                Ok(())
            }
            Some(FromSidecarMessage::Ask(ask)) => {
                self.asked.add(&ask).map_err(|error| Status::resource_exhausted(error.to_string()))?;
                Ok(())
            }
            Some(FromSidecarMessage::Acknowledged(generation)) => {
                tracing::trace!(identity = %self.identity, generation, "a sidecar is up to date");
                if self.roots_told.take_if(|told| *told <= generation).is_some() {
                    self.seat.trusts(self.sent.roots.clone());
                }
                Ok(())
            }
            Some(FromSidecarMessage::Hello(_)) => Err(Status::invalid_argument("a second hello")),
            None => Err(Status::invalid_argument("an empty message")),
        }
    }

    /// A certificate for the sidecar, and the key of the authority that signed it.
    fn sign(&mut self, csr: &[u8]) -> Result<(Vec<Vec<u8>>, Digest), Status> {
        if self.window_began.elapsed() > CERTIFICATE_WINDOW {
            (self.certificates, self.window_began) = (0, tokio::time::Instant::now());
        }
        self.certificates += 1;
        if self.certificates > CERTIFICATES_PER_WINDOW {
            return Err(Status::resource_exhausted("too many certificate requests"));
        }
        self.shared.still_holds(&self.warrant)?;
        let (lifetime, now) = (self.shared.certificate_ttl, SystemTime::now());
        let authority = self.shared.authority.current();
        let signed = authority.sign(csr, &self.identity, lifetime, now);
        let chain = signed.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok((chain, authority.key_digest()))
    }

    /// Tells the sidecar to renew its certificate, if another authority signs by now.
    async fn renew(&mut self, outgoing: &Outgoing) -> Result<(), Status> {
        if self.seat.has_to_renew() { send(outgoing, ToSidecar::Renew(Renew {})).await } else { Ok(()) }
    }

    async fn update(&mut self, current: &Snapshot, outgoing: &Outgoing) -> Result<(), Status> {
        let (next, update) = difference(&self.sent, current, &self.asked);
        if next.roots != self.sent.roots {
            self.roots_told = Some(next.generation);
        }
        self.sent = next;
        match update {
            Some(update) => send(outgoing, ToSidecar::Update(update)).await,
            None => Ok(()),
        }
    }
}

async fn send(outgoing: &Outgoing, message: ToSidecar) -> Result<(), Status> {
    let sent = outgoing.send(Ok(FromGateway { message: Some(message) })).await;
    sent.map_err(|_| Status::cancelled("the sidecar is gone"))
}

/// The first message of a stream, which must come soon and be a hello.
async fn hello(incoming: &mut Streaming<FromSidecar>) -> Result<Hello, Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, incoming.message()).await;
    match first.map_err(|_| Status::deadline_exceeded("no hello"))?? {
        Some(FromSidecar { message: Some(FromSidecarMessage::Hello(hello)) }) => Ok(hello),
        _ => Err(Status::invalid_argument("the first message must be a hello")),
    }
}

async fn serve(
    shared: Arc<Shared>,
    shown: Option<Verified>,
    mut incoming: Streaming<FromSidecar>,
    outgoing: &Outgoing,
) -> Result<(), Status> {
    let hello = hello(&mut incoming).await?;
    let own_address: IpAddr = hello
        .workload_address
        .parse()
        .map_err(|error| Status::invalid_argument(format!("workload_address: {error}")))?;
    let (workload, warrant) = shared.authenticate(&hello, shown).inspect_err(|status| {
        tracing::warn!(%own_address, why = status.message(), "refused a sidecar");
    })?;
    let site = shared.site.clone();
    let identity = SpiffeId::workload(site.trust_domain(), workload);
    tracing::info!(%identity, %own_address, "a sidecar attached");
    let welcome = Welcome {
        federation: site.federation.to_string(),
        cluster: site.cluster.to_string(),
        locality: site.locality.to_string(),
        identity: identity.to_string(),
    };
    send(outgoing, ToSidecar::Welcome(welcome)).await?;
    let coverage = Coverage::Partial { absent: Default::default(), absent_addresses: Default::default() };
    let asked = Asked { services: Default::default(), addresses: Default::default(), own_address: Some(own_address) };
    let session = Session {
        seat: shared.attached.sit_down(identity.clone()),
        roots_told: None,
        sent: Snapshot::empty(site, coverage),
        shared,
        identity,
        warrant,
        asked,
        certificates: 0,
        window_began: tokio::time::Instant::now(),
    };
    let detached = session.seat.detached();
    tokio::select! {
        ended = session.run(incoming, outgoing) => ended,
        // Also while it does not read.
        () = detached.cancelled() => Err(Status::aborted("out of step with the gateway: attach again")),
    }
}

#[tonic::async_trait]
impl control_server::Control for ControlService {
    type AttachStream = ReceiverStream<Result<FromGateway, Status>>;

    async fn attach(&self, request: Request<Streaming<FromSidecar>>) -> Result<Response<Self::AttachStream>, Status> {
        let shown = caller::verified(&request).ok();
        let (outgoing, stream) = mpsc::channel(WAITING_MAX);
        let shared = self.shared.clone();
        let incoming = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = serve(shared, shown, incoming, &outgoing).await {
                // The sidecar may be gone already; then nobody is left to tell.
                let _ = outgoing.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
