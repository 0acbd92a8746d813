//! Raw samples of a selector over a span of time, in pieces a server can answer.
//!
//! A piece is an instant query of a range selector, `selector[length]` at its end, of which the samples in
//! `(after, to]` are kept. A server before Prometheus 3 gives the sample at `after` as well, a later one does not:
//! either way every sample comes in exactly one piece. What is too much for the server, or for [`Client`]'s bound on an
//! answer, is halved down to [`PIECE_MS_MIN`], then asked name by name; what is too much even then is left out, counted
//! and said. Everything else that fails is asked again, for ever: transient failures after at most
//! [`BACKOFF_MAX`], what a human has to mend every [`MENDING`].
//!
//! Memory: one answer at a time, so `client::ANSWER_BYTES_MAX` and what it parses to.
//! Not here: which spans, and where samples go.

use std::time::Duration;

use super::client::{Client, QueryError, Series};

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

/// The questions that reading asks.
pub trait Ask {
    /// See [`Client::query`].
    ///
    /// # Errors
    /// Split by what to do.
    fn query(&self, promql: &str, at_ms: i64, timeout: Duration) -> Result<Vec<Series>, QueryError>;

    /// See [`Client::names`].
    ///
    /// # Errors
    /// Split by what to do.
    fn names(&self, selector: &str, from_ms: i64, to_ms: i64) -> Result<Vec<String>, QueryError>;
}

