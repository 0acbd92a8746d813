//! Restarts, changes of settings, bootstraps, quarantine, late samples and silence together, on random window sets:
//! a shard that is saved and loaded at any moment goes on bit for bit as one that never stopped, and both give every
//! row and revision of the slow model.
//!
//! Here the computation runs without timely, so that thousands of feeds are cheap; `restored` does it with workers.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidewatch::journal::EpochCutter;
use tidewatch_dataflows::pipeline::ShardState;
use tidewatch_dataflows::rows::windows::QuantileValues;
use tidewatch_dataflows::rows::{ResultRow, Rows, WindowStats};
use tidewatch_dataflows::sample::{EpochEnd, SeriesId};
use tidewatch_dataflows::settings::Settings;
use tidewatch_dataflows::snapshot::{CHAINS, SaveRequest, ShardSnapshot, StoredShard};

use crate::oracle::feed;
use crate::oracle::{Epoch, Model, same_row};
use crate::rules::{ShardSamples, by_shard, retire_shard, same_as_model};

/// Shards that the series of [`feed::series`] are in.
const SHARDS: usize = 3;
/// Of so many feeds one is long; the others are short, and have a bootstrap and other settings while it is open.
const LONG: u64 = 4;

/// One chain of snapshots of a shard.
#[derive(Clone)]
struct Chain {
    /// Index of the epoch that it is the state of.
    epoch: usize,
    /// Its last save.
    last: ShardSnapshot,
    /// What is sealed, save by save.
    sealed: Vec<Vec<u8>>,
}

fn new_shard(settings: &Settings) -> ShardState {
    ShardState::new(&Arc::new(settings.clone()))
}

/// Saves what a chain of the shard lacks, and adds it to the chain.
fn save(shard: &mut ShardState, chain: &mut Option<Chain>, epoch: usize, request: SaveRequest) {
    let mut last = shard.snapshot(request).expect("it has retired an epoch");
    let mut sealed =
        if last.save.whole { Vec::new() } else { chain.take().expect("a chain begins whole").sealed };
    sealed.push(std::mem::take(&mut last.sealed));
    *chain = Some(Chain { epoch, last, sealed });
}

fn load(chain: &Chain, shard: usize) -> ShardState {
    let ShardSnapshot { end, settings, state, .. } = &chain.last;
    let sealed = chain.sealed.iter().map(Vec::as_slice).collect();
    let stored = StoredShard { end: *end, settings: settings.clone(), state, sealed };
    ShardState::load(shard, &stored).expect("what was saved loads")
}

/// A feed as the shards see it.
struct Feed {
    settings: Settings,
    epochs: Vec<Epoch>,
    /// By epoch and shard.
    parts: Vec<Vec<ShardSamples>>,
    series: Vec<SeriesId>,
}

impl Feed {
    fn new(rng: &mut fastrand::Rng, dense: bool) -> Feed {
        let settings = feed::any_settings(rng);
        let (series, mut epochs) = feed::mixed(rng, &settings, dense);
        if dense || rng.bool() {
            feed::change_settings(rng, &settings, &mut epochs);
        }
        if rng.u8(0..3) == 0 {
            feed::quarantine(rng, &series, &mut epochs);
        }
        // By numbers of their own: the feeds are those that find mutants.
        let mut others = fastrand::Rng::with_seed(rng.clone().u64(..));
        feed::set_options(&mut others, &series, &mut epochs);
        let parts = epochs.iter().map(|epoch| {
            let mut parts = by_shard(&epoch.bootstraps, &epoch.live);
            (0..SHARDS).map(|shard| parts.remove(&shard).unwrap_or_default()).collect()
        });
        let parts = parts.collect();
        Feed { settings, epochs, parts, series }
    }

    fn retire(&self, shard: &mut ShardState, number: usize, epoch: usize) -> Rows {
        let Epoch { end, controls, .. } = &self.epochs[epoch];
        let mut out = retire_shard(shard, number, *end, controls, self.parts[epoch][number].clone());
        out.sort();
        out
    }
}

/// How often a shard is saved, and when it is begun again.
struct Plan {
    /// Epochs between two saves of a shard, about.
    saves_every: usize,
    /// Of so many epochs about one is followed by a restart.
    restarts_every: usize,
}

/// What a run came to.
#[derive(Default)]
struct Tally {
    restarts: u64,
    rows: u64,
    partial: u64,
    revised: u64,
    with_quantiles: u64,
}

