//! Validation of model names and versions.

use http::StatusCode;

use crate::error::Error;
use crate::truncate::quoted;

/// Maximum length of a model name or version, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// Rejects names and versions that no model can have with 404. Names become folders, so a path separator or `..` must
/// never reach a server.
pub(crate) fn validate_model_name(model: &str, version: Option<&str>) -> Result<(), Error> {
    let not_found = |message| Err(Error::new(StatusCode::NOT_FOUND, message));
    if !is_valid_name(model) {
        return not_found(format!("there is no model {}", quoted(model)));
    }
    match version.filter(|version| !is_valid_name(version)) {
        Some(version) => not_found(format!("there is no version {} of model {}", quoted(version), quoted(model))),
        None => Ok(()),
    }
}

fn is_valid_name(name: &str) -> bool {
    let is_allowed = |char: char| !char.is_control() && !"/\\".contains(char);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name != "." && name != ".." && name.chars().all(is_allowed)
}
