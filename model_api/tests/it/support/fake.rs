use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use contract::Device;
use model_api::analysis::GraphFacts;
use model_api::memory::Exceeded;
use model_api::pool::probe_rows;
use model_api::session::{Blueprint, Hello, Launcher, Session, SessionError, SessionMemory, StartError};
use open_inference::{Datatype, Tensor, TensorMetadata};
use tokio::sync::Notify;
use tokio::time::sleep;

/// The first number of an input that makes a fake session do something else than answer with its input.
pub const DIE: f32 = 1000.0;
pub const DIE_ONCE: f32 = 1001.0;
pub const HANG: f32 = 1002.0;
pub const REFUSE: f32 = 1003.0;
pub const ANSWER_NAN: f32 = 1004.0;
/// Hangs, and goes on when it is told to end.
pub const HANG_DEAF: f32 = 1005.0;

/// Changes the results of the rows beside it, which no row of the probe does.
pub const DISTURB: f32 = 1006.0;

/// Takes more memory than a session may.
pub const TAKE_ALL_MEMORY: f32 = 1007.0;

/// Takes 20 s, unless it is told to end.
pub const TAKE_LONG: f32 = 1009.0;

/// Takes memory that the session keeps.
pub const GROW: f32 = 1008.0;

/// The size of a session after warm-up, and after [`GROW`], bytes.
const WARM_BYTES: u64 = 100 << 20;
const GROWN_BYTES: u64 = 1 << 30;

/// Starts sessions that answer a 2×2×1 picture with its four numbers.
#[derive(Clone, Default)]
pub struct Fake {
    /// Sessions started so far, with success or without.
    pub launches: Arc<AtomicUsize>,
    /// Runs begun so far.
    pub runs: Arc<AtomicUsize>,
    /// Why the next starts fail.
    pub failures: Arc<Mutex<VecDeque<StartError>>>,
    /// Ends an idle session.
    pub kill: Arc<Notify>,
    /// What it says instead of [`hello`].
    hello: Option<Arc<Hello>>,
    died_once: Arc<AtomicUsize>,
    /// How many requests each run had.
    pub batches: Arc<Mutex<Vec<usize>>>,
    /// What a run takes.
    pause: Duration,
    /// What a run takes more for each row.
    row_takes: Duration,
    /// Every so many runs, one takes so many times as long.
    outliers: Option<(usize, u32)>,
    /// Answers one row, however many there are.
    answers_one_row: bool,
    /// Adds another number to each answer.
    draws: Option<Arc<AtomicUsize>>,
    /// A run of another size than the last one takes so much longer, unless its size is kept.
    change_takes: Duration,
    /// Sizes that a session dies of when it is to keep them.
    too_large: usize,
    last_size: usize,
    /// What this session uses beyond its size after warm-up, bytes.
    grown: Arc<AtomicU64>,
    /// What all sessions may still take, bytes.
    pub room: Arc<AtomicU64>,
    /// Sizes that are kept.
    pub kept: Arc<Mutex<Vec<usize>>>,
}

impl Fake {
    pub fn failing(failures: impl IntoIterator<Item = StartError>) -> Self {
        Self { failures: Arc::new(Mutex::new(failures.into_iter().collect())), ..Self::default() }
    }

    /// Says this of itself.
    pub fn saying(hello: Hello) -> Self {
        Self { hello: Some(Arc::new(hello)), ..Self::default() }
    }

    /// That says this of itself.
    pub fn with_hello(self, hello: Hello) -> Self {
        Self { hello: Some(Arc::new(hello)), ..self }
    }

    /// Whose runs take so long.
    pub fn taking(pause: Duration) -> Self {
        Self { pause, ..Self::default() }
    }

    /// Whose answers have one row, whatever was asked.
    pub fn answering_one_row() -> Self {
        Self { answers_one_row: true, ..Self::default() }
    }

    /// Whose runs take so long for each row.
    pub fn taking_for_each_row(row_takes: Duration) -> Self {
        Self { row_takes, ..Self::default() }
    }

    /// Every `nth` run takes `times` as long, as on a machine that is busy with something else.
    pub fn with_outliers(self, nth: usize, times: u32) -> Self {
        Self { outliers: Some((nth, times)), ..self }
    }

