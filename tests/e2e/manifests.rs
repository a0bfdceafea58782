//! Hostile manifests: each is reported, what was good stays, and the gateway lives on, no larger.

use std::fs;
use std::os::unix::fs::symlink;

use isthmus_tests::harness::wait_until;
use serde_json::Value;

use crate::catalog::problem;
use crate::federation::{SOON, metric, port, resident, start, text};
use crate::workload::{Mesh, Offer, manifests, service_export};

/// How much the gateway may grow by all of it: some megabytes of text, and what the parser makes of them.
const GROWTH_MAX: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn hostile_manifests_are_reported_and_take_nothing_down() {
    let [mut east] = start(["us-east"]).await;
    let good = manifests("reviews", &[east.host(20)], Mesh::None, Offer::Exported);
    east.write("reviews.yaml", &good);
    let vip = east.vip("reviews").await;
    let before = resident(east.process().pid().expect("it runs"));
    let outside = tempfile::tempdir().expect("a directory");
    fs::write(outside.path().join("secret.yaml"), service_export("secret")).expect("written");
    symlink(outside.path().join("secret.yaml"), east.path("manifests/escape.yaml")).expect("linked");

    let bomb = {
        let levels = (1..12).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", ")));
        format!("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{}kind: Service\n", levels.collect::<String>())
    };
    let twice = "apiVersion: v1\nkind: Service\nkind: Secret\nmetadata: {name: twice, namespace: shop}\n";
    let until = |word| &good[..good.find(word).expect("there")];
    let half = until("Slice");
    let nested = format!("apiVersion: v1\nkind: Service\nspec: {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    for (file, manifest) in [
        ("large.yaml", "# padding\n".repeat(1 << 20)),
        ("bomb.yaml", bomb),
        ("twice.yaml", twice.to_owned()),
        ("nested.yaml", nested),
        ("unknown.yaml", "apiVersion: example.com/v1\nkind: Mystery\nmetadata: {name: x}\n".to_owned()),
        ("half.yaml", half.replace("reviews", "half")),
        ("binary.yaml", "\u{0}\u{1}\u{2}".to_owned()),
    ] {
        east.write(file, &manifest);
        let problem = problem(&east, file).await;
        println!("{problem}");
        assert!(text(&problem["reason"]).len() > 10, "{problem}");
        // A file as a whole has no line to point at.
        let whole = ["large.yaml", "escape.yaml"].contains(&file);
        assert!(whole || problem["line"].is_u64(), "{problem}");
    }
    let escape: Value = problem(&east, "escape.yaml").await;
    assert!(text(&escape["reason"]).contains("out of the manifest directory"), "{escape}");

    // Half-written over a good one, wherever it was cut: what was good stays.
    for cut in [half, until("service-name"), until("ServiceExport")] {
        fs::write(east.path("manifests/reviews.yaml"), cut).expect("written");
        problem(&east, "reviews.yaml").await;
        assert_eq!(east.vip("reviews").await, vip);
    }
    assert!(!east.ask(["services"]).await.to_string().contains("secret"));
    let counted = metric(east.at(port::METRICS), "isthmus_manifest_problems", "").await;
    assert!(counted >= Some(9.0), "{counted:?}");

    // Alive, no larger, and all of it is forgotten with the files.
    assert!(resident(east.process().pid().expect("it runs")) < before + GROWTH_MAX);
    for file in ["large", "bomb", "twice", "nested", "unknown", "half", "binary", "escape"] {
        east.remove(&format!("{file}.yaml"));
    }
    east.write("reviews.yaml", &good);
    wait_until(SOON, "every problem to be gone", async || east.status().await["problems"] == 0).await;
    assert_eq!(east.vip("reviews").await, vip);
}
