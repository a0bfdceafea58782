//! `isthmus audit`.

use super::table::Table;
use super::time;
use crate::admin::api::Audit;
use isthmus_model::registry::audit::Event;

pub(super) const EXAMPLES: &str = "\
The federation keeps the last thousand records.

Examples:
  isthmus audit
  isthmus audit -o json | jq '.records[] | select(.event == \"token_redeemed\")'";

pub(super) fn table(audit: &Audit) -> String {
    let mut table = Table::new(&["WHEN", "BY", "WHAT"]);
    for record in &audit.records {
        table.row([time::moment(record.at), record.origin.to_string(), describe(&record.event)]);
    }
    table.to_string()
}

fn describe(event: &Event) -> String {
    match event {
        Event::Founded => "founded the federation".to_owned(),
        Event::TokenMinted { token, gateway } => format!("minted token {token} at {gateway}"),
        Event::TokenRevoked { token } => format!("revoked token {token}"),
        Event::TokenRedeemed { token, cluster, gateway, node, from } => {
            let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
            format!("admitted {cluster}/{gateway} as node {node} with token {token}{from}")
        }
        Event::Certified { node, root, .. } => format!("certified node {node} under root {root:.16}"),
        Event::Resealed { root, keepers } => format!("sealed root {root:.16} to nodes {keepers:?}"),
        Event::RotationStarted { root } => format!("began to rotate to root {root:.16}"),
        Event::RotationAdvanced { from } => format!("finished the {from:?} phase of the rotation").to_lowercase(),
        Event::RotationAborted => "gave the rotation up".to_owned(),
        Event::Drained { cluster, draining: true } => format!("drained {cluster}"),
        Event::Drained { cluster, draining: false } => format!("ended the drain of {cluster}"),
        Event::Left { cluster } => format!("took {cluster} out"),
        Event::Fenced { cluster, why } => format!("fenced {cluster}: {why}"),
        Event::Restored { taken_at, .. } => {
            format!("restored the registry from a backup of {}", time::moment(*taken_at))
        }
        Event::Unfenced { cluster } => format!("took the fence of {cluster} back"),
        Event::AdministratorSet { cluster, administrator: true } => format!("made {cluster} an administrator"),
        Event::AdministratorSet { cluster, administrator: false } => format!("made {cluster} no administrator"),
    }
}
