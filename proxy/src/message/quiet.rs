//! Streams on which nothing moves any more: a request that is not gone on with, an answer that is not read, an application that says
//! nothing.
//!
//! Each holds what a request holds: its place at the listener and at the service, a stream of the way there, and the bytes that are
//! on the way. A client of HTTP/2 that answers pings is alive, so that nothing else ends them. What is watched has one task, and
//! everything that moves is noted; when nothing was for long, those who wait are told first, so that whoever still can answers, and
//! then the task is dropped. hyper's task of a stream of HTTP/2 takes the stream with it, which is how one can be reset that waits
//! for its client to read.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::body::BodyError;

/// How long nothing may move on a stream from outside, neither of its request nor of its response, unless the operator says
/// otherwise: Envoy's `stream_idle_timeout`.
pub const QUIET_DEFAULT: Duration = Duration::from_secs(300);
/// How long what is given up may take to tell its client: a line of text for the socket's buffer, and whoever does not let that
/// come either has been waited for.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// What is watched of the task that runs.
    static WATCHED: Activity;
}

/// What moves on a stream. Clones share it.
#[derive(Clone, Debug)]
pub struct Activity(Arc<State>);

#[derive(Debug)]
struct State {
    began: Instant,
    /// When something moved last, in milliseconds after the beginning.
    moved: AtomicU64,
    /// Whether all of the request came.
    asked: AtomicBool,
    /// How many parts of a request and its response there are: none between two requests of a connection.
    parts: AtomicUsize,
    /// How many wait for what has a bound of its own.
    excused: AtomicUsize,
    over: CancellationToken,
}

impl Activity {
    fn new() -> Self {
        Self(Arc::new(State {
            began: Instant::now(),
            moved: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            parts: AtomicUsize::new(0),
            excused: AtomicUsize::new(0),
            over: CancellationToken::new(),
        }))
    }

    /// That of the task that runs, if it is watched.
    #[must_use]
    pub fn current() -> Option<Self> {
        WATCHED.try_with(Self::clone).ok()
    }

    /// Something moved.
    pub fn note(&self) {
        let after = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.moved.store(after, Ordering::Relaxed);
    }

    /// A request came, all of it or its head.
    pub fn asked(&self, whole: bool) {
        self.0.asked.store(whole, Ordering::Relaxed);
        self.note();
    }

    /// Whether all of the request came.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// Whether the stream was given up.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.over.is_cancelled()
    }

    /// Resolves when the stream is given up.
    pub async fn over(&self) {
        self.0.over.cancelled().await;
    }

    /// As long as this is held, something is under way, and silence counts.
    #[must_use]
    pub fn part(&self) -> Part {
        self.0.parts.fetch_add(1, Ordering::Relaxed);
        self.note();
        Part(self.clone())
    }

    /// As long as this is held, silence does not count: what is waited for has a bound of its own.
    #[must_use]
    pub fn excuse(&self) -> Excused {
        self.0.excused.fetch_add(1, Ordering::Relaxed);
        Excused(self.clone())
    }

    /// Resolves when nothing has moved for that long that should.
    async fn quiet(&self, within: Duration) {
        loop {
            if self.0.parts.load(Ordering::Relaxed) == 0 || self.0.excused.load(Ordering::Relaxed) > 0 {
                self.note();
            }
            let due = self.0.began + Duration::from_millis(self.0.moved.load(Ordering::Relaxed)) + within;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// See [`Activity::part`].
#[derive(Debug)]
pub struct Part(Activity);

impl Drop for Part {
    fn drop(&mut self) {
        self.0.note();
        self.0.0.parts.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See [`Activity::excuse`].
#[derive(Debug)]
pub struct Excused(Activity);

impl Drop for Excused {
    fn drop(&mut self) {
        self.0.note();
        self.0.0.excused.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs what serves a stream until it is through, or until nothing has moved for that long.
pub(super) fn watched(within: Duration, serving: impl Future<Output = ()>) -> impl Future<Output = ()> {
    let activity = Activity::new();
    // Boxed before anything waits for it, or there would be room for it outside of the box too.
    let mut serving = Box::pin(WATCHED.scope(activity.clone(), serving));
    async move {
        tokio::select! {
            () = serving.as_mut() => return,
            () = activity.quiet(within) => {}
        }
        tracing::debug!("a stream from outside is given up: nothing has moved on it");
        activity.0.over.cancel();
        let _ = timeout(LAST_WORD_WITHIN, serving).await;
    }
}

/// Whether the task that runs is watched already, or is what such a one started.
pub(super) fn is_watched() -> bool {
    WATCHED.try_with(|_| ()).is_ok()
}

/// A body of a stream that is watched.
pub(super) struct Side {
    part: Part,
    over: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Side {
    pub(super) fn of(activity: &Activity) -> Box<Self> {
        Box::new(Self { part: activity.part(), over: None })
    }

    pub(super) fn activity(&self) -> &Activity {
        &self.part.0
    }

    /// Notes what came of a look at the body; where nothing did, breaks it off once the stream is given up.
    pub(super) fn looked<T>(
        &mut self,
        cx: &mut Context<'_>,
        frame: Poll<Option<Result<T, BodyError>>>,
    ) -> Poll<Option<Result<T, BodyError>>> {
        if frame.is_ready() {
            self.activity().note();
            return frame;
        }
        let token = &self.part.0.0.over;
        let over = self.over.get_or_insert_with(|| Box::pin(token.clone().cancelled_owned()));
        ready!(over.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyError::Quiet)))
    }
}
