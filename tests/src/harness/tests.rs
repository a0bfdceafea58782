//! The harness over small shell processes and a hand-made server.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::*;

const SOON: Duration = Duration::from_secs(5);

fn shell(script: &str, directory: &Path) -> Process {
    Spawn::new("shell", Path::new("/bin/sh"))
        .args(["-c", script])
        .env("GREETING", "hello")
        .start(directory)
        .expect("a shell runs")
}

/// The state letter of a process (proc_pid_stat(5)); `None` when there is no such process.
fn state(pid: &str) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[tokio::test]
async fn output_is_kept_and_the_end_is_seen() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut process = shell("echo $GREETING; echo oops >&2; exit 3", directory.path());
    assert_eq!(process.wait(SOON).await.code(), Some(3));
    assert_eq!((process.stdout().as_str(), process.stderr().as_str()), ("hello\n", "oops\n"));
    assert_eq!(process.pid(), None);
    assert!(process.pause().is_err(), "the id may be somebody else's by now");
}

#[tokio::test]
async fn processes_freeze_go_on_and_die_when_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut process = shell("echo up; exec sleep 1000", directory.path());
    process.wait_for_output(SOON, "up").await;
    let pid = process.pid().expect("running").to_string();
    process.pause().expect("running");
    wait_until(SOON, "it to stop", async || state(&pid) == Some('T')).await;
    process.resume().expect("stopped");
    wait_until(SOON, "it to go on", async || state(&pid) == Some('S')).await;
    assert_eq!(process.kill9().await.expect("running").signal(), Some(9));
}

#[tokio::test]
async fn dropping_a_process_takes_its_children_along() {
    let directory = tempfile::tempdir().expect("a directory");
    let process = shell("sleep 1000 & echo child $! up; wait", directory.path());
    process.wait_for_output(SOON, "up").await;
    let child = process.stdout().split(' ').nth(1).expect("an id").to_owned();
    assert!(state(&child).is_some());
    drop(process);
    wait_until(SOON, "the child to be gone", async || matches!(state(&child), None | Some('Z'))).await;
}

#[test]
fn a_missing_binary_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let error = Spawn::new("nothing", Path::new("/nonexistent/binary")).start(directory.path());
    assert!(error.expect_err("no such file").to_string().contains("/nonexistent/binary"));
}

#[test]
fn blocks_are_distinct_and_clear_of_the_demo() {
    let blocks: Vec<Loopback> = (0..20).map(|_| Loopback::block()).collect();
    let mut names: Vec<String> = blocks.iter().map(Loopback::cidr).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 20);
    assert!(blocks.iter().all(|block| block.ip(1).octets()[1] >= 128));
    assert_eq!(blocks[0].fresh().octets()[3], 254);
    assert_eq!(blocks[0].fresh().octets()[3], 253);
    assert_eq!(blocks[0].address(21, 9080).port(), 9080);
}

#[tokio::test]
#[should_panic(expected = "in vain for the impossible")]
async fn waiting_in_vain_says_for_what() {
    wait_until(Duration::from_millis(30), "the impossible", async || std::future::pending().await).await;
}

/// Answers every request with the bytes of its header.
async fn serve<S: AsyncReadExt + AsyncWriteExt + Unpin>(mut stream: S) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.expect("a request"));
    }
    let head = format!("HTTP/1.1 200 OK\r\nX-Len: {}\r\nContent-Length: {}\r\n\r\n", request.len(), request.len());
    stream.write_all(head.as_bytes()).await.expect("the client reads");
    stream.write_all(&request).await.expect("the client reads");
}

#[tokio::test]
async fn requests_are_what_they_say() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serve(stream).await;
        }
    });
    let direct = http::get_as(address, "reviews", "/x").await.expect("an answer");
    assert!(direct.body.starts_with("GET /x HTTP/1.1\r\nHost: reviews\r\n"), "{}", direct.body);
    assert_eq!(direct.field("x-len").map(str::to_owned), Some(direct.body.len().to_string()));
    let proxied = http::get_via_proxy(address, "http://reviews:9080/x").await.expect("an answer");
    assert!(proxied.body.starts_with("GET http://reviews:9080/x HTTP/1.1\r\nHost: reviews:9080\r\n"));
    let mut tunnel = http::connect_via_proxy(address, "ratings:3306").await.expect("an answer of 200");
    let mut echoed = [0; 20];
    tunnel.read_exact(&mut echoed).await.expect("the tunnel's first bytes are not eaten");
    assert_eq!(&echoed, b"CONNECT ratings:3306");
}

#[tokio::test]
async fn unix_sockets_are_asked_alike() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("admin.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let server = tokio::spawn(async move { serve(listener.accept().await.expect("a client").0).await });
    let answer = http::request_unix(&path, "POST", "/tokens", "").await.expect("an answer");
    assert_eq!(answer.status, 200);
    assert!(answer.body.starts_with("POST /tokens HTTP/1.1\r\n"));
    server.await.expect("no panic");
}
