//! Versions that go back.

use crate::history::{WentBack, monotonic_reads};

#[test]
fn clients_may_be_behind_one_another() {
    assert_eq!(monotonic_reads([("a", 3), ("b", 1), ("a", 3), ("b", 2), ("a", 4)]), Ok(()));
}

#[test]
fn the_first_observation_that_goes_back_is_found() {
    let observations = [("a", 3), ("b", 1), ("b", 5), ("a", 2), ("b", 4)];
    let went_back = WentBack { client: "a", position: 3, before: 3, after: 2 };
    assert_eq!(monotonic_reads(observations), Err(went_back));
    assert_eq!(went_back.to_string(), "client \"a\" saw 2 after 3 (observation 3)");
}
