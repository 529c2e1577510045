use axum::extract::{FromRequestParts, RawPathParams};
use http::StatusCode;
use http::request::Parts;

use crate::Error;
use crate::check::shown;

/// The longest name that a model or version has.
const LONGEST: usize = 128;

/// The model that a path names, and its version where it names one.
pub(super) struct Asked {
    pub model: String,
    pub version: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        let params = params.map_err(|_| Error::malformed("the path is not UTF-8"))?;
        let find = |wanted| params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned());
        let model = find("model").unwrap_or_default();
        let version = find("version");
        if !is_name(&model) {
            return Err(Error::new(StatusCode::NOT_FOUND, format!("there is no model {}", shown(&model))));
        }
        if let Some(version) = version.as_deref().filter(|version| !is_name(version)) {
            let words = format!("there is no version {} of model {}", shown(version), shown(&model));
            return Err(Error::new(StatusCode::NOT_FOUND, words));
        }
        Ok(Self { model, version })
    }
}

/// Names become folders: whatever leads elsewhere is no model's name, and no server needs to look.
fn is_name(name: &str) -> bool {
    let harmless = |char: char| !char.is_control() && !"/\\".contains(char);
    (1..=LONGEST).contains(&name.len()) && name != "." && name != ".." && name.chars().all(harmless)
}
