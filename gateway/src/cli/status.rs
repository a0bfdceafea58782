//! `isthmus status`.

use std::fmt::Write as _;

use isthmus_federation::status::Role;

use super::time;
use crate::admin::api::{Issuance, Member, RegistryState, Status, UnboundVip, Vips};

pub(super) const EXAMPLES: &str = "\
Examples:
  isthmus status
  isthmus --admin http://127.0.0.1:15000 status
  isthmus status -o json | jq .registry.stale_for_ms";

pub(super) fn table(status: &Status) -> String {
    let Status { registry, clusters, .. } = status;
    let unknown = if clusters.unknown == 0 { String::new() } else { format!(", {} not heard yet", clusters.unknown) };
    let problems = match status.problems {
        0 => "none".to_owned(),
        count => format!("{count} in the manifests: see `isthmus problems`"),
    };
    let lines = [
        ("federation", status.federation.to_string()),
        ("cluster", format!("{} in {}", status.cluster, status.locality)),
        ("gateway", format!("{}, node {}, isthmus {}", status.gateway, registry.node, status.version)),
        ("registry", registry_line(registry)),
        ("agreement", agreement_line(registry)),
        ("issuance", issuance_line(&status.issuance)),
        ("clusters", format!("{} up, {} down{unknown}", clusters.up, clusters.down)),
        ("exports", format!("{} of this cluster, {} in the federation", status.exports, status.services)),
        ("addresses", addresses_line(&status.vips)),
        ("problems", problems),
    ];
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<11} {value}");
        text
    })
}

fn registry_line(registry: &RegistryState) -> String {
    let role = match registry.role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Stopped => "stopped, see the log",
    };
    let leader =
        registry.leader.as_ref().map_or_else(|| "no leader known".to_owned(), |m| format!("led by {}", member(m)));
    let (voters, learners) = (registry.voters.len(), registry.learners.len());
    let RegistryState { term, applied, last_log, .. } = registry;
    format!(
        "{role}; {leader}, term {term}; voters {voters}, learners {learners}; applied {applied} of {last_log} entries"
    )
}

fn agreement_line(registry: &RegistryState) -> String {
    match (registry.stale_since, registry.stale_for_ms) {
        (Some(since), Some(age)) => {
            // True of an election and of a lost majority alike: which it is shows only later.
            format!("agreed state is {} old: no leader with a quorum since {}", time::span(age), time::moment(since))
        }
        _ => format!("current, revision {}", registry.revision),
    }
}

fn issuance_line(issuance: &Issuance) -> String {
    let own = issuance.own_certificates_end.map(|end| format!("; own certificates end {}", time::moment(end)));
    let own = own.unwrap_or_default();
    let waits = match (issuance.waiting, issuance.longest_wait_ms) {
        (0, _) | (_, None) => "nothing waits for the root".to_owned(),
        (1, Some(wait)) => format!("1 gateway waits for the root, for {}: see `isthmus ca pending`", time::span(wait)),
        (count, Some(wait)) => {
            format!("{count} gateways wait for the root, for up to {}: see `isthmus ca pending`", time::span(wait))
        }
    };
    match issuance.offline {
        Some(true) => format!("root's key offline; {waits}{own}"),
        Some(false) => format!("root's key sealed; {waits}{own}"),
        None => "nothing is known of the root yet".to_owned(),
    }
}

fn addresses_line(vips: &Vips) -> String {
    match &vips.first_unbound {
        None => format!("{} virtual, all served", vips.bound),
        Some(UnboundVip { address, reason }) => {
            let (bound, unbound) = (vips.bound, vips.unbound);
            format!("{bound} virtual, {unbound} more cannot be listened on: {address}: {reason}")
        }
    }
}

fn member(member: &Member) -> String {
    match (&member.cluster, &member.gateway) {
        (Some(cluster), Some(gateway)) => format!("{cluster}/{gateway}"),
        _ => format!("node {}", member.node),
    }
}
