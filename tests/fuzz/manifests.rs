//! Manifests: a document means the same alone and among others, in YAML and in JSON; what is wrong is told with a line that
//! is there.

use std::collections::BTreeSet;

use bolero::check;
use serde_json::Value;

use self::bends::{Bends, corpus};
use super::{Chunk, PROBLEMS_PER_FILE_MAX, Reading, Rules, options, parse, read};
use crate::object::{Object, ObjectKey};

#[path = "bends.rs"]
mod bends;

fn reading(text: &str) -> Reading {
    read("shop.yaml", text.as_bytes(), &Rules { allow_loopback: true, ..Rules::default() })
}

/// Objects with their lines, `more` lines further down.
fn objects(reading: &Reading, more: u32) -> Vec<(ObjectKey, u32, Object)> {
    let accepted = reading.accepted.iter();
    accepted.map(|accepted| (accepted.key.clone(), accepted.line + more, Object::clone(&accepted.object))).collect()
}

fn problems(reading: &Reading, more: u32) -> Vec<(Option<u32>, String)> {
    let list = reading.problems.list.iter();
    list.map(|problem| (problem.line.map(|line| line + more), problem.reason.clone())).collect()
}

fn lines(text: &str) -> u32 {
    u32::try_from(text.split('\n').count()).expect("short")
}

fn holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return assert!(read("shop.yaml", bytes, &Rules::default()).unreadable);
    };
    let reading = reading(text);
    let there = 1..=lines(text);
    assert!(reading.problems.list.len() <= PROBLEMS_PER_FILE_MAX);
    assert!(reading.accepted.iter().all(|accepted| there.contains(&accepted.line)), "{:?}", reading.accepted);
    let told = reading.problems.list.iter().filter_map(|problem| problem.line);
    told.for_each(|line| assert!(there.contains(&line), "line {line} of {there:?}: {:?}", reading.problems));
    assert_eq!(reading.is_broken(), reading.unreadable || !reading.broken.is_empty());
    assert!(!reading.is_broken() || !reading.problems.list.is_empty(), "what is not understood is told");
}

/// JSON without characters that YAML's reader takes only as escapes: they are in strings, if anywhere.
fn escaped(json: &str) -> String {
    let escape = |c: char| match u16::try_from(u32::from(c)) {
        Ok(unit @ 0x7F..) => format!("\\u{unit:04x}"),
        _ => c.to_string(),
    };
    json.chars().map(escape).collect()
}

/// A single document says the same in JSON.
fn is_the_same_in_json(text: &str) {
    let Ok(value) = parse::<Value>(&Chunk { line: 1, text }, &options()) else { return };
    let json = escaped(&serde_json::to_string(&value).expect("JSON"));
    let (yaml, json) = (reading(text), reading(&json));
    let keys = |reading: &Reading| -> BTreeSet<ObjectKey> { reading.broken.clone() };
    let without_lines = |reading: &Reading| -> Vec<(ObjectKey, Object)> {
        objects(reading, 0).into_iter().map(|(key, _, object)| (key, object)).collect()
    };
    assert_eq!((without_lines(&yaml), keys(&yaml)), (without_lines(&json), keys(&json)));
}

/// Two files, as the documents of one.
fn are_the_same_together(above: &str, below: &str) {
    // What stands for more than one document: a byte order mark, and directives.
    if below.starts_with('\u{feff}') || below.lines().any(|line| line.starts_with('%')) {
        return;
    }
    let above = format!("{above}\n");
    let (first, second, both) = (reading(&above), reading(below), reading(&format!("{above}---\n{below}")));
    if first.problems.list.len() + second.problems.list.len() > PROBLEMS_PER_FILE_MAX {
        return;
    }
    let more = lines(&above);
    assert_eq!(objects(&both, 0), [objects(&first, 0), objects(&second, more)].concat());
    assert_eq!(problems(&both, 0), [problems(&first, 0), problems(&second, more)].concat());
    assert_eq!(both.broken, &first.broken | &second.broken);
    assert_eq!(both.unreadable, first.unreadable || second.unreadable);
}

#[test]
fn most_of_the_corpus_is_taken() {
    let taken = corpus("manifests").into_iter().filter_map(text).filter(|text| !reading(text).accepted.is_empty());
    assert!(taken.count() >= 8);
}

fn text(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok()
}

#[test]
fn bytes() {
    check!(name = "manifests").with_iterations(500).for_each(holds);
}

#[test]
fn bent() {
    let seeds = corpus("manifests");
    check!().with_iterations(2_000).with_type::<Bends>().for_each(|bends| {
        let bytes = bends.of(&seeds);
        holds(&bytes);
        text(bytes).iter().for_each(|text| is_the_same_in_json(text));
    });
}

#[test]
fn among_others() {
    let seeds = corpus("manifests");
    check!().with_iterations(1_500).with_type::<(Bends, Bends)>().for_each(|(above, below)| {
        if let (Some(above), Some(below)) = (text(above.of(&seeds)), text(below.of(&seeds))) {
            are_the_same_together(&above, &below);
        }
    });
}
