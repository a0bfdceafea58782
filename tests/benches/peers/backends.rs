//! What is behind the proxies: the same for all of them, and not measured.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use isthmus_tests::harness::{Process, Spawn};

use super::config::write;
use super::installed::Programs;
use super::load::h2load::MESSAGE;
use super::peer::listening;
use super::stage::{GRPC, HTTP, Stage, TLS, hosts};

/// What is answered to a GET.
pub(crate) const BODY: &str = "All that is asked for here is answered with this one short line.";

/// The path of a call: the backend answers it from a file of that name.
pub(crate) const CALL: &str = "/greet.Greeter/Greet";

/// nginx: small answers over HTTP for the applications with and without a sidecar, files over TLS.
///
/// # Errors
/// When it is not installed or does not start.
pub(crate) async fn nginx(stage: &Stage, programs: &Programs) -> io::Result<Process> {
    let http = [hosts::SERVER, hosts::PLAIN].map(|host| stage.at(host, HTTP));
    let listen = http.map(|address| format!("listen {address};")).join(" ");
    let tls = stage.at(hosts::PLAIN, TLS);
    let values = [("LISTEN", listen), ("TLS", tls.to_string()), ("BODY", BODY.to_owned())];
    fs::create_dir_all(stage.directory().join("files"))?;
    let template = include_str!("config/backend-nginx.conf");
    let addresses = [http[0], http[1], tls];
    start_nginx(stage, programs.nginx.needed()?, "backend", template, &values, &addresses).await
}

/// Starts an nginx whose configuration is `template`, and waits until it listens.
pub(crate) async fn start_nginx(
    stage: &Stage,
    nginx: &Path,
    name: &str,
    template: &str,
    values: &[(&str, String)],
    addresses: &[SocketAddr],
) -> io::Result<Process> {
    let (directory, file) = (stage.directory(), format!("{name}.conf"));
    write(directory, &file, template, values)?;
    let prefix = directory.to_string_lossy().into_owned();
    let process = Spawn::new(name, nginx).args(["-p", &prefix, "-c", &file, "-e", "stderr"]).start(directory)?;
    for address in addresses {
        listening(&process, *address).await?;
    }
    Ok(process)
}

/// nghttpd: a message and the trailers of gRPC, over HTTP/2 in the clear.
///
/// # Errors
/// When it is not installed or does not start.
pub(crate) async fn nghttpd(stage: &Stage, programs: &Programs) -> io::Result<Process> {
    let file = stage.directory().join("files").join(CALL.trim_start_matches('/'));
    fs::create_dir_all(file.parent().unwrap_or(&file))?;
    fs::write(&file, MESSAGE)?;
    let at = stage.at(hosts::SERVER, GRPC);
    let (address, port) = (format!("--address={}", at.ip()), at.port().to_string());
    let args = ["--no-tls", "-d", "files", "--trailer", "grpc-status: 0", &address, &port];
    let process = Spawn::new("nghttpd", programs.nghttpd.needed()?).args(args).start(stage.directory())?;
    listening(&process, at).await?;
    Ok(process)
}
