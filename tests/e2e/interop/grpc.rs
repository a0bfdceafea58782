//! gRPC's own interoperability tests (`doc/interop-test-descriptions.md` of the grpc repository), with the client and the server
//! that come with its Ruby library, which is that of C++ underneath.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use isthmus_tests::harness::Spawn;

use super::{Pair, Port, beside, installed, run};
use crate::federation::host;

const PORT: u16 = 10_000;

/// Those that need neither TLS nor an account, and that the server knows.
const CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "custom_metadata",
];

/// Runs every case against `server`.
async fn cases(ruby: &Path, server: &str, proxy: Option<SocketAddr>) {
    let env: Vec<(&str, OsString)> =
        proxy.into_iter().map(|proxy| ("http_proxy", format!("http://{proxy}").into())).collect();
    let args = [beside("grpc_client.rb").into_os_string(), server.into(), PORT.to_string().into()];
    let ended = run(ruby, args.into_iter().chain(CASES.map(OsString::from)), &env).await;
    let told = ended.told();
    let not_passed: Vec<&str> = CASES.into_iter().filter(|case| !told.contains(&format!("OK: {case}\""))).collect();
    assert!(ended.success && not_passed.is_empty(), "{server} by {proxy:?}: {not_passed:?}:\n{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_passes_its_own_interoperability_tests() {
    let Some([ruby]) = installed(["ruby"], "apt-get install ruby-grpc") else { return };
    let library = run(&ruby, ["-e", "require 'grpc'"], &[]).await;
    if !library.success {
        return eprintln!("SKIPPED: gRPC's library for Ruby is not there: apt-get install ruby-grpc");
    }
    let pair = Pair::run("interop", &[Port::new("grpc", PORT)], |directory, address| {
        let server = [beside("grpc_server.rb").into_os_string(), "--port".into(), PORT.to_string().into()];
        let server = Spawn::new("grpc-server", &ruby).args(server).env("ADDRESS", address.to_string());
        server.start(directory).expect("ruby runs")
    })
    .await;
    let name = host("interop");
    cases(&ruby, &name, Some(pair.sidecar())).await;
    cases(&ruby, &name, Some(pair.egress())).await;
    cases(&ruby, &pair.vip.to_string(), None).await;
}
