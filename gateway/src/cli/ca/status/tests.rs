use serde_json::json;

use super::*;

#[test]
fn status_shows_the_roots_and_who_is_missing() {
    let (old, new) = ("11".repeat(32), "22".repeat(32));
    let keepers = json!([{ "node": 1, "cluster": "us-east", "gateway": "gw-1" }]);
    let root = |key: &str, signs: bool| {
        let subject = "O=acme.mesh, CN=acme.mesh root";
        json!({ "key": key, "subject": subject, "not_after": 1_700_000_000_000_u64, "signs": signs,
                "custody": "sealed", "keepers": keepers })
    };
    let gateway = json!([{ "node": 2, "name": "gw-1", "done": false, "certified_by": old }]);
    let clusters =
        json!([{ "name": "us-west", "reach": "down", "done": false, "unsigned": false, "gateways": gateway }]);
    let rotation =
        json!({ "root": new, "phase": "distribute", "started_at": 1_700_000_000_000_u64, "clusters": clusters });
    let ca = json!({ "roots": [root(&old, true), root(&new, false)], "rotation": rotation, "outdated_tokens": 2 });
    let text = table(&serde_json::from_value(ca).expect("valid"));
    for part in [
        "1111111111111111  O=acme.mesh, CN=acme.mesh root  yes    2023-11-14T22:13:20Z  sealed  us-east/gw-1\n",
        "rotation to 2222222222222222 since 2023-11-14T22:13:20Z, phase distribute",
        "us-west  gw-1     down   missing  1111111111111111\n",
        "2 open tokens pin a root that does not sign any more",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
}
