//! Copies between two byte streams until both directions ended, with half-close and an idle bound.
//!
//! What is there is read until nothing is or the buffer is full, and then written at once: a write costs a system call,
//! a TLS record or a frame, and reads from a session come frame by frame. So a buffer is as large as what comes
//! fills, and no larger: an idle connection keeps little.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio_util::io::poll_read_buf;

/// A connection on which nothing moved for this long is closed: Envoy's and ztunnel's default for TCP.
pub const IDLE_MAX: Duration = Duration::from_secs(3600);
/// How long nothing may move once one side is gone or takes no more: what it had to say is on its way then, and the other may wait
/// for it to read.
const BROKEN_IDLE_MAX: Duration = Duration::from_secs(10);
/// What is thrown away of what a side goes on to say to one that takes no more, once it was told all that the other said: as
/// much as may have been on its way, in buffers of the kernel and windows. A side that never stops, or reads nothing before it
/// has said more than that, would keep everybody between busy for nobody.
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// As much of it goes at once, before the other direction has its turn.
const LINGER_BYTES_A_TURN: usize = 64 * 1024;
/// What a direction begins with, and comes back to.
const BUFFER_MIN: usize = 8 * 1024;
/// What it has in bulk: what fills two TLS records (RFC 8446 §5.1) with the head of its frame (RFC 9113 §4.1), for a few bytes more
/// would be a record of their own. Each byte is copied several times on its way, and of larger pieces it has left the processor's
/// near cache before the next copy.
const BUFFER_MAX: usize = 2 * 16 * 1024 - 9;
/// After so many fills in a row of less than a quarter a buffer is halved.
const SMALL_FILLS: u8 = 8;

/// Copies both ways; the end of one direction is passed on and the other goes on. So it does when a peer breaks off or takes
/// no more: whoever has answered may close before it has read everything. What still comes for it is read and thrown away,
/// within bounds, for a socket that is closed with something unread takes back what was written to it. If it has answered
/// nothing, both end at once. Returns the bytes from `a` and from `b`.
///
/// # Errors
/// An I/O error, of a source rather than of its sink, or [`io::ErrorKind::TimedOut`] after `idle` without a byte either way.
pub async fn copy_both<A, B>(a: A, b: B, idle: Duration) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Send,
    B: AsyncRead + AsyncWrite + Send,
{
    copy(pin!(a), pin!(b), idle).await
}

/// Either side, whatever it is: there are a dozen pairs of kinds, and what copies is compiled once.
trait Side: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Side for S {}

async fn copy(mut a: Pin<&mut dyn Side>, mut b: Pin<&mut dyn Side>, idle: Duration) -> io::Result<(u64, u64)> {
    let (moved, broken) = (Progress::default(), Notify::new());
    let (mut there, mut back) = (Lane::new(moved.clone()), Lane::new(moved.clone()));
    let both = poll_fn(|cx| {
        let mut from_a = there.poll(cx, a.as_mut(), b.as_mut(), back.carried())?;
        let from_b = back.poll(cx, b.as_mut(), a.as_mut(), there.carried())?;
        if from_a.is_pending() && from_b.is_ready() {
            from_a = there.poll(cx, a.as_mut(), b.as_mut(), back.carried())?;
        }
        if there.is_broken() || back.is_broken() {
            broken.notify_one();
        }
        Poll::Ready(io::Result::Ok((ready!(from_a), ready!(from_b))))
    });
    let stuck = async {
        broken.notified().await;
        moved.stalled(BROKEN_IDLE_MAX.min(idle)).await;
    };
    let copied = tokio::select! {
        copied = both => copied?,
        () = stuck => (0, 0),
        () = moved.stalled(idle) => return Err(io::ErrorKind::TimedOut.into()),
    };
    [there.failed, back.failed, there.refused, back.refused].into_iter().flatten().next().map_or(Ok(copied), Err)
}

