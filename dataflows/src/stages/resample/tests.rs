//! Steps as they are closed and corrected, against steps made at once of everything that the gate applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::driver::EpochBatch;
use crate::kernels::shapes::Random;
use crate::kernels::steps;
use crate::sample::{Bootstrap, Control, EpochEnd, MetricType, Samples};
use crate::settings::{STEP_MS, SeriesOptions, Settings, Transform, Window};
use crate::shard::pane_of;
use crate::snapshot::StateReader;
use crate::stage::PartReader;
use crate::stages::admit::Admit;

const START_MS: i64 = 1_700_000_000_000;
const SERIES: [u64; 3] = [0x100, 0x200, 0x300];

/// A gate and the steps behind it; what they gave, and what of the samples was applied.
struct Shard {
    admit: Admit,
    resample: Resample,
    epoch: u64,
    steps: BTreeMap<(u64, i64), f64>,
    applied: BTreeMap<u64, BTreeMap<i64, f64>>,
    begun: usize,
    /// What is set in the next epoch.
    options: Vec<(SeriesId, SeriesOptions)>,
}

impl Shard {
    fn new(settings: &Arc<Settings>) -> Shard {
        Shard {
            admit: Admit::new(Arc::clone(settings)),
            resample: Resample::default(),
            epoch: 0,
            steps: BTreeMap::new(),
            applied: BTreeMap::new(),
            begun: 0,
            options: Vec::new(),
        }
    }

    fn retire(
        &mut self,
        live: &Samples,
        bootstraps: &[Samples],
        controls: &[Arc<Control>],
        types: &[(u64, MetricType)],
    ) {
        self.epoch += 1;
        let now_ms = live.at_ms.iter().copied().max().unwrap_or(START_MS);
        let end =
            EpochEnd { epoch: self.epoch, processing_ms: now_ms, watermark_ms: NEVER, last_of_input: false };
        let mut batch = AdmittedBatch::new(end);
        batch.types = types.iter().map(|(series, kind)| (SeriesId(*series), *kind)).collect();
        batch.options = std::mem::take(&mut self.options);
        let input = EpochBatch { shard: 0, end, controls, bootstraps, live, save: None };
        self.admit.retire(&input, &mut batch);
        batch.given.iter().for_each(|given| self.resample.assign(given));
        batch.classes.iter().for_each(|change| self.resample.reclassify(change));
        let mut steps = Vec::new();
        self.resample.take_steps(&mut steps);
        self.take(&steps);
        for series in batch.series() {
            let id = self.admit.slots().unwrap().series(series.slot).0;
            for (range, step) in series.phases() {
                self.apply(id, &batch, range);
                if !matches!(step, BootstrapStep::End) {
                    self.applied.remove(&id);
                }
            }
            let applied = self.applied.entry(id).or_default();
            for pane in series.late {
                let raw = pane.raw.0 as usize..pane.raw.1 as usize;
                applied
                    .extend(batch.raw_at_ms[raw.clone()].iter().copied().zip(batch.raw_value[raw].to_vec()));
            }
            self.apply(id, &batch, series.rest());
            self.resample.observe(&series, &batch, &mut Rows::default());
        }
        let mut steps = Vec::new();
        self.resample.take_steps(&mut steps);
        self.take(&steps);
        self.admit.end(&mut batch, &|_| false);
        assert!(batch.freed.is_empty(), "nothing is silent for so long");
    }

    fn apply(&mut self, id: u64, batch: &AdmittedBatch, range: std::ops::Range<usize>) {
        let samples = batch.at_ms[range.clone()].iter().copied().zip(batch.value[range].iter().copied());
        self.applied.entry(id).or_default().extend(samples);
    }

    fn take(&mut self, steps: &[SeriesStep]) {
        for SeriesStep { slot, event } in steps {
            let id = self.admit.slots().unwrap().series(*slot).0;
            match *event {
                StepEvent::Begin { .. } => {
                    self.begun += 1;
                    self.steps.retain(|(series, _), _| *series != id);
                }
                StepEvent::BootstrapEnd => {}
                StepEvent::Value { step, value } => {
                    self.steps.insert((id, step), value);
                }
            }
        }
    }

    /// Through the bytes of a snapshot.
    fn restart(&mut self) {
        let live: Vec<u32> = self.admit.slots().unwrap().given().collect();
        let at = SavePoint { chain: 0, whole: true };
        let mut part = self.resample.begin_save(at, live.len());
        while self.resample.save_some(&mut part, at, &live, 2) == Progress::More {}
        let slots = self.admit.slots().unwrap();
        let with_series: Vec<_> = live.iter().map(|slot| (*slot, slots.series(*slot))).collect();
        let reader = PartReader {
            shard: 0,
            slots: slots.capacity(),
            live: &with_series,
            state: StateReader(&part.state.0),
            sealed: Vec::new(),
        };
        self.resample = Resample::load(reader).unwrap();
    }

