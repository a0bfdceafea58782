//! What a token admits, and what it tells to whom.

use super::*;

#[test]
fn a_join_token_admits_once_and_the_same_key_again() {
    let mut fed = Federated::of_two();
    assert_eq!(fed.registry.clusters().len(), 2);
    // The answer was lost: the newcomer asks again and hears the same, without a second node.
    let revision = fed.registry.revision();
    let again = redeem(1, introduction("us-west", 2));
    assert_eq!(fed.apply("us-west", again.clone()), Ok(Outcome::Admitted { node: 2 }));
    assert_eq!(fed.registry.nodes().len(), 2);
    assert_eq!(fed.registry.revision(), revision, "a repeated redemption changes nothing");
    // Somebody else with the same token.
    fed.refuses("us-east", redeem(1, introduction("us-west", 3)), Refusal::TokenUsed);
    // Later than the token's end, the same key still resumes, and others still hear that it was used.
    fed.now = 11 * MINUTE;
    assert_eq!(fed.apply("us-east", again), Ok(Outcome::Admitted { node: 2 }));
    fed.refuses("us-east", redeem(1, introduction("us-west", 3)), Refusal::TokenUsed);
}

#[test]
fn a_used_token_does_not_bring_back_a_gateway_that_was_replaced() {
    let mut fed = Federated::of_two();
    fed.changes("us-west", mint(2, join("us-west")));
    assert_eq!(fed.apply("us-east", redeem(2, introduction("us-west", 3))), Ok(Outcome::Admitted { node: 3 }));
    assert_eq!(fed.registry.nodes().keys().copied().collect::<Vec<_>>(), [1, 3], "node 2 was replaced");
    fed.refuses("us-east", redeem(1, introduction("us-west", 2)), Refusal::TokenUsed);
}

#[test]
fn every_bad_token_has_its_own_refusal() {
    let mut fed = Federated::new();
    fed.changes("us-east", mint(1, join("us-west")));
    fed.changes("us-east", mint(2, workload("us-east")));
    fed.changes("us-east", mint(3, join("us-west")));
    fed.changes("us-east", Command::RevokeToken { id: token_id(3) });
    let west = || introduction("us-west", 2);

    fed.refuses("us-east", redeem(9, west()), Refusal::TokenUnknown);
    let tampered = Command::RedeemToken { id: token_id(1), secret_hash: Digest([8; 32]), newcomer: west(), from: None };
    fed.refuses("us-east", tampered, Refusal::TokenSecretMismatch);
    let wrong = Refusal::TokenWrongCluster { granted: cluster("us-west"), presented: cluster("eu-central") };
    fed.refuses("us-east", redeem(1, introduction("eu-central", 2)), wrong);
    fed.refuses("us-east", redeem(2, introduction("us-east", 2)), Refusal::TokenWrongKind);
    fed.refuses("us-east", redeem(3, west()), Refusal::TokenRevoked);
    fed.now = 10 * MINUTE - 1;
    let mut in_time = fed.registry.clone();
    assert!(in_time.apply(&entry("us-east", fed.now, redeem(1, west()))).is_ok(), "the last valid moment");
    fed.now += 1;
    fed.refuses("us-east", redeem(1, west()), Refusal::TokenExpired);
}

#[test]
fn nothing_about_a_token_is_told_without_its_secret() {
    let mut fed = Federated::of_two();
    fed.changes("us-east", mint(2, workload("us-east")));
    fed.changes("us-east", mint(3, join("eu-central")));
    fed.changes("us-east", Command::RevokeToken { id: token_id(3) });
    for number in 1..=3 {
        let guess = Command::RedeemToken {
            id: token_id(number),
            secret_hash: Digest([0; 32]),
            newcomer: introduction("nowhere", 9),
            from: None,
        };
        fed.refuses("us-east", guess, Refusal::TokenSecretMismatch);
        let token = fed.registry.token(&token_id(number)).expect("on record");
        let vouched = token.vouches(&Digest([0; 32]), &cluster("us-east"), UnixMillis(1));
        assert_eq!(vouched, Err(Refusal::TokenSecretMismatch));
    }
}

