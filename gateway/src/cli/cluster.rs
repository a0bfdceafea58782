//! `isthmus cluster`: who stays a member, and how one goes.

use std::time::Duration;

use clap::Subcommand;
use isthmus_model::drain;
use isthmus_model::name::ClusterName;

use super::{Asker, CliError, tell};
use crate::admin::api::{Clusters, MembershipChange, MembershipChanged};

pub(super) const EXAMPLES: &str = "\
A cluster may drain and leave by itself. Everything else is for clusters that administer the federation:
the one that founded it, and those that it made administrators.
Changes need the Unix socket: --admin unix:PATH.

Examples:
  # Moves requests of other clusters away, then withdraws the exports
  isthmus cluster drain us-west
  isthmus cluster drain us-west --undo
  # Ends the membership of a cluster in order; it can join again with a new token
  isthmus cluster leave us-west
  # Cuts a cluster off at once: its keys are trusted nowhere any more
  isthmus cluster fence us-west --why 'its machine was stolen'
  isthmus cluster unfence us-west";

const DRAIN_EXAMPLES: &str = "\
Requests of other clusters move away within twenty seconds; then the exports are withdrawn.

Examples:
  isthmus cluster drain us-west
  isthmus cluster drain us-west --undo";

const LEAVE_EXAMPLES: &str = "\
Examples:
  isthmus cluster leave us-west
  # Its gateways are gone already
  isthmus cluster leave us-west --now";

const FENCE_EXAMPLES: &str = "\
Its keys are refused and its sessions cut wherever the registry is heard, within two seconds.

Examples:
  isthmus cluster fence us-west --why 'its machine was stolen'";

const UNFENCE_EXAMPLES: &str = "\
Examples:
  isthmus cluster unfence us-west";

const ADMINISTRATOR_EXAMPLES: &str = "\
Examples:
  isthmus cluster administrator us-west
  isthmus cluster administrator us-west --remove";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Move traffic away from a cluster, and withdraw its exports
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain {
        /// Which cluster
        cluster: ClusterName,
        /// Let the traffic come back
        #[arg(long)]
        undo: bool,
    },
    /// Drain a cluster, then end its membership
    #[command(after_help = LEAVE_EXAMPLES)]
    Leave {
        /// Which cluster
        cluster: ClusterName,
        /// Do not drain it first
        #[arg(long)]
        now: bool,
    },
    /// Cut a cluster off at once, with all of its keys
    #[command(after_help = FENCE_EXAMPLES)]
    Fence {
        /// Which cluster
        cluster: ClusterName,
        /// Why, for those who read the audit trail
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
    /// Take a fence back, unless the cluster has joined anew since
    #[command(after_help = UNFENCE_EXAMPLES)]
    Unfence {
        /// Which cluster
        cluster: ClusterName,
    },
    /// Let a cluster's operators act on other clusters, or no longer
    #[command(after_help = ADMINISTRATOR_EXAMPLES)]
    Administrator {
        /// Which cluster
        cluster: ClusterName,
        /// No longer
        #[arg(long)]
        remove: bool,
    },
}

/// How often a drain that is waited for is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How much longer than it should take a drain is waited for.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn run(asker: &Asker, command: Command) -> Result<(), CliError> {
    match command {
        Command::Drain { cluster, undo } => {
            change(asker, &cluster, &MembershipChange::Drain { draining: !undo }).await?;
            if !undo {
                drained(asker, &cluster).await?;
            }
            Ok(())
        }
        Command::Leave { cluster, now } => {
            if !now {
                ask(asker, &cluster, &MembershipChange::Drain { draining: true }).await?;
                drained(asker, &cluster).await?;
            }
            change(asker, &cluster, &MembershipChange::Leave {}).await
        }
        Command::Fence { cluster, why } => change(asker, &cluster, &MembershipChange::Fence { why }).await,
        Command::Unfence { cluster } => change(asker, &cluster, &MembershipChange::Unfence {}).await,
        Command::Administrator { cluster, remove } => {
            change(asker, &cluster, &MembershipChange::Administer { administrator: !remove }).await
        }
    }
}

async fn ask(asker: &Asker, cluster: &ClusterName, change: &MembershipChange) -> Result<serde_json::Value, CliError> {
    asker.client.post(&format!("/v1/clusters/{cluster}"), change).await
}

async fn change(asker: &Asker, cluster: &ClusterName, change: &MembershipChange) -> Result<(), CliError> {
    let answer = ask(asker, cluster, change).await?;
    let done = match change {
        MembershipChange::Drain { draining: true } => "draining",
        MembershipChange::Drain { draining: false } => "not draining",
        MembershipChange::Leave {} => "no member any more",
        MembershipChange::Fence { .. } => "fenced",
        MembershipChange::Unfence {} => "a member again",
        MembershipChange::Administer { administrator: true } => "an administrator",
        MembershipChange::Administer { administrator: false } => "no administrator",
    };
    asker.print(answer, |changed: &MembershipChanged| {
        let already = if changed.changed { "" } else { " already" };
        format!("cluster {} is {done}{already}\n", changed.cluster)
    })
}

/// Waits until a draining cluster exports nothing any more, and tells how that goes.
async fn drained(asker: &Asker, cluster: &ClusterName) -> Result<(), CliError> {
    let (began, mut told) = (tokio::time::Instant::now(), None);
    loop {
        let answer = asker.client.get("/v1/clusters").await?;
        let clusters: Clusters = serde_json::from_value(answer).map_err(|error| CliError::Failed(error.to_string()))?;
        let exports = clusters.clusters.iter().find(|known| known.name == *cluster).map_or(0, |known| known.exports);
        if exports == 0 {
            return Ok(());
        }
        if began.elapsed() > drain::RAMP + drain::LINGER + DRAIN_PATIENCE {
            let message = format!(
                "cluster {cluster} still exports {exports} services: its gateways do not withdraw them. \
                 Check that they run; `isthmus cluster leave {cluster} --now` does not wait for them"
            );
            return Err(CliError::Failed(message));
        }
        if told != Some(exports) {
            told = Some(exports);
            tell(format_args!("waiting for {cluster} to drain: {exports} services on offer ..."));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
