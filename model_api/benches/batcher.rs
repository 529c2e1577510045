//! Overhead of the scheduler: a pool over sessions that respond immediately, with 1, 16 and 64 concurrent requests.
//!
//! `cargo bench -p model_api --bench batcher`. One iteration is one round of requests.

use std::collections::BTreeMap;
use std::future::pending;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use contract::Device;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use model_api::metrics::Metrics;
use model_api::onnx::analysis::GraphFacts;
use model_api::scheduler::{BatchSettings, Pool, PoolSettings, Priority, QueueLimits};
use model_api::session::{Launcher, Session, SessionConfig, SessionError, SessionInfo, StartError};
use open_inference::{Datatype, Tensor, TensorMetadata};
use prometheus_client::registry::Registry;
use tokio::runtime::Runtime;

/// A session that returns the first number of each row, immediately.
#[derive(Clone)]
struct Immediate;

impl Launcher for Immediate {
    type Session = Self;

    async fn launch(&self, _: &SessionConfig) -> Result<(SessionInfo, Self), StartError> {
        let tensor = |name: &str, shape: &[i64]| TensorMetadata::new(name, Datatype::Fp32, shape);
        let device = Device { name: "cpu".to_owned(), fallback_reason: None, runtime: "none".to_owned() };
        let (inputs, outputs) = (vec![tensor("x", &[-1, 784])], vec![tensor("y", &[-1, 1])]);
        Ok((SessionInfo { inputs, outputs, left_out: Vec::new(), device, facts: GraphFacts::default() }, Self))
    }
}

impl Session for Immediate {
    async fn run(
        &mut self,
        requests: &[&[Tensor]],
        _: impl Future<Output = ()> + Send,
    ) -> Result<Vec<Tensor>, SessionError> {
        let data: Vec<u8> = requests.iter().flat_map(|request| request[0].data[..4].iter().copied()).collect();
        let shape = vec![requests.len(), 1];
        Ok(vec![Tensor { name: "y".to_owned(), datatype: Datatype::Fp32, shape, data: data.into() }])
    }

    async fn exited(&mut self) -> String {
        pending().await
    }
}

fn pool() -> Pool {
    let session_config = SessionConfig {
        model: "m".to_owned(),
        graph: PathBuf::new(),
        threads: 1,
        shapes: BTreeMap::new(),
        unchanged: Arc::new(|| true),
    };
    let settings = PoolSettings {
        model_bytes: 0,
        sessions: 1,
        queue: QueueLimits { rows: 1024, bytes: 64 << 20 },
        batch: BatchSettings::new(64, Duration::ZERO, Some(true), Duration::from_secs(30)),
        metrics: Metrics::register(&mut Registry::default()).pool_metrics("m"),
    };
    Pool::start(&Immediate, &session_config, &settings)
}

fn batcher(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("the system has threads");
    let pool = runtime.block_on(async {
        let pool = pool();
        pool.ready(|_| ()).await;
        pool
    });
    let input = vec![Tensor::from_f32("x", Datatype::Fp32, vec![1, 784], &[0.5; 784]).expect("floats are floats")];
    let mut group = criterion.benchmark_group("batcher");
    for requests in [1_usize, 16, 64] {
        group.throughput(Throughput::Elements(requests as u64));
        group.bench_with_input(BenchmarkId::from_parameter(requests), &requests, |bencher, &requests| {
            bencher.iter(|| {
                let runs = (0..requests).map(|_| pool.run(input.clone(), Priority::Interactive));
                black_box(runtime.block_on(join_all(runs)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, batcher);
criterion_main!(benches);
