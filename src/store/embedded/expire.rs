//! Retention: whole tables go, by the hour they were written in, and then the series that have no rows any more.
//!
//! What the time is, the caller judges; a part of the tables goes at a time ([`EmbeddedOptions::drop_share`]).
//!
//! Tables are few. Series may be many millions, so the catalog is swept a slice at a time in the order of the ids,
//! each slice in a transaction of its own, a bounded number of slices each time somebody asks. A sweep begins when
//! tables were dropped and when the store was opened; what expires during a sweep is found by the next one.

use std::path::Path;

use rusqlite::TransactionBehavior;

use super::options::EmbeddedOptions;
use super::schema::failure;
use super::sweep::{Sweep, sweep_catalog, sweep_latest};
use super::values::unsigned;
use super::write::StoreWriter;
use crate::store::{RetentionSummary, StoreError};

const HOUR_MS: i64 = 3_600_000;
/// Slices each time: about a quarter of a second, and a hundred million series are done within a few hours.
const SLICES: usize = 64;

impl StoreWriter {
    /// Drops tables whose last possible instant of writing is further ago than the retention, and some of the series that
    /// were last written in one of them.
    pub fn drop_expired(
        &mut self,
        path: &Path,
        now_ms: i64,
        options: &EmbeddedOptions,
    ) -> Result<RetentionSummary, StoreError> {
        // Hour h is over at (h + 1) * HOUR_MS; hours from this one on are kept.
        let hour_min = now_ms.saturating_sub(options.retention_ms).div_euclid(HOUR_MS);
        let (mut dropped, hour_min) = self.drop_tables(path, now_ms, hour_min, options.drop_share)?;
        if dropped.tables > 0 {
            self.sweep = Sweep::default();
        }
        let fail = |error| failure(path, "drop expired series", error);
        for _ in 0..SLICES {
            let Sweep { catalog, latest } = self.sweep;
            if catalog.is_none() && latest.is_none() {
                break;
            }
            let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
            // First the catalog, for such a row stays as long as its series is there.
            let (swept, series) = match (catalog, latest) {
                (Some(from), _) => {
                    let (next, series) = sweep_catalog(&tx, from, hour_min).map_err(fail)?;
                    (Sweep { catalog: next, latest }, series)
                }
                (None, Some(from)) => {
                    (Sweep { catalog, latest: sweep_latest(&tx, from, hour_min).map_err(fail)? }, 0)
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

    /// Drops the oldest of the tables before `hour_min`: what was dropped, and the hour that everything is kept from.
    fn drop_tables(
        &mut self,
        path: &Path,
        now_ms: i64,
        hour_min: i64,
        share: u64,
    ) -> Result<(RetentionSummary, i64), StoreError> {
        let fail = |error| failure(path, "drop expired rows", error);
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        let sql =
            "SELECT kind || '_' || hour, hour, sum(rows) FROM manifest GROUP BY kind, hour ORDER BY hour";
        let tables: Vec<(String, i64, u64)> = {
            let mut statement = tx.prepare_cached(sql).map_err(fail)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, unsigned(row, 2)?)));
            rows.map_err(fail)?.collect::<Result<_, _>>().map_err(fail)?
        };
        let expired = tables.iter().take_while(|(_, hour, _)| *hour < hour_min).count();
        // At least one, or a store of few tables would keep them for ever.
        let most = tables.len().div_ceil(usize::try_from(share).unwrap_or(usize::MAX).max(1));
        // Tables of one hour go together.
        let kept_from = tables[..expired].get(most).map_or(hour_min, |(_, hour, _)| *hour);
        let kept_from = match tables.first() {
            Some((_, first, _)) if most < expired => kept_from.max(first.saturating_add(1)),
            _ => kept_from,
        };
        let mut dropped = RetentionSummary::default();
        for (table, _, rows) in tables.iter().take_while(|(_, hour, _)| *hour < kept_from) {
            tx.execute_batch(&format!("DROP TABLE IF EXISTS {table}")).map_err(fail)?;
            dropped.tables += 1;
            dropped.rows += rows;
        }
        dropped.tables_left = expired as u64 - dropped.tables;
        if dropped.tables > 0 {
            tx.execute("DELETE FROM manifest WHERE hour < ?1", [kept_from]).map_err(fail)?;
            super::corrections::expire(&tx, kept_from.saturating_mul(HOUR_MS)).map_err(fail)?;
        }
        let sql = "INSERT INTO meta (key, value) VALUES ('retained_at_ms', ?1) \
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        tx.execute(sql, [now_ms]).map_err(fail)?;
        tx.commit().map_err(fail)?;
        Ok((dropped, kept_from))
    }
}
