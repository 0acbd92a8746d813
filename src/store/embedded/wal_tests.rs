//! SQLite's log stays bounded under questions that overlap and exports that stand still; damage is found and told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use tidewatch_dataflows::rows::WindowStats;

use super::tests::every;
use super::{Embedded, EmbeddedOptions, wal};
use crate::store::budget::Budget;
use crate::store::row::ExportKind;
use crate::store::selector::Selectors;
use crate::store::testing::{HOUR_MS, T0, TempDir, batch_of, labels_of, series, stats};
use crate::store::{ExportQuery, Range, Store, StoreError};

const SMALL: u64 = 1 << 20;
const ROWS: u64 = 2_000;

/// Writes an epoch of as many rows as there are series.
fn write(store: &Embedded, epoch: u64) {
    let rows: Vec<_> = {
        let mut ids: Vec<_> = (0..ROWS).map(series).collect();
        ids.sort_unstable();
        ids.into_iter().map(|id| stats(id, HOUR_MS, T0 + epoch as i64 * 60_000, 0, epoch as f64)).collect()
    };
    let batch = batch_of(epoch, T0, &rows, &[], &[]);
    store.write(&[batch], &labels_of).unwrap();
}

#[test]
fn questions_that_overlap_leave_a_checkpoint_its_turn() {
    let dir = TempDir::new();
    let options = EmbeddedOptions {
        log_bytes_max: SMALL,
        deadline: Duration::from_millis(1_500),
        ..EmbeddedOptions::default()
    };
    let store = Embedded::open(&dir.file(), options).unwrap();
    write(&store, 1);
    let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut largest = 0;
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (store, over, asked) = (&store, &over, &asked);
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(40 * n));
                while !over.load(Ordering::Relaxed) {
                    // A question that reads for a while: one of them is always under way.
                    let view = store.page_view(&Budget::default()).unwrap();
                    view.epoch().unwrap();
                    std::thread::sleep(Duration::from_millis(150));
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for epoch in 2..60 {
            write(&store, epoch);
            largest = largest.max(wal::log_bytes(&dir.file()));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(asked.load(Ordering::Relaxed) > 20, "they were answered meanwhile");
    assert!(store.log().emptied > 0);
    // The bound, and what one transaction writes.
    assert!(largest < 4 * SMALL, "the log had {largest} bytes");
    assert_eq!(store.status().unwrap().rows_of::<WindowStats>(), 59 * ROWS);
}

#[test]
fn an_export_that_stands_still_ends_its_view_and_goes_on() {
    let dir = TempDir::new();
    let small = EmbeddedOptions {
        log_bytes_max: SMALL,
        view_max: Duration::from_millis(50),
        ..EmbeddedOptions::default()
    };
    let store = Embedded::open(&dir.file(), small).unwrap();
    (1..6).for_each(|epoch| write(&store, epoch));
    let reader = Embedded::open_read_only(&dir.file(), small).unwrap();
    let (go_to, go) = channel::<()>();
    let (begun_to, begun) = channel::<()>();
    let keys = std::thread::scope(|scope| {
        let export = scope.spawn(move || {
            let query = ExportQuery {
                kind: ExportKind::of::<WindowStats>(),
                select: Selectors::default(),
                range: Range::ALL,
            };
            let mut keys = Vec::new();
            reader
                .export(&query, &mut |row| {
                    let row = row.of::<WindowStats>().expect("windows were asked for");
                    if keys.is_empty() {
                        begun_to.send(()).unwrap();
                        go.recv().unwrap();
                    }
                    keys.push((row.at_ms, row.series));
                    Ok(())
                })
                .unwrap();
            keys
        });
        begun.recv().unwrap();
        // While it stands still the log is emptied all the same.
        let until = Instant::now() + Duration::from_secs(60);
        let mut epoch = 6;
        while store.log().emptied == 0 || store.log().bytes > SMALL {
            assert!(Instant::now() < until, "the log has {} bytes", store.log().bytes);
            write(&store, epoch);
            *store.in_vain.lock() = None;
            epoch += 1;
        }
        go_to.send(()).unwrap();
        export.join().unwrap()
    });
    assert!(keys.is_sorted() && keys.windows(2).all(|two| two[0] != two[1]), "each key once, in order");
    let first = keys.iter().filter(|(at_ms, _)| *at_ms <= T0 + 5 * 60_000).count();
    assert_eq!(first as u64, 5 * ROWS, "all that was there at first");
}

#[test]
fn a_reader_that_cannot_be_made_to_wait_holds_up_nobody_else_for_long() {
    let dir = TempDir::new();
    let options = EmbeddedOptions {
        log_bytes_max: SMALL,
        deadline: Duration::from_millis(200),
        ..EmbeddedOptions::default()
    };
    let store = Embedded::open(&dir.file(), options).unwrap();
    write(&store, 1);
    let other = rusqlite::Connection::open(dir.file()).unwrap();
    other.execute_batch("BEGIN; SELECT count(*) FROM manifest;").unwrap();
    let begun = Instant::now();
    (2..40).for_each(|epoch| write(&store, epoch));
    assert!(begun.elapsed() < Duration::from_secs(60), "each write waited for it");
    assert!(store.log().bytes > SMALL, "the size is told: {:?}", store.log());
    store.status().unwrap();
}

#[test]
fn damage_is_found_by_a_check_and_nothing_is_read_from_then_on() {
    let dir = TempDir::new();
    let store = dir.store();
    (1..6).for_each(|epoch| write(&store, epoch));
    let whole = store.check(Duration::from_secs(60), &|| false).unwrap();
    assert!(whole.checked == whole.tables && whole.tables > 4, "{whole:?}");
    assert_eq!(store.check(Duration::from_secs(60), &|| true).unwrap().checked, 0, "it can be stopped");
    drop(store);
    let mut bytes = std::fs::read(dir.file()).unwrap();
    let page = bytes.len() / 4_096 / 2 * 4_096;
    bytes[page..page + 4_096].fill(0xa5);
    std::fs::write(dir.file(), &bytes).unwrap();
    let store = dir.store();
    assert_eq!(store.damage(), None);
    let error = store.check(Duration::from_secs(60), &|| false).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { why, .. } if why.contains("windows_")), "{error}");
    assert!(store.damage().is_some_and(|why| why.contains("windows_")));
    let error = store.windows(&every()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

#[test]
fn what_passes_by_itself_is_tried_again() {
    let of = |code: i32| {
        let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        super::schema::failure(std::path::Path::new("x"), "read", error)
    };
    use rusqlite::ffi;
    for code in [
        ffi::SQLITE_PROTOCOL,
        ffi::SQLITE_BUSY,
        ffi::SQLITE_LOCKED,
        ffi::SQLITE_IOERR,
        ffi::SQLITE_IOERR_READ,
    ] {
        assert!(of(code).is_transient(), "{code}");
    }
    assert!(matches!(of(ffi::SQLITE_CORRUPT), StoreError::Corrupt { .. }));
    assert!(!of(ffi::SQLITE_CORRUPT).is_transient());
}
