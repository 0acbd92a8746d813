//! `GET /api/v1/names`: metric names that have rows, and how many series bear each.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use super::cursor::PageCursor;
use super::params::Params;
use super::{Api, Problem, list, operations};
use crate::store::budget::Budget;
use crate::store::{NamesQuery, Store};

/// Answers with a page of names.
pub async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    api.ask(move |store, budget| page(store, budget, &uri)).await
}

fn page(store: &dyn Store, budget: &Budget, uri: &Uri) -> Result<Response, Problem> {
    let params = Params::read(uri, &operations::NAMES)?;
    params.format()?;
    let after = PageCursor::of(&params)?.map(|cursor| cursor.name);
    let query = NamesQuery { select: params.selectors()?.within(budget), after, limit: params.limit()? };
    let page = store.names(&query)?;
    list::answer(&params, &page, |row| PageCursor { name: row.name.clone(), ..PageCursor::default() })
}
