use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Prefix of a secret in base64, from the Standard Webhooks specification.
const BASE64_PREFIX: &str = "whsec_";

/// Minimum length of a key according to that specification, bytes.
const MIN_BYTES: usize = 24;

/// Key that signs webhooks. `Debug` does not print it.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// Value of the header `webhook-signature`: HMAC-SHA-256 over ID, Unix time in seconds and body, separated by full stops.
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mut hmac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC accepts keys of any length");
        hmac.update(format!("{id}.{timestamp}.").as_bytes());
        hmac.update(body);
        format!("v1,{}", STANDARD.encode(hmac.finalize().into_bytes()))
    }
}

impl FromStr for Secret {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let key = match text.strip_prefix(BASE64_PREFIX) {
            Some(key) => STANDARD.decode(key).map_err(|_| "what follows whsec_ is not base64")?,
            None => text.as_bytes().to_vec(),
        };
        if key.len() < MIN_BYTES {
            return Err("has fewer than 24 bytes; one is made by: echo whsec_$(head -c 32 /dev/urandom | base64)");
        }
        Ok(Self(key.into()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vector of the reference libraries of the specification.
    #[test]
    fn the_signature_matches_the_specification() {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn short_secrets_and_invalid_base64_are_rejected() {
        for bad in ["", "whsec_", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "whsec_c2hvcnQ=", "01234567890123456789012"]
        {
            assert!(bad.parse::<Secret>().is_err(), "{bad}");
        }
        assert!("012345678901234567890123".parse::<Secret>().is_ok());
    }
}
