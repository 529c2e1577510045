//! A launcher whose sessions are fakes in this process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use contract::Device;
use model_api::memory::LimitExceeded;
use model_api::onnx::analysis::GraphFacts;
use model_api::scheduler::probe_rows;
use model_api::session::{Launcher, Session, SessionConfig, SessionError, SessionInfo, SessionMemory, StartError};
use open_inference::{Datatype, Tensor, TensorMetadata};
use tokio::sync::Notify;
use tokio::time::sleep;

/// First numbers of a row that make a fake session do something else than return its input.
pub const CRASH: f32 = 1000.0;
pub const CRASH_ONCE: f32 = 1001.0;
pub const HANG: f32 = 1002.0;
pub const REJECT: f32 = 1003.0;
pub const RETURN_NAN: f32 = 1004.0;
/// Hangs, and does not respond to a cancellation.
pub const IGNORE_CANCEL: f32 = 1005.0;

/// Changes the results of the other rows in the batch. No row of the probe does.
pub const DISTURB: f32 = 1006.0;

/// Exceeds the memory limit of a session.
pub const EXCEED_MEMORY: f32 = 1007.0;

/// Runs for 20 s unless it is cancelled.
pub const RUN_LONG: f32 = 1009.0;

/// Allocates memory that the session keeps.
pub const GROW: f32 = 1008.0;

/// The size of a session after warm-up, and after [`GROW`], bytes.
const WARM_BYTES: u64 = 100 << 20;
const GROWN_BYTES: u64 = 1 << 30;

/// Starts sessions that return the four numbers of each 2×2×1 image.
#[derive(Clone, Default)]
pub struct Fake {
    /// Sessions started so far, including failed starts.
    pub launches: Arc<AtomicUsize>,
    /// Runs started so far, without those of the probe.
    pub runs: Arc<AtomicUsize>,
    /// Errors of the next starts.
    pub failures: Arc<Mutex<VecDeque<StartError>>>,
    /// Ends an idle session.
    pub kill: Arc<Notify>,
    /// What the sessions report instead of [`session_info`].
    info: Option<Arc<SessionInfo>>,
    crashed_once: Arc<AtomicUsize>,
    /// Number of requests of each run.
    pub batches: Arc<Mutex<Vec<usize>>>,
    /// Time of each run.
    run_time: Duration,
    /// Additional time of a run for each row.
    time_per_row: Duration,
    /// Every n-th run takes this multiple of its time.
    outliers: Option<(usize, u32)>,
    /// Returns one row, whatever the number of input rows.
    returns_one_row: bool,
    /// Adds another number to the result of each run.
    draws: Option<Arc<AtomicUsize>>,
    /// Additional time of a run whose size differs from that of the last run, unless there is a bucket for it.
    size_change_time: Duration,
    /// Adding a bucket of this many rows or more crashes the session.
    crashing_bucket: usize,
    last_size: usize,
    /// Memory of this session beyond its size after warm-up, bytes.
    grown: Arc<AtomicU64>,
    /// Memory that remains for all sessions, bytes.
    pub available_memory: Arc<AtomicU64>,
    /// Batch buckets, in rows.
    pub buckets: Arc<Mutex<Vec<usize>>>,
}

impl Fake {
    pub fn failing(failures: impl IntoIterator<Item = StartError>) -> Self {
        Self { failures: Arc::new(Mutex::new(failures.into_iter().collect())), ..Self::default() }
    }

    /// Reports this instead of [`session_info`].
    pub fn with_info(self, info: SessionInfo) -> Self {
        Self { info: Some(Arc::new(info)), ..self }
    }

    /// Each run takes this time.
    pub fn with_run_time(self, run_time: Duration) -> Self {
        Self { run_time, ..self }
    }

    /// Each run takes this time for each of its rows.
    pub fn with_time_per_row(time_per_row: Duration) -> Self {
        Self { time_per_row, ..Self::default() }
    }

    /// Every `nth` run takes `times` as long, as on a busy machine.
    pub fn with_outliers(self, nth: usize, times: u32) -> Self {
        Self { outliers: Some((nth, times)), ..self }
    }

    /// The outputs have one row, whatever the number of input rows.
    pub fn returning_one_row() -> Self {
        Self { returns_one_row: true, ..Self::default() }
    }

    /// The results of equal inputs differ.
    pub fn nondeterministic() -> Self {
        Self { draws: Some(Arc::default()), ..Self::default() }
    }

    /// A run takes 10 ms, and this much longer if its size differs from that of the last run.
    pub fn with_slow_size_changes(size_change_time: Duration) -> Self {
        Self { run_time: Duration::from_millis(10), size_change_time, crashing_bucket: usize::MAX, ..Self::default() }
    }

    /// [`Self::with_slow_size_changes`] on a GPU.
    pub fn on_gpu(size_change_time: Duration) -> Self {
        let device = Device { name: "cuda".to_owned(), ..session_info().device };
        Self::with_slow_size_changes(size_change_time).with_info(SessionInfo { device, ..session_info() })
    }

    /// [`Self::on_gpu`], with too little memory for a bucket of `crashing_bucket` rows.
    pub fn on_small_gpu(size_change_time: Duration, crashing_bucket: usize) -> Self {
        Self { crashing_bucket, ..Self::on_gpu(size_change_time) }
    }

