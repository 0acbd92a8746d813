//! Rows of a whole shard, against sketches of everything that was sent.

use std::collections::BTreeMap;

use super::*;
use crate::driver::EpochBatch;
use crate::kernels::shapes::Random;
use crate::pipeline::ShardState;
use crate::rows::windows::QuantileValues;
use crate::sample::{Control, EpochEnd, Samples};
use crate::settings::{QuantileSet, SeriesOptions, Window};
use crate::snapshot::{SaveRequest, StateReader, StoredShard};

const START_MS: i64 = 1_700_000_040_000;
const SERIES: [u64; 3] = [0x100, 0x200, 0x300];

fn settings(windows: &[(i64, i64)]) -> Settings {
    let window = |(length, hop): &(i64, i64)| Window { length_ms: length * 1_000, hop_ms: hop * 1_000 };
    let settings = Settings {
        windows: windows.iter().map(window).collect(),
        allowed_lateness_ms: 120_000,
        idle_timeout_ms: 5_000,
        ..Settings::default()
    };
    settings.validated().unwrap()
}

/// A shard, and all that it was sent: every sample comes within lateness, and at a time of its own.
struct Rig {
    shard: ShardState,
    batch: AdmittedBatch,
    epoch: u64,
    sent: BTreeMap<u64, BTreeMap<i64, f64>>,
    sealed: Vec<Vec<u8>>,
}

impl Rig {
    fn new(settings: &Settings) -> Rig {
        let shard = ShardState::new(&Arc::new(settings.clone()));
        Rig { shard, batch: AdmittedBatch::default(), epoch: 0, sent: BTreeMap::new(), sealed: Vec::new() }
    }

    fn retire(&mut self, samples: &[(u64, i64, f64)], controls: &[Control]) -> Vec<WindowStats> {
        self.epoch += 1;
        let mut live = Samples::default();
        for (series, at_ms, value) in samples {
            live.push(*series, *at_ms, *value);
            self.sent.entry(*series).or_default().insert(*at_ms, *value);
        }
        let newest = self.sent.values().filter_map(|sent| sent.keys().next_back()).max();
        let processing_ms = newest.copied().unwrap_or(START_MS);
        let end =
            EpochEnd { epoch: self.epoch, processing_ms, watermark_ms: processing_ms, last_of_input: false };
        let controls: Vec<Arc<Control>> = controls.iter().cloned().map(Arc::new).collect();
        let epoch =
            EpochBatch { shard: 0, end, controls: &controls, bootstraps: &[], live: &live, save: None };
        let rows = self.shard.retire_whole(&epoch, &mut self.batch, 1_000);
        rows.lists.windows
    }

    fn set(&mut self, quantiles: &[f64]) -> Vec<WindowStats> {
        let options =
            SeriesOptions { quantiles: QuantileSet::new(quantiles).unwrap(), ..SeriesOptions::default() };
        self.batch.options = SERIES.map(|series| (SeriesId(series), options)).to_vec();
        let rows = self.retire(&[], &[]);
        self.batch.options.clear();
        rows
    }

    fn settings(&mut self, settings: &Settings) -> Vec<WindowStats> {
        self.retire(&[], &[Control::Settings(Arc::new(settings.clone()))])
    }

    fn restart(&mut self, whole: bool) {
        let request = SaveRequest { shard: 0, chain: 0, whole };
        let saved = self.shard.snapshot(request).unwrap();
        if saved.save.whole {
            self.sealed.clear();
        }
        self.sealed.push(saved.sealed);
        let sealed = self.sealed.iter().map(Vec::as_slice).collect();
        let stored = StoredShard { end: saved.end, settings: saved.settings, state: &saved.state, sealed };
        self.shard = ShardState::load(0, &stored).unwrap();
    }

    /// The quantiles of all that was sent of the window of a row.
    fn wanted(&self, row: &WindowStats, set: &[f64]) -> WindowStats {
        let mut sketch = QuantileSketch::default();
        let sent = &self.sent[&row.series.0];
        sent.range(row.at_ms - row.window_ms + 1..=row.at_ms).for_each(|(_, value)| sketch.add(*value));
        assert_eq!(sketch.count(), u64::from(row.count), "{row:?}");
        let mut wanted = *row;
        wanted.quantiles =
            QuantileValues(QUANTILES.map(|q| {
                if set.contains(&q) { sketch.quantile(q).clamp(row.min, row.max) } else { f64::NAN }
            }));
        wanted
    }
}

