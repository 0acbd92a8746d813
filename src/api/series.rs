//! `{series}` in a path: a series by its id, or by a name that it alone bears.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde_json::Value;
use tidewatch_dataflows::sample::SeriesId;

use super::error::{Kind, shown};
use super::server::ServerState;
use super::{Api, Problem};
use crate::labels::{LabelSet, Labels, LabelsOfSeries};
use crate::store::budget::Budget;
use crate::store::row::{SeriesRow, labels_json};
use crate::store::selector::Selectors;
use crate::store::{CatalogQuery, Store};

/// Most series that are named where several bear the name.
const NAMED_MAX: usize = 20;

/// The only variable part of a path, as text.
pub struct SeriesPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for SeriesPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<SeriesPath, Problem> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        text.map(|Path(text)| SeriesPath(text)).map_err(|error| Problem::bad_request(error.to_string()))
    }
}

/// The series of an id, or the only one of a name: among those with rows, or where none has, among those that are known.
///
/// # Errors
/// 404 if nobody knows it, 409 with the ids if several bear the name.
pub fn find(api: &Api, store: &dyn Store, budget: &Budget, text: &str) -> Result<SeriesId, Problem> {
    if let Ok(id) = text.parse::<SeriesId>() {
        // Any window will do: the question is whether anybody knows the series.
        let known = api.server.labels(id).is_some() || store.explain(id, 0, 0)?.series.is_some();
        if known {
            return Ok(id);
        }
    }
    let quoted = Value::from(text).to_string();
    let select = Selectors::parse(&[format!("{{__name__={quoted}}}")])
        .map_err(|_| Problem::parameter("{series}", "16 hex digits or a metric name", text))?
        .within(budget);
    let mut rows = store.catalog(&CatalogQuery { select, after: None, limit: NAMED_MAX + 1 })?.rows;
    if rows.is_empty() {
        rows = without_rows(&api.labels, budget, text)?;
    }
    match rows.as_slice() {
        [one] => Ok(one.series),
        [] => Err(Problem::new(
            Kind::UnknownSeries,
            format!(
                "there is no series {}: neither an id of 16 hex digits that is known, nor the name of a series",
                shown(text)
            ),
        )),
        several => {
            let named = several.iter().take(NAMED_MAX).map(|row| format!("{} {}", row.series, row.labels));
            let (more, named) = (several.len() > NAMED_MAX, named.collect::<Vec<_>>().join(", "));
            let detail = format!(
                "several series bear the name {}; ask for one by its id: {named}{}",
                shown(text),
                if more { ", and more" } else { "" }
            );
            Err(Problem::new(Kind::AmbiguousSeries, detail))
        }
    }
}

/// Series of a name whose first window has not closed.
fn without_rows(labels: &Labels, budget: &Budget, name: &str) -> Result<Vec<SeriesRow>, Problem> {
    let wanted = |set: &LabelSet| budget.check().map(|()| set.name() == name);
    let found = labels.list(wanted, None, NAMED_MAX + 1)?;
    Ok(found.iter().map(of_listed).collect())
}

/// A series as the catalog will show it.
pub fn of_listed(listed: &LabelsOfSeries) -> SeriesRow {
    let labels = Value::Object(listed.labels.to_json_map()).to_string();
    SeriesRow { series: listed.series, name: listed.labels.name().to_owned(), labels, kind: listed.kind }
}

/// What is known of a series: its row of the catalog, or the labels of one that has no row yet.
///
/// # Errors
/// The store cannot be read.
pub fn known_as(store: &dyn Store, server: &dyn ServerState, series: SeriesId) -> Result<SeriesRow, Problem> {
    Ok(row(store.explain(series, 0, 0)?.series, server, series))
}

/// Selects the one series that `{series}` in a path names.
///
/// # Errors
/// Those of [`find`], and the store cannot be read.
pub fn select(api: &Api, store: &dyn Store, budget: &Budget, text: &str) -> Result<Selectors, Problem> {
    let series = known_as(store, &*api.server, find(api, store, budget, text)?)?;
    Ok(Selectors::one(series.series, &series.name).within(budget))
}

/// The row of the catalog, or one made of the labels that the server knows.
pub fn row(stored: Option<SeriesRow>, server: &dyn ServerState, series: SeriesId) -> SeriesRow {
    stored.unwrap_or_else(|| {
        let labels = server.labels(series).unwrap_or_default();
        let name = labels.iter().find(|(name, _)| name == "__name__").map(|(_, value)| value.clone());
        let (name, labels) = (name.unwrap_or_default(), labels_json(&labels));
        SeriesRow { series, name, labels, kind: None }
    })
}
