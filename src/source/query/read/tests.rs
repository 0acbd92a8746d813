//! Reading from a server over samples in memory, with every kind of failure.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};

use super::*;

/// A server over samples in memory; `most` is how many samples one answer may load.
struct Server {
    series: BTreeMap<String, Vec<i64>>,
    closed: bool,
    most: usize,
    /// Errors that come first.
    errors: RefCell<Vec<QueryError>>,
    /// As many questions whether it is alive get no good answer.
    dead: Cell<usize>,
    /// As many answers are partial.
    partial: Cell<usize>,
    /// What is refused: names at these times.
    broken: Vec<(String, ReadSpan)>,
    /// Errors of the first questions for names.
    unlisted: RefCell<Vec<QueryError>>,
    asked: RefCell<Vec<String>>,
}

impl Server {
    fn new(closed: bool, most: usize) -> Server {
        let every = |step: usize| (0..=7_200_000).step_by(step).collect();
        let series = [("a", every(15_000)), ("b", every(60_000)), ("c", vec![3_600_000])];
        let series = series.into_iter().map(|(name, times)| (name.to_owned(), times)).collect();
        Server {
            series,
            closed,
            most,
            errors: RefCell::default(),
            dead: Cell::new(0),
            partial: Cell::new(0),
            broken: Vec::new(),
            unlisted: RefCell::default(),
            asked: RefCell::default(),
        }
    }
}

impl QueryPort for Server {
    fn query(&self, promql: &str, at_ms: i64, _: Duration) -> Result<QueryAnswer, QueryError> {
        self.asked.borrow_mut().push(format!("{promql}@{at_ms}"));
        if let Some(error) = self.errors.borrow_mut().pop() {
            return Err(error);
        }
        let (selector, range) = promql.strip_suffix("ms]").unwrap().split_once('[').unwrap();
        let after = at_ms - range.parse::<i64>().unwrap();
        let wanted = wanted(selector);
        assert!(selector.len() <= names::SELECTOR_BYTES_MAX, "{}", selector.len());
        let is_broken =
            |(name, span): &(String, ReadSpan)| wanted(name) && after < span.to_ms && span.after_ms < at_ms;
        if self.broken.iter().any(is_broken) {
            return Err(QueryError::Definite("broken chunk".to_owned()));
        }
        let inside = |at: i64| (after < at || (self.closed && after == at)) && at <= at_ms;
        let all: Vec<QuerySeries> = (self.series.iter())
            .filter(|(name, _)| wanted(name))
            .map(|(name, times)| QuerySeries {
                labels: vec![("__name__".to_owned(), (*name).clone())],
                samples: times.iter().filter(|at| inside(**at)).map(|at| (*at, *at as f64)).collect(),
                histograms: 0,
            })
            .collect();
        match all.iter().map(|series| series.samples.len()).sum::<usize>() > self.most {
            true => Err(QueryError::TooMuch("too many samples".to_owned())),
            false => {
                let left = self.partial.get();
                self.partial.set(left.saturating_sub(1));
                Ok(QueryAnswer { series: all, partial: (left > 0).then(|| "a store is away".to_owned()) })
            }
        }
    }

    fn alive(&self, _: i64) -> Result<(), QueryError> {
        match self.dead.replace(self.dead.get().saturating_sub(1)) {
            0 => Ok(()),
            _ => Err(QueryError::Definite("401".to_owned())),
        }
    }

    fn names(&self, _: &str, _: i64, _: i64) -> Result<Vec<String>, QueryError> {
        self.asked.borrow_mut().push("names".to_owned());
        match self.unlisted.borrow_mut().pop() {
            Some(error) => Err(error),
            None => Ok(self.series.keys().cloned().collect()),
        }
    }
}

/// Tells whether a selector of the tests means a name.
fn wanted(selector: &str) -> impl Fn(&str) -> bool {
    let matcher = selector.split_once("__name__").map(|(_, matcher)| matcher.split_once('"').unwrap());
    let (operator, value) = matcher.unwrap_or(("!=", "\"}"));
    let value = value.strip_suffix("\"}").unwrap().replace("\\\\", "\\");
    let names: HashSet<String> = match operator.ends_with('~') {
        true => value.split('|').map(|one| one.replace('\\', "")).collect(),
        false => HashSet::from([value]),
    };
    let without = operator.starts_with('!');
    move |name| names.contains(name) != without
}

