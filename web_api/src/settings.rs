use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use db_api::jobs::JobLimits;
use reqwest::Url;
use service::request_guard::{self, BindAddress, RequestGuard};
use service::settings::{ServerSettings, SettingError, at_least, between, millis, optional, parse, redact_url};
use service::shared_secret::SharedSecret;

use crate::webhook::WebhookSettings;

/// The longest that an answer may be remembered: more than the near cache can count is not far above.
const YEAR_S: u64 = 366 * 24 * 3600;

/// What the Redis of `redis.conf` takes of one client while no other jobs are in it: four fifths of four fifths of its 320 MiB.
const DEFAULT_JOB_BYTES: u64 = 192 << 20;

/// After so long inputs of jobs for a model that cannot be loaded, or is gone, fail. A model that is replaced sooner loses none.
const MODEL_UNAVAILABLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Everything the environment decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where and how it listens.
    pub server: ServerSettings,
    /// `PUBLISH`, `ALLOWED_HOSTS`, `CORS_ALLOW_ORIGINS`: under which names it is reached, and from which origins' pages.
    pub guard: RequestGuard,
    /// `APP_TYPE`: a page for people, or JSON everywhere.
    pub app_type: AppType,
    /// `MODEL_API_URL`: one or several, comma-separated; several are asked in turn.
    pub model_api: Vec<Url>,
    /// `MODEL_API_SECRET`: what `model_api` wants to see where a model is loaded or unloaded; unset: nothing.
    pub model_api_secret: Option<SharedSecret>,
    /// `REQUEST_TIMEOUT_MS`: how long `model_api` may take for one answer.
    pub request_timeout: Duration,
    /// `MAX_CONCURRENT_REQUESTS` (512): questions on their way to `model_api`; one more is answered 503.
    pub max_concurrent_requests: usize,
    /// `REPOSITORY_API`: `on`, or `off` to answer 403 to who wants a model loaded or unloaded. The public port asks nobody
    /// who he is: leave it on where only those reach the port who may do that, as on a machine of one's own.
    pub repository_api: bool,
    /// `REDIS_URL`: unset means that only this process remembers.
    pub redis_url: Option<String>,
    /// `REDIS_TIMEOUT_MS`: how long Redis may take for one command.
    pub redis_timeout: Duration,
    /// `CACHE_TTL_S`: how long an answer is remembered.
    pub cache_ttl: Duration,
    /// `NEAR_CACHE_BYTES`: how much of it in this process.
    pub near_cache_bytes: u64,
    /// What jobs may cost.
    pub jobs: JobSettings,
    /// `WEBHOOK_ALLOW`, `WEBHOOK_SECRET`: unset means that there are no webhooks.
    pub webhooks: Option<WebhookSettings>,
}

/// What jobs may cost, and who works on them.
#[derive(Clone, Copy, Debug)]
pub struct JobSettings {
    /// `JOB_CONCURRENCY` (64): inputs of one model that this process works on at the same time; 0 leaves all work to others.
    pub concurrency: usize,
    /// `JOB_LIST`: `on`, or `off` to answer 403 to who wants to see all jobs. Whoever knows a job's id may read its results.
    pub list: bool,
    /// `MAX_JOB_INPUTS` (10,000): inputs of one job.
    pub max_inputs: usize,
    /// `MAX_JOB_BYTES` (192 MiB): bytes of one job's inputs, unpacked. A body has at most `MAX_BODY_BYTES`.
    pub max_bytes: u64,
    /// Not in the environment: inputs of a model that has been unavailable for a minute fail with its reason.
    pub unavailable_timeout: Duration,
    /// `JOB_TTL_S` (a day), `JOB_QUEUE_LENGTH` (100,000), `JOB_CLAIM_AFTER_MS` (30,000), `JOB_MAX_DELIVERIES` (3).
    pub limits: JobLimits,
}

/// What `GET /` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppType {
    /// The page.
    Ui,
    /// JSON, for scripts.
    Cli,
}

