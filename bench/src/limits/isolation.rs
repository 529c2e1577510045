use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use hdrhistogram::Histogram;
use model_api::memory::{Budget, SessionLimits};
use model_api::metrics::Metrics;
use model_api::scheduler::{BatchSettings, Pool, PoolSettings, Priority, QueueLimits};
use model_api::session::{
    ChildLauncher, DevicePreference, Launcher, Session, SessionConfig, SessionError, SessionInfo, StartError,
};
use open_inference::{Datatype, Tensor};
use ort::environment::Environment;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::task::{JoinSet, block_in_place};

use super::raw::{self, PIXELS};

/// As many as `model_api` starts on two cores.
const SESSIONS: usize = 2;
/// As many rows as mnist's settings allow.
const MAX_ROWS: usize = 64;

/// Outputs read from sessions at the same time, bytes: more than the bench ever has.
const MAX_RESULT_BYTES: usize = 1 << 30;

/// Figures of a pool for a number of callers.
#[derive(Debug, Serialize)]
pub struct Figures {
    per_second: f64,
    p50_us: f64,
}

/// The same pool over the same sessions, in this process and in children, by "where, callers".
pub async fn measure(program: &Path, model: &Path, time: Duration) -> anyhow::Result<BTreeMap<String, Figures>> {
    let children = ChildLauncher {
        program: program.to_owned(),
        library: PathBuf::from(std::env::var_os("ORT_DYLIB_PATH").context("ORT_DYLIB_PATH is not set")?),
        device: DevicePreference::Cpu,
        start_timeout: Duration::from_mins(1),
        limits: SessionLimits::none(),
        results: Budget::new(MAX_RESULT_BYTES),
    };
    let session_config = SessionConfig {
        model: "mnist".to_owned(),
        graph: model.to_owned(),
        threads: 1,
        shapes: BTreeMap::new(),
        unchanged: Arc::new(|| true),
    };
    let in_children = start(&children, &session_config);
    let hello = in_children.ready(|_| ()).await.context("no child")?;
    let here = InProcess { environment: Arc::new(raw::environment()?), hello };
    let in_process = start(&here, &session_config);
    in_process.ready(|_| ()).await.context("no session")?;
    let mut figures = BTreeMap::new();
    for callers in [1, 64] {
        for (place, pool) in [("in process", &in_process), ("in children", &in_children)] {
            figures.insert(format!("{place}, {callers}"), run_callers(pool, callers, time).await?);
        }
    }
    Ok(figures)
}

fn start<L: Launcher>(launcher: &L, session_config: &SessionConfig) -> Arc<Pool> {
    let batch = BatchSettings::new(MAX_ROWS, Duration::ZERO, Some(true), Duration::from_secs(30));
    let metrics = Metrics::register(&mut Registry::default()).pool_metrics("mnist");
    let queue = QueueLimits { rows: 256, bytes: 64 << 20 };
    Arc::new(Pool::start(
        launcher,
        session_config,
        &PoolSettings { model_bytes: 0, sessions: SESSIONS, queue, batch, metrics },
    ))
}

async fn run_callers(pool: &Arc<Pool>, callers: usize, time: Duration) -> anyhow::Result<Figures> {
    let begin = Instant::now() + time / 4;
    let end = begin + time;
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let pool = Arc::clone(pool);
        tasks.spawn(async move {
            let mut took = Histogram::<u64>::new(3)?;
            while Instant::now() < end {
                let sent = Instant::now();
                pool.run(vec![image()], Priority::Interactive).await?;
                if sent >= begin {
                    took.record(sent.elapsed().as_nanos() as u64)?;
                }
            }
            anyhow::Ok(took)
        });
    }
    let mut all = Histogram::<u64>::new(3)?;
    while let Some(took) = tasks.join_next().await {
        all.add(took??)?;
    }
    Ok(Figures { per_second: all.len() as f64 / time.as_secs_f64(), p50_us: all.value_at_quantile(0.5) as f64 / 1e3 })
}

/// As decoded from a request: bytes without another owner.
fn image() -> Tensor {
    let data = Bytes::from(vec![0; PIXELS * 4]);
    Tensor { name: "image".to_owned(), datatype: Datatype::Fp32, shape: vec![1, 28, 28, 1], data }
}

/// Starts sessions in this process.
#[derive(Clone)]
struct InProcess {
    environment: Arc<Environment>,
    /// The description of the same model by a child process.
    hello: Arc<SessionInfo>,
}

impl Launcher for InProcess {
    type Session = Here;

    async fn launch(&self, session_config: &SessionConfig) -> Result<(SessionInfo, Here), StartError> {
        let session = raw::session(&self.environment, &session_config.graph)
            .map_err(|error| StartError::Model(format!("{error:#}")))?;
        Ok(((*self.hello).clone(), Here(session)))
    }
}

/// Runs on the calling thread, without handing over to another one.
struct Here(ort::session::Session);

impl Session for Here {
    async fn run(
        &mut self,
        requests: &[&[Tensor]],
        _cancel: impl Future<Output = ()> + Send,
    ) -> Result<Vec<Tensor>, SessionError> {
        let floats = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let pixels: Vec<f32> = requests.iter().flat_map(|inputs| inputs[0].data.chunks_exact(4)).map(floats).collect();
        let rows = pixels.len() / PIXELS;
        let ran = block_in_place(|| raw::run(&mut self.0, &pixels, rows));
        let values = ran.map_err(|error| SessionError::Rejected(format!("{error:#}")))?;
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let shape = vec![rows, values.len() / rows];
        Ok(vec![Tensor { name: "probabilities".to_owned(), datatype: Datatype::Fp32, shape, data: data.into() }])
    }

    async fn exited(&mut self) -> String {
        std::future::pending().await
    }
}
