//! `GET /api/v1/names`: metric names that have rows, and how many series bear each.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use super::cursor::PageCursor;
use super::operation::{AnswerKind, BARE, Operation, STORE_PROBLEMS, rows};
use super::params::{CURSOR, FORMAT, LIMIT, MATCH, Params};
use super::{Api, Problem, list};
use crate::store::budget::Budget;
use crate::store::row::NameRow;
use crate::store::{NamesQuery, Store};

pub const NAMES: Operation = Operation {
    id: "names",
    path: "/api/v1/names",
    summary: "Metric names",
    about: "Names of series that have rows, with how many series bear each, by name.",
    params: &[MATCH, LIMIT, CURSOR, FORMAT],
    answer: AnswerKind::Rows(&[rows::<NameRow>("Name")]),
    problems: STORE_PROBLEMS,
    ..BARE
};

/// Answers with a page of names.
pub async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    api.ask(move |store, budget| page(store, budget, &uri)).await
}

fn page(store: &dyn Store, budget: &Budget, uri: &Uri) -> Result<Response, Problem> {
    let params = Params::read(uri, &NAMES)?;
    params.format()?;
    let after = PageCursor::of(&params)?.map(|cursor| cursor.name);
    let query = NamesQuery { select: params.selectors()?.within(budget), after, limit: params.limit()? };
    let page = store.names(&query)?;
    list::answer(&params, &page, |row| PageCursor { name: row.name.clone(), ..PageCursor::default() })
}
