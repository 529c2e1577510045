//! Row by row: what is known of a batch comes from memory, and the model is asked for the rest, once.
//!
//! Rows are questions of their own and share their keys with single questions, so their flights are those of
//! [`Memory`]. What a batch adds is that its own flights are carried by one request:
//!
//! 1. All rows are looked up, near and in Redis. Equal rows are one.
//! 2. For each row that is not known a flight is joined or begun. One that is begun puts the row into the [`Cargo`] and
//!    waits; one that is joined is another caller's, and waits for that.
//! 3. When all have been begun, the cargo goes to `model_api` in one request, and its answer is cut into rows.
//!
//! The cargo never waits for the flights that were joined, so two batches that wait for rows of each other both go. A
//! flight whose asker has gone away is taken over by who joined it: its row then comes late and goes with a next cargo.
//!
//! Whatever does not go together ends in the whole question being asked, which is always right.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use db_api::entry::Entry;
use db_api::memory::{Failure, Memory, Outcome, Storage};
use futures_util::future::join_all;
use http::{HeaderMap, StatusCode};
use open_inference::{Inference, Tensor};
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tracing::warn;

use crate::error::Error;
use crate::http::cache_control::{CacheStatus, RequestOptions, RowCounts};
use crate::predictor::{Answer, Model};
use crate::question::{Question, Row};
use crate::workbench::Workbench;

/// Remembers the rows of batches one by one.
#[derive(Clone)]
pub(crate) struct RowMemory {
    memory: Memory<Error>,
    model: Model,
    workbench: Workbench,
    /// Digests of models that were said to have independent rows, and answer with another number of them.
    not_by_rows: Arc<Mutex<HashSet<String>>>,
}

/// Rows on their way to the model together.
#[derive(Default)]
struct Cargo {
    rows: Mutex<Vec<Loaded>>,
    came: Notify,
}

/// A row's number, and who waits for its answer.
struct Loaded {
    row: usize,
    answer: oneshot::Sender<Result<Inference, Failure<Error>>>,
}

type Found = (Arc<Entry>, Outcome);

impl RowMemory {
    pub(crate) fn new(memory: Memory<Error>, model: Model, workbench: Workbench) -> Self {
        Self { memory, model, workbench, not_by_rows: Arc::default() }
    }

    /// The answer to a `question` that has rows; `None` when it has to be asked as a whole.
    pub(crate) async fn answer(&self, question: &Question, options: RequestOptions) -> Result<Option<Answer>, Error> {
        if self.is_not_by_rows(&question.model().digest) {
            return Ok(None);
        }
        // Which of the different rows each row is, and where each of these first stands.
        let mut numbers = HashMap::new();
        let mut different = Vec::new();
        let mut number_of = |(at, row): (usize, &Row)| {
            *numbers.entry(row.key).or_insert_with(|| {
                different.push(at);
                different.len() - 1
            })
        };
        let places: Vec<usize> = question.rows().iter().enumerate().map(&mut number_of).collect();
        let keys: Vec<_> = different.iter().map(|&at| question.rows()[at].key).collect();
        let mut found = self.memory.recall_all(&keys, &question.model().name).await;
        let unknown: Vec<usize> = (0..found.len()).filter(|&number| found[number].is_none()).collect();
        if !unknown.is_empty() {
            if options.only_if_cached {
                return Ok(None);
            }
            let rows: Vec<usize> = unknown.iter().map(|&number| different[number]).collect();
            let is_all = rows.len() == question.rows().len();
            let landed = self.fly(question, &rows, options).await;
            for (number, landed) in unknown.into_iter().zip(landed) {
                match landed {
                    Ok(answer) => found[number] = Some(answer),
                    // The words are about rows of the cargo. The whole question is asked for words that fit it.
                    Err(Failure { error, may_be_anothers: true })
                        if matches!(error, Error::Internal) || (!is_all && error.status().0.is_client_error()) =>
                    {
                        return Ok(None);
                    }
                    Err(Failure { error, .. }) => return Err(error),
                }
            }
        }
        let Some(found) = found.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        self.put_together(question, &found, &places).await
    }

