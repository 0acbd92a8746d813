//! Errors that clients see, as `application/problem+json` (RFC 9457), and what each kind of them means.
//!
//! A kind has one status and one address, `/api/v1/problems/<slug>`, which is the `type` of its problems and says what the
//! kind means. `detail` comes first in a body of one line: Prometheus logs the beginning of the first line of an answer, and
//! nothing else.
//!
//! Not here: which errors of a room become which kind.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Most characters of a value that an error shows.
const SHOWN_MAX: usize = 120;

/// Where kinds are explained.
pub const PROBLEMS: &str = "/api/v1/problems";

/// What is told of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The last part of its address.
    pub slug: &'static str,
    /// The status of its answers.
    pub status: StatusCode,
    /// It in a few words.
    pub title: &'static str,
    /// When it occurs, and what to do about it.
    pub meaning: &'static str,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $status:ident $slug:literal $title:literal $meaning:literal)*) => {
        /// The kinds of problems.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind),*
        }

        impl Kind {
            /// Every kind, by status.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind),*];

            /// What is told of it.
            pub fn about(self) -> About {
                match self {
                    $(Kind::$kind => About {
                        slug: $slug,
                        status: StatusCode::$status,
                        title: $title,
                        meaning: $meaning,
                    }),*
                }
            }
        }
    };
}

kinds! {
    /// 400.
    BadParameter BAD_REQUEST "bad-parameter" "A parameter is wrong"
        "A parameter, or a field of a body, is unknown, missing, given twice or out of its bounds. The detail names it, what it \
         must be and what was given. The same request will never succeed."
    /// 400.
    BadBody BAD_REQUEST "bad-body" "The body cannot be read"
        "The body is not what the route takes: not JSON, not a snappy block, not the protobuf message that was declared, or it \
         broke off. Nothing of it was applied."
    /// 400.
    SamplesRefused BAD_REQUEST "samples-refused" "Some samples are refused for good"
        "The samples that are right are durable; the others were refused, counted by reason in the detail. Sending the request \
         again changes nothing."
    /// 403.
    CrossSite FORBIDDEN "cross-site" "A page of another site asks for this"
        "A browser sent this for a page that is not this server's own, as Sec-Fetch-Site, Origin or Referer says, and the request \
         would change something or cost more than reading. Nothing was changed. Programs do not send these headers; a proxy has \
         to pass on Host as it came."
    /// 404.
    NoSuchPath NOT_FOUND "no-such-path" "Nothing is at this path"
        "The server has no route of this path. Its routes are in /api/v1/openapi.json, which /docs shows."
    /// 404.
    UnknownSeries NOT_FOUND "unknown-series" "No series is meant"
        "The series of the path is neither an id of 16 hex digits that is known, nor the name of a series. \
         /api/v1/catalog lists the series with rows."
    /// 404.
    UnknownBackfill NOT_FOUND "unknown-backfill" "No such backfill"
        "No backfill of this id is known: the last 16 since the server's start are."
    /// 404.
    UnknownProblem NOT_FOUND "unknown-problem" "No such kind of problem"
        "No kind of problem has this name. /api/v1/problems lists them."
    /// 405.
    MethodNotAllowed METHOD_NOT_ALLOWED "method-not-allowed" "The path does not take this method"
        "The route exists, and takes the methods named in the header Allow only."
    /// 409.
    AmbiguousSeries CONFLICT "ambiguous-series" "Several series are meant"
        "Several series bear the name in the path. The detail lists them: ask for one by its id."
    /// 409.
    BackfillRunning CONFLICT "backfill-running" "A backfill is at work"
        "There is one backfill at a time. Wait until the one named in the detail has ended, or end it with DELETE."
    /// 413.
    TooLarge PAYLOAD_TOO_LARGE "too-large" "The body is too large"
        "The body has more bytes than the bound that the detail names. Send it in parts."
    /// 415.
    UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported-media-type" "The body is of another type"
        "Content-Type or Content-Encoding is not one that the route takes; the detail says which are."
    /// 421.
    Misdirected MISDIRECTED_REQUEST "misdirected" "The request is for another host"
        "The header Host names neither an address nor localhost nor one of the setting web.hosts. Any site could point its own \
         name here, so a name has to be listed there before it is taken."
    /// 422.
    TooMuch UNPROCESSABLE_ENTITY "too-much" "The answer would be too much"
        "The question is understood, and its answer has more rows or groups than are answered at once. Ask for less, as the \
         detail says."
    /// 500.
    Internal INTERNAL_SERVER_ERROR "internal" "The server failed"
        "Something broke that a human must look at: the server's log says what, the answer does not."
    /// 502.
    ServerFailed BAD_GATEWAY "server-failed" "A server that had to be asked did not answer"
        "Part of the answer had to come from a Prometheus under sources.prometheus, and that failed or none is configured."
    /// 503.
    Unavailable SERVICE_UNAVAILABLE "unavailable" "Not now"
        "The server is starting, busy or waiting for space. The same request may succeed after the seconds of Retry-After."
    /// 504.
    Deadline GATEWAY_TIMEOUT "deadline" "The answer takes too long"
        "The question was given up after its time limit. Ask for fewer series, fewer windows or a shorter range; the same question \
         will most likely take as long again."
}

