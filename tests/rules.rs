//! The rules of closing, late samples, reopening and slots: every row and revision of the dataflow's tactics
//! equals the slow model's, on random feeds with outages of sender and server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidewatch_dataflows::driver;
use tidewatch_dataflows::pipeline::{STAGES, ShardState};
use tidewatch_dataflows::rows::inspect::Unavailable;
use tidewatch_dataflows::rows::{ResultRow, Rows};
use tidewatch_dataflows::sample::{Control, EpochEnd, Reason, SHARDS, STALE_NAN_BITS, Samples, SeriesId};
use tidewatch_dataflows::settings::{Settings, Window};
use tidewatch_dataflows::shard::AdmittedBatch;

use crate::oracle::{Epoch, Model, feed, from_scratch, same_row};

/// What is held is audited once in so many epochs.
const AUDITED_EVERY: u64 = 8;

/// The tactics without timely: one thread, shards in order.
pub struct Tactics {
    shards: BTreeMap<usize, ShardState>,
    settings: Arc<Settings>,
    epochs: u64,
}

impl Tactics {
    pub fn new(settings: &Settings) -> Self {
        Tactics { shards: BTreeMap::new(), settings: Arc::new(settings.clone()), epochs: 0 }
    }

    /// Bytes of state.
    pub fn bytes(&self) -> usize {
        self.shards
            .values()
            .map(|shard| (0..STAGES.len()).map(|stage| shard.bytes(stage)).sum::<usize>())
            .sum()
    }

    fn shard(&mut self, shard: usize) -> &mut ShardState {
        self.shards.entry(shard).or_insert_with(|| ShardState::new(&self.settings))
    }

    pub fn epoch(&mut self, Epoch { end, controls, bootstraps, live }: &Epoch) -> Rows {
        // A control is told to every shard, so one that is met first later must have heard it, too.
        (0..if controls.is_empty() { 0 } else { SHARDS }).for_each(|shard| {
            self.shard(shard);
        });
        let mut parts = by_shard(bootstraps, live);
        for shard in self.shards.keys() {
            parts.entry(*shard).or_default();
        }
        let mut out = Rows::default();
        for (shard, part) in parts {
            out.append(&mut retire_shard(self.shard(shard), shard, *end, controls, part));
        }
        self.epochs += 1;
        if self.epochs.is_multiple_of(AUDITED_EVERY) {
            self.audit(live);
        }
        out.sort();
        out
    }

    /// What is held of these series is what their raw samples and panes give.
    fn audit(&self, samples: &Samples) {
        for series in samples.series.iter().copied().collect::<BTreeSet<_>>() {
            match self.shards[&SeriesId(series).shard()].check(SeriesId(series)) {
                Ok(check) => assert_eq!(check.mismatches, [], "series {series}"),
                Err(Unavailable::Bootstrapping | Unavailable::Unknown) => {}
                Err(Unavailable::Between) => panic!("the shard of series {series} is inside an epoch"),
            }
        }
    }
}

/// The samples of one shard in an epoch: by bootstrap, the live ones under 0.
pub type ShardSamples = BTreeMap<u64, Samples>;

/// Deals the samples of an epoch to their shards.
pub fn by_shard(bootstraps: &[Samples], live: &Samples) -> BTreeMap<usize, ShardSamples> {
    let mut parts: BTreeMap<usize, ShardSamples> = BTreeMap::new();
    for samples in bootstraps.iter().chain([live]) {
        for i in 0..samples.len() {
            let part = parts.entry(SeriesId(samples.series[i]).shard()).or_default();
            let part =
                part.entry(samples.bootstrap).or_insert_with(|| Samples::of_bootstrap(samples.bootstrap));
            part.push(samples.series[i], samples.at_ms[i], samples.value[i]);
        }
    }
    parts
}

/// One epoch of one shard.
pub fn retire_shard(
    state: &mut ShardState,
    shard: usize,
    end: EpochEnd,
    controls: &[Arc<Control>],
    mut part: ShardSamples,
) -> Rows {
    let live = part.remove(&0).unwrap_or_default();
    let bootstraps: Vec<Samples> = part.into_values().collect();
    let epoch = driver::EpochBatch { shard, end, controls, bootstraps: &bootstraps, live: &live, save: None };
    let mut batch = AdmittedBatch::default();
    let is_ours = |series: &u64| SeriesId(*series).shard() == shard;
    for control in controls {
        if let Control::Options { options, series } = &**control {
            let ours = series.iter().copied().filter(is_ours);
            batch.options.extend(ours.map(|series| (SeriesId(series), *options)));
        }
    }
    // In slices of three rows, so that stopping and going on is exercised everywhere.
    state.retire_whole(&epoch, &mut batch, 3)
}