impl Ask for Client {
    fn query(&self, promql: &str, at_ms: i64, timeout: Duration) -> Result<Vec<Series>, QueryError> {
        Client::query(self, promql, at_ms, timeout)
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
}

/// A part of a span that is still to be asked for.
struct Piece {
    selector: String,
    span: Span,
    /// Narrowed to one metric name.
    named: bool,
}

impl Reading {
    /// A selector to read.
    pub fn new(selector: &str) -> Reading {
        Reading { selector: selector.trim().to_owned(), piece_ms: i64::MAX, calm: 0 }
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
        let mut pieces = vec![Piece { selector: self.selector.clone(), span, named: false }];
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
                Ok(series) => {
                    watch.answered();
                    backoff = BACKOFF_MIN;
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
                    Ok(None) | Err(QueryError::TooMuch(_)) => {
                        watch.left_out(&error, &piece.selector, piece.span)
                    }
                    Err(other) => again(&mut pieces, piece, &other, &mut backoff, watch)?,
                },
                Err(other) => again(&mut pieces, piece, &other, &mut backoff, watch)?,
            }
        }
        Ok(())
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

fn halve(pieces: &mut Vec<Piece>, piece: Piece) {
    let [early, late] = piece.span.halves();
    pieces.push(Piece { selector: piece.selector.clone(), span: late, named: piece.named });
    pieces.push(Piece { span: early, ..piece });
}

/// The samples of a piece that no other piece has.
fn ask_for(ask: &dyn Ask, piece: &Piece) -> Result<Vec<Series>, QueryError> {
    let Span { after_ms, to_ms } = piece.span;
    let mut all = ask.query(&format!("{}[{}ms]", piece.selector, piece.span.length_ms()), to_ms, TIMEOUT)?;
    for series in &mut all {
        series.samples.retain(|(at_ms, _)| after_ms < *at_ms && *at_ms <= to_ms);
        // As the API has it already; our order rests on it, so it is not left to trust.
        if !series.samples.is_sorted_by_key(|(at_ms, _)| *at_ms) {
            series.samples.sort_by_key(|(at_ms, _)| *at_ms);
        }
    }
    Ok(all)
}

/// The piece split by metric name, unless it cannot be.
fn name_by_name(ask: &dyn Ask, piece: &Piece) -> Result<Option<Vec<Piece>>, QueryError> {
    if piece.named || with_name(&piece.selector, "").is_none() {
        return Ok(None);
    }
    let names = ask.names(&piece.selector, piece.span.after_ms, piece.span.to_ms)?;
    let named = names.iter().filter_map(|name| {
        Some(Piece { selector: with_name(&piece.selector, name)?, span: piece.span, named: true })
    });
    Ok(Some(named.collect()))
}

/// The selector narrowed to one name, if it does not begin with a name.
fn with_name(selector: &str, name: &str) -> Option<String> {
    let inner = selector.trim().strip_prefix('{')?.strip_suffix('}')?.trim_end();
    let gap = if inner.is_empty() || inner.ends_with(',') { "" } else { "," };
    let name = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    Some(format!("{{{inner}{gap}__name__=\"{name}\"}}"))
}

/// Waits before the piece is asked for again.
fn again(
    pieces: &mut Vec<Piece>,
    piece: Piece,
    error: &QueryError,
    backoff: &mut Duration,
    watch: &dyn Watch,
) -> Result<(), Stopped> {
    let wait = match error {
        QueryError::Definite(_) => MENDING,
        QueryError::Transient(_) | QueryError::TooMuch(_) => *backoff,
    };
    *backoff = (*backoff * 2).min(BACKOFF_MAX);
    watch.failed(error, wait);
    pieces.push(piece);
    if watch.pause(wait) { Ok(()) } else { Err(Stopped) }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::*;

    /// A server over samples in memory; `most` is how many samples one answer may load.
    struct Server {
        series: BTreeMap<&'static str, Vec<i64>>,
        closed: bool,
        most: usize,
        /// Errors that come first.
        errors: RefCell<Vec<QueryError>>,
        asked: RefCell<Vec<String>>,
    }

    impl Server {
        fn new(closed: bool, most: usize) -> Server {
            let every = |step: usize| (0..=7_200_000).step_by(step).collect();
            let series = BTreeMap::from([("a", every(15_000)), ("b", every(60_000)), ("c", vec![3_600_000])]);
            Server { series, closed, most, errors: RefCell::default(), asked: RefCell::default() }
        }
    }

    impl Ask for Server {
        fn query(&self, promql: &str, at_ms: i64, _: Duration) -> Result<Vec<Series>, QueryError> {
            self.asked.borrow_mut().push(format!("{promql}@{at_ms}"));
            if let Some(error) = self.errors.borrow_mut().pop() {
                return Err(error);
            }
            let (selector, range) = promql.strip_suffix("ms]").unwrap().split_once('[').unwrap();
            let after = at_ms - range.parse::<i64>().unwrap();
            let wanted =
                |name: &str| !selector.contains("__name__=\"") || selector.contains(&format!("=\"{name}\""));
            let inside = |at: i64| (after < at || (self.closed && after == at)) && at <= at_ms;
            let all: Vec<Series> = (self.series.iter())
                .filter(|(name, _)| wanted(name))
                .map(|(name, times)| Series {
                    labels: vec![("__name__".to_owned(), (*name).to_owned())],
                    samples: times.iter().filter(|at| inside(**at)).map(|at| (*at, *at as f64)).collect(),
                    histograms: 0,
                })
                .collect();
            match all.iter().map(|series| series.samples.len()).sum::<usize>() > self.most {
                true => Err(QueryError::TooMuch("too many samples".to_owned())),
                false => Ok(all),
            }
        }

        fn names(&self, _: &str, _: i64, _: i64) -> Result<Vec<String>, QueryError> {
            Ok(self.series.keys().map(|name| (*name).to_owned()).collect())
        }
    }

    #[derive(Default)]
    struct Told {
        waits: RefCell<Vec<Duration>>,
        left_out: RefCell<Vec<(String, Span)>>,
        stop_after: Option<usize>,
    }

    impl Watch for Told {
        fn answered(&self) {}

        fn failed(&self, _: &QueryError, again_in: Duration) {
            self.waits.borrow_mut().push(again_in);
        }

        fn left_out(&self, _: &QueryError, selector: &str, span: Span) {
            self.left_out.borrow_mut().push((selector.to_owned(), span));
        }

        fn pause(&self, _: Duration) -> bool {
            self.stop_after.is_none_or(|after| self.waits.borrow().len() < after)
        }
    }

    /// Reads `(-1, 2h]` in chunks and gives every sample by series in the order it came.
    fn read(server: &Server, told: &Told, chunk_ms: i64) -> BTreeMap<String, Vec<i64>> {
        let mut reading = Reading::new(" {job=\"x\"} ");
        let mut got: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        let mut left = Span { after_ms: -1, to_ms: 7_200_000 };
        while left.after_ms < left.to_ms {
            let chunk = left.chunk(chunk_ms);
            let done = reading.read(server, told, chunk, &mut |all| {
                for series in all {
                    let times = series.samples.iter().map(|(at, _)| *at);
                    got.entry(series.labels[0].1.clone()).or_default().extend(times);
                }
                Ok(())
            });
            done.unwrap();
            left.after_ms = chunk.to_ms;
        }
        got
    }

    #[test]
    fn every_sample_comes_once_and_in_order_however_ranges_are_bounded_and_split() {
        for closed in [true, false] {
            for most in [usize::MAX, 400, 130, 31, 7, 5] {
                for chunk_ms in [60_000, 900_000, 3_600_000, 86_400_000, 1_234_567] {
                    let (server, told) = (Server::new(closed, most), Told::default());
                    let got = read(&server, &told, chunk_ms);
                    for (name, times) in &server.series {
                        assert_eq!(&got[*name], times, "{name} closed {closed} most {most} chunk {chunk_ms}");
                    }
                    assert!(told.left_out.borrow().is_empty() && told.waits.borrow().is_empty());
                }
            }
        }
    }

    #[test]
    fn what_is_too_much_by_itself_is_left_out_and_named() {
        let (server, told) = (Server::new(false, 3), Told::default());
        let got = read(&server, &told, 3_600_000);
        assert_eq!(got["b"], server.series["b"], "one sample a minute is not too much");
        let left_out = told.left_out.borrow();
        assert!(
            left_out.iter().all(|(selector, _)| selector == "{job=\"x\",__name__=\"a\"}"),
            "{left_out:?}"
        );
        let lost = |at: &i64| left_out.iter().any(|(_, span)| span.after_ms < *at && *at <= span.to_ms);
        assert!(!left_out.is_empty());
        for at in &server.series["a"] {
            assert_eq!(got["a"].contains(at), !lost(at), "{at}");
        }
    }

    #[test]
    fn a_refused_length_is_not_asked_for_again_and_grows_back() {
        let (server, told) = (Server::new(true, 200), Told::default());
        read(&server, &told, 3_600_000);
        assert_eq!(
            server.asked.borrow()[..3],
            ["{job=\"x\"}[1ms]@0", "{job=\"x\"}[3600000ms]@3600000", "{job=\"x\"}[1800000ms]@1800000"]
                .map(str::to_owned)
        );
        assert_eq!(server.asked.borrow().len(), 1 + 1 + 4, "the second hour is asked in halves at once");
        let mut reading = Reading { piece_ms: 60_000, ..Reading::new("up") };
        let span = Span { after_ms: 0, to_ms: 7_200_000 };
        reading.read(&Server::new(true, 9_999), &told, span, &mut |_| Ok(())).unwrap();
        assert!(reading.piece_ms >= 240_000, "{}", reading.piece_ms);
    }

    #[test]
    fn failures_are_waited_out_with_bounds() {
        let (server, told) = (Server::new(true, usize::MAX), Told::default());
        let transient = || QueryError::Transient("x".to_owned());
        let mut errors = vec![QueryError::Definite("x".to_owned())];
        errors.resize_with(9, transient);
        *server.errors.borrow_mut() = errors;
        let got = read(&server, &told, 86_400_000);
        assert_eq!(got["a"], server.series["a"]);
        let waits: Vec<u128> = told.waits.borrow().iter().map(Duration::as_millis).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 60_000]);
    }

    #[test]
    fn reading_ends_when_told() {
        let server = Server::new(true, usize::MAX);
        let span = Span { after_ms: 0, to_ms: 1 };
        *server.errors.borrow_mut() = vec![QueryError::Transient(String::new()); 9];
        let told = Told { stop_after: Some(3), ..Told::default() };
        assert_eq!(Reading::new("up").read(&server, &told, span, &mut |_| Ok(())), Err(Stopped));
        assert_eq!(told.waits.borrow().len(), 3);
        server.errors.borrow_mut().clear();
        assert_eq!(
            Reading::new("up").read(&server, &Told::default(), span, &mut |_| Err(Stopped)),
            Err(Stopped)
        );
    }

    #[test]
    fn a_selector_is_narrowed_to_a_name_where_it_has_none() {
        for (selector, narrowed) in [
            ("{a=\"b\"}", Some("{a=\"b\",__name__=\"n\\\"\\\\\"}")),
            ("{ a=\"}\" , }", Some("{ a=\"}\" ,__name__=\"n\\\"\\\\\"}")),
            ("{}", Some("{__name__=\"n\\\"\\\\\"}")),
            ("up", None),
            ("up{a=\"b\"}", None),
        ] {
            assert_eq!(with_name(selector, "n\"\\").as_deref(), narrowed, "{selector}");
        }
    }

    #[test]
    fn chunks_end_at_multiples() {
        let chunk = |after_ms, to_ms| Span { after_ms, to_ms }.chunk(10).to_ms;
        assert_eq!(
            [chunk(-1, 100), chunk(0, 100), chunk(9, 100), chunk(10, 100), chunk(10, 13), chunk(-11, 5)],
            [0, 10, 10, 20, 13, -10]
        );
    }
}
