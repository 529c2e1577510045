use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// How the Standard Webhooks specification marks a secret that is written in base64.
const IN_BASE64: &str = "whsec_";

/// What that specification asks of a key.
const LEAST_BYTES: usize = 24;

/// The key that webhooks are signed with. Its `Debug` does not say it.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// The header `webhook-signature`: HMAC-SHA-256 over id, seconds since 1970 and body, with full stops between.
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mut hmac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        hmac.update(format!("{id}.{timestamp}.").as_bytes());
        hmac.update(body);
        format!("v1,{}", STANDARD.encode(hmac.finalize().into_bytes()))
    }
}

impl FromStr for Secret {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let key = match text.strip_prefix(IN_BASE64) {
            Some(key) => STANDARD.decode(key).map_err(|_| "what follows whsec_ is not base64")?,
            None => text.as_bytes().to_vec(),
        };
        if key.len() < LEAST_BYTES {
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

    /// The example in the specification's own libraries.
    #[test]
    fn signs_as_the_specification_does() {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_is_long_enough_and_base64_where_it_says_so() {
        for bad in ["", "whsec_", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "whsec_c2hvcnQ=", "01234567890123456789012"]
        {
            assert!(bad.parse::<Secret>().is_err(), "{bad}");
        }
        assert!("012345678901234567890123".parse::<Secret>().is_ok());
    }
}
