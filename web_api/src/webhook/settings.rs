use std::time::Duration;

use service::settings::{SettingError, optional};

use super::{AllowList, Secret};

/// Six tries in three hours: a receiver that is being updated misses nothing, and one that is gone is soon left alone.
const BACK_OFF: [Duration; 5] = [
    Duration::from_secs(10),
    Duration::from_mins(1),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
];

/// Who may be called, and how he sees that it was we.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// `WEBHOOK_ALLOW`: comma-separated names of hosts, and addresses or networks; unset means that there are no webhooks.
    pub allow: AllowList,
    /// `WEBHOOK_SECRET`: `whsec_` and base64, or any text; needed where there are webhooks.
    pub secret: Secret,
    /// After the first try that failed, the second, …; when this is used up it is given up.
    pub back_off: Vec<Duration>,
}

impl WebhookSettings {
    /// Reads the variables named at the fields; `None` when there are to be no webhooks.
    pub fn from_env() -> Result<Option<Self>, SettingError> {
        Self::read(optional("WEBHOOK_ALLOW").as_deref(), optional("WEBHOOK_SECRET").as_deref())
    }

    fn read(allow: Option<&str>, secret: Option<&str>) -> Result<Option<Self>, SettingError> {
        let Some(allow) = allow else { return Ok(None) };
        let allow = allow.parse().map_err(|error| SettingError::new("WEBHOOK_ALLOW", error))?;
        // What is wrong with it is said without saying it.
        let bad = |reason: &str| SettingError::new("WEBHOOK_SECRET", reason);
        let secret = secret.ok_or_else(|| bad("is not set, and WEBHOOK_ALLOW is: webhooks are signed with it"))?;
        Ok(Some(Self { allow, secret: secret.parse().map_err(bad)?, back_off: BACK_OFF.to_vec() }))
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
    fn there_are_none_until_hosts_are_named() {
        assert!(WebhookSettings::read(None, Some(SECRET)).unwrap().is_none());
        let settings = WebhookSettings::read(Some("hooks.example.org"), Some(SECRET)).unwrap().unwrap();
        assert!(settings.allow.check("https://hooks.example.org/x").is_ok());
    }

    #[test]
    fn a_bad_one_is_named_and_the_secret_is_never_said() {
        assert!(error("hooks.example.org", None).starts_with("WEBHOOK_SECRET: is not set"));
        assert!(error("a b", Some(SECRET)).starts_with("WEBHOOK_ALLOW: "));
        let short = error("hooks.example.org", Some("hunter2"));
        assert!(short.starts_with("WEBHOOK_SECRET: ") && !short.contains("hunter2"), "{short}");
        let settings = WebhookSettings::read(Some("hooks.example.org"), Some(SECRET)).unwrap();
        assert!(!format!("{settings:?}").contains(&SECRET[..4]));
    }
}
