//! Writing batches: rows, catalog, manifest and epoch in one transaction.
//!
//! Rows are sorted by key before they are inserted, so that a table grows at few places, and several go into one
//! statement.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Statement, Transaction, TransactionBehavior, params};
use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::sample::SeriesId;

use super::expire::Sweep;
use super::schema::{columns, create_table, failure, table};
use super::{corrections, gcd, hour_of, key_of, signed, unsigned, view};
use crate::store::row::{ExportKind, REJECT_SQL, WINDOW_SQL, labels_json};
use crate::store::{LabelPairs, StoreBatch, StoreError, WriteSummary};

/// Rows inserted by one statement.
pub const ROWS_PER_STATEMENT: usize = 32;

/// The hours that windows of a series end in, from the first to the last.
type Hours = (i64, i64);

/// The hours of a series without a window.
const NO_HOURS: Hours = (i64::MAX, i64::MIN);

/// Which series were written, and what the catalog says about their hours.
type SeriesWritten = HashMap<u64, Hours, BuildHasherDefault<IdHasher>>;

/// Series that were written without labels.
type Nameless = HashSet<u64, BuildHasherDefault<IdHasher>>;

/// The one writer.
pub struct StoreWriter {
    pub(super) conn: Connection,
    /// The hour of writing that `seen` is about.
    hour: i64,
    /// Series whose entry says that they were written in `hour`.
    seen: SeriesWritten,
    /// Most series in `seen`.
    seen_max: usize,
    /// Series that were entered without labels in that hour: looked for each time, counted once.
    nameless: Nameless,
    /// Whether `seen` may say what was not committed.
    unsure: bool,
    /// Most revisions of corrected keys that are kept.
    corrections_max: u64,
    /// Where looking for series that have no rows any more goes on.
    pub(super) sweep: Sweep,
}

type LabelsColumn<'a> = &'a dyn Fn(SeriesId) -> Option<LabelPairs>;

impl StoreWriter {
    /// A writer that keeps so many revisions of corrected keys and remembers so many series that it has written.
    pub fn new(conn: Connection, corrections_max: u64, seen_max: usize) -> StoreWriter {
        StoreWriter {
            conn,
            hour: i64::MIN,
            seen: HashMap::default(),
            seen_max,
            nameless: HashSet::default(),
            unsure: false,
            corrections_max,
            sweep: Sweep::default(),
        }
    }

    /// Forgets what is known about the catalog if it is about an hour before this one.
    pub fn forget_before(&mut self, hour: i64) {
        if self.hour < hour {
            self.seen.clear();
            self.nameless.clear();
        }
    }

