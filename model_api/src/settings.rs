//! Environment variables of `model_api`.

use std::path::PathBuf;
use std::time::Duration;

use service::request_guard::RequestGuard;
use service::settings::{ServerSettings, SettingError, at_least, millis, optional, parse};
use service::shared_secret::SharedSecret;

use crate::memory::{self, Bounds, Shares};
use crate::preprocessing::ImageLimits;
use crate::repository::{RepositoryAccess, Selection};
use crate::session::DevicePreference;

/// Environment variables of `model_api`, with their defaults in parentheses. They are validated before a port is bound.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Settings that both services have: `HOST`, `PORT` (5050), `METRICS_ADDR` (127.0.0.1:9150), …
    pub server: ServerSettings,
    /// `ALLOWED_HOSTS`: names that `Host` may contain when the service listens on loopback, beside loopback names and IP addresses.
    pub guard: RequestGuard,
    /// `MODEL_API_SECRET`: secret that requests to load and unload models must contain. Without it, such requests are accepted on
    /// loopback only.
    pub repository_access: RepositoryAccess,
    /// `MODEL_NAME`: which models are served from the start.
    pub models: Selection,
    /// `MODELS_DIR` (`./models`): the folder of models.
    pub models_dir: PathBuf,
    /// `MODEL_WATCH` (`poll`) and `MODEL_WATCH_INTERVAL_MS` (1000): interval at which the folder is polled for changes; `None` with
    /// `off`.
    pub watch_interval: Option<Duration>,
    /// `DEVICE` (`auto`): `auto`, `cpu` or `cuda`.
    pub device: DevicePreference,
    /// `ORT_DYLIB_PATH`: the ONNX Runtime library from the wheel `onnxruntime` or `onnxruntime-gpu`.
    pub library: PathBuf,
    /// `SESSION_THREADS` (0): threads of all sessions of one model together; 0 stands for the CPU quota of the cgroup.
    pub session_threads: usize,
    /// `QUEUE_LENGTH` (1024): maximum number of rows that wait for one model, and of images, but at least 512, that wait to be
    /// decoded. Further requests are rejected with 503.
    pub queue_length: usize,
    /// `QUEUE_BYTES` (268435456): maximum size of the decoded inputs that wait or run, for all models together. Further requests are
    /// rejected with 503.
    pub queue_bytes: usize,
    /// `RUN_TIMEOUT_MS` (30000): time limit of one run. After it the response is 504, and the session is replaced.
    pub run_timeout: Duration,
    /// `SESSION_MEMORY_BYTES` (0): memory limit of one session process, which is killed above it. 0 stands for half of the memory of
    /// the cgroup or machine, or less if this process and all sessions would not fit beside it ([`crate::memory`]).
    pub memory: Shares,
    /// `START_TIMEOUT_MS` (120000): time limit for a session to load its model and to run it once.
    pub start_timeout: Duration,
    /// `MAX_IMAGE_BYTES` (33554432), `MAX_IMAGE_SIDE` (16384 pixels), `MAX_IMAGE_PIXELS` (67108864) and
    /// `MAX_DECODE_BYTES` (268435456): limits of one image. The last also limits the tensor of a batch of images.
    pub image_limits: ImageLimits,
    /// `DECODE_THREADS` (0): images that are decoded concurrently, each within `MAX_DECODE_BYTES`. 0 stands for the CPU quota of the
    /// cgroup, but at most 4, so that decoding takes at most 1 GiB on any machine.
    pub decode_threads: usize,
}

/// Largest default of `DECODE_THREADS`. Each thread may use `MAX_DECODE_BYTES`, so more threads need an explicit setting.
const MAX_DEFAULT_DECODE_THREADS: usize = 4;

impl Settings {
    /// Default of `PORT`.
    pub const PORT: u16 = 5050;
    /// Default port of `METRICS_ADDR`.
    pub const METRICS_PORT: u16 = 9150;