/// One direction.
struct Lane {
    moved: Progress,
    buffer: BytesMut,
    /// How much a fill may take.
    size: usize,
    small_fills: u8,
    /// What of the buffer was written.
    written: usize,
    total: u64,
    stage: Stage,
    /// How the source failed. What it gave before is written first.
    failed: Option<io::Error>,
    /// How the sink failed, which takes no more since then.
    refused: Option<io::Error>,
    /// How much was thrown away since the other direction ended.
    lingered: usize,
    unflushed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The source has ended; what is left is to be written, and then the end.
    Ending,
    /// The sink takes no more, and the source has not ended.
    Refused,
    Ended,
}

impl Lane {
    fn new(moved: Progress) -> Self {
        let buffer = BytesMut::with_capacity(BUFFER_MIN);
        Self {
            moved,
            buffer,
            size: BUFFER_MIN,
            small_fills: 0,
            written: 0,
            total: 0,
            stage: Stage::Open,
            failed: None,
            refused: None,
            lingered: 0,
            unflushed: false,
        }
    }

    /// Whether its source or its sink failed.
    fn is_broken(&self) -> bool {
        self.failed.is_some() || self.refused.is_some()
    }

    /// What it has carried in all, bytes, once it has ended.
    fn carried(&self) -> Option<u64> {
        (self.stage == Stage::Ended).then_some(self.total)
    }

