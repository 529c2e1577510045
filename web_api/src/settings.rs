use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use db_api::jobs::JobLimits;
use reqwest::Url;
use service::request_guard::{self, BindAddress, RequestGuard};
use service::settings::{ServerSettings, SettingError, at_least, between, millis, optional, parse, redact_url};
use service::shared_secret::SharedSecret;

use crate::webhook::settings::WebhookSettings;

/// Maximum of settings that are times to live. The in-process cache cannot represent much longer times.
const MAX_TTL_S: u64 = 366 * 24 * 3600;

/// Size of the largest job that the Redis of `redis.conf` accepts from one client while it holds no other jobs:
/// 0.8 × 0.8 × 320 MiB, rounded down.
const DEFAULT_JOB_BYTES: u64 = 192 << 20;

/// Time after which inputs of jobs fail when their model is unavailable. A model that is replaced within this time fails none.
const MODEL_UNAVAILABLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Settings of the service.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Listeners, connection limits and timeouts.
    pub server: ServerSettings,
    /// `PUBLISH`, `ALLOWED_HOSTS`, `CORS_ALLOW_ORIGINS`: host names that requests may use, and origins whose pages may send requests.
    pub guard: RequestGuard,
    /// `APP_TYPE`: HTML page, or JSON on every route.
    pub app_type: AppType,
    /// `MODEL_API_URL`: one or several URLs, comma-separated. Several replicas are used in turn.
    pub model_api: Vec<Url>,
    /// `MODEL_API_SECRET`: secret that `model_api` requires for loading and unloading models. Unset: no secret is sent.
    pub model_api_secret: Option<SharedSecret>,
    /// `REQUEST_TIMEOUT_MS`: timeout of one request to `model_api`.
    pub request_timeout: Duration,
    /// `MAX_CONCURRENT_REQUESTS` (512): maximum number of requests in flight to `model_api`; one more fails with 503.
    pub max_concurrent_requests: usize,
    /// `REPOSITORY_API`: `on`, or `off` to reject requests to load or unload models with 403. The public port has no
    /// authentication, so `on` is safe only where every client that reaches the port may do that.
    pub repository_api: bool,
    /// `REDIS_URL`: unset means that results and jobs are kept in this process only.
    pub redis_url: Option<String>,
    /// `REDIS_TIMEOUT_MS`: timeout of one Redis command.
    pub redis_timeout: Duration,
    /// `CACHE_TTL_S`: time to live of a cached result.
    pub cache_ttl: Duration,
    /// `NEAR_CACHE_BYTES`: size of the in-process cache.
    pub near_cache_bytes: u64,
    /// Settings and limits of jobs.
    pub jobs: JobSettings,
    /// `WEBHOOK_ALLOW`, `WEBHOOK_SECRET`: unset means that webhooks are disabled.
    pub webhooks: Option<WebhookSettings>,
}

/// Settings and limits of jobs.
#[derive(Clone, Copy, Debug)]
pub struct JobSettings {
    /// `JOB_CONCURRENCY` (64): maximum number of inputs per model that this process works on concurrently; 0: it works on none.
    pub concurrency: usize,
    /// `JOB_LIST`: `on`, or `off` to reject `GET /jobs` with 403. A client that knows the ID of a job can always read its results.
    pub list: bool,
    /// `MAX_JOB_INPUTS` (10,000): maximum number of inputs of one job.
    pub max_inputs: usize,
    /// `MAX_JOB_BYTES` (192 MiB): maximum size of the inputs of one job, unpacked. `MAX_BODY_BYTES` limits the request body itself.
    pub max_bytes: u64,
    /// Time after which inputs of an unavailable model fail with the model's reason. Not configurable: one minute.
    pub unavailable_timeout: Duration,
    /// `JOB_TTL_S` (a day), `JOB_QUEUE_LENGTH` (100,000), `JOB_CLAIM_AFTER_MS` (30,000), `JOB_MAX_DELIVERIES` (3).
    pub limits: JobLimits,
}

/// Response format of `GET /`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppType {
    /// HTML page.
    Ui,
    /// JSON, for scripts.
    Cli,
}

impl Settings {
    /// Reads the environment variables that the fields name.
    pub fn from_env() -> Result<Self, SettingError> {
        let cache_ttl = Duration::from_secs(between("CACHE_TTL_S", 1, MAX_TTL_S, 7 * 24 * 3600)?);
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
                ttl: Duration::from_secs(between("JOB_TTL_S", 1, MAX_TTL_S, 24 * 3600)?),
                max_queue_length: at_least("JOB_QUEUE_LENGTH", 1, 100_000)?,
                dedup_window: cache_ttl,
                claim_timeout: Duration::from_millis(between("JOB_CLAIM_AFTER_MS", 100, 24 * 3600 * 1000, 30_000)?),
                max_deliveries: between("JOB_MAX_DELIVERIES", 1, 1000, 3)? as u32,
            },
        })
    }
}

/// Builds the guard of a service that listens on `host`.
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
        return Err(error(&"not a URL like http://host:5050"));
    }
    Ok(url)
}

impl AppType {
    /// Value of the setting, which is also part of every cache key.
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

/// Value of a setting that is `on` or `off`.
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
    fn model_api_urls_must_be_complete_http_urls() {
        assert_eq!(base_url("http://model_api:5050").unwrap().port(), Some(5050));
        for bad in ["model_api:5050", "https://model_api:5050", "", "http://"] {
            assert!(base_url(bad).unwrap_err().to_string().starts_with("MODEL_API_URL: "), "{bad}");
        }
    }

    #[test]
    fn errors_do_not_show_credentials_of_model_api_urls() {
        for bad in ["https://user:secret@model_api", "ftp://secret@model_api:x", "user:secret@model_api:5050"] {
            let error = base_url(bad).unwrap_err().to_string();
            assert!(!error.contains("secret") && error.contains("model_api"), "{error}");
        }
    }
}
