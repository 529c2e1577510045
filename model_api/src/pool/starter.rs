use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::info;

use super::mixing::Decision;
use super::rows::{Finding, Probed, probe};
use super::sizes::keep_sizes;
use super::{Meters, Shared};
use crate::session::{Blueprint, Hello, Launcher, Session, StartError};

/// Taking the new ones is not a session's to decide: the watch waits until they are still.
const FILES_CHANGED: &str =
    "its files have changed since it was loaded; MODEL_WATCH=poll loads the new ones, and so does POST …/load";

/// Starts the sessions of one model.
#[derive(Clone)]
pub struct Starter<L> {
    pub launcher: L,
    pub blueprint: Blueprint,
    pub meters: Meters,
    pub shared: Arc<Shared>,
}

impl<L: Launcher> Starter<L> {
    /// Starts a session: warm, of unchanged files, and decided on.
    pub async fn start(&self) -> Result<(Arc<Hello>, L::Session), StartError> {
        let (hello, mut session) = self.launcher.launch(&self.blueprint).await?;
        self.check_files().await?;
        self.shared.on_card.store(hello.is_on_card(), Ordering::Relaxed);
        self.decide(&mut session, &hello).await?;
        let sizes = self.keep_sizes(&mut session, &hello).await?;
        if !sizes.is_empty() {
            // It has read them once more for each.
            self.check_files().await?;
        }
        let (device, batching) = (&hello.device, self.shared.mixing.batching());
        info!(
            model = self.blueprint.model,
            device = device.name,
            fallback_reason = device.fallback_reason,
            batching = batching.as_ref().map(|batching| if batching.enabled { "on" } else { "off" }),
            rows = batching.as_ref().map(|batching| batching.rows.name()),
            reason = batching.as_ref().map(|batching| &*batching.reason),
            sizes = (!sizes.is_empty()).then(|| debug(&sizes)),
            "a session is warm"
        );
        if let Some(memory) = session.memory() {
            session.set_warm(memory.used);
        }
        self.meters.on_cpu.set((device.name == "cpu").into());
        self.meters.on_cuda.set(hello.is_on_card().into());
        Ok((Arc::new(hello), session))
    }

    async fn check_files(&self) -> Result<(), StartError> {
        let unchanged = Arc::clone(&self.blueprint.unchanged);
        let is_unchanged = spawn_blocking(move || unchanged()).await.unwrap_or(false);
        if is_unchanged { Ok(()) } else { Err(StartError::Model(FILES_CHANGED.to_owned())) }
    }

    /// On a card, where rows of different callers go together. What a session dies of is not tried with the next one.
    async fn keep_sizes(&self, session: &mut L::Session, hello: &Hello) -> Result<Vec<usize>, StartError> {
        let batch = self.shared.batch();
        if !hello.is_on_card() || batch.max_rows == 1 || self.shared.keeps_no_sizes.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let kept = match timeout(batch.run_timeout, keep_sizes(session, hello, &self.blueprint, &batch)).await {
            Ok(kept) => kept,
            Err(_) => Err("that took too long".to_owned()),
        };
        kept.map_err(|reason| {
            self.shared.keeps_no_sizes.store(true, Ordering::Relaxed);
            StartError::Died(format!("when it was to keep batches of different sizes apart, {reason}"))
        })
    }

    /// Decides, once for each model, whether requests of different callers run together.
    async fn decide(&self, session: &mut L::Session, hello: &Hello) -> Result<(), StartError> {
        let settings = &self.shared.batch;
        let mut spoiled = None;
        let decide = async {
            let difference = |reason: String| Probed { rows: Finding::Difference(reason), ..Probed::default() };
            let probed = match timeout(settings.run_timeout, probe(session, hello, &self.blueprint, settings)).await {
                Ok(Ok(probed)) => probed,
                Ok(Err(reason)) => difference(spoiled.insert(format!("its session died: {reason}")).clone()),
                Err(_) => difference(spoiled.insert("a run took too long and did not end".to_owned()).clone()),
            };
            let decision = Decision::new(&hello.facts, &probed, settings);
            decision.log_objection(&self.blueprint.model);
            self.meters.batching.set(&decision.batching);
            decision
        };
        self.shared.mixing.decide(decide).await;
        spoiled.map_or(Ok(()), |reason| Err(StartError::Died(format!("when batches were tried, {reason}"))))
    }
}