#[derive(Default)]
struct Told {
    waits: RefCell<Vec<Duration>>,
    left_out: RefCell<Vec<(String, ReadSpan)>>,
    /// Partial answers, and how many of them are asked for again.
    partial: Cell<usize>,
    patience: usize,
    stop_after: Option<usize>,
    /// Pauses that are no waits for the server.
    rests: Cell<usize>,
    full: Cell<usize>,
}

impl ReadObserver for Told {
    fn answered(&self) {}

    fn failed(&self, _: &QueryError, again_in: Duration) {
        self.waits.borrow_mut().push(again_in);
    }

    fn partial(&self, _: &str, _: ReadSpan, again_in: Duration) -> bool {
        self.partial.set(self.partial.get() + 1);
        if self.partial.get() <= self.patience {
            self.waits.borrow_mut().push(again_in);
        }
        self.partial.get() > self.patience
    }

    fn left_out(&self, _: &QueryError, selector: &str, span: ReadSpan) {
        self.left_out.borrow_mut().push((selector.to_owned(), span));
    }

    fn full(&self) {
        self.full.set(self.full.get() + 1);
    }

    fn pause(&self, time: Duration) -> bool {
        self.rests.set(self.rests.get() + usize::from(time == REFUSALS_PAUSE));
        self.stop_after.is_none_or(|after| self.waits.borrow().len() < after)
    }
}

/// Reads `(-1, 2h]` in chunks and gives every sample by series in the order it came.
fn read(server: &Server, told: &Told, chunk_ms: i64) -> BTreeMap<String, Vec<i64>> {
    let mut reading = Reading::new(" {job=\"x\"} ");
    let mut got: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut left = ReadSpan { after_ms: -1, to_ms: 7_200_000 };
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
                    assert_eq!(&got[name], times, "{name} closed {closed} most {most} chunk {chunk_ms}");
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
    assert!(left_out.iter().all(|(selector, _)| selector == "{job=\"x\",__name__=\"a\"}"), "{left_out:?}");
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
    let span = ReadSpan { after_ms: 0, to_ms: 7_200_000 };
    reading.read(&Server::new(true, 9_999), &told, span, &mut |_| Ok(())).unwrap();
    assert!(reading.piece_ms >= 240_000, "{}", reading.piece_ms);
}

#[test]
fn failures_are_waited_out_with_bounds() {
    let (server, told) = (Server::new(true, usize::MAX), Told::default());
    let transient = || QueryError::Transient("x".to_owned());
    let mut errors = vec![QueryError::Definite("x".to_owned())];
    errors.resize_with(9, transient);
    server.dead.set(1);
    *server.errors.borrow_mut() = errors;
    let got = read(&server, &told, 86_400_000);
    assert_eq!(got["a"], server.series["a"]);
    let waits: Vec<u128> = told.waits.borrow().iter().map(Duration::as_millis).collect();
    assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 60_000]);
}

#[test]
fn what_a_server_that_answers_refuses_is_left_out_and_the_rest_goes_on() {
    let minute = ReadSpan { after_ms: 3_599_990, to_ms: 3_600_010 };
    let always = ReadSpan { after_ms: -1, to_ms: 7_200_000 };
    for (name, span, chunk_ms) in [
        ("a", minute, 3_600_000),
        ("b", always, 3_600_000),
        ("a", always, 900_000),
        ("c", minute, 86_400_000),
    ] {
        let server = Server { broken: vec![(name.to_owned(), span)], ..Server::new(true, 9_999) };
        let told = Told::default();
        let got = read(&server, &told, chunk_ms);
        let left_out = told.left_out.borrow();
        assert!(!left_out.is_empty() && told.waits.borrow().is_empty(), "it is not asked again");
        for (other, times) in &server.series {
            let lost = |at: &i64| {
                other == name && left_out.iter().any(|(_, span)| span.after_ms < *at && *at <= span.to_ms)
            };
            let wanted: Vec<i64> = times.iter().copied().filter(|at| !lost(at)).collect();
            assert_eq!(got.get(other).cloned().unwrap_or_default(), wanted, "{other}, {name} {span:?}");
        }
        let named = format!("{{job=\"x\",__name__=\"{name}\"}}");
        assert!(left_out.iter().all(|(selector, _)| *selector == named), "{left_out:?}");
        if span == minute {
            let far = |span: &ReadSpan| {
                span.to_ms < minute.after_ms - 60_000 || span.after_ms > minute.to_ms + 60_000
            };
            assert!(!left_out.iter().any(|(_, span)| far(span)), "{left_out:?}");
        }
        assert!(server.asked.borrow().len() < 1_500, "{}", server.asked.borrow().len());
    }
}

