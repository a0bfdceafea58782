//! The YAML file as a tree that remembers its lines.
//!
//! Typed deserialization stops at the first thing that is wrong; an operator wants all of them. So the file is
//! first read into this tree, and each [`Section`] is then emptied field by field. What nobody took is unknown.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, MessageFormatter, Spanned, UserMessageFormatter};

/// The size of a configuration file. Ours has under 60 lines; anything near this is not a configuration.
pub(super) const FILE_BYTES_MAX: u64 = 256 * 1024;

/// A problem at a line of the file, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Where.
    pub line: u64,
    /// What is wrong and what to do.
    pub message: String,
}

/// Something with the line that it stands on.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) line: u64,
    pub(super) value: T,
}

impl<T> From<Spanned<T>> for Located<T> {
    fn from(spanned: Spanned<T>) -> Self {
        Self { line: spanned.referenced.line().max(1), value: spanned.value }
    }
}

/// A value of the file.
#[derive(Debug)]
pub(super) enum Value {
    /// Nothing after the colon.
    Null,
    /// Any scalar, as text.
    Scalar(String),
    /// A sequence.
    List(Vec<Located<Value>>),
    /// A mapping in the order of the file.
    Map(Vec<(Located<String>, Located<Value>)>),
}

/// The text of `file`, if it is of a size that a configuration can have.
pub(super) fn read_text(file: &Path) -> Result<String, Problem> {
    let problem = |message: String| Problem { line: 1, message };
    let mut text = String::new();
    let opened = File::open(file).and_then(|opened| opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    let read = opened.map_err(|error| problem(format!("cannot read the file: {error}")))?;
    if u64::try_from(read).is_ok_and(|read| read <= FILE_BYTES_MAX) {
        Ok(text)
    } else {
        Err(problem(format!("the file is larger than {FILE_BYTES_MAX} bytes: is it the right one?")))
    }
}

/// Reads a text as a tree.
pub(super) fn parse(text: &str) -> Result<Located<Value>, Problem> {
    serde_saphyr::from_str::<Spanned<Value>>(text).map(Located::from).map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().map_or(1, |location| location.line().max(1));
        let message = match error {
            Error::DuplicateMappingKey { key: Some(key), .. } => format!("`{key}` is there twice: keep one"),
            Error::MultipleDocuments { .. } => "`---` begins another document: keep one".to_owned(),
            _ => format!("not valid YAML: {}", UserMessageFormatter.format_message(error)),
        };
        Problem { line, message }
    })
}

/// The first line that is indented with a tab. YAML takes it for no indentation, or for an error elsewhere. Within
/// brackets tabs are allowed, so that this is to be asked only of a text with problems, and not of JSON.
pub(super) fn tab(text: &str) -> Option<Problem> {
    if text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let is_tabbed = |line: &str| {
        let (indentation, rest) = line.split_at(line.len() - line.trim_start().len());
        indentation.contains('\t') && !rest.is_empty() && !rest.starts_with('#')
    };
    let (_, line) = text.lines().zip(1..).find(|(line, _)| is_tabbed(line))?;
    Some(Problem { line, message: "the line is indented with a tab: indent with spaces".to_owned() })
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Scalar(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Value>>()? {
            list.push(item.into());
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = entries.next_entry::<Spanned<String>, Spanned<Value>>()? {
            map.push((key.into(), value.into()));
        }
        Ok(Value::Map(map))
    }
}

/// A mapping whose fields are taken one by one; what is wrong gathers in `problems`.
pub(super) struct Section<'p> {
    /// `listen.` within `listen`; empty at the top.
    prefix: String,
    line: u64,
    fields: Vec<(Located<String>, Located<Value>)>,
    known: Vec<&'static str>,
    problems: &'p mut Vec<Problem>,
}

