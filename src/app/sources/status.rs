//! What a source is doing, for `/api/v1/status`, metrics and logs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::source::query;

/// What a source is doing. Shared by its thread and whoever asks.
pub struct Status {
    /// The word in metrics.
    source: &'static str,
    url: Option<String>,
    matching: Vec<String>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    state: State,
    at_ms: Option<i64>,
    success_ms: Option<i64>,
    error: Option<(i64, String)>,
    /// The error is newer than the last success.
    failing: bool,
    left_out: (usize, usize),
}

/// What a source is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing yet.
    #[default]
    Starting,
    /// Reading without taking, to know what to leave out.
    Surveying,
    /// Reading history.
    Backfilling,
    /// Reading what is new, again and again.
    Polling,
    /// Giving what is new as its time comes.
    Sending,
    /// There is no more to do.
    Done,
    /// The worker ends.
    Stopped,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Surveying => "surveying",
            State::Backfilling => "backfilling",
            State::Polling => "polling",
            State::Sending => "sending",
            State::Done => "done",
            State::Stopped => "stopped",
        }
    }
}

impl Status {
    /// A server that is not asked yet.
    pub fn new(url: String, matching: Vec<String>) -> Status {
        Status { source: query::SOURCE, url: Some(url), matching, inner: Mutex::default() }
    }

    /// A source that is no server and gives nothing yet.
    pub fn within(source: &'static str) -> Status {
        Status { source, url: None, matching: Vec::new(), inner: Mutex::default() }
    }

    /// The word in metrics.
    pub fn source(&self) -> &'static str {
        self.source
    }

    /// Without the user and password of the URL; the word in metrics of what is no server.
    pub fn url(&self) -> &str {
        self.url.as_deref().unwrap_or(self.source)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is at something else.
    pub fn enter(&self, state: State) {
        self.inner().state = state;
    }

    /// It has read everything up to this time.
    pub fn read_to(&self, at_ms: i64) {
        self.inner().at_ms = Some(at_ms);
    }

    /// Series left out: constant ones, and those beyond a sample.
    pub fn left_out(&self, series: (usize, usize)) {
        self.inner().left_out = series;
    }

    /// Something went well; whether it had not before.
    pub fn succeeded(&self, now_ms: i64) -> bool {
        let mut inner = self.inner();
        inner.success_ms = Some(now_ms);
        std::mem::take(&mut inner.failing)
    }

    /// Something did not; whether it went well, or failed otherwise, before.
    pub fn failed(&self, now_ms: i64, error: String) -> bool {
        let mut inner = self.inner();
        let same = inner.failing && inner.error.as_ref().is_some_and(|(_, before)| *before == error);
        inner.failing = true;
        inner.error = Some((now_ms, error));
        !same
    }

    /// How far it is behind the clock, while it reads.
    pub fn behind_ms(&self, now_ms: i64) -> Option<i64> {
        let inner = self.inner();
        let reads = matches!(inner.state, State::Backfilling | State::Polling | State::Sending);
        inner.at_ms.filter(|_| reads).map(|at_ms| (now_ms - at_ms).max(0))
    }

    /// As JSON.
    pub fn show(&self, now_ms: i64) -> Value {
        let time = |ms: Option<i64>| {
            ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|time| time.to_string())
        };
        let behind = self.behind_ms(now_ms).map(|ms| ms as f64 / 1e3);
        let inner = self.inner();
        let (error_ms, error) = inner.error.clone().unzip();
        json!({
            "source": self.source,
            "url": self.url,
            "match": self.matching,
            "state": inner.state.as_str(),
            "failing": inner.failing,
            "read_to": time(inner.at_ms),
            "read_to_ms": inner.at_ms,
            "behind_seconds": behind,
            "last_success": time(inner.success_ms),
            "last_success_ms": inner.success_ms,
            "last_error": error,
            "last_error_at": time(error_ms),
            "last_error_at_ms": error_ms,
            "series_left_out": { "constant": inner.left_out.0, "beyond_sample": inner.left_out.1 },
        })
    }
}
