//! A machine that has no more to give: file descriptors, and messages that ask for more memory than there is.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use isthmus_tests::harness::wait_until;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::federation::{Cluster, SOON, host, port, resident, start};
use crate::workload::{HTTP, Workload, answers_from};

/// File descriptors that a gateway has left at first.
const LEFT: usize = 20;
/// Connections that take them all, and wait for more.
const CONNECTIONS: usize = 200;

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

/// Lets a process have so many file descriptors, where it had more.
fn limit(pid: u32, count: usize) -> Rlimit {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id");
    let maximum = getrlimit(Resource::Nofile).maximum;
    let new = Rlimit { current: Some(count as u64), maximum };
    prlimit(Some(pid), Resource::Nofile, new).expect("it is the test's own process")
}

/// Asks once more on a connection that is open.
async fn ask(connection: &mut TcpStream, service: &str) -> String {
    let name = host(service);
    let request = format!("GET http://{name}:{HTTP}/ HTTP/1.1\r\nhost: {name}:{HTTP}\r\n\r\n");
    connection.write_all(request.as_bytes()).await.expect("it is open");
    let mut head = [0; 1024];
    let len = timeout(SOON, connection.read(&mut head)).await.expect("an answer").expect("an answer");
    String::from_utf8_lossy(&head[..len]).into_owned()
}

async fn crowd(address: SocketAddr) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for _ in 0..CONNECTIONS {
        // The kernel takes them until the backlog is full, whether the gateway does or not.
        if let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
            crowd.push(stream);
        }
    }
    crowd
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_file_descriptors_serves_whom_it_has_and_recovers() {
    let [mut east] = start(["us-east"]).await;
    let _reviews = Workload::exported(&east, "reviews", 20).await;
    answers_from(east.at(port::EGRESS), "reviews", "us-east").await;
    let pid = east.process().pid().expect("it runs");
    let mut before = TcpStream::connect(east.at(port::EGRESS)).await.expect("it listens");
    assert!(ask(&mut before, "reviews").await.starts_with("HTTP/1.1 200"));

    // A crowd takes what is left, and stays.
    let most = descriptors(pid) + LEFT;
    let had = limit(pid, most);
    let crowd = crowd(east.at(port::EGRESS)).await;
    wait_until(SOON, "the last descriptor to be taken", async || descriptors(pid) >= most).await;
    println!("{} connections were opened; the gateway has {} descriptors", crowd.len(), descriptors(pid));
    // Who was there before goes on, without a new connection for it.
    assert!(ask(&mut before, "reviews").await.starts_with("HTTP/1.1 200"));

    // It goes, and all is as before: connections, the registry's disk, its own state.
    drop(crowd);
    wait_until(SOON, "the admin socket to answer", async || east.cli(["status"]).await.status.success()).await;
    east.token("--workload", "shop/reviews", "1h").await;
    answers_from(east.at(port::EGRESS), "reviews", "us-east").await;
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("a process id");
    prlimit(Some(pid), Resource::Nofile, had).expect("as it was");
}

/// HTTP/2 with prior knowledge, and then a gRPC message of 4 GiB that does not come.
async fn announce_too_much(address: SocketAddr) {
    let mut connection = TcpStream::connect(address).await.expect("it listens");
    // It ends as the gateway likes: what matters is what that costs.
    let _ = connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let _ = connection.write_all(b"\xff\xff\xff\x00\0\0\0\0\x01").await;
    let _ = timeout(Duration::from_secs(5), connection.read(&mut [0; 64])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_announces_more_than_there_is_costs_nothing() {
    let [mut east]: [Cluster; 1] = start(["us-east"]).await;
    let pid = east.process().pid().expect("it runs");
    let before = resident(pid);
    for port in [port::EGRESS, port::ADMIN, port::METRICS, port::READINESS] {
        announce_too_much(east.at(port)).await;
        // A body of a terabyte.
        let mut connection = TcpStream::connect(east.at(port)).await.expect("it listens");
        let _ = connection
            .write_all(b"POST /v1/tokens HTTP/1.1\r\nhost: x\r\ncontent-length: 1099511627776\r\n\r\n{")
            .await;
        let _ = timeout(Duration::from_secs(5), connection.read(&mut [0; 64])).await;
    }
    let after = resident(pid);
    println!("{} KiB before, {} KiB after", before >> 10, after >> 10);
    assert!(after < before + (16 << 20), "grew from {before} to {after}");
    assert!(east.cli(["status"]).await.status.success());
}