    pub fn write(
        &mut self,
        path: &Path,
        batches: &[StoreBatch<'_>],
        labels: LabelsColumn<'_>,
    ) -> Result<WriteSummary, StoreError> {
        if std::mem::replace(&mut self.unsure, true)
            || self.seen.len().max(self.nameless.len()) > self.seen_max
        {
            self.seen.clear();
            self.nameless.clear();
        }
        let fail = |error| failure(path, "write rows", error);
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        let mut epoch = view::epoch(&tx).map_err(fail)?;
        let mut written = WriteSummary::default();
        let mut fresh: Vec<&StoreBatch<'_>> = Vec::with_capacity(batches.len());
        for batch in batches {
            if epoch.is_some_and(|epoch| batch.epoch <= epoch) {
                written.batches_known += 1;
                continue;
            }
            if i64::try_from(batch.epoch).is_err() {
                let message = format!("epoch cannot exceed {}; got {}", i64::MAX, batch.epoch);
                return Err(StoreError::Refused(message));
            }
            epoch = Some(batch.epoch);
            fresh.push(batch);
        }
        for group in fresh.chunk_by(|a, b| hour_of(a.written_ms) == hour_of(b.written_ms)) {
            // Before 1970 the name of a table would not be one.
            let hour = hour_of(group[0].written_ms).max(0);
            if hour != std::mem::replace(&mut self.hour, hour) {
                self.seen.clear();
                self.nameless.clear();
            }
            corrections::keep(&tx, group).map_err(fail)?;
            put(&tx, hour, (&mut self.seen, &mut self.nameless), group, labels, &mut written)
                .map_err(fail)?;
        }
        written.corrections_dropped = corrections::bound(&tx, self.corrections_max).map_err(fail)?;
        if !fresh.is_empty() {
            let sql = "INSERT INTO meta (key, value) VALUES ('epoch', ?1) \
                       ON CONFLICT (key) DO UPDATE SET value = excluded.value";
            tx.execute(sql, [epoch.map(signed)]).map_err(fail)?;
        }
        tx.commit().map_err(fail)?;
        self.unsure = false;
        Ok(written)
    }

    /// Writes window rows that belong to no epoch.
    pub fn add(
        &mut self,
        path: &Path,
        written_ms: i64,
        windows: &[WindowStats],
        labels: LabelsColumn<'_>,
    ) -> Result<(), StoreError> {
        let fail = |error| failure(path, "write rows", error);
        let hour = hour_of(written_ms).max(0);
        if std::mem::replace(&mut self.unsure, true) || hour != std::mem::replace(&mut self.hour, hour) {
            self.seen.clear();
            self.nameless.clear();
        }
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        let batch = StoreBatch { epoch: 0, written_ms, windows, rejects: &[], types: &[] };
        corrections::keep(&tx, &[&batch]).map_err(fail)?;
        put(&tx, hour, (&mut self.seen, &mut self.nameless), &[&batch], labels, &mut WriteSummary::default())
            .map_err(fail)?;
        corrections::bound(&tx, self.corrections_max).map_err(fail)?;
        tx.commit().map_err(fail)?;
        self.unsure = false;
        Ok(())
    }
}

/// Writes the rows of batches written in one hour, and the catalog's entries of their series.
fn put(
    tx: &Transaction<'_>,
    hour: i64,
    (seen, nameless): (&mut SeriesWritten, &mut Nameless),
    group: &[&StoreBatch<'_>],
    labels: LabelsColumn<'_>,
    written: &mut WriteSummary,
) -> rusqlite::Result<()> {
    let mut catalog = Catalog { tx, hour, seen, nameless, labels, unlabelled: 0 };
    catalog.enter(group)?;
    written.series_unlabelled += catalog.unlabelled;
    written.windows += windows(tx, hour, group)?;
    written.rejects += rejects(tx, hour, group)?;
    written.types += types(tx, hour, group)?;
    Ok(())
}

/// Keeps the catalog's entries of the series that are written.
struct Catalog<'a> {
    tx: &'a Transaction<'a>,
    hour: i64,
    seen: &'a mut SeriesWritten,
    nameless: &'a mut Nameless,
    labels: LabelsColumn<'a>,
    unlabelled: u64,
}

impl Catalog<'_> {
    fn enter(&mut self, group: &[&StoreBatch<'_>]) -> rusqlite::Result<()> {
        for batch in group {
            // Batches come sorted by series: one look-up per run.
            for run in batch.windows.chunk_by(|a, b| a.series == b.series) {
                let hours = run.iter().map(|stats| hour_of(stats.at_ms));
                let span = hours.fold(NO_HOURS, |(from, to), hour| (from.min(hour), to.max(hour)));
                self.touch(run[0].series, span)?;
            }
            for series in batch.rejects.iter().filter_map(|reject| reject.series) {
                self.touch(series, NO_HOURS)?;
            }
        }
        Ok(())
    }

    /// Sees to it that the entry of a series covers these hours, and says that it was written in this one.
    fn touch(&mut self, series: SeriesId, (from, to): Hours) -> rusqlite::Result<()> {
        let known = self.seen.get(&series.0).copied();
        if known.is_some_and(|known| known.0 <= from && known.1 >= to) {
            return Ok(());
        }
        let update = "UPDATE catalog SET from_hour = min(from_hour, ?2), to_hour = max(to_hour, ?3), \
                      written_hour = max(written_hour, ?4) WHERE series = ?1 AND name <> ''";
        let entries =
            self.tx.prepare_cached(update)?.execute(params![key_of(series), from, to, self.hour])?;
        // One without labels is entered again each time: they may be sent again at any moment.
        if entries == 0 && !self.add(series, (from, to))? {
            return Ok(());
        }
        let known = known.unwrap_or(NO_HOURS);
        self.seen.insert(series.0, (known.0.min(from), known.1.max(to)));
        Ok(())
    }

    /// Enters a series; whether its labels are known.
    fn add(&mut self, series: SeriesId, (from, to): Hours) -> rusqlite::Result<bool> {
        let labels = (self.labels)(series);
        let known = labels.is_some();
        self.unlabelled += u64::from(!known && self.nameless.insert(series.0));
        let pairs = labels.unwrap_or_default();
        let name = pairs.iter().find(|(name, _)| name == "__name__").map_or("", |(_, value)| value.as_str());
        let insert = "INSERT INTO catalog (series, name, labels, from_hour, to_hour, written_hour) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (series) DO UPDATE SET \
                      name = excluded.name, labels = excluded.labels, \
                      from_hour = min(from_hour, excluded.from_hour), to_hour = max(to_hour, excluded.to_hour), \
                      written_hour = max(written_hour, excluded.written_hour)";
        let mut statement = self.tx.prepare_cached(insert)?;
        statement.execute(params![key_of(series), name, labels_json(&pairs), from, to, self.hour])?;
        Ok(known)
    }
}

/// What a table gained of one window.
struct Gain {
    /// Greatest common divisor of the times.
    step_ms: i64,
    at_min: i64,
    at_max: i64,
    rows: u64,
}

impl Gain {
    const NONE: Gain = Gain { step_ms: 0, at_min: i64::MAX, at_max: i64::MIN, rows: 0 };

