//! Relays between real sockets: bytes both ways, half-closes, resets.

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.expect("connected"), far.expect("accepted").0)
}

fn metrics() -> Metrics {
    Metrics::register(&mut prometheus_client::registry::Registry::default())
}

#[tokio::test]
async fn half_close_is_passed_on_and_the_other_direction_goes_on() {
    let (mut client, client_side) = pair().await;
    let (upstream_side, mut server) = pair().await;
    let counted = metrics();
    let counts = counted.clone();
    let relaying =
        tokio::spawn(async move { relay(client_side, Bytes::from_static(b"first "), upstream_side, &counts).await });
    client.write_all(b"question").await.expect("written");
    client.shutdown().await.expect("half closed");
    let mut question = String::new();
    server.read_to_string(&mut question).await.expect("read to the end");
    assert_eq!(question, "first question");
    server.write_all(b"answer").await.expect("still open");
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("read to the end");
    assert_eq!(answer, "answer");
    let relayed = relaying.await.expect("joined").expect("relayed");
    assert_eq!(relayed, Relayed { to_upstream: 14, to_client: 6 });
    assert_eq!(counted.passthrough.get(), 20);
}

#[tokio::test]
async fn large_transfers_arrive_whole_in_both_directions_at_once() {
    const SIZE: usize = 8 << 20;
    let pattern =
        |seed: usize| (0..SIZE).map(|i| u8::try_from((i * 31 + i / 977 + seed) % 251).expect("small")).collect();
    let (there, back): (Vec<u8>, Vec<u8>) = (pattern(1), pattern(2));
    let (client, client_side) = pair().await;
    let (upstream_side, server) = pair().await;
    let relaying = tokio::spawn(async move { relay(client_side, Bytes::new(), upstream_side, &metrics()).await });
    let talk = async |stream: TcpStream, send: &[u8]| {
        let (mut read, mut write) = stream.into_split();
        let mut received = Vec::with_capacity(SIZE);
        let writing = async {
            write.write_all(send).await.expect("written");
            write.shutdown().await.expect("half closed");
        };
        let (read, ()) = tokio::join!(read.read_to_end(&mut received), writing);
        read.expect("read to the end");
        received
    };
    let (at_client, at_server) = tokio::join!(talk(client, &back), talk(server, &there));
    assert!(at_client == there && at_server == back, "bytes were changed on the way");
    let size = SIZE as u64;
    assert_eq!(relaying.await.expect("joined").expect("relayed"), Relayed { to_upstream: size, to_client: size });
}

#[tokio::test]
async fn a_reset_ends_the_relay() {
    let (client, client_side) = pair().await;
    let (upstream_side, mut server) = pair().await;
    let relaying = tokio::spawn(async move { relay(client_side, Bytes::new(), upstream_side, &metrics()).await });
    SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).expect("set");
    drop(client);
    assert!(relaying.await.expect("joined").is_err());
    let mut rest = Vec::new();
    let _ = server.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}
