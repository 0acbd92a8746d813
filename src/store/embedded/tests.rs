//! The store against a list of everything written, and against other connections and old epochs.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::Connection;
use tidewatch_dataflows::rows::windows::QuantileValues;
use tidewatch_dataflows::rows::{Reject, ResultRow, WindowStats};
use tidewatch_dataflows::sample::{MetricType, Reason, SeriesId};

use super::values::{key_of, series_of, unsigned};
use super::{Embedded, EmbeddedOptions};
use crate::store::export::{ExportFormat, export};
use crate::store::row::{ExportKind, RejectGrouping, SeriesRow, WindowRow};
use crate::store::search::Search;
use crate::store::selector::Selectors;
use crate::store::sort::{Sort, SortBy};
use crate::store::testing::{
    self, HOUR_MS, ModelStore, T0, TempDir, WINDOWS, all_pages, batch_of, labels_of, name_of, series, stats,
};
use crate::store::{
    CatalogQuery, ExportQuery, Filter, NamesQuery, Offer, OfferVerdict, Range, RejectKey, RejectQuery,
    STATISTICS, SeriesKey, Statistic, Store, StoreError, StoreStatus, WindowKey, WindowQuery, WriteSummary,
};

const SELECTORS: [&[&str]; 7] = [
    &[],
    &["up"],
    &["up", "node_load1"],
    &["{job=\"job \\\"1\\\"\"}"],
    &["{__name__=~\".*_total|up\",instance!=\"host1\"}"],
    &["{instance=~\"host[0-4]\"}", "rpc_seconds_bucket"],
    &["absent"],
];

const SEARCHES: [&str; 7] = ["", "", "", "up", "JOB=job HOST", "host1 bucket", "nowhere"];

pub fn every() -> WindowQuery {
    let select = Selectors::default();
    WindowQuery {
        select,
        search: Search::default(),
        windows: Vec::new(),
        range: None,
        filters: Vec::new(),
        after: None,
        sort: None,
        limit: 1_000,
    }
}

fn window_key(row: &WindowRow) -> WindowKey {
    let at_ms = row.stats.at_ms;
    WindowKey {
        name: row.series.name.clone(),
        series: row.stats.series,
        window_ms: row.stats.window_ms,
        at_ms,
    }
}

fn read_all(store: &dyn Store, query: &WindowQuery) -> Vec<WindowStats> {
    let ask = |after: Option<&WindowRow>| {
        store.windows(&WindowQuery { after: after.map(window_key), ..query.clone() }).unwrap()
    };
    all_pages(ask, query.limit).into_iter().map(|row| row.stats).collect()
}

fn is_meant(select: &Selectors, id: SeriesId) -> bool {
    let pairs = labels_of(id).unwrap();
    let get = |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    select.matches(get("__name__").unwrap(), get).unwrap()
}

/// In another way than the store does: every word in the name or in a pair, as people read them.
fn is_found(search: &Search, id: SeriesId) -> bool {
    let pairs = labels_of(id).unwrap();
    let texts: Vec<String> = pairs
        .iter()
        .map(|(name, value)| if name == "__name__" { value.clone() } else { format!("{name}={value}") })
        .collect();
    search.words().iter().all(|word| texts.iter().any(|text| text.to_lowercase().contains(word)))
}

fn is_counter(row: &WindowStats) -> bool {
    let (series, name) = (row.series, testing::key_of(row).name);
    SeriesRow { series, name, labels: String::new(), kind: None }.is_counter()
}

/// What the model answers to a question about windows.
fn naive(model: &ModelStore, query: &WindowQuery) -> Vec<WindowStats> {
    let rows = model.last_words();
    let latest: BTreeMap<_, _> = rows.keys().map(|k| ((k.series, k.window_ms), k.at_ms)).collect();
    let asked = rows.into_values().filter(|row| match query.range {
        None => latest[&(row.series, row.window_ms)] == row.at_ms,
        Some(range) => (range.start_ms..=range.end_ms).contains(&row.at_ms),
    });
    let inside = |row: &WindowStats| {
        let value = |filter: &Filter| filter.stat.of(is_counter(row), row).unwrap_or(f64::NAN);
        query.filters.iter().all(|filter| value(filter) >= filter.least && value(filter) <= filter.most)
    };
    asked
        .filter(|row| query.windows.is_empty() || query.windows.contains(&row.window_ms))
        .filter(|row| {
            is_meant(&query.select, row.series) && is_found(&query.search, row.series) && inside(row)
        })
        .collect()
}

fn random_query(random: &mut fastrand::Rng) -> WindowQuery {
    let texts = SELECTORS[random.usize(0..SELECTORS.len())];
    let range = random.bool().then(|| {
        let start_ms = T0 + random.i64(-HOUR_MS..7 * HOUR_MS);
        Range { start_ms, end_ms: start_ms + random.i64(0..5 * HOUR_MS) }
    });
    let filter = |random: &mut fastrand::Rng| Filter {
        stat: &STATISTICS[random.usize(0..STATISTICS.len())],
        least: if random.bool() { f64::from(random.i32(-10..3)) } else { f64::NEG_INFINITY },
        most: if random.bool() { f64::from(random.i32(0..12)) } else { f64::INFINITY },
    };
    let filters: Vec<_> = (0..random.usize(0..3)).map(|_| filter(random)).collect();
    WindowQuery {
        select: Selectors::parse(texts).unwrap(),
        search: Search::parse(SEARCHES[random.usize(0..SEARCHES.len())]).unwrap(),
        windows: WINDOWS.iter().map(|w| w.0).filter(|_| random.u8(0..4) == 0).collect(),
        range,
        filters,
        after: None,
        sort: None,
        limit: random.usize(1..40),
    }
}

