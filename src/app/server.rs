//! The running server as sources and the API see it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidewatch_dataflows::rows::SeriesPresence;
use tidewatch_dataflows::rows::inspect::Unavailable;
use tidewatch_dataflows::sample::{Control, MetricType, Samples, SeriesId};
use tidewatch_dataflows::settings::{Settings, Window, duration};

use super::clock::ClockWitnesses;
use super::process;
use super::rate::Rate;
use super::rows_per_day::{DiskRoom, Notice, RowsPerDay, Warning};
use super::stack::Stack;
use super::time::now_ms;
use crate::api::server::{SeriesState, ServerState, Workings};
use crate::config::Config;
use crate::engine::publish_sizes;
use crate::journal::{CLOCK_BEHIND_MS_MAX, QueueError as JournalRefused};
use crate::metrics::LogLabels;
use crate::pull;
use crate::source::remote_write;
use crate::source::{DurableFuture, Intake, IntakeRefusal};
use crate::status::{
    BoundedBytes, DiskStatus, EpochNumbers, FileBytes, LimitsStatus, QuarantineStatus, ServerStatus,
    StoreFigures, WindowNames,
};
use crate::store::LabelPairs;

/// How often a series is looked at whose shard is between two epochs, and the pause before each next look.
const LOOKS_MAX: u32 = 50;

const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Quarantined series that `/status` names.
const QUARANTINED_SHOWN: usize = 20;

/// When a refused sender should come again.
const RETRY_SECONDS: u64 = 5;

/// The running server as sources and the API see it.
pub(super) struct RunningServer {
    pub(super) rate: Rate,
    /// What senders say of the clock.
    pub(super) clock: ClockWitnesses,
    /// Series that make rows: what was found at start, until the workers have read all of it back.
    pub(super) series: AtomicU64,
    /// The store on its disk, as it was looked at last.
    pub(super) disk: Mutex<DiskRoom>,
    pub(super) stack: Arc<Stack>,
    pub(super) config: Config,
    pub(super) closing: AtomicBool,
    pub(super) opened: Instant,
    pub(super) sources: Vec<Arc<pull::SourceStatus>>,
}

fn refused(why: impl ToString) -> IntakeRefusal {
    IntakeRefusal { retry_after_seconds: RETRY_SECONDS, why: why.to_string() }
}

fn later(error: JournalRefused) -> IntakeRefusal {
    refused(error)
}

impl RunningServer {
    /// The rows that the series make in a day. While the state is read back the workers hold less than there is.
    pub(super) fn rows_per_day(&self) -> RowsPerDay {
        let progress = &self.stack.engine_progress;
        let held = progress.sizes.series.load(Ordering::Relaxed);
        let series = if progress.rebuilding() || !self.stack.caught_up() {
            self.series.load(Ordering::Relaxed).max(held)
        } else {
            self.series.store(held, Ordering::Relaxed);
            held
        };
        let disk = *self.disk.lock();
        RowsPerDay::new(&self.config, series, disk)
    }

    /// Says in the log what is due of [`RunningServer::rows_per_day`].
    pub(super) fn report_rows_per_day(&self, warning: &mut Warning) -> Option<Notice> {
        let rows = self.rows_per_day();
        let say = warning.judge(rows.exceeded(), Instant::now())?;
        match say {
            Notice::Exceeded => {
                self.stack.metrics.limit("store.rows_per_day_max");
                tracing::warn!(
                    "the store gets more rows than it is meant for: {rows}; choose longer hops or fewer series, or raise store.rows_per_day_max"
                );
            }
            Notice::Over => tracing::info!("the store gets no more rows than it is meant for: {rows}"),
        }
        Some(say)
    }

    /// How far the clock is behind the journal's processing time; negative if it is ahead.
    pub(super) fn clock_behind_ms(&self) -> i64 {
        let processing_ms = self.stack.journal.last_epoch_end().map_or(i64::MIN, |end| end.processing_ms);
        processing_ms.saturating_sub(now_ms())
    }

