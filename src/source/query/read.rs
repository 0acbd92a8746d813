//! Raw samples of a selector over a span of time, in pieces a server can answer.
//!
//! A piece is an instant query of a range selector, `selector[length]` at its end, of which the samples in
//! `(after, to]` are kept. A server before Prometheus 3 gives the sample at `after` as well, a later one does not:
//! either way every sample comes in exactly one piece.
//!
//! | what comes | what becomes of the piece |
//! |---|---|
//! | too much for the server, or for [`Client`]'s bound on an answer | halved down to [`PIECE_MS_MIN`], then asked name by name; left out if too much even so |
//! | a transient failure | asked again, for ever, after at most [`BACKOFF_MAX`] |
//! | an answer that may be partial | asked again in the same way, until [`Watch::partial`] takes what there is |
//! | a definite error, and the server answers nothing | asked again every [`MENDING`]: a human has to mend the server |
//! | a definite error, though the server answers | narrowed to the names and minutes that it is about; those are left out |
//!
//! What is left out is counted and said. A name that was refused in a short span, as polling asks for, is not asked for
//! in the spans of the next [`REFUSED_MS`].
//!
//! Memory: one answer at a time, so `client::ANSWER_BYTES_MAX` and what it parses to.
//! Not here: which spans, and where samples go.

use std::collections::HashSet;
use std::time::Duration;

use super::client::{Answer, Client, QueryError, Series};

/// Shortest piece a span is halved to.
pub const PIECE_MS_MIN: i64 = 60_000;
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
/// Most definite errors in a span before pieces are left out as they are, without being narrowed.
const NARROWINGS_MAX: u32 = 128;
/// Most names that a piece is split into.
const NAMES_MAX: usize = 1_000;
/// For how long, in time of samples, what was refused is not asked for again.
const REFUSED_MS: i64 = 3_600_000;
/// Most names of a selector that are remembered as refused.
const REFUSED_MAX: usize = 32;
/// Longest span after which is remembered what was refused: other history is another question.
const SHORT_MS: i64 = 300_000;

/// The questions that reading asks.
pub trait Ask {
    /// See [`Client::query`].
    ///
    /// # Errors
    /// Split by what to do.
    fn query(&self, promql: &str, at_ms: i64, timeout: Duration) -> Result<Answer, QueryError>;

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

impl Ask for Client {
    fn query(&self, promql: &str, at_ms: i64, timeout: Duration) -> Result<Answer, QueryError> {
        Client::query(self, promql, at_ms, timeout)
    }

    fn alive(&self, at_ms: i64) -> Result<(), QueryError> {
        Client::alive(self, at_ms)
    }

    fn names(&self, selector: &str, from_ms: i64, to_ms: i64) -> Result<Vec<String>, QueryError> {
        Client::names(self, selector, from_ms, to_ms)
    }
}

/// Who is told how reading goes.
pub trait Watch {
    /// An answer came.
    fn answered(&self);
    /// There was no answer; the question is asked again after `again_in`.
    fn failed(&self, error: &QueryError, again_in: Duration);
    /// An answer may be partial, as `why` says: `true` takes what it has, else it is asked for again after `again_in`.
    fn partial(&self, why: &str, span: Span, again_in: Duration) -> bool;
    /// This will not be read.
    fn left_out(&self, error: &QueryError, selector: &str, span: Span);
    /// Waits; `false` if reading is to end.
    fn pause(&self, time: Duration) -> bool;
}

/// Reading was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("told to stop")]
pub struct Stopped;

/// The times in `(after_ms, to_ms]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The last millisecond before it.
    pub after_ms: i64,
    /// Its last millisecond.
    pub to_ms: i64,
}

impl Span {
    fn length_ms(self) -> i64 {
        self.to_ms - self.after_ms
    }

    /// Both halves, the earlier first.
    fn halves(self) -> [Span; 2] {
        let middle = self.after_ms + self.length_ms() / 2;
        [Span { to_ms: middle, ..self }, Span { after_ms: middle, ..self }]
    }

    /// The beginning of the span up to the next multiple of `chunk_ms`.
    pub fn chunk(self, chunk_ms: i64) -> Span {
        let end = (self.after_ms.div_euclid(chunk_ms) + 1) * chunk_ms;
        Span { to_ms: end.min(self.to_ms), ..self }
    }
}

/// A selector, and how much of it is asked for at once.
#[derive(Clone, Debug)]
pub struct Reading {
    selector: String,
    /// Longest piece; halved by each refusal, doubled after some calm.
    piece_ms: i64,
    calm: u32,
    /// What the server refused, so that it is not asked for in every poll.
    refused: Vec<Refused>,
}

/// A name of a selector, or the selector itself, that is not asked for in spans up to a time.
#[derive(Clone, Debug)]
struct Refused {
    /// `None` for the selector itself.
    name: Option<String>,
    selector: String,
    until_ms: i64,
    error: QueryError,
}

