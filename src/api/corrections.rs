//! `GET /api/v1/windows/{series}/corrections`: what was answered before late samples changed it, the newest first.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use super::cursor::PageCursor;
use super::operation::{AnswerKind, BARE, Operation, SERIES_PROBLEMS, rows};
use super::params::{CURSOR, FORMAT, LIMIT, Params, SERIES, WINDOW};
use super::series::{SeriesPath, find};
use super::{Api, Problem, list};
use crate::store::budget::Budget;
use crate::store::row::CorrectionRow;
use crate::store::{CorrectionQuery, Store};

pub const CORRECTIONS: Operation = Operation {
    id: "corrections",
    path: "/api/v1/windows/{series}/corrections",
    summary: "Revisions of one series",
    about: "What was answered before late samples changed it, the newest first. The newest revisions of a store are kept.",
    params: &[SERIES, WINDOW, LIMIT, CURSOR, FORMAT],
    answer: AnswerKind::Rows(&[rows::<CorrectionRow>("Correction")]),
    problems: SERIES_PROBLEMS,
    ..BARE
};

/// Answers with a page of revisions of one series.
pub async fn show(
    State(api): State<Api>,
    uri: Uri,
    SeriesPath(series): SeriesPath,
) -> Result<Response, Problem> {
    let about = api.clone();
    api.ask(move |store, budget| page(&about, store, budget, &uri, &series)).await
}

fn page(api: &Api, store: &dyn Store, budget: &Budget, uri: &Uri, series: &str) -> Result<Response, Problem> {
    let params = Params::read(uri, &CORRECTIONS)?;
    params.format()?;
    let before = PageCursor::of(&params)?.map(|cursor| cursor.a);
    let (windows, limit) = (params.windows()?, params.limit()?);
    let series = find(api, store, budget, series)?;
    let page = store.corrections(&CorrectionQuery { series, windows, before, limit })?;
    list::answer(&params, &page, |row| PageCursor { a: row.number, ..PageCursor::default() })
}
