//! `verify`: stored windows against the user's own Prometheus, by its `*_over_time` at the same instants.
//!
//! ```text
//! store ── latest row of each (series, window) ──► groups of one (name, window, at) ──► ask::functions
//!                                                                 beyond tolerance: ──► ask::raw ──► judge
//! ```
//!
//! It reads beside a running worker, one metric name at a time, so memory is that of the name with the most series. A
//! window of which we know only the newest samples is *not full yet* and no difference, unless the store itself shows
//! that we knew the series earlier.
//!
//! Not here: the client of Prometheus (`source::query`) and the store's rows.

mod ask;
mod judge;
mod report;

use std::collections::BTreeMap;

use tidewatch_dataflows::sample::SeriesId;

use crate::source::query::client::{Client, QueryError};
use crate::store::row::WindowRow;
use crate::store::search::Search;
use crate::store::selector::Selectors;
use crate::store::{Range, Store, StoreError, WindowKey, WindowQuery};
use ask::{Labels, Server};
use judge::Verdict;
pub use judge::{STATISTICS, beyond, distance};
pub use report::{Difference, Report, SHOWN_MAX};

/// Most rows of one page of the store.
const PAGE_ROWS: usize = 2_000;

/// What is compared.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of which series; of every one if none is named.
    pub select: Selectors,
    /// The rows at this instant; the latest of each series and window if absent.
    pub at_ms: Option<i64>,
    /// Labels that Prometheus adds when it writes (`external_labels`) and does not know itself.
    pub without: Vec<String>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Prometheus does not answer.
    #[error(transparent)]
    Query(#[from] QueryError),
}

/// A row and the labels by which Prometheus knows its series.
struct Asked {
    row: WindowRow,
    labels: Labels,
}

/// Compares everything that is asked for; `progress` is told after every group of rows.
///
/// # Errors
/// The store cannot be read, or Prometheus does not answer.
pub fn run(
    store: &dyn Store,
    client: &Client,
    options: &Options,
    progress: &mut dyn FnMut(&Report),
) -> Result<Report, VerifyError> {
    let server = Server::new(client)?;
    let report = Report::new(client.url().to_string(), server.version.clone(), server.convention);
    let mut check = Check { store, server, report };
    let (mut of_name, mut after): (Vec<Asked>, Option<WindowKey>) = (Vec::new(), None);
    loop {
        let query = WindowQuery {
            select: options.select.clone(),
            search: Search::default(),
            windows: Vec::new(),
            range: options.at_ms.map(|at_ms| Range { start_ms: at_ms, end_ms: at_ms }),
            filters: Vec::new(),
            after: after.take(),
            sort: None,
            limit: PAGE_ROWS,
        };
        let page = store.windows(&query)?;
        for row in page.rows {
            after = Some(key(&row));
            if of_name.first().is_some_and(|first| first.row.series.name != row.series.name) {
                check.name(std::mem::take(&mut of_name), progress)?;
            }
            let labels = labels(&row, &options.without);
            of_name.push(Asked { row, labels });
        }
        if !page.more || after.is_none() {
            break;
        }
    }
    check.name(of_name, progress)?;
    Ok(check.report)
}

fn key(row: &WindowRow) -> WindowKey {
    let (name, stats) = (row.series.name.clone(), &row.stats);
    WindowKey { name, series: row.series.series, window_ms: stats.window_ms, at_ms: stats.at_ms }
}

/// The labels of a row, sorted, without some.
fn labels(row: &WindowRow, without: &[String]) -> Labels {
    // The store writes an object of strings; a series whose labels it never learnt has none.
    let all: BTreeMap<String, String> = serde_json::from_str(&row.series.labels).unwrap_or_default();
    all.into_iter().filter(|(name, _)| !without.contains(name)).collect()
}

/// A comparison at work.
struct Check<'a> {
    store: &'a dyn Store,
    server: Server<'a>,
    report: Report,
}

impl Check<'_> {
    /// Compares all rows of one metric name.
    fn name(&mut self, rows: Vec<Asked>, progress: &mut dyn FnMut(&Report)) -> Result<(), VerifyError> {
        let Some(first) = rows.first() else { return Ok(()) };
        let name = first.row.series.name.clone();
        let shortest_ms = rows.iter().map(|asked| asked.row.stats.window_ms).min().unwrap_or(0);
        let mut last: Option<SeriesId> = None;
        let mut groups: BTreeMap<(i64, i64), Vec<Asked>> = BTreeMap::new();
        for asked in rows {
            let stats = &asked.row.stats;
            self.report.series += u64::from(last.replace(stats.series) != Some(stats.series));
            groups.entry((stats.window_ms, stats.at_ms)).or_default().push(asked);
        }
        for ((window_ms, at_ms), rows) in groups {
            let series: Vec<&Labels> = rows.iter().map(|asked| &asked.labels).collect();
            // A name that was never learnt cannot be asked for.
            let found = match name.is_empty() {
                true => Default::default(),
                false => self.server.functions(&name, &series, window_ms, at_ms)?,
            };
            for asked in &rows {
                self.row(asked, found.get(&asked.labels), shortest_ms)?;
            }
            progress(&self.report);
        }
        Ok(())
    }

    fn row(
        &mut self,
        asked: &Asked,
        theirs: Option<&judge::Answer>,
        shortest_ms: i64,
    ) -> Result<(), VerifyError> {
        let (row, stats) = (&asked.row, &asked.row.stats);
        if let Some(theirs) = theirs {
            let apart = judge::distance(stats, theirs);
            if judge::within(&apart) {
                self.report.add(row, &Verdict::Equal, &apart);
                return Ok(());
            }
        }
        if row.series.name.is_empty() {
            self.report.add(row, &Verdict::Absent, &[0.0; 5]);
            return Ok(());
        }
        let raw = self.server.raw(&row.series.name, &asked.labels, stats.window_ms, stats.at_ms)?;
        let (mut verdict, apart) = judge::by_samples(stats, theirs, &raw);
        if stats.partial && matches!(verdict, Verdict::NotFull { .. }) {
            verdict = Verdict::Partial;
        }
        if let Verdict::NotFull { since_ms } = verdict
            && self.knew(row, shortest_ms, since_ms)?
        {
            verdict = Verdict::Different(vec![("count", f64::from(stats.count), raw.finite.len() as f64)]);
        }
        self.report.add(row, &verdict, &apart);
        if verdict == Verdict::Rounding
            && let Some(theirs) = theirs
        {
            self.report.rounded(&judge::distance(stats, theirs));
        }
        Ok(())
    }

    /// Whether the store holds a row that shows samples of this window before `since_ms`: one of the shortest window
    /// that lies wholly between the two.
    fn knew(&self, row: &WindowRow, shortest_ms: i64, since_ms: i64) -> Result<bool, VerifyError> {
        let stats = &row.stats;
        let from_ms = stats.at_ms - stats.window_ms + shortest_ms;
        if from_ms >= since_ms {
            return Ok(false);
        }
        let selector = ask::selector(&row.series.name, &[&labels(row, &[])], false);
        // Label names that our selectors cannot say: then there is no such proof.
        let Ok(select) = Selectors::parse(&[selector]) else { return Ok(false) };
        let query = WindowQuery {
            select,
            search: Search::default(),
            windows: vec![shortest_ms],
            range: Some(Range { start_ms: from_ms, end_ms: since_ms - 1 }),
            filters: Vec::new(),
            after: None,
            sort: None,
            limit: PAGE_ROWS,
        };
        let found = self.store.windows(&query)?.rows;
        Ok(found.iter().any(|found| found.series.series == row.series.series))
    }
}
