//! The store's sink: labels, retention, and a store that is opened anew.

use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tidewatch_dataflows::rows::{RowLists, WindowStats};
use tidewatch_dataflows::sample::SeriesId;

use super::*;
use crate::labels::{Labels, Limits};
use crate::outbox::{Outbox, OutboxOptions};
use crate::sinks::runner::{RetryPolicy, SinkInput, SinkRunner};
use crate::store::embedded::Embedded;
use crate::store::selector::Selectors;
use crate::store::testing::{T0, TempDir, WINDOWS, batch_of, series, stats};
use crate::store::{CatalogQuery, Store};

fn deps(store: Arc<dyn Store>, labels: Arc<Labels>) -> StoreSinkDeps {
    let on_corrupt = Box::new(|why: &str| panic!("{why}"));
    StoreSinkDeps { store, labels, metrics: Arc::default(), clock: || T0, uptime, on_corrupt }
}

fn started(outbox: &Path, log: &Outbox, deps: StoreSinkDeps) -> SinkRunner {
    let (durable, retry) = (log.durable(), RetryPolicy::default());
    let input = SinkInput { outbox: outbox.into(), durable, accept_loss: false, retry };
    let metrics = Arc::clone(&deps.metrics);
    let sink = Box::new(StoreSink::new(deps).unwrap());
    SinkRunner::start(sink, input, metrics, Arc::new(|failure| panic!("{failure}"))).unwrap()
}

#[test]
fn series_without_labels_are_counted() {
    let dir = TempDir::new();
    let metrics = Arc::new(Metrics::new());
    let labels = Labels::open(dir.path().join("series"), Limits::default(), Arc::clone(&metrics)).unwrap();
    let outbox = dir.path().join("outbox");
    let mut log = Outbox::open(&outbox, OutboxOptions::default(), Arc::clone(&metrics)).unwrap();
    let mut ids: Vec<SeriesId> = (0..3).map(series).collect();
    ids.sort_unstable();
    let windows = ids.into_iter().map(|id| stats(id, WINDOWS[0].0, T0, 0, 1.0)).collect();
    log.append(1, &RowLists { windows, ..RowLists::default() }).unwrap();
    log.sync().unwrap();
    let deps =
        StoreSinkDeps { metrics: Arc::clone(&metrics), ..deps(Arc::new(dir.store()), Arc::new(labels)) };
    let sink = started(&outbox, &log, deps);
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

    fn sink(&self) -> SinkRunner {
        let deps = deps(Arc::clone(&self.store) as _, Arc::clone(&self.labels));
        let deps = StoreSinkDeps { metrics: Arc::clone(&self.metrics), ..deps };
        started(&self.dir.path().join("outbox"), &self.log, deps)
    }

    fn rows(&self) -> u64 {
        self.store.status().unwrap().rows_of::<WindowStats>()
    }
}

fn stored(sink: &SinkRunner, epoch: u64) {
    let begun = std::time::Instant::now();
    while sink.progress().epoch() != epoch {
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
    let deps = StoreSinkDeps {
        clock: || CLOCK_MS.load(Ordering::Relaxed),
        uptime: || Duration::from_millis(UPTIME_MS.load(Ordering::Relaxed)),
        ..deps(Arc::clone(&store) as Arc<dyn Store>, Arc::new(labels))
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
                retention.get_or_insert_with(|| Retention::new(store.retained_at_ms().unwrap(), &deps));
            retention.observe(&deps);
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
    assert!(deps.metrics.text().contains("tidewatch_retention_clock_ahead_seconds 3456"));
    // It holds on: now it is believed, and tables go, a tenth of them a minute.
    assert_eq!(minutes(11, DAYS_40_MS, &mut retention), 27);
    assert_eq!(minutes(1, DAYS_40_MS, &mut retention), 24);
    assert_eq!(minutes(60, DAYS_40_MS, &mut retention), 0);
    assert!(deps.metrics.limits_reached()["store.tables_dropped"] > 5);
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
