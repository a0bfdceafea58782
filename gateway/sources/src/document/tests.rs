use super::*;

fn read_text(text: &str) -> Reading {
    read("shop.yaml", text.as_bytes(), &Rules::default())
}

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  ports:\n  - port: 80\n")
}

fn names(reading: &Reading) -> Vec<&str> {
    reading.accepted.iter().map(|accepted| accepted.key.name.as_str()).collect()
}

/// The only problem of a reading: line and reason.
fn problem(reading: &Reading) -> (u32, &str) {
    assert_eq!(reading.problems.list.len(), 1, "{:?}", reading.problems);
    let problem = &reading.problems.list[0];
    (problem.line.expect("has a line"), &problem.reason)
}

#[test]
fn documents_are_cut_at_their_markers_and_keep_their_lines() {
    let text = "# head\n%YAML 1.2\n---\na: 1\n...\nb: 2\n--- {c: 3}\n---x: 4\n--- # none\n";
    let chunks: Vec<(u32, &str)> =
        split(text).iter().filter(|c| !c.is_blank()).map(|c| (c.first_line(), c.text)).collect();
    assert_eq!(chunks, [(4, "---\na: 1\n"), (6, "b: 2\n"), (7, "--- {c: 3}\n---x: 4\n")]);
}

#[test]
fn nothing_is_in_an_empty_file() {
    for text in ["", "\n\n", "---\n---\n", "# only\n---\n# comments\n", "null\n", "\u{feff}"] {
        let reading = read_text(text);
        assert!(reading.accepted.is_empty() && reading.problems.list.is_empty(), "{text:?} {reading:?}");
    }
}

#[test]
fn a_broken_document_costs_only_itself() {
    let text = format!("{}---\nkind: [\n---\n{}", service("a"), service("b"));
    let reading = read_text(&text);
    assert_eq!(names(&reading), ["a", "b"]);
    assert!(reading.unreadable);
    let (line, reason) = problem(&reading);
    assert!((9..=10).contains(&line), "{line}");
    assert!(reason.contains("not valid YAML"), "{reason}");
    assert_eq!(reading.accepted[1].line, 14, "the line that names the object");
}

#[test]
fn a_carriage_return_alone_does_not_move_the_line_of_a_problem() {
    for (text, expected) in [("a: 1\rb: [\r]]\n", 1), ("a: 1\rb: 2\r\nc: ]\n", 2), ("a: 1\r\nb: 2\r\nc: ]\r\n", 3)] {
        assert_eq!(problem(&read_text(text)).0, expected, "{text:?}");
    }
}

#[test]
fn duplicate_keys_are_refused_wherever_they_are() {
    for (text, expected) in [
        (service("a").replace("kind: Service\n", "kind: Service\nkind: Service\n"), 3),
        (service("a").replace("  - port: 80\n", "  - port: 80\n    port: 81\n"), 8),
        ("apiVersion: v1\nkind: ConfigMap\ndata:\n  a: 1\n  a: 2\n".to_owned(), 5),
    ] {
        let reading = read_text(&format!("---\n{text}"));
        let (line, reason) = problem(&reading);
        assert_eq!(line, expected + 1, "{reason}");
        assert!(reason.contains("duplicate"), "{reason}");
        assert!(reading.unreadable);
    }
}

#[test]
fn a_value_of_the_wrong_type_is_reported_with_its_line_and_object() {
    let reading = read_text(&format!("---\n{}", service("a").replace("80", "eighty")));
    let (line, reason) = problem(&reading);
    assert_eq!(line, 8);
    assert!(reason.contains("eighty") && reason.contains("expected i32"), "{reason}");
    assert_eq!(reading.problems.list[0].object.as_ref().map(|key| key.name.as_str()), Some("a"));
    assert_eq!(reading.broken.len(), 1);
    assert!(!reading.unreadable);
}

#[test]
fn an_unquoted_number_where_kubernetes_wants_text_is_found() {
    let text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: a\n  annotations:\n    isthmus.dev/sidecar-port: 15006\naddressType: IPv4\nendpoints: []\n";
    assert_eq!(problem(&read_text(text)).0, 6);
}

#[test]
fn an_invalid_value_is_reported_on_its_line() {
    let reading = read_text(&service("a").replace("80", "70000"));
    let (line, reason) = problem(&reading);
    assert_eq!(line, 7);
    assert!(reason.contains("between 1 and 65535"), "{reason}");
}

