use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::TensorRef;

/// One image.
pub const PIXELS: usize = 28 * 28;

/// Opens the library that `ORT_DYLIB_PATH` names.
pub fn environment() -> anyhow::Result<Environment> {
    let library = std::env::var_os("ORT_DYLIB_PATH").context("ORT_DYLIB_PATH must name libonnxruntime.so")?;
    Ok(ort::init_from(library)?.with_name("limits").with_telemetry(false).build()?)
}

/// A session of one thread, set up as `model_api`'s are.
pub fn session(environment: &Environment, model: &Path) -> anyhow::Result<Session> {
    let builder = Session::builder(environment)?;
    let mut builder = options(builder).map_err(|error| anyhow!(error.to_string()))?;
    Ok(builder.commit_from_file(model)?)
}

#[allow(clippy::result_large_err, reason = "ort gives the builder back with the error")]
fn options(builder: SessionBuilder) -> Result<SessionBuilder, ort::Error<SessionBuilder>> {
    builder
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)
}

/// Runs the model once on `rows` images, and returns all values of the first output.
pub fn run(session: &mut Session, pixels: &[f32], rows: usize) -> anyhow::Result<Vec<f32>> {
    let input = TensorRef::from_array_view(([rows, 28, 28, 1], pixels))?;
    let outputs = session.run(ort::inputs![input])?;
    let (_, values) = outputs[0].try_extract_tensor::<f32>()?;
    Ok(values.to_vec())
}

/// Rows per second by "sessions x batch".
pub fn measure(model: &Path, time: Duration) -> anyhow::Result<BTreeMap<String, f64>> {
    let environment = environment()?;
    let mut rates = BTreeMap::new();
    for sessions in [1, 2] {
        for batch in [1, 8, 32] {
            let rate = rows_per_second(&environment, model, sessions, batch, time)?;
            rates.insert(format!("{sessions}x{batch}"), rate);
        }
    }
    Ok(rates)
}

fn rows_per_second(
    environment: &Environment,
    model: &Path,
    sessions: usize,
    batch: usize,
    time: Duration,
) -> anyhow::Result<f64> {
    let sessions: Vec<Session> = (0..sessions).map(|_| session(environment, model)).collect::<anyhow::Result<_>>()?;
    let pixels = vec![0.25; PIXELS * batch];
    let count_rows = |mut session: Session| -> anyhow::Result<f64> {
        for _ in 0..100 {
            run(&mut session, &pixels, batch)?;
        }
        let (begun, mut rows) = (Instant::now(), 0);
        while begun.elapsed() < time {
            run(&mut session, &pixels, batch)?;
            rows += batch;
        }
        Ok(rows as f64 / begun.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = sessions.into_iter().map(|session| scope.spawn(|| count_rows(session))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?).sum()
    })
}
