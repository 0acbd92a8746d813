//! `GET /api/v1/rejects`: samples that were not applied, summed by series, name and reason.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use super::cursor::PageCursor;
use super::params::Params;
use super::{Api, Problem, list, operations};
use crate::store::budget::Budget;
use crate::store::{Range, RejectKey, RejectQuery, Store};

/// Bits of a cursor that say what the last row did not have.
const NAMELESS: i64 = 1;
const UNLISTED: i64 = 2;

/// Answers with a page of sums, by (name, series, reason).
pub async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    api.ask(move |store, budget| page(store, budget, &uri)).await
}

fn page(store: &dyn Store, budget: &Budget, uri: &Uri) -> Result<Response, Problem> {
    let params = Params::read(uri, &operations::REJECTS)?;
    params.format()?;
    let after = PageCursor::of(&params)?.map(|cursor| RejectKey {
        nameless: cursor.b & NAMELESS != 0,
        name: cursor.name,
        unlisted: cursor.b & UNLISTED != 0,
        series: cursor.series,
        reason: u8::try_from(cursor.a).unwrap_or(u8::MAX),
    });
    let query = RejectQuery {
        select: params.selectors()?.within(budget),
        by: params.by()?,
        range: params.range()?.unwrap_or(Range::ALL),
        after,
        limit: params.limit()?,
    };
    let page = store.rejects(&query)?;
    list::answer(&params, &page, |row| {
        let key = RejectKey::of(row);
        let bit = |set: bool, bit: i64| if set { bit } else { 0 };
        let b = bit(key.nameless, NAMELESS) | bit(key.unlisted, UNLISTED);
        PageCursor { name: key.name, series: key.series, a: key.reason.into(), b }
    })
}
