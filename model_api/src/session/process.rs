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

use super::card;
use super::frame::{self, Load, Order, Reply};
use super::{Blueprint, DeviceWish, Hello, Launcher, Session, SessionError, SessionMemory, StartError};
use crate::memory::{Budget, SessionLimits, Usage, has_room_for_process};

const MEMORY_REMEDY: &str = "unload other models, or raise SESSION_MEMORY_BYTES and the memory limit of model_api";
const NONSENSE: &str = "the session process talks nonsense";
const DEAF: &str = "the session process did not end a run that it was told to end";

/// A whole answer of most models is read at once.
const REPLY_BUFFER: usize = 16 << 10;

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
    /// How much memory sessions may use.
    pub limits: SessionLimits,
    /// For outputs that are read from sessions, until they have been sent.
    pub results: Budget,
}

/// So long a run that is to end may take to do so. Operators are not interrupted: the flag is looked at between them.
const GRACE: Duration = Duration::from_millis(500);

/// A child process that has said hello. Dropping it kills it.
#[derive(Debug)]
pub struct ChildSession {
    process: Child,
    replies: BufReader<OwnedReadHalf>,
    orders: OwnedWriteHalf,
    /// Takes numbers of runs that are to end ([`super::ending`]).
    endings: UnixStream,
    /// Of runs so far.
    runs: u64,
    /// Whether it runs on one.
    on_card: bool,
    /// `None` for a process that has ended already.
    usage: Option<Arc<Usage>>,
    /// Its size after warm-up, bytes; `None` before.
    warm: Option<u64>,
    results: Budget,
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
        has_room_for_process(blueprint.threads).map_err(StartError::Model)?;
        let mut child =
            ChildSession::spawn(self).map_err(|error| StartError::Died(format!("no new process: {error}")))?;
        let hello = match timeout(self.start_timeout, child.ask(&Order::Load(load), &[], pending())).await {
            Ok(Ok((Reply::Hello(hello), _))) => *hello,
            Ok(Ok((Reply::Failed(error), _))) => return Err(error),
            Ok(Err(SessionError::OutOfMemory(exceeded))) => {
                return Err(StartError::Model(format!("while it loaded the model, {exceeded}; {MEMORY_REMEDY}")));
            }
            Ok(Ok(_) | Err(SessionError::GivenUp | SessionError::TooLarge(_))) => {
                return Err(StartError::Died(NONSENSE.to_owned()));
            }
            Ok(Err(SessionError::Refused(reason) | SessionError::Died(reason))) => {
                return Err(StartError::Died(format!("while it loaded the model, {reason}")));
            }
            Err(_) => return Err(StartError::Died(format!("the model did not load within {:?}", self.start_timeout))),
        };
        child.on_card = hello.is_on_card();
        Ok((hello, child))
    }
}

impl ChildSession {
    fn spawn(launcher: &ChildLauncher) -> io::Result<Self> {
        let (orders, orders_theirs) = StdUnixStream::pair()?;
        let (endings, endings_theirs) = StdUnixStream::pair()?;
        orders.set_nonblocking(true)?;
        endings.set_nonblocking(true)?;
        let process = Command::new(&launcher.program)
            .arg0("model_api")
            .arg("session")
            // Read by the library when it is loaded: official builds report to their maker unless it is set by then.
            .env("ORT_DISABLE_TELEMETRY", "1")
            // The sockets: inherited without numbers to agree on, and closed in every other child.
            .stdin(Stdio::from(OwnedFd::from(orders_theirs)))
            .stdout(Stdio::from(OwnedFd::from(endings_theirs)))
            .stderr(Stdio::inherit())
            // Control-C goes to a terminal's whole process group, and the parent still has requests to finish.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (replies, orders) = UnixStream::from_std(orders)?.into_split();
        let replies = BufReader::with_capacity(REPLY_BUFFER, replies);
        let usage = process.id().map(|id| Arc::new(Usage::new(launcher.limits.clone(), id)));
        Ok(Self {
            process,
            replies,
            orders,
            endings: UnixStream::from_std(endings)?,
            runs: 0,
            on_card: false,
            usage,
            warm: None,
            results: launcher.results.clone(),
        })
    }

