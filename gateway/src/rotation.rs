//! This gateway's part of a change of root: it tells the federation when it and its sidecars have done what the
//! present phase asks.
//!
//! | phase | the gateway | its sidecars |
//! | --- | --- | --- |
//! | distribute | trusts the new root | have acknowledged a view with the new root |
//! | re-issue | has certificates of the new root | have a certificate of the new intermediate |
//!
//! A sidecar that does not follow is detached, comes back and gets everything anew; in the end it is not waited for,
//! so that one broken sidecar does not keep a federation from retiring a root.

use std::sync::Arc;
use std::time::Duration;

use isthmus_federation::Handle;
use isthmus_identity::{LiveAuthority, LiveIdentity};
use isthmus_model::command::Command;
use isthmus_model::registry::Registry;
use isthmus_model::registry::node::NodeId;
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::Phase;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::control::{Attached, Wanted};

/// How often the own part is looked at while there is one: sidecars answer within milliseconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long the sidecars of a gateway that just started may take to come back: a sidecar's longest wait between
/// attempts (2 s), 5 s for one that fails to connect elsewhere, and 5 s to greet. They must not miss the new root because
/// their gateway restarted.
const RETURN_WITHIN: Duration = Duration::from_secs(12);
/// How long a sidecar may take for what it is asked before it is detached.
const SIDECAR_PATIENCE: Duration = Duration::from_secs(30);
/// After this long without all of its sidecars, the gateway goes on without the rest. Those that were detached had
/// the time to come back and be asked once more.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(60);

/// What keeps a gateway's part of a rotation.
pub struct OwnRotation {
    node: NodeId,
    handle: Handle,
    identity: LiveIdentity,
    authority: LiveAuthority,
    attached: Attached,
}

/// A phase of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Present {
    root: Digest,
    certificate: Vec<u8>,
    phase: Phase,
    acknowledged: bool,
}

fn present(registry: &Registry, node: NodeId) -> Option<Present> {
    let trust = registry.trust()?;
    let (rotation, root) = (trust.rotation()?, trust.roots().last()?);
    let (phase, acknowledged) = (rotation.phase, rotation.done.contains(&node));
    Some(Present { root: root.key, certificate: root.certificate.0.clone(), phase, acknowledged })
}

/// Whether the gateway's certificates in use are the new root's.
fn is_reissued(registry: &Registry, node: NodeId, root: &Digest, authority: &Digest) -> bool {
    let latest = registry.nodes().get(&node).and_then(|node| node.latest());
    latest.is_some_and(|issued| issued.certificates.root == *root && issued.authority_key == *authority)
}

/// What to do about sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Wait,
    Detach,
    Acknowledge,
}

/// `lacking` sidecars have not followed `since_asked` they are asked; the gateway started `since_start` ago.
fn step(lacking: usize, since_asked: Duration, since_start: Duration) -> Step {
    match lacking {
        _ if since_start < RETURN_WITHIN => Step::Wait,
        0 => Step::Acknowledge,
        _ if since_asked >= GIVEN_UP_AFTER => Step::Acknowledge,
        _ if since_asked >= SIDECAR_PATIENCE => Step::Detach,
        _ => Step::Wait,
    }
}

impl OwnRotation {
    /// That of gateway `node`, which trusts as `identity` does and signs for its sidecars with `authority`.
    #[must_use]
    pub fn new(node: NodeId, handle: Handle, identity: LiveIdentity, authority: LiveAuthority) -> Self {
        Self { node, handle, identity, authority, attached: Attached::default() }
    }

    /// What signs for sidecars.
    #[must_use]
    pub fn authority(&self) -> &LiveAuthority {
        &self.authority
    }

    /// The gateway's sidecars.
    #[must_use]
    pub fn attached(&self) -> &Attached {
        &self.attached
    }

