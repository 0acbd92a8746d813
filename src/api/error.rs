//! Errors as `application/problem+json` (RFC 9457).

use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::store::StoreError;

/// Most characters of a value that an error shows.
const SHOWN_MAX: usize = 120;

/// An error as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    retry: bool,
}

impl Problem {
    /// 400 for a parameter: its name, what it must be, and what was given.
    pub fn parameter(name: &str, bound: &str, got: &str) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, format!("{name} must be {bound}; got {}", shown(got)))
    }

    /// 400 for something else in the request.
    pub fn bad_request(detail: String) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 503: the same request may succeed in a second.
    pub fn unavailable(detail: String) -> Problem {
        Problem { retry: true, ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// 404.
    pub fn not_found(detail: String) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, detail)
    }

    /// 409: something else has to end first.
    pub fn conflict(detail: String) -> Problem {
        Problem::new(StatusCode::CONFLICT, detail)
    }

    /// Whether it is one of [`Problem::conflict`].
    pub fn is_conflict(&self) -> bool {
        self.status == StatusCode::CONFLICT
    }

    /// 422: understood, and more than is answered at once.
    pub fn too_much(detail: String) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// 502: a server that had to be asked does not answer.
    pub fn bad_gateway(detail: String) -> Problem {
        Problem::new(StatusCode::BAD_GATEWAY, detail)
    }

    /// 413.
    pub fn too_large(detail: String) -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// 500: a human must act. The detail goes to the log, not to the client.
    pub fn internal(detail: String) -> Problem {
        tracing::error!("{detail}");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the worker failed to answer; its log says why".to_owned(),
        )
    }

    fn new(status: StatusCode, detail: String) -> Problem {
        Problem { status, detail, retry: false }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        match error {
            StoreError::Deadline { .. } => Problem::new(StatusCode::GATEWAY_TIMEOUT, error.to_string()),
            StoreError::Groups { .. } => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
            StoreError::Unavailable { .. } => {
                tracing::warn!("{error}");
                Problem::unavailable("the store cannot be read now; try again".to_owned())
            }
            error => Problem::internal(error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let content_type = [(CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, content_type, body.to_string()).into_response();
        if self.retry {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A value as an error shows it: quoted, and cut if it is long.
pub fn shown(value: &str) -> String {
    let mut cut: String = value.chars().take(SHOWN_MAX).collect();
    if cut.len() < value.len() {
        cut.push_str("...");
    }
    format!("{cut:?}")
}

/// 404.
pub async fn no_such_path(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", shown(uri.path())))
}

/// 405 for a route that takes these methods only.
pub fn only(methods: &'static str, method: &Method, uri: &Uri) -> Response {
    let detail = format!("{} does not take {}", shown(uri.path()), shown(method.as_str()));
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}
