//! The latest row of each series, sorted by one of its numbers.
//!
//! Rows lie by instant, and at a live server nearly every series has its latest row at one of the newest few: whole
//! instants are read, newest first, side by side with the series that are meant, both in the order of their keys. The
//! few series that are left then are looked up one by one. Only the best rows are kept, as many as the page shows.
//!
//! ```text
//!   meant     a . c d . f g       sorted by key
//!   newest    a b c . e . .       found: a c
//!   before    a b . d e . g       found: d g      f is looked up
//! ```

use std::collections::BinaryHeap;
use std::sync::Arc;

use rusqlite::params;
use tidewatch_dataflows::rows::{KINDS, ResultRow, WindowStats, place_of};

use super::matching::{self, Matching, MatchingSeries};
use super::read::{Probe, Statements, stored};
use super::schema::{columns, table};
use super::values::series_of;
use super::view::{Partition, View};
use crate::store::row::WindowRow;
use crate::store::sort::{Sort, SortBy, SortPlace};
use crate::store::{PAGE_BYTES_MAX, Page, StoreError, WindowQuery};

/// Where at most this many series are left, they are looked up one by one.
const SINGLY: usize = 256;

/// Instants that are read whatever they give: series close at different times of a hop.
const INSTANTS_MIN: usize = 4;

/// Further instants are read while each gives at least one of this many series that are left.
const YIELD: usize = 32;

/// A look-up costs about as much as reading this many rows of an instant.
const ROWS_PER_LOOK_UP: usize = 12;

/// A page of the latest rows of one window, sorted.
///
/// # Errors
/// Not exactly one window, a range, or the store cannot be read in time.
pub fn page(view: &View<'_>, query: &WindowQuery, sort: &Sort) -> Result<Page<WindowRow>, StoreError> {
    let ([window_ms], None) = (query.windows.as_slice(), query.range) else {
        return Err(StoreError::Refused("a sorted list is of one window, without a range".to_owned()));
    };
    let Some(partition) =
        view.partitions::<WindowStats>()?.into_iter().find(|partition| partition.value == *window_ms)
    else {
        return Ok(Page { rows: Vec::new(), more: false });
    };
    let by_counter = matches!(sort.by, SortBy::Stat(stat) if stat.is_of_counters());
    let counters = by_counter || query.filters.iter().any(|filter| filter.stat.is_of_counters());
    let matching = match query.select.names() {
        Some(_) => matching::walk(view, &query.select, &query.search)?,
        None => matching::scan(view, &query.select, &query.search, counters, usize::MAX)?,
    };
    let mut best = Best { query, sort, names: &matching.names, heap: BinaryHeap::new() };
    LatestRows { view, partition, left: matching.series.clone() }.each(&matching, &mut |meant, stats| {
        best.offer(meant, stats);
    })?;
    best.page(view)
}

/// Finds the latest row of each series.
struct LatestRows<'v, 's> {
    view: &'v View<'s>,
    partition: Partition,
    /// Series whose row is not found, by key.
    left: Vec<MatchingSeries>,
}

impl LatestRows<'_, '_> {
    fn each(
        mut self,
        matching: &Matching,
        each: &mut dyn FnMut(MatchingSeries, WindowStats),
    ) -> Result<(), StoreError> {
        let mut next = self.partition.before(i64::MAX);
        let mut read = 0;
        let few = |left: usize| left <= SINGLY || left.saturating_mul(ROWS_PER_LOOK_UP) < matching.seen;
        while let Some(at_ms) = next.filter(|_| !few(self.left.len())) {
            let before = self.left.len();
            self.instant(at_ms, each)?;
            next = at_ms.checked_sub(1).and_then(|before| self.partition.before(before));
            read += 1;
            if read >= INSTANTS_MIN && (before - self.left.len()).saturating_mul(YIELD) < before {
                break;
            }
        }
        // An instant that was read is not looked at again: nobody who is left has a row there.
        let Some(upto) = next else { return Ok(()) };
        let mut probe = Probe::new(self.view, self.partition);
        let mut statements = Statements::new();
        for meant in self.left {
            let Some(found) = matching::fetch(self.view, meant.key)? else { continue };
            if let Some(stats) = probe.newest(&found, upto, &mut statements)? {
                each(meant, stats);
            }
        }
        Ok(())
    }

