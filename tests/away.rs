//! Nobody there: a sender that comes back with two hours of backlog, and a server that was away as long and is killed
//! again while it waits for its senders.
//!
//! Time is simulated; epochs are cut by the server's own rule ([`EpochCutter`], and once by a whole [`Journal`] with a
//! clock of ours). Every row equals the slow model's; beyond that the laws need no model: the windows are those of a
//! run without outage, a sender's outage costs a key at most one more row, a server's none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tidewatch::journal::{EpochCutter, EpochMode, Journal, JournalOptions, Record};
use tidewatch::metrics::Metrics;
use tidewatch_dataflows::rows::{ResultRow, WindowStats};
use tidewatch_dataflows::sample::{EpochEnd, Samples, SeriesId};
use tidewatch_dataflows::settings::Settings;

use crate::oracle::feed::{self, Arrival, START_MS};
use crate::oracle::{Epoch, Model, from_scratch, same_row};
use crate::rules::{Tactics, same_epoch};
use crate::support::Folder;

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
/// How long somebody is away.
const AWAY: i64 = 2 * HOUR;
const SCRAPES: [i64; 3] = [15 * SECOND, MINUTE, 5 * MINUTE];
const SPEEDS: [f64; 3] = [1.5, 5.0, 50.0];

type Key = (SeriesId, i64, i64);

/// What some series were scraped as, each at its own phase, from an hour before the outage until some time after the
/// backlog is drained.
struct Scraped {
    series: Vec<(u64, Vec<(i64, f64)>)>,
    /// When the outage begins.
    away: i64,
    speed: f64,
}

impl Scraped {
    fn new(rng: &mut fastrand::Rng, step_ms: i64, speed: f64) -> Scraped {
        let away = START_MS + HOUR + rng.i64(0..10 * MINUTE);
        let until = away + AWAY + (AWAY as f64 / (speed - 1.0)) as i64 + 30 * MINUTE;
        let series = feed::series(rng, 3);
        let series = series.iter().enumerate().map(|(n, id)| {
            let (counter, offset) = (n == 0, [0.0, 4e10, -7.5][n]);
            let phase = START_MS + rng.i64(0..step_ms);
            let mut level = 0.0;
            let samples = (0..).map(|i| phase + i * step_ms).take_while(|at| *at < until).map(|at| {
                level = if counter && rng.u8(0..200) == 0 { 0.0 } else { level + rng.f64() };
                (at, if counter { level } else { offset + (rng.f64() - 0.5) * 9.0 })
            });
            (id.0, samples.collect())
        });
        Scraped { series: series.collect(), away, speed }
    }

    fn samples(&self) -> Samples {
        let mut all = Samples::default();
        for (id, samples) in &self.series {
            samples.iter().for_each(|(at, value)| all.push(*id, *at, *value));
        }
        all
    }

    /// When each sample reaches a server that is there; with an outage it waits for the end of that and is then drained
    /// at so many times real time.
    fn arrivals(&self, outage: bool) -> Vec<Arrival> {
        let mut all = Vec::new();
        for (series, samples) in &self.series {
            all.extend(samples.iter().map(|(at_ms, value)| {
                let behind = (*at_ms - self.away) as f64 / self.speed;
                let drained = self.away + AWAY + behind as i64;
                let when_ms = if outage && *at_ms >= self.away { drained.max(*at_ms) } else { *at_ms };
                Arrival { when_ms, series: *series, at_ms: *at_ms, value: *value, bootstrap: 0 }
            }));
        }
        all.sort_by_key(|a| (a.when_ms, a.series));
        all
    }

    fn newest(&self) -> BTreeMap<u64, i64> {
        self.series.iter().map(|(id, samples)| (*id, samples[samples.len() - 1].0)).collect()
    }
}

/// The epochs that a server writes which is there from `lives[..].0` to `lives[..].1` and each time killed, not stopped:
/// what arrived since the last cut is in an epoch without an end, which the next life closes.
fn cut(settings: &Settings, arrivals: &[Arrival], lives: &[(i64, i64)], step_ms: i64) -> Vec<Epoch> {
    let (mut epochs, mut last, mut next): (Vec<Epoch>, Option<EpochEnd>, usize) = (Vec::new(), None, 0);
    let mut torn = Samples::default();
    for (from, to) in lives.iter().copied() {
        let mut cutter = EpochCutter::new(last, settings.idle_timeout_ms, settings.catch_up_ms, 1_000);
        if !torn.is_empty() {
            epochs.push((cutter.cut_at(from, i64::MIN, i64::MIN, false), std::mem::take(&mut torn)).into());
        }
        let mut now = from;
        while now < to {
            epochs.push((cutter.cut(now), arrived(arrivals, &mut next, now)).into());
            now += step_ms;
        }
        torn = arrived(arrivals, &mut next, to - 1);
        last = cutter.last();
    }
    epochs
}

