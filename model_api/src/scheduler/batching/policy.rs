//! Batching policy: the decision whether requests of different callers share batches.
//!
//! It combines the static analysis of the graph, the probe on the first session and the settings, which override the other two.
//! Later evidence from the running model can only revoke it.

use std::sync::OnceLock;

use open_inference::{Batching, RowDependence};
use tokio::sync::OnceCell;
use tracing::warn;

use super::batch_probe::finding::{ProbeResult, RowFinding};
use crate::onnx::analysis::{GraphFacts, RowAnalysis};
use crate::scheduler::settings::BatchSettings;

/// Policy of one model version. The first session makes the decision.
#[derive(Debug, Default)]
pub struct BatchingPolicy {
    decision: OnceCell<BatchingDecision>,
    /// Why the decision no longer holds.
    revoked: OnceLock<Revocation>,
}

/// The decision and its evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchingDecision {
    /// Whether requests share batches, and why.
    pub batching: Batching,
    /// Why equal inputs can give different results, if there is evidence for it.
    pub nondeterminism: Option<String>,
    /// Largest rounding difference between batch sizes, as a fraction of the largest value of the row.
    pub rounding: f32,
    /// Evidence against the decision, for the log.
    pub conflict: Option<String>,
}

/// Evidence from the running model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// How the results differed.
    pub reason: String,
    /// Whether equal inputs gave different results.
    pub nondeterministic: bool,
    /// Set if results computed before this time may be wrong; ms since the Unix epoch.
    pub invalid_before_ms: Option<u64>,
}

impl BatchingPolicy {
    /// Makes the decision. Later calls wait for the first one and return its decision.
    pub async fn decide(&self, decide: impl Future<Output = BatchingDecision>) -> &BatchingDecision {
        self.decision.get_or_init(|| decide).await
    }

    /// `None` before the first session.
    pub fn decision(&self) -> Option<&BatchingDecision> {
        self.decision.get()
    }

    /// `None` unless the policy was revoked.
    pub fn revocation(&self) -> Option<&Revocation> {
        self.revoked.get()
    }

    /// Whether requests share batches now.
    pub fn is_enabled(&self) -> bool {
        self.decision.get().is_some_and(|decision| decision.batching.enabled) && self.revoked.get().is_none()
    }

    /// Disables batching permanently. Returns `false` if it was already revoked.
    pub fn revoke(&self, revocation: Revocation) -> bool {
        self.revoked.set(revocation).is_ok()
    }

    /// The current policy. `None` before the first session.
    pub fn batching(&self) -> Option<Batching> {
        let decided = &self.decision.get()?.batching;
        Some(match self.revoked.get() {
            Some(Revocation { reason, .. }) => {
                Batching { enabled: false, rows: RowDependence::Dependent, reason: reason.clone() }
            }
            None => decided.clone(),
        })
    }

    /// How rows depend on each other according to the current evidence, whether or not requests share batches. `None` before
    /// the first session.
    pub fn row_dependence(&self) -> Option<RowDependence> {
        let decided = self.decision.get()?.batching.rows;
        Some(if self.revoked.get().is_some() { RowDependence::Dependent } else { decided })
    }

    /// Whether equal inputs are known to give different results.
    pub fn is_nondeterministic(&self) -> bool {
        self.decision.get().is_some_and(|decision| decision.nondeterminism.is_some())
            || self.revoked.get().is_some_and(|revoked| revoked.nondeterministic)
    }
}

impl BatchingDecision {
    /// Combines analysis, probe and settings.
    pub fn new(facts: &GraphFacts, probed: &ProbeResult, settings: &BatchSettings) -> Self {
        let from_graph = facts.random.as_ref().map(|operator| format!("the graph draws random numbers ({operator})"));
        let nondeterminism = from_graph.or_else(|| probed.nondeterminism.clone());
        let (shown, evidence) = evidence(&facts.rows, &probed.rows, nondeterminism.as_deref());
        let (rows, reason, conflict) = match (settings.independent_rows, shown) {
            (_, RowDependence::NoBatchAxis) => (shown, evidence, None),
            (Some(false), _) => (RowDependence::Dependent, "the settings say independent_rows: false".to_owned(), None),
            (Some(true), RowDependence::Dependent) => {
                let reason = format!("the settings say independent_rows: true, although {evidence}");
                (RowDependence::IndependentBySettings, reason, Some(evidence))
            }
            (Some(true), _) => {
                let reason = "the settings say independent_rows: true".to_owned();
                (RowDependence::IndependentBySettings, reason, None)
            }
            (None, RowDependence::Dependent) if facts.rows == RowAnalysis::Independent && nondeterminism.is_none() => {
                let conflict = format!("the analysis of the graph finds rows independent, but {evidence}");
                (shown, evidence, Some(conflict))
            }
            (None, _) => (shown, evidence, None),
        };
        let off = settings.unbatched_reason();
        let enabled = off.is_none() && is_independent(rows);
        let reason = off.map_or_else(|| reason.clone(), |off| format!("{off}; {reason}"));
        let batching = Batching { enabled, rows, reason };
        Self { batching, nondeterminism, rounding: probed.rounding, conflict }
    }

