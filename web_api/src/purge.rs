//! Purge of cached results that turned out to be wrong.
//!
//! `model_api` checks some batches of requests against the same requests alone. When results differ, it stops mixing
//! requests of that model and says so in the model's description. What was cached before may be wrong, so it is dropped here,
//! as `DELETE /cache/{model}` does it. Several replicas may all do so.

use std::collections::HashMap;
use std::time::Duration;

use contract::ModelDescription;
use db_api::jobs::Jobs;
use db_api::memory::Memory;
use open_inference::NotCached;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::catalog::Catalog;
use crate::error::Error;

/// How often the descriptions are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// After so long a model is purged again: results of requests in flight at the first time may have been stored since.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A version of a model with these contents: its name, version and digest.
type Contents = (String, String, String);

/// Models that have been purged.
#[derive(Default)]
struct Purged(HashMap<Contents, Purge>);

/// The last purge of a model.
struct Purge {
    wrong_before_ms: u64,
    first: Instant,
    is_done: bool,
}

/// Watches the descriptions for ever.
pub(crate) async fn follow(catalog: Catalog, memory: Memory<Error>, jobs: Jobs) {
    let mut purged = Purged::default();
    loop {
        let known = catalog.known();
        for model in &*known.models {
            let Some(wrong_before_ms) = wrong_before(model) else { continue };
            if !purged.is_due(model, wrong_before_ms) {
                continue;
            }
            match purge(&model.name, &memory, &jobs).await {
                Ok(()) => purged.note(model, wrong_before_ms),
                Err(reason) => warn!(model = model.name, reason, "wrong results cannot be dropped from the cache yet"),
            }
        }
        drop(known);
        sleep(INTERVAL).await;
    }
}

async fn purge(model: &str, memory: &Memory<Error>, jobs: &Jobs) -> Result<(), String> {
    let dropped = memory.forget(model).await.map_err(|error| error.to_string())?;
    jobs.forget(model).await.map_err(|error| error.to_string())?;
    if dropped > 0 {
        warn!(model, dropped, "results that may be wrong are dropped from the cache");
    }
    Ok(())
}

/// Until when its results may be wrong, in ms since the Unix epoch. Results of a model that draws random numbers are not to
/// be kept at all, and some may have been before that was known.
fn wrong_before(model: &ModelDescription) -> Option<u64> {
    model.wrong_before_ms.or((model.not_cached == Some(NotCached::Random)).then_some(0))
}

impl Purged {
    fn is_due(&self, model: &ModelDescription, wrong_before_ms: u64) -> bool {
        self.0.get(&contents(model)).is_none_or(|purge| {
            purge.wrong_before_ms < wrong_before_ms || (!purge.is_done && purge.first.elapsed() >= AGAIN_AFTER)
        })
    }

    fn note(&mut self, model: &ModelDescription, wrong_before_ms: u64) {
        let purge = self.0.entry(contents(model)).or_insert_with(|| Purge::first(wrong_before_ms));
        if purge.wrong_before_ms < wrong_before_ms {
            *purge = Purge::first(wrong_before_ms);
        }
        purge.is_done = purge.first.elapsed() >= AGAIN_AFTER;
    }
}

impl Purge {
    fn first(wrong_before_ms: u64) -> Self {
        Self { wrong_before_ms, first: Instant::now(), is_done: false }
    }
}

fn contents(model: &ModelDescription) -> Contents {
    (model.name.clone(), model.version.clone(), model.digest.clone())
}

#[cfg(test)]
mod tests {
    use open_inference::ModelState;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_model_is_purged_at_once_and_once_more_for_what_was_in_flight() {
        let model = |wrong_before_ms| ModelDescription {
            wrong_before_ms,
            ..ModelDescription::placeholder("m", "1", ModelState::Ready, None)
        };
        assert_eq!(wrong_before(&model(None)), None);
        let mut purged = Purged::default();
        for (pause, at, is_due) in
            [(0, 5, true), (1, 5, false), (9, 5, true), (60, 5, false), (0, 6, true), (1, 6, false)]
        {
            advance(Duration::from_secs(pause)).await;
            let model = model(Some(at));
            assert_eq!(purged.is_due(&model, at), is_due, "after {pause} s, {at}");
            if is_due {
                purged.note(&model, at);
            }
        }
        let random = ModelDescription { not_cached: Some(NotCached::Random), ..model(None) };
        assert_eq!(wrong_before(&random), Some(0));
    }
}