impl Settings {
    /// Reads the variables named at the fields.
    pub fn from_env() -> Result<Self, SettingError> {
        let cache_ttl = Duration::from_secs(between("CACHE_TTL_S", 1, YEAR_S, 7 * 24 * 3600)?);
        let urls = parse("MODEL_API_URL", "http://127.0.0.1:5050".to_owned())?;
        let server = ServerSettings::from_env(5000, 9100)?;
        Ok(Self {
            guard: guard(server.address.ip())?,
            server,
            app_type: parse("APP_TYPE", AppType::Ui)?,
            model_api: urls.split(',').map(|url| base_url(url.trim())).collect::<Result<_, _>>()?,
            model_api_secret: SharedSecret::from_env()?,
            request_timeout: millis("REQUEST_TIMEOUT_MS", 30_000)?,
            max_concurrent_requests: at_least("MAX_CONCURRENT_REQUESTS", 1, 512)?,
            repository_api: parse("REPOSITORY_API", Switch(true))?.0,
            redis_url: optional("REDIS_URL"),
            redis_timeout: millis("REDIS_TIMEOUT_MS", 50)?,
            cache_ttl,
            near_cache_bytes: parse("NEAR_CACHE_BYTES", 64 << 20)?,
            jobs: JobSettings::from_env(cache_ttl)?,
            webhooks: WebhookSettings::from_env()?,
        })
    }
}

impl JobSettings {
    fn from_env(cache_ttl: Duration) -> Result<Self, SettingError> {
        Ok(Self {
            concurrency: between("JOB_CONCURRENCY", 0, 4096, 64)? as usize,
            list: parse("JOB_LIST", Switch(true))?.0,
            max_inputs: between("MAX_JOB_INPUTS", 1, 100_000, 10_000)? as usize,
            max_bytes: between("MAX_JOB_BYTES", 1, 1 << 40, DEFAULT_JOB_BYTES)?,
            unavailable_timeout: MODEL_UNAVAILABLE_TIMEOUT,
            limits: JobLimits {
                ttl: Duration::from_secs(between("JOB_TTL_S", 1, YEAR_S, 24 * 3600)?),
                queue_length: at_least("JOB_QUEUE_LENGTH", 1, 100_000)?,
                repeat_within: cache_ttl,
                claim_after: Duration::from_millis(between("JOB_CLAIM_AFTER_MS", 100, 24 * 3600 * 1000, 30_000)?),
                max_deliveries: between("JOB_MAX_DELIVERIES", 1, 1000, 3)? as u32,
            },
        })
    }
}

/// Of a service that listens on `host`.
fn guard(host: IpAddr) -> Result<RequestGuard, SettingError> {
    let BindAddress(publish) = parse("PUBLISH", BindAddress(host))?;
    let origins = request_guard::parse_origins(&optional("CORS_ALLOW_ORIGINS").unwrap_or_default());
    let origins = origins.map_err(|reason| SettingError::new("CORS_ALLOW_ORIGINS", reason))?;
    Ok(RequestGuard::public(!publish.is_loopback(), request_guard::allowed_hosts()?, origins))
}

fn base_url(text: &str) -> Result<Url, SettingError> {
    let error =
        |reason: &dyn fmt::Display| SettingError::new("MODEL_API_URL", format!("{:?}: {reason}", redact_url(text)));
    let url = Url::parse(text).map_err(|parse_error| error(&parse_error))?;
    if url.scheme() != "http" || url.cannot_be_a_base() {
        return Err(error(&"not an address like http://host:5050"));
    }
    Ok(url)
}

impl AppType {
    /// As in the environment and in keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ui => "ui",
            Self::Cli => "cli",
        }
    }
}

impl FromStr for AppType {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ui" => Ok(Self::Ui),
            "cli" => Ok(Self::Cli),
            _ => Err("neither ui nor cli"),
        }
    }
}

/// `on` or `off`.
struct Switch(bool);

impl FromStr for Switch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "on" => Ok(Self(true)),
            "off" => Ok(Self(false)),
            _ => Err("neither on nor off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_model_api_are_http_and_complete() {
        assert_eq!(base_url("http://model_api:5050").unwrap().port(), Some(5050));
        for bad in ["model_api:5050", "https://model_api:5050", "", "http://"] {
            assert!(base_url(bad).unwrap_err().to_string().starts_with("MODEL_API_URL: "), "{bad}");
        }
    }

    #[test]
    fn credentials_of_model_api_are_not_shown() {
        for bad in ["https://user:secret@model_api", "ftp://secret@model_api:x", "user:secret@model_api:5050"] {
            let error = base_url(bad).unwrap_err().to_string();
            assert!(!error.contains("secret") && error.contains("model_api"), "{error}");
        }
    }
}