/// Runs one feed; panics where a restart shows, or where the slow model differs.
fn run(seed: u64, tally: &mut Tally) {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x2E57_A275);
    let feed = Feed::new(&mut rng, !seed.is_multiple_of(LONG));
    let place = |epoch: usize| {
        let Epoch { end, controls, .. } = &feed.epochs[epoch];
        format!(
            "seed {seed}, epoch {epoch} of {}, {end:?} {controls:?}\n{:?}",
            feed.epochs.len(),
            feed.settings
        )
    };
    let plan = Plan {
        saves_every: [1, 5, 30, 300][rng.usize(0..4)],
        restarts_every: [20, 100, 400][rng.usize(0..3)],
    };
    let mut model = Model::new(&feed.settings);
    let mut whole: Vec<ShardState> = (0..SHARDS).map(|_| new_shard(&feed.settings)).collect();
    let mut restarted: Vec<ShardState> = (0..SHARDS).map(|_| new_shard(&feed.settings)).collect();
    let mut chains: Vec<[Option<Chain>; CHAINS]> = vec![[const { None }; CHAINS]; SHARDS];
    let mut outcomes: Vec<Vec<Rows>> = Vec::new();
    for n in 0..feed.epochs.len() {
        let mut all = Rows::default();
        let mut here = Vec::new();
        for shard in 0..SHARDS {
            let want = feed.retire(&mut whole[shard], shard, n);
            let got = feed.retire(&mut restarted[shard], shard, n);
            assert!(got == want, "{}\n shard {shard}: {}", place(n), difference(&got, &want));
            all.append(&mut want.clone());
            here.push(want);
            if rng.usize(0..plan.saves_every) == 0 {
                let number = rng.usize(0..CHAINS);
                // A chain goes on only from the save that the shard knows as its last.
                let last = chains[shard][number].as_ref().map(|chain| chain.last.end.epoch);
                let goes_on = last.is_some() && restarted[shard].saved_epoch(number) == last;
                let begins = !goes_on || rng.u8(0..6) == 0;
                let request = SaveRequest { shard, chain: number, whole: begins };
                save(&mut restarted[shard], &mut chains[shard][number], n, request);
            }
        }
        outcomes.push(here);
        all.sort();
        tally.rows += all.windows.len() as u64;
        tally.partial += all.windows.iter().filter(|row| row.partial).count() as u64;
        tally.revised += all.windows.iter().filter(|row| row.revision > 0).count() as u64;
        tally.with_quantiles +=
            all.windows.iter().filter(|row| row.quantiles != QuantileValues::default()).count() as u64;
        same_as_model(&all, &model.epoch(&feed.epochs[n]), &|| place(n));
        let series = feed.series[rng.usize(0..feed.series.len())];
        assert_eq!(
            open(&whole[series.shard()], series),
            open(&restarted[series.shard()], series),
            "{}",
            place(n)
        );
        if rng.usize(0..plan.restarts_every) == 0 {
            for shard in 0..SHARDS {
                tally.restarts += 1;
                restarted[shard] = restart(&mut rng, &feed, shard, &mut chains[shard], &outcomes, &place);
            }
        }
    }
}

/// A shard begun from one of its chains, with the epochs since.
fn restart(
    rng: &mut fastrand::Rng,
    feed: &Feed,
    number: usize,
    chains: &mut [Option<Chain>; CHAINS],
    outcomes: &[Vec<Rows>],
    place: &dyn Fn(usize) -> String,
) -> ShardState {
    let newest = (0..CHAINS).max_by_key(|chain| chains[*chain].as_ref().map(|chain| chain.epoch));
    let newest = newest.expect("there are chains");
    if rng.u8(0..4) == 0 && chains.iter().all(Option::is_some) {
        // As if it were damaged: the older one has to do.
        chains[newest] = None;
    }
    let chain = chains.iter().flatten().max_by_key(|chain| chain.epoch);
    let (mut shard, from) = match chain {
        Some(chain) => (load(chain, number), chain.epoch + 1),
        None => (new_shard(&feed.settings), 0),
    };
    for (epoch, want) in outcomes.iter().enumerate().skip(from) {
        let (got, want) = (feed.retire(&mut shard, number, epoch), &want[number]);
        assert!(got == *want, "{}\n again, shard {number}: {}", place(epoch), difference(&got, want));
    }
    shard
}

fn open(shard: &ShardState, series: SeriesId) -> Vec<String> {
    let open = shard.open(series, &[]).expect("the shard is between two epochs");
    open.rows.iter().map(|row| format!("{row:?}")).collect()
}

/// The first row that differs.
fn difference(got: &Rows, want: &Rows) -> String {
    let rows = got.windows.iter().map(Some).chain(std::iter::repeat(None));
    let wanted = want.windows.iter().map(Some).chain(std::iter::repeat(None));
    let pair = rows.zip(wanted).take_while(|pair| *pair != (None, None)).find(|(a, b)| a != b);
    match pair {
        Some((got, want)) => format!("\n got {got:?}\nwant {want:?}"),
        None => format!(
            "\n got {:?} {:?} {:?}\nwant {:?} {:?} {:?}",
            got.rejects, got.freed, got.counts, want.rejects, want.freed, want.counts
        ),
    }
}

