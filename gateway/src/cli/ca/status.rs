//! `isthmus ca status`: the roots of trust, and how far a change of root is.

use std::fmt::Write as _;

use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::Phase;

use crate::admin::api::Member;
use crate::admin::ca::api::{Ca, ClusterProgress, Custody, Rotation};
use crate::cli::table::Table;
use crate::cli::time;

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus ca status
  isthmus ca status -o json | jq -r '.rotation.clusters[] | select(.done | not) | .name'";

/// Digits of a key's digest that people see: enough to tell any two roots apart.
const KEY_DIGITS: usize = 16;

pub(super) fn short(key: &Digest) -> String {
    key.to_string().chars().take(KEY_DIGITS).collect()
}

pub(super) fn table(ca: &Ca) -> String {
    let mut table = Table::new(&["ROOT", "SUBJECT", "SIGNS", "UNTIL", "KEY", "KEPT BY"]);
    for root in &ca.roots {
        let keepers: Vec<String> = root.keepers.iter().map(keeper).collect();
        table.row([
            short(&root.key),
            root.subject.clone(),
            if root.signs { "yes" } else { "no" }.to_owned(),
            root.not_after.map(time::moment).unwrap_or_default(),
            match root.custody {
                Custody::Sealed => "sealed",
                Custody::Offline => "offline",
            }
            .to_owned(),
            keepers.join(", "),
        ]);
    }
    let mut text = table.to_string();
    // Writing to a string cannot fail.
    if let Some(rotation) = &ca.rotation {
        let _ = write!(text, "\n{}", progress(rotation));
    }
    if ca.outdated_tokens > 0 {
        let _ = write!(text, "\n{}\n", outdated(ca.outdated_tokens));
    }
    text
}

fn keeper(member: &Member) -> String {
    match (&member.cluster, &member.gateway) {
        (Some(cluster), Some(gateway)) => format!("{cluster}/{gateway}"),
        _ => format!("node {}", member.node),
    }
}

pub(super) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Distribute => "distribute",
        Phase::Reissue => "reissue",
    }
}

pub(super) fn progress(rotation: &Rotation) -> String {
    let mut table = Table::new(&["CLUSTER", "GATEWAY", "REACH", "PART", "CERTIFIED BY"]);
    for cluster in &rotation.clusters {
        for gateway in &cluster.gateways {
            table.row([
                cluster.name.to_string(),
                gateway.name.to_string(),
                reach(cluster),
                match (gateway.done, cluster.unsigned) {
                    (true, _) => "done",
                    (false, true) => "unsigned",
                    (false, false) => "missing",
                }
                .to_owned(),
                gateway.certified_by.as_ref().map(short).unwrap_or_default(),
            ]);
        }
    }
    let (root, since) = (short(&rotation.root), time::moment(rotation.started_at));
    format!(
        "rotation to {root} since {since}, phase {}; go on with `isthmus ca rotate`\n\n{table}",
        phase(rotation.phase)
    )
}

pub(super) fn reach(cluster: &ClusterProgress) -> String {
    use isthmus_model::health::Reach;
    match cluster.reach {
        Reach::Up => "up",
        Reach::Down => "down",
        Reach::Unknown => "unknown",
    }
    .to_owned()
}

pub(super) fn outdated(count: usize) -> String {
    format!(
        "{count} open tokens pin a root that does not sign any more: create them anew (`isthmus token list` tells which \
         were minted before the rotation)"
    )
}

#[cfg(test)]
mod tests;
