//! Backfill: old samples computed beside the live engine, by a second one with fresh state.
//!
//! ```text
//!  files, Prometheus ─► <data_dir>/backfill/{series, journal} ─► engine, 1 worker ─► backfill/outbox ─► judged ─► store
//! ```
//! The second engine sees samples from `from` - longest window on, so that its keys after `from` are whole. Of those the
//! store gets what the live engine has finished with: the rule is in docs/semantics.md, Backfill, and in `write`. Neither journal nor
//! outbox of the live engine is touched, and the folder is temporary: it goes at the end, or at the next start.
//!
//! Bounds: one backfill at a time; `journal.bytes_max`, `outbox.bytes_max` and `limits.series` hold for the folder as they
//! do for the server; [`write::CORRECTED_KEYS_MAX`] bounds what is remembered between the two readings of its outbox.
//!
//! Who asks for one: `app` with files, and `jobs` for the API. What they need of the running server is a [`LiveServer`].

mod error;
pub mod jobs;
mod summary;
mod write;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidewatch_dataflows::sample::Samples;

use crate::config::Config;
use crate::engine::{BlockedOn, Engine, EngineLogs, EngineProgress, Listeners, Questions};
use crate::journal::{EpochMode, Journal, QueueError};
use crate::labels::Labels;
use crate::metrics::Metrics;
use crate::outbox::{self, DurablePosition};

use crate::logs;
use crate::reading::{EpochCut, NextBatch, ReadingError, TimeBounds, read};
use crate::select::{self, FromLabels};
use crate::sinks::runner::SinkProgress;
use crate::store::Store;
pub use error::BackfillError;
pub use summary::BackfillSummary;

const PATIENCE: Duration = Duration::from_millis(200);
/// Threads of a backfill: the live engine comes first.
const WORKERS: usize = 1;

/// Name of its folder in the data directory; one that is found at start was left behind.
const FOLDER: &str = "backfill";

/// What a backfill needs of the running server.
#[derive(Clone)]
pub struct LiveServer {
    pub metrics: Arc<Metrics>,
    /// That of the live engine.
    pub journal: Journal,
    pub store: Arc<dyn Store>,
    /// What the store holds of the live engine.
    pub stored: Arc<SinkProgress>,
    /// What the live workers hold.
    pub questions: Questions,
    /// Why the live engine computes nothing, if nobody will change that.
    pub stuck: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    /// Whether the live engine is there, or what it waits for.
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Unix milliseconds.
    pub clock: fn() -> i64,
}

/// Where a backfill is, for who looks at it from outside.
#[derive(Debug, Default)]
pub struct BackfillProgress {
    /// Samples read and taken.
    pub samples: AtomicU64,
    /// Of these, computed.
    pub computed: AtomicU64,
    /// Rows judged.
    pub judged: AtomicU64,
    /// Rows written.
    pub written: AtomicU64,
    /// Set to end the backfill; what it has written stays.
    pub cancel: AtomicBool,
}

impl BackfillProgress {
    /// Ends the backfill if someone asked for it.
    fn go_on(&self) -> Result<(), BackfillError> {
        match self.cancel.load(Ordering::Relaxed) {
            true => Err(BackfillError::Cancelled),
            false => Ok(()),
        }
    }
}

/// Removes what a backfill left behind that did not come to its end.
///
/// # Errors
/// It cannot be removed.
pub fn remove_folder(data_dir: &Path) -> Result<(), BackfillError> {
    let dir = data_dir.join(FOLDER);
    match std::fs::remove_dir_all(&dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(BackfillError::Folder { path: dir, source })
        }
        _ => Ok(()),
    }
}

/// First and last time of the samples of a series.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// Of all that were read, also of those before what is computed on: from there on nothing is missing.
    first_ms: i64,
    /// Of those taken; `i64::MIN` if none was.
    last_ms: i64,
}

/// The folder of a backfill, gone with its handle.
struct BackfillFolder(PathBuf);

impl Drop for BackfillFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("{} could not be removed; the next start does it: {error}", self.0.display());
        }
    }
}

/// A backfill that samples are read into. Fields are dropped in this order.
pub struct BackfillRun {
    engine: Option<Engine>,
    computing: Arc<EngineProgress>,
    computed: Arc<DurablePosition>,
    cut: EpochCut,
    labels: Arc<Labels>,
    failed: Arc<Mutex<Option<String>>>,
    span: TimeBounds,
    extents: HashMap<u64, Extent>,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
    progress: Arc<BackfillProgress>,
    /// Of the server: what the backfill's own engine counts would mix with the live engine's.
    metrics: Arc<Metrics>,
    config: Config,
    folder: BackfillFolder,
}

