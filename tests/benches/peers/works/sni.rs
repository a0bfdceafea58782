//! TLS that passes the gateway unopened, by its server name: new connections, and a large file.

use std::fs::File;
use std::io;

use isthmus_tests::bench::{Quantity, Report};

use crate::backends;
use crate::installed::Programs;
use crate::isthmus::{Cluster, EAST_WEST, OURS, tls_service};
use crate::load::tls::{self, FILE, FILE_LEN};
use crate::peer::Peer;
use crate::proxies::{self, ENVOY, HAPROXY, HAPROXY_SPLICE, NGINX};
use crate::rounds::{Seen, take_turns};
use crate::stage::{Stage, hosts, open};
use crate::table::{Tables, judge_processor};

const CONNECTION_MAX: f64 = 1.0;
const BULK_MAX: f64 = 0.80;
/// Those that are measured by: each as it comes.
const OTHERS: [&str; 3] = [HAPROXY, NGINX, ENVOY];

pub(crate) async fn measure(programs: &Programs, tables: &mut Tables, report: &mut Report) -> io::Result<()> {
    let stage = Stage::new()?;
    let _backend = backends::nginx(&stage, programs).await?;
    File::create(stage.directory().join("files").join(FILE))?.set_len(FILE_LEN)?;
    let cluster = Cluster::start(&stage, hosts::GATEWAY, &[tls_service(stage.ip(hosts::PLAIN))]).await?;
    let mut peers = vec![Peer::new(OURS, stage.at(hosts::GATEWAY, EAST_WEST), vec![cluster.gateway])];
    peers.extend(proxies::sni(&stage, programs).await?);
    let config = stage.trust.client()?;
    open(&peers, async |peer| tls::probe(peer, &config).await).await?;
    let load = async |peer: &_, duration| tls::connections(peer, &config, duration).await;
    let rows = take_turns(&peers, load).await?;
    let what = "sni: CPU a connection for the best other's (aim 0.70)";
    judge_processor(report, what, &rows, &OTHERS, CONNECTION_MAX);
    tables.add("sni: TLS connections passed by server name", "connection", rows);
    let rows = take_turns(&peers, async |peer, duration| tls::bulk(peer, &config, duration).await).await?;
    judge_processor(report, "sni: CPU a GiB for the best other's (aim 0.50)", &rows, &OTHERS, BULK_MAX);
    compare_splice(report, &rows);
    tables.add("sni: bulk, passed by server name", "GiB", rows);
    Ok(())
}

/// Ours moves bytes by `splice` wherever it can; HAProxy can, too, when it is told to.
fn compare_splice(report: &mut Report, rows: &[Seen]) {
    let each = |name: &str| rows.iter().find(|row| row.name == name).map(|row| row.each.as_secs_f64());
    if let (Some(ours), Some(theirs)) = (each(OURS), each(HAPROXY_SPLICE)) {
        report.figure("sni: CPU a GiB for HAProxy's with splice", Quantity::Times(ours / theirs));
    }
}
