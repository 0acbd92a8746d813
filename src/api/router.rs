//! The routes of the API: each operation of the list, with the handler that serves it, counted and timed.

use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use serde_json::Value;

use super::measure::measure;
use super::questions::Api;
use super::{
    analysis, backfill, catalog, corrections, error, events, explain, health, names, openapi, operations,
    page, problems, profiles, rejects, samples, status, windows,
};

/// The routes of this API. It has the fallback for unknown paths: merge routers without one into it.
pub fn router(api: Api) -> Router {
    let document: Arc<Value> = Arc::new(openapi::document::document(&operations::ALL));
    let openapi = get(move |uri: Uri| ready(openapi::show(&uri, &document)));
    let mut router = Router::new();
    for (operation, handler) in [
        (&health::HEALTHY, get(health::healthy)),
        (&health::READY, get(health::ready)),
        (&health::METRICS, get(health::metrics)),
        (&names::NAMES, get(names::list)),
        (&catalog::CATALOG, get(catalog::list)),
        (&windows::WINDOWS, get(windows::list)),
        (&windows::WINDOWS_OF_SERIES, get(windows::of_series)),
        (&corrections::CORRECTIONS, get(corrections::show)),
        (&explain::EXPLAIN, get(explain::show)),
        (&samples::SAMPLES, get(samples::show)),
        (&profiles::PROFILES, get(profiles::list)),
        (&events::EVENTS, get(events::list)),
        (&profiles::PROFILE_OF_SERIES, get(profiles::of_series)),
        (&analysis::acf::ACF, get(analysis::acf::show)),
        (&analysis::adf::ADF, get(analysis::adf::show)),
        (&analysis::decomposition::DECOMPOSITION, get(analysis::decomposition::show)),
        (&analysis::phases::PHASES, get(analysis::phases::show)),
        (&rejects::REJECTS, get(rejects::list)),
        (&backfill::BEGIN_BACKFILL, post(backfill::begin)),
        (&backfill::BACKFILL_SHOWN, get(backfill::show).delete(backfill::cancel)),
        (&status::STATUS, get(status::show)),
        (&problems::PROBLEMS, get(problems::list)),
        (&problems::PROBLEM, get(problems::show)),
        (&openapi::OPENAPI, openapi),
    ] {
        let path = operation.path;
        let measured = from_fn_with_state((api.metrics.clone(), path), measure);
        let others =
            async move |method: Method, uri: Uri| error::only(&operations::allowed(path), &method, &uri);
        router = router.route(path, handler.fallback(others).layer(measured));
    }
    let page = page::router(&api.metrics);
    let other = from_fn_with_state((api.metrics.clone(), "other"), measure);
    let unknown = get(error::no_such_path).fallback(error::no_such_path).layer(other);
    router.fallback_service(unknown.with_state(api.clone())).with_state(api).merge(page)
}
