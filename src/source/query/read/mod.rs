//! Raw samples of a selector over a span of time, in pieces a server can answer.
//!
//! A piece is an instant query of a range selector, `selector[length]` at its end, of which the samples in
//! `(after, to]` are kept. A server before Prometheus 3 gives the sample at `after` as well, a later one does not:
//! either way every sample comes in exactly one piece.
//!
//! | what comes | what becomes of the piece |
//! |---|---|
//! | too much for the server, or for [`Client`]'s bound on an answer | halved down to [`PIECE_MS_MIN`], then its names are; left out if one name is too much even so |
//! | a transient failure | asked again, for ever, after at most [`BACKOFF_MAX`] |
//! | an answer that may be partial | asked again in the same way, until [`Watch::partial`] takes what there is |
//! | a definite error, and the server answers nothing | asked again every [`MENDING`]: a human has to mend the server |
//! | a definite error, though the server answers | narrowed to the names and minutes that it is about; those are left out |
//!
//! Lists of names are halved, so that one bad name of n costs about 2 log2(n) questions. Names that cannot be listed are
//! asked for again: only what is known to be refused for good is left out, counted and said. Names that were refused in
//! all of a span are no longer asked for together with the others: in history by themselves, in polls an hour later.
//!
//! Memory: one answer at a time, so `client::ANSWER_BYTES_MAX` and what it parses to.
//! Not here: which spans, and where samples go.

mod names;
mod refused;
mod span;

use std::time::Duration;

use self::refused::{RefusedNames, SpanLesson};
use self::span::PIECE_MS_MIN;
pub use self::span::ReadSpan;
use super::client::{PrometheusClient, QueryAnswer, QueryError, QuerySeries};

/// Longest pause after a transient failure; the first is [`BACKOFF_MIN`], and each is twice the one before.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// First pause after a transient failure.
pub const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Pause after a failure that a human has to mend.
pub const MENDING: Duration = Duration::from_secs(60);
/// How long the server may compute on a piece: its own default bound.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Pieces in a row that were answered before twice as much is asked for again.
const CALM: u32 = 16;
/// After so many definite errors in a span comes a pause.
const REFUSALS_IN_A_ROW: u32 = 32;
/// That pause.
const REFUSALS_PAUSE: Duration = Duration::from_secs(1);
/// How often in a span the time of a refused name is halved. After that, and where the name is known as refused, all of
/// it is left out if its first, middle and last minute are refused.
const HALVINGS_MAX: u32 = 128;

/// The questions that reading asks.
pub trait QueryPort {
    /// See [`Client::query`].
    ///
    /// # Errors
    /// Split by what to do.
    fn query(&self, promql: &str, at_ms: i64, timeout: Duration) -> Result<QueryAnswer, QueryError>;

    /// See [`Client::alive`].
    ///
    /// # Errors
    /// The server does not even answer that.
    fn alive(&self, at_ms: i64) -> Result<(), QueryError>;

    /// See [`Client::names`].
    ///
    /// # Errors
    /// Split by what to do.
    fn names(&self, selector: &str, from_ms: i64, to_ms: i64) -> Result<Vec<String>, QueryError>;
}

impl QueryPort for PrometheusClient {
    fn query(&self, promql: &str, at_ms: i64, timeout: Duration) -> Result<QueryAnswer, QueryError> {
        PrometheusClient::query(self, promql, at_ms, timeout)
    }

    fn alive(&self, at_ms: i64) -> Result<(), QueryError> {
        PrometheusClient::alive(self, at_ms)
    }

    fn names(&self, selector: &str, from_ms: i64, to_ms: i64) -> Result<Vec<String>, QueryError> {
        PrometheusClient::names(self, selector, from_ms, to_ms)
    }
}

/// Who is told how reading goes.
pub trait ReadObserver {
    /// An answer came.
    fn answered(&self);
    /// There was no answer; the question is asked again after `again_in`.
    fn failed(&self, error: &QueryError, again_in: Duration);
    /// An answer may be partial, as `why` says: `true` takes what it has, else it is asked for again after `again_in`.
    fn partial(&self, why: &str, span: ReadSpan, again_in: Duration) -> bool;
    /// This will not be read.
    fn left_out(&self, error: &QueryError, selector: &str, span: ReadSpan);
    /// No more names are remembered as refused: they are searched for in every span.
    fn full(&self);
    /// Waits; `false` if reading is to end.
    fn pause(&self, time: Duration) -> bool;
}