    /// The closed steps of everything that was applied since the series began; of counters those with a pair.
    fn all_at_once(&self, counters: &[u64]) -> BTreeMap<(u64, i64), f64> {
        let mut all = BTreeMap::new();
        for (series, samples) in &self.applied {
            let Some(last) = samples.keys().next_back().map(|at_ms| pane_of(*at_ms, STEP_MS)) else {
                continue;
            };
            let first = samples.keys().next().map_or(0, |at_ms| pane_of(*at_ms, STEP_MS));
            for step in first..last {
                let (from, to) = ((step - 1) * STEP_MS, step * STEP_MS);
                let (at_ms, values): (Vec<i64>, Vec<f64>) = samples.range(from + 1..=to).unzip();
                let before = samples.range(..=from).next_back().map(|(at_ms, value)| (*at_ms, *value));
                let value = match counters.contains(series) {
                    true => steps::rate(before, &at_ms, &values),
                    false => steps::mean(&values),
                };
                if !value.is_nan() {
                    all.insert((*series, step), value);
                }
            }
        }
        all
    }
}

fn settings(random: &mut Random) -> Arc<Settings> {
    let hop_ms = [1_000, 7_000, 60_000, 90_000][random.below(4)];
    let windows = vec![Window { length_ms: 60 * hop_ms, hop_ms }];
    let allowed_lateness_ms = [0, 20_000, 600_000, 3_600_000][random.below(4)];
    let settings =
        Settings { windows, allowed_lateness_ms, late_samples_max: 1 << 16, ..Settings::default() };
    Arc::new(settings.validated().unwrap())
}

/// Samples of one series of some hours, in time order: with gaps, and of a counter with resets.
fn samples(random: &mut Random, counter: bool) -> Vec<(i64, f64)> {
    let pace = 1 + random.below(90_000);
    let (mut at_ms, mut value) = (START_MS + random.below(600_000) as i64, 4e10);
    (0..50 + random.below(300))
        .map(|_| {
            let gap = if random.below(40) == 0 { random.below(1_200_000) } else { 0 };
            at_ms += 1 + (random.below(pace) + gap) as i64;
            value = match counter {
                true if random.below(50) == 0 => 0.0,
                true => value + random.below(1_000) as f64,
                false => 4e10 + random.unit(),
            };
            (at_ms, value)
        })
        .collect()
}

#[test]
fn steps_that_are_closed_and_corrected_are_those_of_all_samples_at_once() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let settings = settings(&mut random);
        let counters: Vec<u64> = SERIES.into_iter().filter(|_| random.below(2) == 0).collect();
        let types: Vec<_> = counters.iter().map(|series| (*series, MetricType::Counter)).collect();
        let mut arrivals: Vec<(i64, u64, i64, f64)> = Vec::new();
        for series in SERIES {
            for (at_ms, value) in samples(&mut random, counters.contains(&series)) {
                // Some are refused as too old, and some come twice.
                for _ in 0..1 + random.below(30) / 29 {
                    let late = random.below(4) == 0;
                    let delay_ms = if late {
                        random.below(settings.allowed_lateness_ms as usize + 60_000) as i64
                    } else {
                        0
                    };
                    arrivals.push((at_ms + delay_ms, series, at_ms, value));
                }
            }
        }
        arrivals.sort_by_key(|arrival| arrival.0);
        let mut shard = Shard::new(&settings);
        // Said before the series has a slot, with its first samples, or again.
        shard.retire(&Samples::default(), &[], &[], &types[..types.len() / 2]);
        let mut first = true;
        for part in arrivals.chunks(1 + random.below(60)) {
            let mut live = Samples::default();
            part.iter().for_each(|(_, series, at_ms, value)| live.push(*series, *at_ms, *value));
            shard.retire(&live, &[], &[], if first { &types } else { &[] });
            first = false;
            if random.below(10) == 0 {
                shard.restart();
            }
        }
        assert_eq!(shard.begun, 0, "seed {seed}: no kind was corrected");
        let want = shard.all_at_once(&counters);
        assert!(want.len() > 20, "seed {seed}: {} steps", want.len());
        let differ = want.iter().find(|(key, value)| shard.steps.get(key) != Some(value));
        assert!(differ.is_none() && shard.steps.len() == want.len(), "seed {seed}: {differ:?}");
    }
}