/// What the tactics make of an epoch, after a check that the slow model makes the same of it.
pub fn same_epoch(
    tactics: &mut Tactics,
    model: &mut Model,
    epoch: &Epoch,
    place: &dyn Fn() -> String,
) -> Rows {
    let got = tactics.epoch(epoch);
    same_as_model(&got, &model.epoch(epoch), place);
    got
}

/// Holds what came out of an epoch to what the slow model makes of it.
pub fn same_as_model(got: &Rows, want: &Rows, place: &dyn Fn() -> String) {
    for (g, w) in got.windows.iter().zip(&want.windows) {
        assert!(same_row(g, w), "{}:\n got {g:?}\nwant {w:?}", place());
    }
    assert_eq!(
        got.windows.len(),
        want.windows.len(),
        "{}: {:?}",
        place(),
        got.windows.get(want.windows.len()).or(want.windows.get(got.windows.len()))
    );
    assert_eq!(got.freed, want.freed, "{}", place());
    assert_eq!(
        (got.counts.rejected, got.counts.applied, got.counts.late),
        (want.counts.rejected, want.counts.applied, want.counts.late),
        "{}",
        place()
    );
}

fn check(
    seed: u64,
    what: &str,
    settings: &Settings,
    epochs: &[Epoch],
) -> BTreeMap<(tidewatch_dataflows::sample::SeriesId, i64, i64), tidewatch_dataflows::rows::WindowStats> {
    let (mut tactics, mut model) = (Tactics::new(settings), Model::new(settings));
    let mut last = BTreeMap::new();
    for (n, epoch) in epochs.iter().enumerate() {
        let place = || format!("seed {seed}, {what}, epoch {n} of {}, {:?}", epochs.len(), epoch.end);
        let got = same_epoch(&mut tactics, &mut model, epoch, &place);
        last.extend(got.lists.windows.into_iter().map(|row| (row.key(), row)));
    }
    last
}

#[test]
fn every_row_and_revision_equals_the_slow_model() {
    let seeds = crate::rounds(150);
    for seed in 0..seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        let settings = feed::settings(&mut rng);
        let mut arrivals = Vec::new();
        for id in feed::series(&mut rng, 5) {
            let truth = feed::truth(&mut rng);
            arrivals.extend(feed::arrivals(&mut rng, id.0, &truth));
        }
        let step_ms = [1_000, 1_000, 7_000][rng.usize(0..3)];
        let first = arrivals.iter().map(|a| a.when_ms).min().expect("there are arrivals");
        let away = first + rng.i64(0..4_000_000);
        let down = if rng.bool() { vec![(away, away + rng.i64(20_000..9_000_000))] } else { Vec::new() };
        let epochs = feed::live(&settings, arrivals, step_ms, &down, [100_000, 15_000_000][rng.usize(0..2)]);
        check(seed, "live", &settings, &epochs);
    }
}

#[test]
fn quarantined_series_leave_and_come_back_as_in_the_slow_model() {
    let mut refused = 0;
    for seed in 0..crate::rounds(30) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x9A12);
        let settings = feed::settings(&mut rng);
        let mut arrivals = Vec::new();
        let ids = feed::series(&mut rng, 5);
        for id in ids.iter().copied() {
            let truth = feed::truth(&mut rng);
            arrivals.extend(feed::arrivals(&mut rng, id.0, &truth));
        }
        let (first, last) = arrivals
            .iter()
            .fold((i64::MAX, i64::MIN), |(first, last), a| (first.min(a.when_ms), last.max(a.when_ms)));
        let mut told = Vec::new();
        if rng.bool() {
            let history = |id: SeriesId| (id.0, (1..50).map(|i| (first - i * 20_000, 1.0)).rev().collect());
            let series: Vec<_> = ids.iter().copied().map(history).collect();
            let begins_ms = first + rng.i64(0..200_000);
            let (bootstrapped, more) = feed::bootstrap(&mut rng, 5, begins_ms, &series, first);
            arrivals.extend(bootstrapped);
            told.extend(more);
        }
        for _ in 0..rng.usize(1..8) {
            let series = ids[rng.usize(0..ids.len())].0;
            let control = match rng.bool() {
                true => Control::Quarantine { series, epoch: 1 },
                false => Control::Lift { series },
            };
            told.push((rng.i64(first..=last), control));
        }
        told.sort_by_key(|(when_ms, _)| *when_ms);
        // All shards hear of controls, so epochs are dear here.
        let step_ms = ((last - first) / 300).max(5_000);
        let after_ms = 100 * step_ms;
        let epochs = feed::live_with_bootstraps(&settings, arrivals, &told, step_ms, &[], after_ms);
        let (mut tactics, mut model) = (Tactics::new(&settings), Model::new(&settings));
        for (n, epoch) in epochs.iter().enumerate() {
            let place = || format!("seed {seed}, epoch {n} of {}, {:?}", epochs.len(), epoch.end);
            let got = same_epoch(&mut tactics, &mut model, epoch, &place);
            refused += got.counts.rejected[Reason::Quarantined as usize];
        }
    }
    assert!(refused > 0);
}

