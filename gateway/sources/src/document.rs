//! From the bytes of one file to objects with line numbers.
//!
//! The file is cut at its document markers before anything is parsed, so that a broken document costs only
//! itself and lines count from the top of the file. The cut is exact: YAML allows `---` or `...` at the start
//! of a line nowhere else, not even within a quoted or block scalar (YAML 1.2.2 §9.1.2). JSON is YAML and has
//! one document. `%` directives are passed over: no manifest needs them.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, MessageFormatter, Options, UserMessageFormatter};

use crate::object::{self, Kind, Object, ObjectKey, Remark, Rules, ServiceExport, Subject, http_route, service_entry};
use crate::problem::{Problem, Problems, Severity};

/// Documents, and items of lists, in one file. A file of the greatest size holds about as many of real length.
pub(crate) const DOCUMENTS_PER_FILE_MAX: usize = 2_000;
/// Problems kept of one file: who has mended these sees the next.
pub(crate) const PROBLEMS_PER_FILE_MAX: usize = 20;
/// Parser events of one document: over what a full EndpointSlice takes (about 20 for each of 1,000 endpoints).
const YAML_EVENTS_MAX: usize = 200_000;
/// Nesting of collections: Kubernetes objects nest about ten deep. Also bounds the parser's stack.
const YAML_DEPTH_MAX: usize = 32;
/// Aliases in one document: anchors are a convenience for a handful of repetitions.
const YAML_ALIASES_MAX: usize = 500;
/// Events that aliases may unfold to, so that nested aliases cannot multiply ("billion laughs").
const YAML_ALIAS_EVENTS_MAX: usize = 20_000;

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// The objects that may be taken, in the order of the file.
    pub(crate) accepted: Vec<Accepted>,
    /// Objects that the file names, but describes wrongly.
    pub(crate) broken: BTreeSet<ObjectKey>,
    /// Whether something in the file could not even be told apart into objects.
    pub(crate) unreadable: bool,
    /// What is wrong with it.
    pub(crate) problems: Problems,
}

/// An object and where it stands.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) key: ObjectKey,
    pub(crate) line: u32,
    pub(crate) object: Arc<Object>,
}

impl Reading {
    /// The reading of a file that cannot be read at all.
    pub(crate) fn unreadable(file: &str, reason: &str) -> Self {
        let mut reading = Self { unreadable: true, ..Self::default() };
        reading.problems.push(PROBLEMS_PER_FILE_MAX, Problem::of_file(file, reason));
        reading
    }

    /// Whether part of the file is not understood.
    pub(crate) fn is_broken(&self) -> bool {
        self.unreadable || !self.broken.is_empty()
    }
}

/// Reads a file. Never fails: what is wrong is in the [`Reading`].
pub(crate) fn read(file: &str, bytes: &[u8], rules: &Rules) -> Reading {
    let mut reader = Reader { file, rules, documents: 0, reading: Reading::default() };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = 1 + count(valid.iter().filter(|byte| **byte == b'\n').count());
            reader.reading.unreadable = true;
            reader.report(Severity::Error, Some(line), None, "the file is not UTF-8 text");
            return reader.reading;
        }
    };
    for chunk in split(text).into_iter().filter(|chunk| !chunk.is_blank()) {
        if !reader.document(&chunk) {
            break;
        }
    }
    reader.reading
}

/// One document's text, from its marker on.
#[derive(Debug, PartialEq, Eq)]
struct Chunk<'a> {
    /// The line of the file that it starts on.
    line: u32,
    text: &'a str,
}

fn split(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let next = offset + line.len();
        let cut = match marker(line) {
            Some("---") => Some((offset, count(index) + 1)),
            Some(_) => Some((next, count(index) + 2)),
            None => None,
        };
        if let Some((at, at_line)) = cut {
            chunks.push(Chunk { line: start_line, text: text.get(start..offset).unwrap_or_default() });
            (start, start_line) = (at, at_line);
        }
        offset = next;
    }
    chunks.push(Chunk { line: start_line, text: text.get(start..).unwrap_or_default() });
    chunks
}

/// `---` or `...` when the line starts with that marker.
fn marker(line: &str) -> Option<&str> {
    let (head, rest) = line.split_at_checked(3)?;
    let ends = rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']);
    (ends && matches!(head, "---" | "...")).then_some(head)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Chunk<'_> {
    /// Lines with content, each with its number in the file.
    fn content(&self) -> impl Iterator<Item = (u32, &str)> {
        let numbered =
            self.text.lines().enumerate().map(|(index, line)| (self.line.saturating_add(count(index)), line));
        numbered.filter(|(_, line)| {
            let line = if marker(line).is_some() { line.get(3..).unwrap_or_default() } else { line };
            !(line.trim().is_empty() || line.trim_start().starts_with('#') || line.starts_with('%'))
        })
    }

    fn is_blank(&self) -> bool {
        self.content().next().is_none()
    }

    fn first_line(&self) -> u32 {
        self.content().next().map_or(self.line, |(line, _)| line)
    }

    /// The line on which a remark's words stand, else the first.
    fn line_of(&self, remark: &Remark) -> u32 {
        let about = remark.about.as_deref().filter(|about| !about.is_empty());
        let found = about.and_then(|about| self.content().find(|(_, line)| has_word(line, about)));
        found.map_or_else(|| self.first_line(), |(line, _)| line)
    }
}

/// Whether `word` stands in `line` and is not part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    })
}

struct Reader<'a> {
    file: &'a str,
    rules: &'a Rules,
    documents: usize,
    reading: Reading,
}

