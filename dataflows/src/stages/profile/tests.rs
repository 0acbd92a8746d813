//! Rings against plain maps, restarts against none, and series of known kinds.

use std::collections::BTreeMap;

use super::ring::{QuarterRing, StepRing, WINDOW_STEPS, span_of};
use super::sliding::WindowEnds;
use super::*;
use crate::kernels::shapes::Random;
use crate::rows::SeriesProfile;
use crate::rows::verdicts::{ProfileChange, ProfileStatus, Verdict};
use crate::settings::{Model, SeriesOptions, Transform};
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
        class: SeriesClass::default(),
    }
}

fn value(slot: u32, step: i64, value: f64) -> SeriesStep {
    SeriesStep { slot, event: StepEvent::Value { step, value } }
}

/// Something is set for one of three series.
fn any_class(random: &mut Random) -> ClassChange {
    let options = SeriesOptions {
        transform: Transform::Auto,
        period_ms: [0, 3_600_000, 8 * 3_600_000][random.below(3)],
        model: [Model::Additive, Model::Multiplicative][random.below(2)],
        ..SeriesOptions::default()
    };
    let of = random.below(3) as u32;
    ClassChange { slot: of, series: SeriesId(0), class: SeriesClass { kind: None, options } }
}

/// The same profiles, from a chain that they are saved to.
fn through_bytes(
    mut profiles: Profiles,
    settings: &Arc<Settings>,
    live: &[(u32, SeriesId)],
    sealed: &mut Vec<Vec<u8>>,
) -> Profiles {
    let at = SavePoint { chain: 0, whole: sealed.is_empty() || !profiles.continues(0) };
    if at.whole {
        sealed.clear();
    }
    let mut part = profiles.begin_save(at, live.len());
    let slots: Vec<u32> = live.iter().map(|(slot, _)| *slot).collect();
    while profiles.save_some(&mut part, at, &slots, 2) == Progress::More {}
    sealed.push(part.sealed.0);
    let reader = PartReader {
        shard: 0,
        slots: live.len(),
        live,
        state: StateReader(&part.state.0),
        sealed: sealed.iter().map(|bytes| StateReader(bytes)).collect(),
    };
    Profiles::load(settings, reader).unwrap()
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
        for part in events.chunks(1 + random.below(400)) {
            if random.below(4) == 0 {
                let mut others = Settings::clone(&settings);
                // Never less than what the feed has late samples for.
                others.allowed_lateness_ms = [3, 6, 12][random.below(3)] * 3_600_000;
                others.profile.season_days = [1, 4, 7][random.below(3)];
                others.profile.enabled = random.below(8) > 0;
                others.profile.every_ms = [1, 5, 10][random.below(3)] * STEP_MS;
                others.profile.publish_every_ms = [10, 60, 120][random.below(3)] * STEP_MS;
                settings = Arc::new(others);
                for profiles in [&mut whole, &mut restarted] {
                    profiles.reconfigure(&settings, &AdmittedBatch::default());
                }
            }
            if random.below(4) == 0 {
                let change = any_class(&mut random);
                [&mut whole, &mut restarted].into_iter().for_each(|profiles| profiles.reclassify(&change));
            }
            let (mut want, mut got) = (Rows::default(), Rows::default());
            whole.observe_steps(part, &mut want);
            restarted.observe_steps(part, &mut got);
            assert_eq!(got, want, "seed {seed}");
            all_rows += want.profiles.len();
            if random.below(3) == 0 {
                restarted = through_bytes(restarted, &settings, &live, &mut sealed);
            }
        }
        for n in 0..3_usize {
            let row =
                |profiles: &Profiles| profiles.series[n].now(&mut Evaluator::default()).map(|(row, _)| row);
            assert_eq!(row(&restarted), row(&whole), "seed {seed}");
            let quarters = |profiles: &Profiles| {
                let mut means = Vec::new();
                profiles.series[n].quarters.means(&mut means);
                means.iter().map(|mean| mean.to_bits()).collect::<Vec<_>>()
            };
            assert_eq!(quarters(&restarted), quarters(&whole), "seed {seed}");
        }
    }
    assert!(all_rows > 1_000, "{all_rows} rows");
}

/// Steps whose level, unit and size change now and then, with gaps of all lengths.
struct Fickle {
    step: i64,
    kind: usize,
    level: f64,
    total: f64,
}

