//! Writing batches: rows, catalog, manifest and epoch in one transaction.
//!
//! Rows are sorted by key before they are inserted, so that a table grows at few places, and several go into one
//! statement.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Statement, Transaction, TransactionBehavior, params};
use tidewatch_dataflows::rows::columns::{FieldValue, list_bytes};
use tidewatch_dataflows::rows::kind::RowStorage;
use tidewatch_dataflows::rows::{
    KINDS, KindInfo, KindList, KindVisitor, ResultRow, RowLists, each_kind, place_of,
};
use tidewatch_dataflows::sample::SeriesId;

use super::schema::{columns, create_table, failure, key, quoted, table};
use super::sweep::Sweep;
use super::values::{gcd, hour_of, key_of, signed, unsigned};
use super::{corrections, view};
use crate::store::row::labels_json;
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

    /// Writes rows that belong to no epoch.
    pub fn add(
        &mut self,
        path: &Path,
        written_ms: i64,
        rows: &RowLists,
        labels: LabelsColumn<'_>,
    ) -> Result<(), StoreError> {
        let fail = |error| failure(path, "write rows", error);
        let hour = hour_of(written_ms).max(0);
        if std::mem::replace(&mut self.unsure, true) || hour != std::mem::replace(&mut self.hour, hour) {
            self.seen.clear();
            self.nameless.clear();
        }
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        let batch = StoreBatch::new(0, written_ms, rows);
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
    each_kind(&mut PutRows { tx, hour, group, written })
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
        each_kind(&mut EnterSeries { catalog: self, group })
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

/// Enters the series of rows that are kept by the hour of writing.
struct EnterSeries<'c, 'a> {
    catalog: &'c mut Catalog<'a>,
    group: &'c [&'c StoreBatch<'c>],
}

impl KindVisitor for EnterSeries<'_, '_> {
    type Error = rusqlite::Error;

    fn kind<K: ResultRow>(&mut self, list: KindList<K>) -> rusqlite::Result<()> {
        if K::STORAGE == RowStorage::Latest {
            return Ok(());
        }
        let by_time = K::STORAGE.by_time();
        for batch in self.group {
            // Batches come sorted by series: one look-up per run.
            for run in (list.of)(&batch.rows).chunk_by(|a, b| a.series() == b.series()) {
                let Some(series) = run[0].series() else { continue };
                let hours = run.iter().filter_map(|row| row.span_ms().filter(|_| by_time));
                let span = hours.fold(NO_HOURS, |(from, to), (first, last)| {
                    (from.min(hour_of(first)), to.max(hour_of(last)))
                });
                self.catalog.touch(series, span)?;
            }
        }
        Ok(())
    }
}

/// What a table gained of one partition.
struct Gain {
    /// Greatest common divisor of the times.
    step_ms: i64,
    at_min: i64,
    at_max: i64,
    rows: u64,
}

impl Gain {
    const NONE: Gain = Gain { step_ms: 0, at_min: i64::MAX, at_max: i64::MIN, rows: 0 };
}

/// A row and the epoch that gave it; 0 where rows are told apart without.
type EpochRow<'a, K> = (u64, &'a K);

/// Inserts the rows of batches written in one hour.
struct PutRows<'a> {
    tx: &'a Transaction<'a>,
    hour: i64,
    group: &'a [&'a StoreBatch<'a>],
    written: &'a mut WriteSummary,
}

impl KindVisitor for PutRows<'_> {
    type Error = rusqlite::Error;

    fn kind<K: ResultRow>(&mut self, list: KindList<K>) -> rusqlite::Result<()> {
        let rows = self
            .group
            .iter()
            .flat_map(|batch| (list.of)(&batch.rows).iter().map(move |row| (batch.epoch, row)));
        let written = match K::STORAGE {
            RowStorage::Hourly { epoch, .. } => {
                self.hourly::<K>(rows.map(|(of, row)| (if epoch { of } else { 0 }, row)).collect())?
            }
            RowStorage::Latest => self.latest(rows.map(|(_, row)| row))?,
        };
        self.written.rows[place_of::<K>()] += written;
        Ok(())
    }
}

