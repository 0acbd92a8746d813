//! Pages of window rows.
//!
//! Rows are asked for by series, and tables are ordered by time: a page walks the series, and for each the possible
//! `at` (multiples of a step the manifest knows), with look-ups by primary key in the tables that may hold it. What a
//! page costs therefore follows from what it shows, not from what is stored.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rusqlite::{CachedStatement, Row, params};
use tidewatch_dataflows::rows::columns::{FieldType, FieldValue, list_of};
use tidewatch_dataflows::rows::{KINDS, ResultRow, WindowStats, place_of};
use tidewatch_dataflows::sample::SeriesId;

use super::catalog::WalkedSeries;
use super::matching::SeriesWalk;
use super::schema::{columns, table};
use super::values::{key_of, series_of, unsigned};
use super::view::{Partition, View};
use crate::store::row::WindowRow;
use crate::store::{PAGE_BYTES_MAX, Page, SeriesKey, StoreError, WindowKey, WindowQuery};

/// Most instants whose tables are remembered per window.
const INSTANTS_REMEMBERED_MAX: usize = 8_192;

/// A page of window rows.
pub fn page(view: &View<'_>, query: &WindowQuery) -> Result<Page<WindowRow>, StoreError> {
    let from = query.after.as_ref().map(|key| SeriesKey { name: key.name.clone(), series: key.series });
    let mut series = SeriesWalk::new(view, &query.select, &query.search, from.as_ref())?;
    let partitions = view.partitions::<WindowStats>()?.into_iter();
    let asked =
        partitions.filter(|partition| query.windows.is_empty() || query.windows.contains(&partition.value));
    let mut probes: Vec<_> = asked.map(|partition| Probe::new(view, partition)).collect();
    let mut statements = HashMap::new();
    let mut out = Out { query, rows: Vec::new(), bytes: 0 };
    while let Some(found) = series.next()? {
        for probe in &mut probes {
            let over = match query.range {
                None => probe.latest(&found, &mut statements, &mut out)?,
                Some(range) => {
                    let first = (range.start_ms).max(out.resume(&found, probe.partition.value));
                    probe.range(&found, first, range.end_ms, &mut statements, &mut out)?
                }
            };
            if over {
                return Ok(Page { rows: out.rows, more: true });
            }
        }
    }
    Ok(Page { rows: out.rows, more: false })
}

/// The rows under the keys of `of`, each as readers see it.
pub fn keys<'k>(
    view: &View<'_>,
    of: impl Iterator<Item = &'k WindowStats>,
) -> Result<Vec<Option<WindowStats>>, StoreError> {
    let probe = |partition: Partition| (partition.value, Probe::new(view, partition));
    let mut probes: HashMap<_, _> = view.partitions::<WindowStats>()?.into_iter().map(probe).collect();
    let mut statements = HashMap::new();
    of.map(|key| match probes.get_mut(&key.window_ms) {
        Some(probe) => probe.look_up(key.at_ms, key.series, &mut statements),
        None => Ok(None),
    })
    .collect()
}

/// The row under one key, as readers see it.
pub fn key(view: &View<'_>, key: (SeriesId, i64, i64)) -> Result<Option<WindowStats>, StoreError> {
    let Some(partition) =
        view.partitions::<WindowStats>()?.into_iter().find(|partition| partition.value == key.1)
    else {
        return Ok(None);
    };
    Probe::new(view, partition).look_up(key.2, key.0, &mut HashMap::new())
}

/// The page as it fills.
struct Out<'q> {
    query: &'q WindowQuery,
    rows: Vec<WindowRow>,
    bytes: usize,
}

impl Out<'_> {
    /// Takes a row if it is asked for; true if the page was full and the row belongs to the next.
    fn offer(&mut self, found: &WalkedSeries, stats: WindowStats) -> bool {
        let inside = self.query.filters.iter().all(|filter| {
            filter
                .stat
                .of(found.series.is_counter(), &stats)
                .is_some_and(|value| (filter.least..=filter.most).contains(&value))
        });
        if !inside {
            return false;
        }
        if self.rows.len() == self.query.limit || self.bytes > PAGE_BYTES_MAX {
            return true;
        }
        self.bytes += found.series.printed_bytes() + 256;
        self.rows.push(WindowRow { series: found.series.clone(), stats });
        false
    }

    /// The first `at` of a series and window that earlier pages did not show; the greatest if they showed all.
    fn resume(&self, found: &WalkedSeries, window_ms: i64) -> i64 {
        match &self.query.after {
            Some(after) if is_series(after, found) && window_ms < after.window_ms => i64::MAX,
            Some(after) if is_series(after, found) && window_ms == after.window_ms => {
                after.at_ms.saturating_add(1)
            }
            _ => i64::MIN,
        }
    }
}

fn is_series(key: &WindowKey, found: &WalkedSeries) -> bool {
    key.series == found.series.series && key.name == found.series.name
}

/// Statements by the hour of their table.
pub type Statements<'v> = HashMap<i64, CachedStatement<'v>>;

/// Look-ups in the tables of one window.
pub struct Probe<'v, 's> {
    view: &'v View<'s>,
    partition: Partition,
    /// The hours of the tables that may hold an instant, newest first.
    instants: HashMap<i64, Vec<i64>>,
}

impl<'v, 's> Probe<'v, 's> {
    pub fn new(view: &'v View<'s>, partition: Partition) -> Self {
        Probe { view, partition, instants: HashMap::new() }
    }

