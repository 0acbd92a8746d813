//! The sink that writes to the store: batches of epochs, each in one transaction with its number.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidewatch_dataflows::rows::{KINDS, WindowStats};
use tidewatch_dataflows::sample::SeriesId;
use tidewatch_dataflows::settings::duration;

use super::retention::{ClockJudgement, STEADY, TrustedTime};
use crate::disk::DiskFolder;
use crate::labels::Labels;
use crate::metrics::{Metrics, QueueLabels, RowsLabels, SinkLabels};
use crate::outbox::{DurablePosition, OutboxBatch, OutboxError, Tail};
use crate::store::{self, LabelPairs, OwnLog, ReopenSummary, Store, StoreError};

/// Rows that go into one transaction, at most (one epoch is never split).
const ROWS_PER_WRITE: usize = 131_072;
/// Epochs that go into one transaction, at most.
const EPOCHS_PER_WRITE: usize = 256;
/// Series without labels that are remembered, so that the series log is not read again for each row of theirs.
const MISSING_MAX: usize = 65_536;
const PATIENCE: Duration = Duration::from_millis(200);
/// Pauses before a failed write is tried again: doubled from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Pause after the store was opened anew.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// How often tables are dropped.
const RETENTION_EVERY: Duration = Duration::from_secs(60);
/// The store's own log is told of in the log from here on.
const LOG_BYTES_WARN: u64 = 128 << 20;
/// How often.
const LOG_SAY_EVERY: Duration = Duration::from_secs(600);
/// How often is said that series have no labels.
const WARN_EVERY_MS: i64 = 60_000;
const NAME: SinkLabels = SinkLabels { sink: "store" };

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
pub struct SinkProgress {
    /// The newest epoch the store holds; 0 for none.
    pub epoch: AtomicU64,
    /// Window rows written since the process started.
    pub rows: AtomicU64,
}

/// What the sink needs.
pub struct SinkDeps {
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
    /// A monotonic clock.
    pub uptime: fn() -> Duration,
    /// Called with what stopped the sink.
    pub on_fatal: Arc<dyn Fn(SinkError) + Send + Sync>,
}

/// The running sink. It ends when the outbox is closed and all of it is stored.
pub struct StoreSink {
    thread: Option<JoinHandle<()>>,
    progress: Arc<SinkProgress>,
    quit: Arc<AtomicBool>,
}

