//! Retention: whole tables go, by the hour they were written in.

use std::path::Path;

use rusqlite::TransactionBehavior;

use super::schema::failure;
use super::unsigned;
use super::write::Writer;
use crate::store::{Dropped, StoreError};

const HOUR_MS: i64 = 3_600_000;

impl Writer {
    /// Drops the tables whose last possible instant of writing is more than `retention_ms` ago, and the series that
    /// were last written in one of them.
    pub fn drop_expired(
        &mut self,
        path: &Path,
        now_ms: i64,
        retention_ms: i64,
    ) -> Result<Dropped, StoreError> {
        let fail = |error| failure(path, "drop expired rows", error);
        // Hour h is over at (h + 1) * HOUR_MS; hours from this one on are kept.
        let hour_min = now_ms.saturating_sub(retention_ms).div_euclid(HOUR_MS);
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
            let series =
                tx.execute("DELETE FROM catalogue WHERE written_hour < ?1", [hour_min]).map_err(fail)?;
            dropped.series = series as u64;
            // A type may be told before its series has a row.
            let types =
                "DELETE FROM types WHERE told_hour < ?1 AND series NOT IN (SELECT series FROM catalogue)";
            tx.execute(types, [hour_min]).map_err(fail)?;
            super::corrections::expire(&tx, hour_min.saturating_mul(HOUR_MS)).map_err(fail)?;
        }
        tx.commit().map_err(fail)?;
        if dropped.series > 0 {
            self.forget();
        }
        Ok(dropped)
    }
}
