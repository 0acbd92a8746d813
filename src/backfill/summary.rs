//! What a backfill came to: rows by what became of them, and the ranges in which the store may show less than all
//! samples together would give.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::sample::Reason;
use tidewatch_dataflows::settings::{Window, duration};

use crate::store::OfferVerdict;

/// Keys named one by one.
const KEYS_NAMED: usize = 20;

/// How many keys, and from where to where.
#[derive(Clone, Copy, Debug, Default)]
struct KeyRange {
    rows: u64,
    first_ms: i64,
    last_ms: i64,
}

impl KeyRange {
    fn add(&mut self, at_ms: i64) {
        (self.first_ms, self.last_ms) = match self.rows {
            0 => (at_ms, at_ms),
            _ => (self.first_ms.min(at_ms), self.last_ms.max(at_ms)),
        };
        self.rows += 1;
    }

    fn json(&self) -> Value {
        match self.rows {
            0 => json!({"rows": 0}),
            rows => json!({"rows": rows, "first": time(self.first_ms), "last": time(self.last_ms)}),
        }
    }
}

/// What became of the rows of one window.
#[derive(Clone, Debug)]
struct WindowSummary {
    length_ms: i64,
    added: u64,
    unchanged: u64,
    replaced: KeyRange,
    larger: KeyRange,
    partial: KeyRange,
    live: KeyRange,
    /// Windows that end after the first and before the second reach back to samples of the backfill, and are not its.
    look_back: Option<(i64, i64)>,
}

/// What a backfill came to.
#[derive(Clone, Debug)]
pub struct BackfillSummary {
    /// Samples taken.
    pub samples: u64,
    /// Samples outside the range, left out.
    pub outside: u64,
    /// Series of the samples.
    pub series: u64,
    keys: (i64, i64),
    not_applied: BTreeMap<&'static str, u64>,
    windows: Vec<WindowSummary>,
    larger_first: Vec<(String, String, i64)>,
}

impl BackfillSummary {
    /// Nothing yet, for keys after `keys.0` up to `keys.1`.
    pub fn new(windows: &[Window], keys: (i64, i64)) -> BackfillSummary {
        let mut windows: Vec<_> = windows.iter().map(|window| window.length_ms).collect();
        windows.sort_unstable();
        let empty = |length_ms| WindowSummary {
            length_ms,
            added: 0,
            unchanged: 0,
            replaced: KeyRange::default(),
            larger: KeyRange::default(),
            partial: KeyRange::default(),
            live: KeyRange::default(),
            look_back: None,
        };
        BackfillSummary {
            samples: 0,
            outside: 0,
            series: 0,
            keys,
            not_applied: BTreeMap::new(),
            windows: windows.into_iter().map(empty).collect(),
            larger_first: Vec::new(),
        }
    }

    /// Whether a key at this time is asked for.
    pub fn is_requested(&self, at_ms: i64) -> bool {
        self.keys.0 < at_ms && at_ms <= self.keys.1
    }

    /// Notes samples that the second gate did not apply.
    pub fn rejected(&mut self, reason: Reason, count: u64) {
        *self.not_applied.entry(reason.as_str()).or_default() += count;
    }

    /// Notes a key that is the live engine's.
    pub fn live(&mut self, stats: &WindowStats) {
        if let Some(window) = self.window(stats.window_ms) {
            window.live.add(stats.at_ms);
        }
    }

    /// Notes what the store made of a row.
    pub fn judged(&mut self, stats: &WindowStats, verdict: OfferVerdict) {
        let Some(window) = self.window(stats.window_ms) else { return };
        match verdict {
            OfferVerdict::Added => window.added += 1,
            OfferVerdict::Unchanged => window.unchanged += 1,
            OfferVerdict::Replaced => window.replaced.add(stats.at_ms),
            OfferVerdict::Partial => window.partial.add(stats.at_ms),
            OfferVerdict::Larger => {
                window.larger.add(stats.at_ms);
                if self.larger_first.len() < KEYS_NAMED {
                    let key = (stats.series.to_string(), duration(stats.window_ms), stats.at_ms);
                    self.larger_first.push(key);
                }
            }
        }
    }

