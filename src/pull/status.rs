//! What a source is doing, for `/api/v1/status`, metrics and logs.

use parking_lot::{Mutex, MutexGuard};

use crate::source::query;
use crate::source::query::read::ReadSpan;
use crate::status::{PartialReport, SeriesLeftOut, SourceReport, UnreadReport};

/// Most selectors that are listed with what is left out of them.
const LEFT_OUT_MAX: usize = 32;
/// How often is logged what goes on.
const REPEAT_MS: i64 = 3_600_000;
/// For how long the same failure is not logged again, though it was over meanwhile.
const FLAPPING_MS: i64 = 300_000;

/// What a source is doing. Shared by its thread and whoever asks.
pub struct SourceStatus {
    /// The word in metrics.
    source: &'static str,
    url: Option<String>,
    matching: Vec<String>,
    inner: Mutex<SourceFigures>,
}

#[derive(Default)]
struct SourceFigures {
    state: SourceState,
    at_ms: Option<i64>,
    success_ms: Option<i64>,
    error: Option<(i64, String)>,
    /// The error is newer than the last success.
    failing: bool,
    /// The last failure that was logged, and when.
    logged: Option<(i64, String)>,
    /// It is one that has not been over since.
    logged_failing: bool,
    left_out: (usize, usize),
    partial: Option<PartialAnswers>,
    /// When partial answers were logged last: also those that were over meanwhile.
    partial_logged_ms: Option<i64>,
    /// Parts that are not read, each of another selector. One that was not left out for an hour makes room.
    missing: Vec<UnreadPart>,
    /// Parts that were left out so far.
    missed: u64,
    /// When that was logged last, and how many there were then.
    missed_logged: Option<(i64, u64)>,
}

/// Answers that say that they may be partial.
#[derive(Clone, Debug)]
pub struct PartialAnswers {
    /// When the first of them came.
    pub since_ms: i64,
    /// Up to where everything was read before.
    pub from_ms: i64,
    /// What the server says.
    pub why: String,
    /// How many were taken as they are.
    pub taken: u64,
}

/// A part of a selector that the server does not give.
struct UnreadPart {
    selector: String,
    span: ReadSpan,
    parts: u64,
    why: String,
    last_ms: i64,
}

/// What a source is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceState {
    /// Nothing yet.
    #[default]
    Starting,
    /// Reading without taking, to know what to leave out.
    Surveying,
    /// Reading history.
    Bootstraping,
    /// Reading what is new, again and again.
    Polling,
    /// Giving what is new as its time comes.
    Sending,
    /// There is no more to do.
    Done,
    /// Tidewatch ends.
    Stopped,
}

impl SourceState {
    fn as_str(self) -> &'static str {
        match self {
            SourceState::Starting => "starting",
            SourceState::Surveying => "surveying",
            SourceState::Bootstraping => "bootstrapping",
            SourceState::Polling => "polling",
            SourceState::Sending => "sending",
            SourceState::Done => "done",
            SourceState::Stopped => "stopped",
        }
    }
}

impl SourceStatus {
    /// A server that is not asked yet.
    pub fn new(url: String, matching: Vec<String>) -> SourceStatus {
        SourceStatus { source: query::SOURCE, url: Some(url), matching, inner: Mutex::default() }
    }

    /// A source that is no server and gives nothing yet.
    pub fn within(source: &'static str) -> SourceStatus {
        SourceStatus { source, url: None, matching: Vec::new(), inner: Mutex::default() }
    }

