//! Decision whether requests of different callers run in one batch.
//!
//! It combines what the graph shows, what the probe found on the first session and what the settings say. The settings have
//! the last word. What the running model shows later can only revoke it.

use std::sync::OnceLock;

use open_inference::{Batching, RowDependence};
use tokio::sync::OnceCell;
use tracing::warn;

use super::BatchSettings;
use super::rows::{Finding, Probed};
use crate::onnx::analysis::{GraphFacts, RowAnalysis};

/// The decision for one model version, made on its first session.
#[derive(Debug, Default)]
pub struct Mixing {
    decision: OnceCell<Decision>,
    /// Why the decision no longer holds.
    revoked: OnceLock<Revocation>,
}

/// What was decided, and what else the first session showed.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Whether requests are mixed, and why.
    pub batching: Batching,
    /// Why equal inputs can give different results; `None` where nothing shows that they do.
    pub random: Option<String>,
    /// How far results of rows differed by rounding between batch sizes, as a part of the row's largest value.
    pub rounding: f32,
    /// What speaks against the decision, for the log.
    pub objection: Option<String>,
}

/// What the running model has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// How results differed.
    pub reason: String,
    /// Equal inputs gave different results.
    pub random: bool,
    /// When, in ms since the Unix epoch, if results computed before may be wrong.
    pub wrong_before_ms: Option<u64>,
}

impl Mixing {
    /// Decides once; later calls wait for the first and return what it decided.
    pub async fn decide(&self, decide: impl Future<Output = Decision>) -> &Decision {
        self.decision.get_or_init(|| decide).await
    }

    /// `None` before the first session.
    pub fn decision(&self) -> Option<&Decision> {
        self.decision.get()
    }

    /// `None` unless mixing was revoked.
    pub fn revocation(&self) -> Option<&Revocation> {
        self.revoked.get()
    }

    /// Whether requests run in one batch now.
    pub fn is_on(&self) -> bool {
        self.decision.get().is_some_and(|decision| decision.batching.enabled) && self.revoked.get().is_none()
    }

    /// Turns mixing off for good. `false` when it was already revoked.
    pub fn revoke(&self, revocation: Revocation) -> bool {
        self.revoked.set(revocation).is_ok()
    }

    /// The decision as it stands now; `None` before the first session.
    pub fn batching(&self) -> Option<Batching> {
        let decided = &self.decision.get()?.batching;
        Some(match self.revoked.get() {
            Some(Revocation { reason, .. }) => {
                Batching { enabled: false, rows: RowDependence::Dependent, reason: reason.clone() }
            }
            None => decided.clone(),
        })
    }

    /// How the rows depend on each other as far as is known now, whether or not requests are mixed; `None` before the first
    /// session.
    pub fn rows(&self) -> Option<RowDependence> {
        let decided = self.decision.get()?.batching.rows;
        Some(if self.revoked.get().is_some() { RowDependence::Dependent } else { decided })
    }

    /// Whether equal inputs are known to give different results.
    pub fn is_random(&self) -> bool {
        self.decision.get().is_some_and(|decision| decision.random.is_some())
            || self.revoked.get().is_some_and(|revoked| revoked.random)
    }
}

impl Decision {
    /// Combines analysis, probe and settings.
    pub fn new(facts: &GraphFacts, probed: &Probed, settings: &BatchSettings) -> Self {
        let drawn = facts.random.as_ref().map(|operator| format!("the graph draws random numbers ({operator})"));
        let random = drawn.or_else(|| probed.random.clone());
        let (shown, evidence) = evidence(&facts.rows, &probed.rows, random.as_deref());
        let (rows, reason, objection) = match (settings.independent, shown) {
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
            (None, RowDependence::Dependent) if facts.rows == RowAnalysis::Independent && random.is_none() => {
                let objection = format!("the analysis of the graph finds rows independent, but {evidence}");
                (shown, evidence, Some(objection))
            }
            (None, _) => (shown, evidence, None),
        };
        let off = settings.why_alone();
        let enabled = off.is_none() && is_independent(rows);
        let reason = off.map_or_else(|| reason.clone(), |off| format!("{off}; {reason}"));
        let batching = Batching { enabled, rows, reason };
        Self { batching, random, rounding: probed.rounding, objection }
    }

    /// Logs what speaks against the decision.
    pub fn log_objection(&self, model: &str) {
        let Some(objection) = &self.objection else { return };
        if self.batching.rows == RowDependence::IndependentBySettings {
            warn!(
                model,
                objection,
                "independent_rows: true in the settings is obeyed, although a row's result seems to depend on other rows"
            );
        } else {
            warn!(model, objection, "analysis and probe disagree; every request runs alone");
        }
    }
}

/// Whether rows may run apart from each other.
pub fn is_independent(rows: RowDependence) -> bool {
    use RowDependence::{IndependentByAnalysis, IndependentByProbe, IndependentBySettings};
    matches!(rows, IndependentByAnalysis | IndependentByProbe | IndependentBySettings)
}

