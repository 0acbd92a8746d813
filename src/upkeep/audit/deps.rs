//! What both halves of the audit need, and how they tell of a mismatch.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::Questions;
use crate::journal::Journal;
use crate::labels::Labels;
use crate::metrics::Metrics;
use crate::outbox::DurablePosition;
use crate::store::record::Rfc3339;

/// The word in metrics for rows that are computed again from the journal.
pub(super) const ROW: &str = "row";

/// How often a mismatch is logged; each is counted.
pub(super) const WARN_EVERY: Duration = Duration::from_secs(60);

/// What the audit needs of the running server.
#[derive(Clone)]
pub struct AuditDeps {
    pub journal: Journal,
    /// How far the outbox is durable.
    pub outbox: Arc<DurablePosition>,
    pub labels: Arc<Labels>,
    pub metrics: Arc<Metrics>,
    /// What the workers hold.
    pub questions: Questions,
    /// Whether what was found at start is computed again.
    pub caught_up: Arc<dyn Fn() -> bool + Send + Sync>,
}

pub(super) fn time_in_words(ms: i64) -> String {
    Rfc3339::from_ms(ms).map_or_else(|| ms.to_string(), |time| time.to_string())
}