    /// Whether anything is taken at all now.
    fn open(&self) -> Result<(), IntakeRefusal> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(refused("the server is shutting down"));
        }
        match self.stack.blocked_on() {
            Some(why) => Err(refused(why)),
            None => Ok(()),
        }
    }
}

/// Parts of the status.
impl RunningServer {
    fn quarantine_status(&self) -> QuarantineStatus {
        let held = self.stack.engine_progress.quarantined();
        let series = held.iter().take(QUARANTINED_SHOWN).map(ToString::to_string).collect();
        QuarantineStatus { count: held.len(), series }
    }

    fn disk_status(&self) -> DiskStatus {
        let (stack, config) = (&self.stack, &self.config);
        let size = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        let log_bytes = |log| size(stack.metrics.log_bytes.get_or_create(&LogLabels { log }).get());
        DiskStatus {
            journal: BoundedBytes { bytes: stack.journal.bytes(), bytes_max: config.journal.bytes_max },
            outbox: BoundedBytes { bytes: log_bytes("outbox"), bytes_max: config.outbox.bytes_max },
            series: FileBytes { bytes: log_bytes("series") },
            snapshots: FileBytes { bytes: size(stack.metrics.snapshot_bytes.get()) },
        }
    }

    fn limits_status(&self) -> LimitsStatus {
        let limits = &self.config.limits;
        LimitsStatus {
            series: limits.series,
            series_per_name: limits.series_per_name,
            labels: limits.labels,
            label_bytes: limits.label_bytes,
            body_bytes: limits.body_bytes,
            late_samples: limits.late_samples as usize,
        }
    }
}

fn window_names(window: &Window) -> WindowNames {
    WindowNames { length: duration(window.length_ms), hop: duration(window.hop_ms) }
}

impl pull::SourceJournal for RunningServer {
    fn append(&self, samples: Samples, source: &'static str) -> Result<DurableFuture, IntakeRefusal> {
        self.open()?;
        self.stack.journal.try_append(samples, source).map_err(later)
    }

    fn control(&self, control: Control) -> Result<DurableFuture, IntakeRefusal> {
        self.open()?;
        self.stack.journal.try_control(control).map_err(later)
    }

    fn epoch(&self) -> u64 {
        self.stack.journal.current_epoch()
    }

    fn catching_up(&self) -> bool {
        !self.stack.caught_up()
    }

    fn ended(&self) -> bool {
        self.closing.load(Ordering::Relaxed) || self.stack.journal.failed().is_some()
    }
}

impl Intake for RunningServer {
    fn offer(&self, samples: Samples) -> Result<DurableFuture, IntakeRefusal> {
        self.open()?;
        self.stack.journal.try_append(samples, remote_write::SOURCE).map_err(later)
    }

    fn record_types(&self, types: Vec<(u64, MetricType)>) -> Result<DurableFuture, IntakeRefusal> {
        self.open()?;
        self.stack.journal.try_control(Control::Types(types)).map_err(later)
    }

    fn epoch(&self) -> u64 {
        self.stack.journal.current_epoch()
    }

    fn catching_up(&self) -> bool {
        !self.stack.caught_up()
    }

    fn processing_ms(&self) -> i64 {
        self.stack.journal.last_epoch_end().map_or(i64::MIN, |end| end.processing_ms)
    }

    fn observe_sender(&self, sender: IpAddr, newest_ms: i64) {
        if self.clock_behind_ms() > CLOCK_BEHIND_MS_MAX {
            self.clock.hear(sender, newest_ms);
        }
    }
}

impl Workings for RunningServer {
    fn settings(&self) -> Settings {
        self.config.settings()
    }

