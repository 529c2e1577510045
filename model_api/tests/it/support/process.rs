//! The real `model_api` as a child process of the test.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::folder::Folder;

/// Limit of every wait. Nothing here takes as long, even on a busy machine.
const TIMEOUT: Duration = Duration::from_mins(1);

/// The real `model_api` with the real ONNX Runtime.
pub struct Running {
    process: Child,
    http: reqwest::Client,
    address: String,
    metrics: String,
    log: Folder,
}

/// The ONNX Runtime library: that of `ORT_DYLIB_PATH`, else the one that a start or `fetch_onnxruntime.sh` has put beside the
/// sources. Without it the test prints that it is skipped, or fails with `REQUIRE_ALL=1`.
pub fn library() -> Option<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.mlserve/onnxruntime-cpu/libonnxruntime.so");
    let named = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
    let library = named.or(Some(fetched).filter(|library| library.exists()));
    if library.is_none() {
        let missing = "ORT_DYLIB_PATH must name the libonnxruntime.so of the wheel onnxruntime; \
                       scripts/fetch_onnxruntime.sh cpu .mlserve/onnxruntime-cpu, in the repository's root, fetches it";
        assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "{missing}");
        eprintln!("skipped: {missing}");
    }
    library
}

/// `model_api` with these arguments and only these environment variables.
pub fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model_api"));
    command.args(arguments).env_clear().envs(variables.iter().copied());
    command
}

/// Runs `model_api` to its end.
pub fn output(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    command(arguments, variables).output().unwrap()
}

impl Running {
    /// Starts it over all models of `models`. `None` without a library.
    pub fn start(models: &Path, variables: &[(&str, &str)]) -> Option<Self> {
        let library = library()?;
        let (address, metrics, log) = (free_address(), free_address(), Folder::new());
        let (_, port) = address.split_once(':').unwrap();
        let mut command = command(&[], &[]);
        command
            .env("ORT_DYLIB_PATH", library)
            .env("MODELS_DIR", models)
            .env("MODEL_NAME", "all")
            .env("PORT", port)
            .env("METRICS_ADDR", &metrics)
            .env("LAME_DUCK_MS", "1")
            // One session, so that a test can identify the session that it kills.
            .env("SESSION_THREADS", "1")
            .envs(variables.iter().copied())
            .stderr(Stdio::from(File::create(log.path().join("log")).unwrap()));
        let process = command.spawn().unwrap();
        Some(Self { process, http: reqwest::Client::new(), address, metrics, log })
    }

    /// Starts it and waits until it is ready.
    pub async fn ready(models: &Path, variables: &[(&str, &str)]) -> Option<Self> {
        let running = Self::start(models, variables)?;
        let started_at = Instant::now();
        while running.get("/health/ready").await.is_none_or(|(status, _)| status != 200) {
            assert!(started_at.elapsed() < TIMEOUT, "model_api does not become ready:\n{}", running.log());
            sleep(Duration::from_millis(20)).await;
        }
        Some(running)
    }

    /// `None` while the port is closed.
    pub async fn get(&self, path: &str) -> Option<(u16, Value)> {
        let response = self.http.get(format!("http://{}{path}", self.address)).send().await.ok()?;
        Some((response.status().as_u16(), response.json().await.ok()?))
    }

    pub async fn post(&self, path: &str, media_type: &str, body: Vec<u8>) -> (u16, Value) {
        let request = self.http.post(format!("http://{}{path}", self.address)).header("content-type", media_type);
        let response = request.body(body).send().await.unwrap();
        let (status, body) = (response.status().as_u16(), response.bytes().await.unwrap());
        (status, if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() })
    }

    /// Sends a request with these headers. Returns headers and body of a successful response.
    pub async fn post_with(&self, path: &str, headers: HeaderMap, body: Bytes) -> (HeaderMap, Bytes) {
        let request = self.http.post(format!("http://{}{path}", self.address)).headers(headers).body(body);
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        (headers, body)
    }

    /// Sends an `image_arr` to a model.
    pub async fn predict_array(&self, model: &str, array: &str) -> (u16, Value) {
        let body = format!(r#"{{"image_arr": {array}}}"#);
        self.post(&format!("/predict_array/{model}"), "application/json", body.into_bytes()).await
    }

    /// Sends one FP32 value as the input `x` of the shape `[1]`. Gives the first output's data, or the error.
    pub async fn infer(&self, model: &str, value: f32) -> (u16, Value) {
        let body = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [value]}]}).to_string();
        let (status, mut body) =
            self.post(&format!("/v2/models/{model}/infer"), "application/json", body.into_bytes()).await;
        (status, if status == 200 { body["outputs"][0]["data"].take() } else { body })
    }

    /// The value of a metric, with its labels as in the exposition format.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let text =
            self.http.get(format!("http://{}/metrics", self.metrics)).send().await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Its port.
    pub fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The process ids of its sessions.
    pub fn sessions(&self) -> Vec<u32> {
        let parent = self.process.id();
        let processes =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        processes.filter(|&process| parent_of(process) == Some(parent)).collect()
    }

    /// Waits until it has a session other than `old`.
    pub async fn session_other_than(&self, old: u32) -> u32 {
        let started_at = Instant::now();
        loop {
            if let Some(new) = self.sessions().into_iter().find(|&session| session != old) {
                return new;
            }
            assert!(started_at.elapsed() < TIMEOUT, "no new session:\n{}", self.log());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends it a signal and waits until it ends.
    pub async fn end(&mut self, signal_name: &str) -> ExitStatus {
        signal(self.process.id(), signal_name);
        self.ended().await
    }

    /// Waits until it ends.
    pub async fn ended(&mut self) -> ExitStatus {
        let started_at = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(started_at.elapsed() < TIMEOUT, "model_api does not end:\n{}", self.log());
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path().join("log")).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends a signal by its name.
pub fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap();
    assert!(status.success(), "kill -s {name} {process}");
}

/// Whether the process exists and has not ended.
pub fn is_alive(process: u32) -> bool {
    stat(process).is_some_and(|stat| !stat.starts_with('Z'))
}

fn parent_of(process: u32) -> Option<u32> {
    stat(process)?.split(' ').nth(1)?.parse().ok()
}

/// `/proc/PID/stat` from the state on. The name before it may contain any characters.
fn stat(process: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.to_owned())
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
