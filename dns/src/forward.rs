//! Forwarding to upstream servers: in order, each with its own time, all within one deadline.
//!
//! Clients that ask the same at the same time share one exchange. That keeps a crowd from becoming a flood, leaves
//! an attacker no birthday to play on (many open questions for one name, RFC 5452 §5), and cuts
//! loops: a question that comes back from the upstream server to which it was sent finds itself already asked, waits
//! with the rest, and is not sent again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{LowerName, RecordType};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::metrics::Metrics;
use crate::server::Limits;
use crate::upstream::{Question, UpstreamError, ask};

/// How often each upstream server is asked at most, when none answers.
const ROUNDS_MAX: usize = 2;

/// What makes two questions the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    name: LowerName,
    kind: RecordType,
    dnssec_ok: bool,
    checking_disabled: bool,
}

type Response = Option<Arc<Message>>;

/// Asks upstream servers. Without any, there is nobody to ask.
#[derive(Debug)]
pub(crate) struct Forwarder {
    upstreams: Vec<SocketAddr>,
    limits: Limits,
    waiting: Arc<Semaphore>,
    /// The exchanges under way: at most one per permit of `waiting`.
    exchanges: Mutex<HashMap<Key, watch::Receiver<Response>>>,
    metrics: Arc<Metrics>,
}

/// The right to wait for an upstream server's answer.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl Forwarder {
    pub(crate) fn new(upstreams: Vec<SocketAddr>, limits: Limits, metrics: Arc<Metrics>) -> Self {
        let waiting = Arc::new(Semaphore::new(limits.forwards.min(Semaphore::MAX_PERMITS)));
        Self { upstreams, limits, waiting, exchanges: Mutex::default(), metrics }
    }

    /// Whether there is anyone to ask.
    pub(crate) fn is_configured(&self) -> bool {
        !self.upstreams.is_empty()
    }

    /// `None` when too many queries are waiting already.
    pub(crate) fn permit(&self) -> Option<Permit> {
        self.waiting.clone().try_acquire_owned().ok().map(|permit| Permit { _permit: permit })
    }

    /// The answer of the first upstream server that has one; `None` when none has within
    /// [`Limits::forward_timeout`].
    pub(crate) async fn resolve(&self, question: &Question, _permit: &Permit) -> Response {
        let deadline = Instant::now() + self.limits.forward_timeout;
        let exchange = match self.join(question) {
            Ok(exchange) => exchange,
            Err(mut answer) => {
                let answer = timeout_at(deadline, answer.wait_for(Option::is_some)).await.ok()?.ok()?;
                return answer.clone();
            }
        };
        let began = Instant::now();
        let response = self.ask_all(question, deadline).await.map(Arc::new);
        if response.is_some() {
            self.metrics.record_forward(began.elapsed().as_secs_f64());
        }
        exchange.answer.send_replace(response.clone());
        response
    }

    /// Begins the exchange for a question, or joins the one under way.
    fn join(&self, question: &Question) -> Result<Exchange<'_>, watch::Receiver<Response>> {
        let key = Key {
            name: question.query.name().into(),
            kind: question.query.query_type(),
            dnssec_ok: question.dnssec_ok,
            checking_disabled: question.checking_disabled,
        };
        let mut exchanges = self.exchanges();
        if let Some(answer) = exchanges.get(&key) {
            return Err(answer.clone());
        }
        let (sender, answer) = watch::channel(None);
        exchanges.insert(key.clone(), answer);
        Ok(Exchange { forwarder: self, key, answer: sender })
    }

    fn exchanges(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Response>>> {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one upstream server after the other. One that cannot or will not answer gives way to the next; when
    /// none does better, its response code is the answer.
    async fn ask_all(&self, question: &Question, deadline: Instant) -> Option<Message> {
        let mut inconclusive = None;
        for _ in 0..ROUNDS_MAX {
            for upstream in &self.upstreams {
                let try_deadline = deadline.min(Instant::now() + self.limits.try_timeout);
                match timeout_at(try_deadline, ask(*upstream, question)).await {
                    Ok(Ok(message)) if is_conclusive(&message) => return Some(message),
                    Ok(Ok(message)) => inconclusive = Some(message),
                    Ok(Err(UpstreamError::Encode(error))) => {
                        debug!(%error, "question cannot be forwarded");
                        return None;
                    }
                    Ok(Err(error)) => debug!(%upstream, %error, "upstream DNS server failed"),
                    Err(_) => debug!(%upstream, "upstream DNS server did not answer in time"),
                }
            }
            if inconclusive.is_some() || Instant::now() >= deadline {
                break;
            }
        }
        inconclusive
    }
}

fn is_conclusive(message: &Message) -> bool {
    matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// An exchange under way. Dropping it, answered or not, lets the next client start another.
struct Exchange<'a> {
    forwarder: &'a Forwarder,
    key: Key,
    answer: watch::Sender<Response>,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.forwarder.exchanges().remove(&self.key);
    }
}