/// Reading was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("told to stop")]
pub struct StoppedError;

/// A selector, and how much of it is asked for at once.
#[derive(Clone, Debug)]
pub struct Reading {
    selector: String,
    /// Longest piece; halved by each refusal, doubled after some calm.
    piece_ms: i64,
    calm: u32,
    /// What the server refuses, so that it costs little in every chunk and poll.
    refused: RefusedNames,
}

/// A part of a span that is still to be asked for.
#[derive(Clone)]
struct SpanPiece {
    span: ReadSpan,
    part: SelectorPart,
}

impl SpanPiece {
    fn is_long(&self) -> bool {
        self.span.length_ms() > PIECE_MS_MIN
    }
}

/// Which series of the selector.
#[derive(Clone)]
enum SelectorPart {
    /// All but those of names that are known as refused.
    All,
    /// Those of these names, at least one.
    Names(Vec<String>),
}

impl Reading {
    /// A selector to read.
    pub fn new(selector: &str) -> Reading {
        let selector = selector.trim().to_owned();
        Reading { selector, piece_ms: i64::MAX, calm: 0, refused: RefusedNames::default() }
    }

    /// Gives every sample of the span to `take`, those of one series in ascending order.
    ///
    /// # Errors
    /// If `watch` or `take` says that reading is to end.
    pub fn read(
        &mut self,
        ask: &dyn QueryPort,
        watch: &dyn ReadObserver,
        span: ReadSpan,
        take: &mut dyn FnMut(Vec<QuerySeries>) -> Result<(), StoppedError>,
    ) -> Result<(), StoppedError> {
        if let Some(error) = self.refused.selector(span) {
            watch.left_out(error, &self.selector, span);
            return Ok(());
        }
        let mut work = SpanWork::begin(ask, watch, &self.selector, &self.refused, span);
        while let Some(piece) = work.pieces.pop() {
            if piece.span.length_ms() <= 0 {
                continue;
            }
            if piece.span.length_ms() > self.piece_ms.max(PIECE_MS_MIN) {
                work.halve(piece);
                continue;
            }
            if matches!(piece.part, SelectorPart::All) && work.others.is_none() {
                work.by_names(piece, None)?;
                continue;
            }
            match work.ask_for(&piece) {
                Ok(QueryAnswer { series, partial }) => {
                    if let Some(why) = partial
                        && !watch.partial(&why, piece.span, work.backoff)
                    {
                        let pause = work.backoff;
                        work.wait(piece, pause)?;
                        continue;
                    }
                    watch.answered();
                    calmer(&mut self.piece_ms, &mut self.calm, &piece);
                    work.answered(piece);
                    take(series)?;
                }
                Err(QueryError::TooMuch(_)) if piece.is_long() => {
                    self.piece_ms = (piece.span.length_ms() / 2).max(PIECE_MS_MIN);
                    self.calm = 0;
                    work.halve(piece);
                }
                Err(error @ QueryError::TooMuch(_)) => work.split(piece, error)?,
                Err(error @ QueryError::Definite(_)) => work.refused(piece, error)?,
                Err(error @ QueryError::Transient(_)) => work.again(piece, &error)?,
            }
        }
        let learned = work.learned;
        if !self.refused.learn(learned, span) {
            watch.full();
        }
        Ok(())
    }
}

/// Takes note of an answer: after some calm twice as much is asked for.
fn calmer(piece_ms: &mut i64, calm: &mut u32, piece: &SpanPiece) {
    if *piece_ms == i64::MAX || piece.span.length_ms() * 2 < *piece_ms {
        return;
    }
    *calm += 1;
    if *calm == CALM {
        (*piece_ms, *calm) = (piece_ms.saturating_mul(2), 0);
    }
}

/// A span that is being read.
struct SpanWork<'a> {
    ask: &'a dyn QueryPort,
    watch: &'a dyn ReadObserver,
    selector: &'a str,
    known: &'a RefusedNames,
    /// The selector without the names that are known as refused; nothing if that is too long to be asked for.
    others: Option<String>,
    /// What is still to be asked for, the last first.
    pieces: Vec<SpanPiece>,
    backoff: Duration,
    /// Definite errors so far.
    refusals: u32,
    /// How often the time of a name was halved because of one.
    halvings: u32,
    learned: SpanLesson,
}

