//! A consistent view of the store for one question: a read transaction, a deadline, and the manifest.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLockReadGuard;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, params};
use tidewatch_dataflows::rows::kind::RowStorage;
use tidewatch_dataflows::rows::{KINDS, ResultRow, WindowStats};
use tidewatch_dataflows::sample::{MetricType, SeriesId};

use super::readers::Readers;
use super::values::{gcd, key_of, kind, series_of, unsigned};
use super::{schema, wal};
use crate::store::budget::{Budget, BudgetExceeded};
use crate::store::row::SeriesRow;
use crate::store::{StoreError, StoreStatus};

/// How many instructions SQLite runs between two looks at the clock.
const STEPS_BETWEEN_LOOKS: i32 = 5_000;

/// Most series remembered while rows are given their labels.
pub const SERIES_REMEMBERED_MAX: usize = 65_536;

/// A read transaction with a deadline.
pub struct View<'s> {
    store: &'s Readers,
    /// The files are not opened anew meanwhile.
    _open: RwLockReadGuard<'s, ()>,
    /// Always there, until the view is dropped.
    conn: Option<Connection>,
    /// Of the store, and of whoever asks.
    budgets: [Budget; 2],
    /// When the moment that is shown began, or was judged last.
    since: Instant,
    /// Whether a transaction is open.
    inside: bool,
    renewed: bool,
}

/// What one table holds of one partition.
#[derive(Clone, Copy, Debug)]
pub struct TablePart {
    /// Hour of writing: names the table.
    pub hour: i64,
    /// Every `at_ms` is a multiple of this.
    pub step_ms: i64,
    /// The first `at_ms`.
    pub at_min: i64,
    /// The last `at_ms`.
    pub at_max: i64,
}

/// All tables that hold rows of one partition.
#[derive(Debug)]
pub struct Partition {
    /// What its rows have in common: the length of their window; 0 of kinds of row that are not kept apart.
    pub value: i64,
    /// Every `at_ms` is a multiple of this.
    pub step_ms: i64,
    /// The tables, newest hour first.
    pub parts: Vec<TablePart>,
}

impl TablePart {
    /// Whether the table may hold rows of this instant.
    pub fn holds(&self, at_ms: i64) -> bool {
        (self.at_min..=self.at_max).contains(&at_ms) && at_ms % self.step_ms == 0
    }
}

impl Partition {
    /// The latest possible `at` that is not after `last`.
    pub fn before(&self, last: i64) -> Option<i64> {
        let parts = self.parts.iter().filter(|part| part.at_min <= last);
        let floor = last.saturating_sub(last.rem_euclid(self.step_ms));
        parts.map(|part| part.at_max.min(floor)).max()
    }
}

impl<'s> View<'s> {
    pub fn begin(store: &'s Readers, limit: Option<Duration>, asked: &Budget) -> Result<Self, StoreError> {
        // What it says may be wrong.
        if let Some(why) = store.damage.get() {
            return Err(StoreError::Corrupt { path: store.path.clone(), why: why.clone() });
        }
        let open = store.open.read();
        let conn = store.take()?;
        let budgets = [limit.map_or_else(Budget::default, Budget::of), asked.clone()];
        let over = budgets.clone();
        let (conn, since) = (Some(conn), Instant::now());
        let mut view = View { store, _open: open, conn, budgets, since, inside: false, renewed: false };
        view.enter()?;
        if limit.is_some() || asked.is_bounded() {
            let over = move || over.iter().any(|budget| budget.check().is_err());
            let conn = view.conn.as_mut().expect("only drop takes the connection");
            conn.progress_handler(STEPS_BETWEEN_LOOKS, Some(over)).map_err(|e| view.fail("read", e))?;
        }
        view.conn().execute_batch("BEGIN").map_err(|e| view.fail("read", e))?;
        Ok(view)
    }

    /// Waits for a checkpoint that has its turn.
    fn enter(&mut self) -> Result<(), StoreError> {
        if !self.store.turnstile.enter(self.budgets.iter().filter_map(Budget::deadline).min()) {
            return Err(self.too_slow());
        }
        (self.inside, self.since) = (true, Instant::now());
        Ok(())
    }

