//! Session start: launch, verification of the model files, batching decision, batch buckets.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::info;

use super::batch_buckets::add_buckets;
use crate::scheduler::batching::batch_probe::finding::{ProbeResult, RowFinding};
use crate::scheduler::batching::batch_probe::probe;
use crate::scheduler::batching::policy::BatchingDecision;
use crate::scheduler::metrics::PoolMetrics;
use crate::scheduler::shared::Shared;
use crate::session::{Launcher, Session, SessionConfig, SessionInfo, StartError};

/// A session does not pick up changed files by itself: the watch waits until they are stable.
const FILES_CHANGED: &str =
    "its files have changed since it was loaded; MODEL_WATCH=poll loads the new ones, and so does POST …/load";

/// Starts the sessions of one model.
#[derive(Clone)]
pub struct SessionStarter<L> {
    pub launcher: L,
    pub config: SessionConfig,
    pub metrics: PoolMetrics,
    pub shared: Arc<Shared>,
}

impl<L: Launcher> SessionStarter<L> {
    /// Starts a warm session of unchanged files, after the batching decision.
    pub async fn start(&self) -> Result<(Arc<SessionInfo>, L::Session), StartError> {
        let (session_info, mut session) = self.launcher.launch(&self.config).await?;
        self.verify_files().await?;
        self.shared.on_gpu.store(session_info.is_on_gpu(), Ordering::Relaxed);
        self.decide(&mut session, &session_info).await?;
        let buckets = self.add_buckets(&mut session, &session_info).await?;
        if !buckets.is_empty() {
            // Each bucket reads the files once more.
            self.verify_files().await?;
        }
        let (device, batching) = (&session_info.device, self.shared.policy.batching());
        info!(
            model = self.config.model,
            device = device.name,
            fallback_reason = device.fallback_reason,
            batching = batching.as_ref().map(|batching| if batching.enabled { "on" } else { "off" }),
            rows = batching.as_ref().map(|batching| batching.rows.name()),
            reason = batching.as_ref().map(|batching| &*batching.reason),
            sizes = (!buckets.is_empty()).then(|| debug(&buckets)),
            "a session is warm"
        );
        if let Some(memory) = session.memory() {
            session.set_memory_baseline(memory.used);
        }
        self.metrics.on_cpu.set((device.name == "cpu").into());
        self.metrics.on_cuda.set(session_info.is_on_gpu().into());
        Ok((Arc::new(session_info), session))
    }

    async fn verify_files(&self) -> Result<(), StartError> {
        let unchanged = Arc::clone(&self.config.unchanged);
        let is_unchanged = spawn_blocking(move || unchanged()).await.unwrap_or(false);
        if is_unchanged { Ok(()) } else { Err(StartError::Model(FILES_CHANGED.to_owned())) }
    }

    /// Adds batch buckets on a GPU, if requests of different callers share batches. A session that crashes over them turns them
    /// off for the sessions after it.
    async fn add_buckets(
        &self,
        session: &mut L::Session,
        session_info: &SessionInfo,
    ) -> Result<Vec<usize>, StartError> {
        let batch = self.shared.batch();
        if !session_info.is_on_gpu() || batch.max_rows == 1 || self.shared.buckets_disabled.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let added = match timeout(batch.run_timeout, add_buckets(session, session_info, &self.config, &batch)).await {
            Ok(added) => added,
            Err(_) => Err("the measurement took too long".to_owned()),
        };
        added.map_err(|reason| {
            self.shared.buckets_disabled.store(true, Ordering::Relaxed);
            StartError::Crashed(format!("while it added batch buckets, {reason}"))
        })
    }

    /// Makes the batching decision, once for each model.
    async fn decide(&self, session: &mut L::Session, session_info: &SessionInfo) -> Result<(), StartError> {
        let settings = &self.shared.batch;
        let mut failure = None;
        let decide = async {
            let difference =
                |reason: String| ProbeResult { rows: RowFinding::Difference(reason), ..ProbeResult::default() };
            let probed = match timeout(settings.run_timeout, probe(session, session_info, &self.config, settings)).await
            {
                Ok(Ok(probed)) => probed,
                Ok(Err(reason)) => difference(failure.insert(format!("its session crashed: {reason}")).clone()),
                Err(_) => difference(failure.insert("a run exceeded RUN_TIMEOUT_MS".to_owned()).clone()),
            };
            let decision = BatchingDecision::new(&session_info.facts, &probed, settings);
            decision.log_conflict(&self.config.model);
            self.metrics.batching.set(&decision.batching);
            decision
        };
        self.shared.policy.decide(decide).await;
        failure.map_or(Ok(()), |reason| Err(StartError::Crashed(format!("during the batching probe, {reason}"))))
    }
}
