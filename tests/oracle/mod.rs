//! The slow model: DESIGN.md §4 (closing, late, reopening, slots) written to be obviously right.
//!
//! It keeps every sample, recomputes every window from scratch and compares contents whole. What the
//! dataflow emits must equal it row for row, revision for revision, epoch for epoch.

pub mod feed;

use std::collections::{BTreeMap, BTreeSet};

use tidewatch_dataflows::kernels::reference;
use tidewatch_dataflows::outcome::{Outcomes, WindowStats};
use tidewatch_dataflows::sample::{EpochEnd, Reason, STALE_NAN_BITS, Samples, SeriesId};
use tidewatch_dataflows::settings::Settings;

/// One epoch of a feed: what the journal would hold.
pub type Epoch = (EpochEnd, Samples);

type Content = Vec<(i64, u64)>;

#[derive(Default)]
struct Series {
    samples: BTreeMap<i64, f64>,
    newest: Option<i64>,
    heard: i64,
    tombstone: Option<i64>,
    withhold: i64,
    closed: Vec<Option<i64>>,
    published: BTreeMap<(usize, i64), (u32, Content)>,
}

/// The whole model.
pub struct Model {
    settings: Settings,
    live: BTreeMap<u64, Series>,
    tombstones: BTreeMap<usize, BTreeSet<(i64, u64)>>,
    floors: BTreeMap<usize, i64>,
}

impl Model {
    pub fn new(settings: &Settings) -> Self {
        Model {
            settings: settings.clone(),
            live: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            floors: BTreeMap::new(),
        }
    }

    /// What one epoch must come to: windows (numbers by the slow twin), freed series, counts by reason.
    pub fn epoch(&mut self, (end, samples): &Epoch) -> Outcomes {
        let mut rows: Vec<(u64, i64, u64, f64)> = (0..samples.len())
            .map(|i| {
                let bits = samples.value[i].to_bits();
                let key = if bits == STALE_NAN_BITS { u64::MAX } else { bits };
                (samples.series[i], samples.at_ms[i], key, samples.value[i])
            })
            .collect();
        rows.sort_by_key(|row| (row.0, row.1, row.2));
        let mut out = Outcomes::default();
        let mut dirty: BTreeMap<u64, BTreeSet<(usize, i64)>> = BTreeMap::new();
        for (id, at, key, value) in rows {
            let shard = SeriesId(id).shard();
            if !self.live.contains_key(&id) {
                let stones = self.tombstones.entry(shard).or_default();
                let tombstone = stones.iter().find(|(_, series)| *series == id).copied();
                if let Some(stone) = tombstone {
                    stones.remove(&stone);
                }
                let floor = self.floors.get(&shard).copied().unwrap_or(i64::MIN);
                let tombstone = tombstone.map(|(at, _)| at);
                self.live.insert(
                    id,
                    Series {
                        heard: end.stream_ms,
                        tombstone,
                        withhold: tombstone.unwrap_or(floor),
                        closed: vec![None; self.settings.windows.len()],
                        ..Series::default()
                    },
                );
            }
            let series = self.live.get_mut(&id).expect("just inserted");
            if key == u64::MAX {
                out.counts.stale_markers += 1;
                continue;
            }
            match series.apply(&self.settings, at, value, dirty.entry(id).or_default()) {
                Ok(late) => {
                    series.heard = end.stream_ms;
                    out.counts.applied += 1;
                    out.counts.late += u64::from(late);
                }
                Err(reason) => out.counts.rejected[reason as usize] += 1,
            }
        }
        let keep = self.settings.keep_ms();
        let mut freed = Vec::new();
        for (id, series) in &mut self.live {
            let mut keys = dirty.remove(id).unwrap_or_default();
            series.silence(&self.settings, end.close_ms, &mut keys);
            series.emit(&self.settings, SeriesId(*id), &keys, &mut out.windows);
            let newest = series.newest.unwrap_or(series.heard);
            let quiet = end.close_ms > newest.saturating_add(keep)
                && end.stream_ms > series.heard.saturating_add(keep);
            if quiet && (series.newest.is_none() || series.silent(&self.settings, end.close_ms)) {
                freed.push(*id);
            }
        }
        for id in freed {
            let series = self.live.remove(&id).expect("it is live");
            out.freed.push(SeriesId(id));
            let Some(at) = series.newest.max(series.tombstone) else { continue };
            let shard = SeriesId(id).shard();
            let stones = self.tombstones.entry(shard).or_default();
            stones.insert((at, id));
            while stones.len() as u64 > self.settings.series_max / 256 {
                let (at, _) = stones.pop_first().expect("it is not empty");
                let floor = self.floors.entry(shard).or_insert(i64::MIN);
                *floor = (*floor).max(at);
            }
        }
        out.windows.sort_by_key(WindowStats::key);
        out
    }
}