#[test]
fn revoking_works_until_a_token_is_used() {
    let mut fed = Federated::of_two();
    fed.refuses("us-east", Command::RevokeToken { id: token_id(1) }, Refusal::TokenUsed);
    fed.changes("us-east", mint(2, join("eu-central")));
    fed.changes("us-east", Command::RevokeToken { id: token_id(2) });
    fed.leaves_as_is("us-east", Command::RevokeToken { id: token_id(2) });
    // Another's token is not a member's to revoke, unless it administers.
    fed.changes("us-east", mint(4, join("eu-central")));
    fed.changes("us-west", Command::RevokeToken { id: token_id(4) });
    let revoked_at = |fed: &Federated, number| fed.registry.token(&token_id(number)).expect("on record").revoked_at;
    assert_eq!(revoked_at(&fed, 4), None);
    fed.changes("us-west", mint(3, workload("us-west")));
    fed.changes("us-east", Command::RevokeToken { id: token_id(3) });
    assert!(revoked_at(&fed, 3).is_some() && fed.registry.is_withdrawn(&cluster("us-west"), &token_id(3)));
}

#[test]
fn what_a_token_vouched_for_is_taken_back_when_its_record_is_gone_and_by_its_own_cluster_alone() {
    let mut fed = Federated::of_two();
    let (east, west) = (cluster("us-east"), cluster("us-west"));
    fed.changes("us-west", mint(2, workload("us-west")));
    // Long after its end, its record is swept; what came by it is renewed still.
    fed.now = UnixMillis(10 * MINUTE).saturating_add(2 * TOKEN_RECORD_KEPT).0;
    let late = |number: u8, of: &str| {
        let mut mint = mint(number, workload(of));
        if let Command::MintToken { expires_at, .. } = &mut mint {
            *expires_at = UnixMillis(u64::MAX);
        }
        mint
    };
    fed.changes("us-east", late(3, "us-east"));
    assert_eq!(fed.registry.token(&token_id(2)).err(), Some(Refusal::TokenUnknown));
    assert!(!fed.registry.is_withdrawn(&west, &token_id(2)));
    // Every member knows the id. Whatever another one does with it ends nothing of us-west's.
    fed.changes("us-east", late(2, "us-east"));
    fed.changes("us-east", Command::RevokeToken { id: token_id(2) });
    assert!(fed.registry.is_withdrawn(&east, &token_id(2)) && !fed.registry.is_withdrawn(&west, &token_id(2)));
    // Nor does it keep us-west from ending it.
    fed.changes("us-west", Command::RevokeToken { id: token_id(2) });
    fed.leaves_as_is("us-west", Command::RevokeToken { id: token_id(2) });
    assert!(fed.registry.is_withdrawn(&west, &token_id(2)));
    // It is forgotten when no gateway can be left that renews what came by it.
    fed.now = UnixMillis(fed.now).saturating_add(voucher::WITHDRAWN_KEPT).0;
    fed.changes("us-west", Command::RevokeToken { id: token_id(9) });
    assert!(!fed.registry.is_withdrawn(&west, &token_id(2)) && fed.registry.is_withdrawn(&west, &token_id(9)));
}

#[test]
fn a_cluster_has_so_many_tokens_taken_back_and_no_more() {
    let mut fed = Federated::new();
    let id = |number: u64| TokenId::from_random(number.to_be_bytes());
    for number in 0..=voucher::WITHDRAWN_PER_CLUSTER_MAX as u64 {
        fed.now += 1;
        fed.changes("us-east", Command::RevokeToken { id: id(number) });
    }
    let withdrawn = |number| fed.registry.is_withdrawn(&cluster("us-east"), &id(number));
    assert!(!withdrawn(0) && withdrawn(1) && withdrawn(voucher::WITHDRAWN_PER_CLUSTER_MAX as u64));
}