    /// Ends the moment that is shown, if it lasts so long that SQLite's log grows because of it.
    pub fn rest_if_due(&mut self) -> Result<(), StoreError> {
        if !self.inside || self.since.elapsed() < self.store.options.view_max {
            return Ok(());
        }
        // It is looked at again only after a while.
        self.since = Instant::now();
        if wal::log_bytes(&self.store.path) <= self.store.options.log_bytes_max / 2 {
            return Ok(());
        }
        self.conn().execute_batch("ROLLBACK").map_err(|e| self.fail("end a view", e))?;
        self.store.turnstile.leave();
        (self.inside, self.renewed) = (false, true);
        Ok(())
    }

    /// Goes on at another moment after [`View::rest_if_due`] has ended one.
    pub fn wake(&mut self) -> Result<(), StoreError> {
        if !self.inside {
            self.enter()?;
            self.conn().execute_batch("BEGIN").map_err(|e| self.fail("read", e))?;
        }
        Ok(())
    }

    /// Whether more than one moment was shown: tables may be gone that were there at first.
    pub fn renewed(&self) -> bool {
        self.renewed
    }

    /// Whether there is a table of this name.
    pub fn has_table(&self, table: &str) -> Result<bool, StoreError> {
        let sql = "SELECT count(*) FROM sqlite_master WHERE name = ?1";
        let found = self.conn().query_row(sql, [table], |row| row.get::<_, i64>(0));
        Ok(found.map_err(|e| self.fail("look for a table", e))? > 0)
    }

    pub fn conn(&self) -> &Connection {
        self.conn.as_ref().expect("only drop takes the connection")
    }