    /// Reads and validates the variables.
    pub fn from_env() -> Result<Self, SettingError> {
        let default = ImageLimits::default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let or_cores = |threads| if threads == 0 { cores } else { threads };
        let server = ServerSettings::from_env(Self::PORT, Self::METRICS_PORT)?;
        let queue_bytes = at_least("QUEUE_BYTES", 1, 256 << 20)?;
        let decode_bytes = at_least("MAX_DECODE_BYTES", 1, default.decode_bytes)?;
        let decode_threads = match parse("DECODE_THREADS", 0)? {
            0 => cores.min(MAX_DEFAULT_DECODE_THREADS),
            threads => threads,
        };
        let bounds = Bounds {
            bodies: server.body_memory_bytes as u64,
            connections: server.max_connections as u64,
            decoding: decode_bytes.saturating_mul(decode_threads as u64),
            inputs: queue_bytes as u64,
        };
        let session_memory = Some(parse("SESSION_MEMORY_BYTES", 0)?).filter(|&bytes| bytes > 0);
        let host = server.address.ip();
        Ok(Self {
            guard: RequestGuard::private_from_env(host)?,
            repository_access: RepositoryAccess::new(SharedSecret::from_env()?, host),
            server,
            memory: Shares::new(memory::total_limit(), &bounds, session_memory),
            models: selection(optional("MODEL_NAME").as_deref())?,
            models_dir: models_dir()?,
            watch_interval: watch_interval(
                &parse("MODEL_WATCH", "poll".to_owned())?,
                millis("MODEL_WATCH_INTERVAL_MS", 1000)?,
            )?,
            device: device(&parse("DEVICE", "auto".to_owned())?)?,
            library: library(optional("ORT_DYLIB_PATH"))?,
            session_threads: or_cores(parse("SESSION_THREADS", 0)?),
            queue_length: at_least("QUEUE_LENGTH", 1, 1024)?,
            queue_bytes,
            run_timeout: millis("RUN_TIMEOUT_MS", 30_000)?,
            start_timeout: millis("START_TIMEOUT_MS", 120_000)?,
            image_limits: ImageLimits {
                bytes: at_least("MAX_IMAGE_BYTES", 1, default.bytes)?,
                side: at_least("MAX_IMAGE_SIDE", 1, default.side)?,
                pixels: at_least("MAX_IMAGE_PIXELS", 1, default.pixels)?,
                decode_bytes,
            },
            decode_threads,
        })
    }
}

/// Reads `MODELS_DIR`, the only variable of the subcommand `models`.
pub fn models_dir() -> Result<PathBuf, SettingError> {
    let dir: PathBuf = parse("MODELS_DIR", PathBuf::from("./models"))?;
    if dir.is_dir() {
        Ok(dir)
    } else {
        Err(SettingError::new("MODELS_DIR", format!("{} is not a folder", dir.display())))
    }
}

fn selection(names: Option<&str>) -> Result<Selection, SettingError> {
    let names = names.ok_or_else(|| {
        SettingError::new("MODEL_NAME", "must name the models to serve: a name, several with commas, or all")
    })?;
    if names.trim() == "all" {
        return Ok(Selection::All);
    }
    let mut names: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).collect();
    names.sort();
    names.dedup();
    match names.iter().find(|name| !contract::valid_model_name(name)) {
        Some(bad) => Err(SettingError::new(
            "MODEL_NAME",
            format!("{bad:?} is not a model name: it must consist of letters, digits, '.', '_' and '-'"),
        )),
        None => Ok(Selection::Names(names)),
    }
}

fn watch_interval(text: &str, interval: Duration) -> Result<Option<Duration>, SettingError> {
    match text {
        "off" => Ok(None),
        "poll" => Ok(Some(interval)),
        other => Err(SettingError::new("MODEL_WATCH", format!("{other:?} is neither off nor poll"))),
    }
}

fn device(text: &str) -> Result<DevicePreference, SettingError> {
    match text {
        "auto" => Ok(DevicePreference::Auto),
        "cpu" => Ok(DevicePreference::Cpu),
        "cuda" => Ok(DevicePreference::Cuda),
        other => Err(SettingError::new("DEVICE", format!("{other:?} is none of auto, cpu and cuda"))),
    }
}

fn library(path: Option<String>) -> Result<PathBuf, SettingError> {
    let name = "ORT_DYLIB_PATH";
    let path = path.map(PathBuf::from).ok_or_else(|| {
        SettingError::new(name, "must name the libonnxruntime.so of the wheel onnxruntime or onnxruntime-gpu")
    })?;
    if path.is_file() { Ok(path) } else { Err(SettingError::new(name, format!("{} is not a file", path.display()))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Selection, String> {
        selection(Some(text)).map_err(|error| error.to_string())
    }

    #[test]
    fn model_name_is_one_several_or_all() {
        assert_eq!(names("all"), Ok(Selection::All));
        assert_eq!(names("mnist"), Ok(Selection::Names(vec!["mnist".into()])));
        assert_eq!(names("b, a,b"), Ok(Selection::Names(vec!["a".into(), "b".into()])));
    }

    #[test]
    fn an_invalid_value_is_reported_with_the_name_of_its_variable() {
        assert!(names("../etc").unwrap_err().starts_with("MODEL_NAME: \"../etc\" is not a model name"));
        assert!(names("a,,b").unwrap_err().starts_with("MODEL_NAME: \"\" is not a model name"));
        assert!(selection(None).unwrap_err().to_string().starts_with("MODEL_NAME: must name"));
        assert!(
            watch_interval("inotify", Duration::ZERO).unwrap_err().to_string().ends_with("is neither off nor poll")
        );
        assert!(device("gpu").unwrap_err().to_string().starts_with("DEVICE: \"gpu\" is none of"));
        assert!(library(None).unwrap_err().to_string().starts_with("ORT_DYLIB_PATH: must name"));
        assert!(library(Some("/".into())).unwrap_err().to_string().ends_with("is not a file"));
    }
}