    /// Logs evidence against the decision.
    pub fn log_conflict(&self, model: &str) {
        let Some(conflict) = &self.conflict else { return };
        if self.batching.rows == RowDependence::IndependentBySettings {
            warn!(
                model,
                conflict,
                "batching stays enabled because the settings say independent_rows: true, but a row's result seems to depend on other rows"
            );
        } else {
            warn!(model, conflict, "analysis and probe disagree, batching is disabled");
        }
    }
}

/// Whether rows may run in separate batches.
pub fn is_independent(rows: RowDependence) -> bool {
    use RowDependence::{IndependentByAnalysis, IndependentByProbe, IndependentBySettings};
    matches!(rows, IndependentByAnalysis | IndependentByProbe | IndependentBySettings)
}

/// Combined evidence of analysis and probe.
fn evidence(analysis: &RowAnalysis, probe: &RowFinding, random: Option<&str>) -> (RowDependence, String) {
    const PROVED: &str = "every operator of the graph keeps rows apart";
    match (probe, analysis) {
        (RowFinding::NoBatchAxis(reason), _) => (RowDependence::NoBatchAxis, reason.clone()),
        _ if let Some(random) = random => (RowDependence::Dependent, random.to_owned()),
        (RowFinding::Difference(difference), _) => {
            (RowDependence::Dependent, format!("the probe found that {difference}"))
        }
        (_, RowAnalysis::Dependent(reason)) => (RowDependence::Dependent, reason.clone()),
        (RowFinding::NoDifference { batches }, RowAnalysis::Independent) => {
            let reason = format!("{PROVED}, and the probe found no difference in {batches} batches");
            (RowDependence::IndependentByAnalysis, reason)
        }
        (RowFinding::NotRun(why), RowAnalysis::Independent) => {
            (RowDependence::IndependentByAnalysis, format!("{PROVED}; the probe could not be run: {why}"))
        }
        (RowFinding::NoDifference { batches }, RowAnalysis::Unknown(open)) => {
            let reason = format!("{open}; the probe found no difference in {batches} batches");
            (RowDependence::IndependentByProbe, reason)
        }
        (RowFinding::NotRun(why), RowAnalysis::Unknown(open)) => {
            (RowDependence::Unknown, format!("{open}; the probe could not be run: {why}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use RowDependence::{
        Dependent, IndependentByAnalysis, IndependentByProbe, IndependentBySettings, NoBatchAxis, Unknown,
    };

    use super::*;

    fn settings(max_rows: usize, independent: Option<bool>) -> BatchSettings {
        BatchSettings::new(max_rows, Duration::ZERO, independent, Duration::from_secs(30))
    }

    fn decide(rows: RowAnalysis, probe: RowFinding, settings: &BatchSettings) -> Batching {
        let facts = GraphFacts { rows, ..GraphFacts::default() };
        BatchingDecision::new(&facts, &ProbeResult { rows: probe, ..ProbeResult::default() }, settings).batching
    }

    fn analyses() -> [RowAnalysis; 3] {
        let reason = || "open".to_owned();
        [RowAnalysis::Independent, RowAnalysis::Unknown(reason()), RowAnalysis::Dependent(reason())]
    }

    fn findings() -> [RowFinding; 3] {
        let reason = || "shown".to_owned();
        [RowFinding::NoDifference { batches: 9 }, RowFinding::NotRun(reason()), RowFinding::Difference(reason())]
    }

    #[test]
    fn analysis_and_probe_decide_without_settings() {
        let expected = [
            [IndependentByAnalysis, IndependentByAnalysis, Dependent],
            [IndependentByProbe, Unknown, Dependent],
            [Dependent, Dependent, Dependent],
        ];
        for (analysis, expected) in analyses().into_iter().zip(expected) {
            for (finding, expected) in findings().into_iter().zip(expected) {
                let batching = decide(analysis.clone(), finding, &settings(0, None));
                assert_eq!((batching.rows, batching.enabled), (expected, is_independent(expected)), "{batching:?}");
                assert!(!batching.reason.is_empty());
            }
        }
        let none =
            decide(RowAnalysis::Independent, RowFinding::NoBatchAxis("fixed".to_owned()), &settings(0, Some(true)));
        assert_eq!((none.rows, none.enabled, &*none.reason), (NoBatchAxis, false, "fixed"));
    }

    #[test]
    fn independent_rows_in_the_settings_overrides_the_evidence() {
        for analysis in analyses() {
            for finding in findings() {
                let claimed = decide(analysis.clone(), finding.clone(), &settings(0, Some(true)));
                assert_eq!((claimed.rows, claimed.enabled), (IndependentBySettings, true), "{claimed:?}");
                let denied = decide(analysis.clone(), finding, &settings(0, Some(false)));
                assert_eq!((denied.rows, denied.enabled), (Dependent, false), "{denied:?}");
            }
        }
        let facts = GraphFacts { rows: RowAnalysis::Dependent("ReduceMax".to_owned()), ..GraphFacts::default() };
        let decision = BatchingDecision::new(&facts, &ProbeResult::default(), &settings(0, Some(true)));
        assert_eq!(decision.batching.reason, "the settings say independent_rows: true, although ReduceMax");
        assert_eq!(decision.conflict.as_deref(), Some("ReduceMax"));
    }

    #[test]
    fn batching_off_and_a_batch_size_of_one_disable_batching_with_a_reason() {
        let found = || RowFinding::NoDifference { batches: 9 };
        let off = decide(RowAnalysis::Independent, found(), &settings(0, Some(true)).without_batching());
        assert_eq!((off.rows, off.enabled), (IndependentBySettings, false));
        assert!(off.reason.starts_with("the settings say \"batching\": \"off\"; "), "{off:?}");
        let one = decide(RowAnalysis::Independent, found(), &settings(1, None));
        assert_eq!((one.rows, one.enabled), (IndependentByAnalysis, false));
        assert!(one.reason.starts_with("the settings say max_batch_size: 1; "), "{one:?}");
    }

    #[test]
    fn a_model_that_draws_random_numbers_is_nondeterministic_and_not_batched() {
        let facts = GraphFacts {
            rows: RowAnalysis::Independent,
            random: Some("RandomNormalLike".to_owned()),
            ..GraphFacts::default()
        };
        let decision = BatchingDecision::new(&facts, &ProbeResult::default(), &settings(0, None));
        assert_eq!((decision.batching.rows, decision.batching.enabled), (Dependent, false));
        assert_eq!(decision.nondeterminism.as_deref(), Some("the graph draws random numbers (RandomNormalLike)"));
        let seen = ProbeResult { nondeterminism: Some("it differs".to_owned()), ..ProbeResult::default() };
        let facts = GraphFacts { rows: RowAnalysis::Independent, ..GraphFacts::default() };
        assert_eq!(BatchingDecision::new(&facts, &seen, &settings(0, None)).batching.rows, Dependent);
    }

    #[tokio::test]
    async fn a_revoked_policy_keeps_the_first_reason() {
        let policy = BatchingPolicy::default();
        assert_eq!((policy.is_enabled(), policy.batching()), (false, None));
        let facts = GraphFacts { rows: RowAnalysis::Independent, ..GraphFacts::default() };
        policy.decide(async { BatchingDecision::new(&facts, &ProbeResult::default(), &settings(0, None)) }).await;
        assert!(policy.is_enabled());
        let revocation = |reason: &str| Revocation {
            reason: reason.to_owned(),
            nondeterministic: false,
            invalid_before_ms: Some(1),
        };
        assert!(policy.revoke(revocation("first")) && !policy.revoke(revocation("second")));
        let expected = Batching { enabled: false, rows: Dependent, reason: "first".to_owned() };
        assert_eq!((policy.is_enabled(), policy.batching()), (false, Some(expected)));
    }
}
