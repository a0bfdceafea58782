//! `isthmus registry status`.

use std::fmt::Write as _;

use crate::admin::api::{Member, RegistryView, Replica};
use crate::cli::table::Table;
use crate::cli::time;

pub(super) const EXAMPLES: &str = "\
How far replicas are behind is known to the leader alone: ask its gateway for that.

Examples:
  isthmus registry status
  isthmus registry status -o json | jq .quorum_margin";

pub(super) fn table(view: &RegistryView) -> String {
    let leader = view.leader.as_ref().map_or_else(|| "nobody known".to_owned(), name);
    let mut text = format!(
        "leader    {leader}, term {}\nquorum    {}\nlog       {} entries, {} applied here; snapshot at {}, kept from {}\n\
         disk      {} of registry, {} free\n\n",
        view.term,
        quorum(view),
        view.last_log,
        view.applied,
        view.snapshot,
        view.purged.saturating_add(1),
        megabytes(view.file_bytes),
        megabytes(view.disk_free_bytes),
    );
    let mut table = Table::new(&["GATEWAY", "NODE", "ROLE", "LAG", "BEHIND FOR", "HEARD"]);
    for Replica { member, role, lag_entries, lag_ms, heard_ms_ago } in &view.replicas {
        let ago = |millis: u64| format!("{} ago", time::span(millis));
        table.row([
            name(member),
            member.node.to_string(),
            role.to_string(),
            lag_entries.map(|lag| format!("{lag} entries")).unwrap_or_default(),
            lag_ms.filter(|lag| *lag > 0).map(time::span).unwrap_or_default(),
            heard_ms_ago.map(ago).unwrap_or_default(),
        ]);
    }
    // Writing to a string cannot fail.
    let _ = write!(text, "{table}");
    text
}

fn quorum(view: &RegistryView) -> String {
    let voters = view.replicas.iter().filter(|replica| replica.role != "learner").count();
    let needed = voters / 2 + 1;
    match view.quorum_margin {
        Some(margin) if margin > 0 => format!("{needed} of {voters} voters; {margin} more may fail"),
        Some(0) => format!("{needed} of {voters} voters; none more may fail"),
        Some(_) => format!("{needed} of {voters} voters, and fewer are there: nothing can be agreed"),
        None => format!("{needed} of {voters} voters; how many are there, the leader knows"),
    }
}

fn name(member: &Member) -> String {
    match (&member.cluster, &member.gateway) {
        (Some(cluster), Some(gateway)) => format!("{cluster}/{gateway}"),
        _ => format!("node {}", member.node),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}
