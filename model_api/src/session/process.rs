use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use open_inference::Tensor;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::frame::{self, Load, Order, Reply};
use super::{Blueprint, DeviceWish, Hello, Launcher, Session, SessionError, StartError};

const NONSENSE: &str = "the session process talks nonsense";

/// Starts `model_api session` processes.
#[derive(Clone, Debug)]
pub struct ChildLauncher {
    /// The binary that has the subcommand `session`.
    pub program: PathBuf,
    /// The ONNX Runtime library.
    pub library: PathBuf,
    /// Where models may run.
    pub device: DeviceWish,
    /// From the start of the process to its first answer.
    pub start_timeout: Duration,
}

/// A child process that has said hello. Dropping it kills it.
#[derive(Debug)]
pub struct ChildSession {
    process: Child,
    socket: UnixStream,
}

impl Launcher for ChildLauncher {
    type Session = ChildSession;

    async fn launch(&self, blueprint: &Blueprint) -> Result<(Hello, ChildSession), StartError> {
        let load = Load {
            library: self.library.clone(),
            graph: blueprint.graph.clone(),
            device: self.device,
            threads: blueprint.threads,
            shapes: blueprint.shapes.clone(),
        };
        let mut child =
            ChildSession::spawn(self).map_err(|error| StartError::Died(format!("no new process: {error}")))?;
        let hello = match timeout(self.start_timeout, child.ask(&Order::Load(load), &[])).await {
            Ok(Ok((Reply::Hello(hello), _))) => hello,
            Ok(Ok((Reply::Failed(error), _))) => return Err(error),
            Ok(Ok(_)) => return Err(StartError::Died(NONSENSE.to_owned())),
            Ok(Err(SessionError::Refused(reason) | SessionError::Died(reason))) => {
                return Err(StartError::Died(format!("while it loaded the model, {reason}")));
            }
            Err(_) => return Err(StartError::Died(format!("the model did not load within {:?}", self.start_timeout))),
        };
        Ok((hello, child))
    }
}

impl ChildSession {
    fn spawn(launcher: &ChildLauncher) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let process = Command::new(&launcher.program)
            .arg0("model_api")
            .arg("session")
            // Read by the library when it is loaded: official builds report to their maker unless it is set by then.
            .env("ORT_DISABLE_TELEMETRY", "1")
            // The socket: inherited without a number to agree on, and closed in every other child.
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            // Control-C goes to a terminal's whole process group, and the parent still has requests to finish.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { process, socket: UnixStream::from_std(ours)? })
    }

    async fn ask(&mut self, order: &Order, inputs: &[Tensor]) -> Result<(Reply, Vec<Tensor>), SessionError> {
        let answer = match frame::write_async(&mut self.socket, order, inputs).await {
            // Nothing was sent, so nothing is broken.
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                return Err(SessionError::Refused(error.to_string()));
            }
            Err(error) => Err(error),
            Ok(()) => frame::read_async(&mut self.socket).await,
        };
        match answer {
            Ok(answer) => Ok(answer),
            // It may well live on, and its death could be waited for in vain.
            Err(error) if error.kind() == ErrorKind::InvalidData => Err(nonsense()),
            // The socket only says that the other end is gone; the exit status says why.
            Err(_) => Err(SessionError::Died(self.died().await)),
        }
    }
}

impl Session for ChildSession {
    async fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, SessionError> {
        match self.ask(&Order::Run, inputs).await {
            Ok((Reply::Answer, outputs)) => Ok(outputs),
            Ok((Reply::Refused(reason), _)) => Err(SessionError::Refused(reason)),
            Ok(_) => Err(nonsense()),
            Err(error) => Err(error),
        }
    }

    async fn died(&mut self) -> String {
        match self.process.wait().await {
            Ok(status) => cause_of_death(status),
            Err(error) => format!("the session process was lost: {error}"),
        }
    }
}

fn nonsense() -> SessionError {
    SessionError::Died(NONSENSE.to_owned())
}

fn cause_of_death(status: ExitStatus) -> String {
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
    async fn inputs_that_are_too_large_to_be_sent_are_refused_at_once_and_cost_no_session() {
        let process = Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
        let (socket, _theirs) = UnixStream::pair().unwrap();
        let mut session = ChildSession { process, socket };
        let input = Tensor::from_f32(&"x".repeat(2 << 20), Datatype::Fp32, vec![1], &[0.5]).unwrap();
        let run = timeout(Duration::from_secs(5), session.run(&[input])).await.unwrap();
        assert_eq!(run, Err(SessionError::Refused("the inputs are too large for a session".to_owned())));
        assert!(session.process.try_wait().unwrap().is_none());
    }
}