impl StoreSink {
    /// Starts the sink behind the epoch the store holds.
    ///
    /// # Errors
    /// The store or the outbox cannot be read, or the thread not started.
    pub fn start(
        outbox: impl Into<DiskFolder>,
        durable: Arc<DurablePosition>,
        parts: SinkDeps,
    ) -> Result<StoreSink, SinkError> {
        let held = parts.store.epoch()?;
        let outbox = outbox.into();
        let tail = Tail::open_accepting(&outbox, Arc::clone(&durable), held, parts.accept_loss)?;
        let progress =
            Arc::new(SinkProgress { epoch: AtomicU64::new(held.unwrap_or(0)), ..SinkProgress::default() });
        let quit = Arc::new(AtomicBool::new(false));
        let retained_ms = parts.store.retained_at_ms()?;
        let writer = StoreThread {
            retention: RefCell::new(Retention::new(retained_ms, &parts)),
            parts,
            log_said: Cell::new(None),
            log_emptied: Cell::new(0),
            progress: Arc::clone(&progress),
            quit: Arc::clone(&quit),
            outbox,
            durable,
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
    pub fn progress(&self) -> Arc<SinkProgress> {
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

struct StoreThread {
    parts: SinkDeps,
    progress: Arc<SinkProgress>,
    quit: Arc<AtomicBool>,
    /// What it reads, to begin anew.
    outbox: DiskFolder,
    durable: Arc<DurablePosition>,
    /// Series that the series log does not know: only memory is asked for them.
    missing: RefCell<HashSet<SeriesId>>,
    /// When it was said last that the store's log is too large.
    log_said: Cell<Option<Duration>>,
    /// How often it was emptied by force.
    log_emptied: Cell<u64>,
    retention: RefCell<Retention>,
    /// Series without labels that were not said yet.
    unlabelled: Cell<u64>,
    /// When it was said last.
    said_ms: Cell<i64>,
}

impl StoreThread {
    fn run(&self, mut tail: Tail) -> Result<(), SinkError> {
        let mut batches: Vec<OutboxBatch> = Vec::new();
        while !self.quit.load(Ordering::Relaxed) {
            let now_ms = self.retention.borrow_mut().look(&self.parts);
            if let Some(anew) = self.recovered()? {
                tail = anew;
            }
            let Some(first) = tail.wait(PATIENCE)? else {
                if tail.finished() {
                    break;
                }
                continue;
            };
            let mut rows = first.rows.rows();
            batches.push(first);
            while rows < ROWS_PER_WRITE && batches.len() < EPOCHS_PER_WRITE {
                let Some(next) = tail.next()? else { break };
                rows += next.rows.rows();
                batches.push(next);
            }
            self.parts.metrics.queue_depth.get_or_create(&QueueLabels { queue: "store" }).set(rows as i64);
            if let Some(anew) = self.write(&batches, now_ms)? {
                tail = anew;
            }
            batches.clear();
        }
        Ok(())
    }

    /// Where to go on, if a sync of the store failed and it was opened anew: it may lack what it seemed to hold.
    fn recovered(&self) -> Result<Option<Tail>, SinkError> {
        let ReopenSummary { before, epoch } = match self.parts.store.recover() {
            Ok(None) => return Ok(None),
            Ok(Some(recovered)) => recovered,
            Err(error) if error.is_transient() => {
                self.parts.metrics.sink_errors.get_or_create(&NAME).inc();
                tracing::warn!("a sync of the store has failed, and it cannot be opened anew yet: {error}");
                std::thread::sleep(PAUSES.1);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        self.parts.metrics.store_recoveries.inc();
        tracing::error!(
            "a sync of the store has failed: it was opened anew and holds {}, where it seemed to hold {}; what follows is taken from the outbox again, and rows that a backfill wrote meanwhile may be missing",
            in_words(epoch),
            in_words(before)
        );
        self.progress.epoch.store(epoch.unwrap_or(0), Ordering::Release);
        // A disk that goes on refusing is not asked all the time.
        std::thread::sleep(REOPEN_PAUSE);
        let (outbox, durable) = (&self.outbox, Arc::clone(&self.durable));
        Ok(Some(Tail::open_accepting(outbox, durable, epoch, self.parts.accept_loss)?))
    }

    /// Writes until it is written, or the store was opened anew: then where to go on. Only a definite error ends the sink.
    fn write(&self, batches: &[OutboxBatch], written_ms: i64) -> Result<Option<Tail>, SinkError> {
        let rows: Vec<store::StoreBatch<'_>> =
            batches.iter().map(|b| store::StoreBatch::new(b.epoch, written_ms, &b.rows)).collect();
        let unknown = batches.iter().map(|batch| batch.unknown).sum();
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
                    self.judge_log(self.parts.store.log());
                    self.progress.rows.fetch_add(written.rows_of::<WindowStats>(), Ordering::Relaxed);
                    let metrics = &self.parts.metrics;
                    let counts = KINDS.iter().map(|info| info.name).zip(written.rows);
                    for (kind, n) in counts {
                        metrics.rows_written.get_or_create(&RowsLabels { sink: NAME.sink, kind }).inc_by(n);
                    }
                    metrics.sink_rows_unknown.get_or_create(&NAME).inc_by(unknown);
                    metrics.sink_epoch.get_or_create(&NAME).set(last as i64);
                    return Ok(None);
                }
                Err(error) if error.is_transient() && !self.quit.load(Ordering::Relaxed) => {
                    if let Some(anew) = self.recovered()? {
                        return Ok(Some(anew));
                    }
                    self.parts.metrics.sink_errors.get_or_create(&NAME).inc();
                    tracing::warn!("writing to the store failed and is tried again in {pause:?}: {error}");
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(PAUSES.1);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tells how large the store's own log is, and says so now and then if it is too large.
    fn judge_log(&self, OwnLog { bytes, emptied }: OwnLog) {
        self.parts.metrics.store_log_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        if self.log_emptied.replace(emptied) < emptied {
            self.parts.metrics.limit("store.log_bytes");
        }
        let (now, last) = ((self.parts.uptime)(), self.log_said.get());
        if bytes > LOG_BYTES_WARN && last.is_none_or(|last| now.saturating_sub(last) >= LOG_SAY_EVERY) {
            self.log_said.set(Some(now));
            tracing::warn!(
                "the store's log has {bytes} bytes, and grows until who reads in it is done: an export that stands still, \
                 or another program"
            );
        }
    }

    /// Counts series that are in the catalog without labels, and says so once a minute: the series log lost them.
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
}

/// Drops what is too old, by a clock that has kept step.
struct Retention {
    time: TrustedTime,
    /// When tables were dropped last, by the monotonic clock.
    dropped: Option<Duration>,
    /// Not looked yet: who was away finds the clock elsewhere.
    first: bool,
}

impl Retention {
    fn new(retained_ms: Option<i64>, parts: &SinkDeps) -> Retention {
        let clock_ms = (parts.clock)();
        let time = TrustedTime::new(retained_ms.unwrap_or(clock_ms), (parts.uptime)());
        Retention { time, dropped: None, first: true }
    }

    /// Looks at both clocks, drops tables once a minute, and gives the time of writing.
    fn look(&mut self, parts: &SinkDeps) -> i64 {
        let (clock_ms, uptime) = ((parts.clock)(), (parts.uptime)());
        let found = self.time.judge(clock_ms, uptime);
        let first = std::mem::take(&mut self.first);
        parts.metrics.retention_clock_ahead.set(self.time.apart_ms() as f64 / 1e3);
        let hold = duration(i64::try_from(STEADY.as_millis()).unwrap_or(i64::MAX));
        let words = |by_ms: i64| {
            format!(
                "{} {}",
                duration(by_ms.saturating_abs() / 1_000 * 1_000),
                if by_ms < 0 { "behind" } else { "ahead" }
            )
        };
        match found {
            ClockJudgement::Nothing => {}
            ClockJudgement::Jumped(by_ms) if first => tracing::warn!(
                "the clock is {} of when rows were last dropped; no more are dropped by it before it has gone on \
                 evenly for {hold}",
                words(by_ms)
            ),
            ClockJudgement::Jumped(by_ms) => tracing::error!(
                "the clock has jumped and is now {} of where it should be; no stored rows are dropped by it before it \
                 has gone on evenly for {hold}: set it right before that if it is wrong",
                words(by_ms)
            ),
            ClockJudgement::Back => tracing::info!("the clock is where it should be again"),
            ClockJudgement::Believed(by_ms) => tracing::warn!(
                "the clock has gone on evenly for {hold}, {} of where it was; stored rows are dropped by it now",
                words(by_ms)
            ),
        }
        if self.dropped.is_none_or(|dropped| uptime.saturating_sub(dropped) >= RETENTION_EVERY) {
            self.dropped = Some(uptime);
            Retention::drop_expired(self.time.expires_by_ms(), parts);
        }
        self.time.written_ms(clock_ms)
    }

    fn drop_expired(now_ms: i64, parts: &SinkDeps) {
        match parts.store.drop_expired(now_ms) {
            Ok(dropped) if dropped.tables > 0 => {
                tracing::info!("retention dropped {} tables with {} rows", dropped.tables, dropped.rows);
                if dropped.tables_left > 0 {
                    parts.metrics.limit("store.tables_dropped");
                    let left = dropped.tables_left;
                    tracing::warn!(
                        "{left} more tables are older than store.retention; a tenth of all goes each minute"
                    );
                }
            }
            Ok(_) => {}
            Err(error) => {
                parts.metrics.sink_errors.get_or_create(&NAME).inc();
                tracing::warn!("retention could not drop tables: {error}");
            }
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
mod tests {
    use std::sync::atomic::AtomicI64;

    use tidewatch_dataflows::rows::RowLists;

    use super::*;
    use crate::labels::Limits;
    use crate::outbox::{Outbox, OutboxOptions};
    use crate::store::CatalogQuery;
    use crate::store::embedded::Embedded;
    use crate::store::selector::Selectors;
    use crate::store::testing::batch_of;
    use crate::store::testing::{T0, TempDir, WINDOWS, series, stats};

    #[test]
    fn series_without_labels_are_counted() {
        let dir = TempDir::new();
        let metrics = Arc::new(Metrics::new());
        let labels =
            Labels::open(dir.path().join("series"), Limits::default(), Arc::clone(&metrics)).unwrap();
        let outbox = dir.path().join("outbox");
        let mut log = Outbox::open(&outbox, OutboxOptions::default(), Arc::clone(&metrics)).unwrap();
        let mut ids: Vec<SeriesId> = (0..3).map(series).collect();
        ids.sort_unstable();
        let windows = ids.into_iter().map(|id| stats(id, WINDOWS[0].0, T0, 0, 1.0)).collect();
        log.append(1, &RowLists { windows, ..RowLists::default() }).unwrap();
        log.sync().unwrap();
        let parts = SinkDeps {
            store: Arc::new(dir.store()),
            labels: Arc::new(labels),
            metrics: Arc::clone(&metrics),
            clock: || T0,
            accept_loss: false,
            uptime,
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
            let log = Outbox::open(dir.path().join("outbox"), OutboxOptions::default(), Arc::clone(&metrics));
            let store = Arc::new(dir.store());
            World { labels: Arc::new(labels.unwrap()), log: log.unwrap(), metrics, store, dir }
        }

        /// Appends an epoch with a row of this series, and shows it to the sink.
        fn epoch(&mut self, epoch: u64, id: SeriesId) {
            let windows = vec![stats(id, WINDOWS[0].0, T0 + epoch as i64 * 60_000, 0, 1.0)];
            self.log.append(epoch, &RowLists { windows, ..RowLists::default() }).unwrap();
            self.log.sync().unwrap();
        }

        fn sink(&self) -> StoreSink {
            let parts = SinkDeps {
                store: Arc::clone(&self.store) as Arc<dyn Store>,
                labels: Arc::clone(&self.labels),
                metrics: Arc::clone(&self.metrics),
                clock: || T0,
                accept_loss: false,
                uptime,
                on_fatal: Arc::new(|error| panic!("{error}")),
            };
            StoreSink::start(self.dir.path().join("outbox"), self.log.durable(), parts).unwrap()
        }

        fn rows(&self) -> u64 {
            self.store.status().unwrap().window_rows
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
        let all = CatalogQuery { select: Selectors::default(), after: None, limit: 10 };
        let name = |world: &World| {
            let page = world.store.catalog(&all).unwrap();
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

    /// What the clock and the monotonic clock say in the test of retention, in milliseconds.
    static CLOCK_MS: AtomicI64 = AtomicI64::new(0);
    static UPTIME_MS: AtomicU64 = AtomicU64::new(0);

    #[test]
    fn a_clock_that_jumps_drops_nothing_before_it_has_held_for_an_hour_and_then_a_tenth_a_minute() {
        const HOUR_MS: i64 = 3_600_000;
        const DAYS_40_MS: i64 = 40 * 24 * HOUR_MS;
        let dir = TempDir::new();
        let store = Arc::new(dir.store());
        for hour in 0..30 {
            let windows = [stats(series(0), WINDOWS[0].0, T0 + hour * HOUR_MS, 0, 1.0)];
            let (epoch, written_ms) = (1 + hour as u64, T0 + hour * HOUR_MS);
            let batch = batch_of(epoch, written_ms, &windows, &[], &[]);
            store.write(&[batch], &|_| None).unwrap();
        }
        let labels = Labels::open(dir.path().join("series"), Limits::default(), Arc::default()).unwrap();
        let parts = SinkDeps {
            store: Arc::clone(&store) as Arc<dyn Store>,
            labels: Arc::new(labels),
            metrics: Arc::default(),
            clock: || CLOCK_MS.load(Ordering::Relaxed),
            accept_loss: false,
            uptime: || Duration::from_millis(UPTIME_MS.load(Ordering::Relaxed)),
            on_fatal: Arc::new(|error| panic!("{error}")),
        };
        let now_ms = T0 + 30 * HOUR_MS;
        let (mut retention, mut elapsed_ms) = (None, 0);
        // Each minute for so long, with the clock so far ahead: the tables left.
        let mut minutes = |n: i64, ahead_ms: i64, retention: &mut Option<Retention>| {
            let tables = (0..n).map(|_| {
                elapsed_ms += 60_000;
                CLOCK_MS.store(now_ms + elapsed_ms + ahead_ms, Ordering::Relaxed);
                UPTIME_MS.store(elapsed_ms as u64, Ordering::Relaxed);
                let retention =
                    retention.get_or_insert_with(|| Retention::new(store.retained_at_ms().unwrap(), &parts));
                retention.look(&parts);
                store.status().unwrap().tables
            });
            tables.last().unwrap()
        };
        assert_eq!(minutes(5, 0, &mut retention), 30);
        assert_eq!(minutes(50, DAYS_40_MS, &mut retention), 30, "wrong for 50 minutes");
        assert_eq!(minutes(5, 0, &mut retention), 30);
        assert_eq!(minutes(50, -DAYS_40_MS, &mut retention), 30, "the other way");
        assert_eq!(minutes(50, DAYS_40_MS, &mut retention), 30);
        // A restart while the clock is wrong goes on from what was trusted.
        retention = None;
        assert_eq!(minutes(50, DAYS_40_MS, &mut retention), 30);
        assert!(parts.metrics.text().contains("tidewatch_retention_clock_ahead_seconds 3456"));
        // It holds on: now it is believed, and tables go, a tenth of them a minute.
        assert_eq!(minutes(11, DAYS_40_MS, &mut retention), 27);
        assert_eq!(minutes(1, DAYS_40_MS, &mut retention), 24);
        assert_eq!(minutes(60, DAYS_40_MS, &mut retention), 0);
        assert!(parts.metrics.limits_reached()["store.tables_dropped"] > 5);
    }

    /// The disk does not hold what it seemed to, and the next sync would not say so.
    #[test]
    fn after_a_failed_sync_of_the_store_its_rows_are_taken_from_the_outbox_again() {
        let mut world = World::new();
        let sink = world.sink();
        let id = series(1);
        for epoch in 1..=10 {
            world.epoch(epoch, id);
            stored(&sink, epoch);
            if epoch == 4 {
                assert_eq!(world.store.sync().unwrap(), Some(4));
            }
        }
        let mut wal = world.dir.file().into_os_string();
        wal.push("-wal");
        let before = std::fs::metadata(&wal).unwrap().len();
        // The system wrote none of the last pages, and has marked them as written.
        world.store.fail_sync(|| {
            let file = std::fs::File::options().write(true).open(&wal).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[0; 9_000], before - 9_000).unwrap();
        });
        let begun = std::time::Instant::now();
        while world.metrics.store_recoveries.get() == 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "the store is not opened anew");
            std::thread::sleep(Duration::from_millis(2));
        }
        stored(&sink, 10);
        assert_eq!((world.rows(), world.store.epoch().unwrap()), (10, Some(10)));
        assert_eq!(world.store.sync().unwrap(), Some(10));
        for epoch in 11..=12 {
            world.epoch(epoch, id);
            stored(&sink, epoch);
        }
        assert_eq!((world.rows(), world.metrics.store_recoveries.get()), (12, 1));
    }
}
