//! The others, each set up as its manual would have it for the purpose, with one worker and no log of what it does.

use std::io;
use std::path::Path;

use isthmus_tests::harness::{Process, Spawn};

use super::backends::start_nginx;
use super::config::write;
use super::installed::Programs;
use super::isthmus::tls_sni;
use super::peer::{Peer, listening};
use super::stage::{ECHO, FLOOD, GRPC, HTTP, PEER, Stage, TLS, hosts};
use super::trust::{envoy_client, envoy_server};

/// What a row of Envoy's is called.
pub(crate) const ENVOY: &str = "Envoy";
/// HAProxy's.
pub(crate) const HAPROXY: &str = "HAProxy";
/// The same where it moves bytes by `splice`, which it does not by default.
pub(crate) const HAPROXY_SPLICE: &str = "HAProxy, option splice-response";
/// nginx's.
pub(crate) const NGINX: &str = "nginx";
/// Where Debian has nginx's module for TCP; elsewhere it is part of the program.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Envoy with one worker.
async fn envoy(
    stage: &Stage,
    envoy: &Path,
    host: u8,
    template: &str,
    values: &[(&str, String)],
) -> io::Result<Process> {
    let name = format!("envoy-{host}");
    let file = format!("{name}.yaml");
    let own = [("IP", stage.ip(host).to_string()), ("PORT", PEER.to_string())];
    write(stage.directory(), &file, template, &[&own, values].concat())?;
    let args = ["-c", &file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"];
    Spawn::new(&name, envoy).args(args).start(stage.directory())
}

/// One Envoy, HTTP in and out.
pub(crate) async fn envoy_hop(stage: &Stage, programs: &Programs) -> io::Result<Option<Peer>> {
    let Some(program) = programs.envoy.found() else { return Ok(None) };
    let values = [("BACKEND_IP", stage.ip(hosts::PLAIN).to_string()), ("BACKEND_PORT", HTTP.to_string())];
    let process = envoy(stage, program, hosts::ENVOY, include_str!("config/envoy-hop.yaml"), &values).await?;
    let at = stage.at(hosts::ENVOY, PEER);
    listening(&process, at).await?;
    Ok(Some(Peer::new(ENVOY, at, vec![process])))
}

/// What the application behind a pair speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

/// Two Envoys with HTTP/2 over mutual TLS between them.
pub(crate) async fn envoy_pair(stage: &Stage, programs: &Programs, speaks: Speaks) -> io::Result<Option<Peer>> {
    let Some(program) = programs.envoy.found() else { return Ok(None) };
    let (protocol, port) = match speaks {
        Speaks::Http1 => ("{http_protocol_options: {}}", HTTP),
        Speaks::Http2 => ("{http2_protocol_options: {}}", GRPC),
    };
    let values = [
        ("SERVER_TLS", envoy_server()),
        ("BACKEND_PROTOCOL", protocol.to_owned()),
        ("BACKEND_IP", stage.ip(hosts::SERVER).to_string()),
        ("BACKEND_PORT", port.to_string()),
    ];
    let server = envoy(stage, program, hosts::ENVOY_SERVER, include_str!("config/envoy-server.yaml"), &values).await?;
    listening(&server, stage.at(hosts::ENVOY_SERVER, PEER)).await?;
    let values = between(stage);
    let client = envoy(stage, program, hosts::ENVOY, include_str!("config/envoy-client.yaml"), &values).await?;
    let at = stage.at(hosts::ENVOY, PEER);
    listening(&client, at).await?;
    Ok(Some(Peer::new(ENVOY, at, vec![client, server])))
}

/// Two Envoys that carry TCP as CONNECT over HTTP/2 and mutual TLS.
pub(crate) async fn envoy_tunnel(stage: &Stage, programs: &Programs) -> io::Result<Option<Peer>> {
    let Some(program) = programs.envoy.found() else { return Ok(None) };
    let ports = [("ECHO_PORT", ECHO.to_string()), ("FLOOD_PORT", FLOOD.to_string())];
    let values = [("SERVER_TLS", envoy_server()), ("BACKEND_IP", stage.ip(hosts::SERVER).to_string())];
    let (template, values) = (include_str!("config/envoy-tcp-server.yaml"), [&values[..], &ports].concat());
    let server = envoy(stage, program, hosts::ENVOY_SERVER, template, &values).await?;
    listening(&server, stage.at(hosts::ENVOY_SERVER, PEER)).await?;
    let (template, values) = (include_str!("config/envoy-tcp-client.yaml"), [&between(stage)[..], &ports].concat());
    let client = envoy(stage, program, hosts::ENVOY, template, &values).await?;
    let at = stage.at(hosts::ENVOY, ECHO);
    listening(&client, at).await?;
    Ok(Some(Peer::new(ENVOY, at, vec![client, server])))
}

/// What the first half of a pair is told of the second.
fn between(stage: &Stage) -> [(&'static str, String); 3] {
    [
        ("CLIENT_TLS", envoy_client()),
        ("SERVER_IP", stage.ip(hosts::ENVOY_SERVER).to_string()),
        ("SERVER_PORT", PEER.to_string()),
    ]
}

/// HAProxy, HTTP in and out.
pub(crate) async fn haproxy_hop(stage: &Stage, programs: &Programs) -> io::Result<Option<Peer>> {
    let Some(program) = programs.haproxy.found() else { return Ok(None) };
    let values = [("BACKEND", stage.at(hosts::PLAIN, HTTP).to_string())];
    let template = include_str!("config/haproxy-hop.cfg");
    haproxy(stage, program, HAPROXY, hosts::HAPROXY, template, &values).await.map(Some)
}

async fn haproxy(
    stage: &Stage,
    program: &Path,
    row: &str,
    host: u8,
    template: &str,
    values: &[(&str, String)],
) -> io::Result<Peer> {
    let (name, at) = (format!("haproxy-{host}"), stage.at(host, PEER));
    let file = format!("{name}.cfg");
    write(stage.directory(), &file, template, &[&[("LISTEN", at.to_string())], values].concat())?;
    // Without -db it would go into the background.
    let process = Spawn::new(&name, program).args(["-db", "-f", &file]).start(stage.directory())?;
    listening(&process, at).await?;
    Ok(Peer::new(row, at, vec![process]))
}

/// nginx, HTTP in and out.
pub(crate) async fn nginx_hop(stage: &Stage, programs: &Programs) -> io::Result<Option<Peer>> {
    let Some(program) = programs.nginx.found() else { return Ok(None) };
    let at = stage.at(hosts::NGINX, PEER);
    let values = [("LISTEN", at.to_string()), ("BACKEND", stage.at(hosts::PLAIN, HTTP).to_string())];
    let template = include_str!("config/nginx-hop.conf");
    let process = start_nginx(stage, program, "nginx-hop", template, &values, &[at]).await?;
    Ok(Some(Peer::new(NGINX, at, vec![process])))
}

/// All that pass TLS by its server name.
pub(crate) async fn sni(stage: &Stage, programs: &Programs) -> io::Result<Vec<Peer>> {
    let backend = stage.at(hosts::PLAIN, TLS);
    let values = [("SNI", tls_sni()), ("BACKEND", backend.to_string())];
    let mut peers = Vec::new();
    if let Some(program) = programs.haproxy.found() {
        let template = include_str!("config/haproxy-sni.cfg");
        let kinds = [(HAPROXY, hosts::HAPROXY, ""), (HAPROXY_SPLICE, hosts::HAPROXY_SPLICE, "option splice-response")];
        for (row, host, splice) in kinds {
            let values = [&values[..], &[("SPLICE", splice.to_owned())]].concat();
            peers.push(haproxy(stage, program, row, host, template, &values).await?);
        }
    }
    if let Some(program) = programs.nginx.found() {
        let at = stage.at(hosts::NGINX, PEER);
        let module =
            if Path::new(STREAM_MODULE).is_file() { format!("load_module {STREAM_MODULE};") } else { String::new() };
        let values = [&values[..], &[("LISTEN", at.to_string()), ("MODULE", module)]].concat();
        let template = include_str!("config/nginx-sni.conf");
        let process = start_nginx(stage, program, "nginx-sni", template, &values, &[at]).await?;
        peers.push(Peer::new(NGINX, at, vec![process]));
    }
    if let Some(program) = programs.envoy.found() {
        let values = [
            ("SNI", tls_sni()),
            ("BACKEND_IP", backend.ip().to_string()),
            ("BACKEND_PORT", backend.port().to_string()),
        ];
        let process = envoy(stage, program, hosts::ENVOY, include_str!("config/envoy-sni.yaml"), &values).await?;
        let at = stage.at(hosts::ENVOY, PEER);
        listening(&process, at).await?;
        peers.push(Peer::new(ENVOY, at, vec![process]));
    }
    Ok(peers)
}