    /// Stores the rows of `whole`, an answer to `question`, and returns whether all were stored. `None` when there are no
    /// rows.
    pub(crate) async fn remember(&self, question: &Question, whole: &Inference) -> Result<Option<Storage>, Error> {
        if question.rows().is_empty() {
            return Ok(None);
        }
        let Some(answers) = self.cut(whole.clone(), question.rows().len()).await? else {
            self.give_up(question, whole);
            return Ok(None);
        };
        let mut stored = Ok(());
        for (row, answer) in question.rows().iter().zip(answers) {
            let (_, storage) = self.memory.remember(question.key_of_row(row, &answer), answer);
            stored = stored.and(storage);
        }
        Ok(Some(stored))
    }

    /// Computes `rows` of `question`, or waits for who is computing them.
    async fn fly(
        &self,
        question: &Question,
        rows: &[usize],
        options: RequestOptions,
    ) -> Vec<Result<Found, Failure<Error>>> {
        let cargo = Cargo::default();
        let priority = options.priority();
        let flight = |at: usize| {
            let row = &question.rows()[at];
            let key_of = |inference: &Inference| question.key_of_row(row, inference);
            self.memory.join_or_infer(row.key, priority, key_of, cargo.load(at))
        };
        let flights = join_all(rows.iter().copied().map(flight));
        let carry = async {
            loop {
                cargo.came.notified().await;
                // However many flights are begun at a time, each has been polled once now.
                yield_now().await;
                self.carry(question, cargo.take(), options.in_background).await;
            }
        };
        tokio::select! {
            biased;
            landed = flights => landed,
            never = carry => never,
        }
    }

    /// One request for all of `loaded`.
    async fn carry(&self, question: &Question, mut loaded: Vec<Loaded>, in_background: bool) {
        // Who asked for the others is gone, and with him this one's answer.
        loaded.retain(|loaded| !loaded.answer.is_closed());
        if loaded.is_empty() {
            return;
        }
        loaded.sort_by_key(|loaded| loaded.row);
        let rows: Vec<_> = loaded.iter().map(|loaded| loaded.row).collect();
        match self.infer(question, &rows, in_background).await {
            Ok(answers) => {
                for (Loaded { answer: asker, .. }, answer) in loaded.into_iter().zip(answers) {
                    let _ = asker.send(Ok(answer));
                }
            }
            Err(failure) => {
                for Loaded { answer: asker, .. } in loaded {
                    let _ = asker.send(Err(failure.clone()));
                }
            }
        }
    }

    /// Asks the model for these rows, and cuts its answer.
    async fn infer(
        &self,
        question: &Question,
        rows: &[usize],
        in_background: bool,
    ) -> Result<Vec<Inference>, Failure<Error>> {
        let is_all = rows.len() == question.rows().len();
        let inputs = if is_all {
            question.inputs()
        } else {
            let rows = rows.iter().map(|&row| question.rows()[row].inputs.clone()).collect();
            // Rows of one question go together.
            self.stack(rows).await?.ok_or(Error::Internal)?
        };
        let whole =
            self.model.infer_some(question, inputs, rows.len() as u64, in_background).await.map_err(|error| {
                // What the model does not take, or crashes on, may be one of several rows, and is not the others' fault.
                let status = error.status().0;
                let is_the_rows = status.is_client_error() || status == StatusCode::INTERNAL_SERVER_ERROR;
                let may_be_anothers = rows.len() > 1 && is_the_rows;
                Failure { error, may_be_anothers }
            })?;
        let answers = self.cut(whole.clone(), rows.len()).await?;
        answers.ok_or_else(|| {
            self.give_up(question, &whole);
            Failure { error: Error::Internal, may_be_anothers: true }
        })
    }

