//! One server, killed and started again: what was answered 2xx is never lost, and what was computed stays the same.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tidewatch::labels::series_id;
use tidewatch_dataflows::sample::Samples;
use tidewatch_dataflows::settings::{self, Settings};

use crate::oracle::feed::OFTEN;
use crate::oracle::{Model, same_row};
use crate::support::eventually;
use crate::support::process::{Tidewatch, done};
use crate::support::remote_write::WriteRequest;
use crate::support::stored::{self, Rerun};
use crate::support::windows::{self, Window};

const WINDOWS: [Window; 2] = [("10s", 10_000, 5_000), ("1m", 60_000, 10_000)];

const CONFIG: &str = "
windows: [{length: 10s, hop: 5s}, {length: 1m, hop: 10s}]
idle_timeout: 5s
snapshots: {every: 1s}
profile: {every: 1m, publish_every: 3m}
";

/// Times long past, so that windows close by the samples alone and by no clock.
pub const START_MS: i64 = 1_767_225_600_000;

/// Sends the samples of a series from index `from` to `to`, one a second, and expects them to be taken.
fn send(tidewatch: &Tidewatch, from: i64, to: i64) {
    let samples: Vec<(i64, f64)> = (from..to).map(|i| (START_MS + i * 1_000, (i * i % 37) as f64)).collect();
    let request = WriteRequest::default().series(&[("__name__", "test_total"), ("job", "kill")], &samples);
    let answer = request.send(&tidewatch.url("/api/v1/write")).unwrap();
    assert!((200..300).contains(&answer.status), "{answer:?}");
}