/// A clock that jumps forward in the middle of a feed, is set right later, and then is reset: epochs `[from, to)` have
/// times so far ahead, those after them stand still until `reset`, whose samples come with the next one. Some series follow
/// the wrong clock.
pub fn jump(rng: &mut fastrand::Rng, epochs: &mut Vec<Epoch>, ids: &[SeriesId], catch_up_ms: i64) {
    let mut places: Vec<usize> = (0..3).map(|_| rng.usize(1..epochs.len() - 1)).collect();
    places.sort_unstable();
    let (from, to, reset) = (places[0], places[1].max(places[0] + 1), places[2].max(places[1] + 1));
    let ahead_ms = [700_000, 3_600_000, 90_000_000, 40 * 86_400_000][rng.usize(0..4)];
    let wrong: Vec<u64> = ids.iter().filter(|_| rng.u8(0..3) == 0).map(|id| id.0).collect();
    let before = epochs[from - 1].end;
    let jumped_ms = epochs[from].end.processing_ms + ahead_ms;
    let close = |processing_ms: i64| match processing_ms >= jumped_ms + catch_up_ms {
        true => processing_ms,
        false => before.watermark_ms,
    };
    let last_ms = epochs[to - 1].end.processing_ms + ahead_ms;
    for (n, epoch) in epochs.iter_mut().enumerate().take(reset).skip(from) {
        epoch.end.processing_ms = if n < to { epoch.end.processing_ms + ahead_ms } else { last_ms };
        epoch.end.watermark_ms = close(epoch.end.processing_ms);
        let live = &mut epoch.live;
        for i in (0..live.len()).filter(|_| n < to) {
            if wrong.contains(&live.series[i]) {
                live.at_ms[i] += ahead_ms;
            }
        }
    }
    let (held, to_ms) = (epochs[reset - 1].end, epochs[reset].end.processing_ms);
    let mut end = EpochEnd { epoch: epochs[reset].end.epoch, ..held.reset(to_ms) };
    end.last_of_input = false;
    let controls = vec![Arc::new(Control::ClockReset { to_ms })];
    let mut least = end.watermark_ms;
    for (n, epoch) in epochs.iter_mut().enumerate().skip(reset) {
        epoch.end.epoch += 1;
        // The wait of a jump may be going on at the reset: the watermark never goes back otherwise.
        least = least.max(epoch.end.watermark_ms);
        epoch.end.watermark_ms = if n == reset { end.watermark_ms } else { least };
    }
    epochs.insert(reset, Epoch { end, controls, ..Epoch::default() });
}

#[test]
fn a_clock_that_is_reset_leaves_what_the_slow_model_leaves() {
    let (mut freed, mut rows) = (0, 0);
    for seed in 0..crate::rounds(60) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0xC10C);
        let settings = if rng.bool() { feed::any_settings(&mut rng) } else { feed::settings(&mut rng) };
        let (ids, mut epochs) = feed::mixed(&mut rng, &settings, seed % 4 == 0);
        if rng.bool() {
            feed::change_settings(&mut rng, &settings, &mut epochs);
        }
        jump(&mut rng, &mut epochs, &ids, settings.catch_up_ms);
        let (mut tactics, mut model) = (Tactics::new(&settings), Model::new(&settings));
        for (n, epoch) in epochs.iter().enumerate() {
            let place = || format!("seed {seed}, epoch {n} of {}, {:?}", epochs.len(), epoch.end);
            let got = same_epoch(&mut tactics, &mut model, epoch, &place);
            let reset = epoch.controls.iter().any(|control| matches!(**control, Control::ClockReset { .. }));
            freed += if reset { got.freed.len() } else { 0 };
            rows += got.windows.len();
        }
    }
    assert!(freed > 0 && rows > 10_000, "{freed} series begin anew, {rows} rows");
}

