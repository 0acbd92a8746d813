//! `GET /api/v1/rejects`: samples that were not applied, summed by series, name and reason.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde_json::json;

use super::cursor::PageCursor;
use super::error::Kind;
use super::operation::{AnswerKind, BARE, Operation, Param, Tag, rows};
use super::params::{CURSOR, END, FORMAT, LIMIT, MATCH, Params, START};
use super::{Api, Problem, list};
use crate::store::budget::Budget;
use crate::store::row::RejectRow;
use crate::store::{Range, RejectKey, RejectQuery, Store};

const BY: Param = Param::query(
    "by",
    "reason",
    "What sums are by, repeated, or as a list with commas; everything if absent. What they are not by is left out of the \
     rows.",
    || json!({"type": "string", "enum": ["series", "name", "reason"]}),
)
.repeated();
pub const REJECTS: Operation = Operation {
    id: "rejects",
    path: "/api/v1/rejects",
    tag: Tag::Samples,
    summary: "Samples that were not applied",
    about: "Sums by series, name and reason, or by fewer of them.",
    params: &[MATCH, BY, START, END, LIMIT, CURSOR, FORMAT],
    answer: AnswerKind::Rows(&[rows::<RejectRow>("Reject")]),
    problems: &[Kind::BadParameter, Kind::TooMuch, Kind::Internal, Kind::Unavailable, Kind::Deadline],
    ..BARE
};

/// Bits of a cursor that say what the last row did not have.
const NAMELESS: i64 = 1;
const UNLISTED: i64 = 2;

/// Answers with a page of sums, by (name, series, reason).
pub async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    api.ask(move |store, budget| page(store, budget, &uri)).await
}

fn page(store: &dyn Store, budget: &Budget, uri: &Uri) -> Result<Response, Problem> {
    let params = Params::read(uri, &REJECTS)?;
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