/// A store of several hours of writing, and what was written to it.
pub fn random_store(dir: &TempDir, seed: u64) -> (Embedded, ModelStore, fastrand::Rng) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (store, mut model) = (dir.store(), ModelStore::default());
    let mut written_ms = T0 + 8 * HOUR_MS;
    for _ in 0..random.usize(3..20) {
        model.write_random(&store, &mut random, written_ms, 7);
        written_ms += random.i64(0..HOUR_MS);
    }
    (store, model, random)
}

/// Rows in the tables of hours.
fn hourly_rows(status: &StoreStatus) -> u64 {
    status.rows_of::<WindowStats>() + status.rows_of::<Reject>()
}

#[test]
fn pages_of_windows_equal_the_naive_answer() {
    for seed in 0..10 {
        let dir = TempDir::new();
        let (store, model, mut random) = random_store(&dir, seed);
        assert_eq!(store.epoch().unwrap(), Some(model.epoch), "seed {seed}");
        for _ in 0..60 {
            let query = random_query(&mut random);
            assert_eq!(read_all(&store, &query), naive(&model, &query), "seed {seed}, {query:?}");
        }
    }
}

/// A few series are looked up one by one; of many, whole instants are read first. Both ways are gone here.
#[test]
fn sorted_pages_equal_the_naive_answer_sorted() {
    for seed in 200..210 {
        let dir = TempDir::new();
        let (store, model, mut random) =
            if seed < 206 { random_store(&dir, seed) } else { wide_store(&dir, seed) };
        for _ in 0..if seed < 206 { 40 } else { 12 } {
            let by = match random.usize(0..STATISTICS.len() + 2) {
                0 => SortBy::Name,
                1 => SortBy::At,
                place => SortBy::Stat(&STATISTICS[place - 2]),
            };
            let sort = Sort { by, descending: random.bool(), after: None };
            let window_ms = WINDOWS[random.usize(0..3)].0;
            let limit = if seed < 206 { random.usize(1..40) } else { random.usize(40..1_000) };
            let query =
                WindowQuery { windows: vec![window_ms], range: None, limit, ..random_query(&mut random) };
            let mut want = naive(&model, &query);
            want.sort_by(|a, b| naive_order(&sort, a, b));
            let ask = |after: Option<&WindowRow>| {
                let value = |row: &WindowRow| sort.value(row.series.is_counter(), &row.stats);
                let after = after.map(|row| (value(row), row.series.name.clone(), row.series.series));
                store
                    .windows(&WindowQuery { sort: Some(Sort { after, ..sort.clone() }), ..query.clone() })
                    .unwrap()
            };
            let got: Vec<_> = all_pages(ask, query.limit).into_iter().map(|row| row.stats).collect();
            assert_eq!(got, want, "seed {seed}, {sort:?}, {query:?}");
        }
    }
}

/// What is shown comes first; then by value, which nobody but this function turns round; then by name and series.
fn naive_order(sort: &Sort, a: &WindowStats, b: &WindowStats) -> std::cmp::Ordering {
    let name = |row: &WindowStats| testing::key_of(row).name;
    let value = |row: &WindowStats| match sort.by {
        SortBy::Name => None,
        SortBy::At => Some(row.at_ms as f64),
        SortBy::Stat(stat) => stat.of(is_counter(row), row),
    };
    let values = match (value(a), value(b)) {
        (Some(a), Some(b)) if sort.descending => b.partial_cmp(&a).unwrap(),
        (Some(a), Some(b)) => a.partial_cmp(&b).unwrap(),
        (a, b) => b.is_some().cmp(&a.is_some()),
    };
    let names = if sort.by == SortBy::Name && sort.descending {
        name(b).cmp(&name(a))
    } else {
        name(a).cmp(&name(b))
    };
    values.then(names).then(a.series.cmp(&b.series))
}

/// A store of more series than are looked up singly: most have rows at the newest instants, some fell silent before.
fn wide_store(dir: &TempDir, seed: u64) -> (Embedded, ModelStore, fastrand::Rng) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (store, mut model) = (dir.store(), ModelStore::default());
    let silent = random.u64(0..1_500);
    for hour in 0..3 {
        let written_ms = T0 + (8 + hour) * HOUR_MS;
        model.epoch += 1;
        let mut windows = Vec::new();
        for i in 0..1_500_u64 {
            let newest = if i < silent { random.i64(0..120) } else { 60 * hour + random.i64(0..8) };
            let (window_ms, hop_ms) = WINDOWS[random.usize(0..3)];
            let mark = f64::from(random.i32(-50..50)) / 4.0;
            windows.push(stats(series(i), window_ms, T0 + newest * hop_ms, random.u32(0..3), mark));
        }
        windows.sort_by_key(|row| (row.key(), row.rank()));
        let batch = batch_of(model.epoch, written_ms, &windows, &[], &[]);
        store.write(&[batch], &labels_of).unwrap();
        model.windows.extend(windows.into_iter().map(|row| (written_ms, row)));
    }
    (store, model, random)
}

