//! What the sink of the store is called, and what it needs.

use std::sync::Arc;
use std::time::Duration;

use crate::labels::Labels;
use crate::metrics::{Metrics, SinkLabels};
use crate::store::Store;

/// Name of this sink.
pub const NAME: &str = "store";

pub(super) const SINK: SinkLabels = SinkLabels { sink: NAME };

/// What the sink needs.
pub struct StoreSinkDeps {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Labels of series that are new to the store.
    pub labels: Arc<Labels>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Unix milliseconds: the hour of writing.
    pub clock: fn() -> i64,
    /// A monotonic clock.
    pub uptime: fn() -> Duration,
    /// Called with how the store is damaged: the next start begins it anew.
    pub on_corrupt: Box<dyn Fn(&str) + Send>,
}