    /// Reads all rows of an instant, and hands on those of series that are left.
    fn instant(
        &mut self,
        at_ms: i64,
        each: &mut dyn FnMut(MatchingSeries, WindowStats),
    ) -> Result<(), StoreError> {
        let mut rows: Vec<Option<WindowStats>> = vec![None; self.left.len()];
        // Newest hour first: of equal ranks the newest stays.
        for part in self.partition.parts.iter().filter(|part| part.holds(at_ms)) {
            self.part(part.hour, at_ms, &mut rows)?;
        }
        let mut rows = rows.into_iter();
        self.left.retain(|meant| match rows.next().flatten() {
            Some(stats) => {
                each(*meant, stats);
                false
            }
            None => true,
        });
        Ok(())
    }

    /// Merges the rows of one table into `rows`, which stand beside the series that are left.
    fn part(&self, hour: i64, at_ms: i64, rows: &mut [Option<WindowStats>]) -> Result<(), StoreError> {
        let fail = |e| self.view.fail("read windows", e);
        self.view.in_time()?;
        let kind = &KINDS[place_of::<WindowStats>()];
        let sql = format!(
            "SELECT {}, series FROM {} WHERE window_ms = ?1 AND at_ms = ?2 ORDER BY series",
            columns(kind),
            table(kind, hour)
        );
        let mut statement = self.view.conn().prepare_cached(&sql).map_err(fail)?;
        let mut found = statement.query(params![self.partition.value, at_ms]).map_err(fail)?;
        let mut place = 0;
        while let Some(row) = found.next().map_err(fail)? {
            let key: i64 = row.get(kind.fields.len()).map_err(fail)?;
            while self.left.get(place).is_some_and(|meant| meant.key < key) {
                place += 1;
            }
            let Some(meant) = self.left.get(place) else { break };
            if meant.key != key {
                continue;
            }
            let stats: WindowStats = stored(row).map_err(fail)?;
            if rows[place].is_none_or(|held| held.rank() < stats.rank()) {
                rows[place] = Some(stats);
            }
        }
        Ok(())
    }
}

/// The best rows so far: as many as the page shows, and one that says whether there are more.
struct Best<'q> {
    query: &'q WindowQuery,
    sort: &'q Sort,
    names: &'q [String],
    /// The worst on top.
    heap: BinaryHeap<RankedRow<'q>>,
}

struct RankedRow<'q> {
    place: SortPlace<'q>,
    stats: WindowStats,
}

impl Best<'_> {
    fn offer(&mut self, meant: MatchingSeries, stats: WindowStats) {
        let inside = self.query.filters.iter().all(|filter| {
            let value = filter.stat.of(meant.counter, &stats);
            value.is_some_and(|value| (filter.least..=filter.most).contains(&value))
        });
        if !inside {
            return;
        }
        let (name, series) = (self.names[meant.name as usize].as_str(), series_of(meant.key));
        let place = self.sort.place(self.sort.value(meant.counter, &stats), name, series);
        let shown = |after: &(Option<f64>, String, _)| place <= self.sort.place(after.0, &after.1, after.2);
        if self.sort.after.as_ref().is_some_and(shown) {
            return;
        }
        if self.heap.len() > self.query.limit {
            if self.heap.peek().is_some_and(|worst| worst.place <= place) {
                return;
            }
            self.heap.pop();
        }
        self.heap.push(RankedRow { place, stats });
    }

    fn page(self, view: &View<'_>) -> Result<Page<WindowRow>, StoreError> {
        let more = self.heap.len() > self.query.limit;
        let mut kept = self.heap.into_sorted_vec();
        kept.truncate(self.query.limit);
        let (mut rows, mut bytes) = (Vec::with_capacity(kept.len()), 0);
        for RankedRow { stats, .. } in kept {
            if bytes > PAGE_BYTES_MAX {
                return Ok(Page { rows, more: true });
            }
            let series = Arc::new(view.series(stats.series)?);
            bytes += series.printed_bytes() + 256;
            rows.push(WindowRow { series, stats });
        }
        Ok(Page { rows, more })
    }
}

impl PartialEq for RankedRow<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for RankedRow<'_> {}

impl PartialOrd for RankedRow<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RankedRow<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place.cmp(&other.place)
    }
}