/// What has arrived until `now` and was not taken before.
fn arrived(arrivals: &[Arrival], next: &mut usize, now: i64) -> Samples {
    let mut samples = Samples::default();
    while let Some(a) = arrivals.get(*next).filter(|a| a.when_ms <= now) {
        samples.push(a.series, a.at_ms, a.value);
        *next += 1;
    }
    samples
}

/// Every row of every key in the order it was emitted, each equal to the slow model's.
fn rows(what: &str, settings: &Settings, epochs: &[Epoch]) -> BTreeMap<Key, Vec<WindowStats>> {
    let (mut tactics, mut model) = (Tactics::new(settings), Model::new(settings));
    let mut rows: BTreeMap<Key, Vec<WindowStats>> = BTreeMap::new();
    for (n, epoch) in epochs.iter().enumerate() {
        let place = || format!("{what}, epoch {n} of {}, {:?}", epochs.len(), epoch.end);
        let out = same_epoch(&mut tactics, &mut model, epoch, &place);
        out.lists.windows.into_iter().for_each(|row| rows.entry(row.key()).or_default().push(row));
    }
    rows
}

/// Checks that the last row of each key before the newest sample of its series is what its samples give from scratch,
/// that no such key lacks, and that none has more than `rows_max` rows. Returns the most rows a key has.
fn check(
    what: &str,
    settings: &Settings,
    scraped: &Scraped,
    rows: &BTreeMap<Key, Vec<WindowStats>>,
    rows_max: usize,
) -> usize {
    let (want, newest) = (from_scratch(settings, &scraped.samples()), scraped.newest());
    for (key, want) in &want {
        let all = rows.get(key).unwrap_or_else(|| panic!("{what}: {key:?} was never answered"));
        let last = all[all.len() - 1];
        let want = WindowStats { revision: all.len() as u32 - 1, ..*want };
        assert!(same_row(&last, &want), "{what}:\n got {last:?}\nwant {want:?}");
        assert!(all.len() <= rows_max, "{what}: {} rows, at most {rows_max}: {all:?}", all.len());
    }
    let known = rows.iter().filter(|((id, _, at), _)| *at < newest[&id.0]);
    assert_eq!(known.count(), want.len(), "{what}: keys before the newest sample");
    rows.values().map(Vec::len).max().unwrap_or(0)
}

/// The last rows before each series' newest sample, to the bit, without revisions.
fn last_rows(scraped: &Scraped, rows: &BTreeMap<Key, Vec<WindowStats>>) -> Vec<(Key, [u64; 8])> {
    let newest = scraped.newest();
    let known = rows.iter().filter(|((id, _, at), _)| *at < newest[&id.0]);
    let bits = |row: &WindowStats| {
        let floats = [row.min, row.max, row.avg, row.std, row.first, row.last, row.increase];
        let mut all = [u64::from(row.count); 8];
        all.iter_mut().zip(floats).for_each(|(place, float)| *place = float.to_bits());
        all[7] = u64::from(row.count) << 32 | u64::from(row.span_ms);
        all
    };
    known.map(|(key, all)| (*key, bits(&all[all.len() - 1]))).collect()
}

fn each_pace(rounds: u64, mut test: impl FnMut(&str, &mut fastrand::Rng, i64, f64)) {
    for seed in 0..crate::rounds(rounds) {
        for step_ms in SCRAPES {
            for speed in SPEEDS {
                let what = format!("seed {seed}, scraped every {} s, drained at {speed}x", step_ms / SECOND);
                test(&what, &mut fastrand::Rng::with_seed(seed ^ 0xA3A7), step_ms, speed);
            }
        }
    }
}

#[test]
fn a_sender_that_was_away_costs_at_most_one_more_row_per_key() {
    let settings = Settings::default();
    each_pace(1, |what, rng, step_ms, speed| {
        let scraped = Scraped::new(rng, step_ms, speed);
        let run = |outage: bool| {
            let arrivals = scraped.arrivals(outage);
            let until = arrivals[arrivals.len() - 1].when_ms + 5 * SECOND;
            rows(what, &settings, &cut(&settings, &arrivals, &[(START_MS, until)], SECOND))
        };
        let (on_time, behind) = (run(false), run(true));
        let usual = check(what, &settings, &scraped, &on_time, 1);
        let most = check(what, &settings, &scraped, &behind, usual + 1);
        // Silence did close windows that the backlog then corrected: the bound is reached.
        assert_eq!(most, 2, "{what}");
        assert_eq!(last_rows(&scraped, &behind), last_rows(&scraped, &on_time), "{what}");
    });
}

