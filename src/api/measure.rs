//! Counts and times the answers of a route.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::metrics::{AnswerLabels, Metrics, RouteLabels};

/// Counts and times the answers of one route.
pub async fn measure(
    State((metrics, route)): State<(Arc<Metrics>, &'static str)>,
    request: Request,
    next: Next,
) -> Response {
    let begin = Instant::now();
    let response = next.run(request).await.into_response();
    metrics.request_seconds.get_or_create(&RouteLabels { route }).observe(begin.elapsed().as_secs_f64());
    metrics.responses.get_or_create(&AnswerLabels { route, code: response.status().as_u16() }).inc();
    response
}