impl BackfillRun {
    /// Opens a folder for a backfill of the keys after `from_ms` up to `to_ms`; from the first to the last sample where
    /// there is none.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(
        config: &Config,
        (from_ms, to_ms): (Option<i64>, Option<i64>),
        progress: Arc<BackfillProgress>,
        metrics: Arc<Metrics>,
    ) -> Result<BackfillRun, BackfillError> {
        let folder = BackfillFolder(config.data_dir.join(FOLDER));
        let dir = folder.0.as_path();
        remove_folder(&config.data_dir)?;
        let settings = config.settings();
        let own = Arc::new(Metrics::new());
        let labels = logs::open_labels(config, &dir.join("series"), false, Arc::clone(&own))
            .map_err(BackfillError::OpenLabels)?;
        let outbox =
            logs::open_outbox(config, &dir.join("outbox"), outbox::AcceptProof::default(), Arc::clone(&own))
                .map_err(BackfillError::OpenOutbox)?;
        let computed = outbox.durable();
        select::find(&labels, &settings.select)?;
        // It is new, so no clock can be behind it, and it ends after its last sample.
        let journal = open_journal(config, dir, &labels, Arc::clone(&own))?;
        let failed: Arc<Mutex<Option<String>>> = Arc::default();
        let engine = {
            let failed = Arc::clone(&failed);
            Engine::start(
                WORKERS,
                &settings,
                EngineLogs { journal: journal.clone(), outbox, snapshots: None },
                own,
                Listeners {
                    freed: Box::new(drop),
                    types: Box::new(|_| {}),
                    quarantined: Box::new(|_, _| {}),
                },
                Arc::new(move |error| {
                    failed.lock().get_or_insert(error.to_string());
                }),
            )?
        };
        let first_ms = from_ms.map(|from| from.saturating_sub(settings.longest_ms()).saturating_add(1));
        Ok(BackfillRun {
            computing: engine.progress(),
            engine: Some(engine),
            computed,
            cut: EpochCut::new(journal, settings.idle_timeout_ms, false),
            labels,
            failed,
            span: TimeBounds::new(first_ms, to_ms),
            extents: HashMap::new(),
            from_ms,
            to_ms,
            progress,
            metrics,
            config: config.clone(),
            folder,
        })
    }

    /// The labels of this backfill's series: a source interns into them.
    pub fn labels(&self) -> Arc<Labels> {
        Arc::clone(&self.labels)
    }

    /// Reads all samples, and returns when every one of them is computed. `tick` is told how many were taken.
    ///
    /// # Errors
    /// What `next` returns, a bound that was reached, or [`BackfillError::Cancelled`].
    pub fn read(
        &mut self,
        next: &mut NextBatch<'_, BackfillError>,
        source: &'static str,
        tick: &mut dyn FnMut(u64),
    ) -> Result<(), BackfillError> {
        let (extents, bounds) = (&mut self.extents, self.span.bounds);
        let (progress, metrics, failed) = (&self.progress, &self.metrics, &self.failed);
        let mut noted = |batch: &mut Samples| {
            let more = next(batch);
            note(extents, batch, bounds);
            more
        };
        let mut tick = |samples| {
            progress.samples.store(samples, Ordering::Relaxed);
            tick(samples);
            judge(failed)?;
            progress.go_on()
        };
        let read = read(&mut noted, &self.cut, &mut self.span, source, &mut tick);
        if let Err(BackfillError::Reading(ReadingError::Queue(QueueError::BytesMax { .. }))) = &read {
            metrics.limit("journal.bytes_max");
        }
        read?;
        self.extents.retain(|_, extent| extent.last_ms != i64::MIN);
        // Closes what ends up to the last sample, or up to `to` as far as a window of samples reaches.
        let end_ms = self.span.highest_ms.map(|highest| {
            let upto = highest.saturating_add(self.config.settings().longest_ms());
            self.to_ms.unwrap_or(highest).clamp(highest, upto).saturating_add(self.cut.idle_timeout_ms)
        });
        let end = self.cut.last(end_ms)?;
        while !self.computed.wait_for_epoch(end, PATIENCE) {
            self.progress.computed.store(self.computing.samples.load(Ordering::Relaxed), Ordering::Relaxed);
            self.progress.go_on()?;
            judge(&self.failed)?;
            match self.computing.blocked_on() {
                Some(BlockedOn::Full) => {
                    self.metrics.limit("outbox.bytes_max");
                    return Err(BackfillError::OutboxFull { bytes_max: self.config.outbox.bytes_max });
                }
                Some(why) => return Err(BackfillError::OutboxUnwritable(why.to_string())),
                None => {}
            }
        }
        self.progress.computed.store(self.span.taken, Ordering::Relaxed);
        self.cut.journal.close().map_err(BackfillError::CloseJournal)?;
        if let Some(engine) = self.engine.take() {
            engine.join();
        }
        Ok(())
    }

    /// The keys that may be written: after the first of these up to the second.
    fn keys(&self) -> (i64, i64) {
        (self.from_ms.unwrap_or(i64::MIN), self.to_ms.or(self.span.highest_ms).unwrap_or(i64::MIN))
    }
}

/// Ends with what stopped the backfill's engine.
fn judge(failed: &Mutex<Option<String>>) -> Result<(), BackfillError> {
    failed.lock().clone().map_or(Ok(()), |why| Err(BackfillError::EngineFailed(why)))
}

/// Notes how far the samples of each series reach; those taken are within `bounds`.
fn note(extents: &mut HashMap<u64, Extent>, batch: &Samples, bounds: (i64, i64)) {
    for ((series, at_ms), value) in batch.series.iter().zip(&batch.at_ms).zip(&batch.value) {
        if value.is_finite() && *at_ms <= bounds.1 {
            let extent = extents.entry(*series).or_insert(Extent { first_ms: *at_ms, last_ms: i64::MIN });
            extent.first_ms = extent.first_ms.min(*at_ms);
            if *at_ms >= bounds.0 {
                extent.last_ms = extent.last_ms.max(*at_ms);
            }
        }
    }
}

fn open_journal(
    config: &Config,
    dir: &Path,
    labels: &Arc<Labels>,
    metrics: Arc<Metrics>,
) -> Result<Journal, BackfillError> {
    let labels = Arc::clone(labels);
    let mut journal_config = logs::journal_config(config, EpochMode::File, true);
    journal_config.new_series = Some(Arc::new(FromLabels(Arc::clone(&labels))));
    Journal::open(
        dir.join("journal"),
        journal_config,
        config.settings(),
        Box::new(move || labels.sync()),
        metrics,
    )
    .map_err(BackfillError::OpenJournal)
}