    /// With runs that take so long.
    pub fn slowly(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Whose answers differ from run to run.
    pub fn drawing() -> Self {
        Self { draws: Some(Arc::default()), ..Self::default() }
    }

    /// Takes 10 ms for a run, and so much longer for one of another size than the last.
    pub fn changing_slowly(change_takes: Duration) -> Self {
        Self { pause: Duration::from_millis(10), change_takes, too_large: usize::MAX, ..Self::default() }
    }

    /// [`Self::changing_slowly`] on a card.
    pub fn on_card(change_takes: Duration) -> Self {
        let device = Device { name: "cuda".to_owned(), ..hello().device };
        let hello = Hello { device, ..hello() };
        Self { hello: Some(Arc::new(hello)), ..Self::changing_slowly(change_takes) }
    }

    /// [`Self::on_card`], whose memory does not do for a session of so many rows.
    pub fn on_small_card(change_takes: Duration, too_large: usize) -> Self {
        Self { too_large, ..Self::on_card(change_takes) }
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

    async fn launch(&self, _: &Blueprint) -> Result<(Hello, Self), StartError> {
        self.launches.fetch_add(1, Ordering::SeqCst);
        if let Some(error) = self.failures.lock().unwrap().pop_front() {
            return Err(error);
        }
        let session = Self { grown: Arc::default(), ..self.clone() };
        Ok((self.hello.as_deref().cloned().unwrap_or_else(hello), session))
    }
}

impl Session for Fake {
    async fn run(
        &mut self,
        requests: &[&[Tensor]],
        give_up: impl Future<Output = ()> + Send,
    ) -> Result<Vec<Tensor>, SessionError> {
        let input = Tensor::stack(&requests.iter().map(|request| &request[0]).collect::<Vec<_>>()).unwrap();
        let values = input.to_f32();
        if !is_trial(&input) {
            self.runs.fetch_add(1, Ordering::SeqCst);
            self.batches.lock().unwrap().push(requests.len());
        }
        let rows = values.len() / 4;
        let is_change =
            rows != std::mem::replace(&mut self.last_size, rows) && !self.kept.lock().unwrap().contains(&rows);
        let mut pause = self.pause + self.row_takes * u32::try_from(rows).unwrap();
        if is_change {
            pause += self.change_takes;
        }
        if let Some((nth, times)) = self.outliers
            && self.runs().is_multiple_of(nth)
        {
            pause *= times;
        }
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let answer = |values: &[f32]| {
            let rows = if self.answers_one_row { 1 } else { values.len() / 4 };
            Ok(vec![Tensor::from_f32("y", Datatype::Fp32, vec![rows, 4], &values[..rows * 4]).unwrap()])
        };
        let firsts: Vec<f32> = values.chunks(4).map(|row| row[0]).collect();
        let has = |what: f32| firsts.contains(&what);
        if has(DIE) || (has(DIE_ONCE) && self.died_once.fetch_add(1, Ordering::SeqCst) == 0) {
            return Err(SessionError::Died("killed".to_owned()));
        }
        if has(TAKE_ALL_MEMORY) {
            return Err(SessionError::OutOfMemory(Exceeded::Each(GROWN_BYTES)));
        }
        if has(GROW) {
            self.grown.store(GROWN_BYTES, Ordering::SeqCst);
        }
        if has(HANG) {
            give_up.await;
            return Err(SessionError::GivenUp);
        }
        if has(TAKE_LONG) {
            tokio::select! {
                () = give_up => return Err(SessionError::GivenUp),
                () = sleep(Duration::from_secs(20)) => return answer(&values),
            }
        }
        if has(HANG_DEAF) {
            give_up.await;
            return Err(SessionError::Died("deaf".to_owned()));
        }
        if has(REFUSE) {
            return Err(SessionError::Refused("no such input".to_owned()));
        }
        if has(DISTURB) {
            let disturbed = |value: &f32| if value.to_bits() == DISTURB.to_bits() { *value } else { value + 1.0 };
            return answer(&values.iter().map(disturbed).collect::<Vec<_>>());
        }
        if let Some(draws) = &self.draws {
            let draw = draws.fetch_add(1, Ordering::SeqCst) as f32;
            return answer(&values.iter().map(|value| value + draw).collect::<Vec<_>>());
        }
        if has(ANSWER_NAN) {
            return answer(&vec![f32::NAN; values.len()]);
        }
        answer(&values)
    }

    async fn keep_size(&mut self, rows: usize) -> Result<(), SessionError> {
        if rows >= self.too_large {
            return Err(SessionError::Died("no memory".to_owned()));
        }
        self.kept.lock().unwrap().push(rows);
        Ok(())
    }

    fn memory(&self) -> Option<SessionMemory> {
        let used = WARM_BYTES + self.grown.load(Ordering::SeqCst);
        Some(SessionMemory { used, room: self.room.load(Ordering::SeqCst) })
    }

    async fn died(&mut self) -> String {
        self.kill.notified().await;
        "killed while idle".to_owned()
    }
}

/// Whether it is a run that finds out whether rows go together, or how long it takes.
fn is_trial(input: &Tensor) -> bool {
    static ROWS: LazyLock<Vec<Tensor>> = LazyLock::new(|| probe_rows(&hello().inputs[0], &BTreeMap::new()));
    input.split_rows().iter().all(|row| ROWS.iter().any(|probe| probe.data == row.data))
}

pub fn hello() -> Hello {
    let tensor = |name: &str, shape: &[i64]| TensorMetadata::new(name, Datatype::Fp32, shape);
    Hello {
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
