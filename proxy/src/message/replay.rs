//! A request's body across attempts, and beyond the answer.
//!
//! An answer may begin, and be done with, while its request is still on its way. On a connection of HTTP/2 hyper then goes on sending it,
//! and where the peer reads nothing it does so for ever: it waits for the peer's window and for nothing else, whoever leaves meanwhile.
//! Such a stream has to count until it has ended, or a connection were full that looks empty. One that stands still when nobody
//! reads its answer any more is stuck: its connection takes no more requests, and ends once it has no others.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::body::BodyError;
use super::{Body, Received};

/// Request bodies up to this size are read before the request is sent, so that it can be sent again.
pub const REPLAYED_MAX: u64 = 64 * 1024;
/// How long that may take: as long as nginx waits for a client's body (`client_body_timeout`).
pub const REPLAYED_WITHIN: Duration = Duration::from_secs(60);
/// How long a peer may take nothing of a request whose answer nobody reads any more. It takes a frame at a time, 128 KiB between data
/// planes, which slow ones need a while for.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);
/// How often in a row it may be the client who sends nothing of it: together as long as its body may take to be read ahead.
const SILENT_MAX: u32 = 6;

/// A request's body across attempts.
pub enum Replay {
    /// Can be sent any number of times.
    Whole(Bytes, Option<Box<HeaderMap>>),
    /// Can be sent again as long as nobody has begun to read it.
    Once(Arc<Source>),
}

/// A body that only one attempt can have.
pub struct Source {
    state: Mutex<State>,
    /// The client broke off, or what it sent is no body: that is nobody else's fault.
    broke: AtomicBool,
    /// How often the peer was ready for more.
    asked: AtomicU64,
    /// Whether it is the client who is waited for.
    waits: AtomicBool,
    /// Whether the client was waited for in vain.
    given_up: AtomicBool,
}

struct State {
    received: Option<Received>,
    /// Who sends it on, while the client is waited for.
    waker: Option<Waker>,
    /// Ends with the last attempt's body.
    attempt: CancellationToken,
}

/// The body as one attempt has it.
pub struct Lent {
    source: Arc<Source>,
    taken: Option<Received>,
    _ends: DropGuard,
}

/// What an exchange takes up of a connection.
pub trait Place: Send + 'static {
    /// The request will not come to its end.
    fn stick(&self) {}
}

impl Source {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the attempt's body is done with; or false, when it is the peer who has taken nothing of it for long. A client
    /// that sends nothing is given up.
    async fn ends(&self, attempt: &CancellationToken) -> bool {
        let mut silent = 0;
        loop {
            let asked = self.asked.load(Ordering::Relaxed);
            if timeout(STUCK_AFTER, attempt.cancelled()).await.is_ok() {
                return true;
            }
            if self.asked.load(Ordering::Relaxed) != asked {
                silent = 0;
            } else if !self.waits.load(Ordering::Relaxed) {
                return false;
            } else {
                silent += 1;
            }
            if silent == SILENT_MAX {
                self.given_up.store(true, Ordering::Release);
                self.lock().waker.take().into_iter().for_each(Waker::wake);
            }
        }
    }
}

impl Lent {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { source, taken, .. } = self;
        if taken.is_none() {
            *taken = source.lock().received.take();
        }
        let Some(received) = taken else { return Poll::Ready(None) };
        source.asked.fetch_add(1, Ordering::Relaxed);
        let frame = Pin::new(received).poll_frame(cx);
        source.waits.store(frame.is_pending(), Ordering::Relaxed);
        if frame.is_pending() {
            source.lock().waker = Some(cx.waker().clone());
            if source.given_up.load(Ordering::Acquire) {
                return Poll::Ready(Some(Err(BodyError::Quiet)));
            }
        }
        let frame = ready!(frame);
        if matches!(frame, Some(Err(_))) {
            source.broke.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match &self.taken {
            Some(received) => received.is_end_stream(),
            None => self.source.lock().received.as_ref().is_none_or(http_body::Body::is_end_stream),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match &self.taken {
            Some(received) => received.size_hint(),
            None => self.source.lock().received.as_ref().map_or_else(SizeHint::default, http_body::Body::size_hint),
        }
    }
}

impl Replay {
    /// Prepares a body: a small one of known length is read whole.
    ///
    /// # Errors
    /// When the client breaks off while its body is read, or takes longer than [`REPLAYED_WITHIN`].
    pub async fn prepare(received: Received) -> Result<Self, BodyError> {
        if received.is_end_stream() {
            return Ok(Self::Whole(Bytes::new(), None));
        }
        match received.size_hint().exact() {
            Some(length) if length <= REPLAYED_MAX => {
                // No more comes than was announced: hyper sees to that.
                let collected = timeout(REPLAYED_WITHIN, received.collect()).await;
                let collected = collected.unwrap_or(Err(BodyError::Quiet))?;
                let trailers = collected.trailers().cloned().map(Box::new);
                Ok(Self::Whole(collected.to_bytes(), trailers))
            }
            _ => Ok(Self::once(received)),
        }
    }

    /// A body that is not read ahead.
    #[must_use]
    pub fn once(received: Received) -> Self {
        if received.is_end_stream() {
            return Self::Whole(Bytes::new(), None);
        }
        let attempt = CancellationToken::new();
        let state = Mutex::new(State { received: Some(received), waker: None, attempt });
        let (broke, asked, waits, given_up) = Default::default();
        Self::Once(Arc::new(Source { state, broke, asked, waits, given_up }))
    }

    /// Whether an attempt would find the body untouched.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        match self {
            Self::Whole(..) => true,
            Self::Once(source) => source.lock().received.is_some(),
        }
    }

    /// Whether an attempt failed because the client broke off, or sent what is no body.
    #[must_use]
    pub fn broke(&self) -> bool {
        matches!(self, Self::Once(source) if source.broke.load(Ordering::Relaxed))
    }

    /// The body for one attempt.
    #[must_use]
    pub fn lend(&self) -> Body {
        match self {
            Self::Whole(bytes, None) => Body::whole(bytes.clone()),
            Self::Whole(bytes, Some(trailers)) => Body::with_trailers(bytes.clone(), trailers.clone()),
            Self::Once(source) => {
                let attempt = CancellationToken::new();
                source.lock().attempt = attempt.clone();
                Body::lent(Lent { source: source.clone(), taken: None, _ends: attempt.drop_guard() })
            }
        }
    }

    /// The `answer` to the last attempt, which keeps its place until both are done with.
    #[must_use]
    pub fn keep(&self, answer: Body, place: impl Place) -> Body {
        match self {
            Self::Whole(..) => answer.holding(place),
            Self::Once(source) => {
                let attempt = source.lock().attempt.clone();
                answer.holding(Parting { source: source.clone(), attempt, place: Some(place) })
            }
        }
    }
}

/// Dropped with the answer; the place goes with the request, if that is later.
struct Parting<P: Place> {
    source: Arc<Source>,
    attempt: CancellationToken,
    place: Option<P>,
}

impl<P: Place> Drop for Parting<P> {
    fn drop(&mut self) {
        let Some(place) = self.place.take().filter(|_| !self.attempt.is_cancelled()) else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        let (source, attempt) = (self.source.clone(), self.attempt.clone());
        runtime.spawn(async move {
            if !source.ends(&attempt).await {
                place.stick();
                attempt.cancelled().await;
            }
            drop(place);
        });
    }
}
