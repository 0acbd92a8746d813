//! A runner between a server and a journal that are made up: time passes when the server is asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tidewatch_dataflows::sample::{Control, Samples};
use tokio::sync::oneshot;

use super::*;
use crate::source::query::client::{QueryAnswer, QueryError, QuerySeries};
use crate::source::query::take::OVERLAP_MS;
use crate::source::{DurableFuture, IntakeRefusal};

const NOW: i64 = 1_700_000_000_000;
const HOUR: i64 = 3_600_000;
const STEP: i64 = 15_000;

#[derive(Clone, Debug, PartialEq)]
enum Event {
    Samples { bootstrap: u64, samples: Vec<(u64, i64)> },
    Control(Control),
}

/// Server, journal and clock.
struct World {
    now: AtomicI64,
    events: Mutex<Vec<Event>>,
    /// Offers that are refused first.
    refuse: AtomicUsize,
    /// Offers that were taken, or thrown away.
    offers: AtomicUsize,
    /// Which of them are thrown away.
    throw: fn(usize) -> bool,
    /// Whether nothing is taken from the first of these on.
    ends: bool,
    /// Questions until the runner is told to stop.
    questions: AtomicUsize,
    /// How long after its time a sample is visible.
    visible_ms: i64,
    /// How far the runner's clock is ahead of the server's, by how many questions are left.
    ahead_ms: fn(usize) -> i64,
    /// How long a look at the clock takes.
    look_ms: i64,
    /// At these times answers lack a series and say so.
    partial: std::ops::Range<i64>,
    stop: StopSignal,
}

impl World {
    fn new(questions: usize) -> World {
        World {
            now: AtomicI64::new(NOW),
            events: Mutex::default(),
            refuse: AtomicUsize::new(0),
            offers: AtomicUsize::new(0),
            throw: |_| false,
            ends: false,
            questions: AtomicUsize::new(questions),
            visible_ms: 20_000,
            ahead_ms: |_| 0,
            look_ms: 0,
            partial: 0..0,
            stop: StopSignal::default(),
        }
    }

    /// Runs a source until the questions are used up; what it did, and its status at the end.
    fn run(
        &self,
        config: &PrometheusSource,
        start: SourceStart,
        select: &[SelectConfig],
    ) -> (Vec<Event>, Value) {
        let removed = tempfile::tempdir().unwrap();
        let folder = removed.path();
        let metrics = Arc::new(Metrics::new());
        let labels = Labels::open(folder, crate::labels::Limits::default(), Arc::clone(&metrics)).unwrap();
        let chooser = Chooser::new(select.to_vec(), classify(select).unwrap());
        let taker = Taker::new(Arc::new(labels), Arc::clone(&metrics), chooser);
        let status = SourceStatus::new(config.url.to_string(), config.matching.clone());
        let runner = Runner {
            config,
            ask: self,
            log: self,
            stop: &self.stop,
            status: &status,
            metrics: &metrics,
            clock: &|| {
                self.now.fetch_add(self.look_ms, SeqCst) + (self.ahead_ms)(self.questions.load(SeqCst))
            },
            progress: folder.join("progress"),
        };
        let readings = config.matching.iter().map(|selector| Reading::new(selector)).collect();
        runner.run(start, taker, readings);
        let written = read_progress(&folder.join("progress"));
        let mut status = serde_json::to_value(status.report(self.now.load(SeqCst))).unwrap();
        status["written"] = written.into();
        (std::mem::take(&mut *self.events.lock()), status)
    }

    fn take(&self, event: Event) -> Result<DurableFuture, IntakeRefusal> {
        if self.refuse.load(SeqCst) > 0 {
            self.refuse.fetch_sub(1, SeqCst);
            return Err(IntakeRefusal {
                retry_after_seconds: 5,
                why: "the journal's queue is full".to_owned(),
            });
        }
        let (done, durable) = oneshot::channel();
        if (self.throw)(self.offers.fetch_add(1, SeqCst)) {
            done.send(Err("cannot write: no room".to_owned())).unwrap();
            return Ok(durable);
        }
        self.events.lock().push(event);
        done.send(Ok(())).unwrap();
        Ok(durable)
    }
}