impl Kind {
    /// Its address: the `type` of its problems.
    pub fn uri(self) -> String {
        format!("{PROBLEMS}/{}", self.about().slug)
    }
}

/// An error as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    kind: Kind,
    detail: String,
    limit: Option<&'static str>,
}

/// A problem as it is written.
#[derive(Serialize)]
struct ProblemBody<'a> {
    detail: &'a str,
    r#type: String,
    title: &'static str,
    status: u16,
}

impl Problem {
    /// A problem of a kind.
    pub fn new(kind: Kind, detail: String) -> Problem {
        Problem { kind, detail, limit: None }
    }

    /// The same, for a limit that was met.
    pub fn of_limit(self, limit: &'static str) -> Problem {
        Problem { limit: Some(limit), ..self }
    }

    /// Which limit was met, if one that has a name.
    pub fn limit(&self) -> Option<&'static str> {
        self.limit
    }

    /// Which kind it is of.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// 400 for a parameter: its name, what it must be, and what was given.
    pub fn parameter(name: &str, bound: &str, got: &str) -> Problem {
        Problem::bad_request(format!("{name} must be {bound}; got {}", shown(got)))
    }

    /// 400 for parameters that cannot be judged one by one.
    pub fn bad_request(detail: String) -> Problem {
        Problem::new(Kind::BadParameter, detail)
    }

    /// 503: the same request may succeed in a second.
    pub fn unavailable(detail: String) -> Problem {
        Problem::new(Kind::Unavailable, detail)
    }

    /// 422: understood, and more than is answered at once.
    pub fn too_much(detail: String) -> Problem {
        Problem::new(Kind::TooMuch, detail)
    }

    /// 502: a server that had to be asked does not answer.
    pub fn bad_gateway(detail: String) -> Problem {
        Problem::new(Kind::ServerFailed, detail)
    }

    /// 500: a human must act. The detail goes to the log, not to the client.
    pub fn internal(detail: String) -> Problem {
        tracing::error!("{detail}");
        Problem::new(Kind::Internal, "the server failed to answer; its log says why".to_owned())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let About { status, title, .. } = self.kind.about();
        let body =
            ProblemBody { detail: &self.detail, r#type: self.kind.uri(), title, status: status.as_u16() };
        // Texts and a number: writing them cannot fail, and a client could do without the body.
        let body = serde_json::to_string(&body).unwrap_or_default();
        let mut response = (status, [(CONTENT_TYPE, "application/problem+json")], body).into_response();
        if self.kind == Kind::Unavailable {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_and_are_in_the_order_of_their_status() {
        let slugs: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.about().slug).collect();
        assert_eq!(slugs.len(), Kind::ALL.len());
        assert!(Kind::ALL.is_sorted_by_key(|kind| kind.about().status.as_u16()));
        for slug in slugs {
            assert!(slug.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{slug}");
        }
    }
}
