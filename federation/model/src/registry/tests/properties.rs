//! What holds for any sequence of entries, however senseless.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const CLUSTERS: [&str; 4] = ["us-east", "us-west", "eu-central", "nowhere"];

fn any_cluster() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&CLUSTERS[..])
}

fn any_introduction() -> impl Strategy<Value = Introduction> {
    (any_cluster(), 0..4_u8, 1..3_u8)
        .prop_map(|(name, key, gateway)| Introduction { gateway: gateway_name(gateway), ..introduction(name, key) })
}

fn gateway_name(number: u8) -> Label {
    gateway(&format!("gw-{number}"))
}

fn any_grant() -> impl Strategy<Value = Grant> {
    (any_cluster(), any::<bool>()).prop_map(|(name, joins)| if joins { join(name) } else { workload(name) })
}

fn any_secret() -> impl Strategy<Value = Digest> {
    prop_oneof![9 => Just(SECRET), 1 => Just(Digest([0; 32]))]
}

fn any_command() -> impl Strategy<Value = Command> {
    let mint = (0..6_u8, any_secret(), any_grant(), 0..2_000_u64).prop_map(|(id, secret_hash, grant, end)| {
        let (id, expires_at, gateway) = (token_id(id), UnixMillis(end), gateway_name(1));
        Command::MintToken { id, secret_hash, grant, expires_at, gateway, root: Digest([ROOT; 32]) }
    });
    let redeem = (0..6_u8, any_secret(), any_introduction()).prop_map(|(id, secret_hash, newcomer)| {
        Command::RedeemToken { id: token_id(id), secret_hash, newcomer, from: None }
    });
    let update = (0..6_u64, 0..3_u8).prop_map(|(node, host)| Command::UpdateNode {
        node,
        east_west: ([127, 0, 9, host], 15443).into(),
        control: None,
        locality: "us-west-2".parse().expect("a locality"),
    });
    let name = || (0..3_u8).prop_map(|number| service(&format!("shop/s{number}")));
    prop_oneof![
        1 => any_introduction().prop_map(found_by),
        4 => mint,
        1 => (0..6_u8).prop_map(|id| Command::RevokeToken { id: token_id(id) }),
        4 => redeem,
        1 => update,
        3 => (0..6_u64, 0..4_u8).prop_map(|(node, key)| issue(node, key, ROOT)),
        1 => (0..6_u64, 0..6_u8).prop_map(|(node, key)| Command::RequestCertificates { node, requests: requests(key) }),
        2 => any_departure(),
        2 => any_change_of_root(),
        3 => (name(), 0..PORTS_PER_SERVICE_MAX as u16 + 4)
            .prop_map(|(service, ports)| Command::SetExport { service, export: export(0..ports) }),
        2 => name().prop_map(|service| Command::WithdrawExport { service }),
    ]
}

fn any_departure() -> impl Strategy<Value = Command> {
    (any_cluster(), any::<bool>(), 0..5_u8).prop_map(|(name, flag, kind)| {
        let cluster = cluster(name);
        match kind {
            0 => Command::Drain { cluster, draining: flag },
            1 => Command::Leave { cluster },
            2 => Command::Fence { cluster, why: "because".to_owned() },
            3 => Command::Unfence { cluster },
            _ => Command::SetAdministrator { cluster, administrator: flag },
        }
    })
}

fn any_change_of_root() -> impl Strategy<Value = Command> {
    (0..3_u8, 0..6_u64, any::<bool>(), 0..5_u8).prop_map(|(key, node, late, kind)| {
        let (root, phase) = (Digest([key; 32]), if late { Phase::Reissue } else { Phase::Distribute });
        match kind {
            0 => Command::Reseal { root: Digest([ROOT; 32]), envelopes: fixture::envelopes([node]) },
            1 => Command::StartRotation { root: fixture::root(key, [node]) },
            2 => Command::Acknowledge { node, root, phase },
            3 => Command::AdvanceRotation { root, from: phase },
            _ => Command::AbortRotation,
        }
    })
}

/// Entries whose clock goes back and forth; the first usually founds.
fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
    let founding = entry("us-east", 1, found_by(introduction("us-east", 1)));
    let rest =
        (any_cluster(), 0..2_000_u64, any_command()).prop_map(|(origin, at, command)| entry(origin, at, command));
    (prop::bool::weighted(0.95), prop::collection::vec(rest, 0..60)).prop_map(move |(founded, rest)| {
        let first = founded.then(|| founding.clone());
        first.into_iter().chain(rest).collect()
    })
}

