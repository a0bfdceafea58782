//! WebSocket with the `websockets` library of Python at both ends.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use isthmus_tests::harness::{Spawn, wait_until};

use super::{Pair, Port, beside, run, url};
use crate::federation::{SOON, host};

const SERVICE: &str = "talk";
const PORT: u16 = 9080;
/// What the client tells when it is through.
const THROUGH: &str = "all as it should be";

/// The interpreter of the environment in which `.ci/run` installs the library.
fn interpreter() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is within the target directory");
    target.join("interop/bin/python")
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_are_joined_as_if_there_were_nothing_between() {
    let python = interpreter();
    if !python.is_file() {
        let (at, install) = (python.display(), "python3 -m venv target/interop, then its pip install websockets");
        return eprintln!("SKIPPED: {at} is not there: {install}");
    }
    let pair = Pair::run(SERVICE, &[Port::new("http", PORT)], |directory, address| {
        let args =
            [beside("websocket_server.py").into_os_string(), address.to_string().into(), PORT.to_string().into()];
        Spawn::new("websocket", &python).args(args).start(directory).expect("Python runs")
    })
    .await;
    let by_proxy = |proxy| vec![url(SERVICE, PORT, "").replace("http:", "ws:"), format!("--proxy=http://{proxy}")];
    let at_address = vec![format!("ws://{}:{PORT}", host(SERVICE)), format!("--host={}", pair.vip)];
    let ways = [by_proxy(pair.sidecar()), by_proxy(pair.egress()), at_address];
    for way in &ways {
        let args = [beside("websocket_client.py").into_os_string()].into_iter().chain(way.iter().map(OsString::from));
        let ended = run(&python, args, &[]).await;
        assert!(ended.success && ended.told().contains(THROUGH), "{way:?}: {}", ended.told());
    }
    // The server heard how each client ended its connections.
    let heard = async || pair.server.stdout().matches("closed with 4002: enough").count() == ways.len();
    wait_until(SOON, "the server to hear why connections were closed", heard).await;
}