/// The steps of a series begin anew, and so do those in a ring, when it is known to be a counter.
#[test]
fn a_series_that_turns_out_a_counter_begins_anew_with_its_newest_sample() {
    let mut shard = Shard::new(&Arc::new(Settings::default().validated().unwrap()));
    let of = |from: i64, n: i64| {
        let mut live = Samples::default();
        (from..from + n).for_each(|i| live.push(SERIES[0], START_MS + i * 15_000, i as f64 * 30.0));
        live
    };
    shard.retire(&of(0, 20), &[], &[], &[]);
    assert!(shard.steps.len() >= 3, "{:?}", shard.steps);
    shard.retire(&of(20, 20), &[], &[], &[(SERIES[0], MetricType::Counter)]);
    assert_eq!(shard.begun, 1);
    assert!(shard.steps.len() >= 3 && shard.steps.values().all(|rate| *rate == 2.0), "{:?}", shard.steps);
    // The same again changes nothing.
    shard.retire(&of(40, 20), &[], &[], &[(SERIES[0], MetricType::Counter)]);
    assert_eq!(shard.begun, 1);
}

/// What is set counts more than what a source says, and is taken back by other settings.
#[test]
fn a_transform_that_is_set_decides_what_steps_are() {
    let rising = |from: i64, n: i64| {
        let mut live = Samples::default();
        (from..from + n).for_each(|i| live.push(SERIES[0], START_MS + i * 15_000, i as f64 * 30.0));
        live
    };
    let set =
        |transform| vec![(SeriesId(SERIES[0]), SeriesOptions { transform, ..SeriesOptions::default() })];
    let mut shard = Shard::new(&Arc::new(Settings::default().validated().unwrap()));
    let is_rate = |shard: &Shard| shard.steps.values().all(|step| *step == 2.0);
    // Before its first samples.
    shard.options = set(Transform::Rate);
    shard.retire(&rising(0, 20), &[], &[], &[]);
    assert!(shard.steps.len() >= 3 && is_rate(&shard) && shard.begun == 0, "{:?}", shard.steps);
    // What a source says is what is set already, or does not count.
    shard.retire(&rising(20, 20), &[], &[], &[(SERIES[0], MetricType::Counter)]);
    shard.retire(&rising(40, 20), &[], &[], &[(SERIES[0], MetricType::Gauge)]);
    assert!(is_rate(&shard) && shard.begun == 0, "{:?}", shard.steps);
    shard.restart();
    shard.options = set(Transform::Raw);
    shard.retire(&rising(60, 20), &[], &[], &[(SERIES[0], MetricType::Counter)]);
    assert!(shard.begun == 1 && !is_rate(&shard), "{:?}", shard.steps);
    // It is not named where the entries of `select` are others: then it is the counter again that it was said to be.
    let other = Settings { select: vec![crate::settings::SelectEntry::default()], ..Settings::default() };
    shard.retire(&rising(80, 20), &[], &[Arc::new(Control::Settings(Arc::new(other)))], &[]);
    assert!(shard.begun == 2 && is_rate(&shard), "{:?}", shard.steps);
}

#[test]
fn the_past_of_a_bootstrap_comes_before_its_live_samples_and_is_marked() {
    let mut shard = Shard::new(&Arc::new(Settings::default().validated().unwrap()));
    let of = |bootstrap: u64, from: i64, n: i64| {
        let mut samples = Samples::of_bootstrap(bootstrap);
        (from..from + n).for_each(|i| samples.push(SERIES[0], START_MS + i * 15_000, i as f64));
        samples
    };
    let bootstrap = Bootstrap { id: 9, source: "test".to_owned(), from_ms: 0, publish_from_ms: START_MS };
    shard.retire(&of(0, 400, 20), &[], &[], &[]);
    shard.retire(&of(0, 420, 4), &[of(9, 0, 300)], &[Arc::new(Control::BootstrapBegin(bootstrap))], &[]);
    assert_eq!(shard.begun, 1);
    assert!(shard.resample.heads[0].bootstraps);
    shard.restart();
    assert!(shard.resample.heads[0].bootstraps);
    shard.retire(
        &of(0, 424, 20),
        &[of(9, 300, 100)],
        &[Arc::new(Control::BootstrapEnd { bootstrap: 9 })],
        &[],
    );
    assert!(!shard.resample.heads[0].bootstraps);
    assert_eq!(shard.steps, shard.all_at_once(&[]));
    assert!(shard.steps.len() > 100);
}