#[test]
fn a_file_in_any_order_within_lateness_gives_the_windows_computed_from_scratch() {
    for seed in 0..crate::rounds(100) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0xF11E);
        let settings = feed::settings(&mut rng);
        let (mut time_major, mut series_major) = (Vec::new(), Samples::default());
        for id in feed::series(&mut rng, 4) {
            for (at, value) in feed::truth(&mut rng) {
                time_major.push((at, id.0, value));
                series_major.push(id.0, at, value);
            }
        }
        let collect = |rows: &[(i64, u64, f64)]| {
            let mut all = Samples::default();
            rows.iter().for_each(|(at, id, value)| all.push(*id, *at, *value));
            all
        };
        time_major.sort_by_key(|row| row.0);
        let mut shuffled: Vec<(i64, (i64, u64, f64))> =
            time_major.iter().map(|row| (row.0 + rng.i64(0..600_000), *row)).collect();
        shuffled.extend(
            time_major
                .iter()
                .filter(|_| rng.u8(0..5) == 0)
                .map(|row| (row.0 + 300_000, *row))
                .collect::<Vec<_>>(),
        );
        shuffled.sort_by_key(|row| row.0);
        let shuffled: Vec<_> = shuffled.into_iter().map(|row| row.1).collect();
        let want = from_scratch(&settings, &series_major);
        let newest: BTreeMap<u64, i64> = time_major.iter().map(|row| (row.1, row.0)).collect();
        let mut bytes: Vec<BTreeMap<_, _>> = Vec::new();
        for (what, samples) in [
            ("time-major", collect(&time_major)),
            ("series-major", series_major),
            ("shuffled, doubled", collect(&shuffled)),
        ] {
            for per_epoch in [1_000_000, rng.usize(1..300)] {
                let mut rows = check(seed, what, &settings, &feed::file(&samples, per_epoch));
                rows.retain(|(id, _, at), _| *at < newest[&id.0]);
                for ((key, got), (_, want)) in rows.iter().zip(&want) {
                    let want = tidewatch_dataflows::rows::WindowStats { revision: got.revision, ..*want };
                    assert!(
                        same_row(got, &want),
                        "seed {seed}, {what}, {key:?}:\n got {got:?}\nwant {want:?}"
                    );
                }
                assert_eq!(rows.len(), want.len(), "seed {seed}, {what}");
                bytes.push(
                    rows.into_iter()
                        .map(|(key, row)| {
                            (key, (row.count, row.avg.to_bits(), row.std.to_bits(), row.increase.to_bits()))
                        })
                        .collect(),
                );
            }
        }
        assert!(
            bytes.windows(2).all(|pair| pair[0] == pair[1]),
            "seed {seed}: the same samples gave other bytes in another order"
        );
    }
}

/// One series of a small ring: what a batch of late samples does to the ring must not show in their panes.
#[test]
fn late_samples_of_one_batch_that_fill_the_ring_leave_every_pane_whole() {
    let minute = 60_000;
    let windows = vec![Window { length_ms: 5 * minute, hop_ms: minute }];
    let settings = Settings { windows, late_samples_max: 16, ..Settings::default() }.validated().unwrap();
    let start = feed::START_MS;
    let end = |n: u64| EpochEnd {
        epoch: n,
        processing_ms: start + 20 * minute,
        watermark_ms: i64::MIN,
        last_of_input: false,
    };
    // Sixteen samples: one, then four, then eleven in the panes of three minutes that follow one another.
    let mut first = Samples::default();
    first.push(7, start + 50_000, 1.0);
    (0..4).for_each(|i| first.push(7, start + minute + 10_000 + i * 10_000, 2.0));
    (0..11).for_each(|i| first.push(7, start + 2 * minute + 2_000 + i * 5_000, 3.0));
    let mut late = Samples::default();
    late.push(7, start + minute + 15_000, 4.0);
    late.push(7, start + 2 * minute + 3_000, 5.0);
    let mut after = Samples::default();
    after.push(7, start + 6 * minute + 1, 6.0);
    let epochs = [(end(1), first), (end(2), late), (end(3), after)].map(Epoch::from);
    check(0, "a full ring", &settings, &epochs);
}

