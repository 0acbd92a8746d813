//! `/-/healthy`, `/-/ready` and `/metrics`, as every Prometheus component has them.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use super::error::Kind;
use super::operation::{AnswerKind, BARE, Operation, Tag};
use super::{Api, Problem};

pub const HEALTHY: Operation = Operation {
    id: "healthy",
    path: "/-/healthy",
    tag: Tag::Server,
    summary: "Whether the process answers",
    about: "200 as long as it does.",
    ..BARE
};

pub const READY: Operation = Operation {
    id: "ready",
    path: "/-/ready",
    tag: Tag::Server,
    summary: "Whether the store holds everything found at start",
    about: "503 with what is still to come until it does, and while intake is refused.",
    problems: &[Kind::Unavailable],
    ..BARE
};

pub const METRICS: Operation = Operation {
    id: "metrics",
    path: "/metrics",
    tag: Tag::Server,
    summary: "The server's own metrics",
    about: "For Prometheus, as text or as OpenMetrics, whichever the scraper prefers.",
    answer: AnswerKind::Exposition,
    ..BARE
};

/// 200 as long as the process answers at all.
pub async fn healthy() -> &'static str {
    "Tidewatch is healthy.\n"
}

/// 200 once the store holds every epoch found at start; until then 503 with what is still to come.
pub async fn ready(State(api): State<Api>) -> Result<&'static str, Problem> {
    api.server.ready().map_err(Problem::unavailable)?;
    Ok("Tidewatch is ready.\n")
}

/// Our own metrics, as OpenMetrics if the scraper prefers it.
pub async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Response {
    api.server.before_scrape();
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let (content_type, body) =
        if weight(accept, "application/openmetrics-text") > weight(accept, "text/plain") {
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", api.metrics.open_metrics())
        } else {
            ("text/plain; version=0.0.4; charset=utf-8", api.metrics.text())
        };
    ([(CONTENT_TYPE, content_type)], body).into_response()
}

/// The greatest weight an `Accept` header gives to a media type; 0 if it does not name it.
fn weight(accept: &str, media_type: &str) -> f32 {
    let weights = accept.split(',').filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|part| part.eq_ignore_ascii_case(media_type));
        let q = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f32>().ok());
        q.filter(|_| named)
    });
    weights.fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_served_to_who_prefers_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;\
                          q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, open) in [
            (prometheus, true),
            ("application/openmetrics-text", true),
            ("text/plain, application/openmetrics-text;q=0.5", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=much", false),
            ("*/*", false),
            ("", false),
        ] {
            let prefers = weight(accept, "application/openmetrics-text") > weight(accept, "text/plain");
            assert_eq!(prefers, open, "{accept}");
        }
    }
}