    /// Moves what can be moved. Ready with the bytes in all once the end was passed on, or came where the sink takes no more, or
    /// is not worth to be waited for: after what the `other` direction has carried, if it has ended.
    ///
    /// # Errors
    /// A failure of the source that is not its peer's: it holds for both directions.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut dyn AsyncRead>,
        mut to: Pin<&mut dyn AsyncWrite>,
        other: Option<u64>,
    ) -> Poll<io::Result<u64>> {
        loop {
            let waits = self.fill(cx, from.as_mut());
            match ready!(self.pass_on(cx, to.as_mut())) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    self.refused = Some(error);
                    self.stage = if self.stage == Stage::Open { Stage::Refused } else { Stage::Ended };
                    self.buffer = BytesMut::new();
                    self.written = 0;
                }
            }
            match self.stage {
                Stage::Ended => return Poll::Ready(Ok(self.total)),
                Stage::Ending => {}
                Stage::Refused => {
                    ready!(self.linger(cx, from.as_mut(), other));
                    self.stage = Stage::Ended;
                }
                Stage::Open => {
                    if let Some(error) = self.failed.take_if(|error| !is_peers(error)) {
                        return Poll::Ready(Err(error));
                    }
                    if self.failed.is_some() {
                        self.stage = Stage::Ending;
                    } else if waits {
                        self.rest();
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Writes what was read. Where nothing was, that is made sure of, or the end is passed on. Whether more may have come meanwhile.
    fn pass_on(&mut self, cx: &mut Context<'_>, mut to: Pin<&mut dyn AsyncWrite>) -> Poll<io::Result<bool>> {
        if self.written < self.buffer.len() {
            ready!(self.drain(cx, to.as_mut()))?;
            return Poll::Ready(Ok(true));
        }
        match self.stage {
            Stage::Open if self.unflushed => {
                ready!(to.poll_flush(cx))?;
                self.unflushed = false;
            }
            Stage::Ending => {
                ready!(to.poll_shutdown(cx))?;
                self.stage = Stage::Ended;
            }
            Stage::Open | Stage::Refused | Stage::Ended => {}
        }
        Poll::Ready(Ok(false))
    }

    /// Reads as long as there is something, and room for it. Whether nothing is there now.
    fn fill(&mut self, cx: &mut Context<'_>, mut from: Pin<&mut dyn AsyncRead>) -> bool {
        while self.stage == Stage::Open && self.failed.is_none() && self.written == 0 && self.buffer.len() < self.size {
            let room = self.size - self.buffer.len();
            match poll_read_buf(from.as_mut(), cx, &mut (&mut self.buffer).limit(room)) {
                Poll::Ready(Ok(0)) => self.stage = Stage::Ending,
                Poll::Ready(Ok(_)) => self.moved.note(),
                Poll::Ready(Err(error)) => self.failed = Some(error),
                Poll::Pending => return true,
            }
        }
        false
    }

    /// Writes all that was read.
    fn drain(&mut self, cx: &mut Context<'_>, mut to: Pin<&mut dyn AsyncWrite>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            match ready!(to.as_mut().poll_write(cx, &self.buffer[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
            self.moved.note();
        }
        self.total += self.buffer.len() as u64;
        self.unflushed = true;
        self.fit();
        Poll::Ready(Ok(()))
    }

    /// Throws away what comes. Ready once nothing more does, or enough has, or whoever says it was told nothing that it might lose.
    fn linger(&mut self, cx: &mut Context<'_>, mut from: Pin<&mut dyn AsyncRead>, other: Option<u64>) -> Poll<()> {
        if other == Some(0) {
            return Poll::Ready(());
        }
        let mut space = [0; 4 * 1024];
        let mut turn = 0;
        while turn < LINGER_BYTES_A_TURN {
            let mut buffer = ReadBuf::new(&mut space);
            let read = ready!(from.as_mut().poll_read(cx, &mut buffer));
            let came = buffer.filled().len();
            if other.is_some() {
                self.lingered += came;
            }
            if read.is_err() || came == 0 || self.lingered > LINGER_BYTES_MAX {
                return Poll::Ready(());
            }
            turn += came;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives a large buffer back when nothing comes and little came before: the connection may be idle for long.
    fn rest(&mut self) {
        if self.size > BUFFER_MIN && self.small_fills > 0 {
            self.size = BUFFER_MIN;
            self.small_fills = 0;
            self.buffer = BytesMut::with_capacity(self.size);
        }
    }

    /// Makes the buffer as large as what comes.
    fn fit(&mut self) {
        let filled = self.buffer.len();
        self.written = 0;
        self.buffer.clear();
        self.small_fills = if filled < self.size / 4 { self.small_fills + 1 } else { 0 };
        if filled >= self.size && self.size < BUFFER_MAX {
            self.size = (2 * self.size).min(BUFFER_MAX);
            // Not reserved, which would take twice as much where what is there is a little less than half.
            self.buffer = BytesMut::with_capacity(self.size);
        } else if self.small_fills >= SMALL_FILLS {
            self.small_fills = 0;
            if self.size > BUFFER_MIN {
                self.size = (self.size / 2).max(BUFFER_MIN);
                self.buffer = BytesMut::with_capacity(self.size);
            }
        }
    }
}

/// Whether the peer broke off, and not somebody between who will have no more of it: the guard of a port that may speak HTTP, or
/// who cuts the sessions of a key that was denied.
fn is_peers(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Counts what moves, so that a timer per read is not needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(crate) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Resolves when nothing was noted for between one and two times `idle`.
    pub(crate) async fn stalled(&self, idle: Duration) {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(idle).await;
            let now = self.0.load(Ordering::Relaxed);
            if now == seen {
                return;
            }
            seen = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn the_end_of_one_direction_leaves_the_other_open() {
        let (mut client, left) = duplex(64);
        let (right, mut server) = duplex(64);
        let copying = tokio::spawn(copy_both(left, right, IDLE_MAX));
        client.write_all(b"question").await.expect("written");
        client.shutdown().await.expect("half closed");
        let mut question = String::new();
        server.read_to_string(&mut question).await.expect("read to the end");
        assert_eq!(question, "question");
        server.write_all(b"answer").await.expect("still open");
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("read to the end");
        assert_eq!(answer, "answer");
        assert_eq!(copying.await.expect("joined").expect("copied"), (8, 6));
    }

    #[tokio::test]
    async fn everything_arrives_in_order_however_it_comes_and_buffers_grow_and_shrink() {
        let (mut client, left) = duplex(1 << 20);
        let (right, mut server) = duplex(1 << 16);
        let copying = tokio::spawn(copy_both(left, right, IDLE_MAX));
        let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[(number % 4) as usize]).collect();
        let expected = sent.clone();
        let sending = tokio::spawn(async move {
            let (bulk, drops) = sent.split_at(sent.len() - 1_000);
            client.write_all(bulk).await.expect("written");
            for byte in drops {
                client.write_u8(*byte).await.expect("written");
            }
            client.shutdown().await.expect("half closed");
            client
        });
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.expect("read to the end");
        assert!(heard == expected, "{} of {} bytes", heard.len(), expected.len());
        drop(server);
        sending.await.expect("sent");
        assert_eq!(copying.await.expect("joined").expect("copied"), (3_000_000, 0));

        let mut lane = Lane::new(Progress::default());
        let mut sizes = Vec::new();
        for filled in [BUFFER_MIN, 2 * BUFFER_MIN, BUFFER_MAX].into_iter().chain([100; 40]) {
            lane.buffer.resize(filled, 0);
            lane.fit();
            sizes.push(lane.size);
        }
        assert_eq!((sizes[1], sizes[2], sizes.last()), (BUFFER_MAX, BUFFER_MAX, Some(&BUFFER_MIN)));
        assert!(lane.buffer.capacity() < 2 * BUFFER_MIN);

        let (halved, full) = ([100; SMALL_FILLS as usize], [BUFFER_MIN, 2 * BUFFER_MIN, BUFFER_MAX]);
        for filled in full.into_iter().chain(halved).chain(full) {
            lane.buffer.resize(filled.min(lane.size), 0);
            lane.fit();
            assert!(lane.buffer.capacity() <= BUFFER_MAX, "{} for {}", lane.buffer.capacity(), lane.size);
        }
    }

    /// A source that gives something and then fails like that, both at once.
    struct Failing(&'static [u8], io::ErrorKind);

    const LAST_WORD: &[u8] = b"the last word";
    const RESET: io::ErrorKind = io::ErrorKind::ConnectionReset;

    impl AsyncRead for Failing {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match std::mem::take(&mut self.0) {
                [] => Poll::Ready(Err(self.1.into())),
                words => {
                    buf.put_slice(words);
                    Poll::Ready(Ok(()))
                }
            }
        }
    }

    #[tokio::test]
    async fn what_came_before_an_error_arrives() {
        let (mut client, left) = duplex(64);
        let mut lane = Lane::new(Progress::default());
        let (mut failing, mut left) = (pin!(Failing(LAST_WORD, RESET)), pin!(left));
        let copied = poll_fn(|cx| lane.poll(cx, failing.as_mut(), left.as_mut(), None)).await;
        assert_eq!(copied.expect("passed on"), 13);
        assert_eq!(lane.failed.expect("it is told").kind(), io::ErrorKind::ConnectionReset);
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.expect("read to the end");
        assert_eq!(heard, "the last word");
    }

    /// Takes nothing, and has an answer nevertheless, as who answers before it has read everything.
    struct Decided(tokio::io::DuplexStream);

    impl AsyncRead for Decided {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Decided {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_arrives_although_the_question_is_not_taken() {
        let (mut client, left) = duplex(64);
        let (mut server, right) = duplex(64);
        client.write_all(b"question").await.expect("written");
        let copying = tokio::spawn(copy_both(left, Decided(right), IDLE_MAX));
        tokio::task::yield_now().await;
        server.write_all(b"answer").await.expect("written");
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("read to the end");
        assert_eq!(answer, "answer");
        assert_eq!(copying.await.expect("joined").expect_err("it is told").kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test(start_paused = true)]
    async fn where_one_side_is_gone_and_the_other_stuck_it_ends_soon() {
        let (mut client, left) = duplex(1 << 10);
        let (mut server, right) = duplex(8);
        client.write_all(&[0; 512]).await.expect("written");
        // The client takes no answer any more, and the server reads nothing before it has given it.
        server.write_all(b"answer").await.expect("written");
        let begun = tokio::time::Instant::now();
        let error = copy_both(Decided(left), right, IDLE_MAX).await.expect_err("it is told");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(begun.elapsed() <= 2 * BROKEN_IDLE_MAX, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn where_one_side_is_gone_and_the_other_reads_nothing_it_ends_soon() {
        let (right, _server) = duplex(4);
        let begun = tokio::time::Instant::now();
        let left = tokio::io::join(Failing(LAST_WORD, RESET), tokio::io::sink());
        let error = copy_both(left, right, IDLE_MAX).await.expect_err("it is told");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(begun.elapsed() <= 2 * BROKEN_IDLE_MAX, "{:?}", begun.elapsed());
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let dialed = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        (dialed, listener.accept().await.expect("accepted").0)
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_between_breaks_off_ends_both_directions_at_once() {
        let (left, _client) = duplex(64);
        let begun = tokio::time::Instant::now();
        let right = tokio::io::join(Failing(LAST_WORD, io::ErrorKind::Other), tokio::io::sink());
        assert_eq!(copy_both(left, right, IDLE_MAX).await.expect_err("it is told").kind(), io::ErrorKind::Other);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    /// Never stops, and counts what was read.
    #[derive(Default)]
    struct Endless(usize);

    impl AsyncRead for Endless {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.0 += buf.remaining();
            buf.initialize_unfilled();
            buf.set_filled(buf.capacity());
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_stops_is_heard_out_as_far_as_it_may_lose_an_answer() {
        for (answer, at_least, at_most) in
            [(&b"answer"[..], LINGER_BYTES_MAX, 2 * LINGER_BYTES_MAX), (b"", 0, 2 * LINGER_BYTES_A_TURN)]
        {
            let (mut endless, mut told) = (Endless::default(), Vec::new());
            let (mut server, right) = duplex(64);
            server.write_all(answer).await.expect("written");
            drop(server);
            let begun = tokio::time::Instant::now();
            let left = tokio::io::join(&mut endless, &mut told);
            let error = copy_both(left, Decided(right), IDLE_MAX).await.expect_err("it is told");
            assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::BrokenPipe, Duration::ZERO));
            assert_eq!(told, answer);
            assert!((at_least..at_most).contains(&endless.0), "{} bytes", endless.0);
        }
    }

    #[tokio::test]
    async fn a_client_that_left_costs_no_more_than_what_was_on_its_way() {
        let ((client, left), (right, mut server)) = (pair().await, pair().await);
        let copying = tokio::spawn(copy_both(left, right, IDLE_MAX));
        let flooding = tokio::spawn(async move {
            let mut sent = 0_usize;
            while let Ok(count) = server.write(&[0; 64 * 1024]).await {
                sent += count;
            }
            sent
        });
        client.readable().await.expect("it comes");
        // With something unread, so that it is a reset.
        drop(client);
        let soon = tokio::time::timeout(BROKEN_IDLE_MAX / 2, copying).await.expect("nothing goes on for nobody");
        assert!(soon.expect("joined").is_err(), "it is told");
        let sent = flooding.await.expect("joined");
        assert!(sent < 4 * LINGER_BYTES_MAX, "{sent} bytes");
    }

    /// On real sockets: who closes one with something unread takes back what it wrote.
    #[tokio::test]
    async fn an_answer_arrives_whole_although_most_of_a_long_question_is_not_taken() {
        const LONG: usize = 4 << 20;
        // So that the server's own system has it on its way at once.
        const ANSWER: usize = 32 << 10;
        let ((mut client, left), (right, mut server)) = (pair().await, pair().await);
        let copying = tokio::spawn(copy_both(left, right, IDLE_MAX));
        let served = tokio::spawn(async move {
            server.read_exact(&mut [0; 1_000]).await.expect("the beginning");
            let answer = vec![1; ANSWER];
            server.write_all(&answer).await.expect("taken");
        });
        // It reads only once it has said everything, which the server does not want to hear.
        client.write_all(&vec![0; LONG]).await.expect("taken");
        client.shutdown().await.expect("half closed");
        let mut answer = Vec::new();
        let read = client.read_to_end(&mut answer).await;
        served.await.expect("answered");
        let _ = copying.await.expect("joined");
        assert!(read.is_ok() && answer.len() == ANSWER, "{read:?} after {} bytes", answer.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_ends_and_a_trickling_one_does_not() {
        let (mut client, left) = duplex(64);
        let (right, mut server) = duplex(64);
        let copying = tokio::spawn(copy_both(left, right, Duration::from_secs(10)));
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(8)).await;
            client.write_all(b"x").await.expect("alive");
            server.read_u8().await.expect("alive");
        }
        let error = copying.await.expect("joined").expect_err("stalled");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