    fn add(&mut self, first_ms: i64, last_ms: i64) {
        self.at_min = self.at_min.min(first_ms);
        self.at_max = self.at_max.max(last_ms);
    }
}

/// Inserts the window rows of batches written in one hour.
fn windows(tx: &Transaction<'_>, hour: i64, group: &[&StoreBatch<'_>]) -> rusqlite::Result<u64> {
    let mut rows: Vec<&WindowStats> = group.iter().flat_map(|batch| batch.windows).collect();
    if rows.is_empty() {
        return Ok(0);
    }
    let key = |stats: &WindowStats| (stats.window_ms, stats.at_ms, stats.series);
    rows.sort_by_key(|stats| (key(stats), stats.rank()));
    // Of one key only the highest rank, which comes last, is worth writing.
    rows.dedup_by(|next, kept| {
        let same = key(next) == key(kept);
        if same {
            *kept = *next;
        }
        same
    });
    tx.execute_batch(&create_table(ExportKind::Windows, hour))?;
    let mut many = tx.prepare_cached(&insert_windows(hour, ROWS_PER_STATEMENT))?;
    let mut one = tx.prepare_cached(&insert_windows(hour, 1))?;
    let mut written = 0;
    let mut gains: BTreeMap<i64, Gain> = BTreeMap::new();
    for lane in rows.chunk_by(|a, b| a.window_ms == b.window_ms) {
        let gain = gains.entry(lane[0].window_ms).or_insert(Gain::NONE);
        for instant in lane.chunk_by(|a, b| a.at_ms == b.at_ms) {
            gain.step_ms = gcd(gain.step_ms, instant[0].at_ms).abs();
            gain.add(instant[0].at_ms, instant[0].at_ms);
        }
        let (whole, rest) = lane.as_chunks::<ROWS_PER_STATEMENT>();
        for chunk in whole {
            gain.rows += insert(&mut many, chunk)?;
        }
        for row in rest {
            gain.rows += insert(&mut one, std::slice::from_ref(row))?;
        }
        written += gain.rows;
    }
    for (window_ms, gain) in gains {
        enter(tx, ExportKind::Windows, hour, window_ms, &gain)?;
    }
    Ok(written)
}

/// The statement that upserts `rows` rows, unless one of a higher rank is there.
fn insert_windows(hour: i64, rows: usize) -> String {
    let row = format!("({})", vec!["?"; WINDOW_SQL.len()].join(","));
    let set: Vec<_> = WINDOW_SQL[3..].iter().map(|(name, _)| format!("{name} = excluded.{name}")).collect();
    format!(
        "INSERT INTO {table} ({columns}) VALUES {values} ON CONFLICT DO UPDATE SET {set} \
         WHERE (excluded.count, excluded.revision) >= (count, revision)",
        table = table(ExportKind::Windows, hour),
        columns = columns(&WINDOW_SQL),
        values = vec![row; rows].join(","),
        set = set.join(", ")
    )
}