impl SourceJournal for World {
    fn append(&self, samples: Samples, _: &'static str) -> Result<DurableFuture, IntakeRefusal> {
        let all = samples.series.iter().copied().zip(samples.at_ms.iter().copied()).collect();
        self.take(Event::Samples { bootstrap: samples.bootstrap, samples: all })
    }

    fn control(&self, control: Control) -> Result<DurableFuture, IntakeRefusal> {
        self.take(Event::Control(control))
    }

    fn epoch(&self) -> u64 {
        7
    }

    fn catching_up(&self) -> bool {
        false
    }

    fn ended(&self) -> bool {
        self.ends
    }
}

impl QueryPort for World {
    fn query(&self, promql: &str, at_ms: i64, _: Duration) -> Result<QueryAnswer, QueryError> {
        let now = self.now.fetch_add(1_000, SeqCst);
        if self.questions.fetch_sub(1, SeqCst) == 1 {
            self.stop.signal();
        }
        let range: i64 = promql.strip_suffix("ms]").unwrap().rsplit_once('[').unwrap().1.parse().unwrap();
        let series = |name: &str, offset: i64, value: fn(i64) -> f64| {
            let first = (at_ms - range).div_euclid(STEP) * STEP + offset;
            let times = (0..).map(|n| first + n * STEP).take_while(|at| *at <= at_ms);
            let visible = times.filter(|at| at_ms - range <= *at && *at + self.visible_ms <= now);
            let samples = visible.map(|at| (at, value(at))).collect();
            QuerySeries { labels: vec![("__name__".to_owned(), name.to_owned())], samples, histograms: 0 }
        };
        let mut all = vec![series("a", 0, |at| at as f64), series("same", 0, |_| 1.0)];
        let partial = self.partial.contains(&now).then(|| "a store is away".to_owned());
        match partial {
            // So that not every test waits for long.
            Some(_) => drop(self.now.fetch_add(150_000, SeqCst)),
            None => all.push(series("b", 7_000, |at| at as f64)),
        }
        Ok(QueryAnswer { series: all, partial })
    }

    fn alive(&self, _: i64) -> Result<(), QueryError> {
        Ok(())
    }

    fn names(&self, _: &str, _: i64, _: i64) -> Result<Vec<String>, QueryError> {
        Ok(vec![])
    }
}

fn config(bootstrap_ms: i64, poll_ms: i64) -> PrometheusSource {
    PrometheusSource {
        url: "http://h:1".parse().unwrap(),
        // The second gives the same series again.
        matching: vec!["{a=\"b\"}".to_owned(), "up".to_owned()],
        bootstrap_ms,
        chunk_ms: HOUR,
        poll_ms,
        http: Default::default(),
    }
}

fn start() -> SourceStart {
    SourceStart {
        identity: "me".to_owned(),
        bootstrap_id: 9,
        open: None,
        bootstrapped: false,
        read_to_ms: None,
        reach_ms: 12 * HOUR,
    }
}

fn bootstrap(id: u64, from_ms: i64) -> Bootstrap {
    Bootstrap { id, source: "me".to_owned(), from_ms, publish_from_ms: NOW }
}

/// The times of all samples by series, which have to ascend, and the bootstraps they belong to.
fn times(events: &[Event]) -> BTreeMap<u64, Vec<i64>> {
    let mut times: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    for event in events {
        if let Event::Samples { samples, .. } = event {
            for (series, at) in samples {
                times.entry(*series).or_default().push(*at);
            }
        }
    }
    for all in times.values() {
        assert!(all.is_sorted_by(|a, b| a < b), "twice, or not in order");
    }
    times
}

