//! How a journal is run: its bounds, its clock, who ends epochs, and when what was written is synced.

use std::sync::Arc;
use std::time::Duration;

use tidewatch_dataflows::sample::MetricType;
use tidewatch_dataflows::settings::SeriesOptions;

/// Its name in metrics and logs.
pub(super) const LOG: &str = "journal";

/// The clock in Unix milliseconds; tests bring their own.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Told once why a journal takes nothing before it is opened anew.
pub type FailureHook = Arc<dyn Fn(&str) + Send + Sync>;

/// What new series are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSeries {
    /// What they are by their names.
    pub types: Vec<(u64, MetricType)>,
    /// What is set for them.
    pub options: Vec<(u64, SeriesOptions)>,
}

/// Who knows what new series are: the journal asks before it writes their first samples, and before settings that change.
pub trait DescribeSeries: Send + Sync {
    /// Those that were met since it was asked last; cheap when there are none.
    fn take(&self) -> NewSeries;

    /// Some that it gave could not be written.
    fn give_back(&self, series: NewSeries);
}

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| jiff::Timestamp::now().as_millisecond().saturating_add(crate::faults::clock_ahead_ms()))
}

/// Who ends epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochMode {
    /// The journal itself, by clock and size.
    Live,
    /// The caller, by [`Journal::cut`].
    File,
}

/// When what was written is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// Before it is acknowledged.
    Commit,
    /// At most so long after it was acknowledged. Epoch ends by [`Journal::cut`] are acknowledged when synced.
    Interval(Duration),
    /// When a segment ends and when the journal is closed.
    Never,
}

/// How a journal is run.
#[derive(Clone)]
pub struct JournalOptions {
    /// Bytes after which a new segment is begun.
    pub segment_bytes: u64,
    /// Bytes of all segments beyond which nothing is taken.
    pub bytes_max: u64,
    /// Most batches waiting.
    pub queue_batches: usize,
    /// Most samples waiting; one larger batch is taken when nothing waits.
    pub queue_samples: usize,
    /// Most samples of an epoch, in [`Mode::Live`].
    pub epoch_samples_max: usize,
    /// Longest epoch by the clock, in [`Mode::Live`].
    pub epoch_ms: i64,
    /// Who ends epochs.
    pub mode: EpochMode,
    /// When what was written is synced.
    pub sync: SyncMode,
    /// Whether the start goes on without records that are lost.
    pub accept_loss: bool,
    /// The last epochs of what is derived from the journal (outbox, store, snapshots), by name: the journal must not end before
    /// them.
    pub derived: Vec<(&'static str, u64)>,
    /// Whether processing time may be far ahead of the clock (`--allow-future`).
    pub allow_future: bool,
    /// Whether processing time that is far ahead of the clock goes back to it (`--accept-clock`).
    pub accept_clock: bool,
    /// Unix milliseconds.
    pub clock: Clock,
    /// Told from the writer's thread when the journal has failed.
    pub on_failed: Option<FailureHook>,
    /// Asked from the writer's thread before samples are written.
    pub new_series: Option<Arc<dyn DescribeSeries>>,
}

impl JournalOptions {
    /// The usual bounds and the machine's clock.
    pub fn new(mode: EpochMode) -> JournalOptions {
        JournalOptions {
            segment_bytes: 64 << 20,
            bytes_max: 20 << 30,
            queue_batches: 1_024,
            // Small on purpose: what waits here streams through the cache that the series' state lives in.
            queue_samples: 1 << 19,
            epoch_samples_max: 262_144,
            epoch_ms: 1_000,
            mode,
            sync: SyncMode::Commit,
            accept_loss: false,
            derived: Vec::new(),
            allow_future: false,
            accept_clock: false,
            clock: system_clock(),
            on_failed: None,
            new_series: None,
        }
    }
}
