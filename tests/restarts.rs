//! Restarts, changes of settings, bootstraps, quarantine, late samples and silence together, on random window sets:
//! a shard that is saved and loaded at any moment goes on bit for bit as one that never stopped, and both give every
//! row and revision of the slow model.
//!
//! Here the computation runs without timely, so that thousands of feeds are cheap; `restored` does it with workers.

use std::sync::Arc;

use tidewatch::journal::EpochCutter;
use tidewatch_dataflows::rows::Rows;
use tidewatch_dataflows::sample::{EpochEnd, SeriesId};
use tidewatch_dataflows::settings::Settings;
use tidewatch_dataflows::snapshot::CHAINS;
use tidewatch_dataflows::stages::admit::Admit;
use tidewatch_dataflows::stages::window::Windows;

use crate::oracle::feed;
use crate::oracle::{Epoch, Model};
use crate::rules::{ShardSamples, by_shard, retire_shard, same_as_model};

/// Shards that the series of [`feed::series`] are in.
const SHARDS: usize = 3;
/// Of so many feeds one is long; the others are short, and have a bootstrap and other settings while it is open.
const LONG: u64 = 4;

type Shard = (Admit, Windows);

/// One chain of snapshots of a shard.
#[derive(Clone)]
struct Chain {
    /// Index of the epoch that it is the state of.
    epoch: usize,
    settings: Settings,
    gate: Vec<u8>,
    windows: Vec<u8>,
    panes: Vec<Vec<u8>>,
}

fn new_shard(settings: &Settings) -> Shard {
    let settings = Arc::new(settings.clone());
    (Admit::new(Arc::clone(&settings)), Windows::new(settings))
}

/// Saves what a chain of the shard lacks, and adds it to the chain.
fn save(shard: &mut Shard, chain: &mut Option<Chain>, (number, epoch, whole): (usize, usize, bool)) {
    let mut gate = Vec::new();
    let live = shard.0.save(&mut gate);
    // The number of an epoch is at least 1.
    let mut saving = shard.1.begin_save((epoch as u64 + 1, number, whole), live.len());
    while !shard.1.save_some(&mut saving, &live, 2) {}
    let whole = saving.whole;
    let (windows, panes) = saving.bytes();
    let mut all = if whole { Vec::new() } else { chain.take().expect("a chain begins whole").panes };
    all.push(panes);
    *chain = Some(Chain { epoch, settings: shard.1.settings().clone(), gate, windows, panes: all });
}

fn load(chain: &Chain, shard: usize) -> Shard {
    let settings = Arc::new(chain.settings.clone());
    let (gate, live) = Admit::load(Arc::clone(&settings), shard, &chain.gate).expect("what was saved loads");
    let panes: Vec<&[u8]> = chain.panes.iter().map(Vec::as_slice).collect();
    let windows = Windows::load(settings, gate.slots(), &live, &chain.windows, &panes);
    (gate, windows.expect("what was saved loads"))
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
        let parts = epochs.iter().map(|epoch| {
            let mut parts = by_shard(&epoch.bootstraps, &epoch.live);
            (0..SHARDS).map(|shard| parts.remove(&shard).unwrap_or_default()).collect()
        });
        let parts = parts.collect();
        Feed { settings, epochs, parts, series }
    }

    fn retire(&self, shard: &mut Shard, number: usize, epoch: usize) -> Rows {
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
    let mut whole: Vec<Shard> = (0..SHARDS).map(|_| new_shard(&feed.settings)).collect();
    let mut restarted: Vec<Shard> = (0..SHARDS).map(|_| new_shard(&feed.settings)).collect();
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
                let last = chains[shard][number].as_ref().map(|chain| chain.epoch as u64 + 1);
                let goes_on = last.is_some() && restarted[shard].1.saved_epoch(number) == last;
                let begins = !goes_on || rng.u8(0..6) == 0;
                save(&mut restarted[shard], &mut chains[shard][number], (number, n, begins));
            }
        }
        outcomes.push(here);
        all.sort();
        tally.rows += all.windows.len() as u64;
        tally.partial += all.windows.iter().filter(|row| row.partial).count() as u64;
        tally.revised += all.windows.iter().filter(|row| row.revision > 0).count() as u64;
        same_as_model(&all, &model.epoch(&feed.epochs[n]), &|| place(n));
        let series = feed.series[rng.usize(0..feed.series.len())];
        let processing_ms = feed.epochs[n].end.processing_ms;
        assert_eq!(
            open(&whole[series.shard()], series, processing_ms),
            open(&restarted[series.shard()], series, processing_ms),
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
) -> Shard {
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

fn open(shard: &Shard, series: SeriesId, processing_ms: i64) -> Vec<String> {
    let slot = shard.0.slot(series.0);
    let rows = slot.map(|slot| shard.1.open(slot, series, &[], processing_ms)).unwrap_or_default();
    rows.iter().map(|row| format!("{row:?}")).collect()
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
    let Tally { restarts, rows, partial, revised } = tally;
    println!(
        "{rounds} feeds, {restarts} restarts of shards, {rows} rows, {partial} partial, {revised} revised"
    );
    let seeds: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "{} feeds failed: {seeds:?}; the first: {}", failed.len(), failed[0].1);
    assert!(restarts > rounds && rows > rounds * 100 && revised > rounds, "too little happened");
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
        (Mutant::TimerNotArmed, 900..2_000),
        (Mutant::SilenceCountsAsAnswer, 0..4_000),
        (Mutant::ReshapedNotSaved, 0..4_000),
        (Mutant::OtherPanesForgotten, 1_300..2_500),
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
