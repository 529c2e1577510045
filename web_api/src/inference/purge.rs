//! Cache purge: drops cached results that turned out to be wrong.
//!
//! `model_api` compares some batches of requests with the same requests alone. If results differ, it stops batching requests of that
//! model, which the model's description reports. Results cached before may be wrong, so they are dropped here, as by
//! `DELETE /cache/{model}`. If there are several replicas of this service, each of them does so.

use std::collections::HashMap;
use std::time::Duration;

use contract::ModelDescription;
use db_api::cache::ResultCache;
use db_api::jobs::Jobs;
use open_inference::NotCached;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::error::Error;
use crate::upstream::catalog::Catalog;

/// Time between two checks of the descriptions.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time until a model is purged again, for results of requests that were in flight at the first purge.
const SECOND_PURGE_DELAY: Duration = Duration::from_secs(10);

/// Name, version and digest of a model.
type ModelContents = (String, String, String);

/// Models that have been purged.
#[derive(Default)]
struct Purged(HashMap<ModelContents, Purge>);

/// The last purge of a model.
struct Purge {
    wrong_before_ms: u64,
    first_at: Instant,
    is_done: bool,
}

/// Checks the descriptions periodically. Never returns.
pub(crate) async fn run(catalog: Catalog, cache: ResultCache<Error>, jobs: Jobs) {
    let mut purged = Purged::default();
    loop {
        let snapshot = catalog.snapshot();
        for model in &*snapshot.models {
            let Some(wrong_before_ms) = wrong_before(model) else { continue };
            if !purged.is_due(model, wrong_before_ms) {
                continue;
            }
            match purge(&model.name, &cache, &jobs).await {
                Ok(()) => purged.record(model, wrong_before_ms),
                Err(reason) => {
                    warn!(model = model.name, reason, "cached results that may be wrong cannot be dropped yet");
                }
            }
        }
        drop(snapshot);
        sleep(CHECK_INTERVAL).await;
    }
}

async fn purge(model: &str, cache: &ResultCache<Error>, jobs: &Jobs) -> Result<(), String> {
    let dropped = cache.invalidate_model(model).await.map_err(|error| error.to_string())?;
    jobs.clear_dedup(model).await.map_err(|error| error.to_string())?;
    if dropped > 0 {
        warn!(model, dropped, "cached results that may be wrong have been dropped");
    }
    Ok(())
}

/// Results stored before this time may be wrong, in ms since the Unix epoch. Results of a model that draws random numbers must not be
/// cached, but some may have been before this was detected.
fn wrong_before(model: &ModelDescription) -> Option<u64> {
    model.wrong_before_ms.or((model.not_cached == Some(NotCached::Random)).then_some(0))
}

impl Purged {
    fn is_due(&self, model: &ModelDescription, wrong_before_ms: u64) -> bool {
        self.0.get(&contents(model)).is_none_or(|purge| {
            purge.wrong_before_ms < wrong_before_ms
                || (!purge.is_done && purge.first_at.elapsed() >= SECOND_PURGE_DELAY)
        })
    }

    fn record(&mut self, model: &ModelDescription, wrong_before_ms: u64) {
        let purge = self.0.entry(contents(model)).or_insert_with(|| Purge::first(wrong_before_ms));
        if purge.wrong_before_ms < wrong_before_ms {
            *purge = Purge::first(wrong_before_ms);
        }
        purge.is_done = purge.first_at.elapsed() >= SECOND_PURGE_DELAY;
    }
}

impl Purge {
    fn first(wrong_before_ms: u64) -> Self {
        Self { wrong_before_ms, first_at: Instant::now(), is_done: false }
    }
}

fn contents(model: &ModelDescription) -> ModelContents {
    (model.name.clone(), model.version.clone(), model.digest.clone())
}

#[cfg(test)]
mod tests {
    use open_inference::ModelState;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_model_is_purged_immediately_and_again_for_requests_that_were_in_flight() {
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
                purged.record(&model, at);
            }
        }
        let random = ModelDescription { not_cached: Some(NotCached::Random), ..model(None) };
        assert_eq!(wrong_before(&random), Some(0));
    }
}
