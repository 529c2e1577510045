//! Secret shared by `web_api` and `model_api`.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use subtle::ConstantTimeEq;

use crate::settings::{SettingError, optional};

/// Header that carries the secret.
const HEADER: HeaderName = HeaderName::from_static("x-model-api-secret");

/// Minimum length; shorter secrets can be guessed.
const MIN_LENGTH: usize = 16;

/// Secret that authorizes `web_api` to load and unload models of `model_api`.
#[derive(Clone)]
pub struct SharedSecret(Arc<str>);

impl SharedSecret {
    /// Reads `MODEL_API_SECRET`. `None` if it is unset.
    pub fn from_env() -> Result<Option<Self>, SettingError> {
        optional("MODEL_API_SECRET").map(|text| Self::new(&text)).transpose()
    }

    /// Validates the secret.
    ///
    /// # Errors
    ///
    /// If the text is too short, or cannot be sent in a header. The error does not contain it.
    pub fn new(text: &str) -> Result<Self, SettingError> {
        if text.len() < MIN_LENGTH || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let reason =
                format!("must have at least {MIN_LENGTH} characters, all of them visible ASCII without spaces");
            return Err(SettingError::new("MODEL_API_SECRET", reason));
        }
        Ok(Self(text.into()))
    }

    /// Header with the secret, marked as sensitive.
    pub fn header(&self) -> (HeaderName, HeaderValue) {
        let mut value = HeaderValue::from_str(&self.0).expect("`new` accepts visible ASCII only");
        value.set_sensitive(true);
        (HEADER, value)
    }

    /// Whether `headers` contain the secret, compared in constant time.
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        headers.get(HEADER).is_some_and(|sent| sent.as_bytes().ct_eq(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("SharedSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_matches() {
        let secret = SharedSecret::new("0123456789abcdef").unwrap();
        let sent = |secret: &SharedSecret| HeaderMap::from_iter([secret.header()]);
        assert!(secret.matches(&sent(&secret)));
        for other in ["0123456789abcdeF", "0123456789abcdef0"] {
            assert!(!secret.matches(&sent(&SharedSecret::new(other).unwrap())), "{other}");
        }
        assert!(!secret.matches(&HeaderMap::new()));
    }

    #[test]
    fn secret_is_never_shown() {
        for bad in ["short", "0123456789 abcdef", "0123456789abcdef\n"] {
            let error = SharedSecret::new(bad).unwrap_err().to_string();
            assert!(error.starts_with("MODEL_API_SECRET: must have at least 16") && !error.contains(bad), "{error}");
        }
        let secret = SharedSecret::new("0123456789abcdef").unwrap();
        assert!(!format!("{secret:?} {:?}", secret.header()).contains("0123"));
    }
}
