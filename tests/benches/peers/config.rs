//! Configurations of the others, as templates beside this program, so that they can be read as what they are.

use std::fs;
use std::io;
use std::path::Path;

/// Puts values in the place of `${NAME}`.
///
/// # Errors
/// When a place is left empty.
pub(crate) fn fill(template: &str, values: &[(&str, String)]) -> io::Result<String> {
    let put = |text: String, (name, value): &(&str, String)| text.replace(&format!("${{{name}}}"), value);
    let filled = values.iter().fold(template.to_owned(), put);
    match filled.split_once("${") {
        None => Ok(filled),
        Some((_, rest)) => {
            let name = rest.split('}').next().unwrap_or_default();
            Err(io::Error::other(format!("nothing is given for {name} of a configuration")))
        }
    }
}

/// Writes a filled template.
pub(crate) fn write(directory: &Path, file: &str, template: &str, values: &[(&str, String)]) -> io::Result<()> {
    fs::write(directory.join(file), fill(template, values)?)
}
