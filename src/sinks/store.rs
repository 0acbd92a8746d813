//! The sink that writes to the store: batches of epochs, each in one transaction with its number.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tidewatch_dataflows::sample::SeriesId;

use crate::disk::Folder;
use crate::labels::Labels;
use crate::metrics::{Metrics, Queue, Rows, Sink};
use crate::outbox::{Batch, Durable, OutboxError, Tail};
use crate::store::{self, LabelPairs, Store, StoreError};

/// Rows that go into one transaction, at most (one epoch is never split).
const ROWS_PER_WRITE: usize = 131_072;
/// Epochs that go into one transaction, at most.
const EPOCHS_PER_WRITE: usize = 256;
/// Series without labels that are remembered, so that the series log is not read again for each row of theirs.
const MISSING_MAX: usize = 65_536;
const PATIENCE: Duration = Duration::from_millis(200);
/// Pauses before a failed write is tried again: doubled from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often retention is looked at.
const RETENTION_EVERY_MS: i64 = 60_000;
/// How often is said that series have no labels.
const WARN_EVERY_MS: i64 = 60_000;
const NAME: Sink = Sink { sink: "store" };

/// What stops the sink for good.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The outbox cannot be read back.
    #[error("the outbox cannot be read back: {0}")]
    Outbox(#[from] OutboxError),
    /// The store refuses for good.
    #[error("the store cannot be written: {0}")]
    Store(#[from] StoreError),
    /// The sink panicked; its message went to standard error.
    #[error("the sink's thread panicked")]
    Panic,
    /// The thread cannot be started.
    #[error("the sink's thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

impl SinkError {
    /// Whether another start of the process may do better.
    pub fn restart_helps(&self) -> bool {
        match self {
            SinkError::Outbox(error) => error.restart_helps(),
            SinkError::Store(_) => false,
            SinkError::Panic | SinkError::Thread(_) => true,
        }
    }
}

/// Where the sink is.
#[derive(Debug, Default)]
pub struct Progress {
    /// The newest epoch the store holds; 0 for none.
    pub epoch: AtomicU64,
    /// Window rows written since the process started.
    pub rows: AtomicU64,
}

/// What the sink needs.
pub struct Parts {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Labels of series that are new to the store.
    pub labels: Arc<Labels>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Unix milliseconds: the hour of writing.
    pub clock: fn() -> i64,
    /// Whether epochs whose rows are damaged are passed over.
    pub accept_loss: bool,
    /// Called with what stopped the sink.
    pub on_fatal: Arc<dyn Fn(SinkError) + Send + Sync>,
}

/// The running sink. It ends when the outbox is closed and all of it is stored.
pub struct StoreSink {
    thread: Option<JoinHandle<()>>,
    progress: Arc<Progress>,
    quit: Arc<AtomicBool>,
}

impl StoreSink {
    /// Starts the sink behind the epoch the store holds.
    ///
    /// # Errors
    /// The store or the outbox cannot be read, or the thread not started.
    pub fn start(
        outbox: impl Into<Folder>,
        durable: Arc<Durable>,
        parts: Parts,
    ) -> Result<StoreSink, SinkError> {
        let held = parts.store.epoch()?;
        let tail = Tail::open_accepting(outbox, durable, held, parts.accept_loss)?;
        let progress = Arc::new(Progress { epoch: AtomicU64::new(held.unwrap_or(0)), ..Progress::default() });
        let quit = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            parts,
            progress: Arc::clone(&progress),
            quit: Arc::clone(&quit),
            missing: RefCell::default(),
            unlabelled: Cell::new(0),
            said_ms: Cell::new(i64::MIN),
        };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            // A panic ends the process too: the outbox would fill and nobody would say why.
            let run = std::panic::AssertUnwindSafe(|| writer.run(tail));
            if let Err(error) = std::panic::catch_unwind(run).unwrap_or(Err(SinkError::Panic)) {
                (writer.parts.on_fatal)(error);
            }
        })?;
        Ok(StoreSink { thread: Some(thread), progress, quit })
    }

    /// Where the sink is.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Waits until everything in the outbox is stored. The outbox must have been closed.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic was printed; the caller ends the process anyway.
            let _ = thread.join();
        }
    }
}