#[test]
fn sums_of_rejects_equal_the_naive_answer() {
    for seed in 100..110 {
        let dir = TempDir::new();
        let (store, model, mut random) = random_store(&dir, seed);
        for _ in 0..40 {
            let start_ms = T0 + random.i64(-HOUR_MS..7 * HOUR_MS);
            let query = RejectQuery {
                select: Selectors::parse(SELECTORS[random.usize(0..SELECTORS.len())]).unwrap(),
                by: RejectGrouping { series: random.bool(), name: random.bool(), reason: random.bool() },
                range: if random.bool() {
                    Range::ALL
                } else {
                    Range { start_ms, end_ms: start_ms + 2 * HOUR_MS }
                },
                after: None,
                limit: random.usize(1..9),
            };
            let naive = model.reject_sums(query.by, |reject| {
                let touches =
                    reject.last_at_ms >= query.range.start_ms && reject.first_at_ms <= query.range.end_ms;
                touches && reject.series.map_or(query.select.is_every(), |id| is_meant(&query.select, id))
            });
            let ask = |after: Option<&_>| {
                store.rejects(&RejectQuery { after: after.map(RejectKey::of), ..query.clone() }).unwrap()
            };
            let read = all_pages(ask, query.limit);
            let shown = |rows: Vec<crate::store::row::RejectRow>| -> Vec<_> {
                let reason = |by: RejectGrouping, reason: Reason| by.reason.then_some(reason);
                rows.into_iter()
                    .map(|r| (r.series, r.name, reason(r.by, r.reason), r.count, r.first_at_ms, r.last_at_ms))
                    .collect()
            };
            assert_eq!(shown(read), shown(naive), "seed {seed}, {query:?}");
        }
    }
}

#[test]
fn the_catalog_and_the_names_are_complete_and_in_order() {
    let dir = TempDir::new();
    let (store, windows) =
        (dir.store(), (0..1_500).map(|i| stats(series(i), HOUR_MS, T0, 0, 1.0)).collect::<Vec<_>>());
    store.write(&[batch_of(1, T0, &windows, &[], &[])], &labels_of).unwrap();
    for texts in SELECTORS {
        let select = Selectors::parse(texts).unwrap();
        let mut wanted: Vec<_> = (0..1_500)
            .filter(|i| is_meant(&select, series(*i)))
            .map(|i| SeriesKey { name: name_of(i).to_owned(), series: series(i) })
            .collect();
        wanted.sort();
        for limit in [7, 512, 2_000] {
            let key =
                |row: &crate::store::row::SeriesRow| SeriesKey { name: row.name.clone(), series: row.series };
            let ask = |after: Option<&_>| {
                let query = CatalogQuery { select: select.clone(), after: after.map(key), limit };
                store.catalog(&query).unwrap()
            };
            let read: Vec<_> = all_pages(ask, limit).iter().map(key).collect();
            assert_eq!(read, wanted, "{texts:?} by {limit}");
        }
        let mut names: BTreeMap<String, u64> = BTreeMap::new();
        wanted.iter().for_each(|key| *names.entry(key.name.clone()).or_default() += 1);
        let ask = |after: Option<&crate::store::row::NameRow>| {
            let after = after.map(|row| row.name.clone());
            store.names(&NamesQuery { select: select.clone(), after, limit: 2 }).unwrap()
        };
        let read: BTreeMap<_, _> = all_pages(ask, 2).into_iter().map(|row| (row.name, row.series)).collect();
        assert_eq!(read, names, "{texts:?}");
    }
    let conn = Connection::open(dir.file()).unwrap();
    let ids: Vec<String> = conn
        .prepare("SELECT id FROM catalog ORDER BY series")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut wanted: Vec<_> = (0..1_500).map(|i| series(i).to_string()).collect();
    wanted.sort();
    assert_eq!(ids, wanted, "the column id shows the series, and the order of one is that of the other");
}

#[test]
fn an_export_is_the_last_word_per_key_in_order() {
    for seed in 200..206 {
        let dir = TempDir::new();
        let (_, model, mut random) = random_store(&dir, seed);
        let store = Embedded::open_read_only(&dir.file(), EmbeddedOptions::default()).unwrap();
        for _ in 0..8 {
            let select = Selectors::parse(SELECTORS[random.usize(0..SELECTORS.len())]).unwrap();
            let start_ms = T0 + random.i64(0..4 * HOUR_MS);
            let range =
                if random.bool() { Range::ALL } else { Range { start_ms, end_ms: start_ms + HOUR_MS } };
            let naive_query = WindowQuery { select: select.clone(), range: Some(range), ..every() };
            let mut wanted = naive(&model, &naive_query);
            wanted.sort_by_key(|row| (row.window_ms, row.at_ms, row.series));
            let lines = exported(
                &store,
                ExportQuery { kind: ExportKind::of::<WindowStats>(), select: select.clone(), range },
                true,
            );
            let key = |line: &serde_json::Value| {
                (
                    line["at_ms"].as_i64().unwrap(),
                    line["series"].as_str().unwrap().to_owned(),
                    line["avg"].as_f64(),
                )
            };
            let read: Vec<_> = lines.iter().map(key).collect();
            let wanted: Vec<_> =
                wanted.iter().map(|row| (row.at_ms, row.series.to_string(), Some(row.avg))).collect();
            assert_eq!(read, wanted, "seed {seed}");
            assert!(lines.iter().all(|line| line.get("revision").is_none()));

            let lines = exported(
                &store,
                ExportQuery { kind: ExportKind::of::<Reject>(), select: select.clone(), range },
                false,
            );
            let meant = |reject: &Reject| {
                let touches = reject.last_at_ms >= range.start_ms && reject.first_at_ms <= range.end_ms;
                touches && reject.series.map_or(select.is_every(), |id| is_meant(&select, id))
            };
            let mut wanted: Vec<_> = model.rejects.iter().filter(|(_, _, reject)| meant(reject)).collect();
            wanted.sort_by_key(|(_, epoch, reject)| (*epoch, reject.key()));
            let wanted: Vec<_> =
                wanted.iter().map(|(_, _, r)| (Some(r.count), Some(r.reason.as_str()))).collect();
            let read: Vec<_> =
                lines.iter().map(|line| (line["count"].as_u64(), line["reason"].as_str())).collect();
            assert_eq!(read, wanted, "seed {seed}");
        }
    }
}