fn reread(registry: &Registry) -> Registry {
    let text = serde_json::to_string(registry).expect("a registry is JSON");
    serde_json::from_str(&text).expect("and reads back")
}

/// Everything of others: what an entry of `origin` must leave alone.
fn exports_of_others(registry: &Registry, origin: &ClusterName) -> Vec<(ServiceName, ClusterName, Exported)> {
    let all = registry.exports().iter().flat_map(|(service, offers)| {
        offers.iter().map(|(cluster, offer)| (service.clone(), cluster.clone(), (**offer).clone()))
    });
    all.filter(|(_, cluster, _)| cluster != origin).collect()
}

proptest! {
    #[test]
    fn replicas_agree_even_when_one_restarts_after_every_entry(entries in any_entries()) {
        let (mut steady, mut restarting) = (Registry::default(), Registry::default());
        for entry in &entries {
            let outcome = steady.apply(entry);
            prop_assert_eq!(restarting.apply(entry), outcome);
            restarting = reread(&restarting);
            prop_assert_eq!(&restarting, &steady);
        }
    }

    #[test]
    fn a_refusal_changes_nothing_and_a_revision_counts_changes(entries in any_entries()) {
        let mut registry = Registry::default();
        for entry in &entries {
            let before = registry.clone();
            match registry.apply(entry) {
                Err(_) => prop_assert_eq!(&registry, &before),
                Ok(Outcome::Unchanged) => {
                    let clock_only = Registry { now: before.now.max(entry.at), ..before };
                    prop_assert_eq!(&registry, &clock_only);
                }
                Ok(_) => {
                    let visible = Registry { now: registry.now, revision: registry.revision, ..before.clone() };
                    prop_assert_eq!(registry.revision - before.revision, u64::from(registry != visible));
                }
            }
            prop_assert_eq!(reread(&registry), registry.clone());
        }
    }

    #[test]
    fn proposing_again_after_an_unclear_answer_is_safe(entries in any_entries()) {
        let mut registry = Registry::default();
        for entry in &entries {
            let first = registry.apply(entry);
            let after = registry.clone();
            let second = registry.apply(entry);
            match (first, second) {
                (Ok(Outcome::Changed), second) => prop_assert_eq!(second, Ok(Outcome::Unchanged)),
                // A repeated founding finds the federation as it wants it.
                (Ok(Outcome::Admitted { .. }), Ok(Outcome::Unchanged)) => {}
                (first, second) => prop_assert_eq!(second, first),
            }
            prop_assert_eq!(&registry, &after);
        }
    }

    #[test]
    fn no_entry_touches_anothers_exports_or_reuses_a_node_id(entries in any_entries()) {
        let mut registry = Registry::default();
        let mut highest = 0;
        for entry in &entries {
            let before = registry.clone();
            let outcome = registry.apply(entry);
            if !matches!(entry.command, Command::Fence { .. } | Command::Leave { .. }) {
                prop_assert_eq!(
                    exports_of_others(&registry, &entry.origin),
                    exports_of_others(&before, &entry.origin)
                );
            }
            if let Ok(Outcome::Admitted { node }) = outcome && !before.nodes.contains_key(&node) {
                prop_assert!(node > highest);
                highest = node;
            }
            if let Some(federation) = registry.federation() {
                prop_assert!(!federation.administrators.is_empty());
                prop_assert!(federation.trust.roots().len() <= 2);
            }
        }
    }

    #[test]
    fn a_token_admits_at_most_one_key(entries in any_entries()) {
        let mut registry = Registry::default();
        let mut keys: BTreeMap<TokenId, BTreeSet<Digest>> = BTreeMap::new();
        for entry in &entries {
            let outcome = registry.apply(entry);
            if let (Command::RedeemToken { id, newcomer, .. }, Ok(_)) = (&entry.command, outcome) {
                keys.entry(id.clone()).or_default().insert(newcomer.requests.gateway_key);
            }
        }
        prop_assert!(keys.values().all(|keys| keys.len() == 1), "{keys:?}");
    }

    #[test]
    fn no_key_is_both_trusted_and_denied_and_names_two_gateways(entries in any_entries()) {
        let mut registry = Registry::default();
        for entry in &entries {
            let _ = registry.apply(entry);
            let mut owners: BTreeMap<Digest, NodeId> = BTreeMap::new();
            for (id, node) in registry.nodes() {
                for key in node.keys().collect::<BTreeSet<_>>() {
                    prop_assert!(!registry.denied().contains_key(&key), "{key} of {id}");
                    prop_assert_eq!(owners.insert(key, *id), None);
                }
            }
        }
    }
}
