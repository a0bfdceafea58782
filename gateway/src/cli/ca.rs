//! `isthmus ca`.

mod rotate;

use std::fmt::Write as _;

use clap::Subcommand;
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::Phase;

use super::table::Table;
use super::{Asker, CliError, time};
use crate::admin::api::Member;
use crate::admin::ca::api::{Ca, ClusterProgress, Custody, Rotation};

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus ca status
  isthmus ca rotate
  isthmus ca rotate --fence eu-central";

const STATUS_EXAMPLES: &str = "\
Examples:
  isthmus ca status
  isthmus ca status -o json | jq -r '.rotation.clusters[] | select(.done | not) | .name'";

/// Digits of a key's digest that people see: enough to tell any two roots apart.
const KEY_DIGITS: usize = 16;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the roots of trust, and how far a change of root is
    #[command(after_help = STATUS_EXAMPLES)]
    Status,
    /// Replace the root of trust by a new one, while traffic goes on
    #[command(after_help = rotate::EXAMPLES)]
    Rotate(rotate::Args),
}

pub(super) async fn run(asker: &Asker, command: Command) -> Result<(), CliError> {
    match command {
        Command::Status => asker.show("/v1/ca", status).await,
        Command::Rotate(args) => rotate::run(asker, args).await,
    }
}

fn short(key: &Digest) -> String {
    key.to_string().chars().take(KEY_DIGITS).collect()
}

fn status(ca: &Ca) -> String {
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

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Distribute => "distribute",
        Phase::Reissue => "reissue",
    }
}

fn progress(rotation: &Rotation) -> String {
    let mut table = Table::new(&["CLUSTER", "GATEWAY", "REACH", "PART", "CERTIFIED BY"]);
    for cluster in &rotation.clusters {
        for gateway in &cluster.gateways {
            table.row([
                cluster.name.to_string(),
                gateway.name.to_string(),
                reach(cluster),
                if gateway.done { "done" } else { "missing" }.to_owned(),
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

fn reach(cluster: &ClusterProgress) -> String {
    use isthmus_model::health::Reach;
    match cluster.reach {
        Reach::Up => "up",
        Reach::Down => "down",
        Reach::Unknown => "unknown",
    }
    .to_owned()
}

fn outdated(count: usize) -> String {
    format!(
        "{count} open tokens pin a root that does not sign any more: create them anew (`isthmus token list` tells which \
         were minted before the rotation)"
    )
}

#[cfg(test)]
mod tests;
