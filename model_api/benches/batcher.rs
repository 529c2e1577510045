//! What the batcher itself costs: a pool over sessions that answer at once, asked by one, sixteen and sixty-four at a time.
//!
//! `cargo bench -p model_api --bench batcher`. One iteration is one round of that many requests.

use std::collections::BTreeMap;
use std::future::pending;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use contract::Device;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use model_api::analysis::GraphFacts;
use model_api::metrics::Metrics;
use model_api::pool::{BatchSettings, Pool, PoolSettings, QueueLimits, Urgency};
use model_api::session::{Blueprint, Hello, Launcher, Session, SessionError, StartError};
use open_inference::{Datatype, Tensor, TensorMetadata};
use prometheus_client::registry::Registry;
use tokio::runtime::Runtime;

/// A session whose answer to each row is its first number.
#[derive(Clone)]
struct AtOnce;

impl Launcher for AtOnce {
    type Session = Self;

    async fn launch(&self, _: &Blueprint) -> Result<(Hello, Self), StartError> {
        let tensor = |name: &str, shape: &[i64]| TensorMetadata::new(name, Datatype::Fp32, shape);
        let device = Device { name: "cpu".to_owned(), fallback_reason: None, runtime: "none".to_owned() };
        let (inputs, outputs) = (vec![tensor("x", &[-1, 784])], vec![tensor("y", &[-1, 1])]);
        Ok((Hello { inputs, outputs, left_out: Vec::new(), device, facts: GraphFacts::default() }, Self))
    }
}

impl Session for AtOnce {
    async fn run(
        &mut self,
        requests: &[&[Tensor]],
        _: impl Future<Output = ()> + Send,
    ) -> Result<Vec<Tensor>, SessionError> {
        let data: Vec<u8> = requests.iter().flat_map(|request| request[0].data[..4].iter().copied()).collect();
        let shape = vec![requests.len(), 1];
        Ok(vec![Tensor { name: "y".to_owned(), datatype: Datatype::Fp32, shape, data: data.into() }])
    }

    async fn died(&mut self) -> String {
        pending().await
    }
}

fn pool() -> Pool {
    let blueprint = Blueprint {
        model: "m".to_owned(),
        graph: PathBuf::new(),
        threads: 1,
        shapes: BTreeMap::new(),
        unchanged: Arc::new(|| true),
    };
    let settings = PoolSettings {
        bytes: 0,
        sessions: 1,
        queue: QueueLimits { rows: 1024, bytes: 64 << 20 },
        batch: BatchSettings::new(64, Duration::ZERO, Some(true), Duration::from_secs(30)),
        meters: Metrics::register(&mut Registry::default()).session("m"),
    };
    Pool::start(&AtOnce, &blueprint, &settings)
}

fn batcher(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("the system lends threads");
    let pool = runtime.block_on(async {
        let pool = pool();
        pool.ready(|_| ()).await;
        pool
    });
    let input = vec![Tensor::from_f32("x", Datatype::Fp32, vec![1, 784], &[0.5; 784]).expect("floats are floats")];
    let mut group = criterion.benchmark_group("batcher");
    for askers in [1_usize, 16, 64] {
        group.throughput(Throughput::Elements(askers as u64));
        group.bench_with_input(BenchmarkId::from_parameter(askers), &askers, |bencher, &askers| {
            bencher.iter(|| {
                let asked = (0..askers).map(|_| pool.run(input.clone(), Urgency::Interactive));
                black_box(runtime.block_on(join_all(asked)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, batcher);
criterion_main!(benches);