#[test]
fn a_misspelt_field_is_named_beside_the_error_that_it_causes() {
    let reading = read_text(&service("a").replace("port: 80", "prot: 80"));
    let reasons: Vec<&str> = reading.problems.list.iter().map(|problem| problem.reason.as_str()).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].contains("spec.ports[0].prot"), "{reasons:?}");
}

#[test]
fn words_are_found_whole() {
    assert!(has_word("  - port: 80", "80"));
    assert!(!has_word("  - port: 8080", "80"));
    assert!(has_word("addresses: [\"10.0.0.1\"]", "10.0.0.1"));
    assert!(!has_word("addresses: [10.0.0.10]", "10.0.0.1"));
}

#[test]
fn alias_bombs_are_cut_short() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let started = std::time::Instant::now();
    let reading = read_text(&text);
    assert!(reading.unreadable);
    assert!(started.elapsed() < std::time::Duration::from_secs(2));
}

#[test]
fn anchors_of_honest_manifests_work() {
    let text = service("a")
        .replace("metadata:", "metadata: &m")
        .replace("spec:", "  labels: &l {app: a}\n  annotations: *l\nspec:");
    let reading = read_text(&text);
    assert_eq!(names(&reading), ["a"], "{:?}", reading.problems);
}

#[test]
fn deep_nesting_is_refused() {
    for text in ["[".repeat(50_000), "- ".repeat(50_000), "{a: ".repeat(50_000), "? ".repeat(50_000)] {
        assert!(read_text(&text).unreadable);
    }
}

#[test]
fn json_and_lists_are_manifests_too() {
    let json = r#"{"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"ports":[{"port":80}]}},
        {"apiVersion":"v1","kind":"Service","metadata":{"name":"b"},"spec":{"ports":[{"port":0}]}},
        {"apiVersion":"v1","kind":"Service","metadata":{"name":"c"},"spec":{"ports":[{"port":80}]}}]}"#;
    let reading = read("all.json", json.as_bytes(), &Rules::default());
    assert_eq!(names(&reading), ["a", "c"]);
    assert_eq!(reading.broken.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(problem(&reading).0, 3);
}

#[test]
fn kinds_without_meaning_here_are_silent_and_unknown_ones_are_not() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\napiVersion: example.com/v1\nkind: Widget\nmetadata: {name: b}\n";
    let reading = read_text(text);
    let (line, reason) = problem(&reading);
    assert_eq!(line, 6);
    assert!(reason.contains("Widget"), "{reason}");
    assert_eq!(reading.problems.list[0].severity, Severity::Warning);
    assert!(!reading.is_broken());
}

/// A slip in the kind of a Service must not withdraw it: nothing tells it from a document that was removed.
#[test]
fn a_misspelt_kind_of_the_catalog_keeps_what_was_there() {
    let reading = read_text(&service("a").replace("kind: Service", "kind: Servce"));
    let (line, reason) = problem(&reading);
    assert!(line == 2 && reason.contains("check its spelling"), "{line} {reason}");
    assert_eq!(reading.problems.list[0].severity, Severity::Error);
    assert!(reading.is_broken());
}

/// `kind: EndpointSlice` cut short must not pass for another kind: the slice of before has to stay.
#[test]
fn a_file_that_ends_in_the_middle_of_a_kind_is_not_whole() {
    for api_version in ["discovery.k8s.io/v1", "discovery.k8s/v1"] {
        let reading = read_text(&format!("apiVersion: {api_version}\nkind: Endpoint"));
        let (line, reason) = problem(&reading);
        assert!(line == 2 && reason.contains("is the file whole?"), "{reason}");
        assert!(reading.is_broken());
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_with_their_line() {
    let reading = read("a.yaml", b"apiVersion: v1\nkind: \xff\n", &Rules::default());
    assert_eq!(problem(&reading).0, 2);
    assert!(reading.unreadable);
}

#[test]
fn too_many_documents_and_problems_are_bounded() {
    let many: String = (0..=DOCUMENTS_PER_FILE_MAX).map(|_| "--- 1\n").collect();
    let reading = read_text(&many);
    assert_eq!(reading.problems.list.len(), PROBLEMS_PER_FILE_MAX);
    assert_eq!(reading.problems.suppressed, DOCUMENTS_PER_FILE_MAX + 1 - PROBLEMS_PER_FILE_MAX);
    let list = format!("{{apiVersion: v1, kind: List, items: [{}]}}", "1,".repeat(DOCUMENTS_PER_FILE_MAX * 2));
    assert!(read_text(&list).unreadable);
}
