//! Clients that do harm, and others beside them on the same sessions, who must not notice.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;
use std::time::Duration;

use federation::{ANY_PORT, Federation, HOST, HTTP, echo, get, read_head, remote, reviews, status};
use isthmus_model::locality::Proximity::OtherRegion;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// More than any buffer on the way.
const LARGE: usize = 16 << 20;
/// Clients that ask for that and do not read it.
const STALLED: usize = 24;
const SOON: Duration = Duration::from_secs(10);

/// An application whose `/large` is large.
async fn app() -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        let length = if line.starts_with("GET /large") { LARGE } else { 2 };
        while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
        let stream = lines.get_mut();
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await?;
        stream.write_all(&vec![b'x'; length]).await?;
    }
    Ok(())
}

/// Row 5 of what peers will throw at it.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_stall_nobody_else() {
    let federation = Federation::found(&["us-east", "us-west"]);
    let west = federation.workload("us-west", app().await, echo().await).await;
    let gateway = federation::splicing_gateway(west.address).await;
    let east = federation.outbound("us-east", reviews(vec![], vec![remote("us-west", OtherRegion, gateway)])).await;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let mut stream = TcpStream::connect(east.address).await.expect("connected");
        let request = format!("GET http://{HOST}:{HTTP}/large HTTP/1.1\r\nHost: {HOST}:{HTTP}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        assert_eq!(status(&read_head(&mut stream).await), "200");
        stalled.push(stream);
    }
    for _ in 0..STALLED {
        let answer = timeout(SOON, get(east.address, "/small")).await.expect("not stalled");
        assert_eq!(status(&answer), "200", "{answer}");
    }
}