    /// Notes how far each series was written and where its samples end: later windows reach back to them.
    pub fn look_back(&mut self, series: impl Iterator<Item = (i64, i64)>) {
        let (mut after, mut last) = (i64::MAX, i64::MIN);
        for (limit_ms, last_ms) in series {
            after = after.min(limit_ms.min(self.keys.1));
            last = last.max(last_ms);
        }
        for window in &mut self.windows {
            let before = last.saturating_add(window.length_ms);
            window.look_back = (after < before).then_some((after, before));
        }
    }

    /// Rows written.
    pub fn written(&self) -> u64 {
        self.windows.iter().map(|window| window.added + window.replaced.rows).sum()
    }

    fn window(&mut self, length_ms: i64) -> Option<&mut WindowSummary> {
        self.windows.iter_mut().find(|window| window.length_ms == length_ms)
    }

    fn sum(&self, of: impl Fn(&WindowSummary) -> u64) -> u64 {
        self.windows.iter().map(of).sum()
    }

    /// As `--json` and the API show it.
    pub fn json(&self) -> Value {
        let windows: Vec<_> = self.windows.iter().map(WindowSummary::json).collect();
        let first: Vec<_> = self
            .larger_first
            .iter()
            .map(|(series, window, at_ms)| json!({"series": series, "window": window, "at": time(*at_ms)}))
            .collect();
        json!({
            "samples": self.samples,
            "outside_range": self.outside,
            "series": self.series,
            "after": (self.keys.0 != i64::MIN).then(|| time(self.keys.0)),
            "to": (self.keys.1 != i64::MIN).then(|| time(self.keys.1)),
            "not_applied": self.not_applied,
            "rows": {
                "written": self.written(),
                "replaced": self.sum(|window| window.replaced.rows),
                "unchanged": self.sum(|window| window.unchanged),
                "kept": self.sum(|window| window.larger.rows + window.partial.rows),
                "live": self.sum(|window| window.live.rows),
            },
            "windows": windows,
            "larger_first": first,
        })
    }

    /// As people read it.
    pub fn text(&self) -> String {
        let mut text = format!("{} samples of {} series", self.samples, self.series);
        if self.outside > 0 {
            let _ = write!(text, ", {} outside the range left out", self.outside);
        }
        for (reason, n) in &self.not_applied {
            let _ = write!(text, ", {n} not applied: {reason}");
        }
        let _ = write!(
            text,
            "\n{} rows written, {} of them in place of others; {} were the same, {} kept, {} are the live engine's",
            self.written(),
            self.sum(|window| window.replaced.rows),
            self.sum(|window| window.unchanged),
            self.sum(|window| window.larger.rows + window.partial.rows),
            self.sum(|window| window.live.rows),
        );
        self.windows.iter().for_each(|window| window.describe(&mut text));
        for (series, window, at_ms) in &self.larger_first {
            let _ =
                write!(text, "\nkept, for it is of more samples: {window} of {series} at {}", time(*at_ms));
        }
        text
    }
}

impl WindowSummary {
    fn json(&self) -> Value {
        json!({
            "window": duration(self.length_ms),
            "written": self.added + self.replaced.rows,
            "unchanged": self.unchanged,
            "replaced": self.replaced.json(),
            "kept_larger": self.larger.json(),
            "kept_partial": self.partial.json(),
            "live": self.live.json(),
            "look_back": self.look_back.map(|(after, before)| json!({"after": time(after), "before": time(before)})),
        })
    }

    fn describe(&self, text: &mut String) {
        let window = duration(self.length_ms);
        for (spread, what) in [
            (self.replaced, "replaced; whether the backfill knew all of their samples cannot be told"),
            (self.larger, "kept, for they are of more samples"),
            (self.partial, "kept, for the samples of the backfill do not reach back over the whole window"),
        ] {
            if spread.rows > 0 {
                let (first, last) = (time(spread.first_ms), time(spread.last_ms));
                let _ = write!(text, "\n{window}: {} rows from {first} to {last} {what}", spread.rows);
            }
        }
        if let Some((after, before)) = self.look_back {
            let (after, before) = (time(after), time(before));
            let _ = write!(
                text,
                "\n{window}: what ends after {after} and before {before} reaches back to these samples and does not know them"
            );
        }
    }
}

/// RFC 3339; a time no calendar has is shown as milliseconds.
pub fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}
