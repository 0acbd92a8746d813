//! The audit's bookkeeping against the gate itself: one shard of the real `Admit` is fed the same epochs.

use std::sync::Arc;

use tidewatch_dataflows::driver::EpochBatch;
use tidewatch_dataflows::sample::{Control, STALE_NAN_BITS, Samples};
use tidewatch_dataflows::settings::{ProfileSettings, Window};
use tidewatch_dataflows::shard::AdmittedBatch;
use tidewatch_dataflows::stage::Stage;
use tidewatch_dataflows::stages::admit::Admit;

use super::*;

const T0: i64 = 1_700_000_000_000;
const SERIES: u64 = 256;

fn settings(late_samples_max: u32) -> Settings {
    let window = |length: i64, hop: i64| Window { length_ms: length * 1_000, hop_ms: hop * 1_000 };
    Settings {
        windows: vec![window(20, 5), window(60, 10)],
        idle_timeout_ms: 5_000,
        allowed_lateness_ms: 30_000,
        catch_up_ms: 5_000,
        late_samples_max,
        // Profiles keep slots for half a day.
        profile: ProfileSettings { enabled: false, ..ProfileSettings::default() },
        ..Settings::default()
    }
}

/// The gate of one shard, and everything that it applied.
struct Gate {
    admit: Admit,
    epoch: u64,
    applied: Vec<(i64, u64)>,
}

impl Gate {
    fn new(settings: &Settings) -> Gate {
        Gate { admit: Admit::new(Arc::new(settings.clone())), epoch: 0, applied: Vec::new() }
    }

    fn feed(&mut self, samples: &Samples, controls: &[Arc<Control>], processing_ms: i64) -> EpochEnd {
        self.epoch += 1;
        let end =
            EpochEnd { epoch: self.epoch, processing_ms, watermark_ms: processing_ms, last_of_input: false };
        let mut out = AdmittedBatch::new(end);
        let epoch = EpochBatch { shard: 0, end, controls, bootstraps: &[], live: samples, save: None };
        self.admit.retire(&epoch, &mut out);
        self.admit.end(&mut out, &|_| false);
        self.applied.extend(out.at_ms.iter().zip(&out.value).map(|(at_ms, value)| (*at_ms, value.to_bits())));
        for pane in &out.late {
            for late in &out.late_at_ms[pane.late.0 as usize..pane.late.1 as usize] {
                let raw = pane.raw.0 as usize..pane.raw.1 as usize;
                let place = raw.clone().find(|i| out.raw_at_ms[*i] == *late).unwrap();
                self.applied.push((*late, out.raw_value[place].to_bits()));
            }
        }
        end
    }

    fn newest(&self) -> i64 {
        self.admit.raw(SERIES).map_or(i64::MIN, |raw| raw.newest_ms)
    }

    /// What it applied after this time.
    fn after(&self, from_ms: i64) -> Vec<(i64, u64)> {
        let mut all: Vec<_> = self.applied.iter().copied().filter(|(at_ms, _)| *at_ms > from_ms).collect();
        all.sort_unstable();
        all
    }
}

/// Samples of awkward times: late, too late, twice, with other values, markers and what is no number.
fn epoch(rng: &mut fastrand::Rng, now: i64, many: usize) -> Samples {
    let mut samples = Samples::default();
    for _ in 0..rng.usize(..many) {
        let behind = [0, rng.i64(0..5_000), rng.i64(0..45_000)][rng.usize(..3)];
        let at_ms = (now - behind) / 250 * 250;
        let value = match rng.u8(..20) {
            0 => f64::from_bits(STALE_NAN_BITS),
            1 => f64::NAN,
            2 => f64::INFINITY,
            _ => f64::from(rng.i8(-3..3)),
        };
        samples.push(SERIES, at_ms, value);
    }
    samples
}

/// Follows a series through random epochs and changes of settings; how often samples were given up, and compared.
fn follow(seed: u64) -> (u64, u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut settings = settings([16, 16, 64, 1_024][rng.usize(..4)]);
    let mut rules = AdmitRules::of(&settings, [40, 100_000][rng.usize(..2)]);
    let mut gate = Gate::new(&settings);
    let (mut given_up, mut compared) = (0, 0);
    let mut now = T0;
    for _ in 0..rng.usize(1..20) {
        now += 3_000;
        let mut samples = epoch(&mut rng, now, 8);
        samples.push(SERIES, now, 1.0);
        gate.feed(&samples, &[], now);
    }
    // The workers may be some epochs ahead of where the journal is read.
    let mut ahead = Vec::new();
    for _ in 0..rng.usize(..4) {
        now += 3_000;
        let samples = epoch(&mut rng, now, 8);
        ahead.push((gate.feed(&samples, &[], now), samples));
    }
    let mut followed =
        FollowedSeries::join(SeriesId(SERIES), gate.newest(), gate.epoch + rng.u64(..3), i64::MAX);
    for step in 0..300 {
        let (end, samples) = match ahead.is_empty() {
            false => ahead.remove(0),
            true => {
                now += [500, 3_000, 3_000, 20_000, 50_000][rng.usize(..5)];
                let many = [4, 12, 60][rng.usize(..3)];
                let samples = epoch(&mut rng, now, many);
                let mut controls = Vec::new();
                if rng.u8(..40) == 0 {
                    settings.allowed_lateness_ms = rng.i64(5..40) * 1_000;
                    settings.late_samples_max = [16, 64][rng.usize(..2)];
                    settings.windows[1].hop_ms = [10_000, 15_000, 12_000][rng.usize(..3)];
                    settings = settings.clone().validated().unwrap();
                    controls.push(Arc::new(Control::Settings(Arc::new(settings.clone()))));
                    let new = AdmitRules::of(&settings, rules.samples_max);
                    followed.reconfigure(&rules, &new);
                    rules = new;
                }
                (gate.feed(&samples, &controls, now), samples)
            }
        };
        (0..samples.len()).for_each(|i| followed.record(samples.at_ms[i], samples.value[i]));
        let before = (followed.known_from, followed.why);
        followed.end(end, &rules);
        if followed.is_silent(end, &rules) || gate.newest() == i64::MIN {
            break;
        }
        given_up += u64::from(
            followed.is_exact()
                && (followed.known_from, followed.why) != before
                && followed.samples.is_empty(),
        );
        if followed.is_exact() && ahead.is_empty() {
            let known: Vec<_> =
                followed.samples.iter().map(|(at_ms, value)| (*at_ms, value.to_bits())).collect();
            assert_eq!(known, gate.after(followed.known_from), "seed {seed} step {step} {followed:?}");
            assert_eq!(followed.newest, gate.newest(), "seed {seed} step {step}");
            assert!(followed.is_sound(), "seed {seed} step {step} {followed:?}");
            compared += known.len() as u64;
            followed.prune(&rules);
        }
    }
    (given_up, compared)
}

