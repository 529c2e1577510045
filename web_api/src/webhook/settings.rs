use std::time::Duration;

use service::settings::{SettingError, optional};

use super::allow_list::AllowList;
use super::secret::Secret;

/// Delays between attempts: six attempts in three hours. A receiver that is being updated misses nothing, and one that is gone is soon
/// given up.
const RETRY_DELAYS: [Duration; 5] = [
    Duration::from_secs(10),
    Duration::from_mins(1),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
];

/// Allowed receivers, signing key, and retries of webhooks.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// `WEBHOOK_ALLOW`: comma-separated host names, addresses and networks; webhooks are disabled if it is unset.
    pub allow: AllowList,
    /// `WEBHOOK_SECRET`: `whsec_` and base64, or any text; required if webhooks are enabled.
    pub secret: Secret,
    /// Delays after the first failed attempt, the second, and so on. There is one more attempt than delays.
    pub retry_delays: Vec<Duration>,
}

impl WebhookSettings {
    /// Reads the variables named at the fields; `None` if webhooks are disabled.
    pub fn from_env() -> Result<Option<Self>, SettingError> {
        Self::read(optional("WEBHOOK_ALLOW").as_deref(), optional("WEBHOOK_SECRET").as_deref())
    }

    fn read(allow: Option<&str>, secret: Option<&str>) -> Result<Option<Self>, SettingError> {
        let Some(allow) = allow else { return Ok(None) };
        let allow = allow.parse().map_err(|error| SettingError::new("WEBHOOK_ALLOW", error))?;
        // The error must not contain the secret.
        let bad = |reason: &str| SettingError::new("WEBHOOK_SECRET", reason);
        let secret = secret.ok_or_else(|| bad("is not set, and WEBHOOK_ALLOW is: webhooks are signed with it"))?;
        Ok(Some(Self { allow, secret: secret.parse().map_err(bad)?, retry_delays: RETRY_DELAYS.to_vec() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef01234567";

    fn error(allow: &str, secret: Option<&str>) -> String {
        WebhookSettings::read(Some(allow), secret).unwrap_err().to_string()
    }

    #[test]
    fn webhooks_are_disabled_until_hosts_are_allowed() {
        assert!(WebhookSettings::read(None, Some(SECRET)).unwrap().is_none());
        let settings = WebhookSettings::read(Some("hooks.example.org"), Some(SECRET)).unwrap().unwrap();
        assert!(settings.allow.check("https://hooks.example.org/x").is_ok());
    }

    #[test]
    fn errors_name_the_variable_and_never_contain_the_secret() {
        assert!(error("hooks.example.org", None).starts_with("WEBHOOK_SECRET: is not set"));
        assert!(error("a b", Some(SECRET)).starts_with("WEBHOOK_ALLOW: "));
        let short = error("hooks.example.org", Some("hunter2"));
        assert!(short.starts_with("WEBHOOK_SECRET: ") && !short.contains("hunter2"), "{short}");
        let settings = WebhookSettings::read(Some("hooks.example.org"), Some(SECRET)).unwrap();
        assert!(!format!("{settings:?}").contains(&SECRET[..4]));
    }
}
