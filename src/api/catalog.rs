//! `GET /api/v1/catalog`: series that have rows, with their labels.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use super::cursor::PageCursor;
use super::operation::{AnswerKind, BARE, Operation, STORE_PROBLEMS, rows};
use super::params::{CURSOR, FORMAT, LIMIT, MATCH, Params};
use super::{Api, Problem, list};
use crate::store::budget::Budget;
use crate::store::row::SeriesRow;
use crate::store::{CatalogQuery, SeriesKey, Store};

pub const CATALOG: Operation = Operation {
    id: "catalog",
    path: "/api/v1/catalog",
    summary: "Series",
    about: "Series that have rows, by (name, series).",
    params: &[MATCH, LIMIT, CURSOR, FORMAT],
    answer: AnswerKind::Rows(&[rows::<SeriesRow>("Series")]),
    problems: STORE_PROBLEMS,
    ..BARE
};

/// Answers with a page of series, by (name, series).
pub async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    api.ask(move |store, budget| page(store, budget, &uri)).await
}

fn page(store: &dyn Store, budget: &Budget, uri: &Uri) -> Result<Response, Problem> {
    let params = Params::read(uri, &CATALOG)?;
    params.format()?;
    let after = PageCursor::of(&params)?.map(|cursor| SeriesKey { name: cursor.name, series: cursor.series });
    let query = CatalogQuery { select: params.selectors()?.within(budget), after, limit: params.limit()? };
    let page = store.catalog(&query)?;
    list::answer(&params, &page, |row| PageCursor {
        name: row.name.clone(),
        series: row.series,
        ..PageCursor::default()
    })
}
