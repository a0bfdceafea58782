//! Distance is measured on paused time, exactly; faults are tried on real sockets.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::lane::Lane;
use super::pipe::carry;
use super::timer::Timer;
use super::*;
use crate::harness::{Loopback, wait_until};

const SOON: Duration = Duration::from_secs(5);
/// Tokio's timer wakes at the next whole millisecond.
const TICK: Duration = Duration::from_millis(1);
const DUPLEX_LEN: usize = 64 * 1024;

/// A pipe through a lane of this shape, in memory.
fn pipe(shape: Shape, seed: u64) -> (DuplexStream, DuplexStream, std::sync::Arc<Lane>, JoinHandle<io::Result<()>>) {
    let lane = std::sync::Arc::new(Lane::new(seed));
    lane.set_shape(shape);
    let ((near, source), (sink, far)) = (duplex(DUPLEX_LEN), duplex(DUPLEX_LEN));
    let carried = lane.clone();
    let carrying = tokio::spawn(async move { carry(&carried, source, sink, Timer::Whole).await });
    (near, far, lane, carrying)
}

async fn arrival_times(shape: Shape, seed: u64, count: u8) -> Vec<Duration> {
    let (mut near, mut far, _lane, _carrying) = pipe(shape, seed);
    let start = Instant::now();
    let mut times = Vec::new();
    for number in 0..count {
        near.write_all(&[number]).await.expect("the pipe is open");
        assert_eq!(far.read_u8().await.expect("the pipe is open"), number);
        times.push(start.elapsed());
    }
    times
}

