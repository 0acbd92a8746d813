//! Revisions of corrected keys: what a key was when, for whoever asks why it is what it is now.
//!
//! Only keys that were corrected have entries: each row with a revision above 0, and with the first of them what the store
//! held before. They are written in the transaction of the rows, and bounded: of a key revision 0 and the newest 63, of all
//! the newest `Options::corrections_max`. Readers of rows never look here.

use std::collections::HashSet;

use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Transaction, params, params_from_iter};
use tidewatch_dataflows::rows::{KINDS, ResultRow, WindowStats, place_of};
use tidewatch_dataflows::sample::SeriesId;

use super::read;
use super::schema::table;
use super::values::{key_of, signed, unsigned};
use super::view::View;
use crate::store::row::CorrectionRow;
use crate::store::{Correction, CorrectionQuery, Page, StoreBatch, StoreError, StoredKey};

/// Most revisions of one key.
pub const OF_A_KEY_MAX: u32 = 64;

const HOUR_MS: i64 = 3_600_000;

type CorrectionKey = (SeriesId, i64, i64);

/// A row and where it came from.
struct CorrectionEntry<'a> {
    stats: &'a WindowStats,
    /// None for rows that belong to no epoch.
    epoch: Option<u64>,
    written_ms: i64,
}

/// Keeps the revisions among these rows. They come before the rows themselves, which replace what was there.
pub fn keep(tx: &Transaction<'_>, group: &[&StoreBatch<'_>]) -> rusqlite::Result<()> {
    let rows = || group.iter().flat_map(|batch| batch.rows.windows.iter().map(move |stats| (*batch, stats)));
    let corrected = rows().filter(|(_, stats)| stats.revision > 0);
    let corrected: HashSet<CorrectionKey> = corrected.map(|(_, stats)| stats.key()).collect();
    if corrected.is_empty() {
        return Ok(());
    }
    // With what those keys were in the epochs of the same write.
    let entry = |(batch, stats): (&StoreBatch<'_>, _)| CorrectionEntry {
        stats,
        epoch: (batch.epoch > 0).then_some(batch.epoch),
        written_ms: batch.written_ms,
    };
    let mut entries: Vec<CorrectionEntry<'_>> =
        rows().filter(|(_, stats)| corrected.contains(&stats.key())).map(entry).collect();
    entries.sort_by_key(|entry| (entry.stats.key(), entry.stats.revision));
    for of_key in entries.chunk_by(|a, b| a.stats.key() == b.stats.key()) {
        let (first, last) = (&of_key[0], &of_key[of_key.len() - 1]);
        let key = first.stats.key();
        if first.stats.revision > 0 && !known(tx, key)? {
            match before(tx, key)? {
                Some(before) => put(tx, key, &before)?,
                // What a backfill adds where nothing was corrects nothing.
                None if first.epoch.is_none() => continue,
                None => {}
            }
        }
        for CorrectionEntry { stats, epoch, written_ms } in of_key {
            let (revision, count) = (stats.revision, stats.count);
            put(tx, key, &Correction { revision, epoch: *epoch, written_ms: *written_ms, count })?;
        }
        if last.stats.revision >= OF_A_KEY_MAX {
            let sql = "DELETE FROM corrections WHERE series = ?1 AND window_ms = ?2 AND at_ms = ?3 \
                       AND revision > 0 AND revision <= ?4";
            let upto = last.stats.revision - (OF_A_KEY_MAX - 1);
            tx.prepare_cached(sql)?.execute(params![key_of(key.0), key.1, key.2, upto])?;
        }
    }
    Ok(())
}

fn known(tx: &Transaction<'_>, (series, window_ms, at_ms): CorrectionKey) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM corrections WHERE series = ?1 AND window_ms = ?2 AND at_ms = ?3 LIMIT 1";
    tx.prepare_cached(sql)?.exists(params![key_of(series), window_ms, at_ms])
}

/// The row that is stored, of the highest rank; its epoch was not kept.
fn before(
    tx: &Transaction<'_>,
    (series, window_ms, at_ms): CorrectionKey,
) -> rusqlite::Result<Option<Correction>> {
    let sql = "SELECT hour FROM manifest WHERE kind = 'windows' AND partition = ?1 \
               AND at_min <= ?2 AND at_max >= ?2 ORDER BY hour DESC";
    let mut best: Option<Correction> = None;
    let mut statement = tx.prepare_cached(sql)?;
    let hours = statement.query_map([window_ms, at_ms], |row| row.get::<_, i64>(0))?;
    for hour in hours.collect::<Result<Vec<_>, _>>()? {
        let sql = format!(
            "SELECT revision, count FROM {} WHERE window_ms = ?1 AND at_ms = ?2 AND series = ?3",
            table(&KINDS[place_of::<WindowStats>()], hour)
        );
        let found = tx.prepare_cached(&sql)?.query_row(params![window_ms, at_ms, key_of(series)], |row| {
            let (revision, count) = (row.get(0)?, row.get(1)?);
            Ok(Correction { revision, epoch: None, written_ms: hour * HOUR_MS, count })
        });
        let rank = |c: &Correction| (c.count, c.revision);
        let found = found.optional()?;
        best = best.into_iter().chain(found).max_by_key(rank);
    }
    Ok(best)
}

