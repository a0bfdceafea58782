//! TCP through two sidecars, which carry it as HTTP/2 CONNECT over mutual TLS.

use std::io;

use isthmus_tests::bench::Report;

use super::pair::ours;
use crate::installed::Programs;
use crate::isthmus::{Cluster, INBOUND, Service};
use crate::load::tcp::{self, SERVICE, Talk};
use crate::proxies::{self, ENVOY};
use crate::rounds::take_turns;
use crate::stage::{ECHO, FLOOD, Stage, hosts, open};
use crate::table::{Tables, judge_processor};

const MESSAGE_MAX: f64 = 0.90;
const BULK_MAX: f64 = 0.70;

pub(crate) async fn measure(programs: &Programs, tables: &mut Tables, report: &mut Report) -> io::Result<()> {
    let stage = Stage::new()?;
    let _talk = Talk::start(&stage).await?;
    let ports = [("tcp-echo", ECHO), ("tcp-flood", FLOOD)];
    let service =
        Service { name: SERVICE, ports: &ports, address: stage.ip(hosts::SERVER), sidecar_port: Some(INBOUND) };
    let cluster = Cluster::start(&stage, hosts::GATEWAY, &[service.file()]).await?;
    let mut peers = vec![ours(&stage, &cluster, SERVICE).await?];
    peers.extend(proxies::envoy_tunnel(&stage, programs).await?);
    open(&peers, tcp::probe).await?;
    let rows = take_turns(&peers, tcp::messages).await?;
    judge_processor(report, "tcp: CPU a message for Envoy's (aim 0.60)", &rows, &[ENVOY], MESSAGE_MAX);
    tables.add("tcp: a small message to and fro, as HTTP/2 CONNECT through two sidecars", "message", rows);
    let rows = take_turns(&peers, tcp::bulk).await?;
    judge_processor(report, "tcp: CPU a GiB for Envoy's (aim 0.60)", &rows, &[ENVOY], BULK_MAX);
    tables.add("tcp: bulk, as HTTP/2 CONNECT through two sidecars", "GiB", rows);
    Ok(())
}
