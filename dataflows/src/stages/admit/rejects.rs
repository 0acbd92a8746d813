//! Sums what was refused into rows, a minute of processing time at a time.

use std::collections::HashMap;

use super::ring::NEVER;
use crate::rows::Reject;
use crate::sample::{EpochEnd, Reason, SeriesId};

/// Reject rows of one shard and minute that name their series.
pub const REJECT_ROWS_MAX: usize = 1_000;
const MINUTE_MS: i64 = 60_000;

/// Reject rows of the running minute of processing time.
pub(super) struct Rejects {
    pub(super) minute: i64,
    pub(super) rows: Vec<Reject>,
    pub(super) index:
        HashMap<(u64, Reason), usize, std::hash::BuildHasherDefault<crate::shard::SeriesHasher>>,
    pub(super) rest: [Option<Reject>; Reason::ALL.len()],
}

impl Default for Rejects {
    fn default() -> Self {
        Rejects { minute: NEVER, rows: Vec::new(), index: HashMap::default(), rest: [None; _] }
    }
}

impl Rejects {
    pub(super) fn add(&mut self, series: SeriesId, reason: Reason, at_ms: i64) {
        self.add_all(series, reason, 1, (at_ms, at_ms));
    }

    /// `count` samples, from the first to the last time.
    pub(super) fn add_all(
        &mut self,
        series: SeriesId,
        reason: Reason,
        count: u64,
        (first_at_ms, last_at_ms): (i64, i64),
    ) {
        if reason == Reason::Duplicate {
            return;
        }
        let row = match self.index.get(&(series.0, reason)) {
            Some(index) => &mut self.rows[*index],
            None if self.rows.len() < REJECT_ROWS_MAX => {
                self.index.insert((series.0, reason), self.rows.len());
                self.rows.push(Reject { series: Some(series), reason, count: 0, first_at_ms, last_at_ms });
                self.rows.last_mut().expect("a row was pushed")
            }
            None => self.rest[reason as usize].get_or_insert(Reject {
                series: None,
                reason,
                count: 0,
                first_at_ms,
                last_at_ms,
            }),
        };
        row.count += count;
        row.first_at_ms = row.first_at_ms.min(first_at_ms);
        row.last_at_ms = row.last_at_ms.max(last_at_ms);
    }

    /// Whether a row that names the series is still to be emitted.
    pub(super) fn hold(&self, series: SeriesId) -> bool {
        !self.rows.is_empty()
            && Reason::ALL.iter().any(|reason| self.index.contains_key(&(series.0, *reason)))
    }

    /// The minute is one of a clock that was set back.
    pub(super) fn set_back(&mut self, to_ms: i64) {
        self.minute = self.minute.min(to_ms.div_euclid(MINUTE_MS));
    }

    /// Emits the rows when a minute of processing time is full, or at the end of an input.
    pub(super) fn flush(&mut self, end: EpochEnd, out: &mut Vec<Reject>) {
        let minute = if end.processing_ms == NEVER { NEVER } else { end.processing_ms.div_euclid(MINUTE_MS) };
        if minute > self.minute || end.last_of_input {
            out.append(&mut self.rows);
            out.extend(self.rest.iter_mut().filter_map(Option::take));
            self.index.clear();
        }
        self.minute = self.minute.max(minute);
    }
}