fn exported(store: &dyn Store, query: ExportQuery, last_word: bool) -> Vec<serde_json::Value> {
    let mut out = Vec::new();
    let rows = export(store, &query, ExportFormat::JsonLines, last_word, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(rows as usize, text.lines().count());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_export_reads_tables_longer_than_a_chunk_and_writes_csv() {
    let dir = TempDir::new();
    let store = dir.store();
    // Three hours of writing correct each other over the same 700 keys.
    for hour in 0..3 {
        let rows: Vec<_> = (0..700)
            .filter(|i| hour == 0 || i % (hour + 1) == 0)
            .map(|i| stats(series(i as u64 % 7), HOUR_MS, T0 + 60_000 * (i / 7), hour as u32, i as f64))
            .collect();
        let batch = batch_of(hour as u64, T0 + hour * HOUR_MS, &rows, &[], &[]);
        store.write(&[batch], &labels_of).unwrap();
    }
    let query = ExportQuery {
        kind: ExportKind::of::<WindowStats>(),
        select: Selectors::default(),
        range: Range::ALL,
    };
    let lines = exported(&store, query.clone(), false);
    assert_eq!(lines.len(), 700);
    let keys: Vec<_> = lines.iter().map(|l| (l["at_ms"].as_i64(), l["series"].as_str().unwrap())).collect();
    assert!(keys.is_sorted());
    for line in &lines {
        let i = line["avg"].as_f64().unwrap() as i64;
        let revision = if i % 3 == 0 {
            2
        } else if i % 2 == 0 {
            1
        } else {
            0
        };
        assert_eq!(line["revision"], revision, "row {i}");
    }
    let mut out = Vec::new();
    export(&store, &query, ExportFormat::Csv, true, &mut out).unwrap();
    let mut reader = csv::Reader::from_reader(out.as_slice());
    assert_eq!(reader.headers().unwrap().iter().next_back(), Some("partial"));
    assert_eq!(reader.records().map(Result::unwrap).count(), 700);
}

#[test]
fn a_failing_receiver_ends_the_export_with_its_error() {
    let dir = TempDir::new();
    let store = dir.store();
    let rows = [stats(series(0), HOUR_MS, T0, 0, 1.0)];
    store.write(&[batch_of(1, T0, &rows, &[], &[])], &labels_of).unwrap();
    let query = ExportQuery {
        kind: ExportKind::of::<WindowStats>(),
        select: Selectors::default(),
        range: Range::ALL,
    };
    let error = store.export(&query, &mut |_| Err(std::io::Error::other("pipe closed"))).unwrap_err();
    assert_eq!(error.to_string(), "cannot write the export: pipe closed");
}

#[test]
fn a_known_epoch_is_ignored() {
    let dir = TempDir::new();
    let store = dir.store();
    let write = |epoch, avg| {
        let rows = [stats(series(0), HOUR_MS, T0, 0, avg)];
        let reject =
            Reject { series: None, reason: Reason::TooOld, count: 1, first_at_ms: T0, last_at_ms: T0 };
        let batch = batch_of(epoch, T0, &rows, &[reject], &[]);
        store.write(&[batch], &labels_of).unwrap()
    };
    assert_eq!(store.epoch().unwrap(), None);
    assert_eq!(write(7, 1.0), WriteSummary { rows: [1, 1, 0, 0, 0], ..WriteSummary::default() });
    for known in [7, 6, 0] {
        assert_eq!(write(known, 2.0), WriteSummary { batches_known: 1, ..WriteSummary::default() });
    }
    assert_eq!(store.epoch().unwrap(), Some(7));
    assert_eq!(read_all(&store, &every())[0].avg, 1.0);
    let query = RejectQuery {
        select: Selectors::default(),
        by: RejectGrouping::ALL,
        range: Range::ALL,
        after: None,
        limit: 9,
    };
    assert_eq!(store.rejects(&query).unwrap().rows[0].count, 1);
    // An empty epoch moves on too.
    store.write(&[batch_of(9, T0, &[], &[], &[])], &labels_of).unwrap();
    drop(store);
    assert_eq!(dir.store().epoch().unwrap(), Some(9));
}

#[test]
fn nothing_of_a_failed_write_stays() {
    let dir = TempDir::new();
    let store = dir.store();
    let rows = [stats(series(0), HOUR_MS, T0, 0, 1.0)];
    let good = batch_of(1, T0, &rows, &[], &[]);
    let bad = batch_of(u64::MAX, T0, &rows, &[], &[]);
    let error = store.write(&[good.clone(), bad], &labels_of).unwrap_err();
    assert_eq!(error.to_string(), "epoch cannot exceed 9223372036854775807; got 18446744073709551615");
    // A table of the hour that cannot take our rows: the second statement of the transaction fails.
    let conn = Connection::open(dir.file()).unwrap();
    conn.execute_batch(&format!("CREATE TABLE windows_{} (x)", T0 / HOUR_MS)).unwrap();
    let error = store.write(std::slice::from_ref(&good), &labels_of).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }) && !error.is_transient(), "{error}");
    assert_eq!(store.epoch().unwrap(), None);
    assert_eq!(store.status().unwrap().series, 0);
    conn.execute_batch(&format!("DROP TABLE windows_{}", T0 / HOUR_MS)).unwrap();
    assert_eq!(store.write(&[good], &labels_of).unwrap().rows, [1, 0, 0, 0, 0]);
    assert_eq!(store.status().unwrap().series, 1, "what was rolled back is not taken for known");
}

