//! `GET /api/v1/profiles` and `/api/v1/profiles/{series}`: what kind of series each is, as its last row says.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde_json::json;

use super::cursor::PageCursor;
use super::operation::{AnswerKind, BARE, Operation, Param, SERIES_PROBLEMS, STORE_PROBLEMS, rows};
use super::params::{AUTOCORRELATED, CURSOR, FORMAT, LIMIT, MATCH, Params, SEASONAL, SERIES, STATIONARY};
use super::series::{SeriesPath, select};
use super::{Api, Problem, list};
use crate::store::budget::Budget;
use crate::store::row::ProfileRow;
use crate::store::selector::Selectors;
use crate::store::{ProfilesQuery, SeriesKey, Store, Verdicts};

/// Most series that are asked for by their ids.
const IDS_MAX: usize = 200;

const SERIES_IDS: Param = Param::query(
    "series",
    "1f0a3c5e7b9d2468",
    "Only the series of this id of 16 hex digits; up to 200 of them.",
    || json!({"type": "string", "pattern": "^[0-9a-f]{16}$"}),
)
.repeated();

pub const PROFILES: Operation = Operation {
    id: "profiles",
    path: "/api/v1/profiles",
    summary: "What kind of series each is",
    about: "Autocorrelation, stationarity, season and medians of the last 24 hours in steps of one minute: the last row of each \
            series, by (name, series). A series has one once an hour of its steps has samples.",
    params: &[MATCH, SERIES_IDS, STATIONARY, SEASONAL, AUTOCORRELATED, LIMIT, CURSOR, FORMAT],
    answer: AnswerKind::Rows(&[rows::<ProfileRow>("Profile")]),
    problems: STORE_PROBLEMS,
    ..BARE
};

pub const PROFILE_OF_SERIES: Operation = Operation {
    id: "profileOfSeries",
    path: "/api/v1/profiles/{series}",
    summary: "What kind of series one is",
    about: "Its last row; none before an hour of its steps has samples.",
    params: &[SERIES, FORMAT],
    problems: SERIES_PROBLEMS,
    ..PROFILES
};

/// Answers with a page of profiles, by (name, series).
pub async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    api.ask(move |store, budget| {
        let params = Params::read(&uri, &PROFILES)?;
        let select = params.selectors()?.within(budget);
        answer(store, &params, select)
    })
    .await
}

/// Answers with the profile of one series.
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
    let params = Params::read(uri, &PROFILE_OF_SERIES)?;
    answer(store, &params, select(api, store, budget, series)?)
}

fn answer(store: &dyn Store, params: &Params, select: Selectors) -> Result<Response, Problem> {
    params.format()?;
    let after = PageCursor::of(params)?.map(|cursor| SeriesKey { name: cursor.name, series: cursor.series });
    let verdicts = Verdicts {
        stationary: params.verdict("stationary")?,
        seasonal: params.verdict("seasonal")?,
        autocorrelated: params.verdict("autocorrelated")?,
    };
    let series = params.series_ids(IDS_MAX)?;
    let query = ProfilesQuery { select, series, verdicts, after, limit: params.limit()? };
    let page = store.profiles(&query)?;
    list::answer(params, &page, |row| PageCursor {
        name: row.series.name.clone(),
        series: row.series.series,
        ..PageCursor::default()
    })
}