impl Series {
    fn apply(
        &mut self,
        settings: &Settings,
        at: i64,
        value: f64,
        dirty: &mut BTreeSet<(usize, i64)>,
    ) -> Result<bool, Reason> {
        if self.tombstone.is_some_and(|stone| at <= stone)
            || self.newest.is_some_and(|newest| newest - at > settings.lateness_ms)
        {
            return Err(Reason::TooOld);
        }
        if !value.is_finite() {
            return Err(Reason::NotFinite);
        }
        if let Some(known) = self.samples.get(&at) {
            return Err(if known.to_bits() == value.to_bits() {
                Reason::Duplicate
            } else {
                Reason::DuplicateTimestamp
            });
        }
        self.samples.insert(at, value);
        let late = self.newest.is_some_and(|newest| at < newest);
        for (w, window) in settings.windows.iter().enumerate() {
            let (length, hop) = (window.length_ms, window.hop_ms);
            let up = -(-at).div_euclid(hop) * hop;
            if late {
                let closed = self.closed[w].expect("a late sample has one before it");
                dirty.extend(
                    (0..)
                        .map(|i| up + i * hop)
                        .take_while(|key| *key < at + length && *key <= closed)
                        .map(|key| (w, key)),
                );
            } else {
                let below = up - hop;
                let closed = self.closed[w].unwrap_or(below).min(below);
                dirty.extend(
                    (1..).map(|i| closed + i * hop).take_while(|key| *key <= below).map(|key| (w, key)),
                );
                self.closed[w] = Some(below);
            }
        }
        if !late {
            self.newest = Some(at);
        }
        Ok(late)
    }

    fn silent(&self, settings: &Settings, close: i64) -> bool {
        let Some(newest) = self.newest else { return false };
        let behind = self.heard.saturating_sub(newest) > settings.settle_ms;
        let wait = if behind { settings.catch_up_ms } else { settings.settle_ms };
        self.heard.saturating_add(wait) <= close
    }

    fn silence(&mut self, settings: &Settings, close: i64, dirty: &mut BTreeSet<(usize, i64)>) {
        let Some(newest) = self.newest else { return };
        if close == i64::MIN || !self.silent(settings, close) {
            return;
        }
        for (w, window) in settings.windows.iter().enumerate() {
            let upto = (close - settings.settle_ms).div_euclid(window.hop_ms) * window.hop_ms;
            let closed = self.closed[w].expect("it has a newest sample");
            let last = upto.min(newest + window.length_ms);
            dirty.extend(
                (1..).map(|i| closed + i * window.hop_ms).take_while(|key| *key <= last).map(|key| (w, key)),
            );
            self.closed[w] = Some(closed.max(upto));
        }
    }

    fn emit(
        &mut self,
        settings: &Settings,
        id: SeriesId,
        keys: &BTreeSet<(usize, i64)>,
        out: &mut Vec<WindowStats>,
    ) {
        for (w, at) in keys.iter().copied() {
            let window = settings.windows[w];
            if at - window.length_ms < self.withhold {
                continue;
            }
            let content: Content =
                self.samples.range(at - window.length_ms + 1..=at).map(|(t, v)| (*t, v.to_bits())).collect();
            if content.is_empty() {
                continue;
            }
            let before = self.published.get(&(w, at));
            if before.is_some_and(|(_, known)| *known == content) {
                continue;
            }
            let revision = before.map_or(0, |(revision, _)| revision + 1);
            out.push(direct(id, window.length_ms, at, revision, &content));
            self.published.insert((w, at), (revision, content));
        }
    }
}

/// A row computed from scratch.
fn direct(
    series: SeriesId,
    window_ms: i64,
    at_ms: i64,
    revision: u32,
    content: &[(i64, u64)],
) -> WindowStats {
    let values: Vec<f64> = content.iter().map(|(_, bits)| f64::from_bits(*bits)).collect();
    let slow = reference::moments(&values);
    WindowStats {
        series,
        window_ms,
        at_ms,
        revision,
        count: content.len() as u32,
        span_ms: (content[content.len() - 1].0 - content[0].0) as u32,
        min: slow.min,
        max: slow.max,
        avg: slow.avg,
        std: slow.std,
        first: values[0],
        last: values[values.len() - 1],
        increase: slow.increase,
    }
}

/// Final answers by direct computation from a set of samples: every key before the newest sample of its series.
pub fn from_scratch(settings: &Settings, samples: &Samples) -> BTreeMap<(SeriesId, i64, i64), WindowStats> {
    let mut all: BTreeMap<u64, BTreeMap<i64, f64>> = BTreeMap::new();
    for i in 0..samples.len() {
        all.entry(samples.series[i]).or_default().entry(samples.at_ms[i]).or_insert(samples.value[i]);
    }
    let mut rows = BTreeMap::new();
    for (id, samples) in all {
        let (first, newest) =
            (*samples.keys().next().expect("not empty"), *samples.keys().next_back().expect("not empty"));
        for window in &settings.windows {
            let mut at = -(-first).div_euclid(window.hop_ms) * window.hop_ms;
            while at < newest {
                let content: Content =
                    samples.range(at - window.length_ms + 1..=at).map(|(t, v)| (*t, v.to_bits())).collect();
                if !content.is_empty() {
                    let row = direct(SeriesId(id), window.length_ms, at, 0, &content);
                    rows.insert(row.key(), row);
                }
                at += window.hop_ms;
            }
        }
    }
    rows
}

/// Whether a row equals the slow model's: exact where exactness is promised, else to rounding.
pub fn same_row(got: &WindowStats, want: &WindowStats) -> bool {
    let near = |a: f64, b: f64, scale: f64| {
        a.to_bits() == b.to_bits() || (a - b).abs() <= 1e-13 * scale + f64::MIN_POSITIVE
    };
    let size = want.min.abs().max(want.max.abs());
    let spread = (want.max - want.min).abs();
    (got.key(), got.revision, got.count, got.span_ms) == (want.key(), want.revision, want.count, want.span_ms)
        && (got.min, got.max, got.first, got.last) == (want.min, want.max, want.first, want.last)
        && near(got.avg, want.avg, size * 0.01 + spread)
        && near(got.std, want.std, want.std.max(spread * 1e-3))
        && near(got.increase, want.increase, want.increase.abs().max(size))
}