#[test]
fn a_row_of_a_lower_rank_never_replaces_a_higher_one() {
    let dir = TempDir::new();
    let store = dir.store();
    let mut epoch = 0;
    let mut write_counted = |count, revision, avg, hour| {
        epoch += 1;
        let rows = [WindowStats { count, ..stats(series(3), HOUR_MS, T0, revision, avg) }];
        let batch = batch_of(epoch, T0 + hour * HOUR_MS, &rows, &[], &[]);
        store.write(&[batch], &labels_of).unwrap();
        let read = read_all(&store, &every());
        assert_eq!(read.len(), 1);
        read[0].avg
    };
    let mut write = |revision, avg, hour| write_counted(5, revision, avg, hour);
    assert_eq!(write(2, 1.0, 0), 1.0);
    assert_eq!(write(1, 2.0, 0), 1.0, "older, same table");
    assert_eq!(write(2, 3.0, 0), 3.0, "equal, same table");
    assert_eq!(write(1, 4.0, 1), 3.0, "older, later table");
    assert_eq!(write(3, 5.0, 2), 5.0, "newer, later table");
    assert_eq!(write(4, 6.0, 1), 6.0, "newer, earlier table: the clock went back");
    assert_eq!(write(2, 7.0, 3), 6.0, "older, latest table");
    assert_eq!(write_counted(4, 9, 8.0, 1), 6.0, "of fewer samples, same table");
    assert_eq!(write_counted(4, 9, 9.0, 3), 6.0, "of fewer samples, latest table");
    assert_eq!(write_counted(6, 0, 10.0, 1), 10.0, "of more samples, same table");
    assert_eq!(write_counted(7, 1, 11.0, 2), 11.0, "of more samples, later table");
    assert_eq!(write_counted(6, 5, 12.0, 4), 11.0, "of fewer samples, latest table");
    drop(store);
    assert_eq!(read_all(&dir.store(), &every())[0].avg, 11.0, "after opening again");
}

#[test]
fn an_offer_is_judged_by_the_row_that_readers_see() {
    let dir = TempDir::new();
    let store = dir.store();
    let at = |minute: i64| T0 + minute * 60_000;
    let row = |minute, count, revision, avg| WindowStats {
        count,
        ..stats(series(3), HOUR_MS, at(minute), revision, avg)
    };
    // What is partial gives way to what is whole, of as many samples, or is of more.
    let partial = |minute| WindowStats { partial: true, ..row(minute, 5, 0, 1.0) };
    let rows = [partial(20), partial(21), partial(22), partial(23)];
    let first = batch_of(0, T0, &rows, &[], &[]);
    store.write(&[first], &labels_of).unwrap();
    // Two tables: the later one has a row of minute 1 that the earlier one outdoes.
    for (epoch, rows) in
        [(1, [row(1, 5, 2, 1.0), row(2, 5, 0, 1.0)]), (2, [row(1, 4, 3, 9.0), row(3, 5, 7, 1.0)])]
    {
        let batch = batch_of(epoch, T0 + epoch as i64 * HOUR_MS, &rows, &[], &[]);
        store.write(&[batch], &labels_of).unwrap();
    }
    let offer = |minute, count, avg, whole| Offer { stats: row(minute, count, 99, avg), whole };
    let offers = [
        (offer(0, 1, 1.0, false), OfferVerdict::Added, 1),
        (offer(1, 5, 1.0, false), OfferVerdict::Unchanged, 2),
        (offer(2, 6, 2.0, false), OfferVerdict::Partial, 0),
        (offer(3, 5, 2.0, true), OfferVerdict::Replaced, 8),
        (offer(1, 4, 2.0, true), OfferVerdict::Larger, 2),
        (offer(2, 6, 2.0, true), OfferVerdict::Replaced, 1),
        (offer(20, 5, 1.0, false), OfferVerdict::Unchanged, 0),
        (offer(20, 5, 1.0, true), OfferVerdict::Replaced, 1),
        (offer(21, 6, 2.0, false), OfferVerdict::Replaced, 1),
        (offer(22, 4, 2.0, true), OfferVerdict::Larger, 0),
        (offer(23, 6, 2.0, true), OfferVerdict::Replaced, 1),
    ];
    for (offer, verdict, revision) in offers {
        let done = store.amend(T0 + 9 * HOUR_MS, &[offer], &labels_of).unwrap();
        assert_eq!(done, [verdict], "{offer:?}");
        let range = Some(crate::store::Range { start_ms: offer.stats.at_ms, end_ms: offer.stats.at_ms });
        let read = read_all(&store, &WindowQuery { range, ..every() });
        assert_eq!(read[0].revision, revision, "{offer:?}");
        let still = [(20, false), (21, false), (22, true)]
            .contains(&((offer.stats.at_ms - T0) / 60_000, offer.whole))
            || offer.stats.at_ms == at(22);
        assert_eq!(read[0].partial, still, "{offer:?}");
    }
    assert_eq!(store.epoch().unwrap(), Some(2));
    // A second time nothing is written, and a row of the engine with fewer samples replaces nothing.
    let again = [offer(0, 1, 1.0, true), offer(3, 5, 2.0, true), offer(2, 6, 2.0, true)];
    assert_eq!(store.amend(T0 + 9 * HOUR_MS, &again, &labels_of).unwrap(), [OfferVerdict::Unchanged; 3]);
    let rows = [row(2, 5, 9, 7.0)];
    store.write(&[batch_of(3, T0, &rows, &[], &[])], &labels_of).unwrap();
    assert_eq!(store.amend(T0, &again, &labels_of).unwrap(), [OfferVerdict::Unchanged; 3]);
    // One that has fewer quantiles takes none away, one that has more brings them.
    let mut more = again[0].stats.quantiles;
    more.0[7] = 3.0;
    for (quantiles, verdict) in
        [(QuantileValues::default(), OfferVerdict::Unchanged), (more, OfferVerdict::Replaced)]
    {
        let offer = Offer { stats: WindowStats { quantiles, ..again[0].stats }, whole: true };
        assert_eq!(store.amend(T0 + 9 * HOUR_MS, &[offer], &labels_of).unwrap(), [verdict]);
    }
    let read_only = Embedded::open_read_only(&dir.file(), EmbeddedOptions::default()).unwrap();
    assert!(read_only.amend(T0, &again, &labels_of).is_err());
}

