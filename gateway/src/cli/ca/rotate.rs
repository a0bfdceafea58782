//! `isthmus ca rotate`: walks a change of root through its phases, and goes on where an earlier run stopped.
//!
//! Nothing is kept here: every step follows from what the federation has agreed, so that any number of runs, one after
//! the other or at once, are one rotation.

use std::time::Duration;

use isthmus_model::health::Reach;
use isthmus_model::name::ClusterName;
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::{Envelopes, Phase};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::status::{self, outdated, phase, short};
use crate::admin::ca::api::{
    Advance, Ca, Keeper, Keepers, NextRoot, Rotation, RotationChanged, RotationRequest, RotationStarted,
};
use crate::cli::client::unreadable;
use crate::cli::root_source::{RootArgs, RootSource};
use crate::cli::{Asker, CliError, tell};
use crate::config::duration;

pub(super) const EXAMPLES: &str = "\
Makes a new root, has every gateway and sidecar trust it, lets it sign, has everything signed
anew, and retires the old root. Each step waits for every cluster. An interrupted rotation is
gone on with by running this again. Needs the Unix socket of a gateway that votes, in a cluster
that administers the federation: --admin unix:PATH.

The next root is kept as the present one is, unless --root or --root-cert say otherwise. While
everything is signed anew by a root that is offline, `isthmus ca pending` lists who waits for it.

Examples:
  isthmus ca rotate
  # To a root whose key is with you, from `isthmus ca root` on another machine, and back
  isthmus ca rotate --root offline --root-cert root.crt
  isthmus ca rotate --root sealed
  # To a root or intermediate CA of your own
  isthmus ca rotate --root-cert ca.crt --root-key ca.key
  # Go on without a cluster that is lost, and cut it off: it can join again with a new token
  isthmus ca rotate --fence eu-central
  # Give up, as long as the new root has signed nothing
  isthmus ca rotate --abort";

/// How often the progress is looked at: a phase takes a second or so.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// How long clusters that do not answer are waited for: a gateway that restarts is back by then.
const DOWN_PATIENCE: Duration = Duration::from_secs(15);
/// How often a person is told what is being waited for.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Fence this cluster if it does not do its part; can be given several times
    #[arg(long, value_name = "CLUSTER")]
    fence: Vec<ClusterName>,
    /// How long to wait for clusters that answer but have not done their part
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = duration::parse)]
    wait: Duration,
    #[command(flatten)]
    next: RootArgs,
    /// Give up the rotation that is under way
    #[arg(long, conflicts_with_all = ["fence", "root", "root_cert", "root_key"])]
    abort: bool,
}

pub(super) async fn run(asker: &Asker, args: Args) -> Result<(), CliError> {
    if args.abort {
        let answer = asker.client.delete("/v1/ca/rotation").await?;
        return asker.print(answer, |answer: &RotationChanged| match answer.changed {
            true => "the rotation is given up; the root stays as it was\n".to_owned(),
            false => "there was no rotation to give up\n".to_owned(),
        });
    }
    let request = RotationRequest { next: next_root(asker, &args.next).await? };
    let started: RotationStarted = {
        let mut patience = Patience::new(args.wait);
        loop {
            match asker.client.post("/v1/ca/rotation", &request).await {
                Err(error @ CliError::Unavailable(_)) => patience.endure(error).await?,
                answer => break read(answer?)?,
            }
        }
    };
    let began = if started.changed { "began a rotation" } else { "going on with the rotation" };
    tell(format_args!("isthmus: {began} to the root {}", short(&started.root)));
    let answer = Walk { asker, args, root: started.root, told: None }.finish().await?;
    asker.print(answer, finished)
}

/// The root that the flags name. An operator's own key is sealed here, so that no gateway is told it.
async fn next_root(asker: &Asker, args: &RootArgs) -> Result<Option<NextRoot>, CliError> {
    let Keepers { federation, keepers } = read(asker.client.get("/v1/ca/keepers").await?)?;
    Ok(match args.read(&federation)? {
        RootSource::Unsaid => None,
        RootSource::New => Some(NextRoot::Sealed),
        RootSource::Offline(root) => Some(NextRoot::Offline { certificate: root.der().to_vec().into() }),
        RootSource::Own(root) => {
            let seal = |keeper: &Keeper| {
                let envelope = root.seal(keeper.node, &keeper.sealing_key);
                envelope.map(|envelope| (keeper.node, envelope)).map_err(|error| CliError::Failed(error.to_string()))
            };
            let envelopes = Envelopes(keepers.iter().map(seal).collect::<Result<_, _>>()?);
            Some(NextRoot::Own { certificate: root.certificate().to_vec().into(), envelopes })
        }
    })
}

fn finished(ca: &Ca) -> String {
    let tokens = if ca.outdated_tokens == 0 { String::new() } else { format!("{}\n", outdated(ca.outdated_tokens)) };
    let status = status::table(&Ca { outdated_tokens: 0, ..ca.clone() });
    format!(
        "the root is replaced: everything is signed by the new one, and the old one is not trusted any more\n{tokens}\n{status}"
    )
}

