//! Rows of one request that wait to be computed together.

use std::sync::{Mutex, PoisonError};

use db_api::cache::Failure;
use open_inference::Inference;
use tokio::sync::{Notify, oneshot};

use crate::error::Error;

/// Collects rows until they are taken as one batch.
#[derive(Default)]
pub struct RowBatch {
    rows: Mutex<Vec<PendingRow>>,
    row_added: Notify,
}

/// A row that waits for its result.
pub struct PendingRow {
    /// Index of the row in the request.
    pub row: usize,
    pub reply: oneshot::Sender<Result<Inference, Failure<Error>>>,
}

impl RowBatch {
    /// Adds a row, and waits for its result.
    pub async fn compute(&self, row: usize) -> Result<Inference, Failure<Error>> {
        let (reply, result) = oneshot::channel();
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).push(PendingRow { row, reply });
        self.row_added.notify_one();
        result.await.unwrap_or_else(|_| Err(Error::Internal.into()))
    }

    /// Waits until a row has been added since the last call.
    pub async fn row_added(&self) {
        self.row_added.notified().await;
    }

    /// Takes all pending rows.
    pub fn take(&self) -> Vec<PendingRow> {
        std::mem::take(&mut *self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