/// What graph and probe show together.
fn evidence(analysis: &RowAnalysis, probe: &Finding, random: Option<&str>) -> (RowDependence, String) {
    const PROVED: &str = "every operator of the graph keeps rows apart";
    match (probe, analysis) {
        (Finding::NoBatchAxis(reason), _) => (RowDependence::NoBatchAxis, reason.clone()),
        _ if let Some(random) = random => (RowDependence::Dependent, random.to_owned()),
        (Finding::Difference(difference), _) => {
            (RowDependence::Dependent, format!("the probe found that {difference}"))
        }
        (_, RowAnalysis::Dependent(reason)) => (RowDependence::Dependent, reason.clone()),
        (Finding::NoDifference { batches }, RowAnalysis::Independent) => {
            let reason = format!("{PROVED}, and the probe found no difference in {batches} batches");
            (RowDependence::IndependentByAnalysis, reason)
        }
        (Finding::NotRun(why), RowAnalysis::Independent) => {
            (RowDependence::IndependentByAnalysis, format!("{PROVED}; the probe could not be run: {why}"))
        }
        (Finding::NoDifference { batches }, RowAnalysis::Unknown(open)) => {
            let reason = format!("{open}; the probe found no difference in {batches} batches");
            (RowDependence::IndependentByProbe, reason)
        }
        (Finding::NotRun(why), RowAnalysis::Unknown(open)) => {
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

    fn decide(rows: RowAnalysis, probe: Finding, settings: &BatchSettings) -> Batching {
        let facts = GraphFacts { rows, ..GraphFacts::default() };
        Decision::new(&facts, &Probed { rows: probe, ..Probed::default() }, settings).batching
    }

    fn analyses() -> [RowAnalysis; 3] {
        let reason = || "open".to_owned();
        [RowAnalysis::Independent, RowAnalysis::Unknown(reason()), RowAnalysis::Dependent(reason())]
    }

    fn findings() -> [Finding; 3] {
        let reason = || "shown".to_owned();
        [Finding::NoDifference { batches: 9 }, Finding::NotRun(reason()), Finding::Difference(reason())]
    }

    #[test]
    fn without_settings_analysis_and_probe_decide_together() {
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
        let none = decide(RowAnalysis::Independent, Finding::NoBatchAxis("fixed".to_owned()), &settings(0, Some(true)));
        assert_eq!((none.rows, none.enabled, &*none.reason), (NoBatchAxis, false, "fixed"));
    }

    #[test]
    fn independent_rows_in_the_settings_is_the_last_word() {
        for analysis in analyses() {
            for finding in findings() {
                let claimed = decide(analysis.clone(), finding.clone(), &settings(0, Some(true)));
                assert_eq!((claimed.rows, claimed.enabled), (IndependentBySettings, true), "{claimed:?}");
                let denied = decide(analysis.clone(), finding, &settings(0, Some(false)));
                assert_eq!((denied.rows, denied.enabled), (Dependent, false), "{denied:?}");
            }
        }
        let facts = GraphFacts { rows: RowAnalysis::Dependent("ReduceMax".to_owned()), ..GraphFacts::default() };
        let decision = Decision::new(&facts, &Probed::default(), &settings(0, Some(true)));
        assert_eq!(decision.batching.reason, "the settings say independent_rows: true, although ReduceMax");
        assert_eq!(decision.objection.as_deref(), Some("ReduceMax"));
    }

    #[test]
    fn batching_off_and_a_batch_size_of_one_run_every_request_alone_and_say_so() {
        let found = || Finding::NoDifference { batches: 9 };
        let off = decide(RowAnalysis::Independent, found(), &settings(0, Some(true)).without_batching());
        assert_eq!((off.rows, off.enabled), (IndependentBySettings, false));
        assert!(off.reason.starts_with("the settings say \"batching\": \"off\"; "), "{off:?}");
        let one = decide(RowAnalysis::Independent, found(), &settings(1, None));
        assert_eq!((one.rows, one.enabled), (IndependentByAnalysis, false));
        assert!(one.reason.starts_with("the settings say max_batch_size: 1; "), "{one:?}");
    }

    #[test]
    fn a_model_that_draws_random_numbers_is_not_mixed_and_known_to_do_so() {
        let facts = GraphFacts {
            rows: RowAnalysis::Independent,
            random: Some("RandomNormalLike".to_owned()),
            ..GraphFacts::default()
        };
        let decision = Decision::new(&facts, &Probed::default(), &settings(0, None));
        assert_eq!((decision.batching.rows, decision.batching.enabled), (Dependent, false));
        assert_eq!(decision.random.as_deref(), Some("the graph draws random numbers (RandomNormalLike)"));
        let seen = Probed { random: Some("it differs".to_owned()), ..Probed::default() };
        let facts = GraphFacts { rows: RowAnalysis::Independent, ..GraphFacts::default() };
        assert_eq!(Decision::new(&facts, &seen, &settings(0, None)).batching.rows, Dependent);
    }

    #[tokio::test]
    async fn what_is_revoked_stays_off_with_the_first_reason() {
        let mixing = Mixing::default();
        assert_eq!((mixing.is_on(), mixing.batching()), (false, None));
        let facts = GraphFacts { rows: RowAnalysis::Independent, ..GraphFacts::default() };
        mixing.decide(async { Decision::new(&facts, &Probed::default(), &settings(0, None)) }).await;
        assert!(mixing.is_on());
        let revocation =
            |reason: &str| Revocation { reason: reason.to_owned(), random: false, wrong_before_ms: Some(1) };
        assert!(mixing.revoke(revocation("first")) && !mixing.revoke(revocation("second")));
        let expected = Batching { enabled: false, rows: Dependent, reason: "first".to_owned() };
        assert_eq!((mixing.is_on(), mixing.batching()), (false, Some(expected)));
    }
}
