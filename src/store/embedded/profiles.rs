//! Profiles: the last row of each series, by (name, series).

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, params};
use tidewatch_dataflows::rows::{KINDS, SeriesProfile, place_of};
use tidewatch_dataflows::sample::SeriesId;

use super::catalog::{CatalogWalk, is_meant};
use super::read::stored;
use super::schema::columns;
use super::values::key_of;
use super::view::View;
use crate::store::row::{ProfileRow, SeriesRow};
use crate::store::{PAGE_BYTES_MAX, Page, ProfilesQuery, SeriesKey, StoreError};

/// About how many bytes the numbers of a row print to.
const PRINTED_BYTES: usize = 1_500;

/// A page of profiles.
pub fn page(view: &View<'_>, query: &ProfilesQuery) -> Result<Page<ProfileRow>, StoreError> {
    let mut page = ProfilesPage { view, query, rows: Vec::new(), bytes: 0 };
    let mut more = false;
    if query.series.is_empty() {
        let mut walk = CatalogWalk::new(view, &query.select, query.after.as_ref(), false);
        while let Some(found) = walk.next()?
            && !more
        {
            more = page.offer(&found.series)?;
        }
    } else {
        for series in named(view, query)? {
            more = more || page.offer(&series)?;
        }
    }
    Ok(Page { rows: page.rows, more })
}

/// The series that are asked for by their ids, in the order of rows.
fn named(view: &View<'_>, query: &ProfilesQuery) -> Result<Vec<SeriesRow>, StoreError> {
    let mut named = BTreeMap::new();
    for id in &query.series {
        if let Some(series) = view.known_series(*id)?
            && is_meant(&query.select, &series)?
        {
            named.insert(SeriesKey { name: series.name.clone(), series: *id }, series);
        }
    }
    if let Some(after) = &query.after {
        named.retain(|key, _| key > after);
    }
    Ok(named.into_values().collect())
}

/// The page as it fills.
struct ProfilesPage<'q, 'v, 's> {
    view: &'v View<'s>,
    query: &'q ProfilesQuery,
    rows: Vec<ProfileRow>,
    bytes: usize,
}

impl ProfilesPage<'_, '_, '_> {
    /// Takes the profile of a series if it is asked for; true if the page was full and it belongs to the next.
    fn offer(&mut self, series: &SeriesRow) -> Result<bool, StoreError> {
        let Some(profile) = of_series(self.view, series.series)? else { return Ok(false) };
        if !self.query.verdicts.mean(&profile) {
            return Ok(false);
        }
        if self.rows.len() == self.query.limit || self.bytes > PAGE_BYTES_MAX {
            return Ok(true);
        }
        self.bytes += series.printed_bytes() + PRINTED_BYTES;
        self.rows.push(ProfileRow { series: series.clone(), profile });
        Ok(false)
    }
}

/// The last profile of a series.
fn of_series(view: &View<'_>, series: SeriesId) -> Result<Option<SeriesProfile>, StoreError> {
    let fail = |e| view.fail("read profiles", e);
    let kind = &KINDS[place_of::<SeriesProfile>()];
    let sql = format!("SELECT {} FROM {} WHERE series = ?1", columns(kind), kind.name);
    let mut statement = view.conn().prepare_cached(&sql).map_err(fail)?;
    statement.query_row(params![key_of(series)], stored::<SeriesProfile>).optional().map_err(fail)
}
