//! Which errors become which problems, and the problems of requests that no route takes.

use axum::http::header::ALLOW;
use axum::http::{HeaderValue, Method, Uri};
use axum::response::{IntoResponse, Response};

pub use crate::problem::{Kind, Problem, shown};
use crate::store::StoreError;
use crate::store::budget::BudgetExceeded;

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        match error {
            StoreError::Deadline { .. } => Problem::new(Kind::Deadline, error.to_string()),
            StoreError::Groups { .. } => Problem::too_much(error.to_string()),
            StoreError::Work { .. } => Problem::too_much(error.to_string()).of_limit("api.regex_work"),
            StoreError::Cancelled => Problem::unavailable(error.to_string()),
            StoreError::Unavailable { .. } => {
                tracing::warn!("{error}");
                Problem::unavailable("the store cannot be read now; try again".to_owned())
            }
            StoreError::Corrupt { .. } => {
                tracing::error!("{error}");
                Problem::unavailable("the store is damaged and is begun anew; try again".to_owned())
            }
            error => Problem::internal(error.to_string()),
        }
    }
}

impl From<BudgetExceeded> for Problem {
    fn from(over: BudgetExceeded) -> Problem {
        StoreError::from(over).into()
    }
}

/// 404.
pub async fn no_such_path(uri: Uri) -> Problem {
    Problem::new(Kind::NoSuchPath, format!("there is nothing at {}", shown(uri.path())))
}

/// 405 for a route that takes these methods only.
pub fn only(methods: &str, method: &Method, uri: &Uri) -> Response {
    let detail = format!("{} does not take {}", shown(uri.path()), shown(method.as_str()));
    let mut response = Problem::new(Kind::MethodNotAllowed, detail).into_response();
    if let Ok(methods) = HeaderValue::from_str(methods) {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}