impl Fickle {
    fn next(&mut self, random: &mut Random) -> (i64, f64) {
        self.step += 1 + match random.below(400) {
            0 => random.below(300) as i64,
            1..20 => random.below(4) as i64,
            _ => 0,
        };
        if random.below(700) == 0 {
            (self.kind, self.level) = (random.below(6), [0.0, 100.0, -3.0, 4e10][random.below(4)]);
        }
        self.total += random.unit();
        let value = match self.kind {
            0 => self.level + random.unit(),
            1 => self.level + random.below(9) as f64,
            2 => self.level,
            3 => self.total,
            4 => self.level + self.step as f64 / 3.0 + random.unit(),
            _ => random.unit() * if random.below(200) == 0 { 1e9 } else { 1.0 },
        };
        // Once in days one that has no unit in common with any other.
        (self.step, if random.below(30_000) == 0 { f64::INFINITY } else { value })
    }
}

/// Rows of sums that moved are those of the same window from scratch, to the bit: with late samples as old as the window, other
/// units, gaps, and a load in between.
#[test]
fn sums_that_move_are_those_from_scratch() {
    let (mut moved, mut anew, mut rows) = (0, 0, 0);
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let settings = cadences([1, 5, 10][random.below(3)], 1);
        let mut profiles = Profiles::new(&settings);
        profiles.assign(&slot(0));
        let (live, mut sealed) = ([(0, slot(0).series)], Vec::new());
        let mut series = Fickle { step: FIRST, kind: random.below(6), level: 100.0, total: 0.0 };
        let mut room = Evaluator::default();
        for _ in 0..2_500 {
            let (step, steps) = series.next(&mut random);
            let late = if random.below(80) == 0 {
                let newest = profiles.series[0].steps.newest;
                let back = [random.below(6) as i64, WINDOW_STEPS - 1, random.below(1_440) as i64];
                (newest != NEVER).then(|| newest - back[random.below(3)])
            } else {
                None
            };
            let (before, mut out) = (profiles.series[0].sliding.clone(), Rows::default());
            match late {
                Some(late) => profiles.observe_steps(&[value(0, late, steps + 0.25)], &mut out),
                None => profiles.observe_steps(&[value(0, step, steps)], &mut out),
            }
            for row in &out.profiles {
                let state = &profiles.series[0];
                assert_eq!(Some(row), state.now(&mut room).map(|(row, _)| row).as_ref(), "seed {seed}");
                let from_before = before.clone().and_then(|mut before| {
                    before.slide(&state.steps, &mut WindowEnds::default()).map(|()| before.sums)
                });
                let now = state.sliding.as_ref().map(|sliding| &sliding.sums);
                if from_before.is_some() && late.is_none() {
                    assert_eq!(from_before.as_ref(), now, "seed {seed}");
                    moved += 1;
                } else {
                    anew += 1;
                }
                rows += 1;
            }
            if random.below(300) == 0 {
                profiles = through_bytes(profiles, &settings, &live, &mut sealed);
            }
        }
    }
    assert!(moved > rows / 3 && anew > 1_000, "{moved} moved, {anew} anew of {rows}");
}

/// The last profile of some days of a series.
fn last_of(series: impl Fn(i64, &mut Random) -> f64, days: i64) -> SeriesProfile {
    last_with(SeriesOptions::default(), series, days)
}