fn read<T: DeserializeOwned>(answer: Value) -> Result<T, CliError> {
    serde_json::from_value(answer).map_err(|error| unreadable(&error))
}

/// Waiting for a registry that takes no writes: an election, or a lost quorum.
struct Patience {
    until: Instant,
}

impl Patience {
    fn new(patience: Duration) -> Self {
        Self { until: Instant::now() + patience }
    }

    /// Waits a little, or gives up with `error`.
    async fn endure(&mut self, error: CliError) -> Result<(), CliError> {
        if Instant::now() >= self.until {
            return Err(error);
        }
        tell(format_args!("isthmus: trying again: {error}"));
        tokio::time::sleep(LOOK_INTERVAL).await;
        Ok(())
    }
}

/// What to do next, given how the rotation stands.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Done,
    /// Nobody is missing, or only those that may be fenced.
    Advance,
    Wait,
    /// These are missing, and were waited for long enough.
    Blocked(Vec<ClusterName>),
    /// The root is offline, and has not signed for these in the time that was given.
    Unsigned(Vec<ClusterName>),
    /// The new root is not among the roots: someone gave the rotation up.
    GivenUp,
}

fn next(ca: &Ca, root: &Digest, fence: &[ClusterName], waited: Duration, patience: Duration) -> Next {
    let Some(rotation) = ca.rotation.as_ref().filter(|rotation| rotation.root == *root) else {
        return match ca.roots.iter().any(|known| known.key == *root) {
            true => Next::Done,
            // This gateway may not have heard of the beginning yet.
            false if waited < DOWN_PATIENCE => Next::Wait,
            false => Next::GivenUp,
        };
    };
    let missing: Vec<_> = rotation.waits_for().collect();
    if missing.is_empty() {
        return Next::Advance;
    }
    let unsigned = missing.iter().filter(|cluster| cluster.unsigned).map(|cluster| cluster.name.clone());
    let unsigned: Vec<_> = unsigned.collect();
    if !unsigned.is_empty() {
        return if waited < patience { Next::Wait } else { Next::Unsigned(unsigned) };
    }
    let all_down = missing.iter().all(|cluster| cluster.reach == Reach::Down);
    if waited < if all_down { patience.min(DOWN_PATIENCE) } else { patience } {
        return Next::Wait;
    }
    let blocking: Vec<_> =
        missing.iter().map(|cluster| cluster.name.clone()).filter(|name| !fence.contains(name)).collect();
    if blocking.is_empty() { Next::Advance } else { Next::Blocked(blocking) }
}

/// A rotation from wherever it stands to its end.
struct Walk<'a> {
    asker: &'a Asker,
    args: Args,
    root: Digest,
    /// What was last told, and when.
    told: Option<(String, Instant)>,
}

