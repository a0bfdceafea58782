//! What a connection speaks, by its first bytes. A line that any server could take for a request must not pass as bytes.

use bolero::check;
use isthmus_proxy::detect::{Opening, could_be_request, opening};

use crate::bends::{Bends, corpus};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether the first line, if it is whole, is a word and later a version: read without looking at one byte after the other.
fn slowly(bytes: &[u8]) -> bool {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let text = text.trim_start_matches(['\r', '\n', ' ', '\t']);
    let Some((line, _)) = text.split_once(['\r', '\n']) else { return false };
    let mut words = line.split([' ', '\t']);
    let method = words.next().unwrap_or_default();
    let named = !method.is_empty() && method.chars().all(|c| c.is_ascii_alphanumeric());
    let plain = line.chars().all(|c| c == '\t' || c == ' ' || c.is_ascii_graphic());
    named && plain && words.any(|word| word.to_ascii_uppercase().starts_with("HTTP/"))
}

/// Whether the first line, if it is whole, has a version for its third word, whatever else is in it.
fn loosely(bytes: &[u8]) -> bool {
    let is_blank = |c: char| matches!(c, '\t'..='\r' | '\u{1c}'..=' ' | '\u{85}' | '\u{a0}');
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let Some((line, _)) = text.trim_start_matches(is_blank).split_once('\n') else { return false };
    let mut words = line.split(is_blank).filter(|word| !word.is_empty());
    words.nth(2).is_some_and(|word| word.to_ascii_uppercase().starts_with("HTTP/"))
}

/// The same of a line that only CR LF ends.
fn wrapped(bytes: &[u8]) -> bool {
    let is_blank = |c: char| matches!(c, '\t'..='\r' | '\u{1c}'..=' ' | '\u{85}' | '\u{a0}');
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let Some((line, _)) = text.trim_start_matches(is_blank).split_once("\r\n") else { return false };
    let mut words = line.split(is_blank).filter(|word| !word.is_empty());
    words.nth(2).is_some_and(|word| word.to_ascii_uppercase().starts_with("HTTP/"))
}

fn holds(bytes: &[u8]) {
    let whole = opening(bytes);
    let guarded = could_be_request(bytes);
    let skipped = bytes.iter().take_while(|byte| byte.is_ascii_control() || **byte == b' ').count();
    let named = loosely(bytes) || loosely(&bytes[skipped..]) || wrapped(bytes);
    assert!(!named || bytes.len() >= 64 << 10 || guarded == Some(true));
    assert!(matches!(whole, None | Some(Opening::Opaque)) || guarded == Some(true), "what is one could be one");
    for end in 0..bytes.len() {
        if let Some(clear) = opening(&bytes[..end]) {
            assert_eq!(whole, Some(clear), "a beginning says nothing else than the whole");
        }
        if let Some(clear) = could_be_request(&bytes[..end]) {
            assert_eq!(guarded, Some(clear), "nor does it here");
        }
    }
    if whole == Some(Opening::Http2) {
        assert!(bytes.starts_with(PREFACE));
    }
    if slowly(bytes) && !bytes.starts_with(b"PRI") {
        assert_eq!(whole, Some(Opening::Http1));
    }
    let word = bytes.to_ascii_uppercase().windows(5).any(|window| window == b"HTTP/");
    assert!(whole != Some(Opening::Http1) || word || bytes.len() > 64 << 10);
}

#[test]
fn bytes() {
    check!(name = "opening").with_iterations(2_000).for_each(holds);
}

#[test]
fn bent() {
    let seeds = corpus("opening");
    check!().with_iterations(5_000).with_type::<Bends>().for_each(|bends| holds(&bends.of(&seeds)));
}