impl Reader<'_> {
    fn report(&mut self, severity: Severity, line: Option<u32>, object: Option<ObjectKey>, reason: &str) {
        let problem = Problem { line, object, severity, ..Problem::of_file(self.file, reason) };
        self.reading.problems.push(PROBLEMS_PER_FILE_MAX, problem);
    }

    /// Reads one document. `false` when the file has too many.
    fn document(&mut self, chunk: &Chunk<'_>) -> bool {
        match parse::<Value>(chunk, &options()) {
            Ok(manifest) => self.manifest(chunk, &manifest, true),
            Err((line, reason)) => {
                self.reading.unreadable = true;
                self.report(Severity::Error, Some(line), None, &format!("this is not valid YAML: {reason}"));
                true
            }
        }
    }

    /// Takes a manifest, or the items of a list. Lists within lists are no Kubernetes object.
    fn manifest(&mut self, chunk: &Chunk<'_>, manifest: &Value, list_allowed: bool) -> bool {
        if manifest.is_null() {
            return true;
        }
        self.documents += 1;
        if self.documents > DOCUMENTS_PER_FILE_MAX {
            self.reading.unreadable = true;
            let reason = format!("the file has over {DOCUMENTS_PER_FILE_MAX} objects: split it; the rest is not read");
            self.report(Severity::Error, Some(chunk.first_line()), None, &reason);
            return false;
        }
        match object::subject(manifest) {
            Ok(Subject::Known(key)) => self.object(chunk, key, manifest),
            Ok(Subject::List) if list_allowed => {
                let items = manifest.get("items").and_then(Value::as_array);
                return items.into_iter().flatten().all(|item| self.manifest(chunk, item, false));
            }
            Ok(Subject::List) => self.unreadable(chunk, &Remark { reason: "a List within a List".into(), about: None }),
            Ok(Subject::Unused) => {}
            Ok(Subject::Unknown(remark)) => {
                self.report(Severity::Warning, Some(chunk.line_of(&remark)), None, &remark.reason);
            }
            Err(remark) => self.unreadable(chunk, &remark),
        }
        true
    }

    fn unreadable(&mut self, chunk: &Chunk<'_>, remark: &Remark) {
        self.reading.unreadable = true;
        self.report(Severity::Error, Some(chunk.line_of(remark)), None, &remark.reason);
    }

    fn object(&mut self, chunk: &Chunk<'_>, key: ObjectKey, manifest: &Value) {
        let mut warnings = Vec::new();
        let checked = object::check(&key, manifest, self.rules, &mut warnings);
        for warning in warnings {
            let line = chunk.line_of(&warning);
            self.report(Severity::Warning, Some(line), Some(key.clone()), &warning.reason);
        }
        match checked {
            Ok(object) => {
                let name = Remark { reason: String::new(), about: Some(key.name.clone()) };
                let line = chunk.line_of(&name);
                self.reading.accepted.push(Accepted { key, line, object: Arc::new(object) });
            }
            Err(remark) => {
                let located = if remark.about.is_none() { locate(chunk, key.kind) } else { None };
                let line = located.unwrap_or_else(|| chunk.line_of(&remark));
                self.report(Severity::Error, Some(line), Some(key.clone()), &remark.reason);
                self.reading.broken.insert(key);
            }
        }
    }
}

/// Where a document of a known kind has a value of the wrong type: only reading the text as that type tells.
fn locate(chunk: &Chunk<'_>, kind: Kind) -> Option<u32> {
    // A number where text is wanted is an error in Kubernetes; unquoted it would pass for text here.
    let mut options = options();
    options.no_schema = true;
    let error = match kind {
        Kind::Service => parse::<Service>(chunk, &options).err(),
        Kind::EndpointSlice => parse::<EndpointSlice>(chunk, &options).err(),
        Kind::ServiceExport => parse::<ServiceExport>(chunk, &options).err(),
        Kind::HttpRoute => parse::<http_route::Manifest>(chunk, &options).err(),
        Kind::ServiceEntry => parse::<service_entry::Manifest>(chunk, &options).err(),
    };
    error.map(|(line, _)| line)
}

fn parse<T: DeserializeOwned>(chunk: &Chunk<'_>, options: &Options) -> Result<T, (u32, String)> {
    serde_saphyr::from_str_with_options(chunk.text, options.clone()).map_err(|error| {
        let offset = newlines_before(chunk.text, error.location().map_or(1, |at| at.line()));
        let reason = UserMessageFormatter.format_message(error.without_snippet()).into_owned();
        (chunk.line.saturating_add(offset), reason)
    })
}

/// How many newlines there are before a line as the parser counts them: YAML ends one at a carriage return alone as well
/// (YAML 1.2.2 §5.4), and editors do not.
fn newlines_before(text: &str, line: u64) -> u32 {
    let following = text.bytes().skip(1).map(Some).chain([None]);
    let ends =
        text.bytes().zip(following).filter(|end| matches!(end, (b'\n', _)) || end.0 == b'\r' && end.1 != Some(b'\n'));
    let before = usize::try_from(line.saturating_sub(1)).unwrap_or(usize::MAX);
    count(ends.take(before).filter(|end| end.0 == b'\n').count())
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: YAML_EVENTS_MAX,
            max_nodes: YAML_EVENTS_MAX,
            max_depth: YAML_DEPTH_MAX,
            flow_nesting_limit: YAML_DEPTH_MAX,
            max_aliases: YAML_ALIASES_MAX,
            max_anchors: YAML_ALIASES_MAX,
            max_recorded_anchor_events: YAML_EVENTS_MAX,
            max_merge_keys: YAML_ALIASES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: YAML_ALIAS_EVENTS_MAX },
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
#[path = "../../../tests/fuzz/manifests.rs"]
mod manifests;