impl Walk<'_> {
    async fn finish(mut self) -> Result<Value, CliError> {
        // Every step forward earns new patience.
        let mut standing = None;
        let mut since = Instant::now();
        loop {
            let answer = self.asker.client.get("/v1/ca").await?;
            let ca: Ca = read(answer.clone())?;
            let stands = ca.rotation.as_ref().map(|rotation| (rotation.phase, rotation.waits_for().count()));
            if stands != standing {
                (standing, since) = (stands, Instant::now());
            }
            if let Some(rotation) = &ca.rotation {
                self.tell(rotation);
            }
            match next(&ca, &self.root, &self.args.fence, since.elapsed(), self.args.wait) {
                Next::Done => return Ok(answer),
                Next::Advance => self.advance(&ca, Patience { until: since + self.args.wait }).await?,
                Next::Wait => {}
                Next::Blocked(clusters) => return Err(blocked(&clusters)),
                Next::Unsigned(clusters) => return Err(unsigned(&clusters)),
                Next::GivenUp => {
                    return Err(CliError::Failed(
                        "the rotation was given up meanwhile (`isthmus ca rotate --abort`)".to_owned(),
                    ));
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn advance(&self, ca: &Ca, mut patience: Patience) -> Result<(), CliError> {
        let Some(Rotation { phase: from, .. }) = ca.rotation else { return Ok(()) };
        let request = Advance { root: self.root, from, fence: self.args.fence.clone() };
        match self.asker.client.post("/v1/ca/rotation/advance", &request).await {
            Err(error @ CliError::Unavailable(_)) => patience.endure(error).await,
            answer => {
                let RotationChanged { changed, fenced } = read(answer?)?;
                for cluster in fenced {
                    tell(format_args!("isthmus: fenced {cluster}"));
                }
                if changed {
                    tell(match from {
                        Phase::Distribute => "isthmus: every cluster trusts the new root, which signs from now on",
                        Phase::Reissue => "isthmus: everything is signed by the new root; the old one is retired",
                    });
                }
                Ok(())
            }
        }
    }

    /// Tells the progress of each cluster when it changed, and again now and then.
    fn tell(&mut self, rotation: &Rotation) {
        let clusters: Vec<String> = rotation
            .clusters
            .iter()
            .map(|cluster| {
                let state = match (cluster.done, cluster.unsigned, cluster.reach) {
                    (true, ..) => "done",
                    (false, true, _) => "unsigned",
                    (false, false, Reach::Down) => "missing, down",
                    (false, false, _) => "waiting",
                };
                format!("{} {state}", cluster.name)
            })
            .collect();
        let text = format!("isthmus: {}: {}", phase(rotation.phase), clusters.join("; "));
        let stale = |(told, at): &(String, Instant)| *told != text || at.elapsed() >= TELL_INTERVAL;
        if self.told.as_ref().is_none_or(stale) {
            tell(&text);
            if rotation.waits_for().any(|cluster| cluster.unsigned) {
                tell(OFFLINE);
            }
            self.told = Some((text, Instant::now()));
        }
    }
}

/// What an operator does while the root that signs is offline.
const OFFLINE: &str = "isthmus: their requests wait for the root, whose key is offline: isthmus ca pending --export requests.json, \
     there isthmus ca sign, and here isthmus ca import";

fn unsigned(clusters: &[ClusterName]) -> CliError {
    let names: Vec<&str> = clusters.iter().map(|cluster| cluster.as_str()).collect();
    CliError::Failed(format!(
        "the rotation waits until the root, whose key is offline, has signed for {}; nothing is lost, both roots are trusted meanwhile.\n\
         Export the requests (`isthmus ca pending --export FILE`), sign them where the key is, import the answer, and run this again.",
        names.join(", ")
    ))
}

fn blocked(clusters: &[ClusterName]) -> CliError {
    let names: Vec<&str> = clusters.iter().map(|cluster| cluster.as_str()).collect();
    let flags: Vec<String> = names.iter().map(|name| format!("--fence {name}")).collect();
    CliError::Failed(format!(
        "the rotation waits for {}, and goes no further without it: nothing is lost, both roots are trusted meanwhile.\n\
         Bring it back and run this again, or cut it off for good with `isthmus ca rotate {}`.",
        names.join(", "),
        flags.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use isthmus_model::time::UnixMillis;
    use serde_json::json;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn standing(west: (bool, &str)) -> Ca {
        let cluster = |name: &str, done: bool, reach: &str| json!({ "name": name, "reach": reach, "done": done, "unsigned": false, "gateways": [] });
        let (old, new) = ("11".repeat(32), "22".repeat(32));
        let root = |key: &str| json!({ "key": key, "subject": "", "not_after": UnixMillis(0), "signs": true, "custody": "sealed", "keepers": [] });
        let clusters = [cluster("us-east", true, "up"), cluster("us-west", west.0, west.1)];
        let rotation = json!({ "root": new, "phase": "distribute", "started_at": 0, "clusters": clusters });
        let ca = json!({ "roots": [root(&old), root(&new)], "rotation": rotation, "outdated_tokens": 0 });
        serde_json::from_value(ca).expect("valid")
    }

    #[test]
    fn missing_clusters_are_waited_for_and_then_block_or_are_fenced() {
        let (root, west) = (Digest([0x22; 32]), vec!["us-west".parse().expect("valid")]);
        let next = |ca: &Ca, fence: &[ClusterName], waited| super::next(ca, &root, fence, waited, PATIENCE);
        assert_eq!(next(&standing((true, "up")), &[], Duration::ZERO), Next::Advance);
        for reach in ["up", "down"] {
            let ca = standing((false, reach));
            assert_eq!(next(&ca, &west, Duration::ZERO), Next::Wait, "{reach}: it gets its chance, fence or not");
            assert_eq!(next(&ca, &[], PATIENCE), Next::Blocked(west.clone()), "{reach}");
            assert_eq!(next(&ca, &west, PATIENCE), Next::Advance, "{reach}");
        }
        assert_eq!(next(&standing((false, "up")), &[], DOWN_PATIENCE), Next::Wait);
        assert_eq!(next(&standing((false, "down")), &[], DOWN_PATIENCE), Next::Blocked(west.clone()));
        // Not fenced for want of the operator's own signature.
        let mut ca = standing((false, "up"));
        ca.rotation.as_mut().expect("under way").clusters[1].unsigned = true;
        assert_eq!(next(&ca, &west, DOWN_PATIENCE), Next::Wait);
        assert_eq!(next(&ca, &west, PATIENCE), Next::Unsigned(west.clone()));
        let text = blocked(&west).to_string();
        assert!(text.contains("waits for us-west") && text.contains("--fence us-west"), "{text}");
    }

    #[test]
    fn a_rotation_is_over_when_only_its_root_is_left_and_given_up_when_that_is_gone() {
        let mut ca = standing((true, "up"));
        ca.rotation = None;
        let root = Digest([0x22; 32]);
        assert_eq!(next(&ca, &root, &[], Duration::ZERO, PATIENCE), Next::Done);
        ca.roots.pop();
        assert_eq!(next(&ca, &root, &[], Duration::ZERO, PATIENCE), Next::Wait, "not heard of yet");
        assert_eq!(next(&ca, &root, &[], DOWN_PATIENCE, PATIENCE), Next::GivenUp);
    }
}
