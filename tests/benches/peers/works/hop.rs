//! A request through one proxy, HTTP/1.1 in and out, in the clear: the price of a proxy without TLS.

use std::io;

use isthmus_tests::bench::Report;

use crate::backends;
use crate::installed::Programs;
use crate::isthmus::{Cluster, OURS, OUTBOUND, Service, host};
use crate::load::wrk;
use crate::peer::Peer;
use crate::proxies::{self, HAPROXY};
use crate::rounds::take_turns;
use crate::stage::{HTTP, Stage, hosts, open_to_http};
use crate::table::{Tables, judge_processor};

const PROCESSOR_MAX: f64 = 1.5;
const SERVICE: &str = "plain";

pub(crate) async fn measure(programs: &Programs, tables: &mut Tables, report: &mut Report) -> io::Result<()> {
    let wrk = programs.wrk.needed()?;
    let stage = Stage::new()?;
    let _backend = backends::nginx(&stage, programs).await?;
    let service =
        Service { name: SERVICE, ports: &[("http", HTTP)], address: stage.ip(hosts::PLAIN), sidecar_port: None };
    let cluster = Cluster::start(&stage, hosts::GATEWAY, &[service.file()]).await?;
    let client = cluster.sidecar(&stage, "client", hosts::CLIENT).await?;
    let mut peers = vec![Peer::new(OURS, stage.at(hosts::CLIENT, OUTBOUND), vec![client])];
    peers.extend(proxies::haproxy_hop(&stage, programs).await?);
    peers.extend(proxies::nginx_hop(&stage, programs).await?);
    peers.extend(proxies::envoy_hop(&stage, programs).await?);
    open_to_http(&peers, SERVICE).await?;
    let host = format!("{}:{HTTP}", host(SERVICE));
    let rows = take_turns(&peers, async |peer, duration| wrk::run(wrk, peer, &host, duration).await).await?;
    judge_processor(report, "hop: CPU a request for HAProxy's (aim 1.0)", &rows, &[HAPROXY], PROCESSOR_MAX);
    tables.add("hop: HTTP/1.1 through one proxy", "request", rows);
    Ok(())
}
