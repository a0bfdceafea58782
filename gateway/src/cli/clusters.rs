//! `isthmus clusters`.

use isthmus_model::health::Reach;

use super::table::Table;
use super::time;
use crate::admin::api::{Cluster, Clusters, Gateway, Seat};

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus clusters
  isthmus clusters -o json | jq -r '.clusters[] | select(.reach == \"down\") | .name'";

pub(super) fn table(clusters: &Clusters) -> String {
    let mut table =
        Table::new(&["CLUSTER", "LOCALITY", "GATEWAY", "NODE", "EAST-WEST", "REACH", "REGISTRY", "HEARD", "EXPORTS"]);
    for cluster in &clusters.clusters {
        for gateway in &cluster.gateways {
            table.row([
                name(cluster),
                cluster.locality.to_string(),
                gateway.name.to_string(),
                gateway.node.to_string(),
                gateway.east_west.to_string(),
                reach(gateway.reach).to_owned(),
                seat(gateway).to_owned(),
                gateway.heard_ago_ms.map(|ago| format!("{} ago", time::span(ago))).unwrap_or_default(),
                cluster.exports.to_string(),
            ]);
        }
    }
    let mut text = table.to_string();
    for gone in &clusters.departed {
        let how = gone.fenced_because.as_ref().map_or("left".to_owned(), |why| format!("was fenced: {why}"));
        text.push_str(&format!("{} {how} ({}, by {})\n", gone.cluster, time::moment(gone.at), gone.by));
    }
    text
}

/// Its name, and what sets it apart.
fn name(cluster: &Cluster) -> String {
    let mut name = cluster.name.to_string();
    if cluster.administrator {
        name.push_str(" (administrator)");
    }
    if cluster.draining_since.is_some() {
        name.push_str(" (draining)");
    }
    name
}

pub(super) fn reach(reach: Reach) -> &'static str {
    match reach {
        Reach::Unknown => "unknown",
        Reach::Up => "up",
        Reach::Down => "down",
    }
}

fn seat(gateway: &Gateway) -> &'static str {
    match gateway.seat {
        Seat::Leader => "leader",
        Seat::Voter => "voter",
        Seat::Learner => "learner",
        Seat::Absent => "joining",
    }
}