fn put(
    tx: &Transaction<'_>,
    (series, window_ms, at_ms): CorrectionKey,
    entry: &Correction,
) -> rusqlite::Result<()> {
    // A backfill and the engine count revisions each by themselves; the first word of a revision stays.
    let sql = "INSERT INTO corrections (series, window_ms, at_ms, revision, epoch, written_ms, count) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
    tx.prepare_cached(sql)?.execute(params![
        key_of(series),
        window_ms,
        at_ms,
        entry.revision,
        entry.epoch.map(signed),
        entry.written_ms,
        entry.count
    ])?;
    Ok(())
}

/// Drops the oldest entries beyond `max`; how many.
pub fn bound(tx: &Transaction<'_>, max: u64) -> rusqlite::Result<u64> {
    // Numbers rise, with gaps where single keys were bounded: at most `max` are left.
    let sql = "DELETE FROM corrections WHERE number <= (SELECT max(number) FROM corrections) - ?1";
    Ok(tx.prepare_cached(sql)?.execute([signed(max)])? as u64)
}

/// Drops what was written before `from_ms`.
pub fn expire(tx: &Transaction<'_>, from_ms: i64) -> rusqlite::Result<()> {
    // By number up to the first that stays, so that no index by time is needed.
    let first = "SELECT number FROM corrections WHERE written_ms >= ?1 ORDER BY number LIMIT 1";
    let first: Option<i64> = tx.query_row(first, [from_ms], |row| row.get(0)).optional()?;
    let sql = "DELETE FROM corrections WHERE number < ?1";
    tx.execute(sql, [first.unwrap_or(i64::MAX)])?;
    Ok(())
}

/// What is known of a key.
pub fn stored_key(
    view: &View<'_>,
    series: SeriesId,
    window_ms: i64,
    at_ms: i64,
) -> Result<StoredKey, StoreError> {
    let row = read::key(view, (series, window_ms, at_ms))?;
    let fail = |e| view.fail("read corrections", e);
    let sql = "SELECT revision, epoch, written_ms, count FROM corrections \
               WHERE series = ?1 AND window_ms = ?2 AND at_ms = ?3 ORDER BY revision";
    let mut statement = view.conn().prepare_cached(sql).map_err(fail)?;
    let corrections = statement.query_map(params![key_of(series), window_ms, at_ms], |row| {
        let epoch = row.get::<_, Option<i64>>(1)?.map(|_| unsigned(row, 1)).transpose()?;
        Ok(Correction { revision: row.get(0)?, epoch, written_ms: row.get(2)?, count: row.get(3)? })
    });
    let corrections = corrections.map_err(fail)?.collect::<Result<_, _>>().map_err(fail)?;
    Ok(StoredKey { series: view.known_series(series)?, row, corrections, epoch: view.epoch()? })
}

/// A page of the revisions of a series, the newest first.
pub fn page(view: &View<'_>, query: &CorrectionQuery) -> Result<Page<CorrectionRow>, StoreError> {
    let fail = |e| view.fail("read corrections", e);
    let mut values = vec![
        Value::from(key_of(query.series)),
        Value::from(query.before.unwrap_or(i64::MAX)),
        // One more tells whether more follow.
        Value::from(signed(query.limit as u64).saturating_add(1)),
    ];
    values.extend(query.windows.iter().map(|window_ms| Value::from(*window_ms)));
    let places: Vec<String> = (0..query.windows.len()).map(|i| format!("?{}", i + 4)).collect();
    let of_windows = match places.as_slice() {
        [] => String::new(),
        places => format!(" AND window_ms IN ({})", places.join(", ")),
    };
    let sql = format!(
        "SELECT number, window_ms, at_ms, revision, epoch, written_ms, count FROM corrections \
         WHERE series = ?1 AND number < ?2{of_windows} ORDER BY number DESC LIMIT ?3"
    );
    let mut statement = view.conn().prepare_cached(&sql).map_err(fail)?;
    let rows = statement.query_map(params_from_iter(values), |row| {
        let epoch = row.get::<_, Option<i64>>(4)?.map(|_| unsigned(row, 4)).transpose()?;
        let correction =
            Correction { revision: row.get(3)?, epoch, written_ms: row.get(5)?, count: row.get(6)? };
        Ok(CorrectionRow { number: row.get(0)?, window_ms: row.get(1)?, at_ms: row.get(2)?, correction })
    });
    let mut rows: Vec<_> = rows.map_err(fail)?.collect::<Result<_, _>>().map_err(fail)?;
    let more = rows.len() > query.limit;
    rows.truncate(query.limit);
    Ok(Page { rows, more })
}
