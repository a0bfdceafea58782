//! A request through two sidecars: HTTP/1.1, between them HTTP/2 over mutual TLS, and HTTP/1.1 again.

use std::io;

use isthmus_tests::bench::Report;

use crate::backends;
use crate::installed::Programs;
use crate::isthmus::{Cluster, INBOUND, OURS, OUTBOUND, Service, host};
use crate::load::wrk;
use crate::peer::Peer;
use crate::proxies::{self, ENVOY, Speaks};
use crate::rounds::take_turns;
use crate::stage::{HTTP, Stage, hosts, open_to_http};
use crate::table::{Tables, judge_p99, judge_processor};

const PROCESSOR_MAX: f64 = 0.60;
const P99_MAX: f64 = 0.80;
const SERVICE: &str = "echo";

pub(crate) async fn measure(programs: &Programs, tables: &mut Tables, report: &mut Report) -> io::Result<()> {
    let wrk = programs.wrk.needed()?;
    let stage = Stage::new()?;
    let _backend = backends::nginx(&stage, programs).await?;
    let service = Service {
        name: SERVICE,
        ports: &[("http", HTTP)],
        address: stage.ip(hosts::SERVER),
        sidecar_port: Some(INBOUND),
    };
    let cluster = Cluster::start(&stage, hosts::GATEWAY, &[service.file()]).await?;
    let mut peers = vec![ours(&stage, &cluster, SERVICE).await?];
    peers.extend(proxies::envoy_pair(&stage, programs, Speaks::Http1).await?);
    open_to_http(&peers, SERVICE).await?;
    let host = format!("{}:{HTTP}", host(SERVICE));
    let rows = take_turns(&peers, async |peer, duration| wrk::run(wrk, peer, &host, duration).await).await?;
    judge_processor(report, "pair: CPU a request for Envoy's (aim 0.40)", &rows, &[ENVOY], PROCESSOR_MAX);
    judge_p99(report, "pair: p99 for Envoy's", &rows, ENVOY, P99_MAX);
    tables.add("pair: HTTP/1.1, mutual TLS with HTTP/2 between two sidecars", "request", rows);
    Ok(())
}

/// Two sidecars: the client's, and that of `service`.
pub(crate) async fn ours(stage: &Stage, cluster: &Cluster, service: &str) -> io::Result<Peer> {
    let server = cluster.sidecar(stage, service, hosts::SERVER).await?;
    let client = cluster.sidecar(stage, "client", hosts::CLIENT).await?;
    Ok(Peer::new(OURS, stage.at(hosts::CLIENT, OUTBOUND), vec![client, server]))
}
