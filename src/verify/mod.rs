//! `verify`: stored windows against the user's own Prometheus, by its `*_over_time` at the same instants.
//!
//! ```text
//! store ── latest row of each (series, window) ──► groups of one (name, window, at) ──► ask::functions
//!                                                                 beyond tolerance: ──► ask::raw ──► judge
//! ```
//!
//! It reads beside a running server, one metric name at a time, so memory is that of the name with the most series. A
//! window of which we know only the newest samples is *not full yet* and no difference, unless the store itself shows
//! that we knew the series earlier.
//!
//! Beside a running server samples come while it compares: a row that differs may have been read before the newest late
//! sample, which the server had already. So rows that differ are read again a little later, and judged by what the server
//! said before and says now; only what differs even so counts. A store that is written by nobody ends that early, and all
//! rows of a run share one time for it (`again`). Rows beyond that time are different at once, and counted apart.
//!
//! Not here: the client of Prometheus (`source::query`) and the store's rows.

mod again;
mod ask;
mod judge;
mod profiles;
mod report;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use tidewatch_dataflows::rows::SeriesProfile;
use tidewatch_dataflows::sample::SeriesId;

use crate::source::query::client::{PrometheusClient, QueryError};
use crate::store::row::{SeriesRow, WindowRow};
use crate::store::search::Search;
use crate::store::selector::Selectors;
use crate::store::{ProfilesQuery, Range, SeriesKey, Store, StoreError, Verdicts, WindowKey, WindowQuery};
use again::Rounds;
use ask::{VerifiedServer, VerifyLabels};
use judge::{Distance, RowVerdict, ServerSamples};
pub use judge::{STD_FLOOR, VERIFIED, number_apart};
pub use report::{SHOWN_MAX, VerifyDifference, VerifyReport};

/// Most rows of one page of the store.
const PAGE_ROWS: usize = 2_000;
/// Most rows that differ and are read again at a time.
const DOUBTS_MAX: usize = 500;
/// Most looks at the server's samples of a row that are kept.
const LOOKS_MAX: usize = 4;

/// What is compared.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Of which series; of every one if none is named.
    pub select: Selectors,
    /// The rows at this instant; the latest of each series and window if absent.
    pub at_ms: Option<i64>,
    /// Profiles of at most so many series are compared, evenly chosen; none with rows of an instant.
    pub profiles: usize,
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
struct RowToCheck {
    row: WindowRow,
    labels: VerifyLabels,
}

/// Compares everything that is asked for; `progress` is told after every group of rows.
///
/// # Errors
/// The store cannot be read, or Prometheus does not answer.
pub fn run(
    store: &dyn Store,
    client: &PrometheusClient,
    options: &VerifyOptions,
    progress: &mut dyn FnMut(&VerifyReport),
) -> Result<VerifyReport, VerifyError> {
    let server = VerifiedServer::new(client)?;
    let report = VerifyReport::new(client.url().to_string(), server.version.clone(), server.convention);
    let rounds = Rounds::new(store.epoch()?, Instant::now());
    let mut check = Comparison { store, server, report, doubts: Vec::new(), doubting: true, rounds };
    let (mut of_name, mut after): (Vec<RowToCheck>, Option<WindowKey>) = (Vec::new(), None);
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
            let labels = labels(&row.series, &options.without);
            of_name.push(RowToCheck { row, labels });
        }
        if !page.more || after.is_none() {
            break;
        }
    }
    check.name(of_name, progress)?;
    check.ask_again(progress)?;
    if options.at_ms.is_none() && options.profiles > 0 {
        check.profiles(options, progress)?;
    }
    Ok(check.report)
}

fn key(row: &WindowRow) -> WindowKey {
    let (name, stats) = (row.series.name.clone(), &row.stats);
    WindowKey { name, series: row.series.series, window_ms: stats.window_ms, at_ms: stats.at_ms }
}

/// The labels of a series, sorted, without some.
fn labels(series: &SeriesRow, without: &[String]) -> VerifyLabels {
    // The store writes an object of strings; a series whose labels it never learnt has none.
    let all: BTreeMap<String, String> = serde_json::from_str(&series.labels).unwrap_or_default();
    all.into_iter().filter(|(name, _)| !without.contains(name)).collect()
}

/// A comparison at work.
struct Comparison<'a> {
    store: &'a dyn Store,
    server: VerifiedServer<'a>,
    report: VerifyReport,
    doubts: Vec<DoubtfulRow>,
    /// Whether rows that differ may have been read too early; not once so many of them differed for good, or took so long.
    doubting: bool,
    rounds: Rounds,
}

/// A row that differs, and may only be older than what the server said.
struct DoubtfulRow {
    candidate: RowToCheck,
    /// The newest looks at the server's samples, in order.
    looks: VecDeque<ServerSamples>,
    shortest_ms: i64,
    verdict: RowVerdict,
    apart: Distance,
}

