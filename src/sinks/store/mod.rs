//! The sink that writes to the store: batches of epochs, each in one transaction with its number.
//!
//! Its own are the labels of new series (`labels`), what is dropped as too old (`retention`, by `trusted_time`), and the
//! store's own log. The process ends with it: the API reads what it writes.

mod deps;
mod labels;
mod retention;
pub mod trusted_time;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidewatch_dataflows::rows::KINDS;

use self::deps::SINK;
pub use self::deps::{NAME, StoreSinkDeps};
use self::labels::RowLabels;
use self::retention::Retention;
use super::sink::{RowCounts, Sink, SinkError, SinkRecovery, SyncHook};
use crate::metrics::Metrics;
use crate::outbox::OutboxBatch;
use crate::store::{OwnLog, ReopenSummary, StoreBatch, StoreError};

/// The store's own log is told of in the log from here on.
const LOG_BYTES_WARN: u64 = 128 << 20;
/// How often.
const LOG_SAY_EVERY: Duration = Duration::from_secs(600);

/// Writes to the store.
pub struct StoreSink {
    deps: StoreSinkDeps,
    labels: RowLabels,
    retention: Retention,
    log: LogWarning,
    /// When rows that come now count as written.
    written_ms: i64,
}

impl StoreSink {
    /// A sink of this store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn new(deps: StoreSinkDeps) -> Result<StoreSink, StoreError> {
        let retention = Retention::new(deps.store.retained_at_ms()?, &deps);
        let labels = RowLabels::new(Arc::clone(&deps.labels));
        let written_ms = (deps.clock)();
        Ok(StoreSink { deps, labels, retention, log: LogWarning::default(), written_ms })
    }

    /// What an error of the store is to the runner.
    fn error(&self, error: StoreError) -> SinkError {
        if let StoreError::Corrupt { why, .. } = &error {
            (self.deps.on_corrupt)(why);
        }
        SinkError::from(error)
    }
}

impl From<StoreError> for SinkError {
    fn from(error: StoreError) -> SinkError {
        let restart_helps = matches!(error, StoreError::Corrupt { .. });
        match error.is_transient() {
            true => SinkError::Transient(Box::new(error)),
            false => SinkError::Definite { cause: Box::new(error), restart_helps },
        }
    }
}

impl Sink for StoreSink {
    fn name(&self) -> &'static str {
        NAME
    }

    fn essential(&self) -> bool {
        true
    }

    fn written(&self) -> Result<Option<u64>, SinkError> {
        self.deps.store.epoch().map_err(|error| self.error(error))
    }

    fn sync_hook(&self) -> Option<SyncHook> {
        let store = Arc::clone(&self.deps.store);
        Some(Arc::new(move || store.sync().map_err(SinkError::from)))
    }

    fn tick(&mut self) {
        self.written_ms = self.retention.observe(&self.deps);
    }

    /// After a sync that failed the store may lack what it seemed to hold.
    fn recover(&mut self) -> Result<SinkRecovery, SinkError> {
        let recovered = self.deps.store.recover().map_err(|error| self.error(error))?;
        let Some(ReopenSummary { before, epoch }) = recovered else { return Ok(SinkRecovery::Intact) };
        self.deps.metrics.store_recoveries.inc();
        tracing::error!(
            "a sync of the store has failed: it was opened anew and holds {}, where it seemed to hold {}; what follows is taken from the outbox again, and rows that a backfill wrote meanwhile may be missing",
            in_words(epoch),
            in_words(before)
        );
        Ok(SinkRecovery::Reopened(epoch))
    }

    fn write(&mut self, batches: &[OutboxBatch]) -> Result<RowCounts, SinkError> {
        let written_ms = self.written_ms;
        let rows: Vec<StoreBatch<'_>> =
            batches.iter().map(|batch| StoreBatch::new(batch.epoch, written_ms, &batch.rows)).collect();
        let written = self.deps.store.write(&rows, &|series| self.labels.find(series));
        let written = written.map_err(|error| self.error(error))?;
        let metrics = &self.deps.metrics;
        if written.corrections_dropped > 0 {
            metrics.limit("store.corrections");
        }
        self.labels.count_unlabelled(written.series_unlabelled, written_ms, metrics);
        self.log.judge(self.deps.store.log(), (self.deps.uptime)(), metrics);
        metrics
            .sink_rows_unknown
            .get_or_create(&SINK)
            .inc_by(batches.iter().map(|batch| batch.unknown).sum());
        Ok(KINDS.iter().map(|info| info.name).zip(written.rows).collect())
    }
}

/// Says now and then that the store's own log is too large.
#[derive(Default)]
struct LogWarning {
    /// When the last warning was logged, by the monotonic clock.
    warned_at: Option<Duration>,
    /// How often the log was emptied by force.
    emptied: u64,
}

impl LogWarning {
    /// Tells how large the log is.
    fn judge(&mut self, OwnLog { bytes, emptied }: OwnLog, now: Duration, metrics: &Metrics) {
        metrics.store_log_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        if std::mem::replace(&mut self.emptied, emptied) < emptied {
            metrics.limit("store.log_bytes");
        }
        if bytes > LOG_BYTES_WARN
            && self.warned_at.is_none_or(|last| now.saturating_sub(last) >= LOG_SAY_EVERY)
        {
            self.warned_at = Some(now);
            tracing::warn!(
                "the store's log has {bytes} bytes, and grows until who reads in it is done: an export that stands still, \
                 or another program"
            );
        }
    }
}

/// Time since the first call, by the clock that nobody sets.
pub fn uptime() -> Duration {
    static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    BEGAN.get_or_init(Instant::now).elapsed()
}

fn in_words(epoch: Option<u64>) -> String {
    epoch.map_or_else(|| "no epoch".to_owned(), |epoch| format!("epoch {epoch}"))
}

#[cfg(test)]
mod tests;
