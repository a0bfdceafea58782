//! What a member that does too much cannot do to the others.

use super::*;

#[test]
fn a_cluster_that_does_much_covers_up_nothing_that_others_did() {
    let mut fed = Federated::of_two();
    let of_east = |record: &&audit::Record| {
        record.origin == cluster("us-east")
            && !matches!(record.event, Event::TokenRedeemed { .. } | Event::Certified { .. })
    };
    let others: Vec<_> = fed.registry.audit().iter().filter(of_east).cloned().collect();
    for number in 0..2 * audit::RECORDS_MAX {
        let drain = Command::Drain { cluster: cluster("us-west"), draining: number % 2 == 0 };
        fed.changes("us-west", drain);
    }
    let audit = fed.registry.audit();
    assert_eq!(audit.len(), audit::RECORDS_MAX);
    assert_eq!(audit.iter().filter(of_east).cloned().collect::<Vec<_>>(), others);
    // It also causes records in the name of those who take it in.
    for number in 0..audit::RECORDS_MAX {
        let requests = requests(u8::try_from(20 + number % 2 * 50).expect("small"));
        fed.changes("us-west", Command::RequestCertificates { node: 2, requests: requests.clone() });
        let certificates = node::Certificates { not_after: UnixMillis(fed.now), ..fixture::certificates(ROOT) };
        let authority_key = requests.authority_key;
        fed.changes("us-east", Command::Issue { node: 2, authority_key, certificates });
        fed.now += 1;
    }
    assert_eq!(fed.registry.audit().iter().filter(of_east).cloned().collect::<Vec<_>>(), others);
}

#[test]
fn a_cluster_cannot_push_denied_keys_out_by_asking_again_and_again() {
    let mut fed = Federated::of_two();
    let stolen = fed.joins(2, "eu-central", 3);
    fed.changes("us-east", Command::Fence { cluster: cluster("eu-central"), why: String::new() });
    assert!(fed.registry.nodes().get(&stolen).is_none());
    let of_stolen = requests(3);
    let ask = |number: usize| {
        let key = |role: u8| {
            let mut digest = Digest([role; 32]);
            digest.0[..8].copy_from_slice(&number.to_be_bytes());
            digest
        };
        let requests = node::Requests { gateway_key: key(0xf0), authority_key: key(0xf1), ..requests(9) };
        Command::RequestCertificates { node: 2, requests }
    };
    let refused = (0..).map(ask).map(|ask| fed.apply("us-west", ask)).find_map(Result::err);
    assert_eq!(
        refused,
        Some(limit("keys of one cluster that are not trusted any more", departure::DENIED_BY_ITSELF_MAX))
    );
    for key in [of_stolen.gateway_key, of_stolen.authority_key] {
        assert!(fed.registry.denied().contains_key(&key));
    }
    // Even where many do so, whoever has the most goes short.
    let flood = (0..departure::DENIED_MAX).map(|number| {
        let mut key = Digest([0xee; 32]);
        key.0[..8].copy_from_slice(&number.to_be_bytes());
        (key, departure::Denied { cluster: cluster("us-west"), until: UnixMillis(u64::MAX) })
    });
    fed.registry.denied.extend(flood.take(departure::DENIED_MAX - fed.registry.denied.len()).collect::<Vec<_>>());
    let late = Digest([0xdd; 32]);
    fed.registry.deny_key(late, &cluster("us-east"), UnixMillis(u64::MAX), UnixMillis(fed.now));
    assert_eq!(fed.registry.denied().len(), departure::DENIED_MAX);
    for key in [of_stolen.gateway_key, of_stolen.authority_key, late] {
        assert!(fed.registry.denied().contains_key(&key));
    }
}