/// Samples of one epoch: some newer than all before, and late ones.
fn samples(random: &mut Random, rig: &Rig) -> Vec<(u64, i64, f64)> {
    let mut all = Vec::new();
    for series in SERIES {
        let newest = rig.sent.get(&series).and_then(|sent| sent.keys().next_back().copied());
        let mut at_ms = newest.unwrap_or(START_MS);
        if random.below(150) == 0 {
            at_ms += 3_600_000 * random.below(6) as i64;
        }
        let oldest = newest.map_or(i64::MAX, |newest| newest - 119_000);
        for _ in 0..random.below(5) {
            let late = newest.unwrap_or(START_MS) - 1_000 * random.below(119) as i64 + 7;
            let is_new = rig.sent.get(&series).is_some_and(|sent| !sent.contains_key(&late));
            if random.below(8) == 0 && is_new && late > oldest && !all.iter().any(|(_, at, _)| *at == late) {
                all.push((series, late, random.unit()));
            }
            at_ms += 1_000 * (1 + random.below(40) as i64);
            all.push((series, at_ms, libm::exp(random.unit() * 9.0)));
        }
    }
    all
}

#[test]
fn every_row_has_the_quantiles_of_all_its_samples_from_the_first_on() {
    let (mut rows, mut corrections) = (0, 0);
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let settings = settings(
            [&[(60, 60), (600, 60)][..], &[(300, 300), (7_200, 600)], &[(30, 10), (3_600, 90)]]
                [random.below(3)],
        );
        let mut rig = Rig::new(&settings);
        let set = [0.05, 0.5, 0.999];
        rig.set(&set);
        for _ in 0..200 {
            let samples = samples(&mut random, &rig);
            for row in rig.retire(&samples, &[]) {
                assert_eq!(row, rig.wanted(&row, &set), "seed {seed}");
                rows += 1;
                corrections += usize::from(row.revision > 0);
            }
            let series = SERIES[random.below(3)];
            for row in rig.shard.open(SeriesId(series), &[]).unwrap().rows {
                assert_eq!(row, rig.wanted(&row, &set), "seed {seed}, open");
            }
            if random.below(10) == 0 {
                rig.restart(random.below(4) == 0);
            }
            let check = rig.shard.check(SeriesId(series));
            assert!(check.is_err() || check.is_ok_and(|check| check.mismatches.is_empty()));
        }
    }
    println!("{rows} rows, {corrections} corrections");
    assert!(rows > 20_000 && corrections > 1_000, "{rows} {corrections}");
}

#[test]
fn what_is_set_later_shows_in_windows_that_begin_later() {
    let mut random = Random::new(7);
    let mut rig = Rig::new(&settings(&[(300, 60)]));
    let (mut set_at, mut first) = (0, i64::MAX);
    for epoch in 0..120 {
        if epoch == 30 {
            set_at = rig.sent[&SERIES[0]].keys().next_back().copied().unwrap();
            rig.set(&[0.5]);
        }
        if epoch == 60 {
            rig.set(&[0.99, 0.25]);
        }
        if epoch == 90 {
            rig.set(&[]);
        }
        let set: &[f64] = match epoch {
            ..30 | 90.. => &[],
            30..60 => &[0.5],
            60..90 => &[0.99, 0.25],
        };
        let samples = samples(&mut random, &rig);
        let rows = rig.retire(&samples, &[]);
        for row in rows.iter().filter(|row| row.series.0 == SERIES[0]) {
            if row.quantiles == QuantileValues::default() {
                assert!(
                    set.is_empty() || row.at_ms - row.window_ms <= first.min(set_at + 300_000),
                    "{row:?}"
                );
                continue;
            }
            assert!(row.at_ms - row.window_ms >= set_at);
            first = first.min(row.at_ms - row.window_ms);
            assert_eq!(*row, rig.wanted(row, set));
        }
    }
    assert!(first < i64::MAX);
}

