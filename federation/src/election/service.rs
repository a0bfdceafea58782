//! What other voters ask.

use isthmus_wire::peer::{Candidacy, Opinion, Standing, election_server};
use openraft::CommittedLeaderId;
use tonic::{Request, Response, Status};

use super::{Election, voters};
use crate::caller;
use crate::claim;
use crate::raft_types::LogId;

/// Answers voters.
pub(crate) struct ElectionService(Election);

impl ElectionService {
    pub(crate) fn new(election: Election) -> Self {
        Self(election)
    }

    /// A candidacy of a member, as whom it says.
    fn receive(&self, request: Request<Candidacy>) -> Result<Candidacy, Status> {
        let caller = caller::gateway(&request)?;
        let candidacy = request.into_inner();
        self.0.lineage.check(&candidacy.lineage, &caller)?;
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow();
        let member = metrics.membership_config.membership().get_node(&candidacy.node);
        if member.is_none() {
            return Err(Status::permission_denied("the registry has no such replica"));
        }
        claim::check(caller.id(), candidacy.node, member)?;
        self.0.clocks.note(candidacy.node, candidacy.clock_ms, None);
        Ok(candidacy)
    }
}

/// The last entry of a candidate.
fn last_of(candidacy: &Candidacy) -> Option<LogId> {
    let Candidacy { term, leader, index, .. } = *candidacy;
    (term > 0).then(|| LogId::new(CommittedLeaderId::new(term, leader), index))
}

#[tonic::async_trait]
impl election_server::Election for ElectionService {
    async fn canvass(&self, request: Request<Candidacy>) -> Result<Response<Opinion>, Status> {
        let candidacy = self.receive(request)?;
        let election = &self.0;
        let has_all = last_of(&candidacy) >= election.last_entry().await;
        let (own, voters) = {
            let metrics = election.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.id, voters(&metrics))
        };
        let distance = election.own_distance(own, &voters);
        Ok(Response::new(Opinion {
            would_vote: has_all && election.is_abandoned(),
            clock_ms: Some(election.clocks.own().0),
            distance_us: distance.map(|distance| u64::try_from(distance.as_micros()).unwrap_or(u64::MAX)),
        }))
    }

    async fn stand(&self, request: Request<Candidacy>) -> Result<Response<Standing>, Status> {
        let candidacy = self.receive(request)?;
        let leader = self.0.raft.metrics().borrow().current_leader;
        if leader != Some(candidacy.node) {
            return Err(Status::failed_precondition("only the leader gives its place away"));
        }
        if !self.0.clocks.is_fit() {
            return Err(Status::failed_precondition("this gateway's clock is not that of the gateways that vote"));
        }
        tracing::info!(from = candidacy.node, "this gateway is handed the registry's lead: it stands for election");
        self.0.stand().await;
        Ok(Response::new(Standing {}))
    }
}