/// All samples in the order of time, each once.
fn once(events: Vec<Event>) -> Vec<Event> {
    let samples = events.into_iter().filter_map(|event| match event {
        Event::Samples { samples, .. } => Some(samples),
        Event::Control(_) => None,
    });
    let mut samples: Vec<_> = samples.flatten().collect();
    samples.sort_unstable();
    samples.dedup();
    vec![Event::Samples { bootstrap: 0, samples }]
}

/// Every sample of these series from `from_ms` on came, but the last few, which may not have been visible.
fn nothing_is_missing(events: &[Event], series: usize, from_ms: i64, now_ms: i64) {
    let times = times(events);
    assert_eq!(times.len(), series);
    for all in times.values() {
        assert!(all.windows(2).all(|two| two[1] - two[0] == STEP));
        assert!((from_ms..from_ms + STEP).contains(&all[0]), "{} {from_ms}", all[0]);
        assert!(all[all.len() - 1] > now_ms - 90_000, "{} {now_ms}", all[all.len() - 1]);
    }
}

#[test]
fn history_is_framed_and_polling_goes_on_without_a_gap() {
    let world = World::new(400);
    let (events, status) = world.run(&config(6 * HOUR, 1_000), start(), &[]);
    nothing_is_missing(&events, 3, NOW - 6 * HOUR, world.now.load(SeqCst));
    assert_eq!(events[0], Event::Control(Control::BootstrapBegin(bootstrap(9, NOW - 6 * HOUR))));
    let end = events
        .iter()
        .position(|event| *event == Event::Control(Control::BootstrapEnd { bootstrap: 9 }))
        .unwrap();
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Samples { bootstrap, samples } => {
                assert_eq!(*bootstrap, if at < end { 9 } else { 0 });
                assert!(samples.len() <= 4_096);
            }
            Event::Control(_) => assert!(at == 0 || at == end),
        }
    }
    assert_eq!(status["state"], "stopped");
    assert!(status["written"].as_i64().unwrap() > NOW, "{status}");
    assert_eq!(status["failing"], false);
}

#[test]
fn a_bootstrap_that_was_open_is_resumed_under_its_id() {
    let world = World::new(60);
    let open = Some(bootstrap(3, NOW - 2 * HOUR));
    let (events, _) = world.run(&config(HOUR, 1_000), SourceStart { open, ..start() }, &[]);
    nothing_is_missing(&events, 3, NOW - 2 * HOUR, world.now.load(SeqCst));
    assert!(matches!(&events[0], Event::Samples { bootstrap: 3, .. }), "it was begun before");
    assert!(events.contains(&Event::Control(Control::BootstrapEnd { bootstrap: 3 })));
}

#[test]
fn after_a_restart_polling_goes_on_where_it_was() {
    for (read_to, from) in [
        (Some(NOW - 2 * HOUR), NOW - 2 * HOUR - OVERLAP_MS),
        (Some(NOW - 50 * HOUR), NOW - 6 * HOUR),
        (None, NOW - OVERLAP_MS),
    ] {
        let world = World::new(60);
        let start = SourceStart { bootstrapped: true, read_to_ms: read_to, ..start() };
        let (events, _) = world.run(&config(6 * HOUR, 1_000), start, &[]);
        assert!(events.iter().all(|event| matches!(event, Event::Samples { bootstrap: 0, .. })));
        nothing_is_missing(&events, 3, from + 1, world.now.load(SeqCst));
    }
    // Without a bootstrap what was missed is fetched as far as windows reach.
    let world = World::new(60);
    let start = SourceStart { read_to_ms: Some(NOW - 50 * HOUR), ..start() };
    let (events, _) = world.run(&config(0, 1_000), start, &[]);
    nothing_is_missing(&events, 3, NOW - 12 * HOUR + 1, world.now.load(SeqCst));
}

