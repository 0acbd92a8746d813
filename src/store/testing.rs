//! What tests of the store and of the API share: a temporary directory, made-up rows, and the store as a plain list.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidewatch_dataflows::rows::windows::QuantileValues;
use tidewatch_dataflows::rows::{Reject, ResultRow, RowLists, SeriesType, WindowStats};
use tidewatch_dataflows::sample::{Reason, SeriesId};
use tidewatch_dataflows::settings::QuantileSet;

use super::embedded::{Embedded, EmbeddedOptions};
use super::row::{RejectGrouping, RejectRow};
use super::{LabelPairs, Page, RejectKey, Store, StoreBatch, WindowKey};

/// A directory that is gone at the end of the test.
pub struct TempDir(tempfile::TempDir);

impl TempDir {
    #[expect(clippy::new_without_default, reason = "each is another directory")]
    pub fn new() -> TempDir {
        TempDir(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self) -> PathBuf {
        self.path().join("store.sqlite")
    }

    pub fn store(&self) -> Embedded {
        Embedded::open(&self.file(), EmbeddedOptions::default()).unwrap()
    }
}

pub const HOUR_MS: i64 = 3_600_000;
/// A full day, 2023-11-14.
pub const T0: i64 = 1_699_920_000_000;

const NAMES: [&str; 4] = ["node_load1", "up", "http_requests_total", "rpc_seconds_bucket"];

/// Series ids on both sides of the sign bit, in no order of their names.
pub fn series(i: u64) -> SeriesId {
    SeriesId((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

pub fn name_of(i: u64) -> &'static str {
    NAMES[(i % 4) as usize]
}

/// The labels of a made-up series.
pub fn labels_of(id: SeriesId) -> Option<LabelPairs> {
    let i = (0..2_000).find(|i| series(*i) == id)?;
    let pair = |name: &str, value: String| (name.to_owned(), value);
    Some(vec![
        pair("job", format!("job \"{}\"", i % 3)),
        pair("__name__", name_of(i).to_owned()),
        pair("instance", format!("host{i}")),
    ])
}

/// The rows of an epoch.
pub fn batch_of(
    epoch: u64,
    written_ms: i64,
    windows: &[WindowStats],
    rejects: &[Reject],
    types: &[SeriesType],
) -> StoreBatch<'static> {
    let rows = RowLists {
        windows: windows.to_vec(),
        rejects: rejects.to_vec(),
        types: types.to_vec(),
        ..RowLists::default()
    };
    StoreBatch { epoch, written_ms, rows: Cow::Owned(rows) }
}

/// A row with numbers that tell rows and revisions apart.
pub fn stats(id: SeriesId, window_ms: i64, at_ms: i64, revision: u32, mark: f64) -> WindowStats {
    WindowStats {
        series: id,
        window_ms,
        at_ms,
        revision,
        count: 1 + (mark.abs() as u32) % 5,
        span_ms: 45_000,
        min: mark - 1.0,
        max: mark + 1.0,
        avg: mark,
        std: mark.abs() / 3.0,
        first: 0.1,
        last: -0.2,
        sum: 5.0 * mark,
        changes: 1 + (mark.abs() as u32) % 3,
        increase: mark.abs(),
        resets: (mark.abs() as u32) % 2,
        partial: mark < 0.0,
        quantiles: quantiles(mark),
    }
}

/// Some of the quantiles, those of another row others.
fn quantiles(mark: f64) -> QuantileValues {
    let set = QuantileSet::from_code((mark.abs() * 4.0) as u8);
    let mut values = QuantileValues::default();
    set.places().for_each(|place| values.0[place] = mark + place as f64 / 8.0);
    values
}

/// Everything that was written, as a list, and the answers found by looking at all of it.
#[derive(Default)]
pub struct ModelStore {
    pub windows: Vec<(i64, WindowStats)>,
    pub rejects: Vec<(i64, u64, Reject)>,
    pub epoch: u64,
}

impl ModelStore {
    /// Adds a random epoch written at `written_ms` to the model and the store.
    pub fn write_random(
        &mut self,
        store: &dyn Store,
        random: &mut fastrand::Rng,
        written_ms: i64,
        span_hours: i64,
    ) {
        let mut batches = Vec::new();
        for _ in 0..random.usize(1..4) {
            self.epoch += random.u64(1..50);
            let mut windows: Vec<_> =
                (0..random.usize(0..120)).map(|_| random_stats(random, span_hours)).collect();
            windows.sort_by_key(|stats| (stats.key(), stats.rank()));
            windows.dedup_by_key(|stats| stats.key());
            let mut rejects: Vec<_> =
                (0..random.usize(0..12)).map(|_| random_reject(random, span_hours)).collect();
            rejects.sort_by_key(Reject::key);
            rejects.dedup_by_key(|reject| reject.key());
            batches.push((self.epoch, windows, rejects));
        }
        let given: Vec<_> = batches
            .iter()
            .map(|(epoch, windows, rejects)| batch_of(*epoch, written_ms, windows, rejects, &[]))
            .collect();
        store.write(&given, &labels_of).unwrap();
        for (epoch, windows, rejects) in batches {
            self.windows.extend(windows.into_iter().map(|stats| (written_ms, stats)));
            self.rejects.extend(rejects.into_iter().map(|reject| (written_ms, epoch, reject)));
        }
    }

    /// The rows that count, in the order (name, series, window, at).
    pub fn last_words(&self) -> BTreeMap<WindowKey, WindowStats> {
        let mut rows: BTreeMap<WindowKey, WindowStats> = BTreeMap::new();
        for (_, stats) in &self.windows {
            let key = key_of(stats);
            if rows.get(&key).is_none_or(|held| held.rank() <= stats.rank()) {
                rows.insert(key, *stats);
            }
        }
        rows
    }

    /// Sums of rejects by `by` for which `meant` holds.
    pub fn reject_sums(&self, by: RejectGrouping, meant: impl Fn(&Reject) -> bool) -> Vec<RejectRow> {
        let mut sums: BTreeMap<RejectKey, RejectRow> = BTreeMap::new();
        for (_, _, reject) in self.rejects.iter().filter(|(_, _, reject)| meant(reject)) {
            let name = reject.series.and_then(labels_of).map(|pairs| pairs[1].1.clone());
            let row = RejectRow {
                by,
                series: reject.series.filter(|_| by.series),
                name: name.filter(|_| by.name),
                reason: reject.reason,
                count: reject.count,
                first_at_ms: reject.first_at_ms,
                last_at_ms: reject.last_at_ms,
            };
            let sum =
                sums.entry(RejectKey::of(&row)).or_insert_with(|| RejectRow { count: 0, ..row.clone() });
            sum.count += row.count;
            sum.first_at_ms = sum.first_at_ms.min(row.first_at_ms);
            sum.last_at_ms = sum.last_at_ms.max(row.last_at_ms);
        }
        sums.into_values().collect()
    }
}

pub fn key_of(stats: &WindowStats) -> WindowKey {
    let name = labels_of(stats.series).map(|pairs| pairs[1].1.clone()).unwrap_or_default();
    WindowKey { name, series: stats.series, window_ms: stats.window_ms, at_ms: stats.at_ms }
}

pub const WINDOWS: [(i64, i64); 3] = [(HOUR_MS, 60_000), (3 * HOUR_MS, 180_000), (12 * HOUR_MS, 720_000)];

fn random_stats(random: &mut fastrand::Rng, span_hours: i64) -> WindowStats {
    let (window_ms, hop_ms) = WINDOWS[random.usize(0..3)];
    let at_ms = T0 + hop_ms * random.i64(0..=span_hours * HOUR_MS / hop_ms);
    let mark = f64::from(random.i32(-50..50)) / 4.0;
    // A few series, so that keys meet again in other epochs and hours.
    stats(series(random.u64(0..9)), window_ms, at_ms, random.u32(0..4), mark)
}

fn random_reject(random: &mut fastrand::Rng, span_hours: i64) -> Reject {
    let first_at_ms = T0 + random.i64(0..span_hours * HOUR_MS);
    Reject {
        series: (random.u8(0..6) > 0).then(|| series(random.u64(0..12))),
        reason: Reason::ALL[random.usize(1..5)],
        count: random.u64(1..100),
        first_at_ms,
        last_at_ms: first_at_ms + random.i64(0..HOUR_MS),
    }
}

/// Walks all pages of a question.
pub fn all_pages<T: Clone>(mut ask: impl FnMut(Option<&T>) -> Page<T>, limit: usize) -> Vec<T> {
    let mut all: Vec<T> = Vec::new();
    loop {
        let page = ask(all.last());
        assert!(page.rows.len() <= limit, "a page of {} rows, {limit} asked for", page.rows.len());
        assert!(!page.more || !page.rows.is_empty(), "an empty page with more to come");
        all.extend(page.rows);
        if !page.more {
            return all;
        }
    }
}
