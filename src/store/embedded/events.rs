//! Changes of what kind of series one is, by (name, series, at).

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::params;
use tidewatch_dataflows::rows::{KINDS, ProfileEvent, place_of};

use super::catalog::is_meant;
use super::read::stored;
use super::schema::{columns, table};
use super::view::{SeriesNames, View};
use crate::store::row::{EventRow, SeriesRow};
use crate::store::{EventKey, EventsQuery, PAGE_BYTES_MAX, Page, StoreError};

/// A page of events: of all in the range the first behind the last page, no more of which are ever held.
pub fn page(view: &View<'_>, query: &EventsQuery) -> Result<Page<EventRow>, StoreError> {
    let range = query.range;
    let kind = &KINDS[place_of::<ProfileEvent>()];
    let mut names = SeriesNames::new(view, |series: SeriesRow| {
        Ok(is_meant(&query.select, &series)?.then(|| Arc::new(series)))
    });
    let mut first: BTreeMap<EventKey, EventRow> = BTreeMap::new();
    let (mut bytes, mut more) = (0, false);
    let parts = view.partitions::<ProfileEvent>()?.into_iter().flat_map(|partition| partition.parts);
    for part in parts.filter(|part| part.at_min <= range.end_ms && part.at_max >= range.start_ms) {
        let fail = |e| view.fail("read events", e);
        let sql = format!(
            "SELECT {} FROM {} WHERE at_ms >= ?1 AND at_ms <= ?2",
            columns(kind),
            table(kind, part.hour)
        );
        let mut statement = view.conn().prepare_cached(&sql).map_err(fail)?;
        let mut rows = statement.query(params![range.start_ms, range.end_ms]).map_err(fail)?;
        while let Some(row) = rows.next().map_err(fail)? {
            let event: ProfileEvent = stored(row).map_err(fail)?;
            let Some(series) = (*names.get(event.series)?).clone() else { continue };
            let row = EventRow { series, event };
            let key = EventKey::of(&row);
            if query.after.as_ref().is_some_and(|after| key <= *after) {
                continue;
            }
            bytes += row.series.printed_bytes();
            if let Some(same) = first.insert(key, row) {
                bytes -= same.series.printed_bytes();
            }
            while first.len() > query.limit || (bytes > PAGE_BYTES_MAX && first.len() > 1) {
                more = true;
                bytes -= first.pop_last().map_or(0, |(_, last)| last.series.printed_bytes());
            }
        }
    }
    Ok(Page { rows: first.into_values().collect(), more })
}