#[tokio::test(start_paused = true)]
async fn delay_is_added_once_per_direction() {
    let shape = Shape { delay: Duration::from_millis(80), ..Shape::default() };
    let times = arrival_times(shape, 0, 2).await;
    assert!((80..=81).contains(&times[0].as_millis()), "{times:?}");
    assert!((160..=162).contains(&times[1].as_millis()), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn delay_is_not_added_per_chunk() {
    let shape = Shape { delay: Duration::from_millis(100), ..Shape::default() };
    let (mut near, mut far, lane, carrying) = pipe(shape, 0);
    let start = Instant::now();
    let sent = tokio::spawn(async move {
        near.write_all(&vec![7; 1 << 20]).await.expect("the pipe is open");
    });
    let mut received = Vec::new();
    far.read_to_end(&mut received).await.expect("the end comes through");
    assert_eq!(received.len(), 1 << 20);
    assert!(start.elapsed() <= Duration::from_millis(100) + TICK, "{:?}", start.elapsed());
    assert_eq!(lane.carried(), 1 << 20);
    sent.await.expect("everything was sent");
    assert!(carrying.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn bandwidth_is_shared_by_all_connections_of_a_direction() {
    let shape = Shape { bandwidth: Some(1_000_000), ..Shape::default() };
    let lane = Lane::new(0);
    lane.set_shape(shape);
    let start = Instant::now();
    let arrivals: Vec<Duration> = (0..4).map(|_| lane.arrival(50_000) - start).collect();
    assert_eq!(arrivals, [50, 100, 150, 200].map(Duration::from_millis));
}

#[tokio::test(start_paused = true)]
async fn jitter_repeats_with_its_seed_and_stays_in_its_bound() {
    let shape = Shape { delay: TICK, jitter: Duration::from_millis(50), ..Shape::default() };
    let (once, again, other) =
        (arrival_times(shape, 1, 20).await, arrival_times(shape, 1, 20).await, arrival_times(shape, 2, 20).await);
    assert_eq!(once, again);
    assert_ne!(once, other);
    assert!(*once.last().expect("twenty") < 20 * (Duration::from_millis(51) + TICK));
}

#[tokio::test(start_paused = true)]
async fn jitter_keeps_the_order_of_a_stream() {
    let shape = Shape { jitter: Duration::from_millis(50), ..Shape::default() };
    let (mut near, mut far, _lane, _carrying) = pipe(shape, 3);
    let writing = async {
        for number in 0..100 {
            near.write_all(&[number]).await.expect("the pipe is open");
            tokio::task::yield_now().await;
        }
        near.shutdown().await.expect("the pipe is open");
    };
    let mut received = Vec::new();
    let (_, read) = tokio::join!(writing, far.read_to_end(&mut received));
    read.expect("the end comes through");
    assert_eq!(received, (0..100).collect::<Vec<u8>>());
}

#[tokio::test(start_paused = true)]
async fn what_is_on_the_wire_is_bounded() {
    let shape = Shape { delay: Duration::from_secs(3_600), ..Shape::default() };
    let (mut near, _far, _lane, _carrying) = pipe(shape, 0);
    let mut sent = 0_usize;
    while let Ok(len) = timeout(Duration::from_secs(1), near.write(&[0; 8_192])).await {
        sent += len.expect("the pipe is open");
    }
    assert!(sent <= 256 * 16 * 1_024 + 2 * DUPLEX_LEN, "{sent}");
}

#[tokio::test(start_paused = true)]
async fn a_stall_loses_nothing() {
    let (mut near, mut far, lane, _carrying) = pipe(Shape::default(), 0);
    lane.set_fault(Fault::Stall);
    near.write_all(b"held").await.expect("the pipe is open");
    assert!(timeout(Duration::from_secs(60), far.read_u8()).await.is_err());
    lane.set_fault(Fault::None);
    let mut held = [0; 4];
    far.read_exact(&mut held).await.expect("the pipe is open");
    assert_eq!(&held, b"held");
}

#[tokio::test(start_paused = true)]
async fn a_blackhole_takes_everything_and_its_streams_do_not_survive_it() {
    let (mut near, mut far, lane, carrying) = pipe(Shape::default(), 0);
    lane.set_fault(Fault::Blackhole);
    near.write_all(&vec![0; 10 * DUPLEX_LEN]).await.expect("a blackhole never pushes back");
    assert!(timeout(Duration::from_secs(60), far.read_u8()).await.is_err());
    lane.set_fault(Fault::None);
    let ended = carrying.await.expect("no panic").expect_err("a stream with a hole");
    assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(lane.carried(), 0);
}

/// Sends everything back until the end. Ends with the test.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
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

/// A link to an echo server. Its address is its own, also while the link is cut, as long as the block lives.
async fn link() -> (Link, Loopback) {
    let block = Loopback::block();
    let link = Link::start(block.address(1, 15_443), echo_server().await).await.expect("a free address");
    (link, block)
}

async fn echo(stream: &mut TcpStream, text: &[u8]) -> io::Result<()> {
    stream.write_all(text).await?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await?;
    assert_eq!(back, text);
    Ok(())
}

async fn dial(link: &Link) -> io::Result<TcpStream> {
    TcpStream::connect(link.address()).await
}

async fn kind_of_end(stream: &mut TcpStream) -> io::ErrorKind {
    let ended = timeout(SOON, stream.read_u8()).await.expect("the connection ends");
    ended.expect_err("no byte comes").kind()
}

#[tokio::test]
async fn a_link_carries_both_ways_counts_and_passes_the_end_on() {
    let (link, _block) = link().await;
    let mut stream = dial(&link).await.expect("listening");
    echo(&mut stream, b"hello").await.expect("passes");
    assert_eq!((link.carried(Direction::Forward), link.carried(Direction::Backward)), (5, 5));
    stream.shutdown().await.expect("open");
    assert_eq!(kind_of_end(&mut stream).await, io::ErrorKind::UnexpectedEof, "an orderly end, no reset");
    let gone = timeout(SOON, async { link.connections().wait_for(|count| *count == 0).await.is_ok() }).await;
    assert_eq!(gone, Ok(true));
}

#[tokio::test]
async fn a_real_round_trip_takes_twice_the_delay() {
    let (link, _block) = link().await;
    let one_way = Duration::from_millis(20);
    link.delay(one_way);
    let mut stream = dial(&link).await.expect("listening");
    let start = Instant::now();
    echo(&mut stream, b"hello").await.expect("passes");
    assert!(start.elapsed() >= 4 * one_way, "the handshake's round trip comes first: {:?}", start.elapsed());
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        echo(&mut stream, b"again").await.expect("passes");
        quickest = quickest.min(start.elapsed());
    }
    assert!((2 * one_way..4 * one_way).contains(&quickest), "{quickest:?}");
}

#[tokio::test]
async fn a_cut_resets_and_refuses_until_it_heals() {
    let (link, _block) = link().await;
    let mut stream = dial(&link).await.expect("listening");
    echo(&mut stream, b"hello").await.expect("passes");
    link.cut().await;
    assert_eq!(kind_of_end(&mut stream).await, io::ErrorKind::ConnectionReset);
    assert_eq!(dial(&link).await.expect_err("refused").kind(), io::ErrorKind::ConnectionRefused);
    link.heal().await.expect("the address is still ours");
    echo(&mut dial(&link).await.expect("listening again"), b"again").await.expect("passes");
}

#[tokio::test]
async fn a_blackhole_accepts_and_is_silent_and_then_resets() {
    let (link, _block) = link().await;
    let mut old = dial(&link).await.expect("listening");
    echo(&mut old, b"hello").await.expect("passes");
    link.blackhole();
    let mut new = dial(&link).await.expect("still accepts");
    old.write_all(b"into the void").await.expect("takes it");
    new.write_all(b"into the void").await.expect("takes it");
    // Both are known to the relay before it heals.
    let both = timeout(SOON, async { link.connections().wait_for(|count| *count == 2).await.is_ok() }).await;
    assert_eq!(both, Ok(true));
    link.heal().await.expect("was not cut");
    for mut stream in [old, new] {
        assert_eq!(kind_of_end(&mut stream).await, io::ErrorKind::ConnectionReset);
    }
    assert_eq!(link.carried(Direction::Forward), 5);
    echo(&mut dial(&link).await.expect("listening"), b"again").await.expect("passes");
}

#[tokio::test]
async fn a_one_way_stall_lets_the_other_way_pass() {
    let (link, _block) = link().await;
    let mut stream = dial(&link).await.expect("listening");
    echo(&mut stream, b"hello").await.expect("passes");
    link.fault(Direction::Backward, Fault::Stall);
    stream.write_all(b"there").await.expect("open");
    wait_until(SOON, "the request to get there", async || link.carried(Direction::Forward) == 10).await;
    assert_eq!(link.carried(Direction::Backward), 5);
    link.heal().await.expect("was not cut");
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.expect("nothing was lost");
    assert_eq!(&back, b"there");
}

#[tokio::test]
async fn a_mesh_has_a_link_for_every_ordered_pair_and_parts_as_told() {
    let block = Loopback::block();
    let mut sites = Vec::new();
    for name in ["us-east", "us-west", "eu-central"] {
        sites.push(Site { name: name.to_owned(), east_west: echo_server().await });
    }
    let wan = Wan::mesh(&sites, &block, 1).await.expect("free addresses");
    assert_eq!(wan.links().count(), 6);
    for (from, to, link) in wan.links() {
        let mut stream = dial(link).await.expect("listening");
        echo(&mut stream, format!("{from} to {to}").as_bytes()).await.expect("passes");
    }
    wan.isolate("eu-central").await;
    assert!(dial(wan.link("us-east", "eu-central")).await.is_err());
    assert!(dial(wan.link("eu-central", "us-west")).await.is_err());
    let mut between = dial(wan.link("us-east", "us-west")).await.expect("not cut");
    echo(&mut between, b"still here").await.expect("passes");

    wan.heal().await.expect("the addresses are still ours");
    wan.partition(&["us-east", "eu-central"]);
    let mut across = dial(wan.link("us-east", "us-west")).await.expect("a blackhole accepts");
    across.write_all(b"anyone?").await.expect("a blackhole takes everything");
    let mut within = dial(wan.link("us-east", "eu-central")).await.expect("same side");
    echo(&mut within, b"hello").await.expect("passes");
    wan.heal().await.expect("nothing was cut");
    assert_eq!(kind_of_end(&mut across).await, io::ErrorKind::ConnectionReset);
}
