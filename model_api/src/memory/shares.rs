//! Division of the total memory among the purposes in the table of the module docs.

/// Maximum size of all outputs of one run, and of the results of one request, bytes. `web_api` reads responses of up to this size.
pub const MAX_RESULT_BYTES: usize = 256 << 20;

/// Code, tables, threads and metrics of the process.
const PROGRAM_BYTES: u64 = 64 << 20;

/// Bytes of a body that each connection may have without a reservation (`service::body_limits`).
const FREE_BODY_BYTES: u64 = 128 << 10;

/// Outputs are in memory twice: as tensors and in the response.
const RESULT_COPIES: u64 = 2;

/// All sessions together have at least two fifths of the total, whatever the other settings are.
const MIN_SESSIONS_NUMERATOR: u64 = 2;
const MIN_SESSIONS_DENOMINATOR: u64 = 5;

/// Limits from the settings, bytes unless noted.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// `BODY_MEMORY_BYTES`.
    pub bodies: u64,
    /// `MAX_CONNECTIONS`, a count.
    pub connections: u64,
    /// `DECODE_THREADS` × `MAX_DECODE_BYTES`.
    pub decoding: u64,
    /// `QUEUE_BYTES`.
    pub inputs: u64,
}

/// Shares of the total, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// This process.
    pub own: u64,
    /// All sessions together.
    pub sessions: u64,
    /// One session.
    pub session: u64,
}

impl Shares {
    /// Divides `limit` bytes. `session` is `SESSION_MEMORY_BYTES` if it is set. It may raise the share of all sessions.
    pub fn new(limit: u64, bounds: &Bounds, session: Option<u64>) -> Self {
        let results = RESULT_COPIES * MAX_RESULT_BYTES as u64;
        let bodies = bounds.bodies.saturating_add(bounds.connections.saturating_mul(FREE_BODY_BYTES));
        let own =
            [bodies, bounds.decoding, bounds.inputs, results].into_iter().fold(PROGRAM_BYTES, u64::saturating_add);
        let min_sessions = limit / MIN_SESSIONS_DENOMINATOR * MIN_SESSIONS_NUMERATOR;
        let sessions = limit.saturating_sub(own).max(min_sessions).max(session.unwrap_or_default());
        Self { own, sessions, session: session.unwrap_or_else(|| sessions.min(limit / 2)) }
    }
}
