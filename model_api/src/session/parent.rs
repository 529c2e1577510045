//! Parent side of a session: starts the child process, sends it requests and enforces its limits.

use std::future::pending;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use open_inference::Tensor;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::error::{SessionError, StartError};
use super::frame::{self, LoadRequest, Request, Response};
use super::gpu_memory;
use super::info::{DevicePreference, SessionConfig, SessionInfo};
use super::launcher::{Launcher, Session, SessionMemory};
use crate::memory::{Budget, ProcessMemory, SessionLimits, check_process_limit};

const MEMORY_REMEDY: &str = "unload other models, or raise SESSION_MEMORY_BYTES and the memory limit of model_api";
const PROTOCOL_VIOLATION: &str = "the session process violated the protocol between parent and child";
const UNRESPONSIVE: &str = "the session process did not respond to the cancellation of a run";

/// Large enough to read a complete response of most models at once, bytes.
const READ_BUFFER_BYTES: usize = 16 << 10;

/// How long a cancelled run may take to end. ONNX Runtime checks its flag between operators and does not interrupt them.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(500);

/// Starts `model_api session` processes.
#[derive(Clone, Debug)]
pub struct ChildLauncher {
    /// The binary with the subcommand `session`.
    pub program: PathBuf,
    /// The ONNX Runtime library.
    pub library: PathBuf,
    /// Where models may run.
    pub device: DevicePreference,
    /// From the start of the process to its first response.
    pub start_timeout: Duration,
    /// Memory limits of sessions.
    pub limits: SessionLimits,
    /// Budget for outputs, from the read until the response is sent.
    pub results: Budget,
}

/// A warm child process. Dropping it kills it.
#[derive(Debug)]
pub struct ChildSession {
    process: Child,
    responses: BufReader<OwnedReadHalf>,
    requests: OwnedWriteHalf,
    /// Carries the numbers of cancelled runs ([`super::cancellation`]).
    cancellations: UnixStream,
    /// Runs so far.
    runs: u64,
    on_gpu: bool,
    /// `None` for a process that has already ended.
    memory: Option<Arc<ProcessMemory>>,
    /// Size after warm-up, bytes. `None` before.
    baseline: Option<u64>,
    results: Budget,
}

impl Launcher for ChildLauncher {
    type Session = ChildSession;

    async fn launch(&self, config: &SessionConfig) -> Result<(SessionInfo, ChildSession), StartError> {
        let load = LoadRequest {
            library: self.library.clone(),
            graph: config.graph.clone(),
            device: self.device,
            threads: config.threads,
            shapes: config.shapes.clone(),
        };
        check_process_limit(config.threads).map_err(StartError::Model)?;
        let mut child = ChildSession::spawn(self)
            .map_err(|error| StartError::Crashed(format!("the session process could not be started: {error}")))?;
        let info = match timeout(self.start_timeout, child.call(&Request::Load(load), &[], pending())).await {
            Ok(Ok((Response::Ready(info), _))) => *info,
            Ok(Ok((Response::Failed(error), _))) => return Err(error),
            Ok(Err(SessionError::OutOfMemory(exceeded))) => {
                return Err(StartError::Model(format!("while it loaded the model, {exceeded}; {MEMORY_REMEDY}")));
            }
            Ok(Ok(_) | Err(SessionError::Cancelled | SessionError::OutputsTooLarge(_))) => {
                return Err(StartError::Crashed(PROTOCOL_VIOLATION.to_owned()));
            }
            Ok(Err(SessionError::Rejected(reason) | SessionError::Crashed(reason))) => {
                return Err(StartError::Crashed(format!("while it loaded the model, {reason}")));
            }
            Err(_) => {
                return Err(StartError::Crashed(format!("the model did not load within {:?}", self.start_timeout)));
            }
        };
        child.on_gpu = info.is_on_gpu();
        Ok((info, child))
    }
}

impl ChildSession {
    fn spawn(launcher: &ChildLauncher) -> io::Result<Self> {
        let (requests, child_requests) = StdUnixStream::pair()?;
        let (cancellations, child_cancellations) = StdUnixStream::pair()?;
        requests.set_nonblocking(true)?;
        cancellations.set_nonblocking(true)?;
        let process = Command::new(&launcher.program)
            .arg0("model_api")
            .arg("session")
            // ONNX Runtime reads this when it is loaded. Official builds send telemetry unless it is set by then.
            .env("ORT_DISABLE_TELEMETRY", "1")
            // The sockets take the places of standard input and output: no descriptor numbers to agree on, and every other
            // child process has them closed.
            .stdin(Stdio::from(OwnedFd::from(child_requests)))
            .stdout(Stdio::from(OwnedFd::from(child_cancellations)))
            .stderr(Stdio::inherit())
            // A terminal sends Ctrl-C to the whole process group, but the parent still has requests to finish.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (responses, requests) = UnixStream::from_std(requests)?.into_split();
        let responses = BufReader::with_capacity(READ_BUFFER_BYTES, responses);
        let memory = process.id().map(|id| Arc::new(ProcessMemory::new(launcher.limits.clone(), id)));
        Ok(Self {
            process,
            responses,
            requests,
            cancellations: UnixStream::from_std(cancellations)?,
            runs: 0,
            on_gpu: false,
            memory,
            baseline: None,
            results: launcher.results.clone(),
        })
    }

