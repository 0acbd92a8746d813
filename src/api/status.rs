//! `GET /api/v1/status`: how far everything is.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;

use super::operation::{AnswerKind, BARE, Operation, STORE_PROBLEMS, Tag};
use super::params::Params;
use super::{Api, Problem};
use crate::status::{KindRows, ServerStatus, StoreFigures};
use crate::store::StoreStatus;
use crate::store::record::Rfc3339;

pub const STATUS: Operation = Operation {
    id: "status",
    path: "/api/v1/status",
    tag: Tag::Server,
    summary: "How far everything is",
    about: "Epochs, sizes, lags, sources, and limits that were reached.",
    answer: AnswerKind::Json("Status"),
    problems: STORE_PROBLEMS,
    ..BARE
};

/// Answers with the server's figures and, under `store`, the store's.
pub async fn show(State(api): State<Api>, uri: Uri) -> Result<Json<ServerStatus>, Problem> {
    Params::read(&uri, &STATUS)?;
    let store = api.ask_status(|store| Ok(store.status()?)).await?;
    Ok(Json(ServerStatus { store: of_store(&store), ..api.server.status() }))
}

fn of_store(status: &StoreStatus) -> StoreFigures {
    let time = |at_ms: Option<i64>| at_ms.and_then(Rfc3339::from_ms).map(|time| time.to_string());
    let (first, last) = status.at_ms.unzip();
    StoreFigures {
        epoch: status.epoch,
        series: status.series,
        tables: status.tables,
        rows: KindRows(status.rows),
        rows_last_day: status.rows_last_day,
        first_at: time(first),
        first_at_ms: first,
        last_at: time(last),
        last_at_ms: last,
        bytes: status.bytes,
    }
}