impl Drop for StoreSink {
    fn drop(&mut self) {
        self.quit.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Writer {
    parts: Parts,
    progress: Arc<Progress>,
    quit: Arc<AtomicBool>,
    /// Series that the series log does not know: only memory is asked for them.
    missing: RefCell<HashSet<SeriesId>>,
    /// Series without labels that were not said yet.
    unlabelled: Cell<u64>,
    /// When it was said last.
    said_ms: Cell<i64>,
}

impl Writer {
    fn run(&self, mut tail: Tail) -> Result<(), SinkError> {
        let mut batches: Vec<Batch> = Vec::new();
        let mut retention_ms = i64::MIN;
        while !self.quit.load(Ordering::Relaxed) {
            let now_ms = (self.parts.clock)();
            if now_ms.saturating_sub(retention_ms) >= RETENTION_EVERY_MS {
                retention_ms = now_ms;
                self.retain(now_ms);
            }
            let Some(first) = tail.wait(PATIENCE)? else {
                if tail.finished() {
                    break;
                }
                continue;
            };
            let mut rows = first.windows.len() + first.types.len();
            batches.push(first);
            while rows < ROWS_PER_WRITE && batches.len() < EPOCHS_PER_WRITE {
                let Some(next) = tail.next()? else { break };
                rows += next.windows.len() + next.types.len();
                batches.push(next);
            }
            self.parts.metrics.queue_depth.get_or_create(&Queue { queue: "store" }).set(rows as i64);
            self.write(&batches, now_ms)?;
            batches.clear();
        }
        Ok(())
    }

    /// Writes until it is written; only a definite error ends the sink.
    fn write(&self, batches: &[Batch], written_ms: i64) -> Result<(), SinkError> {
        let rows: Vec<store::Batch<'_>> = batches
            .iter()
            .map(|b| store::Batch {
                epoch: b.epoch,
                written_ms,
                windows: &b.windows,
                rejects: &b.rejects,
                types: &b.types,
            })
            .collect();
        let mut pause = PAUSES.0;
        loop {
            match self.parts.store.write(&rows, &|series| self.labels(series)) {
                Ok(written) => {
                    let last = batches.last().map_or(0, |batch| batch.epoch);
                    self.progress.epoch.store(last, Ordering::Release);
                    if written.corrections_dropped > 0 {
                        self.parts.metrics.limit("store.corrections");
                    }
                    self.count_unlabelled(written.series_unlabelled, written_ms);
                    self.progress.rows.fetch_add(written.windows, Ordering::Relaxed);
                    let metrics = &self.parts.metrics;
                    for (kind, n) in
                        [("windows", written.windows), ("rejects", written.rejects), ("types", written.types)]
                    {
                        metrics.rows_written.get_or_create(&Rows { sink: NAME.sink, kind }).inc_by(n);
                    }
                    metrics.sink_epoch.get_or_create(&NAME).set(last as i64);
                    return Ok(());
                }
                Err(error) if error.is_transient() && !self.quit.load(Ordering::Relaxed) => {
                    self.parts.metrics.sink_errors.get_or_create(&NAME).inc();
                    tracing::warn!("writing to the store failed and is tried again in {pause:?}: {error}");
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(PAUSES.1);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Counts series that are in the catalogue without labels, and says so once a minute: the series log lost them.
    fn count_unlabelled(&self, series: u64, now_ms: i64) {
        self.parts.metrics.series_unlabelled.inc_by(series);
        self.unlabelled.update(|unsaid| unsaid + series);
        if self.unlabelled.get() > 0 && now_ms.saturating_sub(self.said_ms.get()) >= WARN_EVERY_MS {
            self.said_ms.set(now_ms);
            tracing::warn!(
                "{} series got rows and have no labels in the store: the series log does not know them",
                self.unlabelled.take()
            );
        }
    }

    /// The labels of a series: from memory, or from the series log if its slot was freed meanwhile.
    fn labels(&self, series: SeriesId) -> Option<LabelPairs> {
        let pairs =
            |set: &crate::labels::LabelSet| set.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        if let Some(set) = self.parts.labels.get(series) {
            self.missing.borrow_mut().remove(&series);
            return Some(pairs(&set));
        }
        // Reading the log again would find nothing: what is sent again is in memory first.
        if self.missing.borrow().contains(&series) {
            return None;
        }
        match self.parts.labels.find_in_log(series) {
            Ok(Some(found)) => Some(pairs(&found)),
            Ok(None) => {
                let mut missing = self.missing.borrow_mut();
                if missing.len() < MISSING_MAX {
                    missing.insert(series);
                }
                None
            }
            Err(error) => {
                tracing::warn!("the labels of series {series} cannot be read from the series log: {error}");
                None
            }
        }
    }

    fn retain(&self, now_ms: i64) {
        match self.parts.store.drop_expired(now_ms) {
            Ok(dropped) if dropped.tables > 0 => {
                tracing::info!("retention dropped {} tables with {} rows", dropped.tables, dropped.rows);
            }
            Ok(_) => {}
            Err(error) => {
                self.parts.metrics.sink_errors.get_or_create(&NAME).inc();
                tracing::warn!("retention could not drop tables: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidewatch_dataflows::outcome::Outcomes;

    use super::*;
    use crate::labels::Limits;
    use crate::outbox::{Config, Outbox};
    use crate::store::CatalogueQuery;
    use crate::store::embedded::Embedded;
    use crate::store::selector::Selectors;
    use crate::store::testing::{T0, TempDir, WINDOWS, series, stats};

    #[test]
    fn series_without_labels_are_counted() {
        let dir = TempDir::new();
        let metrics = Arc::new(Metrics::new());
        let labels =
            Labels::open(dir.path().join("series"), Limits::default(), Arc::clone(&metrics)).unwrap();
        let outbox = dir.path().join("outbox");
        let mut log = Outbox::open(&outbox, Config::default(), Arc::clone(&metrics)).unwrap();
        let mut ids: Vec<SeriesId> = (0..3).map(series).collect();
        ids.sort_unstable();
        let windows = ids.into_iter().map(|id| stats(id, WINDOWS[0].0, T0, 0, 1.0)).collect();
        log.append(1, &Outcomes { windows, ..Outcomes::default() }).unwrap();
        log.sync().unwrap();
        let parts = Parts {
            store: Arc::new(dir.store()),
            labels: Arc::new(labels),
            metrics: Arc::clone(&metrics),
            clock: || T0,
            accept_loss: false,
            on_fatal: Arc::new(|error| panic!("{error}")),
        };
        let sink = StoreSink::start(&outbox, log.durable(), parts).unwrap();
        drop(log);
        sink.join();
        let text = metrics.text();
        assert!(text.contains("tidewatch_series_unlabelled_total 3\n"), "{text}");
    }

    struct World {
        dir: TempDir,
        metrics: Arc<Metrics>,
        labels: Arc<Labels>,
        log: Outbox,
        store: Arc<Embedded>,
    }

    impl World {
        fn new() -> World {
            let (dir, metrics) = (TempDir::new(), Arc::new(Metrics::new()));
            let labels = Labels::open(dir.path().join("series"), Limits::default(), Arc::clone(&metrics));
            let log = Outbox::open(dir.path().join("outbox"), Config::default(), Arc::clone(&metrics));
            let store = Arc::new(dir.store());
            World { labels: Arc::new(labels.unwrap()), log: log.unwrap(), metrics, store, dir }
        }

        /// Appends an epoch with a row of this series, and shows it to the sink.
        fn epoch(&mut self, epoch: u64, id: SeriesId) {
            let windows = vec![stats(id, WINDOWS[0].0, T0 + epoch as i64 * 60_000, 0, 1.0)];
            self.log.append(epoch, &Outcomes { windows, ..Outcomes::default() }).unwrap();
            self.log.sync().unwrap();
        }

        fn sink(&self) -> StoreSink {
            let parts = Parts {
                store: Arc::clone(&self.store) as Arc<dyn Store>,
                labels: Arc::clone(&self.labels),
                metrics: Arc::clone(&self.metrics),
                clock: || T0,
                accept_loss: false,
                on_fatal: Arc::new(|error| panic!("{error}")),
            };
            StoreSink::start(self.dir.path().join("outbox"), self.log.durable(), parts).unwrap()
        }

    }

    fn stored(sink: &StoreSink, epoch: u64) {
        let begun = std::time::Instant::now();
        while sink.progress().epoch.load(Ordering::Acquire) != epoch {
            assert!(begun.elapsed() < Duration::from_secs(60), "epoch {epoch} is not stored");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The series log lost them, as was accepted; their rows bear the labels with the first that follows.
    #[test]
    fn labels_that_are_sent_again_are_stored_at_once() {
        let mut world = World::new();
        let pairs = [("__name__", "lost"), ("job", "a")];
        let id = crate::labels::series_id(&pairs);
        let sink = world.sink();
        let all = CatalogueQuery { select: Selectors::default(), after: None, limit: 10 };
        let name = |world: &World| {
            let page = world.store.catalogue(&all).unwrap();
            page.rows.first().map(|row| row.name.clone())
        };
        for epoch in 1..3 {
            world.epoch(epoch, id);
            stored(&sink, epoch);
        }
        assert_eq!(name(&world).unwrap_or_default(), "");
        assert!(world.metrics.text().contains("tidewatch_series_unlabelled_total 1\n"));
        world.labels.intern(&mut pairs.to_vec(), None, 3).unwrap();
        world.epoch(3, id);
        stored(&sink, 3);
        assert_eq!(name(&world).as_deref(), Some("lost"));
    }
}