#[test]
fn what_was_refused_in_a_poll_is_not_asked_for_in_the_next_ones() {
    let always = ReadSpan { after_ms: -1, to_ms: i64::MAX };
    for (selector, name) in [("{job=\"x\"}", "b"), ("up", "a")] {
        let mut server = Server { broken: vec![(name.to_owned(), always)], ..Server::new(true, 9_999) };
        let (told, mut reading) = (Told::default(), Reading::new(selector));
        let mut poll = |server: &Server, to_ms: i64| {
            let begin = server.asked.borrow().len();
            let span = ReadSpan { after_ms: to_ms - 75_000, to_ms };
            reading.read(server, &told, span, &mut |_| Ok(())).unwrap();
            server.asked.borrow().len() - begin
        };
        assert!(poll(&server, 100_000) > 1);
        for n in 1..200 {
            assert!(poll(&server, 100_000 + n * 15_000) <= 1, "{selector}");
        }
        assert!(told.left_out.borrow().len() >= 200, "and each time it is said");
        // An hour later it is asked for again, and it is well.
        server.broken.clear();
        let left_out = told.left_out.borrow().len();
        assert_eq!(poll(&server, 100_000 + refused::REFUSED_MS), if name == "b" { 2 } else { 1 });
        assert_eq!(told.left_out.borrow().len(), left_out);
    }
}

#[test]
fn what_may_be_partial_is_asked_again_until_it_is_taken() {
    for (partial, patience, waits, seen) in [(3, 9, 3, 3), (9, 4, 4, 6), (0, 0, 0, 0), (2, 0, 0, 2)] {
        let (server, told) = (Server::new(true, 9_999), Told { patience, ..Told::default() });
        server.partial.set(partial);
        let got = read(&server, &told, 86_400_000);
        assert_eq!(got["a"], server.series["a"], "each once");
        assert_eq!((told.waits.borrow().len(), told.partial.get()), (waits, seen));
        assert!(told.waits.borrow().is_sorted(), "{:?}", told.waits);
    }
}

#[test]
fn reading_ends_when_told() {
    let server = Server::new(true, usize::MAX);
    let span = ReadSpan { after_ms: 0, to_ms: 1 };
    *server.errors.borrow_mut() = vec![QueryError::Transient(String::new()); 9];
    let told = Told { stop_after: Some(3), ..Told::default() };
    assert_eq!(Reading::new("up").read(&server, &told, span, &mut |_| Ok(())), Err(StoppedError));
    assert_eq!(told.waits.borrow().len(), 3);
    server.errors.borrow_mut().clear();
    assert_eq!(
        Reading::new("up").read(&server, &Told::default(), span, &mut |_| Err(StoppedError)),
        Err(StoppedError)
    );
}

const ALWAYS: ReadSpan = ReadSpan { after_ms: -1, to_ms: i64::MAX };

/// A server with as many names, of which some are refused; each has a sample every minute.
fn wide(names: usize, bad: &[usize]) -> Server {
    let name = |n: usize| format!("a_metric.with_a_name_{n:05}");
    let every: Vec<i64> = (0..=7_200_000).step_by(60_000).collect();
    let series = (0..names).map(|n| (name(n), every.clone())).collect();
    Server {
        series,
        broken: bad.iter().map(|n| (name(*n), ALWAYS)).collect(),
        ..Server::new(true, usize::MAX)
    }
}