    /// The word in metrics.
    pub fn source(&self) -> &'static str {
        self.source
    }

    /// Without the user and password of the URL; the word in metrics of what is no server.
    pub fn url(&self) -> &str {
        self.url.as_deref().unwrap_or(self.source)
    }

    fn inner(&self) -> MutexGuard<'_, SourceFigures> {
        self.inner.lock()
    }

    /// It is at something else.
    pub fn enter(&self, state: SourceState) {
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

    /// Something went well; whether to say so, as it was said that it did not.
    pub fn succeeded(&self, now_ms: i64) -> bool {
        let mut inner = self.inner();
        inner.success_ms = Some(now_ms);
        std::mem::take(&mut inner.failing) && std::mem::take(&mut inner.logged_failing)
    }

    /// Something did not; whether to say so: it failed otherwise before, or has not for a while.
    pub fn failed(&self, now_ms: i64, error: String) -> bool {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let was_failing = std::mem::replace(&mut inner.failing, true);
        let same = inner.logged.as_ref().is_some_and(|(logged_ms, before)| {
            *before == error
                && ((was_failing && inner.logged_failing) || (0..FLAPPING_MS).contains(&(now_ms - logged_ms)))
        });
        if !same {
            inner.logged = Some((now_ms, error.clone()));
            inner.logged_failing = true;
        }
        inner.error = Some((now_ms, error));
        !same
    }

    /// Something is not as it should be, though the server answers.
    pub fn remark(&self, now_ms: i64, error: String) {
        self.inner().error = Some((now_ms, error));
    }

    /// An answer may be partial; `taken` if it is taken as it is. Whether it is time to say so.
    pub fn partial(&self, now_ms: i64, from_ms: i64, why: &str, taken: bool) -> bool {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let first = PartialAnswers { since_ms: now_ms, from_ms, why: String::new(), taken: 0 };
        let partial = inner.partial.get_or_insert(first);
        let begins = taken && partial.taken == 0;
        partial.taken += u64::from(taken);
        why.clone_into(&mut partial.why);
        inner.failing |= !taken;
        let say = begins || inner.partial_logged_ms.is_none_or(|logged_ms| now_ms - logged_ms >= REPEAT_MS);
        if say {
            inner.partial_logged_ms = Some(now_ms);
        }
        say
    }

    /// Answers that may be partial, while something is not read again since.
    pub fn is_partial(&self) -> Option<PartialAnswers> {
        self.inner().partial.clone()
    }

    /// Everything was read again, or the rest is given up; what was partial before.
    pub fn whole(&self) -> Option<PartialAnswers> {
        self.inner().partial.take()
    }

    /// A part will not be read. How many there were since this was said last, if it is time to say it.
    pub fn misses(&self, now_ms: i64, selector: &str, span: ReadSpan, why: &str) -> Option<u64> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.missed += 1;
        match inner.missing.iter_mut().find(|missing| missing.selector == selector) {
            Some(missing) => {
                missing.parts += 1;
                missing.span.after_ms = missing.span.after_ms.min(span.after_ms);
                missing.span.to_ms = missing.span.to_ms.max(span.to_ms);
                why.clone_into(&mut missing.why);
                missing.last_ms = now_ms;
            }
            None => {
                if inner.missing.len() == LEFT_OUT_MAX
                    && let Some(old) = inner.missing.iter().position(|old| now_ms - old.last_ms >= REPEAT_MS)
                {
                    inner.missing.remove(old);
                }
                if inner.missing.len() < LEFT_OUT_MAX {
                    let (selector, why) = (selector.to_owned(), why.to_owned());
                    inner.missing.push(UnreadPart { selector, span, parts: 1, why, last_ms: now_ms });
                }
            }
        }
        let (logged_ms, before) = inner.missed_logged.unwrap_or((i64::MIN / 2, 0));
        let say = now_ms - logged_ms >= REPEAT_MS;
        say.then(|| {
            inner.missed_logged = Some((now_ms, inner.missed));
            inner.missed - before
        })
    }

    /// How far it is behind the clock, while it reads.
    pub fn behind_ms(&self, now_ms: i64) -> Option<i64> {
        let inner = self.inner();
        let reads =
            matches!(inner.state, SourceState::Bootstraping | SourceState::Polling | SourceState::Sending);
        inner.at_ms.filter(|_| reads).map(|at_ms| (now_ms - at_ms).max(0))
    }

    /// For `/status`.
    pub fn report(&self, now_ms: i64) -> SourceReport {
        let behind_seconds = self.behind_ms(now_ms).map(|ms| ms as f64 / 1e3);
        let inner = self.inner();
        let (error_ms, error) = inner.error.clone().unzip();
        SourceReport {
            source: self.source.to_owned(),
            url: self.url.clone(),
            matching: self.matching.clone(),
            state: inner.state.as_str().to_owned(),
            failing: inner.failing,
            read_to: time(inner.at_ms),
            read_to_ms: inner.at_ms,
            behind_seconds,
            last_success: time(inner.success_ms),
            last_success_ms: inner.success_ms,
            last_error: error,
            last_error_at: time(error_ms),
            last_error_at_ms: error_ms,
            series_left_out: SeriesLeftOut { constant: inner.left_out.0, beyond_sample: inner.left_out.1 },
            partial: inner.partial.as_ref().map(PartialAnswers::report),
            not_read: inner.missing.iter().map(UnreadPart::report).collect(),
            not_read_total: inner.missed,
        }
    }
}

