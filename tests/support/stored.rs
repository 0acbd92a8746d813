//! Rows as the API and `export` show them, held against the slow oracle; and the logs of a data directory, read while
//! nobody writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tidewatch::journal::{JournalReader, Record};
use tidewatch::outbox::{DurablePosition, OutboxBatch, Tail};
use tidewatch::segments::{self, Position};
use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::rows::windows::QuantileValues;
use tidewatch_dataflows::sample::{Control, MetricType, Samples, SeriesId};
use tidewatch_dataflows::settings::{Settings, duration};

use super::Folder;
use super::process::Tidewatch;
use crate::oracle::{Epoch, from_scratch, same_row};

/// The newest sample of each series: what comes after it depends on when one stopped.
pub fn newest(samples: &Samples) -> BTreeMap<u64, i64> {
    let mut newest = BTreeMap::new();
    for (series, at_ms) in samples.series.iter().zip(&samples.at_ms) {
        let held = newest.entry(*series).or_insert(*at_ms);
        *held = (*at_ms).max(*held);
    }
    newest
}

/// Checks that `rows`, restricted to keys before the newest sample of their series, are exactly those that `samples`
/// give from scratch.
pub fn check(what: &str, settings: &Settings, rows: &[Value], samples: &Samples) {
    let (want, newest) = (from_scratch(settings, samples), newest(samples));
    let mut got = BTreeMap::new();
    for row in rows {
        let key = key(settings, row);
        let known = newest.get(&key.0.0).unwrap_or_else(|| panic!("{what}: nobody sent this series: {row}"));
        if key.2 < *known {
            assert!(got.insert(key, row).is_none(), "{what}: twice: {row}");
        }
    }
    for (key, want) in &want {
        let row = got.get(key).unwrap_or_else(|| panic!("{what}: there is no row {want:?}"));
        let row_stats = stats(row, want);
        assert!(same_row(&row_stats, want), "{what}:\n got {row}\nwant {want:?}");
    }
    let extra = got.iter().find(|(key, _)| !want.contains_key(key));
    assert!(extra.is_none(), "{what}: a row that its samples do not give: {extra:?}");
}

pub fn key(settings: &Settings, row: &Value) -> (SeriesId, i64, i64) {
    let series: SeriesId = row["series"].as_str().unwrap().parse().unwrap();
    let window = settings.windows.iter().find(|w| row["window"] == duration(w.length_ms));
    let window = window.unwrap_or_else(|| panic!("a window nobody asked for: {row}"));
    (series, window.length_ms, row["at_ms"].as_i64().unwrap())
}

/// Names of the quantiles of a row.
const QUANTILE_NAMES: [&str; 8] = ["p5", "p25", "p50", "p75", "p90", "p95", "p99", "p999"];

/// The numbers of a row; what it does not show is taken from `want`.
pub fn stats(row: &Value, want: &WindowStats) -> WindowStats {
    let number = |field: &str| row[field].as_f64().unwrap_or_else(|| panic!("no {field}: {row}"));
    WindowStats {
        count: row["count"].as_u64().unwrap() as u32,
        min: number("min"),
        max: number("max"),
        avg: number("avg"),
        std: number("std"),
        first: number("first"),
        last: number("last"),
        sum: number("sum"),
        changes: number("changes") as u32,
        resets: row["resets"].as_u64().map_or(want.resets, |resets| resets as u32),
        increase: row["increase"].as_f64().unwrap_or(want.increase),
        partial: row["partial"] == true,
        quantiles: QuantileValues(QUANTILE_NAMES.map(|name| row[name].as_f64().unwrap_or(f64::NAN))),
        ..*want
    }
}

/// How far a log in a folder goes that nobody writes.
fn whole(dir: &Path) -> Arc<DurablePosition> {
    let segment = segments::list(dir).unwrap().pop().unwrap_or(0);
    let file = std::fs::metadata(dir.join(format!("{segment:020}.seg")));
    let end = Position { segment, offset: file.map_or(0, |file| file.len()) };
    let durable = Arc::new(DurablePosition::new(end, None));
    durable.close();
    durable
}

