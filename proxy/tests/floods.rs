//! Too much of what each by itself is allowed, on every listener of the data plane that takes HTTP/2: the connection ends or stalls,
//! little of it reaches the application, memory stays flat, and who was there before is served on. So is what only announces too much.
//! One test, because the memory is the process's.

#![allow(missing_docs)]

mod federation;
mod surfaces;

use std::time::{Duration, Instant};

use federation::{get, status};
use isthmus_tests::harness::{peak, resident};
use isthmus_tests::hostile::frames::{END_HEADERS, END_STREAM, HEADERS, Outcome, Peer, WINDOW_UPDATE, frame, request};
use isthmus_tests::hostile::http2::{self, Flood};
use isthmus_tests::hostile::{Recorder, Request, grpc};
use surfaces::{Surfaces, Way, authority};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Requests of one flood that may reach the application: some begin before they are too many.
const REACHED_MAX: usize = 2_000;
/// How long one flood may keep anybody busy. Each is megabytes of frames, and this is not a release build.
const OVER_WITHIN: Duration = Duration::from_secs(30);
/// How long a flood that need not end goes on: many times what the sockets' buffers hold.
const LASTS: Duration = Duration::from_secs(1);
/// How much the process may grow by one flood: its buffers on both ends, and what the allocator keeps.
const GROWTH_MAX: u64 = 48 << 20;
/// The same by a message that announces up to 4 GiB, or would unpack to as much.
const ANNOUNCED_MAX: u64 = 8 << 20;
/// Streams that a connection may have.
const STREAMS: u32 = 256;
/// The same by a client that opens all the streams that it may and reads none of them: a window and a buffer for each at the listener
/// (1 MiB and 64 KiB), and a buffer at the data plane from which it comes (256 KiB), which is in this process too.
const UNREAD_MAX: u64 = STREAMS as u64 * (1344 << 10) + GROWTH_MAX;
/// Requests of a bystander meanwhile.
const MEANWHILE: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn floods_cost_little_and_disturb_nobody() {
    let surfaces = Surfaces::start().await;
    let floods = http2::floods("/", &authority());
    // What is detected is served as at the ways beside it, but for HTTP/2 within HTTP/2.
    for way in Way::all().filter(|way| !way.detects() || *way == Way::WithinTunnel) {
        for flood in &floods {
            flooded(&surfaces, way, flood).await;
        }
    }
    for way in Way::all() {
        announced(&surfaces, way).await;
    }
    // There the application would have to speak HTTP/2 too.
    for way in Way::all().filter(|way| !way.detects()) {
        unread(&surfaces, way).await;
    }
}

async fn flooded(surfaces: &Surfaces, way: Way, Flood { what, frames, ends }: &Flood) {
    let mut bystander = surfaces.bystander(way).await;
    assert!(bystander.is_served().await);
    drop(surfaces.recorder.take());
    let (before, began) = (resident(std::process::id()), Instant::now());
    let flooding = async {
        let mut peer = surfaces.peer(way).await;
        if *ends {
            peer.send(frames).await;
            return peer.outcome(u32::MAX).await;
        }
        // Without reading, until nothing more is taken.
        let sending = async { while peer.send(frames).await {} };
        let _ = timeout(LASTS, sending).await;
        assert!(bystander.is_served().await, "{what} at {way:?}: the bystander, while it is there");
        Outcome::Silence
    };
    let (outcome, most) = peak(std::process::id(), flooding).await;
    let (grown, took, reached) = (most.saturating_sub(before), began.elapsed(), surfaces.recorder.take().len());
    println!(
        "{what} at {way:?}: {outcome:?} after {took:?}, {reached} requests reached the application, {} KiB",
        grown >> 10
    );
    // Some are errors of the whole connection before they are too many.
    assert!(!ends || matches!(outcome, Outcome::GoAway(_) | Outcome::Closed), "{what} at {way:?}: {outcome:?}");
    assert!(reached < REACHED_MAX, "{what} at {way:?}: {reached} reached the application");
    assert!(grown < GROWTH_MAX, "{what} at {way:?}: grew by {grown}");
    assert!(took < OVER_WITHIN, "{what} at {way:?}: {took:?}");
    assert!(bystander.is_served().await, "{what} at {way:?}: the bystander");
    assert_eq!(status(&get(surfaces.east.address, "/").await), "200", "{what} at {way:?}");
}

/// Row 8: messages of gRPC are the service's to read. Nobody on the way looks at what they announce: they arrive as they are.
async fn announced(surfaces: &Surfaces, way: Way) {
    let mut bystander = surfaces.bystander(way).await;
    for message in &grpc::MESSAGES {
        assert!(bystander.is_served().await);
        drop(surfaces.recorder.take());
        let before = resident(std::process::id());
        let (status, most) = peak(std::process::id(), call(surfaces, way, message)).await;
        let heard = surfaces.recorder.take();
        let told = format!("{} at {way:?}: {status}, {heard:?}", message.what);
        let as_it_is = |call: &Request| call.body == message.bytes && call.says(grpc::CONTENT_TYPE);
        assert!(status == 200 && heard.len() == 1 && heard.iter().all(as_it_is), "{told}");
        let grown = most.saturating_sub(before);
        assert!(grown < ANNOUNCED_MAX, "{told}: grew by {grown}");
        assert!(bystander.is_served().await, "{told}: the bystander");
    }
}

/// The status that a call with that message is answered with, or 0.
async fn call(surfaces: &Surfaces, way: Way, message: &grpc::Message) -> u16 {
    // There the application would have to speak HTTP/2 too.
    if !way.detects() {
        let mut peer = surfaces.peer(way).await;
        peer.send(&message.in_http2("/", &authority())).await;
        return match peer.outcome(1).await {
            Outcome::Answered(status) => status,
            _ => 0,
        };
    }
    let mut stream = surfaces.open(way).await;
    stream.write_all(&message.in_http1("/", &authority())).await.expect("written");
    let mut answer = Vec::new();
    timeout(OVER_WITHIN, stream.read_to_end(&mut answer)).await.expect("an end in time").expect("an end");
    status(&String::from_utf8_lossy(&answer)).parse().unwrap_or(0)
}

/// A connection with windows as large as they may be, and as many large answers as it may ask for, which are not read.
async fn unread(surfaces: &Surfaces, way: Way) {
    let mut bystander = surfaces.bystander(way).await;
    let (before, began) = (resident(std::process::id()), Instant::now());
    let holding = async {
        // SETTINGS_INITIAL_WINDOW_SIZE, then the connection's.
        let mut peer = Peer::open_with(surfaces.open(way).await, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).await;
        peer.send(&frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes())).await;
        let block = request("GET", Recorder::LARGE_TARGET, &authority());
        // There one source has as many requests as one connection, and the bystander is of the same.
        let others = u32::from(way.is_edge());
        for number in 0..STREAMS - others {
            peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &block)).await;
        }
        for _ in 0..MEANWHILE {
            let served = timeout(OVER_WITHIN, bystander.is_served()).await;
            assert!(served.is_ok_and(|served| served), "{way:?}: the bystander");
        }
        peer
    };
    let (peer, most) = peak(std::process::id(), holding).await;
    let (grown, took) = (most.saturating_sub(before), began.elapsed());
    println!("unread at {way:?}: {} MiB, {took:?}", grown >> 20);
    assert!(grown < UNREAD_MAX, "{way:?}: grew by {grown}");
    assert!(took < OVER_WITHIN, "{way:?}: {took:?}");
    drop(peer);
}