#[test]
fn larger_panes_keep_what_is_known_and_smaller_ones_what_is_raw() {
    let (fine, coarse) = (settings(&[(600, 20), (1_200, 60)]), settings(&[(600, 60), (1_200, 60)]));
    for (seed, from, to) in [(1, &fine, &coarse), (2, &coarse, &fine)] {
        let mut random = Random::new(seed);
        let mut rig = Rig::new(from);
        rig.set(&[0.9]);
        let (mut missing, mut known) = (0, 0);
        for epoch in 0..200 {
            let changed_at = epoch == 100;
            let rows = match changed_at {
                true => rig.settings(to),
                false => {
                    let samples = samples(&mut random, &rig);
                    rig.retire(&samples, &[])
                }
            };
            for row in rows.iter().filter(|row| !row.partial) {
                if row.quantiles == QuantileValues::default() {
                    missing += 1;
                } else {
                    known += 1;
                    assert_eq!(*row, rig.wanted(row, &[0.9]));
                }
            }
            if changed_at {
                rig.restart(false);
            }
        }
        assert_eq!((missing > 0, known > 1_000), (seed == 2, true), "{missing} {known}");
    }
}

#[test]
fn bytes_of_a_series_are_bounded_by_what_is_said() {
    let settings = Settings::default();
    let said = series_bytes(&settings);
    for (name, most, value) in [
        ("constant", 6_000, (|_| 7.0) as fn(&mut Random) -> f64),
        ("gauge", 9_500, |random| 40.0 + 2.0 * random.unit()),
        ("entropy", said, |random| libm::exp(random.unit() * 20.0)),
    ] {
        let (mut series, mut random) =
            (SeriesSketches::new(SeriesId(1), QuantileSet::from_code(255), NEVER), Random::new(1));
        for i in 0..4 * 60 * 30 {
            let at_ms = START_MS + i * 15_000;
            series.forget_before(pane_of(at_ms - reach_ms(&settings), 60_000), 60_000);
            series.push(60_000, &[at_ms], &[value(&mut random)]);
        }
        let bytes = series.bytes() + size_of::<SeriesSketches>();
        println!("{name}: {bytes} of {said}");
        assert!(bytes <= most, "{name}: {bytes}");
    }
}

#[test]
fn bytes_that_no_shard_wrote_are_refused_without_a_panic() {
    let mut random = Random::new(3);
    let mut rig = Rig::new(&settings(&[(600, 60)]));
    rig.set(&[0.5]);
    for _ in 0..60 {
        let samples = samples(&mut random, &rig);
        rig.retire(&samples, &[]);
    }
    let settings = Arc::new(settings(&[(600, 60)]));
    let mut quantiles = Quantiles::new(&settings);
    for (slot, series) in SERIES.iter().enumerate() {
        let options = SeriesOptions { quantiles: QuantileSet::from_code(9), ..SeriesOptions::default() };
        quantiles.give(slot as u32, SeriesId(*series), SeriesClass { kind: None, options }, NEVER);
        let (at_ms, value): (Vec<i64>, Vec<f64>) = rig.sent[series].iter().unzip();
        quantiles.of.get_mut(&(slot as u32)).unwrap().push(60_000, &at_ms, &value);
    }
    let at = SavePoint { chain: 0, whole: true };
    let mut part = quantiles.begin_save(at, 3);
    quantiles.save_some(&mut part, at, &[0, 1, 2], 9);
    let live: Vec<(u32, SeriesId)> = (0..).zip(SERIES.map(SeriesId)).collect();
    let load = |state: &[u8], sealed: &[u8]| {
        let (state, sealed) = (StateReader(state), vec![StateReader(sealed)]);
        Quantiles::load(&settings, PartReader { shard: 0, slots: 3, live: &live, state, sealed })
    };
    let (state, sealed) = (part.state.0, part.sealed.0);
    assert_eq!(load(&state, &sealed).unwrap().of, quantiles.of);
    let mut refused = 0;
    for _ in 0..20_000 {
        let (mut state, mut sealed) = (state.clone(), sealed.clone());
        let bytes = if random.below(2) == 0 { &mut state } else { &mut sealed };
        match random.below(3) {
            0 => bytes.truncate(random.below(bytes.len())),
            _ => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
        }
        match load(&state, &sealed) {
            Ok(loaded) => drop(loaded.of.values().map(|series| series.pane(28_333_334).count()).sum::<u64>()),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 5_000, "{refused}");
}