/// The same of a series for which something is set.
fn last_with(options: SeriesOptions, series: impl Fn(i64, &mut Random) -> f64, days: i64) -> SeriesProfile {
    let mut profiles = Profiles::new(&settings());
    profiles.assign(&SlotAssignment { class: SeriesClass { kind: None, options }, ..slot(0) });
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

/// A period that is set is measured, whatever else there is; and with a product where it is one.
#[test]
fn a_season_that_is_set_is_measured_and_not_looked_for() {
    const HOUR_MS: i64 = 3_600_000;
    let turn = |step: i64, period: f64| (std::f64::consts::TAU * step as f64 / period).sin();
    let with = |period_ms, model| SeriesOptions { period_ms, model, ..SeriesOptions::default() };
    let hourly = |step: i64, random: &mut Random| 100.0 + 5.0 * turn(step, 60.0) + random.unit();
    let asked = last_with(with(HOUR_MS, Model::Additive), hourly, 1);
    let found = last_of(hourly, 1);
    assert_eq!((asked.period_seconds, asked.seasonal), (3_600, Verdict::Yes), "{asked:?}");
    assert_eq!(asked.seasonal_strength.to_bits(), found.seasonal_strength.to_bits());
    // One that is not there: its strength says so.
    let other = last_with(with(35 * 60_000, Model::Additive), hourly, 1);
    assert_eq!((other.period_seconds, other.seasonal), (2_100, Verdict::No), "{other:?}");
    assert!(other.seasonal_strength < 0.3, "{other:?}");
    // Of quarters of an hour, once three of it are held: 8 hours has them after a day, and 32 after four.
    let short = |step: i64, random: &mut Random| 100.0 + 5.0 * turn(step, 480.0) + random.unit();
    let short = last_with(with(8 * HOUR_MS, Model::Additive), short, 1);
    assert_eq!((short.period_seconds, short.seasonal), (28_800, Verdict::Yes), "{short:?}");
    let long = |step: i64, random: &mut Random| 100.0 + 5.0 * turn(step, 1_920.0) + random.unit();
    assert_eq!(last_with(with(32 * HOUR_MS, Model::Additive), long, 1).period_seconds, 0);
    let long = last_with(with(32 * HOUR_MS, Model::Additive), long, 4);
    assert_eq!((long.period_seconds, long.seasonal), (115_200, Verdict::Yes), "{long:?}");
    // Three of a season that is none are about half alike.
    let noise = last_with(with(32 * HOUR_MS, Model::Additive), |_, random| random.unit(), 4);
    assert!((0.4..0.6).contains(&noise.seasonal_strength), "{noise:?}");
    // Growth by a factor of 200 a day: what the hour adds is always a half of it.
    let product = |step: i64, random: &mut Random| {
        (step as f64 / 270.0).exp() * (1.5 + 0.5 * turn(step, 60.0)) * (1.0 + 0.02 * random.unit())
    };
    let [sum, times] =
        [Model::Additive, Model::Multiplicative].map(|m| last_with(with(HOUR_MS, m), product, 1));
    assert!(times.seasonal_strength > 0.97, "{times:?}");
    assert!(sum.seasonal_strength < times.seasonal_strength - 0.1, "{sum:?}");
    // What may be 0 or below is no product.
    let signed = |step: i64, random: &mut Random| 5.0 * turn(step, 60.0) + random.unit();
    let [sum, times] =
        [Model::Additive, Model::Multiplicative].map(|m| last_with(with(HOUR_MS, m), signed, 1));
    assert_eq!(sum, times);
}

/// What is set later holds from the next evaluation on, and what was found before counts no more.
#[test]
fn a_season_that_is_set_later_is_measured_at_the_next_evaluation() {
    let mut profiles = Profiles::new(&cadences(5, 5));
    profiles.assign(&slot(0));
    let (mut random, mut periods) = (Random::new(8), Vec::new());
    for step in 0..WINDOW_STEPS + 100 {
        let period_ms = match step {
            1_440 => Some(1_800_000),
            1_480 => Some(0),
            _ => None,
        };
        if let Some(period_ms) = period_ms {
            let options = SeriesOptions { period_ms, ..SeriesOptions::default() };
            let class = SeriesClass { kind: None, options };
            profiles.reclassify(&ClassChange { slot: 0, series: SeriesId(0), class });
        }
        let hourly = 10.0 * (std::f64::consts::TAU * step as f64 / 60.0).sin() + random.unit();
        let mut out = Rows::default();
        profiles.observe_steps(&[value(0, FIRST + step, hourly)], &mut out);
        periods.extend(out.profiles.iter().map(|row| (step, row.period_seconds)));
    }
    let at = |step: i64| periods.iter().rev().find(|(at, _)| *at < step).unwrap().1;
    assert_eq!([at(1_440), at(1_480), at(1_540)], [3_600, 1_800, 3_600], "{periods:?}");
}

/// A day of noise, then a day of a walk: events say so, each with the row of the evaluation that confirmed it.
#[test]
fn a_change_of_kind_is_an_event_once_it_was_found_again() {
    let mut profiles = Profiles::new(&settings());
    profiles.assign(&slot(0));
    let (mut random, mut walk, mut out) = (Random::new(11), 0.0, Rows::default());
    for step in 0..2 * WINDOW_STEPS {
        let noise = random.unit();
        walk = if step < WINDOW_STEPS { noise } else { walk + noise };
        profiles.observe_steps(&[value(0, FIRST + step, walk)], &mut out);
    }
    let of = |change| -> Vec<(Verdict, Verdict)> {
        let of = out.events.iter().filter(|event| event.change == change);
        of.map(|event| (event.from, event.to)).collect()
    };
    // Between the two its verdict may be the one or the other; each event goes on from the one before.
    let stationary = of(ProfileChange::Stationary);
    assert_eq!((stationary[0].0, stationary.last().unwrap().1), (Verdict::Yes, Verdict::No));
    assert!(
        stationary.windows(2).all(|pair| pair[0].1 == pair[1].0) && stationary.len() < 6,
        "{stationary:?}"
    );
    assert_eq!(of(ProfileChange::Autocorrelated), [(Verdict::No, Verdict::Yes)]);
    assert!(of(ProfileChange::Seasonal).is_empty(), "{:?}", out.events);
    for event in &out.events {
        assert!(event.at_ms > (FIRST + WINDOW_STEPS) * STEP_MS, "{event:?}");
        let row = out.profiles.iter().find(|row| row.at_ms == event.at_ms).expect("its row goes out with it");
        let verdicts = [row.stationary, row.seasonal, row.autocorrelated];
        assert_eq!(verdicts[event.change as usize - 1], event.to);
    }
    let last = out.profiles.last().unwrap();
    assert_eq!((last.stationary, last.autocorrelated), (Verdict::No, Verdict::Yes));
}

/// Settings with these cadences, in steps.
fn cadences(every: i64, publish: i64) -> Arc<Settings> {
    let mut settings = Settings::clone(&settings());
    settings.profile.every_ms = every * STEP_MS;
    settings.profile.publish_every_ms = publish * STEP_MS;
    Arc::new(settings)
}

#[test]
fn longer_cadences_go_on_from_shorter_ones() {
    let mut profiles = Profiles::new(&cadences(5, 60));
    profiles.assign(&slot(0));
    let (mut random, mut rows) = (Random::new(3), Vec::new());
    for step in 0..3_000 {
        if step == 1_500 {
            profiles.reconfigure(&cadences(10, 120), &AdmittedBatch::default());
        }
        let mut out = Rows::default();
        profiles.observe_steps(&[value(0, FIRST + step, random.unit())], &mut out);
        rows.extend(out.profiles.iter().map(|row| row.at_ms / STEP_MS - FIRST));
    }
    let gaps: Vec<i64> = rows.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap <= 130), "{gaps:?}");
    assert!(rows.last() > Some(&2_860), "{rows:?}");
}

