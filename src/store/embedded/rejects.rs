//! Sums of rejects.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use rusqlite::params;
use tidewatch_dataflows::rows::{KINDS, Reject, place_of};
use tidewatch_dataflows::sample::{Reason, SeriesId};

use super::catalog::is_meant;
use super::schema::table;
use super::values::{series_of, unsigned};
use super::view::{SeriesNames, View};
use crate::store::row::{RejectRow, SeriesRow};
use crate::store::{
    PAGE_BYTES_MAX, Page, REJECT_GROUP_BYTES_MAX, REJECT_GROUPS_MAX, RejectKey, RejectQuery, StoreError,
};

/// A page of sums.
pub fn page(view: &View<'_>, query: &RejectQuery) -> Result<Page<RejectRow>, StoreError> {
    let groups = groups(view, query)?;
    let start = query.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for (key, row) in groups.range::<RejectKey, _>((start, Bound::Unbounded)) {
        if rows.len() == query.limit || bytes > PAGE_BYTES_MAX {
            return Ok(Page { rows, more: true });
        }
        bytes += key.name.len() + 256;
        rows.push(row.clone());
    }
    Ok(Page { rows, more: false })
}

fn groups(view: &View<'_>, query: &RejectQuery) -> Result<BTreeMap<RejectKey, RejectRow>, StoreError> {
    let range = query.range;
    let mut names =
        SeriesNames::new(view, |series: SeriesRow| Ok((is_meant(&query.select, &series)?, series.name)));
    let needs_names = query.by.name || !query.select.is_every();
    let mut groups: BTreeMap<RejectKey, RejectRow> = BTreeMap::new();
    let mut bytes = 0;
    let parts = view.partitions::<Reject>()?.into_iter().flat_map(|partition| partition.parts);
    for part in parts.filter(|part| part.at_min <= range.end_ms && part.at_max >= range.start_ms) {
        let fail = |e| view.fail("read rejects", e);
        let sql = format!(
            "SELECT unlisted, series, reason, sum(count), min(first_at_ms), max(last_at_ms) FROM {} \
             WHERE last_at_ms >= ?1 AND first_at_ms <= ?2 GROUP BY unlisted, series, reason",
            table(&KINDS[place_of::<Reject>()], part.hour)
        );
        let mut statement = view.conn().prepare_cached(&sql).map_err(fail)?;
        let mut rows = statement.query(params![range.start_ms, range.end_ms]).map_err(fail)?;
        while let Some(row) = rows.next().map_err(fail)? {
            let read = || Ok((listed(row.get(0)?, row.get(1)?), reason(row.get(2)?)?, unsigned(row, 3)?));
            let (series, reason, count): (Option<SeriesId>, Reason, u64) = read().map_err(fail)?;
            let mut name = None;
            match series {
                Some(series) if needs_names => {
                    let named = names.get(series)?;
                    if !named.0 {
                        continue;
                    }
                    name = query.by.name.then(|| named.1.clone());
                }
                None if !query.select.is_every() => continue,
                _ => {}
            }
            let first_at_ms = row.get(4).map_err(fail)?;
            let last_at_ms = row.get(5).map_err(fail)?;
            let series = series.filter(|_| query.by.series);
            let row = RejectRow { by: query.by, series, name, reason, count, first_at_ms, last_at_ms };
            add(&mut groups, &mut bytes, row)?;
        }
    }
    Ok(groups)
}

fn add(
    groups: &mut BTreeMap<RejectKey, RejectRow>,
    bytes: &mut usize,
    row: RejectRow,
) -> Result<(), StoreError> {
    let full = groups.len() >= REJECT_GROUPS_MAX || *bytes > REJECT_GROUP_BYTES_MAX;
    match groups.entry(RejectKey::of(&row)) {
        Entry::Occupied(mut held) => {
            let sum = held.get_mut();
            sum.count = sum.count.saturating_add(row.count);
            sum.first_at_ms = sum.first_at_ms.min(row.first_at_ms);
            sum.last_at_ms = sum.last_at_ms.max(row.last_at_ms);
        }
        Entry::Vacant(_) if full => return Err(StoreError::Groups { limit: REJECT_GROUPS_MAX }),
        Entry::Vacant(place) => {
            // Once in the key, and once in the row.
            *bytes += 2 * place.key().name.len();
            place.insert(row);
        }
    }
    Ok(())
}

/// The series of a row of rejects, unless it sums several.
fn listed(unlisted: i64, series: i64) -> Option<SeriesId> {
    (unlisted == 0).then(|| series_of(series))
}

/// The reason of a stored code.
fn reason(code: i64) -> rusqlite::Result<Reason> {
    let known = u8::try_from(code).ok().and_then(Reason::from_code);
    known.ok_or(rusqlite::Error::IntegralValueOutOfRange(3, code))
}