    /// Does the gateway's part of every rotation until told to stop.
    pub async fn keep(self, shutdown: CancellationToken) {
        let started = Instant::now();
        let mut registry: watch::Receiver<Arc<Registry>> = self.handle.registry();
        let mut asked: Option<(Wanted, Instant)> = None;
        loop {
            let current = registry.borrow_and_update().clone();
            let present = present(&current, self.node);
            let wanted = present.as_ref().and_then(|present| self.wanted(&current, present));
            // Asked also once this gateway has acknowledged: sidecars may come from another gateway of the cluster.
            self.attached.ask_for(match &wanted {
                Some(Wanted::CertifiedBy(key)) => Some(*key),
                _ => None,
            });
            let open = present.as_ref().filter(|present| !present.acknowledged);
            asked = open.and(wanted).map(|wanted| {
                let since = asked.filter(|(before, _)| *before == wanted).map(|(_, since)| since);
                (wanted, since.unwrap_or_else(Instant::now))
            });
            if let (Some(present), Some((wanted, since))) = (open, &asked) {
                self.follow(present, wanted, since.elapsed(), started.elapsed()).await;
            }
            let look_again = async {
                match open {
                    Some(_) => tokio::time::sleep(LOOK_INTERVAL).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = look_again => {}
                changed = registry.changed() => if changed.is_err() { return },
            }
        }
    }

    /// What the phase asks of sidecars, once the gateway has done its own part.
    fn wanted(&self, registry: &Registry, present: &Present) -> Option<Wanted> {
        match present.phase {
            Phase::Distribute => {
                let trust = self.identity.trust()?;
                let trusted = trust.roots().any(|root| root == present.certificate);
                trusted.then(|| Wanted::Trust(present.certificate.clone()))
            }
            Phase::Reissue => {
                let authority = self.authority.current().key_digest();
                let reissued = is_reissued(registry, self.node, &present.root, &authority);
                reissued.then_some(Wanted::CertifiedBy(authority))
            }
        }
    }

    async fn follow(&self, present: &Present, wanted: &Wanted, since_asked: Duration, since_start: Duration) {
        let lacking = self.attached.lacking(wanted);
        match step(lacking, since_asked, since_start) {
            Step::Wait => {}
            Step::Detach => self.attached.detach_lacking(wanted, SIDECAR_PATIENCE),
            Step::Acknowledge => {
                if lacking > 0 {
                    tracing::warn!(lacking, "going on with the new root without some sidecars");
                    self.attached.detach_lacking(wanted, Duration::ZERO);
                }
                let Present { root, phase, .. } = *present;
                match self.handle.propose(Command::Acknowledge { node: self.node, root, phase }).await {
                    Ok(_) => tracing::info!(%root, ?phase, "this gateway and its sidecars follow the new root"),
                    Err(error) => tracing::warn!(%error, "the federation does not know yet that this gateway follows"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::command::Entry;
    use isthmus_model::fixture::{self, FOUNDER, ROOT};
    use isthmus_model::time::UnixMillis;

    use super::*;

    const NEW: u8 = 0xbb;

    fn apply(registry: &mut Registry, command: Command) {
        let entry = Entry { origin: "us-east".parse().expect("valid"), at: UnixMillis(1), command };
        registry.apply(&entry).expect("a legal command");
    }

    #[test]
    fn a_gateway_waits_for_its_sidecars_but_not_for_ever() {
        let (just, long) = (Duration::ZERO, RETURN_WITHIN);
        assert_eq!(step(0, just, just), Step::Wait, "its sidecars may be on their way back");
        assert_eq!(step(0, just, long), Step::Acknowledge);
        assert_eq!(step(1, just, long), Step::Wait);
        assert_eq!(step(1, SIDECAR_PATIENCE, long), Step::Detach);
        assert_eq!(step(1, GIVEN_UP_AFTER, long), Step::Acknowledge);
    }

    #[test]
    fn certificates_count_only_when_they_are_the_new_roots_and_in_use() {
        let mut registry = Registry::default();
        let founder = fixture::introduction("us-east", "gw-1", "r1", 1);
        apply(&mut registry, fixture::found("acme.mesh".parse().expect("valid"), founder));
        assert_eq!(present(&registry, FOUNDER), None);
        apply(&mut registry, Command::StartRotation { root: fixture::root(NEW, [FOUNDER]) });
        let root = Digest([NEW; 32]);
        let told = present(&registry, FOUNDER).expect("a rotation");
        assert_eq!((told.root, told.phase, told.acknowledged), (root, Phase::Distribute, false));
        apply(&mut registry, Command::Acknowledge { node: FOUNDER, root, phase: Phase::Distribute });
        assert!(present(&registry, FOUNDER).expect("a rotation").acknowledged);
        apply(&mut registry, Command::AdvanceRotation { root, from: Phase::Distribute });
        let (old, new) = (fixture::requests(1).authority_key, fixture::requests(7).authority_key);
        assert!(is_reissued(&registry, FOUNDER, &Digest([ROOT; 32]), &old));
        assert!(!is_reissued(&registry, FOUNDER, &root, &old));
        apply(&mut registry, Command::RequestCertificates { node: FOUNDER, requests: fixture::requests(7) });
        apply(&mut registry, fixture::issue(FOUNDER, 7, NEW));
        assert!(!is_reissued(&registry, FOUNDER, &root, &old), "agreed, but not taken up yet");
        assert!(is_reissued(&registry, FOUNDER, &root, &new));
    }
}