/// A NaN of all ones sorts where staleness markers do, and is none.
#[test]
fn only_the_bits_of_the_staleness_marker_are_one() {
    let settings = Settings::default().validated().unwrap();
    let end = EpochEnd {
        epoch: 1,
        processing_ms: feed::START_MS,
        watermark_ms: feed::START_MS,
        last_of_input: true,
    };
    let mut samples = Samples::default();
    samples.push(7, feed::START_MS, f64::from_bits(u64::MAX));
    samples.push(7, feed::START_MS, f64::from_bits(STALE_NAN_BITS));
    let out = Tactics::new(&settings).epoch(&(end, samples).into());
    assert_eq!(out.counts.stale_markers, 1);
    assert_eq!(out.counts.rejected[Reason::NotFinite as usize], 1);
}

/// Feeds one series to tactics and model, epoch by epoch: (processing time in ms, samples); the rows by (window, at).
fn scenario(settings: &Settings, epochs: &[(i64, &[i64])]) -> BTreeMap<(i64, i64), (u32, bool)> {
    let (mut tactics, mut model) = (Tactics::new(settings), Model::new(settings));
    let mut rows = BTreeMap::new();
    for (n, (processing_ms, times)) in epochs.iter().enumerate() {
        let mut samples = Samples::default();
        times.iter().for_each(|at| samples.push(7, *at, (at % 97) as f64));
        let (epoch, watermark_ms) = (n as u64 + 1, *processing_ms);
        let end = EpochEnd { epoch, processing_ms: *processing_ms, watermark_ms, last_of_input: false };
        let place = || format!("epoch {n} at {processing_ms}");
        for row in same_epoch(&mut tactics, &mut model, &(end, samples).into(), &place).lists.windows {
            rows.insert((row.window_ms, row.at_ms - feed::START_MS), (row.count, row.partial));
        }
    }
    rows
}

/// Silence closes a key; then one epoch brings a late sample into it and one that reopens it. The panes of the other window,
/// whose hop begins before the corrected one's, are still those of all their samples.
#[test]
fn a_correction_of_an_open_key_leaves_the_panes_of_other_windows_alone() {
    let window = |length: i64, hop: i64| Window { length_ms: length * 1_000, hop_ms: hop * 1_000 };
    let settings = Settings {
        windows: vec![window(2_400, 1_200), window(2_700, 900)],
        allowed_lateness_ms: 60_000,
        idle_timeout_ms: 30_000,
        catch_up_ms: 30_000,
        ..Settings::default()
    };
    let settings = settings.validated().unwrap();
    let at = |seconds: i64| feed::START_MS + seconds * 1_000;
    let regular: Vec<i64> = (1..=350).map(|i| i * 10).filter(|seconds| *seconds != 3_460).map(at).collect();
    let mut epochs: Vec<(i64, &[i64])> = regular.iter().map(|at| (*at, std::slice::from_ref(at))).collect();
    epochs.extend((351..=370).map(|i| (at(i * 10), &[][..])));
    let both = [at(3_460), at(3_590)];
    let next = [at(3_610)];
    epochs.extend([(at(3_705), &both[..]), (at(3_720), &next[..])]);
    let rows = scenario(&settings, &epochs);
    // 2700 s up to 3600 s: a sample each 10 s from 910 to 3500, and 3590.
    assert_eq!(rows[&(2_700_000, 3_600_000)], (261, false));
}

/// The window that a series ahead of the clock shows as open may lack panes that left their ring: then it says so.
#[test]
fn an_open_window_says_partial_where_panes_left_their_ring() {
    let windows = vec![Window { length_ms: 60_000, hop_ms: 10_000 }];
    let settings = Settings { windows, allowed_lateness_ms: 0, ..Settings::default() }.validated().unwrap();
    let shown = |ahead_ms: i64| {
        let mut tactics = Tactics::new(&settings);
        let processing_ms = feed::START_MS + 600_000;
        let mut samples = Samples::default();
        (0..600_000 + ahead_ms).step_by(1_000).for_each(|at| samples.push(7, feed::START_MS + at, 1.0));
        let end = EpochEnd { epoch: 1, processing_ms, watermark_ms: processing_ms, last_of_input: false };
        tactics.epoch(&(end, samples).into());
        let open = tactics.shard(SeriesId(7).shard()).open(SeriesId(7), &[]).unwrap();
        open.rows.iter().map(|row| (row.count, row.partial)).collect::<Vec<_>>()
    };
    assert_eq!(shown(0), [(49, false)]);
    // Its ring reaches eight panes back from its newest sample: of this window's six the newest five are there.
    assert_eq!(shown(40_000), [(50, true)]);
    assert_eq!(shown(300_000), []);
}
