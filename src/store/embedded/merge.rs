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

use rusqlite::{Row, params};
use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::sample::{Reason, SeriesId};

use super::catalog::is_meant;
use super::read::stats;
use super::schema::{columns, table};
use super::view::{SERIES_REMEMBERED_MAX, TablePart, View};
use super::{key_of, series_of, unsigned};
use crate::store::row::{ExportKind, REJECT_SQL, RejectGrouping, RejectRow, WINDOW_SQL, WindowRow};
use crate::store::{ExportQuery, ExportRow, Range, StoreError};

/// Rows read from a table at a time.
const CHUNK: usize = 256;

/// Batches of rows between the thread that reads and the one that writes.
const BATCHES_AHEAD: usize = 16;
/// How often a reader looks whether its rows are taken.
const LOOK_EVERY: Duration = Duration::from_millis(20);

type Each<'e> = &'e mut dyn FnMut(ExportRow<'_>) -> io::Result<()>;

/// A row on its way out.
enum OutgoingRow {
    Window(WindowRow),
    Reject(RejectRow),
}

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
    let (out, taken) = sync_channel::<Vec<OutgoingRow>>(BATCHES_AHEAD);
    std::thread::scope(|scope| {
        let reader =
            std::thread::Builder::new().name("export".to_owned()).spawn_scoped(scope, move || {
                let mut out = Outlet { out, rows: Vec::with_capacity(CHUNK) };
                let view = RefCell::new(begin()?);
                match query.kind {
                    ExportKind::Windows => windows(&view, query, &mut out)?,
                    ExportKind::Rejects => rejects(&view, query, &mut out)?,
                }
                out.flush(&view)?;
                if view.borrow().renewed() {
                    tracing::warn!("the export took so long that it shows the store at more than one moment");
                }
                Ok(())
            })?;
        let mut written = 0;
        // Whoever cannot take a row drops the channel, and the reader ends.
        for row in taken.into_iter().flatten() {
            match &row {
                OutgoingRow::Window(row) => each(ExportRow::Window(row))?,
                OutgoingRow::Reject(row) => each(ExportRow::Reject(row))?,
            }
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
struct Outlet {
    out: SyncSender<Vec<OutgoingRow>>,
    rows: Vec<OutgoingRow>,
}

impl Outlet {
    fn put(&mut self, row: OutgoingRow, view: &RefCell<View<'_>>) -> Result<(), StoreError> {
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

fn windows(view: &RefCell<View<'_>>, query: &ExportQuery, out: &mut Outlet) -> Result<(), StoreError> {
    let mut names = BoundedMap::default();
    let mut meant = |series: SeriesId| {
        names.get(series, || {
            let series = view.borrow().series(series)?;
            Ok(is_meant(&query.select, &series)?.then(|| Arc::new(series)))
        })
    };
    let lanes = view.borrow().lanes()?;
    for lane in lanes {
        let read = |hour: i64, after: (i64, i64)| {
            window_rows(&view.borrow(), lane.window_ms, hour, after, query.range.end_ms)
        };
        let mut merge =
            Merge::new(&lane.parts, query.range, |part, start| (part.at_min.max(start), i64::MIN), read);
        let mut best: Option<WindowStats> = None;
        loop {
            let next = merge.next()?;
            let same = |best: &WindowStats, next: &WindowStats| {
                (best.at_ms, best.series) == (next.at_ms, next.series)
            };
            match (&mut best, next) {
                // The same key from an older table: only a higher rank counts.
                (Some(best), Some(next)) if same(best, &next) => {
                    if next.rank() > best.rank() {
                        *best = next;
                    }
                }
                (best, next) => {
                    let over = next.is_none();
                    if let Some(stats) = std::mem::replace(best, next)
                        && let Some(series) = meant(stats.series)?
                    {
                        out.put(OutgoingRow::Window(WindowRow { series, stats }), view)?;
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

/// A chunk of one table's rows of one window, with the key each is merged by.
fn window_rows(
    view: &View<'_>,
    window_ms: i64,
    hour: i64,
    from: (i64, i64),
    end_ms: i64,
) -> Result<Chunk<(i64, i64), WindowStats>, StoreError> {
    let fail = |e| view.fail("read windows", e);
    if gone(view, ExportKind::Windows, hour)? {
        return Ok(VecDeque::new());
    }
    let sql = format!(
        "SELECT {} FROM {} WHERE window_ms = ?1 AND (at_ms, series) >= (?2, ?3) AND at_ms <= ?4 \
         ORDER BY at_ms, series LIMIT {CHUNK}",
        columns(&WINDOW_SQL),
        table(ExportKind::Windows, hour)
    );
    let mut statement = view.conn().prepare_cached(&sql).map_err(fail)?;
    let keyed = |row: &Row<'_>| stats(row).map(|stats| ((stats.at_ms, key_of(stats.series)), stats));
    let rows = statement.query_map(params![window_ms, from.0, from.1, end_ms], keyed).map_err(fail)?;
    rows.collect::<Result<_, _>>().map_err(fail)
}

/// Whether retention has dropped a table since the export began.
fn gone(view: &View<'_>, kind: ExportKind, hour: i64) -> Result<bool, StoreError> {
    Ok(view.renewed() && !view.has_table(&table(kind, hour))?)
}

/// Order of rejects: epoch, rows without series last, series, reason.
type RejectOrder = (i64, i64, i64, i64);

fn rejects(view: &RefCell<View<'_>>, query: &ExportQuery, out: &mut Outlet) -> Result<(), StoreError> {
    let mut names = BoundedMap::default();
    let parts = view.borrow().reject_parts()?;
    let read = |hour: i64, after: RejectOrder| reject_rows(&view.borrow(), hour, after);
    let mut merge = Merge::new(&parts, query.range, |_, _| (i64::MIN, 0, i64::MIN, 0), read);
    while let Some(mut row) = merge.next()? {
        if row.last_at_ms < query.range.start_ms || row.first_at_ms > query.range.end_ms {
            continue;
        }
        match row.series {
            Some(series) => {
                let (meant, name) = names.get(series, || {
                    let series = view.borrow().series(series)?;
                    Ok((is_meant(&query.select, &series)?, series.name))
                })?;
                if !meant {
                    continue;
                }
                row.name = Some(name);
            }
            None if !query.select.is_every() => continue,
            None => {}
        }
        out.put(OutgoingRow::Reject(row), view)?;
    }
    Ok(())
}

fn reject_rows(
    view: &View<'_>,
    hour: i64,
    from: RejectOrder,
) -> Result<Chunk<RejectOrder, RejectRow>, StoreError> {
    let fail = |e| view.fail("read rejects", e);
    if gone(view, ExportKind::Rejects, hour)? {
        return Ok(VecDeque::new());
    }
    let sql = format!(
        "SELECT {} FROM {} WHERE (epoch, unlisted, series, reason) >= (?1, ?2, ?3, ?4) \
         ORDER BY epoch, unlisted, series, reason LIMIT {CHUNK}",
        columns(&REJECT_SQL),
        table(ExportKind::Rejects, hour)
    );
    let mut statement = view.conn().prepare_cached(&sql).map_err(fail)?;
    let rows = statement.query_map(params![from.0, from.1, from.2, from.3], reject).map_err(fail)?;
    rows.collect::<Result<_, _>>().map_err(fail)
}

fn reject(row: &Row<'_>) -> rusqlite::Result<(RejectOrder, RejectRow)> {
    let order = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    let reject = RejectRow {
        by: RejectGrouping::ALL,
        series: listed(order.1, order.2),
        name: None,
        reason: reason(order.3)?,
        count: unsigned(row, 4)?,
        first_at_ms: row.get(5)?,
        last_at_ms: row.get(6)?,
    };
    Ok((order, reject))
}

/// The series of a row of rejects, unless it sums several.
pub fn listed(unlisted: i64, series: i64) -> Option<SeriesId> {
    (unlisted == 0).then(|| series_of(series))
}

/// The reason of a stored code.
pub fn reason(code: i64) -> rusqlite::Result<Reason> {
    let known = u8::try_from(code).ok().and_then(Reason::from_code);
    known.ok_or(rusqlite::Error::IntegralValueOutOfRange(3, code))
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

impl<K: Ord + Copy + Succeed, R, F: Fn(i64, K) -> Result<Chunk<K, R>, StoreError>> Merge<K, R, F> {
    fn new(parts: &[TablePart], range: Range, first: impl Fn(&TablePart, i64) -> K, read: F) -> Self {
        let touched =
            parts.iter().filter(|part| part.at_min <= range.end_ms && part.at_max >= range.start_ms);
        let (mut sources, mut heads) = (Vec::new(), BinaryHeap::new());
        for (place, part) in touched.enumerate() {
            sources.push(MergeSource { hour: part.hour, rows: VecDeque::new(), drained: false });
            heads.push(Reverse((first(part, range.start_ms), place)));
        }
        Merge { sources, heads, read }
    }

    fn next(&mut self) -> Result<Option<R>, StoreError> {
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
            let Some((_, row)) = source.rows.pop_front() else { continue };
            match source.rows.front() {
                Some((next, _)) => self.heads.push(Reverse((*next, place))),
                None if !source.drained => self.heads.push(Reverse((key.successor(), place))),
                None => {}
            }
            return Ok(Some(row));
        }
        Ok(None)
    }
}

/// Keys that have a next one.
trait Succeed {
    /// The least greater key.
    fn successor(self) -> Self;
}

impl Succeed for (i64, i64) {
    fn successor(self) -> Self {
        match self.1.checked_add(1) {
            Some(next) => (self.0, next),
            None => (self.0.saturating_add(1), i64::MIN),
        }
    }
}

impl Succeed for RejectOrder {
    fn successor(self) -> Self {
        // A reason is a code of a few bits.
        (self.0, self.1, self.2, self.3 + 1)
    }
}