/// Empties a section with `read`; fields that are left over are problems.
fn read_section<R>(
    prefix: String,
    node: Located<Value>,
    problems: &mut Vec<Problem>,
    read: impl FnOnce(&mut Section<'_>) -> R,
) -> R {
    let line = node.line;
    let fields = match node.value {
        Value::Map(fields) => fields,
        Value::Null => Vec::new(),
        Value::Scalar(_) | Value::List(_) => {
            let place = if prefix.is_empty() { "here" } else { prefix.trim_end_matches('.') };
            problems.push(Problem { line, message: format!("expected fields in {place}, one `name: value` a line") });
            Vec::new()
        }
    };
    let mut section = Section { prefix, line, fields, known: Vec::new(), problems };
    let result = read(&mut section);
    for (key, _) in std::mem::take(&mut section.fields) {
        let known = section.known.join(", ");
        section.report(key.line, format!("`{}{}` is not a field; there are {known}", section.prefix, key.value));
    }
    result
}

/// Reads the whole file with `read`.
pub(super) fn read_file<R>(
    root: Located<Value>,
    problems: &mut Vec<Problem>,
    read: impl FnOnce(&mut Section<'_>) -> R,
) -> R {
    read_section(String::new(), root, problems, read)
}

impl Section<'_> {
    /// Reports a problem of this section.
    pub(super) fn report(&mut self, line: u64, message: String) {
        self.problems.push(Problem { line, message });
    }

    /// The line on which the section starts, for problems of something that is not there.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Whether a field is still to be taken.
    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(key, _)| key.value == name)
    }

    fn take(&mut self, name: &'static str) -> Option<Located<Value>> {
        self.known.push(name);
        let index = self.fields.iter().position(|(key, _)| key.value == name)?;
        let (key, node) = self.fields.remove(index);
        if matches!(node.value, Value::Null) {
            self.report(key.line, format!("`{}{name}` has no value: give one, or remove the line", self.prefix));
            return None;
        }
        Some(Located { line: key.line, value: node.value })
    }

    /// The section `name` within this one, read with `read`; without any field if the file does not have it.
    pub(super) fn section<R>(&mut self, name: &'static str, read: impl FnOnce(&mut Section<'_>) -> R) -> R {
        let node = self.take(name).unwrap_or(Located { line: self.line, value: Value::Null });
        read_section(format!("{}{name}.", self.prefix), node, self.problems, read)
    }

    /// An optional scalar, read by `parse`.
    pub(super) fn scalar<T, E: fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Located<T>> {
        let node = self.take(name)?;
        self.parsed(name, node, &parse)
    }

    /// A scalar that has to be there.
    pub(super) fn required<T, E: fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        if !self.has(name) {
            self.known.push(name);
            self.report(self.line, format!("`{}{name}` is missing", self.prefix));
            return None;
        }
        self.scalar(name, parse).map(|found| found.value)
    }

    /// An optional list of scalars, each read by `parse`; at most `max` of them.
    pub(super) fn list<T, E: fmt::Display>(
        &mut self,
        name: &'static str,
        max: usize,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<Located<T>>> {
        let node = self.take(name)?;
        let Value::List(items) = node.value else {
            self.report(node.line, format!("`{}{name}` takes a list, for example [a, b]", self.prefix));
            return None;
        };
        if items.len() > max {
            let found = items.len();
            self.report(node.line, format!("`{}{name}` takes {max} entries at most, found {found}", self.prefix));
        }
        Some(items.into_iter().take(max).filter_map(|item| self.parsed(name, item, &parse)).collect())
    }

    /// All fields of a section whose names are data, each name and value read by its parser; at most `max` of them.
    pub(super) fn entries<K, V, E: fmt::Display, F: fmt::Display>(
        &mut self,
        max: usize,
        name: impl Fn(&str) -> Result<K, E>,
        value: impl Fn(&str) -> Result<V, F>,
    ) -> Vec<(K, V)> {
        let fields = std::mem::take(&mut self.fields);
        if fields.len() > max {
            let message = format!("`{}` takes {max} entries at most, found {}", self.place(), fields.len());
            self.report(self.line, message);
        }
        let mut entries = Vec::new();
        for (key, node) in fields.into_iter().take(max) {
            let parsed = self.parsed(&key.value, Located { line: key.line, value: node.value }, &value);
            match name(&key.value) {
                Ok(name) => entries.extend(parsed.map(|parsed| (name, parsed.value))),
                Err(error) => self.report(key.line, format!("`{}{}`: {error}", self.prefix, key.value)),
            }
        }
        entries
    }

    /// The section's own name.
    fn place(&self) -> &str {
        self.prefix.trim_end_matches('.')
    }

    fn parsed<T, E: fmt::Display>(
        &mut self,
        name: &str,
        node: Located<Value>,
        parse: &impl Fn(&str) -> Result<T, E>,
    ) -> Option<Located<T>> {
        let line = node.line;
        let parsed = match node.value {
            Value::Scalar(text) => parse(&text).map_err(|error| error.to_string()),
            _ => Err("expected one value, not a list or fields".to_owned()),
        };
        match parsed {
            Ok(value) => Some(Located { line, value }),
            Err(error) => {
                self.report(line, format!("`{}{name}`: {error}", self.prefix));
                None
            }
        }
    }
}