    pub fn launches(&self) -> usize {
        self.launches.load(Ordering::SeqCst)
    }

    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

impl Launcher for Fake {
    type Session = Self;

    async fn launch(&self, _: &SessionConfig) -> Result<(SessionInfo, Self), StartError> {
        self.launches.fetch_add(1, Ordering::SeqCst);
        if let Some(error) = self.failures.lock().unwrap().pop_front() {
            return Err(error);
        }
        let session = Self { grown: Arc::default(), ..self.clone() };
        Ok((self.info.as_deref().cloned().unwrap_or_else(session_info), session))
    }
}

impl Session for Fake {
    async fn run(
        &mut self,
        requests: &[&[Tensor]],
        cancel: impl Future<Output = ()> + Send,
    ) -> Result<Vec<Tensor>, SessionError> {
        let input = Tensor::concat_rows(&requests.iter().map(|request| &request[0]).collect::<Vec<_>>()).unwrap();
        let values = input.to_f32();
        if !is_probe(&input) {
            self.runs.fetch_add(1, Ordering::SeqCst);
            self.batches.lock().unwrap().push(requests.len());
        }
        let rows = values.len() / 4;
        let is_change =
            rows != std::mem::replace(&mut self.last_size, rows) && !self.buckets.lock().unwrap().contains(&rows);
        let mut run_time = self.run_time + self.time_per_row * u32::try_from(rows).unwrap();
        if is_change {
            run_time += self.size_change_time;
        }
        if let Some((nth, times)) = self.outliers
            && self.runs().is_multiple_of(nth)
        {
            run_time *= times;
        }
        if !run_time.is_zero() {
            sleep(run_time).await;
        }
        let result = |values: &[f32]| {
            let rows = if self.returns_one_row { 1 } else { values.len() / 4 };
            Ok(vec![Tensor::from_f32("y", Datatype::Fp32, vec![rows, 4], &values[..rows * 4]).unwrap()])
        };
        let firsts: Vec<f32> = values.chunks(4).map(|row| row[0]).collect();
        let has = |what: f32| firsts.contains(&what);
        if has(CRASH) || (has(CRASH_ONCE) && self.crashed_once.fetch_add(1, Ordering::SeqCst) == 0) {
            return Err(SessionError::Crashed("killed".to_owned()));
        }
        if has(EXCEED_MEMORY) {
            return Err(SessionError::OutOfMemory(LimitExceeded::PerSession(GROWN_BYTES)));
        }
        if has(GROW) {
            self.grown.store(GROWN_BYTES, Ordering::SeqCst);
        }
        if has(HANG) {
            cancel.await;
            return Err(SessionError::Cancelled);
        }
        if has(RUN_LONG) {
            tokio::select! {
                () = cancel => return Err(SessionError::Cancelled),
                () = sleep(Duration::from_secs(20)) => return result(&values),
            }
        }
        if has(IGNORE_CANCEL) {
            cancel.await;
            return Err(SessionError::Crashed("unresponsive".to_owned()));
        }
        if has(REJECT) {
            return Err(SessionError::Rejected("no such input".to_owned()));
        }
        if has(DISTURB) {
            let disturbed = |value: &f32| if value.to_bits() == DISTURB.to_bits() { *value } else { value + 1.0 };
            return result(&values.iter().map(disturbed).collect::<Vec<_>>());
        }
        if let Some(draws) = &self.draws {
            let draw = draws.fetch_add(1, Ordering::SeqCst) as f32;
            return result(&values.iter().map(|value| value + draw).collect::<Vec<_>>());
        }
        if has(RETURN_NAN) {
            return result(&vec![f32::NAN; values.len()]);
        }
        result(&values)
    }

    async fn add_bucket(&mut self, rows: usize) -> Result<(), SessionError> {
        if rows >= self.crashing_bucket {
            return Err(SessionError::Crashed("no memory".to_owned()));
        }
        self.buckets.lock().unwrap().push(rows);
        Ok(())
    }

    fn memory(&self) -> Option<SessionMemory> {
        let used = WARM_BYTES + self.grown.load(Ordering::SeqCst);
        Some(SessionMemory { used, available: self.available_memory.load(Ordering::SeqCst) })
    }

    async fn exited(&mut self) -> String {
        self.kill.notified().await;
        "killed while idle".to_owned()
    }
}

/// Whether the input consists of rows of the batching probe.
fn is_probe(input: &Tensor) -> bool {
    static ROWS: LazyLock<Vec<Tensor>> = LazyLock::new(|| probe_rows(&session_info().inputs[0], &BTreeMap::new()));
    input.split_rows().iter().all(|row| ROWS.iter().any(|probe| probe.data == row.data))
}

pub fn session_info() -> SessionInfo {
    let tensor = |name: &str, shape: &[i64]| TensorMetadata::new(name, Datatype::Fp32, shape);
    SessionInfo {
        inputs: vec![tensor("x", &[-1, 2, 2, 1])],
        outputs: vec![tensor("y", &[-1, 4])],
        left_out: Vec::new(),
        device: Device { name: "cpu".to_owned(), fallback_reason: None, runtime: "fake".to_owned() },
        facts: GraphFacts::default(),
    }
}

/// One input of the fake graph that begins with `first`.
pub fn input(first: f32) -> Vec<Tensor> {
    vec![Tensor::from_f32("x", Datatype::Fp32, vec![1, 2, 2, 1], &[first, 0.0, 0.5, 0.25]).unwrap()]
}