fn insert(statement: &mut Statement<'_>, rows: &[&WindowStats]) -> rusqlite::Result<u64> {
    let mut at = 1;
    let mut bind = |statement: &mut Statement<'_>, value: &dyn rusqlite::ToSql| {
        at += 1;
        statement.raw_bind_parameter(at - 1, value)
    };
    for stats in rows {
        bind(statement, &stats.window_ms)?;
        bind(statement, &stats.at_ms)?;
        bind(statement, &key_of(stats.series))?;
        bind(statement, &stats.revision)?;
        bind(statement, &stats.count)?;
        bind(statement, &stats.span_ms)?;
        for value in [stats.min, stats.max, stats.avg, stats.std, stats.first, stats.last, stats.increase] {
            bind(statement, &value)?;
        }
        bind(statement, &stats.partial)?;
    }
    statement.raw_execute().map(|rows| rows as u64)
}

/// Inserts the reject rows of batches written in one hour.
fn rejects(tx: &Transaction<'_>, hour: i64, group: &[&StoreBatch<'_>]) -> rusqlite::Result<u64> {
    if group.iter().all(|batch| batch.rejects.is_empty()) {
        return Ok(0);
    }
    tx.execute_batch(&create_table(ExportKind::Rejects, hour))?;
    let sql = format!(
        "INSERT INTO {} ({}) VALUES (?,?,?,?,?,?,?)",
        table(ExportKind::Rejects, hour),
        columns(&REJECT_SQL)
    );
    let mut statement = tx.prepare_cached(&sql)?;
    let mut gain = Gain { step_ms: 1, ..Gain::NONE };
    for batch in group {
        for reject in batch.rejects {
            gain.rows += statement.execute(params![
                signed(batch.epoch),
                reject.series.is_none(),
                reject.series.map_or(0, key_of),
                reject.reason as u8,
                signed(reject.count),
                reject.first_at_ms,
                reject.last_at_ms,
            ])? as u64;
            gain.add(reject.first_at_ms, reject.last_at_ms);
        }
    }
    enter(tx, ExportKind::Rejects, hour, 0, &gain)?;
    Ok(gain.rows)
}

/// Keeps the types of series that were told.
fn types(tx: &Transaction<'_>, hour: i64, group: &[&StoreBatch<'_>]) -> rusqlite::Result<u64> {
    let sql = "INSERT INTO types (series, type, told_hour) VALUES (?1, ?2, ?3) \
               ON CONFLICT (series) DO UPDATE SET type = excluded.type, told_hour = excluded.told_hour";
    let mut written = 0;
    for (series, kind) in group.iter().flat_map(|batch| batch.types) {
        let told = tx.prepare_cached(sql)?.execute(params![key_of(*series), *kind as u8, hour])?;
        written += told as u64;
    }
    Ok(written)
}

/// Adds to the manifest what a table gained.
fn enter(
    tx: &Transaction<'_>,
    kind: ExportKind,
    hour: i64,
    window_ms: i64,
    gain: &Gain,
) -> rusqlite::Result<()> {
    let read =
        "SELECT step_ms, at_min, at_max, rows FROM manifest WHERE kind = ?1 AND hour = ?2 AND window_ms = ?3";
    let key = params![kind.as_str(), hour, window_ms];
    let held = tx.prepare_cached(read)?.query_row(key, |row| {
        Ok(Gain { step_ms: row.get(0)?, at_min: row.get(1)?, at_max: row.get(2)?, rows: unsigned(row, 3)? })
    });
    let held = held.optional()?.unwrap_or(Gain::NONE);
    let write = "INSERT INTO manifest (kind, hour, window_ms, step_ms, at_min, at_max, rows) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET step_ms = excluded.step_ms, \
                 at_min = excluded.at_min, at_max = excluded.at_max, rows = excluded.rows";
    tx.prepare_cached(write)?.execute(params![
        kind.as_str(),
        hour,
        window_ms,
        gcd(held.step_ms, gain.step_ms).abs().max(1),
        held.at_min.min(gain.at_min),
        held.at_max.max(gain.at_max),
        signed(held.rows.saturating_add(gain.rows)),
    ])?;
    Ok(())
}

/// Series ids are hashes already.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
