//! The sweep of the catalog: series without rows go, a slice at a time in the order of their ids.
//!
//! Not here: when a sweep begins, and how much of it is done at a time (`expire`).

use rusqlite::{Transaction, params};
use tidewatch_dataflows::rows::KINDS;
use tidewatch_dataflows::rows::kind::RowStorage;

/// Entries that one transaction looks at.
const SLICE: i64 = 8_192;

/// How far the catalog was swept: all series with lower keys are done.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Where the next slice begins; none when there is nothing to do.
    pub(super) catalog: Option<i64>,
    /// The same of the rows that are kept with their series: a kind, and where in its table.
    pub(super) latest: Option<(usize, i64)>,
}

impl Default for Sweep {
    fn default() -> Self {
        Sweep { catalog: Some(i64::MIN), latest: next_latest(0) }
    }
}

/// The last key of a slice that begins at `from`; none if it is the last slice.
fn end_of_slice(tx: &Transaction<'_>, table: &str, from: i64) -> rusqlite::Result<Option<i64>> {
    let sql = format!("SELECT series FROM {table} WHERE series >= ?1 ORDER BY series LIMIT 1 OFFSET ?2");
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params![from, SLICE - 1])?;
    rows.next()?.map(|row| row.get(0)).transpose()
}

/// Removes the series of a slice that were last written before `hour_min`: where the next slice begins, and how many.
pub(super) fn sweep_catalog(
    tx: &Transaction<'_>,
    from: i64,
    hour_min: i64,
) -> rusqlite::Result<(Option<i64>, u64)> {
    let last = end_of_slice(tx, "catalog", from)?;
    let sql = "DELETE FROM catalog WHERE series >= ?1 AND series <= ?2 AND written_hour < ?3";
    let removed = tx.prepare_cached(sql)?.execute(params![from, last.unwrap_or(i64::MAX), hour_min])?;
    Ok((last.and_then(|last| last.checked_add(1)), removed as u64))
}

/// The first kind from `place` on whose rows are kept with their series, and the beginning of its table.
fn next_latest(place: usize) -> Option<(usize, i64)> {
    let found = KINDS.iter().skip(place).position(|kind| kind.storage == RowStorage::Latest)?;
    Some((place + found, i64::MIN))
}

/// Removes the rows of a slice whose series are gone; a type may be told before its series has a row.
pub(super) fn sweep_latest(
    tx: &Transaction<'_>,
    (place, from): (usize, i64),
    hour_min: i64,
) -> rusqlite::Result<Option<(usize, i64)>> {
    let table = KINDS[place].name;
    let last = end_of_slice(tx, table, from)?;
    let sql = format!(
        "DELETE FROM {table} WHERE series >= ?1 AND series <= ?2 AND written_hour < ?3 \
         AND NOT EXISTS (SELECT 1 FROM catalog WHERE catalog.series = {table}.series)"
    );
    tx.prepare_cached(&sql)?.execute(params![from, last.unwrap_or(i64::MAX), hour_min])?;
    let next = last.and_then(|last| last.checked_add(1));
    Ok(next.map(|next| (place, next)).or_else(|| next_latest(place + 1)))
}