#[test]
fn a_clock_that_was_ahead_for_a_while_costs_no_samples() {
    let ahead_ms = |left| if (20..60).contains(&left) { 2 * HOUR } else { 0 };
    let world = World { ahead_ms, look_ms: 5_000, ..World::new(100) };
    let start = SourceStart { bootstrapped: true, read_to_ms: Some(NOW), ..start() };
    let (events, _) = world.run(&config(6 * HOUR, 1), start, &[]);
    nothing_is_missing(&once(events), 3, NOW - OVERLAP_MS + 1, world.now.load(SeqCst));
}

#[test]
fn what_was_missed_comes_live_to_series_that_cannot_take_the_bootstrap() {
    let world = World::new(60);
    let start = SourceStart { read_to_ms: Some(NOW - HOUR), ..start() };
    let (mut events, _) = world.run(&config(6 * HOUR, 1_000), start, &[]);
    events.retain(|event| matches!(event, Event::Samples { bootstrap: 0, .. }));
    nothing_is_missing(&once(events), 3, NOW - HOUR - OVERLAP_MS + 1, world.now.load(SeqCst));
}

#[test]
fn what_was_partial_is_read_again_and_the_rest_goes_on_meanwhile() {
    let partial = NOW + 100_000..NOW + 3_000_000;
    let world = World { partial: partial.clone(), ..World::new(400) };
    let (events, status) = world.run(&config(HOUR, 1_000), start(), &[]);
    nothing_is_missing(&once(events), 3, NOW - HOUR, world.now.load(SeqCst));
    assert_eq!((&status["partial"], &status["failing"]), (&Value::Null, &Value::Bool(false)), "{status}");
    assert!(status["written"].as_i64().unwrap() > partial.end, "{status}");
    assert!(status["last_error"].as_str().unwrap().contains("partial: a store is away"), "{status}");
    assert_eq!(status["not_read_total"], 0, "{status}");
}

#[test]
fn a_bootstrap_of_partial_answers_ends_and_is_read_again_as_far_as_windows_reach() {
    let world = World { partial: NOW..NOW + 1_800_000, ..World::new(400) };
    let (events, status) = world.run(&config(HOUR, 1_000), start(), &[]);
    assert!(events.contains(&Event::Control(Control::BootstrapEnd { bootstrap: 9 })));
    let all = times(&once(events));
    let first = all.values().map(|times| times[0]).max().unwrap();
    assert!(all.len() == 3 && first < NOW - HOUR / 3, "{first}: the last hour of the third came later");
    assert_eq!(status["partial"], Value::Null, "{status}");
    assert_eq!(status["not_read"][0]["match"], "of partial answers", "the rest is told: {status}");
}

#[test]
fn a_server_that_stays_partial_is_read_and_what_is_read_stays_before_it() {
    let world = World { partial: NOW + 100_000..i64::MAX, ..World::new(120) };
    let (events, status) = world.run(&config(6 * HOUR, 1_000), start(), &[]);
    let now_ms = world.now.load(SeqCst);
    let newest = times(&once(events)).into_values().map(|times| times[times.len() - 1]).collect::<Vec<_>>();
    assert_eq!(newest.iter().filter(|at| **at > now_ms - 1_000_000).count(), 2, "those that come are taken");
    for read_to in [&status["written"], &status["read_to_ms"], &status["partial"]["from_ms"]] {
        assert!((NOW..NOW + 110_000).contains(&read_to.as_i64().unwrap()), "{status}");
    }
    assert!(status["behind_seconds"].is_null(), "it is stopped");
    assert!(status["partial"]["answers_taken"].as_u64().unwrap() > 10, "{status}");
    assert_eq!(status["partial"]["why"], "a store is away");
}

#[test]
fn without_polling_it_is_done_after_the_bootstrap() {
    let world = World::new(usize::MAX);
    let (events, status) = world.run(&config(HOUR, 0), start(), &[]);
    assert_eq!(events.last(), Some(&Event::Control(Control::BootstrapEnd { bootstrap: 9 })));
    assert_eq!(status["state"], "done");
    let (events, _) = world.run(&config(HOUR, 0), SourceStart { bootstrapped: true, ..start() }, &[]);
    assert_eq!(events, []);
}

