//! Gateways of other versions, spoken for by hand: what they send, over their own connections.

use isthmus_federation::protocol::{EARLIEST, LATEST};
use isthmus_federation::raft_types::PeerAddress;
use isthmus_wire::peer::raft_client::RaftClient;
use isthmus_wire::peer::{RaftMessage, Spoken};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::{Gateway, founder, joined, reviews, set_export};

fn spoken(earliest: u32, latest: u32) -> Option<Spoken> {
    Some(Spoken { earliest, latest, capabilities: 0, software: "9.0.0".to_owned() })
}

/// A client of `from` to `to`.
fn client(from: &Gateway, to: &Gateway) -> RaftClient<tonic::transport::Channel> {
    let (registry, node) = (to.handle.registry().borrow().clone(), to.handle.status().borrow().node);
    RaftClient::new(from.handle.dialer().channel(&PeerAddress::from(&registry.nodes()[&node])))
}

/// Of a term that is over: it is answered, and changes nothing.
fn stale_vote() -> Value {
    json!({"vote": {"leader_id": {"term": 0, "node_id": 2}, "committed": false}, "last_log_id": null})
}

fn message(format: u32, spoken: Option<Spoken>, body: &Value) -> RaftMessage {
    RaftMessage { format, spoken, body: body.to_string().into_bytes(), ..RaftMessage::default() }
}

async fn vote(from: &Gateway, to: &Gateway, format: u32, spoken: Option<Spoken>) -> Result<RaftMessage, Status> {
    let reply = client(from, to).vote(message(format, spoken, &stale_vote())).await?.into_inner();
    let answer: Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert!(answer["Ok"]["vote"].is_object(), "{answer}");
    Ok(reply)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_before_is_answered_and_one_that_is_too_far_away_hears_what_to_upgrade() {
    let (_east_place, east) = founder().await;
    let (_west_place, west) = joined("us-west", &east).await;
    west.stands("replication", |status| status.applied > 0).await;

    // Protocol 2 tells nothing of itself, and is answered as it understands; later ones in what both speak.
    let reply = vote(&west, &east, EARLIEST, None).await.expect("an answer");
    assert_eq!((reply.format, reply.spoken.map(|own| (own.earliest, own.latest))), (2, Some((EARLIEST, LATEST))));
    assert_eq!(vote(&west, &east, LATEST, spoken(LATEST, LATEST + 1)).await.expect("an answer").format, LATEST);
    // Who took this gateway for a later version hears what it is, and asks anew.
    let mistaken = vote(&west, &east, LATEST + 1, spoken(LATEST, LATEST + 1)).await.expect_err("refused");
    assert_eq!(mistaken.code(), Code::FailedPrecondition);
    // How it sent snapshots is no more.
    let old_leader = client(&west, &east).install_snapshot(message(2, None, &json!({}))).await.expect_err("refused");
    assert!(old_leader.message().contains("upgrade us-west/gw-1"), "{old_leader}");

    let too_new = vote(&west, &east, LATEST + 1, spoken(LATEST + 1, LATEST + 2)).await.expect_err("refused");
    assert_eq!(too_new.code(), Code::FailedPrecondition);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        too_new.message(),
        format!(
            "us-east/gw-1 (isthmus {version}) speaks protocols 2 to 3, us-west/gw-1 (isthmus 9.0.0) speaks protocols 4 to 5: \
             upgrade us-east/gw-1"
        )
    );
    let too_old = vote(&west, &east, 1, None).await.expect_err("refused");
    assert!(too_old.message().ends_with("speaks protocol 1: upgrade us-west/gw-1"), "{too_old}");
    west.stop().await;
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_only_a_newer_version_knows_is_not_taken() {
    let (_east_place, east) = founder().await;
    let (_west_place, west) = joined("us-west", &east).await;
    west.stands("replication", |status| status.applied > 0).await;
    let before = west.handle.registry().borrow().clone();
    let (term, last) = (west.handle.status().borrow().term, west.handle.status().borrow().last_log);

    let id = |index: u64| json!({"leader_id": {"term": term, "node_id": 1}, "index": index});
    let command = json!({"kind": "evacuate", "cluster": "us-west"});
    let entry =
        json!({"log_id": id(last + 1), "payload": {"Normal": {"origin": "us-east", "at": 1, "command": command}}});
    let vote = json!({"leader_id": {"term": term, "node_id": 1}, "committed": true});
    let append = json!({"vote": vote, "prev_log_id": id(last), "entries": [entry], "leader_commit": id(last + 1)});
    let refused =
        client(&east, &west).append(message(LATEST, spoken(LATEST, LATEST), &append)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("unknown variant `evacuate`"), "{refused}");
    assert!(refused.message().contains("upgrade this gateway"), "{refused}");

    // Nothing of it is in the log, and what the own leader writes goes on.
    assert_eq!(*west.handle.registry().borrow(), before);
    east.handle.propose(set_export(9080)).await.expect("agreed");
    west.sees("the export", |registry| registry.exports().contains_key(&reviews())).await;
    west.stop().await;
    east.stop().await;
}
