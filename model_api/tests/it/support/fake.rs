use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use contract::Device;
use model_api::session::{Blueprint, Hello, Launcher, Session, SessionError, StartError};
use open_inference::{Datatype, Tensor, TensorMetadata};
use tokio::sync::Notify;

/// The first number of an input that makes a fake session do something else than answer with its input.
pub const DIE: f32 = 1000.0;
pub const DIE_ONCE: f32 = 1001.0;
pub const HANG: f32 = 1002.0;
pub const REFUSE: f32 = 1003.0;
pub const ANSWER_NAN: f32 = 1004.0;

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
}

impl Fake {
    pub fn failing(failures: impl IntoIterator<Item = StartError>) -> Self {
        Self { failures: Arc::new(Mutex::new(failures.into_iter().collect())), ..Self::default() }
    }

    /// Says this of itself.
    pub fn saying(hello: Hello) -> Self {
        Self { hello: Some(Arc::new(hello)), ..Self::default() }
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
        match self.failures.lock().unwrap().pop_front() {
            Some(error) => Err(error),
            None => Ok((self.hello.as_deref().cloned().unwrap_or_else(hello), self.clone())),
        }
    }
}

impl Session for Fake {
    async fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, SessionError> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let values = inputs[0].to_f32();
        let rows = inputs[0].shape[0];
        let answer = |values: &[f32]| Ok(vec![Tensor::from_f32("y", Datatype::Fp32, vec![rows, 4], values).unwrap()]);
        match values[0] {
            DIE => Err(SessionError::Died("killed".to_owned())),
            DIE_ONCE if self.died_once.fetch_add(1, Ordering::SeqCst) == 0 => {
                Err(SessionError::Died("killed".to_owned()))
            }
            HANG => pending().await,
            REFUSE => Err(SessionError::Refused("no such input".to_owned())),
            ANSWER_NAN => answer(&vec![f32::NAN; values.len()]),
            _ => answer(&values),
        }
    }

    async fn died(&mut self) -> String {
        self.kill.notified().await;
        "killed while idle".to_owned()
    }
}

pub fn hello() -> Hello {
    let tensor = |name: &str, shape: &[i64]| TensorMetadata::new(name, Datatype::Fp32, shape);
    Hello {
        inputs: vec![tensor("x", &[-1, 2, 2, 1])],
        outputs: vec![tensor("y", &[-1, 4])],
        left_out: Vec::new(),
        device: Device { name: "cpu".to_owned(), stepped_down: None, runtime: "fake".to_owned() },
    }
}

/// One input of the fake graph that begins with `first`.
pub fn input(first: f32) -> Vec<Tensor> {
    vec![Tensor::from_f32("x", Datatype::Fp32, vec![1, 2, 2, 1], &[first, 0.0, 0.5, 0.25]).unwrap()]
}
