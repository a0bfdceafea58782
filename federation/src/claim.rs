//! Who may speak as which replica.
//!
//! A Raft message says which node sent it, and a vote is counted for that node. The Raft library believes it; so
//! what the message claims is held against the certificate of the connection that it came over.

use isthmus_model::registry::node::NodeId;
use isthmus_model::spiffe::{Principal, SpiffeId};
use tonic::Status;

use crate::raft_types::Peer;

/// Whether the gateway `caller` may send messages as the node `claimed`, which the Raft membership knows as `member`.
/// A node that the membership does not know yet passes: a replica that lags behind learns of new members only from
/// the log, which such a member may be the one to send.
///
/// # Errors
/// `PERMISSION_DENIED` when the node is another gateway.
pub(crate) fn check(caller: &SpiffeId, claimed: NodeId, member: Option<&Peer>) -> Result<(), Status> {
    let Some(Peer(Some(member))) = member else { return Ok(()) };
    let same_gateway = matches!(&caller.principal, Principal::Gateway(name) if *name == member.gateway);
    if same_gateway && caller.trust_domain.cluster == member.cluster {
        return Ok(());
    }
    let (cluster, gateway) = (&member.cluster, &member.gateway);
    Err(Status::permission_denied(format!("node {claimed} is gateway {gateway} of {cluster}, not {caller}")))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::raft_types::PeerAddress;

    fn member(cluster: &str, gateway: &str) -> Peer {
        let (cluster, gateway) = (cluster.parse().expect("valid"), gateway.parse().expect("valid"));
        Peer(Some(PeerAddress { cluster, gateway, east_west: ([10, 0, 0, 1], 15_443).into() }))
    }

    fn verdict(caller: &str, member: Option<&Peer>) -> Result<(), Code> {
        check(&caller.parse().expect("valid"), 2, member).map_err(|status| status.code())
    }

    #[test]
    fn a_gateway_speaks_for_itself_only() {
        let west = member("us-west", "gw-1");
        assert_eq!(verdict("spiffe://us-west.acme.mesh/gateway/gw-1", Some(&west)), Ok(()));
        for other in [
            "spiffe://us-east.acme.mesh/gateway/gw-1",
            "spiffe://us-west.acme.mesh/gateway/gw-2",
            "spiffe://us-west.acme.mesh/ns/gateway/sa/gw-1",
        ] {
            assert_eq!(verdict(other, Some(&west)), Err(Code::PermissionDenied), "{other}");
        }
    }

    #[test]
    fn who_is_not_known_yet_is_heard() {
        assert_eq!(verdict("spiffe://us-west.acme.mesh/gateway/gw-1", None), Ok(()));
        assert_eq!(verdict("spiffe://us-west.acme.mesh/gateway/gw-1", Some(&Peer(None))), Ok(()));
    }
}
