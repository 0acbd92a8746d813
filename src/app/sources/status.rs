//! What a source is doing, for `/api/v1/status`, metrics and logs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::source::query;
use crate::source::query::read::Span;

/// Most selectors that are listed with what is left out of them.
const LEFT_OUT_MAX: usize = 32;
/// How often is logged what goes on.
const REPEAT_MS: i64 = 3_600_000;

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
    partial: Option<Partial>,
    /// Parts that are not read, each of another selector; the oldest goes first.
    missing: Vec<Missing>,
    /// Parts that were left out so far.
    missed: u64,
}

/// Answers that say that they may be partial.
#[derive(Clone, Debug)]
pub struct Partial {
    /// When the first of them came.
    pub since_ms: i64,
    /// Up to where everything was read before.
    pub from_ms: i64,
    /// What the server says.
    pub why: String,
    /// How many were taken as they are.
    pub taken: u64,
    logged_ms: i64,
}

/// A part of a selector that the server does not give.
struct Missing {
    selector: String,
    span: Span,
    parts: u64,
    why: String,
    logged_ms: i64,
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

    /// An answer may be partial; `taken` if it is taken as it is. Whether it is time to say so.
    pub fn partial(&self, now_ms: i64, from_ms: i64, why: &str, taken: bool) -> bool {
        let mut inner = self.inner();
        let first =
            Partial { since_ms: now_ms, from_ms, why: String::new(), taken: 0, logged_ms: i64::MIN / 2 };
        let partial = inner.partial.get_or_insert(first);
        let begins = taken && partial.taken == 0;
        partial.taken += u64::from(taken);
        why.clone_into(&mut partial.why);
        let say = begins || now_ms - partial.logged_ms >= REPEAT_MS;
        if say {
            partial.logged_ms = now_ms;
        }
        say
    }

    /// Answers that may be partial, while something is not read again since.
    pub fn is_partial(&self) -> Option<Partial> {
        self.inner().partial.clone()
    }

    /// Everything was read again, or the rest is given up; what was partial before.
    pub fn whole(&self) -> Option<Partial> {
        self.inner().partial.take()
    }

    /// A part will not be read. Whether it is time to say so.
    pub fn misses(&self, now_ms: i64, selector: &str, span: Span, why: &str) -> bool {
        let mut inner = self.inner();
        inner.missed += 1;
        let held = inner.missing.iter_mut().find(|missing| missing.selector == selector);
        let Some(missing) = held else {
            if inner.missing.len() == LEFT_OUT_MAX {
                inner.missing.remove(0);
            }
            let (selector, why) = (selector.to_owned(), why.to_owned());
            inner.missing.push(Missing { selector, span, parts: 1, why, logged_ms: now_ms });
            return true;
        };
        missing.parts += 1;
        missing.span.after_ms = missing.span.after_ms.min(span.after_ms);
        missing.span.to_ms = missing.span.to_ms.max(span.to_ms);
        why.clone_into(&mut missing.why);
        let say = now_ms - missing.logged_ms >= REPEAT_MS;
        if say {
            missing.logged_ms = now_ms;
        }
        say
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
        let partial = inner.partial.as_ref().map(|partial| {
            json!({
                "since": time(Some(partial.since_ms)),
                "since_ms": partial.since_ms,
                "from": time(Some(partial.from_ms)),
                "from_ms": partial.from_ms,
                "why": partial.why,
                "answers_taken": partial.taken,
            })
        });
        let missing = |missing: &Missing| {
            json!({
                "match": missing.selector,
                "from": time(Some(missing.span.after_ms)),
                "to": time(Some(missing.span.to_ms)),
                "parts": missing.parts,
                "error": missing.why,
            })
        };
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
            "partial": partial,
            "not_read": inner.missing.iter().map(missing).collect::<Vec<Value>>(),
            "not_read_total": inner.missed,
        })
    }
}
