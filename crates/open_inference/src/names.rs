use http::StatusCode;

use crate::Error;
use crate::check::shown;

/// The longest name that a model or version has.
const LONGEST: usize = 128;

/// 404 for what cannot be the name of a model or of a version: names become folders, so whatever leads elsewhere is none,
/// and no server needs to look.
pub(crate) fn check_names(model: &str, version: Option<&str>) -> Result<(), Error> {
    let none = |words| Err(Error::new(StatusCode::NOT_FOUND, words));
    if !is_name(model) {
        return none(format!("there is no model {}", shown(model)));
    }
    match version.filter(|version| !is_name(version)) {
        Some(version) => none(format!("there is no version {} of model {}", shown(version), shown(model))),
        None => Ok(()),
    }
}

fn is_name(name: &str) -> bool {
    let harmless = |char: char| !char.is_control() && !"/\\".contains(char);
    (1..=LONGEST).contains(&name.len()) && name != "." && name != ".." && name.chars().all(harmless)
}
