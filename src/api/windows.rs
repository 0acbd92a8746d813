//! `GET /api/v1/windows` and `/api/v1/windows/{series}`: statistics per series and window; without a range the latest of each,
//! which can be sorted, with `at=now` what is open.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use tidewatch_dataflows::statistics::REVISION;

use super::cursor::PageCursor;
use super::operation::{AnswerKind, BARE, Operation, SERIES_PROBLEMS, STORE_PROBLEMS, rows};
use super::params::{CURSOR, END, FORMAT, LIMIT, MATCH, NOW, Params, SEARCH, SERIES, SORT, START, WINDOW};
use super::series::{SeriesPath, select};
use super::{Api, Problem, list, now};
use crate::store::budget::Budget;
use crate::store::row::{OpenRow, WindowRow};
use crate::store::selector::Selectors;
use crate::store::sort::Sort;
use crate::store::{Store, WindowKey, WindowQuery};

pub const WINDOWS: Operation = Operation {
    id: "windows",
    path: "/api/v1/windows",
    summary: "Statistics per series and window",
    about: "By (name, series, window, at). Without a range the latest row of each series and window; with `at=now` the \
            windows that are still open.",
    params: &[MATCH, SEARCH, SORT, WINDOW, START, END, NOW, LIMIT, CURSOR, FORMAT],
    filters: true,
    answer: AnswerKind::Rows(&[rows::<WindowRow>("Window"), rows::<OpenRow>("OpenWindow")]),
    problems: STORE_PROBLEMS,
    ..BARE
};

pub const WINDOWS_OF_SERIES: Operation = Operation {
    id: "windowsOfSeries",
    path: "/api/v1/windows/{series}",
    summary: "Statistics of one series",
    about: "By (window, at). Without a range the latest row of each window; with `at=now` the windows that are still open.",
    params: &[SERIES, WINDOW, START, END, NOW, LIMIT, CURSOR, FORMAT],
    answer: WINDOWS.answer,
    problems: SERIES_PROBLEMS,
    ..WINDOWS
};

/// Answers with a page of windows, by (name, series, window, at) or as it is asked to sort them.
pub async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    let about = api.clone();
    api.ask(move |store, budget| page(&about, store, budget, &uri)).await
}

/// Answers with a page of windows of one series, by (window, at).
pub async fn of_series(
    State(api): State<Api>,
    uri: Uri,
    SeriesPath(series): SeriesPath,
) -> Result<Response, Problem> {
    let about = api.clone();
    api.ask(move |store, budget| page_of(&about, store, budget, &uri, &series)).await
}

fn page_of(
    api: &Api,
    store: &dyn Store,
    budget: &Budget,
    uri: &Uri,
    series: &str,
) -> Result<Response, Problem> {
    let params = Params::read(uri, &WINDOWS_OF_SERIES)?;
    let select = select(api, store, budget, series)?;
    answer(api, store, &params, select)
}

fn page(api: &Api, store: &dyn Store, budget: &Budget, uri: &Uri) -> Result<Response, Problem> {
    let params = Params::read(uri, &WINDOWS)?;
    let select = params.selectors()?.within(budget);
    answer(api, store, &params, select)
}

fn answer(api: &Api, store: &dyn Store, params: &Params, select: Selectors) -> Result<Response, Problem> {
    params.format()?;
    let cursor = PageCursor::of(params)?;
    let (windows, range, sort) = (params.windows()?, params.range()?, params.sort()?);
    let now = params.now()?;
    if sort.is_some() && (windows.len() != 1 || range.is_some() || now) {
        let detail = "any sort but name takes the latest rows of one window: give window once, and neither start, end nor at";
        return Err(Problem::bad_request(detail.to_owned()));
    }
    let sort = sort.map(|sort| Sort { after: cursor.clone().map(PageCursor::into_place), ..sort });
    let after = cursor.filter(|_| sort.is_none()).map(|cursor| WindowKey {
        name: cursor.name,
        series: cursor.series,
        window_ms: cursor.a,
        at_ms: cursor.b,
    });
    let filters = params.filters()?;
    if now && filters.iter().any(|filter| *filter.stat == REVISION) {
        let detail = "min_revision and max_revision have no place beside at=now, whose rows have none";
        return Err(Problem::bad_request(detail.to_owned()));
    }
    let query = WindowQuery {
        select,
        search: params.search()?,
        windows,
        range,
        filters,
        after,
        sort,
        limit: params.limit()?,
    };
    if now {
        return now::page(api, params, &query);
    }
    let page = store.windows(&query)?;
    list::answer(params, &page, |row| {
        let (name, series) = (row.series.name.clone(), row.series.series);
        match &query.sort {
            Some(sort) => PageCursor::of_place(sort.value(row.series.is_counter(), &row.stats), name, series),
            None => PageCursor { name, series, a: row.stats.window_ms, b: row.stats.at_ms },
        }
    })
}