    /// What an error means for whoever asked.
    pub fn fail(&self, attempt: &'static str, error: rusqlite::Error) -> StoreError {
        if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) {
            return self.too_slow();
        }
        self.store.note(schema::failure(&self.store.path, attempt, error))
    }

    /// Judges the budgets; SQLite judges them only inside long statements.
    pub fn in_time(&self) -> Result<(), StoreError> {
        self.budgets.iter().try_for_each(Budget::check).map_err(StoreError::from)
    }

    fn too_slow(&self) -> StoreError {
        self.in_time().err().unwrap_or_else(|| self.budgets[0].late().into())
    }

    pub fn epoch(&self) -> Result<Option<u64>, StoreError> {
        epoch(self.conn()).map_err(|e| self.fail("read the epoch", e))
    }

    /// The time of the last retention, or the end of the hour that was written last.
    pub fn retained_at_ms(&self) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT coalesce((SELECT value FROM meta WHERE key = 'retained_at_ms'), \
                   (SELECT (max(hour) + 1) * 3600000 FROM manifest))";
        self.conn()
            .query_row(sql, [], |row| row.get(0))
            .map_err(|e| self.fail("read the time of retention", e))
    }

    /// The tables of a kind of row, by its partitions: of windows the shortest length first.
    pub fn partitions<K: ResultRow>(&self) -> Result<Vec<Partition>, StoreError> {
        let mut partitions: Vec<Partition> = Vec::new();
        let fail = |e| self.fail("read the manifest", e);
        let sql = "SELECT partition, hour, step_ms, at_min, at_max FROM manifest WHERE kind = ?1 \
                   ORDER BY partition, hour DESC";
        let mut statement = self.conn().prepare_cached(sql).map_err(fail)?;
        let parts = statement.query_map([K::NAME], |row| {
            // A step of zero cannot be written, but would never end a walk.
            let step_ms = row.get::<_, i64>(2)?.max(1);
            let part = TablePart { hour: row.get(1)?, step_ms, at_min: row.get(3)?, at_max: row.get(4)? };
            Ok((row.get::<_, i64>(0)?, part))
        });
        for part in parts.map_err(fail)? {
            let (value, part) = part.map_err(fail)?;
            match partitions.last_mut() {
                Some(partition) if partition.value == value => {
                    partition.step_ms = gcd(partition.step_ms, part.step_ms);
                    partition.parts.push(part);
                }
                _ => partitions.push(Partition { value, step_ms: part.step_ms, parts: vec![part] }),
            }
        }
        Ok(partitions)
    }

    /// The catalog's row of a series; one without name if the catalog has none.
    pub fn series(&self, series: SeriesId) -> Result<SeriesRow, StoreError> {
        let unknown = || SeriesRow { series, name: String::new(), labels: "{}".to_owned(), kind: None };
        Ok(self.known_series(series)?.unwrap_or_else(unknown))
    }

    /// The catalog's row of a series, if it has one.
    pub fn known_series(&self, series: SeriesId) -> Result<Option<SeriesRow>, StoreError> {
        let fail = |e| self.fail("read the catalog", e);
        let sql = "SELECT name, labels, (SELECT metric_type FROM types WHERE types.series = catalog.series) \
                   FROM catalog WHERE series = ?1";
        let mut statement = self.conn().prepare_cached(sql).map_err(fail)?;
        let found = statement.query_row(params![key_of(series)], |row| {
            Ok(SeriesRow { series, name: row.get(0)?, labels: row.get(1)?, kind: kind(row, 2)? })
        });
        found.optional().map_err(fail)
    }

    /// The types held.
    pub fn types(&self) -> Result<Vec<(SeriesId, MetricType)>, StoreError> {
        let fail = |e| self.fail("read the types", e);
        let mut statement = self.conn().prepare("SELECT series, metric_type FROM types").map_err(fail)?;
        let rows =
            statement.query_map([], |row| Ok((series_of(row.get(0)?), kind(row, 1)?))).map_err(fail)?;
        let known = |(series, kind): (SeriesId, Option<MetricType>)| kind.map(|kind| (series, kind));
        rows.filter_map(|row| row.map(known).transpose()).collect::<Result<_, _>>().map_err(fail)
    }

    pub fn status(&self) -> Result<StoreStatus, StoreError> {
        let fail = |e| self.fail("read the manifest", e);
        let conn = self.conn();
        let mut status = StoreStatus { epoch: self.epoch()?, ..StoreStatus::default() };
        // A sum over no rows is NULL.
        let number =
            |sql: &str| conn.query_row(&format!("SELECT ifnull(({sql}), 0)"), [], |row| unsigned(row, 0));
        status.series = number("SELECT count(*) FROM catalog").map_err(fail)?;
        status.tables =
            number("SELECT count(*) FROM (SELECT DISTINCT kind, hour FROM manifest)").map_err(fail)?;
        for (kind, rows) in KINDS.iter().zip(&mut status.rows) {
            *rows = number(&match kind.storage {
                RowStorage::Hourly { .. } => {
                    format!("SELECT sum(rows) FROM manifest WHERE kind = '{}'", kind.name)
                }
                RowStorage::Latest => format!("SELECT count(*) FROM {}", kind.name),
            })
            .map_err(fail)?;
        }
        let day = "SELECT sum(rows) FROM manifest WHERE hour > (SELECT max(hour) FROM manifest) - 24";
        status.rows_last_day = number(day).map_err(fail)?;
        let span = "SELECT min(at_min), max(at_max) FROM manifest WHERE kind = ?1";
        let ends: (Option<i64>, Option<i64>) =
            conn.query_row(span, [WindowStats::NAME], |row| Ok((row.get(0)?, row.get(1)?))).map_err(fail)?;
        status.at_ms = ends.0.zip(ends.1);
        Ok(status)
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        let inside = std::mem::take(&mut self.inside);
        let quiet = conn.progress_handler(0, None::<fn() -> bool>).is_ok();
        let ended = conn.is_autocommit() || conn.execute_batch("ROLLBACK").is_ok();
        // A connection that is dropped has ended its transaction before the turn of a checkpoint comes.
        if quiet && ended {
            self.store.give_back(conn);
        } else {
            drop(conn);
        }
        if inside {
            self.store.turnstile.leave();
        }
    }
}

/// The durable epoch.
pub fn epoch(conn: &Connection) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT value FROM meta WHERE key = 'epoch'";
    conn.prepare_cached(sql)?.query_row([], |row| unsigned(row, 0)).optional()
}

/// Gives rows their series, remembering a bounded number, each with a verdict of the caller.
pub struct SeriesNames<'v, 's, T> {
    view: &'v View<'s>,
    judge: Box<dyn Fn(SeriesRow) -> Result<T, BudgetExceeded> + 'v>,
    known: HashMap<SeriesId, Arc<T>>,
}

impl<'v, 's, T> SeriesNames<'v, 's, T> {
    pub fn new(view: &'v View<'s>, judge: impl Fn(SeriesRow) -> Result<T, BudgetExceeded> + 'v) -> Self {
        SeriesNames { view, judge: Box::new(judge), known: HashMap::new() }
    }

    pub fn get(&mut self, series: SeriesId) -> Result<Arc<T>, StoreError> {
        if let Some(known) = self.known.get(&series) {
            return Ok(known.clone());
        }
        if self.known.len() >= SERIES_REMEMBERED_MAX {
            self.known.clear();
        }
        let judged = Arc::new((self.judge)(self.view.series(series)?)?);
        self.known.insert(series, judged.clone());
        Ok(judged)
    }
}
