use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Statuses that count as rejections.
const REFUSALS: [u16; 2] = [429, 503];

/// Counts the responses to requests that were sent after the warm-up.
#[derive(Debug)]
pub struct Tally {
    begin: Instant,
    end: Instant,
    answered: Histogram<u64>,
    refused: Histogram<u64>,
    in_time: u64,
    statuses: BTreeMap<u16, u64>,
    failures: BTreeMap<String, u64>,
    checked: u64,
    wrong: u64,
    cache_hits: u64,
    seconds: Option<Vec<Second>>,
}

#[derive(Debug)]
struct Second {
    answered: Histogram<u64>,
    refused: u64,
}

/// What is printed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Answered with 200 within the measured time, per second.
    pub per_second: f64,
    /// Answered with 200.
    pub answered: u64,
    /// Seconds that were measured.
    pub seconds: f64,
    /// Of those that were answered.
    pub latency_us: Latency,
    /// Of those that were refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_us: Option<Latency>,
    /// By status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by the reason.
    pub failures: BTreeMap<String, u64>,
    /// Requests that arrived when no connection was idle until the end.
    pub unsent: u64,
    /// Responses that were read and verified.
    pub checked: u64,
    /// Verified responses with a wrong result.
    pub wrong: u64,
    /// Responses that report a cache hit.
    pub cache_hits: u64,
    /// CPU time of the load generator, seconds.
    pub client_cpu_s: f64,
    /// The same for each request, warm-up included.
    pub client_cpu_us_each: f64,
    /// Per second: answered, refused, p50 and p99 in µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<Vec<(u64, u64, f64, f64)>>,
}

/// Microseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Tally {
    /// Counts what is sent from `begin` on; as in time what is answered by `end`.
    pub fn new(begin: Instant, end: Instant, with_series: bool) -> Self {
        Self {
            begin,
            end,
            answered: histogram(3),
            refused: histogram(3),
            in_time: 0,
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            checked: 0,
            wrong: 0,
            cache_hits: 0,
            seconds: with_series.then(Vec::new),
        }
    }

    /// An answer to what was to be sent at `sent`.
    pub fn answer(&mut self, sent: Instant, status: u16) {
        if sent < self.begin {
            return;
        }
        let now = Instant::now();
        let took = (now - sent).as_nanos() as u64;
        *self.statuses.entry(status).or_default() += 1;
        let refused = REFUSALS.contains(&status);
        if status == 200 {
            self.answered.saturating_record(took);
            self.in_time += u64::from(now <= self.end);
        } else if refused {
            self.refused.saturating_record(took);
        }
        if let Some(seconds) = &mut self.seconds {
            let index = (sent - self.begin).as_secs() as usize;
            while seconds.len() <= index {
                seconds.push(Second { answered: histogram(2), refused: 0 });
            }
            match status {
                200 => seconds[index].answered.saturating_record(took),
                _ => seconds[index].refused += u64::from(refused),
            }
        }
    }

    /// A response that was read: whether it is right, and whether it was a cache hit.
    pub fn check(&mut self, right: bool, is_hit: bool) {
        self.checked += 1;
        self.wrong += u64::from(!right);
        self.cache_hits += u64::from(is_hit);
    }

    /// A request that got no answer.
    pub fn fail(&mut self, reason: String) {
        *self.failures.entry(reason).or_default() += 1;
    }

    /// The figures. `took` is the time in which the answers in time came.
    pub fn report(&self, took: Duration, requests: u64, unsent: u64) -> Report {
        let cpu = cpu_time().as_secs_f64();
        Report {
            per_second: self.in_time as f64 / took.as_secs_f64(),
            answered: self.answered.len(),
            seconds: took.as_secs_f64(),
            latency_us: Latency::of(&self.answered),
            refused_us: (!self.refused.is_empty()).then(|| Latency::of(&self.refused)),
            statuses: self.statuses.clone(),
            failures: self.failures.clone(),
            unsent,
            checked: self.checked,
            wrong: self.wrong,
            cache_hits: self.cache_hits,
            client_cpu_s: cpu,
            client_cpu_us_each: cpu * 1e6 / requests.max(1) as f64,
            series: self.seconds.as_ref().map(|seconds| seconds.iter().map(Second::row).collect()),
        }
    }
}

impl Second {
    fn row(&self) -> (u64, u64, f64, f64) {
        let Latency { p50, p99, .. } = Latency::of(&self.answered);
        (self.answered.len(), self.refused, p50, p99)
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        Self {
            mean: histogram.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(histogram.max()),
        }
    }
}

/// Nanoseconds, up to two minutes.
fn histogram(digits: u8) -> Histogram<u64> {
    Histogram::new_with_bounds(100, 120_000_000_000, digits).expect("these bounds are valid")
}

/// Of this process's first thread, which does everything.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}
