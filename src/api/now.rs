//! `GET /api/v1/windows?at=now`: windows that are not closed yet, as far as they are filled.
//!
//! Nothing of this is stored: the workers are asked, between their steps, for the next key of each window after processing time.
//! The list is that of the series known now, so one whose first window is still open is in it.

use std::sync::Arc;

use axum::response::Response;
use tidewatch_dataflows::sample::SeriesId;

use super::cursor::PageCursor;
use super::params::Params;
use super::series::of_listed;
use super::{Api, Problem, list};
use crate::labels::{LabelSet, Labels, LabelsOfSeries};
use crate::store::budget::BudgetExceeded;
use crate::store::row::OpenRow;
use crate::store::{NoAnswer, OpenWindowSource, PAGE_BYTES_MAX, Page, WindowKey, WindowQuery};

/// Series the workers are asked about at once.
const ASKED_AT_ONCE: usize = 1_024;

/// Answers with a page of open windows, by (name, series, window).
///
/// # Errors
/// The workers are busy or computing their state again (503), or the page takes too long (504).
pub fn page(api: &Api, params: &Params, query: &WindowQuery) -> Result<Response, Problem> {
    let mut page = Page { rows: Vec::new(), more: false };
    let mut bytes = 0;
    // The series of the cursor may have windows left.
    let mut after =
        query.after.as_ref().map(|key| (key.name.clone(), SeriesId(key.series.0.wrapping_sub(1))));
    if query.after.as_ref().is_some_and(|key| key.series.0 == 0) {
        after = None;
    }
    loop {
        let series = listed(&api.labels, query, after.as_ref())?;
        let Some(last) = series.last() else { break };
        after = Some((last.labels.name().to_owned(), last.series));
        if fill(&mut page, &mut bytes, &*api.latest, query, &series)? {
            break;
        }
    }
    list::answer(params, &page, |row| PageCursor {
        name: row.series.name.clone(),
        series: row.series.series,
        a: row.stats.window_ms,
        b: row.stats.at_ms,
    })
}

/// The next series that are asked for.
fn listed(
    labels: &Labels,
    query: &WindowQuery,
    after: Option<&(String, SeriesId)>,
) -> Result<Vec<LabelsOfSeries>, Problem> {
    if let Some(only) = query.select.only() {
        return Ok(labels
            .listed(only)
            .filter(|one| after.is_none_or(|after| one.is_after(after)))
            .into_iter()
            .collect());
    }
    let found = |set: &LabelSet| {
        let labels = || serde_json::Value::Object(set.to_json_map()).to_string();
        query.search.is_every() || query.search.means(set.name(), &labels(), &mut String::new())
    };
    let wanted = |set: &LabelSet| {
        query.select.budget().check()?;
        Ok::<_, BudgetExceeded>(query.select.matches(set.name(), |label| set.get(label))? && found(set))
    };
    let after = after.map(|(name, series)| (name.as_str(), *series));
    Ok(labels.list(wanted, after, ASKED_AT_ONCE)?)
}

/// Adds the open windows of these series; true if the page is full.
fn fill(
    page: &mut Page<OpenRow>,
    bytes: &mut usize,
    latest: &dyn OpenWindowSource,
    query: &WindowQuery,
    series: &[LabelsOfSeries],
) -> Result<bool, Problem> {
    let ids: Vec<SeriesId> = series.iter().map(|listed| listed.series).collect();
    let open = latest.open(&ids, &query.windows, query.select.budget()).map_err(|error| match error {
        NoAnswer::Later(why) => Problem::unavailable(why),
        NoAnswer::Busy(why) => Problem::unavailable(why).of_limit("engine.questions"),
        NoAnswer::Over(over) => over.into(),
    })?;
    for (listed, mut open) in series.iter().zip(open) {
        let series = Arc::new(of_listed(listed));
        open.rows.sort_by_key(|stats| stats.window_ms);
        for stats in open.rows {
            let key = (&series.name, series.series, stats.window_ms);
            let shown = |after: &WindowKey| key <= (&after.name, after.series, after.window_ms);
            let inside = query.filters.iter().all(|filter| {
                let value = filter.stat.of(series.is_counter(), &stats);
                value.is_some_and(|value| (filter.least..=filter.most).contains(&value))
            });
            if !inside || query.after.as_ref().is_some_and(shown) {
                continue;
            }
            if page.rows.len() == query.limit || *bytes > PAGE_BYTES_MAX {
                page.more = true;
                return Ok(true);
            }
            *bytes += series.printed_bytes() + 256;
            page.rows.push(OpenRow { series: Arc::clone(&series), stats, epoch: open.epoch });
        }
    }
    Ok(false)
}
