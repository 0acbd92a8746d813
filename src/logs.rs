//! The logs, opened as they are configured: for a server, and for the folder of a backfill.
//!
//! Not here: what is in them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{self, Config};
use crate::journal::{self, EpochMode, SyncMode};
use crate::labels::{self, Labels, LabelsError};
use crate::metrics::Metrics;
use crate::outbox::{self, Outbox, OutboxError};

/// Segments are this long, but never more than an eighth of what the log may take.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Opens a series log within the configured limits.
///
/// # Errors
/// It cannot be opened.
pub fn open_labels(
    config: &Config,
    dir: &Path,
    accept_loss: bool,
    metrics: Arc<Metrics>,
) -> Result<Arc<Labels>, LabelsError> {
    let limits = labels::Limits {
        series: config.limits.series as usize,
        series_per_name: config.limits.series_per_name as usize,
        labels: config.limits.labels,
        label_bytes: config.limits.label_bytes,
    };
    let open = if accept_loss { Labels::open_accepting_loss } else { Labels::open };
    open(dir, limits, metrics).map(Arc::new)
}

/// Opens an outbox of the configured size that must hold what `proof` says.
///
/// # Errors
/// It cannot be opened, or does not hold that.
pub fn open_outbox(
    config: &Config,
    dir: &Path,
    proof: outbox::AcceptProof,
    metrics: Arc<Metrics>,
) -> Result<Outbox, OutboxError> {
    let bytes_max = config.outbox.bytes_max;
    let outbox_config = outbox::OutboxOptions { segment_bytes: segment_bytes(bytes_max), bytes_max, proof };
    Outbox::open(dir, outbox_config, metrics)
}

/// A journal of the configured size.
pub fn journal_config(config: &Config, mode: EpochMode, allow_future: bool) -> journal::JournalOptions {
    let mut journal_config = journal::JournalOptions::new(mode);
    journal_config.bytes_max = config.journal.bytes_max;
    journal_config.segment_bytes = segment_bytes(config.journal.bytes_max);
    journal_config.allow_future = allow_future;
    journal_config.sync = match config.journal.sync {
        config::Sync::Commit => SyncMode::Commit,
        config::Sync::Interval(ms) => SyncMode::Interval(Duration::from_millis(ms.unsigned_abs())),
        config::Sync::Never => SyncMode::Never,
    };
    journal_config
}

fn segment_bytes(bytes_max: u64) -> u64 {
    SEGMENT_BYTES.min(bytes_max / 8).max(64 << 10)
}
