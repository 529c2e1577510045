//! Batch-size buckets: decides which batch sizes a session keeps a separate ONNX Runtime session for.
//!
//! A measurement shows whether a change of the batch size slows a run down. On a GPU it does for convolutions, but not for most
//! other graphs. If it does, the buckets are 1, 2, 4 and so on, up to the largest batch.

use std::future::pending;
use std::time::Duration;

use open_inference::Tensor;
use tokio::time::Instant;
use tracing::warn;

use crate::scheduler::batching::batch_probe::inputs::plain_row;
use crate::scheduler::settings::BatchSettings;
use crate::session::{Session, SessionConfig, SessionError, SessionInfo};

/// Buckets pay if a run after one of another size takes more than this multiple of a run after one of the same size.
const MIN_SLOWDOWN: u32 = 2;

/// Adds buckets to the session if they pay. Returns their sizes. The error describes a session that is no longer usable.
pub async fn add_buckets<S: Session>(
    session: &mut S,
    session_info: &SessionInfo,
    config: &SessionConfig,
    batch: &BatchSettings,
) -> Result<Vec<usize>, String> {
    let Some(row) = plain_row(session_info, &config.shapes) else { return Ok(Vec::new()) };
    let mut buckets = Vec::new();
    let added = async {
        // The first run of each size may be slow regardless of the run before it.
        for rows in [1, 2, 1] {
            time_run(session, &row, rows).await?;
        }
        let (after_other_size, after_same_size) =
            (time_run(session, &row, 2).await?, time_run(session, &row, 2).await?);
        if after_other_size < after_same_size * MIN_SLOWDOWN {
            return Ok(());
        }
        let mut rows = 1;
        loop {
            session.add_bucket(rows).await?;
            buckets.push(rows);
            time_run(session, &row, rows).await?;
            let duration = time_run(session, &row, rows).await?;
            if rows >= batch.max_rows || duration > batch.max_duration {
                return Ok(());
            }
            rows = batch.max_rows.min(rows * 2);
        }
    };
    let model = &config.model;
    match added.await {
        Err(SessionError::Crashed(reason)) => return Err(reason),
        Err(SessionError::OutOfMemory(exceeded)) => return Err(exceeded.to_string()),
        Err(SessionError::OutputsTooLarge(bytes)) => {
            warn!(model, bytes, ?buckets, "no batch bucket added for larger batches: their outputs are too large");
        }
        Err(SessionError::Rejected(reason)) => {
            warn!(model, reason, ?buckets, "no batch bucket added for larger batches");
        }
        Ok(()) | Err(SessionError::Cancelled) => {}
    }
    Ok(buckets)
}

async fn time_run<S: Session>(session: &mut S, row: &[Tensor], rows: usize) -> Result<Duration, SessionError> {
    let started_at = Instant::now();
    session.run(&vec![row; rows], pending()).await?;
    Ok(started_at.elapsed())
}