    /// Sends a request and reads the response. Kills the process when it exceeds a memory limit.
    async fn call(
        &mut self,
        request: &Request,
        inputs: &[&[Tensor]],
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<(Response, Vec<Tensor>), SessionError> {
        let (memory, baseline) = (self.memory.clone(), self.baseline);
        let exceeded = async {
            match &memory {
                Some(memory) => memory.exceeded(baseline).await,
                None => pending().await,
            }
        };
        let exchanged = tokio::select! {
            biased;
            exchanged = self.exchange(request, inputs, cancel) => exchanged,
            exceeded = exceeded => {
                // Killed before anything else, because its memory keeps growing.
                let _ = self.process.start_kill();
                return Err(SessionError::OutOfMemory(exceeded));
            }
        };
        match exchanged {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(SessionError::Crashed(UNRESPONSIVE.to_owned())),
            // Nothing has been sent, so the session remains usable.
            Err(ExchangeError::Send(error)) if error.kind() == ErrorKind::InvalidData => {
                Err(SessionError::Rejected(error.to_string()))
            }
            // The process may live on, so its exit must not be awaited.
            Err(ExchangeError::Receive(error)) if error.kind() == ErrorKind::InvalidData => Err(protocol_violation()),
            // The socket shows only that the other end is closed. The exit status shows the reason.
            Err(_) => Err(SessionError::Crashed(self.exited().await)),
        }
    }

    /// Sends a request and reads the response. `None` if the child does not respond to a cancellation.
    async fn exchange(
        &mut self,
        request: &Request,
        inputs: &[&[Tensor]],
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<Option<(Response, Vec<Tensor>)>, ExchangeError> {
        let mut cancel = pin!(cancel.fuse());
        {
            let mut sent = pin!(frame::write_async(&mut self.requests, request, inputs));
            tokio::select! {
                biased;
                sent = &mut sent => sent.map_err(ExchangeError::Send)?,
                () = &mut cancel => match timeout(CANCEL_TIMEOUT, sent).await {
                    Ok(sent) => sent.map_err(ExchangeError::Send)?,
                    Err(_) => return Ok(None),
                },
            }
        }
        let mut response = pin!(frame::read_async(&mut self.responses, &self.results));
        if !cancel.is_terminated() {
            tokio::select! {
                biased;
                response = &mut response => return response.map(Some).map_err(ExchangeError::Receive),
                () = &mut cancel => {}
            }
        }
        let cancelled = async {
            self.cancellations.write_all(&self.runs.to_le_bytes()).await.map_err(ExchangeError::Send)?;
            response.await.map_err(ExchangeError::Receive)
        };
        timeout(CANCEL_TIMEOUT, cancelled).await.ok().transpose()
    }
}

/// The direction in which a frame failed.
enum ExchangeError {
    Send(io::Error),
    Receive(io::Error),
}

impl Session for ChildSession {
    async fn run(
        &mut self,
        requests: &[&[Tensor]],
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<Vec<Tensor>, SessionError> {
        self.runs += 1;
        outputs_of(self.call(&Request::Run(self.runs), requests, cancel).await?)
    }

    async fn add_bucket(&mut self, rows: usize) -> Result<(), SessionError> {
        if self.on_gpu {
            gpu_memory::require_half_free().await.map_err(SessionError::Rejected)?;
        }
        outputs_of(self.call(&Request::AddBucket(rows), &[], pending()).await?).map(drop)
    }

    fn memory(&self) -> Option<SessionMemory> {
        let memory = self.memory.as_ref()?;
        Some(SessionMemory { used: memory.read()?, available: memory.available() })
    }

    fn set_memory_baseline(&mut self, bytes: u64) {
        self.baseline = Some(bytes);
    }

    async fn exited(&mut self) -> String {
        match self.process.wait().await {
            Ok(status) => describe_exit(status),
            Err(error) => format!("the session process was lost: {error}"),
        }
    }
}

fn outputs_of((response, outputs): (Response, Vec<Tensor>)) -> Result<Vec<Tensor>, SessionError> {
    match response {
        Response::Outputs => Ok(outputs),
        Response::Rejected(reason) => Err(SessionError::Rejected(reason)),
        Response::OutputsTooLarge(bytes) => Err(SessionError::OutputsTooLarge(bytes)),
        Response::Cancelled => Err(SessionError::Cancelled),
        Response::Ready(_) | Response::Failed(_) => Err(protocol_violation()),
    }
}

fn protocol_violation() -> SessionError {
    SessionError::Crashed(PROTOCOL_VIOLATION.to_owned())
}

fn describe_exit(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("the session process was ended by signal {signal}"),
        (None, Some(code)) => format!("the session process ended with code {code}"),
        (None, None) => "the session process ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use open_inference::Datatype;

    use super::*;

    #[tokio::test]
    async fn inputs_that_exceed_the_frame_limit_are_rejected_and_the_session_lives_on() {
        let process = Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
        let (socket, _child_socket) = UnixStream::pair().unwrap();
        let (responses, requests) = socket.into_split();
        let (cancellations, _child_cancellations) = UnixStream::pair().unwrap();
        let mut session = ChildSession {
            process,
            responses: BufReader::new(responses),
            requests,
            cancellations,
            runs: 0,
            on_gpu: false,
            memory: None,
            baseline: None,
            results: Budget::new(1),
        };
        let input = Tensor::from_f32(&"x".repeat(2 << 20), Datatype::Fp32, vec![1], &[0.5]).unwrap();
        let run = timeout(Duration::from_secs(5), session.run(&[&[input]], pending())).await.unwrap();
        assert_eq!(run, Err(SessionError::Rejected(frame::INPUTS_TOO_LARGE.to_owned())));
        assert!(session.process.try_wait().unwrap().is_none());
    }
}