    fn labels(&self, series: SeriesId) -> Option<LabelPairs> {
        let labels = self.stack.labels.get(series)?;
        Some(labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn explain(&self, series: SeriesId, window_ms: i64, at_ms: i64) -> Result<SeriesState, String> {
        let questions = &self.stack.questions;
        for _ in 0..LOOKS_MAX {
            match questions.explain(series, window_ms, at_ms).map_err(|error| error.to_string())? {
                Ok(explained) => return Ok(SeriesState::Held(Box::new(explained))),
                Err(Unavailable::Between) => std::thread::sleep(LOOK_AGAIN),
                Err(Unavailable::Unknown | Unavailable::Bootstrapping) => {
                    let seen = questions.newest(&[series.0]).map_err(|error| error.to_string())?;
                    return Ok(match seen[0] {
                        SeriesPresence::Freed { newest_ms }
                        | SeriesPresence::Given { freed_ms: Some(newest_ms) } => {
                            SeriesState::Freed { newest_ms }
                        }
                        SeriesPresence::Live { .. }
                        | SeriesPresence::Given { freed_ms: None }
                        | SeriesPresence::Unknown => SeriesState::Unknown,
                    });
                }
            }
        }
        Err("the workers are busy with the epochs of this series; try again".to_owned())
    }
}

impl ServerState for RunningServer {
    fn ready(&self) -> Result<(), String> {
        self.stack.ready()
    }

    fn status(&self) -> ServerStatus {
        let (stack, progress) = (&self.stack, &self.stack.engine_progress);
        let processing_ms = progress.processing_ms.load(Ordering::Relaxed);
        let waits_for = stack.ready().err();
        ServerStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.opened.elapsed().as_secs(),
            ready: waits_for.is_none(),
            waits_for,
            series: progress.sizes.series.load(Ordering::Relaxed),
            label_sets: stack.labels.len() as u64,
            epoch: EpochNumbers {
                journal: stack.journal.last_epoch_end().map(|end| end.epoch),
                outbox: stack.outbox.epoch(),
            },
            lag_seconds: (processing_ms != i64::MIN).then(|| (now_ms() - processing_ms).max(0) as f64 / 1e3),
            clock_behind_seconds: self.clock_behind_ms().max(0) as f64 / 1e3,
            samples: progress.samples.load(Ordering::Relaxed),
            samples_per_second: self.rate.per_second(Instant::now(), progress.live_samples()),
            store_log_bytes: stack.metrics.store_log_bytes.get(),
            quarantined: self.quarantine_status(),
            rows: progress.rows.load(Ordering::Relaxed),
            disk: self.disk_status(),
            sinks: stack.sinks.status(),
            limits_reached: stack
                .metrics
                .limits_reached()
                .into_iter()
                .map(|(k, n)| (k.to_owned(), n))
                .collect(),
            rows_per_day: self.rows_per_day().status(),
            windows: self.config.windows.iter().map(window_names).collect(),
            limits: self.limits_status(),
            workers: self.config.workers,
            sources: pull::report(&self.sources, now_ms()),
            store: StoreFigures::default(),
        }
    }

    fn before_scrape(&self) {
        let (stack, metrics) = (&self.stack, &self.stack.metrics);
        process::publish(metrics);
        publish_sizes(&stack.engine_progress, metrics);
        metrics.quarantined.set(stack.engine_progress.quarantined().len() as i64);
        metrics.label_entries.set(stack.labels.len() as i64);
        let processing_ms = stack.engine_progress.processing_ms.load(Ordering::Relaxed);
        if processing_ms != i64::MIN {
            metrics.lag_seconds.set((now_ms() - processing_ms).max(0) as f64 / 1e3);
        }
        metrics.clock_behind_seconds.set(self.clock_behind_ms().max(0) as f64 / 1e3);
        metrics.rows_per_day.set(i64::try_from(self.rows_per_day().estimate()).unwrap_or(i64::MAX));
        metrics.rows_per_day_max.set(i64::try_from(self.config.store.rows_per_day_max).unwrap_or(i64::MAX));
        pull::publish(&self.sources, now_ms(), metrics);
        stack.sinks.publish(metrics);
    }
}