#[test]
fn the_latest_row_of_a_silent_series_is_found_across_a_gap() {
    let dir = TempDir::new();
    let store = dir.store();
    let year = 365 * 24 * HOUR_MS;
    let write = |epoch, id, at_ms, written_ms| {
        let rows: Vec<_> = WINDOWS.iter().map(|(w, hop)| stats(id, *w, at_ms / hop * hop, 0, 1.0)).collect();
        store.write(&[batch_of(epoch, written_ms, &rows, &[], &[])], &labels_of).unwrap();
    };
    write(1, series(0), T0, T0 + year);
    for minute in 0..200 {
        write(2 + minute as u64, series(1), T0 + year + minute * 60_000, T0 + year + minute * 60_000);
    }
    let read =
        read_all(&store, &WindowQuery { select: Selectors::parse(&["node_load1"]).unwrap(), ..every() });
    assert_eq!(read.iter().map(|row| row.at_ms).collect::<Vec<_>>(), [T0; 3]);
    assert_eq!(read_all(&store, &every()).len(), 6);
}

#[test]
fn retention_drops_whole_tables_and_the_series_in_them() {
    for seed in 300..306 {
        let dir = TempDir::new();
        let (store, mut model, mut random) = random_store(&dir, seed);
        drop(store);
        let store = Embedded::open(
            &dir.file(),
            EmbeddedOptions { retention_ms: 2 * HOUR_MS, drop_share: 1, ..EmbeddedOptions::default() },
        )
        .unwrap();
        let late = [stats(series(100), HOUR_MS, T0, 0, 1.0)];
        let newest = model.windows.iter().map(|(written, _)| *written).max().unwrap();
        let batch = batch_of(model.epoch + 1, newest, &late, &[], &[]);
        store.write(&[batch], &labels_of).unwrap();
        model.windows.push((newest, late[0]));
        let now_ms = newest + random.i64(0..4 * HOUR_MS);
        // An hour is kept until all that can have been written in it is older than the retention.
        let kept = |written_ms: i64| (written_ms / HOUR_MS + 1) * HOUR_MS > now_ms - 2 * HOUR_MS;
        let before = store.status().unwrap();
        let dropped = store.drop_expired(now_ms).unwrap();
        let after = store.status().unwrap();
        assert_eq!(before.tables - dropped.tables, after.tables, "seed {seed}");
        assert_eq!(hourly_rows(&before) - dropped.rows, hourly_rows(&after));
        model.windows.retain(|(written, _)| kept(*written));
        model.rejects.retain(|(written, _, _)| kept(*written));
        for _ in 0..10 {
            let query = random_query(&mut random);
            assert_eq!(read_all(&store, &query), naive(&model, &query), "seed {seed}, {query:?}");
        }
        let mut series: Vec<_> = model.windows.iter().map(|(_, stats)| stats.series).collect();
        series.extend(model.rejects.iter().filter_map(|(_, _, reject)| reject.series));
        series.sort();
        series.dedup();
        assert_eq!(after.series, series.len() as u64, "seed {seed}");
        assert_eq!(store.drop_expired(now_ms).unwrap(), Default::default());
        // A series that was dropped from the catalog comes back with its rows.
        let rows = [stats(series_of(0), HOUR_MS, T0, 0, 1.0), stats(testing::series(1), HOUR_MS, T0, 9, 1.0)];
        let batch = batch_of(model.epoch + 2, now_ms, &rows, &[], &[]);
        assert_eq!(store.write(&[batch], &labels_of).unwrap().series_unlabelled, 1);
        assert!(read_all(&store, &every()).iter().any(|row| row.series == testing::series(1)));
    }
}

#[test]
fn a_reader_sees_one_moment_while_another_connection_writes() {
    let dir = TempDir::new();
    let writer = dir.store();
    let write = |epoch: u64| {
        let at_ms = T0 + epoch as i64 * 60_000;
        let rows: Vec<_> = (0..600).map(|i| stats(series(i), HOUR_MS, at_ms, 0, epoch as f64)).collect();
        writer.write(&[batch_of(epoch, at_ms, &rows, &[], &[])], &labels_of).unwrap();
    };
    write(1);
    let reader = Embedded::open_read_only(&dir.file(), EmbeddedOptions::default()).unwrap();
    let mut epoch = 1;
    let query = ExportQuery {
        kind: ExportKind::of::<WindowStats>(),
        select: Selectors::default(),
        range: Range::ALL,
    };
    let mut seen = 0;
    reader
        .export(&query, &mut |_| {
            if seen % 100 == 0 {
                epoch += 1;
                write(epoch);
                writer.drop_expired(T0).unwrap();
            }
            seen += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, 600, "the export shows the moment it began");
    assert_eq!(reader.epoch().unwrap(), Some(epoch));
    assert_eq!(read_all(&reader, &every()).len(), 600);
    // A cursor stays good while rows are written between pages.
    let first = reader.windows(&WindowQuery { limit: 250, ..every() }).unwrap();
    write(epoch + 1);
    let after = first.rows.last().map(window_key);
    let rest = reader.windows(&WindowQuery { after, limit: 10_000, ..every() }).unwrap();
    assert_eq!((first.rows.len(), rest.rows.len()), (250, 350), "each key once");
    let error = reader.write(&[], &labels_of).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot write to the store ") && error.ends_with("for reading only"),
        "{error}"
    );
}

