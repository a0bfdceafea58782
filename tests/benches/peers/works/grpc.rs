//! A unary call of gRPC through two sidecars: HTTP/2 all the way, a small message, an answer with trailers.

use std::io;

use isthmus_tests::bench::Report;

use super::pair::ours;
use crate::backends;
use crate::installed::Programs;
use crate::isthmus::{Cluster, INBOUND, Service, host};
use crate::load::h2load;
use crate::proxies::{self, ENVOY, Speaks};
use crate::rounds::take_turns;
use crate::stage::{GRPC, Stage, hosts, open};
use crate::table::{Tables, judge_processor};

const PROCESSOR_MAX: f64 = 0.70;
const SERVICE: &str = "greet";

pub(crate) async fn measure(programs: &Programs, tables: &mut Tables, report: &mut Report) -> io::Result<()> {
    let h2load = programs.h2load.needed()?;
    let stage = Stage::new()?;
    let _backend = backends::nghttpd(&stage, programs).await?;
    let address = stage.ip(hosts::SERVER);
    let service = Service { name: SERVICE, ports: &[("grpc", GRPC)], address, sidecar_port: Some(INBOUND) };
    let cluster = Cluster::start(&stage, hosts::GATEWAY, &[service.file()]).await?;
    let mut peers = vec![ours(&stage, &cluster, SERVICE).await?];
    peers.extend(proxies::envoy_pair(&stage, programs, Speaks::Http2).await?);
    let host = format!("{}:{GRPC}", host(SERVICE));
    let call = (host.as_str(), backends::CALL);
    open(&peers, async |peer| h2load::probe(h2load, stage.directory(), peer, call).await).await?;
    let load = async |peer: &_, duration| h2load::run(h2load, stage.directory(), peer, call, duration).await;
    let rows = take_turns(&peers, load).await?;
    judge_processor(report, "grpc: CPU a call for Envoy's (aim 0.50)", &rows, &[ENVOY], PROCESSOR_MAX);
    tables.add("grpc: unary calls over HTTP/2 through two sidecars, mutual TLS between", "call", rows);
    Ok(())
}