    async fn ask(
        &mut self,
        order: &Order,
        requests: &[&[Tensor]],
        give_up: impl Future<Output = ()> + Send,
    ) -> Result<(Reply, Vec<Tensor>), SessionError> {
        let (usage, warm) = (self.usage.clone(), self.warm);
        let exceeded = async {
            match &usage {
                Some(usage) => usage.exceeded(warm).await,
                None => pending().await,
            }
        };
        let exchanged = tokio::select! {
            biased;
            exchanged = self.exchange(order, requests, give_up) => exchanged,
            exceeded = exceeded => {
                // Before anything else: each moment it takes more.
                let _ = self.process.start_kill();
                return Err(SessionError::OutOfMemory(exceeded));
            }
        };
        match exchanged {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(SessionError::Died(DEAF.to_owned())),
            // Nothing was sent, so nothing is broken.
            Err(Broken::Order(error)) if error.kind() == ErrorKind::InvalidData => {
                Err(SessionError::Refused(error.to_string()))
            }
            // It may well live on, and its death could be waited for in vain.
            Err(Broken::Reply(error)) if error.kind() == ErrorKind::InvalidData => Err(nonsense()),
            // The socket only says that the other end is gone; the exit status says why.
            Err(_) => Err(SessionError::Died(self.died().await)),
        }
    }

    /// Sends an order and reads its reply; `None` when the child was told to end the run and does not.
    async fn exchange(
        &mut self,
        order: &Order,
        requests: &[&[Tensor]],
        give_up: impl Future<Output = ()> + Send,
    ) -> Result<Option<(Reply, Vec<Tensor>)>, Broken> {
        let mut give_up = pin!(give_up.fuse());
        {
            let mut sent = pin!(frame::write_async(&mut self.orders, order, requests));
            tokio::select! {
                biased;
                sent = &mut sent => sent.map_err(Broken::Order)?,
                () = &mut give_up => match timeout(GRACE, sent).await {
                    Ok(sent) => sent.map_err(Broken::Order)?,
                    Err(_) => return Ok(None),
                },
            }
        }
        let mut reply = pin!(frame::read_async(&mut self.replies, &self.results));
        if !give_up.is_terminated() {
            tokio::select! {
                biased;
                reply = &mut reply => return reply.map(Some).map_err(Broken::Reply),
                () = &mut give_up => {}
            }
        }
        let end = async {
            self.endings.write_all(&self.runs.to_le_bytes()).await.map_err(Broken::Order)?;
            reply.await.map_err(Broken::Reply)
        };
        timeout(GRACE, end).await.ok().transpose()
    }
}

/// Which way a frame did not go.
enum Broken {
    Order(io::Error),
    Reply(io::Error),
}

impl Session for ChildSession {
    async fn run(
        &mut self,
        requests: &[&[Tensor]],
        give_up: impl Future<Output = ()> + Send,
    ) -> Result<Vec<Tensor>, SessionError> {
        self.runs += 1;
        answer(self.ask(&Order::Run(self.runs), requests, give_up).await?)
    }

    async fn keep_size(&mut self, rows: usize) -> Result<(), SessionError> {
        if self.on_card {
            card::has_room().await.map_err(SessionError::Refused)?;
        }
        answer(self.ask(&Order::KeepSize(rows), &[], pending()).await?).map(drop)
    }

    fn memory(&self) -> Option<SessionMemory> {
        let usage = self.usage.as_ref()?;
        Some(SessionMemory { used: usage.read()?, room: usage.room() })
    }

    fn set_warm(&mut self, bytes: u64) {
        self.warm = Some(bytes);
    }

    async fn died(&mut self) -> String {
        match self.process.wait().await {
            Ok(status) => cause_of_death(status),
            Err(error) => format!("the session process was lost: {error}"),
        }
    }
}

fn answer((reply, outputs): (Reply, Vec<Tensor>)) -> Result<Vec<Tensor>, SessionError> {
    match reply {
        Reply::Answer => Ok(outputs),
        Reply::Refused(reason) => Err(SessionError::Refused(reason)),
        Reply::TooLarge(bytes) => Err(SessionError::TooLarge(bytes)),
        Reply::Terminated => Err(SessionError::GivenUp),
        Reply::Hello(_) | Reply::Failed(_) => Err(nonsense()),
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
        let (replies, orders) = socket.into_split();
        let (endings, _theirs) = UnixStream::pair().unwrap();
        let mut session = ChildSession {
            process,
            replies: BufReader::new(replies),
            orders,
            endings,
            runs: 0,
            on_card: false,
            usage: None,
            warm: None,
            results: Budget::new(1),
        };
        let input = Tensor::from_f32(&"x".repeat(2 << 20), Datatype::Fp32, vec![1], &[0.5]).unwrap();
        let run = timeout(Duration::from_secs(5), session.run(&[&[input]], pending())).await.unwrap();
        assert_eq!(run, Err(SessionError::Refused("the inputs are too large for a session".to_owned())));
        assert!(session.process.try_wait().unwrap().is_none());
    }
}