#[test]
fn a_question_that_takes_too_long_ends_with_the_bound() {
    let dir = TempDir::new();
    let (store, _, _) = random_store(&dir, 1);
    drop(store);
    let options = EmbeddedOptions { deadline: Duration::ZERO, ..EmbeddedOptions::default() };
    let store = Embedded::open(&dir.file(), options).unwrap();
    for range in [None, Some(Range::ALL)] {
        let error = store.windows(&WindowQuery { range, ..every() }).unwrap_err().to_string();
        assert!(error.starts_with("the query took longer than 0 ms; ask for fewer series"), "{error}");
    }
    assert!(store.epoch().unwrap().is_some(), "the next question is not late");
}

#[test]
fn a_row_that_is_not_finite_is_kept_as_such() {
    let dir = TempDir::new();
    let store = dir.store();
    let mut row = stats(series(0), HOUR_MS, T0, 0, 1.0);
    (row.avg, row.std, row.max) = (f64::NAN, f64::INFINITY, f64::NEG_INFINITY);
    store.write(&[batch_of(1, T0, &[row], &[], &[])], &labels_of).unwrap();
    let read = read_all(&store, &every())[0];
    assert!(read.avg.is_nan() && read.std == f64::INFINITY && read.max == f64::NEG_INFINITY);
}

/// One row of each of two series, and types of both.
fn typed(store: &Embedded, epoch: u64, types: &[(SeriesId, MetricType)]) {
    let mut rows = [2, 3].map(|i| WindowStats { count: 2, ..stats(series(i), HOUR_MS, T0, 0, 4.0) });
    rows.sort_by_key(WindowStats::key);
    let batch = batch_of(epoch, T0, &rows, &[], types);
    store.write(&[batch], &labels_of).unwrap();
}

/// The names of the series that show an increase, by pages, by a filter on it, by the catalog and by an export.
fn counters(store: &Embedded) -> Vec<String> {
    let filter = Filter { stat: Statistic::named("increase").unwrap(), least: 0.0, most: 1e9 };
    let paged = store.windows(&every()).unwrap().rows;
    let name = |row: &WindowRow| row.series.name.clone();
    let names: Vec<_> = paged.iter().filter(|row| row.series.is_counter()).map(name).collect();
    let filtered = store.windows(&WindowQuery { filters: vec![filter], ..every() }).unwrap().rows;
    assert_eq!(filtered.iter().map(name).collect::<Vec<_>>(), names);
    let query = ExportQuery {
        kind: ExportKind::of::<WindowStats>(),
        select: Selectors::default(),
        range: Range::ALL,
    };
    let lines = exported(store, query, true);
    let mut shown: Vec<_> =
        lines.iter().filter(|line| line.get("rate").is_some()).map(|line| line["name"].clone()).collect();
    shown.sort_by_key(ToString::to_string);
    assert_eq!(shown, names);
    let catalog = CatalogQuery { select: Selectors::default(), after: None, limit: 10 };
    let rows = store.catalog(&catalog).unwrap().rows;
    assert_eq!(
        rows.iter().filter(|row| row.is_counter()).map(|row| row.name.clone()).collect::<Vec<_>>(),
        names
    );
    names
}

#[test]
fn a_type_that_was_told_decides_what_is_shown_and_the_newest_one_does() {
    let dir = TempDir::new();
    let store = dir.store();
    let (total, bucket) = (series(2), series(3));
    typed(&store, 1, &[]);
    assert_eq!(counters(&store), ["http_requests_total", "rpc_seconds_bucket"], "by their suffixes");
    typed(&store, 2, &[(total, MetricType::Gauge)]);
    assert_eq!(counters(&store), ["rpc_seconds_bucket"]);
    typed(&store, 3, &[(total, MetricType::Counter), (bucket, MetricType::Gauge)]);
    assert_eq!(counters(&store), ["http_requests_total"]);
    drop(store);
    let store = dir.store();
    assert_eq!(counters(&store), ["http_requests_total"], "after a restart");
    // Types go with their series.
    store.drop_expired(T0 + 365 * 24 * HOUR_MS).unwrap();
    let left: u64 = store
        .view()
        .unwrap()
        .conn()
        .query_row("SELECT count(*) FROM types", [], |row| unsigned(row, 0))
        .unwrap();
    assert_eq!(left, 0);
}

/// Writes one row of a key at a revision with so many samples.
fn revise(store: &Embedded, epoch: u64, at_ms: i64, revision: u32, count: u32) -> u64 {
    let rows = [WindowStats { count, ..stats(series(1), HOUR_MS, at_ms, revision, 1.0) }];
    let written_ms = T0 + epoch as i64 * 1_000;
    let batch = batch_of(epoch, written_ms, &rows, &[], &[]);
    store.write(&[batch], &labels_of).unwrap().corrections_dropped
}

fn revisions(store: &Embedded, at_ms: i64) -> Vec<(u32, Option<u64>, u32)> {
    let told = store.explain(series(1), HOUR_MS, at_ms).unwrap();
    told.corrections.iter().map(|one| (one.revision, one.epoch, one.count)).collect()
}

