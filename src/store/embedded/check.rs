//! Whether the file is as SQLite wrote it: table by table, each in a short transaction of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::schema;
use crate::store::{Soundness, StoreError};

/// How long one table may take: its transaction holds up checkpoints.
const TABLE_MAX: Duration = Duration::from_secs(30);
/// Instructions of SQLite between two looks at the clock.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;

/// Checks every table within `limit`; `stop` ends it sooner.
pub fn check(
    path: &Path,
    limit: Duration,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Soundness, StoreError> {
    let fail = |error| schema::failure(path, "check", error);
    let begun = Instant::now();
    let mut conn = schema::open_for_reading(path)?;
    let names = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY name DESC";
    let tables: Vec<String> = {
        let mut statement = conn.prepare(names).map_err(fail)?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(fail)?;
        rows.collect::<Result<_, _>>().map_err(fail)?
    };
    let mut found = Soundness { tables: tables.len(), checked: 0, seconds: 0.0 };
    for table in &tables {
        if stop() || begun.elapsed() >= limit {
            break;
        }
        let until = Instant::now() + TABLE_MAX.min(limit.saturating_sub(begun.elapsed()));
        conn.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || Instant::now() >= until)).map_err(fail)?;
        match check_table(&conn, table) {
            Ok(None) => found.checked += 1,
            Ok(Some(why)) => {
                return Err(StoreError::Corrupt {
                    path: path.to_owned(),
                    why: format!("table {table}: {why}"),
                });
            }
            // It takes too long: what is left of it is not known.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {}
            Err(error) => return Err(fail(error)),
        }
    }
    found.seconds = begun.elapsed().as_secs_f64();
    Ok(found)
}

/// What is wrong with a table; one that was dropped meanwhile is as it should be.
fn check_table(conn: &Connection, table: &str) -> rusqlite::Result<Option<String>> {
    let there = "SELECT count(*) FROM sqlite_master WHERE name = ?1";
    if conn.query_row(there, [table], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(None);
    }
    let mut statement = conn.prepare(&format!("PRAGMA quick_check('{table}')"))?;
    let first: String = statement.query_row([], |row| row.get(0))?;
    Ok((first != "ok" && !first.contains("no such table")).then_some(first))
}
