//! `GET /api/v1/windows`: statistics per series and window; without a range the latest of each, with `at=now` what is open.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use super::cursor::Cursor;
use super::params::Params;
use super::{Api, Problem, list, now};
use crate::store::{Store, WindowKey, WindowQuery};

/// Answers with a page of windows, by (name, series, window, at).
pub async fn list(State(api): State<Api>, uri: Uri) -> Result<Response, Problem> {
    let about = api.clone();
    api.ask(move |store| page(&about, store, &uri)).await
}

fn page(api: &Api, store: &dyn Store, uri: &Uri) -> Result<Response, Problem> {
    let known = ["match[]", "window", "start", "end", "at", "limit", "cursor", "format"];
    let params = Params::read(uri, &known, true)?;
    params.format()?;
    let after = Cursor::of(&params)?.map(|cursor| WindowKey {
        name: cursor.name,
        series: cursor.series,
        window_ms: cursor.a,
        at_ms: cursor.b,
    });
    let query = WindowQuery {
        select: params.selectors()?,
        windows: params.windows()?,
        range: params.range()?,
        filters: params.filters()?,
        after,
        limit: params.limit()?,
    };
    if params.now()? {
        return now::page(api, &params, &query);
    }
    let page = store.windows(&query)?;
    list::answer(&params, &page, |row| Cursor {
        name: row.series.name.clone(),
        series: row.series.series,
        a: row.stats.window_ms,
        b: row.stats.at_ms,
    })
}
