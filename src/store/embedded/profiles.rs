//! Profiles: the last row of each series, by (name, series).

use rusqlite::{OptionalExtension, params};
use tidewatch_dataflows::rows::{KINDS, SeriesProfile, place_of};
use tidewatch_dataflows::sample::SeriesId;

use super::catalog::CatalogWalk;
use super::read::stored;
use super::schema::columns;
use super::values::key_of;
use super::view::View;
use crate::store::row::ProfileRow;
use crate::store::{PAGE_BYTES_MAX, Page, ProfilesQuery, StoreError};

/// About how many bytes the numbers of a row print to.
const PRINTED_BYTES: usize = 1_500;

/// A page of profiles.
pub fn page(view: &View<'_>, query: &ProfilesQuery) -> Result<Page<ProfileRow>, StoreError> {
    let mut walk = CatalogWalk::new(view, &query.select, query.after.as_ref(), false);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(found) = walk.next()? {
        let Some(profile) = of_series(view, found.series.series)? else { continue };
        if !query.verdicts.mean(&profile) {
            continue;
        }
        if rows.len() == query.limit || bytes > PAGE_BYTES_MAX {
            return Ok(Page { rows, more: true });
        }
        bytes += found.series.printed_bytes() + PRINTED_BYTES;
        rows.push(ProfileRow { series: (*found.series).clone(), profile });
    }
    Ok(Page { rows, more: false })
}

/// The last profile of a series.
fn of_series(view: &View<'_>, series: SeriesId) -> Result<Option<SeriesProfile>, StoreError> {
    let fail = |e| view.fail("read profiles", e);
    let kind = &KINDS[place_of::<SeriesProfile>()];
    let sql = format!("SELECT {} FROM {} WHERE series = ?1", columns(kind), kind.name);
    let mut statement = view.conn().prepare_cached(&sql).map_err(fail)?;
    statement.query_row(params![key_of(series)], stored::<SeriesProfile>).optional().map_err(fail)
}