#[test]
fn a_workload_token_vouches_many_times_until_it_ends() {
    let mut fed = Federated::of_two();
    fed.changes("us-west", mint(2, workload("us-west")));
    fed.changes("us-west", mint(3, workload("us-west")));
    fed.changes("us-west", Command::RevokeToken { id: token_id(3) });
    let (west, soon) = (cluster("us-west"), UnixMillis(MINUTE));
    let vouched = |number, cluster, at| {
        let token = fed.registry.token(&token_id(number)).expect("on record");
        token.vouches(&SECRET, cluster, at).map(ToString::to_string)
    };
    assert_eq!(vouched(2, &west, soon).as_deref(), Ok("shop/reviews"));
    assert_eq!(vouched(2, &west, soon).as_deref(), Ok("shop/reviews"), "a second sidecar of the workload");
    assert_eq!(vouched(2, &west, UnixMillis(10 * MINUTE)), Err(Refusal::TokenExpired));
    assert_eq!(vouched(3, &west, soon), Err(Refusal::TokenRevoked));
    assert_eq!(vouched(1, &west, soon), Err(Refusal::TokenWrongKind));
    let wrong = Refusal::TokenWrongCluster { granted: west.clone(), presented: cluster("us-east") };
    assert_eq!(vouched(2, &cluster("us-east"), soon), Err(wrong));
}

#[test]
fn a_cluster_mints_workload_tokens_only_for_itself() {
    let mut fed = Federated::of_two();
    let refusal = || Refusal::NotOwner { origin: cluster("us-west") };
    fed.refuses("us-west", mint(2, workload("us-east")), refusal());
    fed.refuses("us-west", mint(2, workload("nowhere")), refusal());
    // Not even an administrator: sidecars get their identity from their own gateway alone.
    fed.refuses("us-east", mint(2, workload("us-west")), Refusal::NotOwner { origin: cluster("us-east") });
}

#[test]
fn minting_again_is_idempotent_and_another_token_of_the_same_id_conflicts() {
    let mut fed = Federated::new();
    fed.changes("us-east", mint(1, join("us-west")));
    fed.now = 2;
    fed.leaves_as_is("us-east", mint(1, join("us-west")));
    fed.refuses("us-east", mint(1, join("eu-central")), Refusal::TokenConflict);
    let mut later = mint(1, join("us-west"));
    if let Command::MintToken { expires_at, .. } = &mut later {
        *expires_at = UnixMillis(20 * MINUTE);
    }
    fed.refuses("us-east", later, Refusal::TokenConflict);
}

#[test]
fn tokens_are_limited_and_the_long_expired_make_room() {
    let mut fed = Federated::new();
    let token = Token {
        secret_hash: SECRET,
        grant: join("us-west"),
        minted_by: cluster("us-east"),
        minted_at_gateway: gateway("gw-1"),
        root: Digest([ROOT; 32]),
        minted_at: UnixMillis(1),
        expires_at: UnixMillis(10 * MINUTE),
        revoked_at: None,
        redemptions: Vec::new(),
    };
    let id = |number: usize| TokenId::from_random((number as u64 + 1).to_be_bytes());
    fed.registry.tokens = (0..TOKENS_PER_CLUSTER_MAX).map(|number| (id(number), token.clone())).collect();
    fed.refuses("us-east", mint(255, join("us-east")), limit("tokens of one cluster", TOKENS_PER_CLUSTER_MAX));
    fed.registry.tokens = (0..TOKENS_MAX).map(|number| (id(number), token.clone())).collect();
    fed.refuses("us-east", mint(255, join("eu-central")), limit("tokens", TOKENS_MAX));
    // A day after their end their records go; a refused mint does not sweep either.
    fed.now = UnixMillis(10 * MINUTE).saturating_add(TOKEN_RECORD_KEPT).0;
    fed.refuses("us-east", mint(255, workload("us-west")), Refusal::NotOwner { origin: cluster("us-east") });
    let mut fresh = mint(255, join("eu-central"));
    if let Command::MintToken { expires_at, .. } = &mut fresh {
        *expires_at = UnixMillis(u64::MAX);
    }
    fed.changes("us-east", fresh);
    assert_eq!(fed.registry.tokens().len(), 1);
    fed.refuses("us-east", redeem(1, introduction("us-west", 2)), Refusal::TokenUnknown);
}