    /// Offers the row with the highest `at` of a series.
    fn latest(
        &mut self,
        found: &WalkedSeries,
        statements: &mut Statements<'v>,
        out: &mut Out<'_>,
    ) -> Result<bool, StoreError> {
        // An earlier page that showed an older latest row of this key has shown the key.
        let shown = |after: &WindowKey| is_series(after, found) && self.partition.value <= after.window_ms;
        if out.query.after.as_ref().is_some_and(shown) {
            return Ok(false);
        }
        let newest = self.newest(found, i64::MAX, statements)?;
        Ok(newest.is_some_and(|stats| out.offer(found, stats)))
    }

    /// The row with the highest `at` of a series that is not after `upto`.
    pub fn newest(
        &mut self,
        found: &WalkedSeries,
        upto: i64,
        statements: &mut Statements<'v>,
    ) -> Result<Option<WindowStats>, StoreError> {
        let (first, last) = span(found);
        let mut next = self.partition.before(last.min(upto));
        while let Some(at_ms) = next.filter(|at_ms| *at_ms >= first) {
            if let Some(stats) = self.look_up(at_ms, found.series.series, statements)? {
                return Ok(Some(stats));
            }
            next = at_ms.checked_sub(1).and_then(|before| self.partition.before(before));
        }
        Ok(None)
    }

    /// Offers the rows of a series with `at` in `first..=last`.
    fn range(
        &mut self,
        found: &WalkedSeries,
        first: i64,
        last: i64,
        statements: &mut Statements<'v>,
        out: &mut Out<'_>,
    ) -> Result<bool, StoreError> {
        let span = span(found);
        let last = last.min(span.1);
        let mut next = self.after(first.max(span.0));
        while let Some(at_ms) = next.filter(|at_ms| *at_ms <= last) {
            if let Some(stats) = self.look_up(at_ms, found.series.series, statements)?
                && out.offer(found, stats)
            {
                return Ok(true);
            }
            next = at_ms.checked_add(1).and_then(|after| self.after(after));
        }
        Ok(false)
    }

    /// The earliest possible `at` that is not before `first`.
    fn after(&self, first: i64) -> Option<i64> {
        let parts = self.partition.parts.iter().filter(|part| part.at_max >= first);
        let step_ms = self.partition.step_ms;
        parts.map(|part| if part.at_min >= first { part.at_min } else { ceil(first, step_ms) }).min()
    }

    /// The row of a key: the highest rank in any table, and of equal ones the newest.
    fn look_up(
        &mut self,
        at_ms: i64,
        series: SeriesId,
        statements: &mut Statements<'v>,
    ) -> Result<Option<WindowStats>, StoreError> {
        self.view.in_time()?;
        if self.instants.len() >= INSTANTS_REMEMBERED_MAX {
            self.instants.clear();
        }
        let hours = self.instants.entry(at_ms).or_insert_with(|| {
            self.partition.parts.iter().filter(|part| part.holds(at_ms)).map(|part| part.hour).collect()
        });
        let mut best: Option<WindowStats> = None;
        for hour in hours.iter() {
            let stats = one(self.view, statements, *hour, (self.partition.value, at_ms, key_of(series)))?;
            if let Some(stats) = stats
                && best.is_none_or(|best| best.rank() < stats.rank())
            {
                best = Some(stats);
            }
        }
        Ok(best)
    }
}

/// One row of one table.
fn one<'v>(
    view: &'v View<'_>,
    statements: &mut Statements<'v>,
    hour: i64,
    key: (i64, i64, i64),
) -> Result<Option<WindowStats>, StoreError> {
    let fail = |e| view.fail("read windows", e);
    let statement = match statements.entry(hour) {
        Entry::Occupied(held) => held.into_mut(),
        Entry::Vacant(place) => {
            let sql = format!(
                "SELECT {} FROM {} WHERE window_ms = ?1 AND at_ms = ?2 AND series = ?3",
                columns(&KINDS[place_of::<WindowStats>()]),
                table(&KINDS[place_of::<WindowStats>()], hour)
            );
            place.insert(view.conn().prepare_cached(&sql).map_err(fail)?)
        }
    };
    let mut rows = statement.query(params![key.0, key.1, key.2]).map_err(fail)?;
    rows.next().map_err(fail)?.map(stored).transpose().map_err(fail)
}

/// The row in all columns of a table of its kind.
pub fn stored<K: ResultRow>(row: &Row<'_>) -> rusqlite::Result<K> {
    let mut place = 0;
    let next = |of| {
        place += 1;
        let column = place - 1;
        Ok(match of {
            FieldType::Int => FieldValue::Int(row.get(column)?),
            FieldType::UInt => FieldValue::UInt(unsigned(row, column)?),
            // SQLite has no NaN: it stores NULL.
            FieldType::Float => FieldValue::Float(row.get::<_, Option<f64>>(column)?.unwrap_or(f64::NAN)),
            FieldType::Series => FieldValue::Series(series_of(row.get(column)?)),
            FieldType::Floats => {
                let list = list_of(row.get_ref(column)?.as_blob()?);
                let why = "a list is cut short".into();
                FieldValue::Floats(list.ok_or(rusqlite::Error::ToSqlConversionFailure(why))?)
            }
        })
    };
    K::from_values(next, |name, value| {
        let why = format!("{name} of a {} cannot be {value:?}", K::SINGULAR);
        rusqlite::Error::ToSqlConversionFailure(why.into())
    })
}

/// The first and the last instant at which a window of a series may end.
fn span(found: &WalkedSeries) -> (i64, i64) {
    const HOUR_MS: i64 = 3_600_000;
    let (from, to) = found.hours;
    (from.saturating_mul(HOUR_MS), to.saturating_add(1).saturating_mul(HOUR_MS).saturating_sub(1))
}

/// The least multiple of `step` that is not below `value`.
fn ceil(value: i64, step: i64) -> i64 {
    match value.rem_euclid(step) {
        0 => value,
        rest => value.saturating_add(step - rest),
    }
}
