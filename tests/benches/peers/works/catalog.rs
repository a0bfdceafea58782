//! What a large catalog costs a request: the same one through two gateways, one of which knows a thousand times as much.

use std::io;

use isthmus_tests::bench::Report;

use crate::backends;
use crate::installed::Programs;
use crate::isthmus::{Cluster, OUTBOUND, Service, host};
use crate::load::wrk;
use crate::peer::Peer;
use crate::rounds::take_turns;
use crate::stage::{HTTP, Stage, hosts, open_to_http};
use crate::table::{Tables, judge_processor};

const PROCESSOR_MAX: f64 = 1.1;
const FEW: (&str, usize) = ("10 services", 10);
const MANY: (&str, usize) = ("10,000 services", 10_000);
/// Services in one manifest, each of which is three objects: a file may have 2,000.
const PER_FILE: usize = 500;
const SERVICE: &str = "plain";

pub(crate) async fn measure(programs: &Programs, tables: &mut Tables, report: &mut Report) -> io::Result<()> {
    let wrk = programs.wrk.needed()?;
    let stage = Stage::new()?;
    let _backend = backends::nginx(&stage, programs).await?;
    let mut peers = Vec::new();
    for ((name, services), host) in [(MANY, hosts::GATEWAY), (FEW, hosts::OTHER_GATEWAY)] {
        let cluster = Cluster::start(&stage, host, &catalog(&stage, services)).await?;
        cluster.agreed(services).await?;
        peers.push(Peer::new(name, stage.at(host, OUTBOUND), vec![cluster.gateway]));
    }
    open_to_http(&peers, SERVICE).await?;
    let host = format!("{}:{HTTP}", host(SERVICE));
    let rows = take_turns(&peers, async |peer, duration| wrk::run(wrk, peer, &host, duration).await).await?;
    let what = "catalog: CPU a request with 10,000 services for that with 10 (aim 1.02)";
    judge_processor(report, what, &rows, &[FEW.0], PROCESSOR_MAX);
    tables.add("catalog: HTTP/1.1 through a gateway's forward proxy", "request", rows);
    Ok(())
}

/// Manifests of so many services, all with the same instance: it is probed once, and not ten thousand times a second.
fn catalog(stage: &Stage, services: usize) -> Vec<(String, String)> {
    let names: Vec<String> =
        (1..services).map(|number| format!("other-{number}")).chain([SERVICE.to_owned()]).collect();
    let manifest = |name: &String| {
        Service { name, ports: &[("http", HTTP)], address: stage.ip(hosts::PLAIN), sidecar_port: None }.manifest()
    };
    let file = |(number, names): (usize, &[String])| {
        (format!("services-{number}.yaml"), names.iter().map(manifest).collect::<String>())
    };
    names.chunks(PER_FILE).enumerate().map(file).collect()
}
