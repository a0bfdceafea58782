//! What one entry of the log carries: one write of the registry, or several that were agreed together.
//!
//! One is written as itself, which is how protocol 2 knows it; several as a list, which came with protocol 3.

use std::fmt;

use isthmus_model::command::Entry;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch(Vec<Entry>);

impl Batch {
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        Self(entries)
    }

    /// Its writes.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }
}

impl From<Entry> for Batch {
    fn from(entry: Entry) -> Self {
        Self(vec![entry])
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrSeveral)
    }
}

struct OneOrSeveral;

impl<'de> Visitor<'de> for OneOrSeveral {
    type Value = Batch;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a write of the registry, or a list of them")
    }

    fn visit_map<A: MapAccess<'de>>(self, one: A) -> Result<Batch, A::Error> {
        Entry::deserialize(MapAccessDeserializer::new(one)).map(Batch::from)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, several: A) -> Result<Batch, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(several)).map(Batch)
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::command::Command;
    use isthmus_model::time::UnixMillis;

    use super::*;

    fn entry(at: u64) -> Entry {
        let command = Command::WithdrawExport { service: "shop/reviews".parse().expect("valid") };
        Entry { origin: "us-east".parse().expect("valid"), at: UnixMillis(at), command }
    }

    #[test]
    fn one_write_is_written_as_itself_and_several_as_a_list() {
        let one = serde_json::to_string(&Batch::from(entry(1))).expect("serializable");
        assert_eq!(one, serde_json::to_string(&entry(1)).expect("serializable"));
        let several = Batch::new(vec![entry(1), entry(2)]);
        let written = serde_json::to_string(&several).expect("serializable");
        assert!(written.starts_with('['), "{written}");
        assert_eq!(serde_json::from_str::<Batch>(&written).expect("reads"), several);
        assert_eq!(serde_json::from_str::<Batch>(&one).expect("reads"), Batch::from(entry(1)));
        assert!(serde_json::from_str::<Batch>("7").is_err());
    }
}
