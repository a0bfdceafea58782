//! JSON that this version understands whole.
//!
//! What replicas agree on has to mean the same to all of them. A field that a newer version wrote, and that this one would
//! skip, makes two registries of one; so a record counts as read only if nothing of it is lost when it is written again.
//! The reverse is no loss: a field that an older version did not know is filled in.

use std::io::{self, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why a record does not count as read.
#[derive(Debug, thiserror::Error)]
pub enum NotUnderstood {
    /// It does not fit at all: damaged, or of a kind that a newer version knows.
    #[error("isthmus {VERSION} does not understand it ({0}): a newer version wrote it, upgrade this gateway")]
    Unreadable(#[from] serde_json::Error),
    /// A part of it would be lost.
    #[error("isthmus {VERSION} does not know `{0}` in it: a newer version wrote it, upgrade this gateway")]
    Unknown(String),
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Reads a record.
///
/// # Errors
/// [`NotUnderstood`].
pub(crate) fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, NotUnderstood> {
    let record: T = serde_json::from_slice(bytes)?;
    // Of the same version it is the same to the byte.
    if !same(&record, bytes) {
        let (ours, theirs) = (serde_json::to_value(&record)?, serde_json::from_slice(bytes)?);
        if let Some(path) = lost(&ours, &theirs) {
            return Err(NotUnderstood::Unknown(path));
        }
    }
    Ok(record)
}

fn same<T: Serialize>(record: &T, bytes: &[u8]) -> bool {
    let mut left = Rest(bytes);
    serde_json::to_writer(&mut left, record).is_ok() && left.0.is_empty()
}

/// Takes only the bytes that it expects.
struct Rest<'a>(&'a [u8]);

impl Write for Rest<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The first part of `theirs` that `ours` does not have. What is empty says nothing, and may be left out.
fn lost(ours: &Value, theirs: &Value) -> Option<String> {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => theirs.iter().find_map(|(name, theirs)| {
            let within = match ours.get(name) {
                Some(ours) => lost(ours, theirs)?,
                None if is_empty(theirs) => return None,
                None => String::new(),
            };
            Some(joined(name, &within))
        }),
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            let pairs = ours.iter().zip(theirs).enumerate();
            pairs.into_iter().find_map(|(place, (ours, theirs))| Some(joined(&place.to_string(), &lost(ours, theirs)?)))
        }
        _ => (ours != theirs).then(String::new),
    }
}

fn joined(name: &str, within: &str) -> String {
    if within.is_empty() { name.to_owned() } else { format!("{name}.{within}") }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Inner {
        name: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        list: Vec<u8>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum Record {
        One {
            inner: Vec<Inner>,
            #[serde(default)]
            added: Option<u32>,
        },
        Two,
    }

    fn verdict(text: &str) -> Result<Record, String> {
        read(text.as_bytes()).map_err(|error: NotUnderstood| error.to_string())
    }

    #[test]
    fn older_records_are_filled_in_and_order_and_space_do_not_matter() {
        let read = Record::One { inner: vec![Inner { name: "a".to_owned(), list: vec![] }], added: None };
        for text in [
            r#"{"kind":"one","inner":[{"name":"a"}],"added":null}"#,
            r#"{"kind":"one","inner":[{"name":"a"}]}"#,
            r#"{ "inner": [{"list": [], "name": "a"}], "kind": "one" }"#,
        ] {
            assert_eq!(verdict(text).as_ref(), Ok(&read), "{text}");
        }
        assert_eq!(verdict(r#"{"kind":"two","later":null}"#), Ok(Record::Two), "what is empty says nothing");
    }

    #[test]
    fn what_would_be_lost_is_named() {
        for (text, what) in [
            (r#"{"kind":"one","inner":[{"name":"a","weight":5}]}"#, "`inner.0.weight`"),
            (r#"{"kind":"two","later":false}"#, "`later`"),
            (r#"{"kind":"three"}"#, "unknown variant `three`"),
            (r#"{"kind":"one"}"#, "missing field `inner`"),
        ] {
            let refused = verdict(text).expect_err(text);
            assert!(refused.contains(what) && refused.contains("upgrade this gateway"), "{text}: {refused}");
        }
    }
}