/// Every epoch of the journal in a data directory, and the samples after the last end.
pub fn epochs(data: &Path) -> (Vec<Epoch>, Samples) {
    let dir = data.join("journal");
    let mut reader = JournalReader::open(&dir, whole(&dir)).unwrap();
    let (mut epochs, mut epoch) = (Vec::new(), Epoch::default());
    while let Some(record) = reader.next_ready().unwrap() {
        match record {
            Record::Samples(mut more) if more.bootstrap == 0 => epoch.live.append(&mut more),
            Record::Samples(more) => epoch.bootstraps.push(more),
            Record::Control(control) => epoch.controls.push(Arc::new(control)),
            Record::EpochEnd(end) => epochs.push(Epoch { end, ..std::mem::take(&mut epoch) }),
            Record::Settings(now) => epoch.controls.push(Arc::new(Control::Settings(Arc::new(now)))),
            Record::Bootstraps(_) => {}
        }
    }
    (epochs, epoch.live)
}

/// Every live sample of the journal in a data directory.
pub fn samples(data: &Path) -> Samples {
    let (epochs, mut open) = epochs(data);
    let mut samples = Samples::default();
    epochs.into_iter().for_each(|mut epoch| samples.append(&mut epoch.live));
    samples.append(&mut open);
    samples
}

/// Every type of a series that the journal in a data directory holds.
pub fn types(data: &Path) -> Vec<(u64, MetricType)> {
    let dir = data.join("journal");
    let mut reader = JournalReader::open(&dir, whole(&dir)).unwrap();
    let records = std::iter::from_fn(|| reader.next_ready().unwrap());
    let told = records.filter_map(|record| match record {
        Record::Control(Control::Types(types)) => Some(types),
        _ => None,
    });
    told.flatten().collect()
}

/// The names of a log's segments.
pub fn segments(data: &Path, log: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(data.join(log)).unwrap().map(|file| file.unwrap().file_name());
    files.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.ends_with(".seg")).collect()
}

/// A journal run once more from its beginning.
#[derive(Debug)]
pub struct Rerun {
    /// Rows of windows that are revisions.
    pub revised: usize,
    /// Rows of profiles.
    pub profiles: usize,
    /// The profiles that its store holds, as the API shows them.
    pub stored: Vec<Value>,
}

impl Rerun {
    /// Runs the journal of a data directory, or of a mirror, with this configuration, undisturbed and without snapshots. Each epoch
    /// has the same rows of every kind, byte for byte.
    pub fn of(what: &str, config: &str, all: &Path) -> Rerun {
        let copy = Folder::new("copy");
        // No snapshots within the run.
        std::fs::write(copy.path().join("tidewatch.yml"), config.replace("every: 1s}", "every: 1h}"))
            .unwrap();
        for log in ["journal", "series"] {
            std::fs::create_dir_all(copy.path().join("data").join(log)).unwrap();
            for name in segments(all, log) {
                let to = copy.path().join("data").join(log).join(&name);
                std::fs::copy(all.join(log).join(&name), to).unwrap();
            }
        }
        let mut undisturbed = Tidewatch::start_in(copy);
        let stored = undisturbed.rows("/api/v1/profiles", &[]);
        assert_eq!(undisturbed.process().terminate().code(), Some(0));
        let (crashed, again) = (outbox(all), outbox(&undisturbed.folder().join("data")));
        // The run over the copy added some itself.
        assert!(crashed.len() <= again.len(), "{what}");
        for (crashed, again) in crashed.iter().zip(&again) {
            assert_eq!(crashed, again, "{what}");
        }
        assert_eq!(crashed.len(), epochs(all).0.len(), "{what}: an epoch is missing in the outbox");
        let windows = crashed.iter().flat_map(|batch| &batch.windows);
        Rerun {
            revised: windows.filter(|row| row.revision > 0).count(),
            profiles: crashed.iter().map(|batch| batch.profiles.len()).sum(),
            stored,
        }
    }
}

/// Every batch of the outbox in a data directory.
pub fn outbox(data: &Path) -> Vec<OutboxBatch> {
    let dir = data.join("outbox");
    let mut tail = Tail::open(&dir, whole(&dir), None).unwrap();
    std::iter::from_fn(|| tail.next().unwrap()).collect()
}