#[test]
fn a_server_that_was_away_and_is_killed_while_it_waits_publishes_no_half_empty_window() {
    let settings = Settings::default();
    let mut half_empty = 0;
    each_pace(2, |what, rng, step_ms, speed| {
        let scraped = Scraped::new(rng, step_ms, speed);
        let arrivals = scraped.arrivals(true);
        let (back, until) = (scraped.away + AWAY, arrivals[arrivals.len() - 1].when_ms + 5 * SECOND);
        // Up to three kills within the wait; each time it is away for less or for more than the idle timeout.
        let mut lives = vec![(START_MS, scraped.away)];
        let mut from = back;
        for _ in 0..rng.usize(1..4) {
            let to = from + rng.i64(0..settings.catch_up_ms);
            lives.push((from, to));
            from = to
                + [rng.i64(1..settings.idle_timeout_ms), rng.i64(settings.idle_timeout_ms..90 * SECOND)]
                    [rng.usize(0..2)];
        }
        lives.push((from, until.max(from + MINUTE)));
        let what = format!(
            "{what}, lives {:?}",
            lives.iter().map(|(a, b)| (a - back, b - back)).collect::<Vec<_>>()
        );
        let mut epochs = cut(&settings, &arrivals, &lives, SECOND);
        check(&what, &settings, &scraped, &rows(&what, &settings, &epochs), 1);
        // Without the wait, or with one that a kill ends, the same feed has windows that are closed too early.
        epochs.iter_mut().for_each(|epoch| epoch.end.watermark_ms = epoch.end.processing_ms);
        half_empty += rows(&what, &settings, &epochs).values().filter(|all| all.len() > 1).count();
    });
    assert!(half_empty > 0, "this test must be able to see a half-empty window");
}

/// The same through a real journal on disk with a clock of ours: it alone decides what its records say.
#[test]
fn a_journal_that_finds_its_wait_cut_short_begins_it_anew() {
    let settings = Settings::default();
    for seed in 0..crate::rounds(2) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x10A7);
        let step_ms = [15 * SECOND, MINUTE][rng.usize(0..2)];
        let scraped = Scraped::new(&mut rng, step_ms, 50.0);
        let arrivals = scraped.arrivals(true);
        let back = scraped.away + AWAY;
        let killed = back + rng.i64(10 * SECOND..settings.catch_up_ms - 10 * SECOND);
        // So soon that processing time does not jump by more than the idle timeout: only the last end tells of the wait.
        let again = killed + rng.i64(SECOND..9 * SECOND);
        let until = arrivals[arrivals.len() - 1].when_ms + 20 * SECOND;
        let lives = [(START_MS, scraped.away), (back, killed), (again, until)];
        let what = format!(
            "seed {seed}, scraped every {} s, killed {} s after it was back, away for {} s",
            step_ms / SECOND,
            (killed - back) / SECOND,
            (again - killed) / SECOND
        );
        let folder = Folder::new("journal");
        let epochs = live(&folder, &settings, &arrivals, &lives, 10 * SECOND);
        let end_at =
            |at: i64| epochs.iter().map(|epoch| epoch.end).find(|end| end.processing_ms >= at).unwrap();
        assert!(end_at(back).watermark_ms < scraped.away + MINUTE, "{what}: it waits when it is back");
        let waited = end_at(again + settings.catch_up_ms - 10 * SECOND);
        assert!(waited.watermark_ms < scraped.away + MINUTE, "{what}: the wait begins anew: {waited:?}");
        let over = end_at(again + settings.catch_up_ms + 10 * SECOND);
        assert_eq!(over.watermark_ms, over.processing_ms, "{what}: the wait ends");
        check(&what, &settings, &scraped, &rows(&what, &settings, &epochs), 1);
    }
}

/// Runs a journal through its lives and reads back what it wrote. A life ends as if killed.
fn live(
    folder: &Folder,
    settings: &Settings,
    arrivals: &[Arrival],
    lives: &[(i64, i64)],
    step_ms: i64,
) -> Vec<Epoch> {
    let (clock, mut next) = (Arc::new(AtomicI64::new(0)), 0);
    let mut journal = None;
    for (from, to) in lives.iter().copied() {
        drop(journal.take());
        clock.store(from, Ordering::SeqCst);
        let hand = Arc::clone(&clock);
        let config = JournalOptions {
            clock: Arc::new(move || hand.load(Ordering::SeqCst)),
            ..JournalOptions::new(EpochMode::Live)
        };
        let nothing = Box::new(|| Ok(()));
        let opened =
            Journal::open(folder.path(), config, settings.clone(), nothing, Arc::new(Metrics::new()))
                .unwrap();
        let mut now = from;
        while now < to {
            // An epoch is over when the clock says so; a batch, also an empty one, makes the writer look at it.
            clock.store(now, Ordering::SeqCst);
            let synced = opened.try_append(arrived(arrivals, &mut next, now), "test").unwrap();
            synced.blocking_recv().unwrap().unwrap();
            now += step_ms;
        }
        journal = Some(opened);
    }
    // The last life is stopped, not killed, so that its last epoch has an end.
    let journal = journal.unwrap();
    journal.close().unwrap();
    let mut reader = journal.reader().unwrap();
    let (mut epochs, mut samples) = (Vec::new(), Samples::default());
    while let Some(record) = reader.next_ready().unwrap() {
        match record {
            Record::Samples(mut more) => samples.append(&mut more),
            Record::EpochEnd(end) => epochs.push((end, std::mem::take(&mut samples)).into()),
            Record::Settings(_) | Record::Control(_) | Record::Bootstraps(_) => {}
        }
    }
    epochs
}