impl PartialAnswers {
    fn report(&self) -> PartialReport {
        PartialReport {
            since: time(Some(self.since_ms)),
            since_ms: self.since_ms,
            from: time(Some(self.from_ms)),
            from_ms: self.from_ms,
            why: self.why.clone(),
            answers_taken: self.taken,
        }
    }
}

impl UnreadPart {
    fn report(&self) -> UnreadReport {
        UnreadReport {
            matching: self.selector.clone(),
            from: time(Some(self.span.after_ms)),
            to: time(Some(self.span.to_ms)),
            parts: self.parts,
            error: self.why.clone(),
        }
    }
}

/// In RFC 3339.
fn time(at_ms: Option<i64>) -> Option<String> {
    at_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: ReadSpan = ReadSpan { after_ms: 0, to_ms: 60_000 };

    fn status() -> SourceStatus {
        SourceStatus::new("http://h:1".to_owned(), Vec::new())
    }

    #[test]
    fn many_selectors_that_are_not_read_are_one_error_an_hour() {
        let status = status();
        let mut said = Vec::new();
        for poll in 0..300 {
            for name in 0..100 {
                let now_ms = poll * 15_000;
                said.extend(status.misses(now_ms, &format!("{{__name__=\"{name}\"}}"), SPAN, "broken"));
            }
        }
        assert_eq!(said, [1, 24_000], "every part is counted");
        let shown = status.report(0);
        assert_eq!(shown.not_read.len(), LEFT_OUT_MAX);
        assert_eq!((shown.not_read[0].parts, shown.not_read_total), (300, 30_000));
        // What is new finds room where another is over.
        status.misses(300 * 15_000 + REPEAT_MS, "new", SPAN, "broken");
        let listed = status.report(0).not_read;
        assert!(listed.iter().any(|missing| missing.matching == "new") && listed.len() == LEFT_OUT_MAX);
    }

    #[test]
    fn a_server_that_flaps_is_told_once_and_not_at_each_poll() {
        let (status, mut lines) = (status(), 0);
        for poll in 0..200 {
            let now_ms = poll * 15_000;
            lines += usize::from(status.partial(now_ms, 0, "a store is away", false));
            assert!(status.report(now_ms).failing);
            lines += usize::from(status.succeeded(now_ms + 500));
            assert_eq!(status.whole().map(|partial| partial.taken), Some(0));
        }
        assert_eq!(lines, 1);
        for poll in 0..200 {
            let now_ms = poll * 15_000;
            lines += usize::from(status.failed(now_ms, "503".to_owned()));
            lines += usize::from(status.succeeded(now_ms + 500));
        }
        assert_eq!(lines, 1 + 2 * 10, "both, each five minutes");
        // What lasts is said once, however long.
        let later = 400 * 15_000;
        let said: Vec<bool> = (0..100).map(|n| status.failed(later + n * 60_000, "503".to_owned())).collect();
        assert_eq!(said.iter().filter(|said| **said).count(), 1);
        assert!(status.failed(later, "504".to_owned()), "and another at once");
        assert!(status.succeeded(later));
    }
}