impl PutRows<'_> {
    fn hourly<K: ResultRow>(&self, mut rows: Vec<EpochRow<'_, K>>) -> rusqlite::Result<u64> {
        if rows.is_empty() {
            return Ok(0);
        }
        let kind = &KINDS[place_of::<K>()];
        rows.sort_by_key(|(epoch, row)| (row.partition(), *epoch, row.place(), row.rank()));
        // Of one key only the highest rank, which comes last, is worth writing.
        rows.dedup_by(|next, kept| {
            let same =
                (next.0, next.1.partition(), next.1.place()) == (kept.0, kept.1.partition(), kept.1.place());
            if same {
                *kept = *next;
            }
            same
        });
        self.tx.execute_batch(&create_table(kind, self.hour))?;
        let mut many = self.tx.prepare_cached(&insert_rows(kind, self.hour, ROWS_PER_STATEMENT))?;
        let mut one = self.tx.prepare_cached(&insert_rows(kind, self.hour, 1))?;
        let mut written = 0;
        for partition in rows.chunk_by(|a, b| a.1.partition() == b.1.partition()) {
            let mut gain = Gain::NONE;
            for (first, last) in partition.iter().filter_map(|(_, row)| row.span_ms()) {
                if gain.at_max != last || first != last {
                    gain.step_ms = gcd(gain.step_ms, if K::STORAGE.by_time() { last } else { 1 }).abs();
                }
                (gain.at_min, gain.at_max) = (gain.at_min.min(first), gain.at_max.max(last));
            }
            let (whole, rest) = partition.as_chunks::<ROWS_PER_STATEMENT>();
            for chunk in whole {
                gain.rows += insert(&mut many, chunk)?;
            }
            for row in rest {
                gain.rows += insert(&mut one, std::slice::from_ref(row))?;
            }
            written += gain.rows;
            enter(self.tx, kind, self.hour, partition[0].1.partition(), &gain)?;
        }
        Ok(written)
    }

    /// Keeps the last row of each series.
    fn latest<'k, K: ResultRow>(&self, rows: impl Iterator<Item = &'k K>) -> rusqlite::Result<u64> {
        let kind = &KINDS[place_of::<K>()];
        let set: Vec<_> =
            kind.fields.iter().map(|field| format!("{0} = excluded.{0}", quoted(field.name))).collect();
        let sql = format!(
            "INSERT INTO {} ({}, written_hour) VALUES ({},?) ON CONFLICT (series) DO UPDATE SET {}, \
             written_hour = excluded.written_hour",
            kind.name,
            columns(kind),
            vec!["?"; kind.fields.len()].join(","),
            set.join(", ")
        );
        let mut written = 0;
        for row in rows {
            let mut statement = self.tx.prepare_cached(&sql)?;
            let mut place = 0;
            bind_row(&mut statement, &mut place, row)?;
            statement.raw_bind_parameter(place + 1, self.hour)?;
            written += statement.raw_execute()? as u64;
        }
        Ok(written)
    }
}

/// The statement that upserts `rows` rows, unless one of a higher rank is there.
fn insert_rows(kind: &KindInfo, hour: i64, rows: usize) -> String {
    let RowStorage::Hourly { epoch, rank, .. } = kind.storage else { return String::new() };
    let row = format!("({})", vec!["?"; kind.fields.len() + usize::from(epoch)].join(","));
    let key = key(kind);
    let set = kind.fields.iter().filter(|field| !key.contains(&field.name));
    let set: Vec<_> = set.map(|field| format!("{0} = excluded.{0}", quoted(field.name))).collect();
    let outdone = match rank {
        [] => String::new(),
        rank => {
            let theirs: Vec<_> = rank.iter().map(|column| format!("excluded.{column}")).collect();
            format!(" WHERE ({}) >= ({})", theirs.join(", "), rank.join(", "))
        }
    };
    format!(
        "INSERT INTO {table} ({columns}{epoch}) VALUES {values} ON CONFLICT DO UPDATE SET {set}{outdone}",
        table = table(kind, hour),
        columns = columns(kind),
        epoch = if epoch { ", epoch" } else { "" },
        values = vec![row; rows].join(","),
        set = set.join(", ")
    )
}

fn insert<K: ResultRow>(statement: &mut Statement<'_>, rows: &[EpochRow<'_, K>]) -> rusqlite::Result<u64> {
    let by_epoch = matches!(K::STORAGE, RowStorage::Hourly { epoch: true, .. });
    let mut place = 0;
    for (epoch, row) in rows {
        bind_row(statement, &mut place, *row)?;
        if by_epoch {
            place += 1;
            statement.raw_bind_parameter(place, signed(*epoch))?;
        }
    }
    statement.raw_execute().map(|rows| rows as u64)
}

/// Binds the fields of a row behind `place`.
fn bind_row<K: ResultRow>(statement: &mut Statement<'_>, place: &mut usize, row: &K) -> rusqlite::Result<()> {
    row.values(|value| {
        *place += 1;
        match value {
            FieldValue::Int(value) => statement.raw_bind_parameter(*place, value),
            FieldValue::UInt(value) => statement.raw_bind_parameter(*place, signed(value)),
            FieldValue::Float(value) => statement.raw_bind_parameter(*place, value),
            FieldValue::Series(series) => statement.raw_bind_parameter(*place, key_of(series)),
            FieldValue::Floats(values) => statement.raw_bind_parameter(*place, list_bytes(&values)),
        }
    })
}

/// Adds to the manifest what a table gained.
fn enter(
    tx: &Transaction<'_>,
    kind: &KindInfo,
    hour: i64,
    partition: i64,
    gain: &Gain,
) -> rusqlite::Result<()> {
    let read =
        "SELECT step_ms, at_min, at_max, rows FROM manifest WHERE kind = ?1 AND hour = ?2 AND partition = ?3";
    let key = params![kind.name, hour, partition];
    let held = tx.prepare_cached(read)?.query_row(key, |row| {
        Ok(Gain { step_ms: row.get(0)?, at_min: row.get(1)?, at_max: row.get(2)?, rows: unsigned(row, 3)? })
    });
    let held = held.optional()?.unwrap_or(Gain::NONE);
    let write = "INSERT INTO manifest (kind, hour, partition, step_ms, at_min, at_max, rows) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET step_ms = excluded.step_ms, \
                 at_min = excluded.at_min, at_max = excluded.at_max, rows = excluded.rows";
    tx.prepare_cached(write)?.execute(params![
        kind.name,
        hour,
        partition,
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
