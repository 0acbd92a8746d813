//! Rings against plain maps, restarts against none, and series of known kinds.

use std::collections::BTreeMap;

use super::ring::{QuarterRing, StepRing, WINDOW_STEPS, span_of};
use super::*;
use crate::kernels::shapes::Random;
use crate::rows::SeriesProfile;
use crate::rows::verdicts::{ProfileStatus, Verdict};
use crate::snapshot::StateReader;

const FIRST: i64 = 28_333_333;

/// Steps with gaps, some of them late, and what of them is held.
fn feed(random: &mut Random, n: usize, mut take: impl FnMut(i64, f64)) -> BTreeMap<i64, f64> {
    let (mut step, mut all) = (FIRST, BTreeMap::new());
    for _ in 0..n {
        let value = [4e10 + random.unit(), random.below(9) as f64, 0.1][random.below(3)];
        if random.below(20) == 0 && all.len() > 5 {
            // Within allowed lateness, three hours.
            let late = step - random.below(180) as i64;
            all.insert(late, value);
            take(late, value);
        } else {
            let gap = if random.below(60) == 0 { [3, 90, 1_000, 4_000][random.below(4)] } else { 0 };
            step += 1 + gap as i64;
            all.insert(step, value);
            take(step, value);
        }
    }
    all
}

#[test]
fn a_ring_holds_the_window_and_the_means_of_its_quarters() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (mut ring, mut quarters) = (StepRing::EMPTY, QuarterRing::EMPTY);
        let n = 100 + random.below(2_500);
        let mut ended = Vec::new();
        let all = feed(&mut random, n, |step, value| {
            let is_newer = ring.newest == NEVER || step > ring.newest;
            let mean = if is_newer { ring.push(step, value) } else { ring.set(step, value) };
            if let Some((quarter, mean)) = mean {
                ended.push((quarter, mean));
                quarters.put((quarter, mean), 384);
            }
        });
        let newest = *all.keys().next_back().unwrap();
        let mut window = Vec::new();
        ring.window(&mut window);
        let first = newest - window.len() as i64 + 1;
        assert!(window.len() as i64 <= WINDOW_STEPS, "seed {seed}");
        // What was forgotten behind a long gap may be missing; nothing else.
        let gap = all.keys().zip(all.keys().skip(1)).any(|(a, b)| b - a > WINDOW_STEPS);
        for (step, value) in (first..).zip(&window) {
            let want = all.get(&step).copied().unwrap_or(f64::NAN);
            let same = value.to_bits() == want.to_bits() || (value.is_nan() && want.is_nan());
            assert!(same || (gap && value.is_nan()), "seed {seed}, step {step}: {value} {want}");
        }
        let last: BTreeMap<i64, f64> = ended.into_iter().collect();
        for (quarter, mean) in last.iter().rev().take(20) {
            let of = |all: &BTreeMap<i64, f64>| {
                let steps = all.iter().filter(|(step, _)| span_of(**step, 15) == *quarter);
                let values: Vec<f64> = steps.map(|(_, value)| *value).collect();
                values.iter().sum::<f64>() / values.len() as f64
            };
            assert!(gap || (mean - of(&all)).abs() <= 1e-4, "seed {seed}: {mean} {}", of(&all));
        }
        let mut means = Vec::new();
        quarters.means(&mut means);
        assert!(means.len() <= 384);
    }
}

fn settings() -> Arc<Settings> {
    Arc::new(Settings { allowed_lateness_ms: 3_600_000 * 3, ..Settings::default() }.validated().unwrap())
}

fn slot(slot: u32) -> SlotAssignment {
    SlotAssignment {
        slot,
        series: SeriesId(0x0BCD_1234_0000_0100 * u64::from(slot + 1)),
        withhold_ms: 0,
        kind: None,
    }
}

fn value(slot: u32, step: i64, value: f64) -> SeriesStep {
    SeriesStep { slot, event: StepEvent::Value { step, value } }
}