/// Runs so many feeds; what failed, by seed.
fn failures(seeds: std::ops::Range<u64>, tally: &mut Tally) -> Vec<(u64, String)> {
    let mut failed = Vec::new();
    for seed in seeds {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(seed, tally);
        }));
        if let Err(panic) = outcome {
            let message = panic.downcast_ref::<String>().cloned();
            failed.push((seed, message.unwrap_or_else(|| "a panic without a text".to_owned())));
        }
    }
    failed
}

#[test]
fn a_restart_shows_in_no_row_whatever_else_happens() {
    let mut tally = Tally::default();
    let rounds = crate::rounds(400);
    let first = crate::first_seed(0);
    let failed = failures(first..first + rounds, &mut tally);
    let Tally { restarts, rows, partial, revised, with_quantiles } = tally;
    println!(
        "{rounds} feeds, {restarts} restarts of shards, {rows} rows, {partial} partial, {revised} revised, {with_quantiles} with quantiles"
    );
    let seeds: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "{} feeds failed: {seeds:?}; the first: {}", failed.len(), failed[0].1);
    assert!(restarts > rounds && rows > rounds * 100 && revised > rounds, "too little happened");
    assert!(with_quantiles > rows / 50, "few rows have quantiles");
}

/// A snapshot without the part of a stage: it is built anew from what the gate holds, and says which rows lack samples.
#[test]
fn a_stage_without_its_part_of_the_snapshot_is_built_anew() {
    let (mut rows, mut partial, mut rebuilt) = (0_u64, 0_u64, 0_u64);
    for seed in 0..crate::rounds(60) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x4EB_11D);
        let feed = Feed::new(&mut rng, seed % 3 > 0);
        let at = rng.usize(0..feed.epochs.len());
        for number in 0..SHARDS {
            let mut whole = new_shard(&feed.settings);
            (0..=at).for_each(|epoch| drop(feed.retire(&mut whole, number, epoch)));
            let mut chain = None;
            save(&mut whole, &mut chain, at, SaveRequest { shard: number, chain: 0, whole: true });
            let mut chain = chain.expect("it was saved");
            for bytes in std::iter::once(&mut chain.last.state).chain(&mut chain.sealed) {
                // Another name, as if the program that wrote it had no such stage.
                let name = bytes.windows(6).position(|bytes| bytes == b"window").expect("the part is there");
                bytes[name..name + 6].copy_from_slice(b"widnow");
            }
            let mut anew = load(&chain, number);
            assert_eq!(anew.saved_epoch(0), None, "the chain begins anew");
            rebuilt += 1;
            let (mut got, mut want) = (BTreeMap::new(), BTreeMap::new());
            let note = |all: &mut BTreeMap<_, _>, rows: &Rows| {
                all.extend(rows.windows.iter().map(|row| (row.key(), WindowStats { revision: 0, ..*row })));
            };
            for epoch in at + 1..feed.epochs.len() {
                let (ours, theirs) =
                    (feed.retire(&mut anew, number, epoch), feed.retire(&mut whole, number, epoch));
                assert_eq!(
                    (&ours.rejects, &ours.freed),
                    (&theirs.rejects, &theirs.freed),
                    "the gate is whole"
                );
                note(&mut got, &ours);
                note(&mut want, &theirs);
            }
            for (key, row) in got.iter().filter(|(_, row)| !row.partial) {
                // What the other published before is a key that this one may not answer.
                let theirs = want
                    .get(key)
                    .unwrap_or_else(|| panic!("seed {seed}: only the rebuilt shard has {row:?}"));
                assert!(
                    same_row(row, &WindowStats { partial: false, ..*theirs }),
                    "seed {seed}:\n{row:?}\n{theirs:?}"
                );
            }
            rows += got.len() as u64;
            partial += got.values().filter(|row| row.partial).count() as u64;
        }
    }
    assert!(partial > rebuilt && rows > 4 * partial, "{rebuilt} shards, {rows} rows, {partial} partial");
}

