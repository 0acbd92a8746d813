//! Retention: whole tables go, by the hour they were written in, and then the series that have no rows any more.
//!
//! Tables are few. Series may be many millions, so the catalogue is swept a slice at a time in the order of the ids,
//! each slice in a transaction of its own, a bounded number of slices each time somebody asks. A sweep begins when
//! tables were dropped and when the store was opened; what expires during a sweep is found by the next one.

use std::path::Path;

use rusqlite::{Transaction, TransactionBehavior, params};

use super::schema::failure;
use super::unsigned;
use super::write::Writer;
use crate::store::{Dropped, StoreError};

const HOUR_MS: i64 = 3_600_000;
/// Entries that one transaction looks at.
const SLICE: i64 = 8_192;
/// Slices each time: about a quarter of a second, and a hundred million series are done within a few hours.
const SLICES: usize = 64;

/// How far the catalogue was swept: all series with lower keys are done.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Where the next slice begins; none when there is nothing to do.
    catalogue: Option<i64>,
    types: Option<i64>,
}

impl Default for Sweep {
    fn default() -> Self {
        Sweep { catalogue: Some(i64::MIN), types: Some(i64::MIN) }
    }
}

impl Writer {
    /// Drops the tables whose last possible instant of writing is more than `retention_ms` ago, and some of the series that
    /// were last written in one of them.
    pub fn drop_expired(
        &mut self,
        path: &Path,
        now_ms: i64,
        retention_ms: i64,
    ) -> Result<Dropped, StoreError> {
        // Hour h is over at (h + 1) * HOUR_MS; hours from this one on are kept.
        let hour_min = now_ms.saturating_sub(retention_ms).div_euclid(HOUR_MS);
        let mut dropped = self.drop_tables(path, hour_min)?;
        if dropped.tables > 0 {
            self.sweep = Sweep::default();
        }
        let fail = |error| failure(path, "drop expired series", error);
        for _ in 0..SLICES {
            let Sweep { catalogue, types } = self.sweep;
            if catalogue.is_none() && types.is_none() {
                break;
            }
            let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
            // First the catalogue, for a type stays as long as its series is there.
            let (swept, series) = match (catalogue, types) {
                (Some(from), _) => {
                    let (next, series) = sweep_catalogue(&tx, from, hour_min).map_err(fail)?;
                    (Sweep { catalogue: next, types }, series)
                }
                (None, Some(from)) => {
                    (Sweep { catalogue, types: sweep_types(&tx, from, hour_min).map_err(fail)? }, 0)
                }
                (None, None) => unreachable!("that ends the loop"),
            };
            tx.commit().map_err(fail)?;
            self.sweep = swept;
            dropped.series += series;
        }
        // Those the writer remembers were written in its hour.
        self.forget_before(hour_min);
        Ok(dropped)
    }

    fn drop_tables(&mut self, path: &Path, hour_min: i64) -> Result<Dropped, StoreError> {
        let fail = |error| failure(path, "drop expired rows", error);
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        let sql = "SELECT kind || '_' || hour, sum(rows) FROM manifest WHERE hour < ?1 GROUP BY kind, hour";
        let expired: Vec<(String, u64)> = {
            let mut statement = tx.prepare_cached(sql).map_err(fail)?;
            let rows =
                statement.query_map([hour_min], |row| Ok((row.get(0)?, unsigned(row, 1)?))).map_err(fail)?;
            rows.collect::<Result<_, _>>().map_err(fail)?
        };
        let mut dropped = Dropped::default();
        for (table, rows) in expired {
            tx.execute_batch(&format!("DROP TABLE IF EXISTS {table}")).map_err(fail)?;
            dropped.tables += 1;
            dropped.rows += rows;
        }
        if dropped.tables > 0 {
            tx.execute("DELETE FROM manifest WHERE hour < ?1", [hour_min]).map_err(fail)?;
            super::corrections::expire(&tx, hour_min.saturating_mul(HOUR_MS)).map_err(fail)?;
        }
        tx.commit().map_err(fail)?;
        Ok(dropped)
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
fn sweep_catalogue(tx: &Transaction<'_>, from: i64, hour_min: i64) -> rusqlite::Result<(Option<i64>, u64)> {
    let last = end_of_slice(tx, "catalogue", from)?;
    let sql = "DELETE FROM catalogue WHERE series >= ?1 AND series <= ?2 AND written_hour < ?3";
    let removed = tx.prepare_cached(sql)?.execute(params![from, last.unwrap_or(i64::MAX), hour_min])?;
    Ok((last.and_then(|last| last.checked_add(1)), removed as u64))
}

/// Removes the types of a slice whose series are gone; one may be told before its series has a row.
fn sweep_types(tx: &Transaction<'_>, from: i64, hour_min: i64) -> rusqlite::Result<Option<i64>> {
    let last = end_of_slice(tx, "types", from)?;
    let sql = "DELETE FROM types WHERE series >= ?1 AND series <= ?2 AND told_hour < ?3 \
               AND NOT EXISTS (SELECT 1 FROM catalogue WHERE catalogue.series = types.series)";
    tx.prepare_cached(sql)?.execute(params![from, last.unwrap_or(i64::MAX), hour_min])?;
    Ok(last.and_then(|last| last.checked_add(1)))
}