#[test]
fn a_token_is_on_record_as_long_as_someone_waits_by_it() {
    let mut fed = Federated::new();
    fed.changes("us-east", mint(1, join("us-west")));
    assert_eq!(fed.apply("us-east", redeem(1, introduction("us-west", 2))), Ok(Outcome::Admitted { node: 2 }));
    let sweep = |fed: &mut Federated, number| {
        let mut fresh = mint(number, join("eu-central"));
        if let Command::MintToken { expires_at, .. } = &mut fresh {
            *expires_at = UnixMillis(u64::MAX);
        }
        fed.changes("us-east", fresh);
    };
    fed.now = UnixMillis(10 * MINUTE).saturating_add(7 * TOKEN_RECORD_KEPT).0;
    sweep(&mut fed, 2);
    assert_eq!(fed.apply("us-east", redeem(1, introduction("us-west", 2))), Ok(Outcome::Admitted { node: 2 }));
    fed.changes("us-east", crate::fixture::issue(2, 2, crate::fixture::ROOT));
    sweep(&mut fed, 3);
    fed.refuses("us-east", redeem(1, introduction("us-west", 2)), Refusal::TokenUnknown);
}

#[test]
fn a_token_holds_to_its_region_its_addresses_and_its_number_of_uses() {
    let mut fed = Federated::new();
    let west = |key| Introduction { gateway: gateway(&format!("gw-{key}")), ..introduction("us-west", key) };
    fed.changes(
        "us-east",
        mint(1, invite("us-west", |to| (to.cluster, to.region) = (None, Some(gateway("us-east-1"))))),
    );
    let elsewhere = fixture::introduction("us-west", "gw-1", "mars-1", 2);
    let refusal = Refusal::TokenWrongRegion { granted: gateway("us-east-1"), presented: gateway("mars-1") };
    fed.refuses("us-east", redeem(1, elsewhere), refusal);
    assert!(fed.apply("us-east", redeem(1, west(2))).is_ok(), "any cluster of the region");

    let net = Some("10.1.0.0/16".parse().expect("a range"));
    fed.changes("us-east", mint(2, invite("us-west", |to| (to.from, to.uses) = (net, 2))));
    for outside in [None, Some("10.2.0.1".parse().expect("valid")), Some("::1".parse().expect("valid"))] {
        fed.refuses("us-east", redeem_from(2, west(3), outside), Refusal::TokenWrongSource);
    }
    let inside = Some("::ffff:10.1.2.3".parse().expect("valid"));
    for key in [3, 4, 3] {
        assert!(fed.apply("us-east", redeem_from(2, west(key), inside)).is_ok(), "{key}");
    }
    fed.refuses("us-east", redeem_from(2, west(5), inside), Refusal::TokenUsed);
    let used = fed.registry.token(&token_id(2)).expect("on record").redemptions.clone();
    assert_eq!(used.iter().map(|one| (one.node, one.from)).collect::<Vec<_>>(), [(3, inside), (4, inside)]);

    for uses in [0, TOKEN_USES_MAX + 1] {
        let refusal = limit("uses of one token", TOKEN_USES_MAX as usize);
        fed.refuses("us-east", mint(3, invite("us-west", |to| to.uses = uses)), refusal);
    }
}
