use std::path::PathBuf;
use std::time::Duration;

use service::request_guard::RequestGuard;
use service::settings::{ServerSettings, SettingError, at_least, millis, optional, parse};
use service::shared_secret::SharedSecret;

use crate::image_input::ImageLimits;
use crate::memory::{self, Bounds, Shares};
use crate::repository_access::RepositoryAccess;
use crate::session::DeviceWish;

/// Every variable that `model_api` reads, checked before a port is bound.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What every service of ours has: `HOST`, `PORT` (5050), `METRICS_ADDR` (127.0.0.1:9150), …
    pub server: ServerSettings,
    /// `ALLOWED_HOSTS`: names in `Host` that are accepted where it listens on loopback, beside loopback names and IP addresses.
    pub guard: RequestGuard,
    /// `MODEL_API_SECRET`: what requests to load and unload models must carry; unset: they are accepted on loopback alone.
    pub repository_access: RepositoryAccess,
    /// `MODEL_NAME`: which models are served from the start.
    pub models: Selection,
    /// `MODELS_DIR` (`./models`): where they are.
    pub models_dir: PathBuf,
    /// `MODEL_WATCH` (`poll`) and `MODEL_WATCH_INTERVAL_MS` (1000): how often that folder is looked at for what is new,
    /// changed or gone; with `off` it never is.
    pub watch: Option<Duration>,
    /// `DEVICE` (`auto`): `auto`, `cpu` or `cuda`.
    pub device: DeviceWish,
    /// `ORT_DYLIB_PATH`: the ONNX Runtime library, out of the wheel `onnxruntime` or `onnxruntime-gpu`.
    pub library: PathBuf,
    /// `SESSION_THREADS` (0): threads of all sessions of a model together; 0 is what the cgroup's quota allows.
    pub session_threads: usize,
    /// `QUEUE_LENGTH` (1024): rows that may wait for a model, and as many pictures, but never fewer than 512, to be decoded
    /// for any; one more is answered 503.
    pub queue_length: usize,
    /// `QUEUE_BYTES` (268435456): of the inputs that wait or run, decoded, of all models together; one more is answered 503.
    pub queue_bytes: usize,
    /// `RUN_TIMEOUT_MS` (30000): a run that takes longer is answered 504, and its session is replaced.
    pub run_timeout: Duration,
    /// `SESSION_MEMORY_BYTES` (0): one session's process is ended above it; 0 is half of the cgroup's limit or of the machine's
    /// memory, or less where this process and all sessions would not fit beside it ([`crate::memory`]).
    pub memory: Shares,
    /// `START_TIMEOUT_MS` (120000): a session must have loaded its model and run it once by then.
    pub start_timeout: Duration,
    /// `MAX_IMAGE_BYTES` (33554432), `MAX_IMAGE_SIDE` (16384 pixels), `MAX_IMAGE_PIXELS` (67108864) and
    /// `MAX_DECODE_BYTES` (268435456): of one picture; the last also of the tensor that a batch of them becomes.
    pub image: ImageLimits,
    /// `DECODE_THREADS` (0): pictures decoded at the same time, each within `MAX_DECODE_BYTES`; 0 is what the cgroup's
    /// quota allows, but never more than 4, so that decoding takes 1 GiB at most however many cores there are.
    pub decode_threads: usize,
}

/// Unless the operator, who knows the memory, says more: each may take `MAX_DECODE_BYTES`.
const MOST_DECODE_THREADS: usize = 4;

/// `MODEL_NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// `all`: every model that there is.
    All,
    /// A name, or several with commas.
    Names(Vec<String>),
}

impl Settings {
    /// Where `model_api` listens when `PORT` is not set.
    pub const PORT: u16 = 5050;
    /// Where its metrics are when `METRICS_ADDR` is not set.
    pub const METRICS_PORT: u16 = 9150;

