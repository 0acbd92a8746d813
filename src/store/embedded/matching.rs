//! Which series a search means, found by one scan of the catalog in the order it is stored.
//!
//! Series lie in the order of their ids, not of their names: reading them so is several times faster than walking
//! the names, and nothing but what is found is kept.

use std::collections::HashMap;

use rusqlite::OptionalExtension;

use super::catalog::{CatalogWalk, WalkedSeries, found, is_meant};
use super::values::{key_of, kind, unsigned};
use super::view::View;
use crate::store::row::SeriesRow;
use crate::store::search::Search;
use crate::store::selector::Selectors;
use crate::store::{SeriesKey, StoreError};

/// Most series a scan lists for a page in the order of names; where more are meant, a walk meets them soon enough.
const LISTED_MAX: usize = 4_096;

/// Series between two looks at the clock: their labels may be long.
const SERIES_BETWEEN_LOOKS: usize = 64;

/// One series that is meant.
#[derive(Clone, Copy, Debug)]
pub struct MatchingSeries {
    /// As it is stored.
    pub key: i64,
    /// Place of its name in [`Matching::names`].
    pub name: u32,
    /// Whether its value only grows.
    pub counter: bool,
}

/// The series that are meant, in the order of their keys.
#[derive(Debug, Default)]
pub struct Matching {
    /// The series.
    pub series: Vec<MatchingSeries>,
    /// Each name once.
    pub names: Vec<String>,
    /// How many series there are, meant or not; where the scan ended early, how many were looked at.
    pub seen: usize,
}

/// Scans the catalog for what selectors and a search mean. `counters` says whether types are looked up: without,
/// none counts as a counter. Ends early once more than `most` are found.
pub fn scan(
    view: &View<'_>,
    select: &Selectors,
    search: &Search,
    counters: bool,
    most: usize,
) -> Result<Matching, StoreError> {
    let fail = |e| view.fail("read the catalog", e);
    let types = "(SELECT metric_type FROM types WHERE types.series = catalog.series)";
    let sql = format!(
        "SELECT series, name, labels, {} FROM catalog ORDER BY series",
        if counters { types } else { "NULL" }
    );
    let mut statement = view.conn().prepare_cached(&sql).map_err(fail)?;
    let mut rows = statement.query([]).map_err(fail)?;
    let mut matching = Matching::default();
    let mut places: HashMap<String, u32> = HashMap::new();
    let mut text = String::new();
    while let Some(row) = rows.next().map_err(fail)? {
        matching.seen += 1;
        if matching.seen.is_multiple_of(SERIES_BETWEEN_LOOKS) {
            view.in_time()?;
        }
        let borrowed = |column| row.get_ref(column).map_err(fail)?.as_str().map_err(|e| fail(e.into()));
        let (name, labels) = (borrowed(1)?, borrowed(2)?);
        if !search.means(name, labels, &mut text) {
            continue;
        }
        let key: i64 = row.get(0).map_err(fail)?;
        if !select.is_every() || counters {
            let kind = kind(row, 3).map_err(fail)?;
            let (name, labels) = (name.to_owned(), labels.to_owned());
            let series = SeriesRow { series: super::values::series_of(key), name, labels, kind };
            if is_meant(select, &series)? {
                matching.add(&mut places, key, &series.name, counters && series.is_counter());
            }
        } else {
            matching.add(&mut places, key, name, false);
        }
        if matching.series.len() > most {
            break;
        }
    }
    Ok(matching)
}

/// The same by a walk over the names that selectors give: where those are few, it looks at few series.
pub fn walk(view: &View<'_>, select: &Selectors, search: &Search) -> Result<Matching, StoreError> {
    let mut walk = CatalogWalk::new(view, select, None, true);
    let (mut matching, mut places, mut text) = (Matching::default(), HashMap::new(), String::new());
    while let Some(WalkedSeries { series, .. }) = walk.next()? {
        if search.means(&series.name, &series.labels, &mut text) {
            matching.add(&mut places, key_of(series.series), &series.name, series.is_counter());
        }
    }
    matching.series.sort_unstable_by_key(|meant| meant.key);
    let fail = |e| view.fail("read the catalog", e);
    let mut count = view.conn().prepare_cached("SELECT count(*) FROM catalog").map_err(fail)?;
    matching.seen =
        usize::try_from(count.query_row([], |row| unsigned(row, 0)).map_err(fail)?).unwrap_or(usize::MAX);
    Ok(matching)
}

impl Matching {
    fn add(&mut self, places: &mut HashMap<String, u32>, key: i64, name: &str, counter: bool) {
        let place = places.get(name).copied().unwrap_or_else(|| {
            let place = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
            places.insert(name.to_owned(), place);
            self.names.push(name.to_owned());
            place
        });
        self.series.push(MatchingSeries { key, name: place, counter });
    }
}

/// One series of the catalog with everything a page needs; none if it is gone.
pub fn fetch(view: &View<'_>, key: i64) -> Result<Option<WalkedSeries>, StoreError> {
    let fail = |e| view.fail("read the catalog", e);
    let sql = "SELECT series, name, labels, from_hour, to_hour, \
               (SELECT metric_type FROM types WHERE types.series = catalog.series) FROM catalog WHERE series = ?1";
    let mut statement = view.conn().prepare_cached(sql).map_err(fail)?;
    statement.query_row([key], found).optional().map_err(fail)
}

/// The series a page goes through, in the order (name, series).
pub enum SeriesWalk<'q, 'v, 's> {
    /// All that selectors mean, judged one by one.
    Walk(CatalogWalk<'q, 'v, 's>, &'q Search, String),
    /// Few, found by a scan.
    Listed(std::vec::IntoIter<WalkedSeries>),
}

impl<'q, 'v, 's> SeriesWalk<'q, 'v, 's> {
    /// From `from` on, which belongs to it.
    pub fn new(
        view: &'v View<'s>,
        select: &'q Selectors,
        search: &'q Search,
        from: Option<&SeriesKey>,
    ) -> Result<Self, StoreError> {
        if !search.is_every() && select.names().is_none() {
            let matching = scan(view, select, search, false, LISTED_MAX)?;
            if matching.series.len() <= LISTED_MAX {
                return Ok(SeriesWalk::Listed(list(view, &matching, from)?.into_iter()));
            }
        }
        Ok(SeriesWalk::Walk(CatalogWalk::new(view, select, from, true), search, String::new()))
    }

    /// The next series.
    pub fn next(&mut self) -> Result<Option<WalkedSeries>, StoreError> {
        match self {
            SeriesWalk::Listed(found) => Ok(found.next()),
            SeriesWalk::Walk(walk, search, text) => loop {
                match walk.next()? {
                    Some(found) if !search.means(&found.series.name, &found.series.labels, text) => {}
                    found => return Ok(found),
                }
            },
        }
    }
}

fn list(
    view: &View<'_>,
    matching: &Matching,
    from: Option<&SeriesKey>,
) -> Result<Vec<WalkedSeries>, StoreError> {
    let place = |meant: &MatchingSeries| (matching.names[meant.name as usize].as_str(), meant.key);
    let from = from.map(|from| (from.name.as_str(), key_of(from.series)));
    let mut series: Vec<_> =
        matching.series.iter().filter(|meant| from.is_none_or(|from| place(meant) >= from)).collect();
    series.sort_unstable_by_key(|meant| place(meant));
    let found = series.into_iter().filter_map(|meant| fetch(view, meant.key).transpose());
    found.collect()
}