impl<'a> SpanWork<'a> {
    /// The whole span; of names that are known as refused only what is asked for again.
    fn begin(
        ask: &'a dyn QueryPort,
        watch: &'a dyn ReadObserver,
        selector: &'a str,
        known: &'a RefusedNames,
        span: ReadSpan,
    ) -> SpanWork<'a> {
        let (again, left_out) = known.split(span);
        for (name, error) in left_out {
            let selector = names::with(selector, std::slice::from_ref(name));
            watch.left_out(error, selector.as_deref().unwrap_or(name), span);
        }
        let others = names::without(selector, &known.names());
        let others = others.filter(|others| others.len() <= names::SELECTOR_BYTES_MAX.max(selector.len()));
        let mut pieces = vec![SpanPiece { span, part: SelectorPart::All }];
        for part in names::parts(selector, again) {
            pieces.push(SpanPiece { span, part: SelectorPart::Names(part) });
        }
        SpanWork {
            ask,
            watch,
            selector,
            known,
            others,
            pieces,
            backoff: BACKOFF_MIN,
            refusals: 0,
            halvings: 0,
            learned: SpanLesson::default(),
        }
    }

    /// The selector of a part.
    fn text(&self, part: &SelectorPart) -> String {
        let text = match part {
            SelectorPart::All => self.others.clone(),
            SelectorPart::Names(names) => names::with(self.selector, names),
        };
        text.unwrap_or_else(|| self.selector.to_owned())
    }

    /// The samples of a piece that no other piece has.
    fn ask_for(&self, piece: &SpanPiece) -> Result<QueryAnswer, QueryError> {
        let ReadSpan { after_ms, to_ms } = piece.span;
        let promql = format!("{}[{}ms]", self.text(&piece.part), piece.span.length_ms());
        let mut answer = self.ask.query(&promql, to_ms, TIMEOUT)?;
        for series in &mut answer.series {
            series.samples.retain(|(at_ms, _)| after_ms < *at_ms && *at_ms <= to_ms);
            // As the API has it already; our order rests on it, so it is not left to trust.
            if !series.samples.is_sorted_by_key(|(at_ms, _)| *at_ms) {
                series.samples.sort_by_key(|(at_ms, _)| *at_ms);
            }
        }
        Ok(answer)
    }

    fn answered(&mut self, piece: SpanPiece) {
        self.backoff = BACKOFF_MIN;
        match piece.part {
            SelectorPart::All => self.learned.all_answered = true,
            SelectorPart::Names(names) => self.learned.answered.extend(names),
        }
    }

    /// Puts both halves of the span in place of a piece.
    fn halve(&mut self, piece: SpanPiece) {
        let [early, late] = piece.span.halves();
        self.pieces.push(SpanPiece { span: late, part: piece.part.clone() });
        self.pieces.push(SpanPiece { span: early, part: piece.part });
    }

    /// Puts both halves of some names in their place.
    fn halve_names(&mut self, span: ReadSpan, mut names: Vec<String>) {
        let late = names.split_off(names.len() / 2);
        self.pieces.push(SpanPiece { span, part: SelectorPart::Names(late) });
        self.pieces.push(SpanPiece { span, part: SelectorPart::Names(names) });
    }

    /// A definite error: a human has to mend the server, unless it answers other questions.
    fn refused(&mut self, piece: SpanPiece, error: QueryError) -> Result<(), StoppedError> {
        match self.ask.alive(piece.span.to_ms) {
            Ok(()) => {
                self.refusals += 1;
                let rest = self.refusals.is_multiple_of(REFUSALS_IN_A_ROW);
                let pause = if rest { REFUSALS_PAUSE } else { Duration::ZERO };
                if !self.watch.pause(pause) {
                    return Err(StoppedError);
                }
                self.narrow(piece, error)
            }
            Err(QueryError::Transient(_)) => self.again(piece, &QueryError::Transient(error.to_string())),
            Err(_) => self.again(piece, &error),
        }
    }

    /// Puts the parts of a refused piece in its place, or leaves it out.
    fn narrow(&mut self, piece: SpanPiece, error: QueryError) -> Result<(), StoppedError> {
        let is_known = match &piece.part {
            SelectorPart::Names(names) if names.len() > 1 => return self.split(piece, error),
            SelectorPart::Names(names) => names.iter().all(|name| self.known.contains(name)),
            SelectorPart::All => false,
        };
        if !piece.is_long() {
            return self.split(piece, error);
        }
        let has_names = matches!(piece.part, SelectorPart::All) && names::is_nameable(self.selector);
        if !has_names && !is_known && self.halvings < HALVINGS_MAX {
            self.halvings += 1;
            self.halve(piece);
            return Ok(());
        }
        // Where none of its minutes is answered it is not about the time.
        for span in piece.span.minutes() {
            match self.ask_for(&SpanPiece { span, part: piece.part.clone() }) {
                Ok(_) => {
                    self.halve(piece);
                    return Ok(());
                }
                Err(transient @ QueryError::Transient(_)) => return self.again(piece, &transient),
                Err(QueryError::TooMuch(_) | QueryError::Definite(_)) => {}
            }
        }
        self.split(piece, error)
    }

    /// Puts fewer names each in place of a piece, or leaves out what has one.
    fn split(&mut self, piece: SpanPiece, error: QueryError) -> Result<(), StoppedError> {
        match piece.part {
            SelectorPart::All if names::is_nameable(self.selector) => self.by_names(piece, Some(error)),
            SelectorPart::Names(names) if names.len() > 1 => {
                self.halve_names(piece.span, names);
                Ok(())
            }
            _ => {
                self.leave_out(piece, error);
                Ok(())
            }
        }
    }

    /// Asks for a piece of all names by lists of them, without those that are known as refused; `error` if it was refused.
    fn by_names(&mut self, piece: SpanPiece, error: Option<QueryError>) -> Result<(), StoppedError> {
        // The selector as it is given: a request of this kind has little room.
        let listed = match self.ask.names(self.selector, piece.span.after_ms, piece.span.to_ms) {
            Ok(listed) => listed,
            Err(QueryError::Definite(_) | QueryError::TooMuch(_)) if error.is_some() && piece.is_long() => {
                self.halve(piece);
                return Ok(());
            }
            // Without the names nobody knows what would be lost.
            Err(unlisted) => return self.again(piece, &unlisted),
        };
        let mut names: Vec<String> = listed.into_iter().filter(|name| !self.known.contains(name)).collect();
        names.sort_unstable();
        names.dedup();
        let mut parts = names::parts(self.selector, names);
        match (error, &mut parts[..]) {
            (Some(error), []) => self.leave_out(piece, error),
            // That all of them together are refused is known.
            (Some(_), [one]) if one.len() > 1 => {
                let names = std::mem::take(one);
                self.halve_names(piece.span, names);
            }
            _ => {
                let piece = |part| SpanPiece { span: piece.span, part: SelectorPart::Names(part) };
                self.pieces.extend(parts.into_iter().rev().map(piece));
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, piece: SpanPiece, error: QueryError) {
        self.watch.left_out(&error, &self.text(&piece.part), piece.span);
        // What is too much may be less at the next time.
        if matches!(error, QueryError::Definite(_)) {
            match piece.part {
                SelectorPart::All => self.learned.selector = Some(error),
                SelectorPart::Names(names) => {
                    self.learned.refused.extend(names.into_iter().map(|name| (name, error.clone())));
                }
            }
        }
    }

    /// Waits after an error before the piece is asked for again.
    fn again(&mut self, piece: SpanPiece, error: &QueryError) -> Result<(), StoppedError> {
        let pause = match error {
            QueryError::Definite(_) => MENDING,
            QueryError::Transient(_) | QueryError::TooMuch(_) => self.backoff,
        };
        self.watch.failed(error, pause);
        self.wait(piece, pause)
    }

    /// Waits before the piece is asked for again, longer the next time.
    fn wait(&mut self, piece: SpanPiece, pause: Duration) -> Result<(), StoppedError> {
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        self.pieces.push(piece);
        if self.watch.pause(pause) { Ok(()) } else { Err(StoppedError) }
    }
}

#[cfg(test)]
mod tests;