#[test]
fn corrections_are_kept_with_what_was_there_before() {
    let dir = TempDir::new();
    let store = dir.store();
    revise(&store, 1, T0, 0, 10);
    assert_eq!(revisions(&store, T0), [], "nothing was corrected");
    revise(&store, 2, T0, 1, 12);
    revise(&store, 3, T0, 2, 13);
    assert_eq!(revisions(&store, T0), [(0, None, 10), (1, Some(2), 12), (2, Some(3), 13)]);
    let told = store.explain(series(1), HOUR_MS, T0).unwrap();
    assert_eq!(told.corrections[0].written_ms, T0, "the hour of the table");
    assert_eq!(told.corrections[2].written_ms, T0 + 3_000);
    assert_eq!((told.row.unwrap().revision, told.epoch), (2, Some(3)));
    assert_eq!(told.series.unwrap().name, "up");

    // All in one write: the epoch of the first answer is known, too.
    let rows =
        [0, 1, 2].map(|i| [WindowStats { count: 5 + i, ..stats(series(1), HOUR_MS, T0 + HOUR_MS, i, 1.0) }]);
    let batch = |i: usize| batch_of(4 + i as u64, T0, &rows[i], &[], &[]);
    store.write(&[batch(0), batch(1), batch(2)], &labels_of).unwrap();
    assert_eq!(revisions(&store, T0 + HOUR_MS), [(0, Some(4), 5), (1, Some(5), 6), (2, Some(6), 7)]);

    // What a backfill puts in the place of a row is told without an epoch; what it adds where nothing was is not told.
    let better = WindowStats { count: 99, ..stats(series(1), HOUR_MS, T0, 0, 2.0) };
    let new = stats(series(1), HOUR_MS, T0 - HOUR_MS, 0, 2.0);
    let offers = [better, new].map(|stats| Offer { stats, whole: true });
    store.amend(T0 + 9_000, &offers, &labels_of).unwrap();
    assert_eq!(revisions(&store, T0)[3], (3, None, 99));
    assert_eq!(revisions(&store, T0 - HOUR_MS), []);
    let unknown = store.explain(series(7), HOUR_MS, T0).unwrap();
    assert_eq!((unknown.series, unknown.row), (None, None));
}

#[test]
fn corrections_are_bounded_by_key_and_in_all_and_by_retention() {
    let dir = TempDir::new();
    let options =
        EmbeddedOptions { corrections_max: 100, retention_ms: 2 * HOUR_MS, ..EmbeddedOptions::default() };
    let store = Embedded::open(&dir.file(), options).unwrap();
    let dropped: u64 = (0..90).map(|i| revise(&store, u64::from(i) + 1, T0, i, 10 + i)).sum();
    assert_eq!(dropped, 0);
    let held: Vec<u32> = revisions(&store, T0).iter().map(|one| one.0).collect();
    assert_eq!(held, std::iter::once(0).chain(27..90).collect::<Vec<_>>());

    let mut dropped = 0;
    for i in 0..60 {
        dropped += revise(&store, 100 + 2 * i, T0 + HOUR_MS * (i as i64 + 1), 0, 1);
        dropped += revise(&store, 101 + 2 * i, T0 + HOUR_MS * (i as i64 + 1), 1, 2);
    }
    let count = || -> u64 {
        let view = store.view().unwrap();
        view.conn().query_row("SELECT count(*) FROM corrections", [], |row| unsigned(row, 0)).unwrap()
    };
    assert_eq!((dropped, count()), (64 + 120 - 100, 100));
    assert_eq!(revisions(&store, T0), [], "the oldest go first");
    while store.drop_expired(T0 + 365 * 24 * HOUR_MS).unwrap().tables_left > 0 {}
    assert_eq!(count(), 0);
}

#[test]
fn labels_that_were_unknown_are_learned_later() {
    let dir = TempDir::new();
    let store = dir.store();
    let write = |epoch: u64, hour: i64, known: bool| {
        let rows = [stats(series(1), HOUR_MS, T0 + epoch as i64 * HOUR_MS, 0, 1.0)];
        let batch = batch_of(epoch, T0 + hour * HOUR_MS, &rows, &[], &[]);
        let labels = |id| known.then(|| labels_of(id)).flatten();
        store.write(&[batch], &labels).unwrap().series_unlabelled
    };
    let names = || {
        let query = CatalogQuery { select: Selectors::default(), after: None, limit: 9 };
        store.catalog(&query).unwrap().rows.into_iter().map(|row| row.name).collect::<Vec<_>>()
    };
    assert_eq!((write(1, 0, false), names()), (1, vec![String::new()]));
    assert_eq!((write(2, 1, true), names()), (0, vec!["up".to_owned()]));
    assert_eq!((write(3, 2, false), names()), (0, vec!["up".to_owned()]));
}

#[test]
fn stored_series_keep_the_order_of_their_ids() {
    let mut ids = [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, 0x9e37_79b9_7f4a_7c15].map(SeriesId);
    ids.sort();
    let keys = ids.map(key_of);
    assert!(keys.is_sorted());
    assert_eq!(keys.map(series_of), ids);
}

/// The file that the other program of the test below opens; the tests themselves have no such variable.
const OTHER: &str = "TIDEWATCH_TEST_OTHER_PROGRAM";

/// Another program: it opens the file for writing, reads and closes it, which folds the log into the file if nobody else
/// has it open.
#[test]
fn another_program() {
    let Ok(path) = std::env::var(OTHER) else { return };
    let conn = Connection::open(path).unwrap();
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).unwrap();
    assert!(tables > 0);
    conn.close().unwrap();
}

#[test]
fn a_sync_leaves_the_locks_on_which_other_programs_rely() {
    let dir = TempDir::new();
    let path = dir.path().join("store.sqlite");
    let store = Embedded::open(&path, EmbeddedOptions::default()).unwrap();
    let write = |epoch: u64| {
        let batch = batch_of(epoch, T0, &[], &[], &[]);
        store.write(&[batch], &labels_of).unwrap();
        assert_eq!(store.sync().unwrap(), Some(epoch));
    };
    write(1);
    let done = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["store::embedded::tests::another_program", "--exact"])
        .env(OTHER, &path)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).contains("1 passed"), "{done:?}");
    assert!(dir.path().join("store.sqlite-wal").exists(), "the log is still in use");
    write(2);
    drop(store);
    assert_eq!(Embedded::open(&path, EmbeddedOptions::default()).unwrap().epoch().unwrap(), Some(2));
}
