//! `GET /api/v1/windows/{series}/corrections`: what was answered before late samples changed it, the newest first.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use super::cursor::PageCursor;
use super::params::Params;
use super::series::{SeriesPath, find};
use super::{Api, Problem, list, operations};
use crate::store::budget::Budget;
use crate::store::{CorrectionQuery, Store};

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
    let params = Params::read(uri, &operations::CORRECTIONS)?;
    params.format()?;
    let before = PageCursor::of(&params)?.map(|cursor| cursor.a);
    let (windows, limit) = (params.windows()?, params.limit()?);
    let series = find(api, store, budget, series)?;
    let page = store.corrections(&CorrectionQuery { series, windows, before, limit })?;
    list::answer(&params, &page, |row| PageCursor { a: row.number, ..PageCursor::default() })
}