/// A part of a span that is still to be asked for.
#[derive(Clone)]
struct Piece {
    selector: String,
    span: Span,
    /// The metric name that it was narrowed to.
    name: Option<String>,
    /// Whether it can be narrowed to names.
    nameable: bool,
}

impl Reading {
    /// A selector to read.
    pub fn new(selector: &str) -> Reading {
        Reading { selector: selector.trim().to_owned(), piece_ms: i64::MAX, calm: 0, refused: Vec::new() }
    }

    /// Gives every sample of the span to `take`, those of one series in ascending order.
    ///
    /// # Errors
    /// If `watch` or `take` says that reading is to end.
    pub fn read(
        &mut self,
        ask: &dyn Ask,
        watch: &dyn Watch,
        span: Span,
        take: &mut dyn FnMut(Vec<Series>) -> Result<(), Stopped>,
    ) -> Result<(), Stopped> {
        let Some(first) = self.first(watch, span) else { return Ok(()) };
        let (mut pieces, mut refusals) = (vec![first], Refusals::default());
        let mut backoff = BACKOFF_MIN;
        while let Some(piece) = pieces.pop() {
            if piece.span.length_ms() <= 0 {
                continue;
            }
            if piece.span.length_ms() > self.piece_ms.max(PIECE_MS_MIN) {
                halve(&mut pieces, piece);
                continue;
            }
            match ask_for(ask, &piece) {
                Ok(Answer { series, partial }) => {
                    if let Some(why) = partial
                        && !watch.partial(&why, piece.span, backoff)
                    {
                        wait(&mut pieces, piece, &mut backoff, watch)?;
                        continue;
                    }
                    watch.answered();
                    backoff = BACKOFF_MIN;
                    refusals.answered(&piece);
                    self.calmer(&piece);
                    take(series)?;
                }
                Err(QueryError::TooMuch(_)) if piece.span.length_ms() > PIECE_MS_MIN => {
                    self.piece_ms = (piece.span.length_ms() / 2).max(PIECE_MS_MIN);
                    self.calm = 0;
                    halve(&mut pieces, piece);
                }
                Err(error @ QueryError::TooMuch(_)) => match name_by_name(ask, &piece) {
                    Ok(Some(named)) => pieces.extend(named),
                    Ok(None) | Err(QueryError::TooMuch(_) | QueryError::Definite(_)) => {
                        watch.left_out(&error, &piece.selector, piece.span)
                    }
                    Err(other) => again(&mut pieces, piece, &other, &mut backoff, watch)?,
                },
                Err(error @ QueryError::Definite(_)) => match ask.alive(piece.span.to_ms) {
                    Ok(()) => {
                        refusals.narrow(ask, watch, piece, error, &mut pieces);
                        if !watch.pause(Duration::ZERO) {
                            return Err(Stopped);
                        }
                    }
                    Err(QueryError::Transient(_)) => {
                        again(
                            &mut pieces,
                            piece,
                            &QueryError::Transient(error.to_string()),
                            &mut backoff,
                            watch,
                        )?;
                    }
                    Err(_) => again(&mut pieces, piece, &error, &mut backoff, watch)?,
                },
                Err(other) => again(&mut pieces, piece, &other, &mut backoff, watch)?,
            }
        }
        self.remember(refusals, span);
        Ok(())
    }

    /// The whole span, without the names that were refused in the last one; nothing if all of it was.
    fn first(&mut self, watch: &dyn Watch, span: Span) -> Option<Piece> {
        self.refused.retain(|refused| span.length_ms() <= SHORT_MS && span.to_ms < refused.until_ms);
        let mut selector = self.selector.clone();
        for refused in &self.refused {
            watch.left_out(&refused.error, &refused.selector, span);
            selector = without_name(&selector, refused.name.as_deref()?)?;
        }
        let nameable = with_name(&self.selector, "").is_some();
        Some(Piece { selector, span, name: None, nameable })
    }

    /// Keeps in mind what was refused, if it was refused in all of a short span.
    fn remember(&mut self, refusals: Refusals, span: Span) {
        if span.length_ms() > SHORT_MS {
            return;
        }
        for (name, selector, error) in refusals.left_out {
            let held = self.refused.iter().any(|refused| refused.name == name);
            let some = match &name {
                Some(name) => refusals.names.contains(name),
                None => !refusals.names.is_empty(),
            };
            if !held && !some && !refusals.unnamed && self.refused.len() < REFUSED_MAX {
                self.refused.push(Refused { name, selector, until_ms: span.to_ms + REFUSED_MS, error });
            }
        }
    }

    /// Takes note of an answer.
    fn calmer(&mut self, piece: &Piece) {
        if self.piece_ms == i64::MAX || piece.span.length_ms() * 2 < self.piece_ms {
            return;
        }
        self.calm += 1;
        if self.calm == CALM {
            (self.piece_ms, self.calm) = (self.piece_ms.saturating_mul(2), 0);
        }
    }
}

/// The definite errors in one span of a server that answers other questions.
#[derive(Default)]
struct Refusals {
    narrowings: u32,
    /// Whether a piece of all names was answered.
    unnamed: bool,
    /// Names with an answer.
    names: HashSet<String>,
    /// What is left out: name and selector.
    left_out: Vec<(Option<String>, String, QueryError)>,
}