#[test]
fn what_is_refused_is_offered_again() {
    let world = World::new(60);
    world.refuse.store(2, SeqCst);
    let (events, status) = world.run(&config(HOUR, 1_000), start(), &[]);
    nothing_is_missing(&events, 3, NOW - HOUR, world.now.load(SeqCst));
    assert_eq!(status["last_error"], "the journal's queue is full");
}

#[test]
fn what_the_journal_throws_away_is_sent_again_in_order() {
    let world = World { throw: |offer| matches!(offer, 0 | 2 | 4 | 5 | 7), ..World::new(60) };
    let (events, status) = world.run(&config(HOUR, 1_000), start(), &[]);
    assert_eq!(events[0], Event::Control(Control::BootstrapBegin(bootstrap(9, NOW - HOUR))));
    assert!(events.contains(&Event::Control(Control::BootstrapEnd { bootstrap: 9 })));
    nothing_is_missing(&events, 3, NOW - HOUR, world.now.load(SeqCst));
    assert_eq!(status["last_error"], "cannot write: no room");
    assert!(world.offers.load(SeqCst) > 8, "polling went on");
    // A journal that has failed is not asked again.
    let world = World { throw: |offer| offer >= 1, ends: true, ..World::new(60) };
    let (events, status) = world.run(&config(HOUR, 1_000), start(), &[]);
    assert_eq!((events.len(), &status["state"]), (1, &Value::from("stopped")));
}

#[test]
fn a_bootstrap_of_a_source_that_is_gone_is_ended_durably() {
    let world = World { throw: |offer| offer == 1, ..World::new(0) };
    end_bootstraps(&world, &world.stop, &[bootstrap(3, NOW), bootstrap(4, NOW)]);
    let want = [3, 4].map(|bootstrap| Event::Control(Control::BootstrapEnd { bootstrap }));
    assert_eq!(*world.events.lock(), want);
}

#[test]
fn what_select_leaves_out_is_not_taken() {
    let select = [SelectConfig {
        matching: "{__name__=~\"same|a|b\"}".to_owned(),
        drop_constant: true,
        sample: 1,
        options: Default::default(),
    }];
    let world = World::new(60);
    let (events, status) = world.run(&config(HOUR, 1_000), start(), &select);
    nothing_is_missing(&events, 1, NOW - HOUR, world.now.load(SeqCst));
    assert_eq!(status["series_left_out"], serde_json::json!({"constant": 1, "beyond_sample": 1}));
}

#[test]
fn a_pause_ends_when_told() {
    let stop = Arc::new(StopSignal::default());
    assert!(stop.pause(Duration::ZERO));
    let other = Arc::clone(&stop);
    let waits = std::thread::spawn(move || other.pause(Duration::from_secs(60)));
    stop.signal();
    assert!(!waits.join().unwrap());
    assert!(!stop.pause(Duration::ZERO));
}

#[test]
fn identities_tell_tenants_apart_and_hold_no_secret() {
    use crate::config::http::{Credential, HeaderValue, Secret};
    let mut sources = vec![config(0, 0); 5];
    sources[1].matching.reverse();
    sources[2].matching.pop();
    sources[3].http.http_headers = vec![("X-Scope-OrgID".to_owned(), HeaderValue::Plain("a".to_owned()))];
    let hidden = HeaderValue::Hidden(Credential::Text(Secret::new("hunter2")));
    sources[4].http.http_headers = vec![("x-token".to_owned(), hidden)];
    let all: Vec<String> = sources.iter().map(identity).collect();
    assert!(all[0].starts_with("prometheus http://h:1 "), "{}", all[0]);
    assert_eq!((&all[0], &all[0]), (&all[1], &all[4]));
    assert!(all[0] != all[2] && all[0] != all[3] && all[2] != all[3]);
}