/// At the end of an outage the load is as flat as before it, and every series is soon evaluated.
#[test]
fn the_end_of_an_outage_is_no_burst() {
    const SERIES: u32 = 300;
    let mut profiles = Profiles::new(&cadences(5, 5));
    let mut random = Random::new(9);
    for n in 0..SERIES {
        let series = SeriesId(u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        profiles.assign(&SlotAssignment { slot: n, series, ..slot(0) });
    }
    let mut seen = std::collections::BTreeSet::new();
    for step in (0..70).chain(90..100) {
        let steps: Vec<SeriesStep> = (0..SERIES).map(|n| value(n, FIRST + step, random.unit())).collect();
        let mut out = Rows::default();
        profiles.observe_steps(&steps, &mut out);
        if step > 60 {
            assert!(out.profiles.len() < SERIES as usize / 3, "{} at step {step}", out.profiles.len());
        }
        if step >= 90 {
            seen.extend(out.profiles.iter().map(|row| row.series));
        }
    }
    assert_eq!(seen.len(), SERIES as usize, "each within ten minutes");
}

/// Silence of more than twelve hours ends what is known of a series, as the loss of its slot does; less does not.
#[test]
fn a_series_that_was_long_silent_begins_anew() {
    let after = |silence: i64| {
        let mut profiles = Profiles::new(&cadences(5, 5));
        profiles.assign(&slot(0));
        let (mut random, mut out) = (Random::new(4), Rows::default());
        for step in (0..WINDOW_STEPS).chain((0..100).map(|step| WINDOW_STEPS + silence + step)) {
            profiles.observe_steps(&[value(0, FIRST + step, random.unit())], &mut out);
        }
        out.profiles.pop().unwrap()
    };
    let (short, long) = (after(700), after(730));
    assert!(short.steps > 700 && short.gap_ratio > 0.4, "{short:?}");
    assert!(long.steps <= 100 && long.gap_ratio == 0.0 && long.seasonal == Verdict::Unknown, "{long:?}");
}
