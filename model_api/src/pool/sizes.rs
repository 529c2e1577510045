//! Which sizes of batches a session keeps apart.
//!
//! Whether another size than the last one costs it anything is measured: on a card it does for convolutions, and not for most
//! other graphs. Where it does, the sizes are 1, 2, 4 and so on, as far as batches go.

use std::future::pending;
use std::time::Duration;

use open_inference::Tensor;
use tokio::time::Instant;
use tracing::warn;

use super::BatchSettings;
use super::rows::plain_row;
use crate::session::{Blueprint, Hello, Session, SessionError};

/// Bytes of the largest model of which a session keeps sizes apart: for each, its weights are once more on the card.
pub const LARGEST_MODEL: u64 = 128 << 20;

/// Sizes are kept apart where a run after one of another size takes more than so many runs.
const DEAR: u32 = 2;

/// Lets the session keep sizes, and tells which. The error is its death; no run may be given up.
pub async fn keep_sizes<S: Session>(
    session: &mut S,
    hello: &Hello,
    blueprint: &Blueprint,
    batch: &BatchSettings,
) -> Result<Vec<usize>, String> {
    let Some(row) = plain_row(hello, &blueprint.shapes) else { return Ok(Vec::new()) };
    let mut kept = Vec::new();
    let tried = async {
        // The first run of a size may cost something whatever was run before.
        for rows in [1, 2, 1] {
            time(session, &row, rows).await?;
        }
        let (after_another, after_its_like) = (time(session, &row, 2).await?, time(session, &row, 2).await?);
        if after_another < after_its_like * DEAR {
            return Ok(());
        }
        let mut rows = 1;
        loop {
            session.keep_size(rows).await?;
            kept.push(rows);
            time(session, &row, rows).await?;
            let takes = time(session, &row, rows).await?;
            if rows >= batch.max_rows || takes > batch.longest {
                return Ok(());
            }
            rows = batch.max_rows.min(rows * 2);
        }
    };
    match tried.await {
        Err(SessionError::Died(reason)) => return Err(reason),
        Err(SessionError::OutOfMemory(exceeded)) => return Err(exceeded.to_string()),
        Err(SessionError::TooLarge(bytes)) => {
            warn!(
                model = blueprint.model,
                bytes,
                ?kept,
                "no larger batches are kept apart: their outputs are too large"
            );
        }
        Err(SessionError::Refused(reason)) => {
            warn!(model = blueprint.model, reason, ?kept, "no larger batches are kept apart");
        }
        Ok(()) | Err(SessionError::GivenUp) => {}
    }
    Ok(kept)
}

async fn time<S: Session>(session: &mut S, row: &[Tensor], rows: usize) -> Result<Duration, SessionError> {
    let begun = Instant::now();
    session.run(&vec![row; rows], pending()).await?;
    Ok(begun.elapsed())
}