/// The rows of the series now, after a check that they are what samples 0 to `to` give.
fn rows(tidewatch: &Tidewatch, to: i64) -> Vec<Value> {
    let samples: Vec<(i64, f64)> = (0..to).map(|i| (START_MS + i * 1_000, (i * i % 37) as f64)).collect();
    let (start, end) = (START_MS / 1_000 - 60, START_MS / 1_000 + to + 60);
    let range = [("match[]", "test_total"), ("start", &start.to_string()), ("end", &end.to_string())];
    let rows = tidewatch.rows("/api/v1/windows", &range);
    for window in WINDOWS {
        let of_window = rows.iter().filter(|row| row["window"] == window.0);
        let times: Vec<i64> = of_window.clone().map(|row| row["at_ms"].as_i64().unwrap()).collect();
        assert_eq!(times, windows::times(&samples, window), "{window:?}");
        for row in of_window {
            let different = windows::differences(row, &samples, window.1);
            assert!(different.is_empty(), "{different:?} in {row}");
        }
    }
    rows
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_changes() {
    let mut tidewatch = Tidewatch::start(CONFIG);
    send(&tidewatch, 0, 100);
    tidewatch.process().kill();
    // Ready means that the store holds every epoch the journal held at start.
    tidewatch.start_again();
    let before = rows(&tidewatch, 100);
    assert!(!before.is_empty());

    send(&tidewatch, 100, 200);
    // A sender that saw no answer sends again.
    send(&tidewatch, 100, 200);
    tidewatch.process().kill();
    tidewatch.start_again();
    let after = rows(&tidewatch, 200);
    let known = |row: &&Value| before.contains(row);
    assert_eq!(after.iter().filter(known).count(), before.len(), "a published row changed");

    let status = tidewatch.process().terminate();
    assert_eq!(status.code(), Some(0), "{}", tidewatch.process().log_tail());
    tidewatch.start_again();
    assert_eq!(rows(&tidewatch, 200), after);
}

/// One who sends: its own series, and one that another sends as well.
pub struct Sender {
    rng: fastrand::Rng,
    /// Labels, and the ticks not sent yet, in order; some were held back and come late.
    series: Vec<(String, Vec<i64>)>,
    /// Answered 2xx.
    pub acknowledged: BTreeSet<(u64, i64)>,
    /// Sent, whatever became of it.
    pub sent: BTreeSet<(u64, i64)>,
    /// Not answered, to be sent again as it was.
    unanswered: Option<Sent>,
}

/// A request and the series and times in it.
type Sent = (WriteRequest, Vec<(u64, i64)>);

/// The value of a sample depends on its series and time alone, so that it is the same whoever sends it how often.
pub fn value(series: u64, at_ms: i64) -> f64 {
    let mixed = (series ^ at_ms as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    mixed as f64 / 8.0
}

fn labels(name: &str) -> [(&str, &str); 2] {
    [("__name__", name), ("job", "kill")]
}

/// Between two samples of a series: a second, or so long that hours of it come, and its profiles with them.
pub fn tick_ms(name: &str) -> i64 {
    if name.starts_with("hours_") { 30_000 } else { 1_000 }
}

impl Sender {
    pub fn new(seed: u64, names: impl IntoIterator<Item = String>) -> Sender {
        let series = names.into_iter().map(|name| (name, (0..TICKS).rev().collect()));
        Sender {
            rng: fastrand::Rng::with_seed(seed),
            series: series.collect(),
            acknowledged: BTreeSet::new(),
            sent: BTreeSet::new(),
            unanswered: None,
        }
    }

    /// Requests until all samples are sent, about.
    pub fn left(&self) -> usize {
        self.series.iter().map(|(_, left)| left.len()).max().unwrap_or(0) / 4
    }

    /// Sends one request; whether it was taken. What was not is sent again as it was, or not.
    pub fn send(&mut self, url: &str) -> bool {
        let (request, holds) = self.unanswered.take().unwrap_or_else(|| self.next());
        self.sent.extend(&holds);
        let answer = request.send(url);
        if answer.as_ref().is_ok_and(|answer| (200..300).contains(&answer.status)) {
            self.acknowledged.extend(&holds);
            return true;
        }
        // Nobody there, or the connection broke; or one that is told to die says that it closes.
        assert!(answer.as_ref().map_or(true, |answer| answer.status == 503), "{answer:?}");
        self.unanswered = self.rng.bool().then_some((request, holds));
        false
    }

    /// The next samples of some series, without those that will be late, and with some that were sent before.
    fn next(&mut self) -> Sent {
        let rng = &mut self.rng;
        let (mut request, mut holds) = (WriteRequest::default(), Vec::new());
        for (name, left) in &mut self.series {
            if rng.u8(0..4) == 0 {
                continue;
            }
            let (series, tick_ms) = (series_id(&labels(name)), tick_ms(name));
            let at = |tick: i64| START_MS + tick * tick_ms;
            let mut ticks: Vec<i64> = (0..rng.usize(1..8)).filter_map(|_| left.pop()).collect();
            let before = self.sent.range((series.0, i64::MIN)..=(series.0, i64::MAX)).next_back();
            let newest = ticks.iter().map(|tick| at(*tick)).chain(before.map(|(_, at)| *at)).max();
            let newest = newest.unwrap_or(START_MS);
            // Of those that last for hours nothing may be later than lateness: so many ticks are ten minutes at most.
            let (late_max, places) = if tick_ms > 1_000 { (4, 8) } else { (TICKS, 60) };
            // Some wait for a later request, some come a second time.
            for held in 0..ticks.len() / 3 {
                let tick = ticks.swap_remove(rng.usize(0..ticks.len()));
                if newest - at(tick) > late_max * tick_ms {
                    ticks.push(tick);
                    continue;
                }
                let place = left.len().saturating_sub(rng.usize(1..places) + held);
                left.insert(place, tick);
            }
            let oldest = newest - 3 * late_max * tick_ms;
            let known: Vec<i64> =
                self.sent.range((series.0, oldest)..=(series.0, i64::MAX)).map(|(_, at)| *at).collect();
            let again = (0..ticks.len() / 2).filter_map(|_| rng.choice(&known).copied());
            let mut at_ms: Vec<i64> = again.collect();
            at_ms.extend(ticks.iter().map(|tick| at(*tick)));
            rng.shuffle(&mut at_ms);
            let samples: Vec<(i64, f64)> = at_ms.iter().map(|at| (*at, value(series.0, *at))).collect();
            request = request.series(&labels(name), &samples);
            holds.extend(at_ms.into_iter().map(|at| (series.0, at)));
        }
        (request, holds)
    }
}

/// Samples of each series: of those a second apart nothing is ever too old.
pub const TICKS: i64 = 550;

pub fn settings() -> Settings {
    let second = |length: i64, hop: i64| settings::Window { length_ms: length * 1_000, hop_ms: hop * 1_000 };
    let settings = Settings {
        windows: vec![second(10, 5), second(60, 10)],
        idle_timeout_ms: 5_000,
        profile: OFTEN,
        ..Settings::default()
    };
    settings.validated().unwrap()
}

#[test]
fn whatever_the_moment_of_a_kill_rows_are_those_of_an_undisturbed_run() {
    for seed in 0..crate::rounds(2) {
        println!("seed {seed}");
        kill_again_and_again(seed ^ 0x51D0);
    }
}

fn kill_again_and_again(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut tidewatch = Tidewatch::start(&format!("{CONFIG}workers: 1\n"));
    let mut senders = [
        Sender::new(seed + 1, ["a_total", "b", "both", "hours_a_total", "hours_b"].map(str::to_owned)),
        Sender::new(seed + 2, ["c_total", "d", "both", "hours_c_total", "hours_d"].map(str::to_owned)),
    ];
    for round in 0..7 {
        kill_while_sending(&mut tidewatch, &mut senders, &mut rng);
        // What was stored can be read without a server.
        done(tidewatch.folder(), &["export"], None);
        let workers = [2, 4, 1][round % 3];
        tidewatch.configure(&format!("{CONFIG}workers: {workers}\n"));
        if rng.u8(0..3) == 0 {
            tidewatch.start_and_kill(Duration::from_micros(rng.u64(0..300_000)));
        }
        tidewatch.start_again();
        if round % 3 == 1 {
            // The next start begins from snapshots.
            eventually("every shard is saved", Duration::from_secs(60), || {
                let saved = tidewatch.metric("tidewatch_snapshot_epoch");
                if saved > 0.0 { Ok(()) } else { Err("not yet".to_owned()) }
            });
        }
    }
    // One more of each, so that there is something after the last kill.
    let url = tidewatch.url("/api/v1/write");
    assert!(senders.iter_mut().all(|sender| sender.send(&url)), "{}", tidewatch.process().log_tail());
    let status = tidewatch.process().terminate();
    assert_eq!(status.code(), Some(0), "{}", tidewatch.process().log_tail());

    let data = tidewatch.folder().join("data");
    let journal = stored::samples(&data);
    let held: BTreeSet<(u64, i64)> =
        journal.series.iter().copied().zip(journal.at_ms.iter().copied()).collect();
    for sender in &senders {
        assert!(sender.acknowledged.len() > 100, "{} samples acknowledged", sender.acknowledged.len());
        let lost: Vec<_> = sender.acknowledged.difference(&held).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }
    let sent: BTreeSet<(u64, i64)> = senders.iter().flat_map(|sender| &sender.sent).copied().collect();
    assert!(held.is_subset(&sent), "nobody sent these: {:?}", held.difference(&sent).collect::<Vec<_>>());
    let mut samples = Samples::default();
    held.iter().for_each(|(series, at)| samples.push(*series, *at, value(*series, *at)));

    // The journal run again from its copy, undisturbed: the same epochs, the same rows, the same revisions.
    let what = format!("seed {seed}");
    let again = Rerun::of(&what, &format!("{CONFIG}workers: 3\n"), &data);
    let (crashed, (epochs, _)) = (stored::outbox(&data), stored::epochs(&data));
    let numbers: Vec<u64> = epochs.iter().map(|epoch| epoch.end.epoch).collect();
    assert_eq!(crashed.iter().map(|batch| batch.epoch).collect::<Vec<_>>(), numbers, "an epoch is missing");
    assert!(again.revised > 0, "nothing was late");
    println!("{} profile rows", again.profiles);
    assert!(again.profiles > 0, "no series has a profile");

    // And they are what the slow model makes of that journal, epoch by epoch.
    let mut model = Model::new(&settings());
    for (epoch, batch) in epochs.iter().zip(&crashed) {
        let want = model.epoch(epoch).lists.windows;
        assert_eq!(batch.windows.len(), want.len(), "{:?}", epoch.end);
        for (got, want) in batch.windows.iter().zip(&want) {
            assert!(same_row(got, want), "{:?}:\n got {got:?}\nwant {want:?}", epoch.end);
        }
        assert_eq!(batch.rejects, [], "only duplicates were sent");
    }

    tidewatch.start_again();
    let range = [("start", "2025-12-31T00:00:00Z"), ("end", "2026-01-02T00:00:00Z")];
    stored::check("after all kills", &settings(), &tidewatch.rows("/api/v1/windows", &range), &samples);
    assert_eq!(tidewatch.rows("/api/v1/profiles", &[]), again.stored, "{what}: stored profiles");
    let log = tidewatch.process().log();
    assert!(!log.contains("panicked"), "{log}");
}

/// Lets both send, and kills the server in the middle of it, after some answers and a moment.
fn kill_while_sending(tidewatch: &mut Tidewatch, senders: &mut [Sender; 2], rng: &mut fastrand::Rng) {
    let (url, stop) = (tidewatch.url("/api/v1/write"), AtomicBool::new(false));
    let (answered, answers) = mpsc::channel();
    std::thread::scope(|scope| {
        for sender in senders.iter_mut() {
            let (url, stop, answered) = (&url, &stop, answered.clone());
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && sender.send(url) {
                    answered.send(()).unwrap();
                }
            });
        }
        for _ in 0..rng.usize(1..50) {
            answers.recv_timeout(Duration::from_secs(300)).expect("an answer");
        }
        std::thread::sleep(Duration::from_micros(rng.u64(0..20_000)));
        tidewatch.process().kill();
        stop.store(true, Ordering::Relaxed);
    });
}