/// The same without the part of the quantiles: rows are as they were, but quantiles of windows that began before may be missing.
#[test]
fn quantiles_without_their_part_of_the_snapshot_begin_with_the_raw_samples() {
    let (mut known, mut missing) = (0_u64, 0_u64);
    for seed in 0..crate::rounds(60) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x0A47_111E);
        let feed = Feed::new(&mut rng, seed % 3 > 0);
        let at = rng.usize(0..feed.epochs.len());
        for number in 0..SHARDS {
            let mut whole = new_shard(&feed.settings);
            (0..=at).for_each(|epoch| drop(feed.retire(&mut whole, number, epoch)));
            let mut chain = None;
            save(&mut whole, &mut chain, at, SaveRequest { shard: number, chain: 0, whole: true });
            let mut chain = chain.expect("it was saved");
            for bytes in std::iter::once(&mut chain.last.state).chain(&mut chain.sealed) {
                let name =
                    bytes.windows(9).position(|bytes| bytes == b"quantiles").expect("the part is there");
                bytes[name..name + 9].copy_from_slice(b"quantulum");
            }
            let mut anew = load(&chain, number);
            for epoch in at + 1..feed.epochs.len() {
                let (ours, theirs) =
                    (feed.retire(&mut anew, number, epoch), feed.retire(&mut whole, number, epoch));
                assert_eq!(ours.windows.len(), theirs.windows.len(), "seed {seed}, epoch {epoch}");
                for (row, theirs) in ours.windows.iter().zip(&theirs.windows) {
                    let bare =
                        |row: &WindowStats| WindowStats { quantiles: QuantileValues::default(), ..*row };
                    assert_eq!(bare(row), bare(theirs), "seed {seed}, epoch {epoch}");
                    let (none, is_known) = (QuantileValues::default(), row.quantiles == theirs.quantiles);
                    // What was set late shows late, while raw samples are held of before.
                    let one_is_missing = row.quantiles == none || theirs.quantiles == none;
                    assert!(is_known || one_is_missing, "seed {seed}:\n{row:?}\n{theirs:?}");
                    known += u64::from(is_known && theirs.quantiles != none);
                    missing += u64::from(!is_known);
                }
            }
        }
    }
    assert!(known > 300 && missing > 50, "{known} rows with quantiles, {missing} without");
}

/// The steps by which processing time goes on, and how far silence may be judged, of a second's epochs on a slow disk.
#[test]
fn silence_is_judged_at_any_cadence() {
    for (idle_timeout_ms, step_ms) in [(1_000, 1_003), (1_000, 4_000), (5_000, 9_000), (1_000, 25_000)] {
        let last = EpochEnd { epoch: 1, processing_ms: 0, watermark_ms: 0, last_of_input: false };
        let mut cutter = EpochCutter::new(Some(last), idle_timeout_ms, 60_000, 1_000);
        let ends: Vec<EpochEnd> = (1..100).map(|n| cutter.cut(n * step_ms)).collect();
        let stands = ends.iter().filter(|end| end.watermark_ms < end.processing_ms).count();
        // Steps of up to ten epochs are no jumps; of slower ones the first two are.
        let stands_max = if step_ms <= 10_000 { 0 } else { 60_000 / step_ms + 2 };
        assert!(stands as i64 <= stands_max, "{idle_timeout_ms} ms of silence, {step_ms} ms apart: {stands}");
    }
}

/// Bugs that were mended, put back: each is found by the feeds that CI runs.
#[cfg(feature = "faults")]
mod mutants {
    use tidewatch_dataflows::mutants::{Mutant, put_in};

    use super::{Tally, failures};

    /// A bug of the computation, and the feeds that are tried until one finds it.
    const MUTANTS: [(Mutant, std::ops::Range<u64>); 8] = [
        (Mutant::PanesLeftBehind, 0..4_000),
        (Mutant::AddedPanesLeftBehind, 0..4_000),
        (Mutant::AddedNotMuted, 0..4_000),
        (Mutant::LoweredAllowedLatenessNotPassed, 0..4_000),
        (Mutant::TimerNotArmed, 2_400..4_000),
        (Mutant::SilenceCountsAsAnswer, 0..4_000),
        (Mutant::ReshapedNotSaved, 0..4_000),
        (Mutant::OtherPanesForgotten, 3_000..5_000),
    ];

    #[test]
    fn every_mutant_is_found() {
        for (mutant, feeds) in MUTANTS {
            put_in(Some(mutant));
            let found = feeds.clone().find_map(|seed| failures(seed..seed + 1, &mut Tally::default()).pop());
            put_in(None);
            let (seed, said) =
                found.unwrap_or_else(|| panic!("{mutant:?} is not found by the feeds {feeds:?}"));
            println!("{mutant:?}: feed {seed}: {}", said.lines().next().unwrap_or_default());
        }
    }

    /// A bug of the server that this module finds, in a process of its own.
    #[test]
    fn every_mutant_of_the_cutter_is_found() {
        if std::env::var("MUTANT").is_ok() {
            return;
        }
        for mutant in ["12", "13"] {
            let run = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["restarts::silence_is_judged_at_any_cadence"])
                .env("MUTANT", mutant)
                .output()
                .unwrap();
            assert!(!run.status.success(), "mutant {mutant}: {}", String::from_utf8_lossy(&run.stdout));
        }
    }
}
