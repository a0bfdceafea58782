use super::*;
use crate::document::read;
use crate::object::Rules;

const A: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {ports: [{port: 80}]}\n";
const B: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: shop}\nspec: {ports: [{port: 80}]}\n";
const B_INVALID: &str =
    "apiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: shop}\nspec: {ports: [{port: 0}]}\n";
const UNREADABLE: &str = "kind: [\n";

#[derive(Default)]
struct Fixture(Index);

impl Fixture {
    fn write(&mut self, file: &str, documents: &[&str], patience: Patience) -> bool {
        let text = documents.join("---\n");
        self.0.update(file, read(file, text.as_bytes(), &Rules::default()), patience)
    }

    fn settled(&mut self, file: &str, documents: &[&str]) {
        assert!(!self.write(file, documents, Patience::Final), "nothing final is put off");
    }

    /// Names of the objects that hold, each with its file.
    fn objects(&mut self) -> Vec<String> {
        let merged = self.0.merge();
        merged.objects.iter().map(|(key, placed)| format!("{}@{}", key.name, placed.file)).collect()
    }

    fn problems(&mut self) -> Vec<String> {
        self.0.merge().problems.list.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn an_invalid_document_keeps_the_last_good_state_of_its_object_only() {
    let mut index = Fixture::default();
    index.settled("f", &[A, B]);
    index.settled("f", &[B_INVALID]);
    assert_eq!(index.objects(), ["b@f"], "a was removed cleanly, b is broken");
    assert_eq!(index.problems().len(), 1);
    index.settled("f", &[A]);
    assert_eq!(index.objects(), ["a@f"]);
    assert!(index.problems().is_empty());
}

#[test]
fn an_unreadable_document_keeps_all_that_the_file_had() {
    let mut index = Fixture::default();
    index.settled("f", &[A, B]);
    index.settled("f", &[A, UNREADABLE]);
    assert_eq!(index.objects(), ["a@f", "b@f"]);
    index.settled("f", &[UNREADABLE]);
    index.settled("f", &[UNREADABLE]);
    assert_eq!(index.objects(), ["a@f", "b@f"], "last good stays however often it fails");
}

#[test]
fn what_a_settling_file_lost_is_believed_later_and_what_it_gained_at_once() {
    let mut index = Fixture::default();
    index.settled("f", &[A]);
    assert!(index.write("f", &[""], Patience::Settling), "truncated before it is written");
    assert_eq!(index.objects(), ["a@f"]);
    assert!(index.write("f", &[B, UNREADABLE], Patience::Settling));
    assert_eq!(index.objects(), ["a@f", "b@f"]);
    assert!(index.problems().is_empty(), "not reported while it settles");
    assert!(!index.write("f", &[B, A], Patience::Settling), "whole again");
    index.settled("f", &[B]);
    assert_eq!(index.objects(), ["b@f"]);
}

#[test]
fn at_the_start_the_first_file_in_name_order_has_an_object() {
    let mut index = Fixture::default();
    index.settled("g", &[A]);
    index.settled("f", &[B, A]);
    assert_eq!(index.objects(), ["a@f", "b@f"]);
    assert_eq!(index.problems(), ["g:3: Service shop/a: it is in f:8 too, and that one is used"]);
    index.0.remove("f");
    assert_eq!(index.objects(), ["a@g"]);
    assert!(index.problems().is_empty());
}

#[test]
fn a_duplicate_in_a_new_file_does_not_displace_the_object_in_force() {
    let mut index = Fixture::default();
    index.settled("g", &[A]);
    assert_eq!(index.objects(), ["a@g"]);
    index.settled("f", &[B, A]);
    assert_eq!(index.objects(), ["a@g", "b@f"]);
    assert_eq!(index.problems(), ["f:8: Service shop/a: it is in g:3 too, and that one is used"]);
    index.settled("g", &[A, UNREADABLE]);
    assert_eq!(index.objects(), ["a@g", "b@f"], "an edit of its file changes nothing about whose it is");
    index.write("g", &[""], Patience::Settling);
    assert_eq!(index.objects(), ["a@g", "b@f"], "nor does a write half way");
    index.settled("g", &[B]);
    assert_eq!(index.objects(), ["a@f", "b@f"], "given up, the other file has it");
}

#[test]
fn an_object_that_moves_to_another_file_is_no_duplicate() {
    let mut index = Fixture::default();
    index.settled("f", &[A]);
    assert_eq!(index.objects(), ["a@f"]);
    index.write("f", &[""], Patience::Settling);
    index.settled("g", &[A]);
    assert_eq!(index.objects(), ["a@f"]);
    assert!(index.problems().is_empty());
    index.settled("f", &[""]);
    assert_eq!(index.objects(), ["a@g"]);
    assert!(index.problems().is_empty());
}

#[test]
fn a_broken_file_keeps_its_claim_against_later_files() {
    let mut index = Fixture::default();
    index.settled("f", &[A]);
    index.settled("g", &[A]);
    index.settled("f", &[UNREADABLE]);
    assert_eq!(index.objects(), ["a@f"]);
}

#[test]
fn the_same_object_twice_in_a_file_is_reported() {
    let mut index = Fixture::default();
    index.settled("f", &[A, A]);
    assert_eq!(index.problems(), ["f:8: Service shop/a: it is in this file at line 3 too, and that one is used"]);
}
