//! What the data plane wanted to know so far: pure. Asked again, all of it, on every new stream.

use std::collections::{BTreeMap, HashMap};

use isthmus_model::route::Question;
use isthmus_model::snapshot::{Coverage, Snapshot};
use isthmus_wire::control::Ask;
use isthmus_wire::view::QUESTIONS_PER_SIDECAR_MAX;

/// Questions in one message. Small enough to be answered before the next is read, large enough that
/// [`QUESTIONS_PER_SIDECAR_MAX`] of them fit in a few dozen messages.
pub const QUESTIONS_PER_ASK: usize = 256;

/// The newest questions, [`QUESTIONS_PER_SIDECAR_MAX`] at most.
#[derive(Debug, Default)]
pub struct Questions {
    by_question: HashMap<Question, u64>,
    by_age: BTreeMap<u64, Question>,
    next: u64,
}

impl Questions {
    /// Notes a question; the oldest is forgotten when there are too many. Says whether it is new. A question
    /// that is known becomes the newest.
    pub fn add(&mut self, question: Question) -> bool {
        let known = self.by_question.insert(question.clone(), self.next);
        if let Some(age) = known {
            self.by_age.remove(&age);
        }
        self.by_age.insert(self.next, question);
        self.next += 1;
        if self.by_age.len() > QUESTIONS_PER_SIDECAR_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_question.remove(&oldest);
        }
        known.is_none()
    }

    /// All of them as messages, the newest first: what was wanted last is likely wanted next.
    pub fn asks(&self) -> Vec<Ask> {
        let newest_first: Vec<&Question> = self.by_age.values().rev().collect();
        newest_first.chunks(QUESTIONS_PER_ASK).map(|chunk| ask(chunk.iter().copied())).collect()
    }

    /// Whether `view` answers all of them.
    pub fn answered_by(&self, view: &Snapshot) -> bool {
        let Coverage::Partial { absent, absent_addresses } = &view.coverage else { return true };
        self.by_question.keys().all(|question| match question {
            Question::Service(name) => view.services.contains_key(name) || absent.contains(name),
            Question::Address(address) => view.vips.contains_key(address) || absent_addresses.contains(address),
        })
    }
}

/// Questions as a message.
pub fn ask<'a>(questions: impl Iterator<Item = &'a Question>) -> Ask {
    let mut ask = Ask::default();
    for question in questions {
        match question {
            Question::Service(name) => ask.services.push(name.to_string()),
            Question::Address(address) => ask.addresses.push(address.to_string()),
        }
    }
    ask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(number: usize) -> Question {
        Question::Service(format!("shop/s{number}").parse().expect("valid"))
    }

    #[test]
    fn only_the_newest_are_kept_and_each_once() {
        let mut questions = Questions::default();
        assert!(questions.add(question(0)));
        assert!(questions.add(Question::Address([10, 0, 0, 1].into())));
        assert!(!questions.add(question(0)), "known");
        for number in 1..QUESTIONS_PER_SIDECAR_MAX {
            assert!(questions.add(question(number)));
        }
        let asks = questions.asks();
        let asked: usize = asks.iter().map(|ask| ask.services.len() + ask.addresses.len()).sum();
        assert_eq!(asked, QUESTIONS_PER_SIDECAR_MAX);
        assert_eq!(asks[0].services[0], format!("shop/s{}", QUESTIONS_PER_SIDECAR_MAX - 1), "the newest first");
        assert!(asks.iter().all(|ask| ask.addresses.is_empty()), "the oldest is gone");
        let last = asks.last().expect("some");
        assert_eq!(last.services.last().map(String::as_str), Some("shop/s0"), "asked again, so not the oldest");
    }
}