#[test]
fn what_is_known_is_what_the_gate_applied() {
    let rounds = std::env::var("TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let (mut given_up, mut compared) = (0, 0);
    for seed in 0..400 * rounds {
        let (one, other) = follow(seed);
        (given_up, compared) = (given_up + one, compared + other);
    }
    println!("given up {given_up} times, {compared} samples compared");
    assert!(given_up > 100 && compared > 100_000, "{given_up} {compared}");
}

fn row(window_ms: i64, at_ms: i64) -> WindowStats {
    WindowStats { series: SeriesId(SERIES), window_ms, at_ms, count: 1, ..WindowStats::default() }
}

#[test]
fn only_windows_that_are_known_as_a_whole_are_computed_again() {
    let settings = settings(64);
    let rules = AdmitRules::of(&settings, 1_000);
    let t0 = T0 / 60_000 * 60_000;
    let mut followed = FollowedSeries::join(SeriesId(SERIES), t0 - 1, 1, i64::MAX);
    assert_eq!(followed.samples_of(&row(20_000, t0)), Err(SkipReason::Young));
    let end = |epoch| EpochEnd { epoch, processing_ms: T0, watermark_ms: T0, last_of_input: false };
    followed.end(end(1), &rules);
    for i in 1..=100 {
        followed.record(t0 + i * 1_000, i as f64);
    }
    followed.end(end(2), &rules);
    assert_eq!(followed.samples_of(&row(20_000, t0 + 15_000)), Err(SkipReason::Young));
    let samples = followed.samples_of(&row(20_000, t0 + 20_000)).unwrap();
    assert_eq!((samples.len(), samples[0], samples[19]), (20, (t0 + 1_000, 1.0), (t0 + 20_000, 20.0)));
    assert_eq!(
        followed.samples_of(&WindowStats { partial: true, ..row(20_000, t0 + 60_000) }),
        Err(SkipReason::Partial)
    );
    // Silence closes windows that begin within what is known.
    assert_eq!(followed.samples_of(&row(20_000, t0 + 119_000)).unwrap().len(), 1);
    assert!(!followed.is_silent(end(3), &rules));
    let late = EpochEnd { processing_ms: T0 + 600_000, watermark_ms: T0 + 600_000, ..end(4) };
    assert!(followed.is_silent(late, &rules));
}

#[test]
fn at_most_so_many_samples_are_kept_and_then_shorter_windows_go_on() {
    let rules = AdmitRules::of(&settings(64), 30);
    let t0 = T0 / 60_000 * 60_000;
    let mut followed = FollowedSeries::join(SeriesId(SERIES), t0 - 1, 1, i64::MAX);
    for epoch in 1..200 {
        followed.record(t0 + epoch * 1_000, 1.0);
        let end = EpochEnd { epoch: epoch as u64, processing_ms: T0, watermark_ms: T0, last_of_input: false };
        followed.end(end, &rules);
        followed.prune(&rules);
        assert!(followed.samples.len() <= 30);
    }
    assert_eq!(followed.samples_of(&row(60_000, t0 + 195_000)), Err(SkipReason::Samples));
    assert_eq!(followed.samples_of(&row(20_000, t0 + 195_000)).unwrap().len(), 20);
}

#[test]
fn an_epoch_of_many_samples_leaves_no_room_taken() {
    let rules = AdmitRules::of(&settings(64), 1_000);
    let t0 = T0 / 60_000 * 60_000;
    let mut followed = FollowedSeries::join(SeriesId(SERIES), t0 - 1, 1, i64::MAX);
    let mut at_ms = t0;
    for (epoch, samples) in [(1, 1), (2, 200_000), (3, 10), (4, 200_000)] {
        for _ in 0..samples {
            at_ms += 1;
            followed.record(at_ms, 1.0);
        }
        let end = EpochEnd { epoch, processing_ms: T0, watermark_ms: T0, last_of_input: false };
        followed.end(end, &rules);
        followed.prune(&rules);
        let room = (followed.samples.capacity(), followed.epoch.capacity());
        assert!(room.0 <= 2_000 && room.1 <= 2_000, "epoch {epoch}: {room:?}");
    }
    assert!(!followed.samples.is_empty());
}