    /// The answers to all rows as one. `None` when they do not go together: of two versions, or of other shapes; or when they
    /// are of another version than was asked.
    async fn put_together(
        &self,
        question: &Question,
        found: &[Found],
        places: &[usize],
    ) -> Result<Option<Answer>, Error> {
        let mut counts = RowCounts::default();
        let mut is_first = vec![true; found.len()];
        for &place in places {
            let known = matches!(found[place].1, Outcome::Near | Outcome::Redis);
            let first = std::mem::take(&mut is_first[place]);
            counts.add(if known || first { found[place].1 } else { Outcome::Collapsed });
        }
        // Who answered is said of what was computed now, where something was.
        let fresh = found.iter().find(|(_, outcome)| outcome.is_computed()).or(found.first());
        let Some(Inference { model, version, provenance, .. }) = fresh.map(|(entry, _)| entry.inference.clone()) else {
            return Ok(None);
        };
        let alike = |(entry, _): &Found| {
            let Inference { version: of, provenance: by, outputs, .. } = &entry.inference;
            *of == version
                && by.model_digest == provenance.model_digest
                && outputs.iter().all(|output| output.rows() == Some(1))
        };
        // A row may be that of somebody who left the choice of the version, which meanwhile was made anew.
        let is_asked_for = question.version().is_none_or(|asked| asked == version);
        if !is_asked_for || !found.iter().all(alike) {
            return Ok(None);
        }
        let rows = places.iter().map(|&place| found[place].0.inference.outputs.clone()).collect();
        let Some(outputs) = self.stack(rows).await? else { return Ok(None) };
        let inference = Inference { model, version, outputs, provenance, headers: HeaderMap::new() };
        let mut entry = Entry::new(question.key_of(&inference), inference);
        let oldest = found.iter().map(|(entry, _)| entry.stored_at).min();
        entry.stored_at = oldest.unwrap_or(entry.stored_at);
        Ok(Some(Answer { entry: Arc::new(entry), provenance: CacheStatus::Rows(counts) }))
    }

    /// Rows of tensors as tensors of rows.
    async fn stack(&self, rows: Vec<Vec<Tensor>>) -> Result<Option<Vec<Tensor>>, Error> {
        let bytes = rows.iter().flatten().map(|tensor| tensor.data.len()).sum();
        let stack = move || {
            let columns = rows.first().map_or(0, Vec::len);
            if rows.iter().any(|row| row.len() != columns) {
                return None;
            }
            let column = |number| {
                let parts: Option<Vec<_>> = rows.iter().map(|row| row.get(number)).collect();
                Tensor::stack(&parts?)
            };
            (0..columns).map(column).collect()
        };
        self.workbench.run(bytes, stack).await
    }

    /// One answer for each of `rows` rows; `None` when the outputs have another number of them.
    async fn cut(&self, whole: Inference, rows: usize) -> Result<Option<Vec<Inference>>, Error> {
        let bytes = whole.outputs.iter().map(|output| output.data.len()).sum();
        let cut = move || {
            if !whole.outputs.iter().all(|output| output.rows() == Some(rows)) {
                return None;
            }
            let mut columns: Vec<_> = whole.outputs.iter().map(|output| output.split_rows().into_iter()).collect();
            let row = |_| {
                // A copy, also of a large one: a row that is remembered must not keep the whole answer in memory.
                let own = |row: Tensor| Tensor { data: Bytes::copy_from_slice(&row.data), ..row };
                let outputs = columns.iter_mut().filter_map(Iterator::next).map(own).collect();
                Inference { outputs, ..whole.clone() }
            };
            Some((0..rows).map(row).collect())
        };
        self.workbench.run(bytes, cut).await
    }

    fn is_not_by_rows(&self, digest: &str) -> bool {
        self.not_by_rows.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    fn give_up(&self, question: &Question, whole: &Inference) {
        let digest = whole.provenance.model_digest.clone();
        if self.not_by_rows.lock().unwrap_or_else(PoisonError::into_inner).insert(digest) {
            let shapes: Vec<_> = whole.outputs.iter().map(|output| &output.shape).collect();
            warn!(model = question.model().name, ?shapes, "independent_rows is set, but the outputs have other rows");
        }
    }
}

impl Cargo {
    /// Puts a row in, and waits for its answer.
    async fn load(&self, row: usize) -> Result<Inference, Failure<Error>> {
        let (answer, answered) = oneshot::channel();
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).push(Loaded { row, answer });
        self.came.notify_one();
        answered.await.unwrap_or_else(|_| Err(Error::Internal.into()))
    }

    fn take(&self) -> Vec<Loaded> {
        std::mem::take(&mut *self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
