//! Export: a merge over the tables of the hours, in key order and in bounded memory.
//!
//! Each table is read in chunks from where its last chunk ended, and only while the merge is inside its times, so the
//! memory taken is a few hundred rows per table that overlaps the instant being written.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use rusqlite::params_from_iter;
use tidewatch_dataflows::rows::kind::RowStorage;
use tidewatch_dataflows::rows::{KINDS, KindList, KindVisitor, ResultRow, each_kind, place_of};
use tidewatch_dataflows::sample::SeriesId;

use super::catalog::is_meant;
use super::read::stored;
use super::schema::{columns, key, table};
use super::values::key_of;
use super::view::{SERIES_REMEMBERED_MAX, TablePart, View};
use crate::store::row::SeriesRow;
use crate::store::{ExportQuery, ExportRow, Range, StoreError};

/// Rows read from a table at a time.
const CHUNK: usize = 256;

/// Batches of rows between the thread that reads and the one that writes.
const BATCHES_AHEAD: usize = 16;
/// How often a reader looks whether its rows are taken.
const LOOK_EVERY: Duration = Duration::from_millis(20);

type Each<'e> = &'e mut dyn FnMut(ExportRow<'_>) -> io::Result<()>;

/// A row on its way out, and its series.
type OutgoingRow<K> = (Option<Arc<SeriesRow>>, K);

/// Hands every row that is asked for to `each`.
///
/// Rows are read on a thread of their own, for whoever takes them may stand still, and a view that lasts holds up
/// checkpoints of the whole store. What is read later than [`View::rest_if_due`] allows is of a later moment: no key comes
/// twice, and each as the last of the moments has it.
pub fn export<'s>(
    begin: impl FnOnce() -> Result<View<'s>, StoreError> + Send,
    query: &ExportQuery,
    each: Each<'_>,
) -> Result<u64, StoreError> {
    let mut walk = ExportWalk { begin: Some(begin), query, each, written: 0 };
    each_kind(&mut walk)?;
    Ok(walk.written)
}

/// Exports the one kind that is asked for.
struct ExportWalk<'e, B> {
    begin: Option<B>,
    query: &'e ExportQuery,
    each: Each<'e>,
    written: u64,
}

impl<'s, B: FnOnce() -> Result<View<'s>, StoreError> + Send> KindVisitor for ExportWalk<'_, B> {
    type Error = StoreError;

    fn kind<K: ResultRow>(&mut self, _: KindList<K>) -> Result<(), StoreError> {
        let asked = self.query.kind.info().kind == K::KIND;
        let Some(begin) = self.begin.take_if(|_| asked) else { return Ok(()) };
        self.written = export_kind::<K>(begin, self.query, self.each)?;
        Ok(())
    }
}