fn asked(server: &Server) -> usize {
    server.asked.borrow().len()
}

#[test]
fn a_transient_failure_while_names_are_searched_loses_nothing() {
    let transient = || QueryError::Transient("503".to_owned());
    // The failure hits each of the first questions once: of all, of its minutes, of names, of parts.
    for at in 0..12 {
        for long in [true, false] {
            let server = Server { broken: vec![("b".to_owned(), ALWAYS)], ..Server::new(true, usize::MAX) };
            let told = Told::default();
            let failing = Failing { server: &server, at, error: transient(), asked: Cell::new(0) };
            let span = ReadSpan { after_ms: 3_540_000 - if long { 240_000 } else { 0 }, to_ms: 3_600_000 };
            let mut reading = Reading::new("{job=\"x\"}");
            let mut got: BTreeMap<String, Vec<i64>> = BTreeMap::new();
            let done = reading.read(&failing, &told, span, &mut |all| {
                for series in all {
                    let times = series.samples.iter().map(|(at, _)| *at);
                    got.entry(series.labels[0].1.clone()).or_default().extend(times);
                }
                Ok(())
            });
            done.unwrap();
            let inside = |at: &&i64| span.after_ms < **at && **at <= span.to_ms;
            for name in ["a", "c"] {
                let all: Vec<i64> = server.series[name].iter().filter(inside).copied().collect();
                assert_eq!(got[name], all, "{name} at {at}, long {long}");
            }
            let left_out = told.left_out.borrow();
            let bad = "{job=\"x\",__name__=\"b\"}";
            assert!(left_out.iter().all(|(selector, _)| selector == bad), "{left_out:?} at {at}");
            assert!(reading.refused.selector(span).is_none());
            assert_eq!(told.waits.borrow().len(), usize::from(failing.asked.get() > at), "at {at}");
        }
    }
}

/// A server of which one question, also for names, gets an error.
struct Failing<'a> {
    server: &'a Server,
    at: usize,
    error: QueryError,
    asked: Cell<usize>,
}

impl Failing<'_> {
    fn fails(&self) -> Result<(), QueryError> {
        match self.asked.replace(self.asked.get() + 1) == self.at {
            true => Err(self.error.clone()),
            false => Ok(()),
        }
    }
}

impl QueryPort for Failing<'_> {
    fn query(&self, promql: &str, at_ms: i64, timeout: Duration) -> Result<QueryAnswer, QueryError> {
        self.fails().and_then(|()| self.server.query(promql, at_ms, timeout))
    }

    fn alive(&self, at_ms: i64) -> Result<(), QueryError> {
        self.fails().and_then(|()| self.server.alive(at_ms))
    }

    fn names(&self, selector: &str, from_ms: i64, to_ms: i64) -> Result<Vec<String>, QueryError> {
        self.fails().and_then(|()| self.server.names(selector, from_ms, to_ms))
    }
}

#[test]
fn names_that_cannot_be_listed_are_not_passed_over() {
    for error in [QueryError::Definite("404".to_owned()), QueryError::TooMuch("too many".to_owned())] {
        let server = Server { broken: vec![("b".to_owned(), ALWAYS)], ..Server::new(true, usize::MAX) };
        *server.unlisted.borrow_mut() = vec![error; 200];
        let told = Told::default();
        let got = read(&server, &told, 60_000);
        for name in ["a", "c"] {
            assert_eq!(got[name], server.series[name], "{name}");
        }
        assert!(told.left_out.borrow().iter().all(|(selector, _)| selector.contains("__name__=\"b\"")));
        assert_eq!(told.waits.borrow().len(), 200, "each is told");
    }
}