/// Through the bytes of a chain that is saved now and then, rows are those of a shard that is never restarted; also where
/// settings change in between.
#[test]
fn a_restart_shows_in_no_row() {
    let mut all_rows = 0;
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut settings = settings();
        let (mut whole, mut restarted) = (Profiles::new(&settings), Profiles::new(&settings));
        let live: Vec<(u32, SeriesId)> = (0..3).map(|n| (n, slot(n).series)).collect();
        for (n, _) in &live {
            whole.assign(&slot(*n));
            restarted.assign(&slot(*n));
        }
        let mut events: Vec<SeriesStep> = Vec::new();
        for n in 0..3 {
            feed(&mut random, 3_000, |step, value_of| events.push(value(n, step, value_of)));
        }
        let mut sealed: Vec<Vec<u8>> = Vec::new();
        let mut rows = 0;
        for part in events.chunks(1 + random.below(400)) {
            if random.below(4) == 0 {
                let mut others = Settings::clone(&settings);
                // Never less than what the feed has late samples for.
                others.allowed_lateness_ms = [3, 6, 12][random.below(3)] * 3_600_000;
                others.profile.season_days = [1, 4, 7][random.below(3)];
                others.profile.enabled = random.below(8) > 0;
                settings = Arc::new(others);
                for profiles in [&mut whole, &mut restarted] {
                    profiles.reconfigure(&settings, &AdmittedBatch::default());
                }
            }
            let (mut want, mut got) = (Rows::default(), Rows::default());
            whole.observe_steps(part, &mut want);
            restarted.observe_steps(part, &mut got);
            assert_eq!(got, want, "seed {seed}");
            rows += want.profiles.len();
            if random.below(3) == 0 {
                let at = SavePoint { chain: 0, whole: sealed.is_empty() || !restarted.continues(0) };
                if at.whole {
                    sealed.clear();
                }
                let mut part = restarted.begin_save(at, live.len());
                let slots: Vec<u32> = live.iter().map(|(slot, _)| *slot).collect();
                while restarted.save_some(&mut part, at, &slots, 2) == Progress::More {}
                sealed.push(part.sealed.0);
                let reader = PartReader {
                    shard: 0,
                    slots: 3,
                    live: &live,
                    state: StateReader(&part.state.0),
                    sealed: sealed.iter().map(|bytes| StateReader(bytes)).collect(),
                };
                restarted = Profiles::load(&settings, reader).unwrap();
            }
        }
        all_rows += rows;
        for n in 0..3_usize {
            let row = |profiles: &Profiles| profiles.series[n].now(&mut Evaluator::default());
            assert_eq!(row(&restarted), row(&whole), "seed {seed}");
        }
    }
    assert!(all_rows > 1_000, "{all_rows} rows");
}

/// The last profile of four days of a series.
fn last_of(series: impl Fn(i64, &mut Random) -> f64, days: i64) -> SeriesProfile {
    let mut profiles = Profiles::new(&settings());
    profiles.assign(&slot(0));
    let (mut random, mut out) = (Random::new(5), Rows::default());
    for step in 0..days * WINDOW_STEPS + 400 {
        let event = value(0, FIRST + step, series(step, &mut random));
        profiles.observe_steps(&[event], &mut out);
    }
    assert!(out.profiles.len() as i64 >= days * 24, "one an hour");
    out.profiles.pop().unwrap()
}

#[test]
fn series_of_known_kinds_are_told_apart() {
    let turn = |step: i64, period: f64| (std::f64::consts::TAU * step as f64 / period).sin();
    let noise = last_of(|_, random| 4e10 + random.unit(), 1);
    assert_eq!(
        (noise.stationary, noise.seasonal, noise.status),
        (Verdict::Yes, Verdict::No, ProfileStatus::Ok),
        "{noise:?}"
    );
    let walk = std::cell::Cell::new(0.0);
    let walk = last_of(
        |_, random| {
            walk.set(walk.get() + random.unit());
            walk.get()
        },
        1,
    );
    assert_eq!((walk.stationary, walk.autocorrelated), (Verdict::No, Verdict::Yes), "{walk:?}");
    let hourly = last_of(|step, random| 100.0 + 5.0 * turn(step, 60.0) + random.unit(), 1);
    assert_eq!((hourly.seasonal, hourly.period_seconds), (Verdict::Yes, 3_600), "{hourly:?}");
    let daily = last_of(|step, random| 100.0 + 5.0 * turn(step, 1_440.0) + random.unit(), 4);
    assert_eq!((daily.seasonal, daily.period_seconds), (Verdict::Yes, 86_400), "{daily:?}");
    let constant = last_of(|_, _| 7.0, 1);
    assert_eq!((constant.status, constant.stationary), (ProfileStatus::Constant, Verdict::Unknown));
    assert_eq!((constant.median_240, constant.mad_60), (7.0, 0.0));
}