    /// Reads the variables named at the fields.
    pub fn from_env() -> Result<Self, SettingError> {
        let default = ImageLimits::default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let or_cores = |threads| if threads == 0 { cores } else { threads };
        let server = ServerSettings::from_env(Self::PORT, Self::METRICS_PORT)?;
        let queue_bytes = at_least("QUEUE_BYTES", 1, 256 << 20)?;
        let decode_bytes = at_least("MAX_DECODE_BYTES", 1, default.decode_bytes)?;
        let decode_threads = match parse("DECODE_THREADS", 0)? {
            0 => cores.min(MOST_DECODE_THREADS),
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
            memory: Shares::new(memory::limit(), &bounds, session_memory),
            models: selection(optional("MODEL_NAME").as_deref())?,
            models_dir: models_dir()?,
            watch: watch(&parse("MODEL_WATCH", "poll".to_owned())?, millis("MODEL_WATCH_INTERVAL_MS", 1000)?)?,
            device: device(&parse("DEVICE", "auto".to_owned())?)?,
            library: library(optional("ORT_DYLIB_PATH"))?,
            session_threads: or_cores(parse("SESSION_THREADS", 0)?),
            queue_length: at_least("QUEUE_LENGTH", 1, 1024)?,
            queue_bytes,
            run_timeout: millis("RUN_TIMEOUT_MS", 30_000)?,
            start_timeout: millis("START_TIMEOUT_MS", 120_000)?,
            image: ImageLimits {
                bytes: at_least("MAX_IMAGE_BYTES", 1, default.bytes)?,
                side: at_least("MAX_IMAGE_SIDE", 1, default.side)?,
                pixels: at_least("MAX_IMAGE_PIXELS", 1, default.pixels)?,
                decode_bytes,
            },
            decode_threads,
        })
    }
}

/// `MODELS_DIR`, which the subcommand `models` needs without the rest.
pub fn models_dir() -> Result<PathBuf, SettingError> {
    let dir: PathBuf = parse("MODELS_DIR", PathBuf::from("./models"))?;
    if dir.is_dir() { Ok(dir) } else { Err(SettingError::new("MODELS_DIR", format!("{} is no folder", dir.display()))) }
}

fn selection(names: Option<&str>) -> Result<Selection, SettingError> {
    let names = names.ok_or_else(|| {
        SettingError::new("MODEL_NAME", "must say which model to serve: a name, several with commas, or all")
    })?;
    if names.trim() == "all" {
        return Ok(Selection::All);
    }
    let mut names: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).collect();
    names.sort();
    names.dedup();
    match names.iter().find(|name| !contract::valid_model_name(name)) {
        Some(bad) => {
            Err(SettingError::new("MODEL_NAME", format!("{bad:?} is no name: letters, digits, '.', '_' and '-'")))
        }
        None => Ok(Selection::Names(names)),
    }
}

fn watch(text: &str, interval: Duration) -> Result<Option<Duration>, SettingError> {
    match text {
        "off" => Ok(None),
        "poll" => Ok(Some(interval)),
        other => Err(SettingError::new("MODEL_WATCH", format!("{other:?} is neither off nor poll"))),
    }
}

fn device(text: &str) -> Result<DeviceWish, SettingError> {
    match text {
        "auto" => Ok(DeviceWish::Auto),
        "cpu" => Ok(DeviceWish::Cpu),
        "cuda" => Ok(DeviceWish::Cuda),
        other => Err(SettingError::new("DEVICE", format!("{other:?} is none of auto, cpu and cuda"))),
    }
}

fn library(path: Option<String>) -> Result<PathBuf, SettingError> {
    let name = "ORT_DYLIB_PATH";
    let path = path.map(PathBuf::from).ok_or_else(|| {
        SettingError::new(name, "must name the libonnxruntime.so of the wheel onnxruntime or onnxruntime-gpu")
    })?;
    if path.is_file() { Ok(path) } else { Err(SettingError::new(name, format!("{} is no file", path.display()))) }
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
    fn what_cannot_be_served_is_told_with_the_name_of_the_variable() {
        assert!(names("../etc").unwrap_err().starts_with("MODEL_NAME: \"../etc\" is no name"));
        assert!(names("a,,b").unwrap_err().starts_with("MODEL_NAME: \"\" is no name"));
        assert!(selection(None).unwrap_err().to_string().starts_with("MODEL_NAME: must say"));
        assert!(watch("inotify", Duration::ZERO).unwrap_err().to_string().ends_with("is neither off nor poll"));
        assert!(device("gpu").unwrap_err().to_string().starts_with("DEVICE: \"gpu\" is none of"));
        assert!(library(None).unwrap_err().to_string().starts_with("ORT_DYLIB_PATH: must name"));
        assert!(library(Some("/".into())).unwrap_err().to_string().ends_with("is no file"));
    }
}