#[test]
fn however_many_names_there_are_only_the_bad_one_is_left_out() {
    for (names, questions) in [(1_000, 100), (20_000, 300)] {
        let (server, told) = (wide(names, &[names / 3]), Told::default());
        let mut reading = Reading::new("{job=\"x\"}");
        let (mut seen, mut last) = (0, 0);
        for n in 0..20 {
            let span = ReadSpan { after_ms: n * 60_000, to_ms: (n + 1) * 60_000 };
            let before = asked(&server);
            reading
                .read(&server, &told, span, &mut |all| {
                    seen += all.iter().map(|series| series.samples.len()).sum::<usize>();
                    Ok(())
                })
                .unwrap();
            last = asked(&server) - before;
        }
        assert_eq!(seen, (names - 1) * 20, "one sample a minute of each other name");
        assert!(asked(&server) < questions && last == 1, "{} {last}", asked(&server));
    }
}

#[test]
fn a_bootstrap_learns_from_chunk_to_chunk() {
    let (server, told) = (wide(1_000, &[421]), Told::default());
    let got = read(&server, &told, 300_001);
    let bad = &server.broken[0].0;
    for (name, times) in &server.series {
        assert_eq!(got.get(name), Some(times).filter(|_| name != bad), "{name}");
    }
    let most = 100 + 24 * 6;
    assert!(asked(&server) < most, "{} of {most}", asked(&server));
    // Where it is well again it is read: other history is another question.
    let (mut server, told) = (wide(1_000, &[421]), Told::default());
    server.broken[0].1.to_ms = 3_000_000;
    let got = read(&server, &told, 600_000);
    let times: Vec<i64> = server.series[bad].iter().copied().filter(|at| *at > 3_000_000).collect();
    assert_eq!(&got[bad], &times);
}

#[test]
fn polls_with_many_bad_names_ask_little_and_an_hour_later_again() {
    let bad: Vec<usize> = (0..900).map(|n| n * 2).collect();
    let (mut server, told) = (wide(2_000, &bad), Told::default());
    let mut reading = Reading::new("{job=\"x\"}");
    let mut poll = |server: &Server, to_ms: i64| {
        let before = asked(server);
        let mut names = 0;
        let span = ReadSpan { after_ms: to_ms - 60_000, to_ms };
        let done = reading.read(server, &told, span, &mut |all| {
            names += all.iter().filter(|series| !series.samples.is_empty()).count();
            Ok(())
        });
        done.unwrap();
        (asked(server) - before, names)
    };
    let (questions, names) = poll(&server, 60_000);
    assert_eq!(names, 1_100);
    assert!(questions < 4_000, "{questions}");
    assert!(told.rests.get() >= 1_800 / 32, "{}", told.rests.get());
    for n in 1..10 {
        // They do not fit into one matcher, so the others are listed.
        let (questions, names) = poll(&server, 60_000 + n * 300_000);
        assert!(questions < 20 && names == 1_100, "{questions} {names}");
    }
    server.broken.clear();
    let mut polls = 0;
    while poll(&server, 60_000 + refused::REFUSED_MS + polls * 1_000).1 < 2_000 {
        polls += 1;
        assert!(polls < 60, "each poll asks for a few of them again");
    }
    assert_eq!(told.full.get(), 0);
}

#[test]
fn more_bad_names_than_are_remembered_are_counted_and_cost_no_other() {
    let bad: Vec<usize> = (0..refused::REFUSED_MAX + 10).collect();
    let (server, told) = (wide(1_200, &bad), Told::default());
    let mut reading = Reading::new("{job=\"x\"}");
    for n in 1..4 {
        let span = ReadSpan { after_ms: (n - 1) * 60_000, to_ms: n * 60_000 };
        let mut names = 0;
        let done = reading.read(&server, &told, span, &mut |all| {
            names += all.len();
            Ok(())
        });
        done.unwrap();
        assert_eq!(names, 1_200 - bad.len());
    }
    assert_eq!(told.full.get(), 3);
    assert_eq!(reading.refused.names().len(), refused::REFUSED_MAX);
}

#[test]
fn chunks_end_at_multiples() {
    let chunk = |after_ms, to_ms| ReadSpan { after_ms, to_ms }.chunk(10).to_ms;
    assert_eq!(
        [chunk(-1, 100), chunk(0, 100), chunk(9, 100), chunk(10, 100), chunk(10, 13), chunk(-11, 5)],
        [0, 10, 10, 20, 13, -10]
    );
}