fn export_kind<'s, K: ResultRow>(
    begin: impl FnOnce() -> Result<View<'s>, StoreError> + Send,
    query: &ExportQuery,
    each: Each<'_>,
) -> Result<u64, StoreError> {
    let (out, taken) = sync_channel::<Vec<OutgoingRow<K>>>(BATCHES_AHEAD);
    std::thread::scope(|scope| {
        let reader =
            std::thread::Builder::new().name("export".to_owned()).spawn_scoped(scope, move || {
                let mut out = Outlet { out, rows: Vec::with_capacity(CHUNK) };
                let view = RefCell::new(begin()?);
                rows_of(&view, query, &mut out)?;
                out.flush(&view)?;
                if view.borrow().renewed() {
                    tracing::warn!("the export took so long that it shows the store at more than one moment");
                }
                Ok(())
            })?;
        let mut written = 0;
        // Whoever cannot take a row drops the channel, and the reader ends.
        for (series, row) in taken.into_iter().flatten() {
            each(ExportRow::new(series.as_deref(), &row))?;
            written += 1;
        }
        match reader.join() {
            Ok(read) => read.map(|()| written),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// What is known of a bounded number of series.
struct BoundedMap<T>(HashMap<SeriesId, T>);

impl<T> Default for BoundedMap<T> {
    fn default() -> Self {
        BoundedMap(HashMap::new())
    }
}

impl<T: Clone> BoundedMap<T> {
    fn get(
        &mut self,
        series: SeriesId,
        look: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(known) = self.0.get(&series) {
            return Ok(known.clone());
        }
        if self.0.len() >= SERIES_REMEMBERED_MAX {
            self.0.clear();
        }
        Ok(self.0.entry(series).or_insert(look()?).clone())
    }
}

/// Where rows go.
struct Outlet<K> {
    out: SyncSender<Vec<OutgoingRow<K>>>,
    rows: Vec<OutgoingRow<K>>,
}

impl<K> Outlet<K> {
    fn put(&mut self, row: OutgoingRow<K>, view: &RefCell<View<'_>>) -> Result<(), StoreError> {
        self.rows.push(row);
        if self.rows.len() < CHUNK { Ok(()) } else { self.flush(view) }
    }

    /// Waits until the rows are taken; meanwhile the view may end.
    fn flush(&mut self, view: &RefCell<View<'_>>) -> Result<(), StoreError> {
        let mut rows = std::mem::replace(&mut self.rows, Vec::with_capacity(CHUNK));
        loop {
            view.borrow_mut().rest_if_due()?;
            match self.out.try_send(rows) {
                Ok(()) => return view.borrow_mut().wake(),
                Err(TrySendError::Full(back)) => rows = back,
                Err(TrySendError::Disconnected(_)) => {
                    return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Most columns of a key in a table, behind that of the partition.
const KEY_MAX: usize = 4;
/// The place of a row in the tables of its partition, as they have it; unused columns are the highest number.
type TablePlace = [i64; KEY_MAX];

fn rows_of<K: ResultRow>(
    view: &RefCell<View<'_>>,
    query: &ExportQuery,
    out: &mut Outlet<K>,
) -> Result<(), StoreError> {
    let mut names = BoundedMap::default();
    let mut meant = |series: SeriesId| {
        names.get(series, || {
            let series = view.borrow().series(series)?;
            Ok(is_meant(&query.select, &series)?.then(|| Arc::new(series)))
        })
    };
    let mut give = |row: K| {
        let range = query.range;
        if row.span_ms().is_some_and(|(first, last)| last < range.start_ms || first > range.end_ms) {
            return Ok(());
        }
        let series = match row.series() {
            Some(series) => match meant(series)? {
                Some(series) => Some(series),
                None => return Ok(()),
            },
            None if !query.select.is_every() => return Ok(()),
            None => None,
        };
        out.put((series, row), view)
    };
    if K::STORAGE == RowStorage::Latest {
        let mut from = Some(i64::MIN);
        while let Some(first) = from {
            let rows = latest_rows::<K>(&view.borrow(), first)?;
            from = rows.last().and_then(K::series).and_then(|last| key_of(last).checked_add(1));
            rows.into_iter().try_for_each(&mut give)?;
        }
        return Ok(());
    }
    let partitions = view.borrow().partitions::<K>()?;
    for partition in partitions {
        let read =
            |hour: i64, from| table_rows::<K>(&view.borrow(), partition.value, hour, from, query.range);
        let first = |part: &TablePart, start: i64| match K::STORAGE.by_time() {
            true => [part.at_min.max(start), i64::MIN, i64::MIN, i64::MIN],
            false => [i64::MIN; KEY_MAX],
        };
        let mut merge = Merge::new(&partition.parts, query.range, first, read);
        let mut best: Option<(TablePlace, K)> = None;
        loop {
            match (&mut best, merge.next()?) {
                // The same key from an older table: only a higher rank counts.
                (Some(best), Some(next)) if best.0 == next.0 => {
                    if next.1.rank() > best.1.rank() {
                        *best = next;
                    }
                }
                (best, next) => {
                    let over = next.is_none();
                    if let Some((_, row)) = std::mem::replace(best, next) {
                        give(row)?;
                    }
                    if over {
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

/// A chunk of the last rows of series, by series as they are stored, from this one on.
fn latest_rows<K: ResultRow>(view: &View<'_>, first: i64) -> Result<Vec<K>, StoreError> {
    let fail = |e| view.fail("read rows", e);
    let kind = &KINDS[place_of::<K>()];
    let sql = format!(
        "SELECT {} FROM {} WHERE series >= ?1 ORDER BY series LIMIT {CHUNK}",
        columns(kind),
        kind.name
    );
    let mut statement = view.conn().prepare_cached(&sql).map_err(fail)?;
    let rows = statement.query_map([first], stored::<K>).map_err(fail)?;
    rows.collect::<Result<_, _>>().map_err(fail)
}

/// A chunk of one table's rows of one partition, with the place each is merged by.
fn table_rows<K: ResultRow>(
    view: &View<'_>,
    partition: i64,
    hour: i64,
    from: TablePlace,
    range: Range,
) -> Result<Chunk<TablePlace, K>, StoreError> {
    let fail = |e| view.fail("read rows", e);
    let kind = &KINDS[place_of::<K>()];
    let RowStorage::Hourly { partition: partition_column, .. } = kind.storage else {
        return Ok(VecDeque::new());
    };
    // Retention may have dropped the table since the export began.
    if view.renewed() && !view.has_table(&table(kind, hour))? {
        return Ok(VecDeque::new());
    }
    let key = key(kind).split_off(usize::from(partition_column.is_some()));
    let places: Vec<String> = (0..key.len()).map(|i| format!("?{}", i + 3)).collect();
    // All of the parameters are used, whatever the kind.
    let of_lane = partition_column.map_or_else(|| "?1 = ?1".to_owned(), |column| format!("{column} = ?1"));
    let upto = if kind.storage.by_time() { format!("{} <= ?2", key[0]) } else { "?2 = ?2".to_owned() };
    let sql = format!(
        "SELECT {fields}, {key} FROM {table} WHERE {of_lane} AND {upto} AND ({key}) >= ({places}) \
         ORDER BY {key} LIMIT {CHUNK}",
        fields = columns(kind),
        key = key.join(", "),
        table = table(kind, hour),
        places = places.join(", ")
    );
    let mut statement = view.conn().prepare_cached(&sql).map_err(fail)?;
    let given: Vec<i64> = [partition, range.end_ms].into_iter().chain(from).take(2 + key.len()).collect();
    let rows = statement.query_map(params_from_iter(given), |row| {
        let mut place = [i64::MAX; KEY_MAX];
        for (i, part) in place[..key.len()].iter_mut().enumerate() {
            *part = row.get(kind.fields.len() + i)?;
        }
        Ok((place, stored::<K>(row)?))
    });
    rows.map_err(fail)?.collect::<Result<_, _>>().map_err(fail)
}

type Chunk<K, R> = VecDeque<(K, R)>;

/// A merge of tables, each in the order of `K`; rows of equal keys come newest table first.
struct Merge<K, R, F> {
    sources: Vec<MergeSource<K, R>>,
    /// The least key each source may give next, with the place of the source: newest first.
    heads: BinaryHeap<Reverse<(K, usize)>>,
    read: F,
}

struct MergeSource<K, R> {
    hour: i64,
    rows: Chunk<K, R>,
    /// Whether the table has no rows after these.
    drained: bool,
}

impl<R, F: Fn(i64, TablePlace) -> Result<Chunk<TablePlace, R>, StoreError>> Merge<TablePlace, R, F> {
    fn new(
        parts: &[TablePart],
        range: Range,
        first: impl Fn(&TablePart, i64) -> TablePlace,
        read: F,
    ) -> Self {
        let touched =
            parts.iter().filter(|part| part.at_min <= range.end_ms && part.at_max >= range.start_ms);
        let (mut sources, mut heads) = (Vec::new(), BinaryHeap::new());
        for (place, part) in touched.enumerate() {
            sources.push(MergeSource { hour: part.hour, rows: VecDeque::new(), drained: false });
            heads.push(Reverse((first(part, range.start_ms), place)));
        }
        Merge { sources, heads, read }
    }

    fn next(&mut self) -> Result<Option<(TablePlace, R)>, StoreError> {
        while let Some(Reverse((key, place))) = self.heads.pop() {
            let source = &mut self.sources[place];
            if source.rows.is_empty() && !source.drained {
                // The head only said where this table may go on.
                source.rows = (self.read)(source.hour, key)?;
                source.drained = source.rows.len() < CHUNK;
                if let Some((first, _)) = source.rows.front() {
                    self.heads.push(Reverse((*first, place)));
                }
                continue;
            }
            let Some(row) = source.rows.pop_front() else { continue };
            match source.rows.front() {
                Some((next, _)) => self.heads.push(Reverse((*next, place))),
                None if !source.drained => self.heads.push(Reverse((successor(key), place))),
                None => {}
            }
            return Ok(Some(row));
        }
        Ok(None)
    }
}

/// The least greater place. Unused columns are at their highest, so that a used one rises.
fn successor(mut place: TablePlace) -> TablePlace {
    for part in place.iter_mut().rev() {
        match part.checked_add(1) {
            Some(next) => {
                *part = next;
                return place;
            }
            None => *part = i64::MIN,
        }
    }
    [i64::MAX; KEY_MAX]
}