impl DoubtfulRow {
    /// Whether the row was read again at all.
    fn read_again(&self) -> bool {
        self.looks.len() > 1
    }
}

impl Comparison<'_> {
    /// Compares all rows of one metric name.
    fn name(
        &mut self,
        rows: Vec<RowToCheck>,
        progress: &mut dyn FnMut(&VerifyReport),
    ) -> Result<(), VerifyError> {
        let Some(first) = rows.first() else { return Ok(()) };
        let name = first.row.series.name.clone();
        let shortest_ms = rows.iter().map(|candidate| candidate.row.stats.window_ms).min().unwrap_or(0);
        let mut last: Option<SeriesId> = None;
        let mut groups: BTreeMap<(i64, i64), Vec<RowToCheck>> = BTreeMap::new();
        for candidate in rows {
            let stats = &candidate.row.stats;
            self.report.series += u64::from(last.replace(stats.series) != Some(stats.series));
            groups.entry((stats.window_ms, stats.at_ms)).or_default().push(candidate);
        }
        for ((window_ms, at_ms), rows) in groups {
            let series: Vec<&VerifyLabels> = rows.iter().map(|candidate| &candidate.labels).collect();
            // A name that was never learnt cannot be asked for.
            let found = match name.is_empty() {
                true => Default::default(),
                false => {
                    let wanted = judge::verified_of(rows.iter().map(|candidate| &candidate.row.stats));
                    self.server.functions(&name, &series, (window_ms, at_ms), &wanted)?
                }
            };
            for candidate in rows {
                let theirs = found.get(&candidate.labels);
                self.row(candidate, theirs, shortest_ms, progress)?;
            }
            progress(&self.report);
        }
        Ok(())
    }

    fn row(
        &mut self,
        candidate: RowToCheck,
        theirs: Option<&judge::FunctionAnswers>,
        shortest_ms: i64,
        progress: &mut dyn FnMut(&VerifyReport),
    ) -> Result<(), VerifyError> {
        let (row, stats) = (&candidate.row, &candidate.row.stats);
        if let Some(theirs) = theirs {
            let apart = judge::distance(stats, theirs);
            if judge::within(&apart) {
                self.report.add(row, &RowVerdict::Equal, &apart);
                return Ok(());
            }
        }
        if row.series.name.is_empty() {
            self.report.add(row, &RowVerdict::Absent, &judge::NONE);
            return Ok(());
        }
        let raw = self.server.raw(&row.series.name, &candidate.labels, stats.window_ms, stats.at_ms)?;
        let (mut verdict, apart) = self.judge(row, theirs, &raw, shortest_ms)?;
        if verdict == RowVerdict::Absent
            && self.server.derived(&row.series.name, &candidate.labels, stats.window_ms, stats.at_ms)?
        {
            verdict = RowVerdict::Derived;
        }
        if matches!(verdict, RowVerdict::Different(_)) {
            if self.doubts.len() >= DOUBTS_MAX {
                self.ask_again(progress)?;
            }
            if self.doubting {
                self.doubts.push(DoubtfulRow {
                    candidate,
                    looks: VecDeque::from([raw]),
                    shortest_ms,
                    verdict,
                    apart,
                });
                return Ok(());
            }
            self.report.different_at_once += 1;
        }
        self.report.add(row, &verdict, &apart);
        if verdict == RowVerdict::Rounding
            && let Some(theirs) = theirs
        {
            self.report.rounded(&judge::distance(stats, theirs));
        }
        Ok(())
    }

    /// The verdict on a row by the server's samples.
    fn judge(
        &self,
        row: &WindowRow,
        theirs: Option<&judge::FunctionAnswers>,
        raw: &ServerSamples,
        shortest_ms: i64,
    ) -> Result<(RowVerdict, Distance), VerifyError> {
        let (mut verdict, apart) = judge::by_samples(&row.stats, theirs, raw);
        if row.stats.partial && matches!(verdict, RowVerdict::NotFull { .. }) {
            verdict = RowVerdict::Partial;
        }
        if let RowVerdict::NotFull { since_ms } = verdict
            && self.knew(row, shortest_ms, since_ms)?
        {
            let counts = (f64::from(row.stats.count), raw.finite.len() as f64);
            verdict = RowVerdict::Different(vec![("count", counts.0, counts.1)]);
        }
        Ok((verdict, apart))
    }

    /// Reads rows that differ again, and the server's samples; what differs at the end does.
    fn ask_again(&mut self, progress: &mut dyn FnMut(&VerifyReport)) -> Result<(), VerifyError> {
        let all = self.doubts.len();
        self.rounds.begin(Instant::now());
        while !self.doubts.is_empty()
            && let Some(pause) = self.rounds.next(self.store.epoch()?, Instant::now())
        {
            std::thread::sleep(pause);
            let end = self.rounds.end();
            for mut doubt in std::mem::take(&mut self.doubts) {
                let verdict =
                    if Instant::now() < end { Some(self.judge_again(&mut doubt, end)?) } else { None };
                match verdict {
                    None | Some(RowVerdict::Different(_)) => self.doubts.push(doubt),
                    Some(verdict) => self.report.add(&doubt.candidate.row, &verdict, &doubt.apart),
                }
            }
            progress(&self.report);
        }
        self.doubting = !self.rounds.is_over() && (all < DOUBTS_MAX || self.doubts.len() < all);
        for doubt in std::mem::take(&mut self.doubts) {
            self.report.different_at_once += u64::from(!doubt.read_again());
            self.report.add(&doubt.candidate.row, &doubt.verdict, &doubt.apart);
        }
        Ok(())
    }

    /// The verdict on a row as it is now, by what the server said before and says now; moments between are tried until
    /// `end`.
    fn judge_again(&self, doubt: &mut DoubtfulRow, end: Instant) -> Result<RowVerdict, VerifyError> {
        let stats = doubt.candidate.row.stats;
        if let Some(row) = self.again(&doubt.candidate.row)? {
            doubt.candidate.row = row;
        }
        let same = |verdict: &RowVerdict| {
            matches!(
                verdict,
                RowVerdict::Samples | RowVerdict::Rounding | RowVerdict::NotFinite | RowVerdict::Infinite
            )
        };
        // We are a few seconds behind: what the server said a moment ago, or had between two looks, is what we have now.
        for look in &doubt.looks {
            let (before, apart) = self.judge(&doubt.candidate.row, None, look, doubt.shortest_ms)?;
            if same(&before) {
                doubt.apart = apart;
                return Ok(RowVerdict::Settled);
            }
        }
        let name = &doubt.candidate.row.series.name;
        let look = self.server.raw(name, &doubt.candidate.labels, stats.window_ms, stats.at_ms)?;
        let (now, apart) = self.judge(&doubt.candidate.row, None, &look, doubt.shortest_ms)?;
        doubt.looks.push_back(look);
        let row = &doubt.candidate.row.stats;
        let pairs = doubt.looks.iter().zip(doubt.looks.iter().skip(1));
        let between = pairs.into_iter().find_map(|(earlier, later)| judge::between(row, earlier, later, end));
        if doubt.looks.len() > LOOKS_MAX {
            doubt.looks.pop_front();
        }
        (doubt.verdict, doubt.apart) = (now.clone(), between.unwrap_or(apart));
        Ok(if same(&now) || between.is_some() { RowVerdict::Settled } else { now })
    }

    /// Compares the profiles of some series, evenly chosen.
    fn profiles(
        &mut self,
        options: &VerifyOptions,
        progress: &mut dyn FnMut(&VerifyReport),
    ) -> Result<(), VerifyError> {
        let stored = self.store.status()?.rows_of::<SeriesProfile>() as usize;
        let stride = stored.div_ceil(options.profiles).max(1);
        let (mut seen, mut after): (usize, Option<SeriesKey>) = (0, None);
        loop {
            let query = ProfilesQuery {
                select: options.select.clone(),
                series: Vec::new(),
                verdicts: Verdicts::default(),
                after: after.take(),
                limit: PAGE_ROWS,
            };
            let page = self.store.profiles(&query)?;
            for row in page.rows {
                after = Some(SeriesKey { name: row.series.name.clone(), series: row.series.series });
                seen += 1;
                self.report.profiles.stored += 1;
                if !(seen - 1).is_multiple_of(stride) || row.series.name.is_empty() {
                    continue;
                }
                let known = labels(&row.series, &options.without);
                let raw = self.server.raw(&row.series.name, &known, profiles::SPAN_MS, row.profile.at_ms)?;
                let (name, labels) = (&row.series.name, &row.series.labels);
                profiles::judge(name, labels, &row.profile, &raw, &mut self.report.profiles);
                progress(&self.report);
            }
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// A row as the store has it now.
    fn again(&self, row: &WindowRow) -> Result<Option<WindowRow>, VerifyError> {
        let stats = &row.stats;
        let query = WindowQuery {
            select: Selectors::one(row.series.series, &row.series.name),
            search: Search::default(),
            windows: vec![stats.window_ms],
            range: Some(Range { start_ms: stats.at_ms, end_ms: stats.at_ms }),
            filters: Vec::new(),
            after: None,
            sort: None,
            limit: 1,
        };
        Ok(self.store.windows(&query)?.rows.pop())
    }

    /// Whether the store holds a row that shows samples of this window before `since_ms`: one of the shortest window
    /// that lies wholly between the two.
    fn knew(&self, row: &WindowRow, shortest_ms: i64, since_ms: i64) -> Result<bool, VerifyError> {
        let stats = &row.stats;
        let from_ms = stats.at_ms - stats.window_ms + shortest_ms;
        if from_ms >= since_ms {
            return Ok(false);
        }
        let selector = ask::selector(&row.series.name, &[&labels(&row.series, &[])], false);
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