impl Refusals {
    fn answered(&mut self, piece: &Piece) {
        match &piece.name {
            Some(name) => drop(self.names.insert(name.clone())),
            None => self.unnamed = true,
        }
    }

    /// Puts the parts of a refused piece in its place, or leaves it out.
    fn narrow(
        &mut self,
        ask: &dyn Ask,
        watch: &dyn Watch,
        piece: Piece,
        error: QueryError,
        pieces: &mut Vec<Piece>,
    ) {
        self.narrowings += 1;
        if self.narrowings <= NARROWINGS_MAX {
            let long = piece.span.length_ms() > PIECE_MS_MIN;
            let minute = Span { after_ms: piece.span.to_ms - PIECE_MS_MIN, ..piece.span };
            // Where its last minute is refused as well it is not about the time: first by names then.
            let by_time =
                long && (!piece.nameable || ask_for(ask, &Piece { span: minute, ..piece.clone() }).is_ok());
            if by_time {
                return halve(pieces, piece);
            }
            match name_by_name(ask, &piece) {
                Ok(Some(named)) if (1..=NAMES_MAX).contains(&named.len()) => return pieces.extend(named),
                _ if long => return halve(pieces, piece),
                _ => {}
            }
        }
        watch.left_out(&error, &piece.selector, piece.span);
        let known = self.left_out.iter().any(|(name, ..)| *name == piece.name);
        if !known && self.left_out.len() < REFUSED_MAX {
            self.left_out.push((piece.name, piece.selector, error));
        }
    }
}

fn halve(pieces: &mut Vec<Piece>, piece: Piece) {
    let [early, late] = piece.span.halves();
    pieces.push(Piece { span: late, ..piece.clone() });
    pieces.push(Piece { span: early, ..piece });
}

/// The samples of a piece that no other piece has.
fn ask_for(ask: &dyn Ask, piece: &Piece) -> Result<Answer, QueryError> {
    let Span { after_ms, to_ms } = piece.span;
    let mut answer =
        ask.query(&format!("{}[{}ms]", piece.selector, piece.span.length_ms()), to_ms, TIMEOUT)?;
    for series in &mut answer.series {
        series.samples.retain(|(at_ms, _)| after_ms < *at_ms && *at_ms <= to_ms);
        // As the API has it already; our order rests on it, so it is not left to trust.
        if !series.samples.is_sorted_by_key(|(at_ms, _)| *at_ms) {
            series.samples.sort_by_key(|(at_ms, _)| *at_ms);
        }
    }
    Ok(answer)
}

/// The piece split by metric name, unless it cannot be.
fn name_by_name(ask: &dyn Ask, piece: &Piece) -> Result<Option<Vec<Piece>>, QueryError> {
    if !piece.nameable {
        return Ok(None);
    }
    let names = ask.names(&piece.selector, piece.span.after_ms, piece.span.to_ms)?;
    let named = names.into_iter().filter_map(|name| {
        let selector = with_name(&piece.selector, &name)?;
        Some(Piece { selector, span: piece.span, name: Some(name), nameable: false })
    });
    Ok(Some(named.collect()))
}

/// The selector narrowed to one name, if it does not begin with a name.
fn with_name(selector: &str, name: &str) -> Option<String> {
    narrowed(selector, "=", name)
}

/// The selector without one name, if it does not begin with a name.
fn without_name(selector: &str, name: &str) -> Option<String> {
    narrowed(selector, "!=", name)
}

fn narrowed(selector: &str, operator: &str, name: &str) -> Option<String> {
    let inner = selector.trim().strip_prefix('{')?.strip_suffix('}')?.trim_end();
    let gap = if inner.is_empty() || inner.ends_with(',') { "" } else { "," };
    let name = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    Some(format!("{{{inner}{gap}__name__{operator}\"{name}\"}}"))
}

/// Waits after an error before the piece is asked for again.
fn again(
    pieces: &mut Vec<Piece>,
    piece: Piece,
    error: &QueryError,
    backoff: &mut Duration,
    watch: &dyn Watch,
) -> Result<(), Stopped> {
    let mut pause = match error {
        QueryError::Definite(_) => MENDING,
        QueryError::Transient(_) | QueryError::TooMuch(_) => *backoff,
    };
    watch.failed(error, pause);
    let result = wait(pieces, piece, &mut pause, watch);
    *backoff = (*backoff * 2).min(BACKOFF_MAX);
    result
}

/// Waits before the piece is asked for again, longer the next time.
fn wait(
    pieces: &mut Vec<Piece>,
    piece: Piece,
    backoff: &mut Duration,
    watch: &dyn Watch,
) -> Result<(), Stopped> {
    let pause = *backoff;
    *backoff = (*backoff * 2).min(BACKOFF_MAX);
    pieces.push(piece);
    if watch.pause(pause) { Ok(()) } else { Err(Stopped) }
}

#[cfg(test)]
mod tests;
