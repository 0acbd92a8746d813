//! `GET /api/v1/profiles/events`: when series have changed their kind.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use super::cursor::PageCursor;
use super::operation::{AnswerKind, BARE, Operation, STORE_PROBLEMS, rows};
use super::params::{CURSOR, END, FORMAT, LIMIT, MATCH, Params, START};
use super::{Api, Problem, list};
use crate::store::budget::Budget;
use crate::store::row::EventRow;
use crate::store::{EventKey, EventsQuery, Range, Store};

pub const EVENTS: Operation = Operation {
    id: "profileEvents",
    path: "/api/v1/profiles/events",
    summary: "When series have changed their kind",
    about: "A row for each verdict of a profile that has changed and was found again by the next evaluation, by (name, series, at). \
            Rows stay as long as windows do.",
    params: &[MATCH, START, END, LIMIT, CURSOR, FORMAT],
    answer: AnswerKind::Rows(&[rows::<EventRow>("Event")]),
    problems: STORE_PROBLEMS,
    ..BARE
};

/// Answers with a page of events, by (name, series, at).
pub async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    api.ask(move |store, budget| page(store, budget, &uri)).await
}

fn page(store: &dyn Store, budget: &Budget, uri: &Uri) -> Result<Response, Problem> {
    let params = Params::read(uri, &EVENTS)?;
    params.format()?;
    let after = PageCursor::of(&params)?.map(|cursor| EventKey {
        name: cursor.name,
        series: cursor.series,
        at_ms: cursor.a,
        change: u8::try_from(cursor.b).unwrap_or(u8::MAX),
    });
    let query = EventsQuery {
        select: params.selectors()?.within(budget),
        range: params.range()?.unwrap_or(Range::ALL),
        after,
        limit: params.limit()?,
    };
    let page = store.events(&query)?;
    list::answer(&params, &page, |row| {
        let key = EventKey::of(row);
        PageCursor { name: key.name, series: key.series, a: key.at_ms, b: key.change.into() }
    })
}
