//! What snapshots cost: the longest pause, bytes and megabytes a second to the disk, and seconds to load.
//!
//! The shards hold what they hold after twelve hours: a sample a minute for eleven of them, then one each 15 s.

use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use tidewatch::metrics::Metrics;
use tidewatch::snapshots::Snapshots;
use tidewatch_dataflows::driver;
use tidewatch_dataflows::graph;
use tidewatch_dataflows::pipeline::ShardState;
use tidewatch_dataflows::sample::{EpochEnd, Mark, SHARDS, Samples};
use tidewatch_dataflows::settings::Settings;
use tidewatch_dataflows::snapshot::{SaveRequest, ShardSnapshot, assemble};
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::ProbeHandle;
use timely::dataflow::operators::{Input, Probe};

use crate::core::{START_MS, series_id, value};

const WORKERS: usize = 2;
const MINUTE_MS: i64 = 60_000;

/// A round in which every shard is saved once, one an epoch.
#[derive(Clone, Copy)]
struct Round {
    chain: usize,
    whole: bool,
}

/// Seconds of the longest step of any worker.
type Longest = Arc<Mutex<f64>>;

pub fn snapshots() {
    println!("      series   longest step, ms         bytes/series on disk    MB/s to disk   load, s");
    println!("             none   whole   since     whole    since    state    write  sync    2 threads");
    for series in [10_000, 100_000, 500_000] {
        measure(series);
    }
}

fn measure(series: usize) {
    let folder = std::env::temp_dir().join(format!("tidewatch-bench-snapshots-{}", std::process::id()));
    let metrics = Arc::new(Metrics::new());
    let open = || Snapshots::open(&folder, Duration::from_secs(300), Arc::clone(&metrics)).unwrap();
    let (to, from) = channel::<ShardSnapshot>();
    let writer = std::thread::spawn({
        let snapshots = open();
        move || {
            let (mut written, mut sizes) = (Duration::ZERO, Vec::new());
            for saved in from {
                let begun = Instant::now();
                sizes.push((saved.save, saved.sealed.len(), saved.state.len()));
                snapshots.take(vec![saved]);
                // One after the other, so that the time is the disk's.
                let n = sizes.len() as u64;
                while snapshots.written() < n {
                    std::thread::sleep(Duration::from_micros(200));
                }
                written += begun.elapsed();
            }
            (written, sizes)
        }
    });
    let longest = bootstrap_and_save(series, to);
    let (written, sizes) = writer.join().unwrap();
    let sum = |whole: bool, of: fn(&(SaveRequest, usize, usize)) -> usize| -> f64 {
        sizes.iter().filter(|(save, ..)| save.whole == whole).map(of).sum::<usize>() as f64
    };
    let all = sum(true, |s| s.1 + s.2) + sum(false, |s| s.1 + s.2);
    let snapshots = open();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for part in 0..WORKERS {
            let snapshots = &snapshots;
            scope.spawn(move || {
                for shard in (part..SHARDS).step_by(WORKERS) {
                    let loaded = snapshots.load(shard).unwrap().expect("every shard was saved");
                    ShardState::load(shard, &loaded.stored()).unwrap();
                }
            });
        }
    });
    let load = begun.elapsed().as_secs_f64();
    let per = |bytes: f64, rounds: f64| bytes / rounds / series as f64;
    println!(
        "{series:>12} {:>7.1} {:>7.1} {:>7.1} {:>9.0} {:>8.0} {:>8.0} {:>8.0} {:>15.2}",
        longest[0] * 1e3,
        longest[1] * 1e3,
        longest[2] * 1e3,
        per(sum(true, |s| s.1), 2.0),
        per(sum(false, |s| s.1), 1.0),
        per(sum(false, |s| s.2), 1.0),
        all / 1e6 / written.as_secs_f64(),
        load,
    );
    println!("{:>12} {:.0} bytes/series on disk in all", "", snapshots.bytes() as f64 / series as f64);
    drop(snapshots);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Bootstraps the shards and saves each three times; the longest step without saves, with whole ones, with later ones.
#[expect(clippy::too_many_lines, reason = "a benchmark from its beginning to its end")]
fn bootstrap_and_save(series: usize, to: std::sync::mpsc::Sender<ShardSnapshot>) -> [f64; 3] {
    let settings = Arc::new(Settings { series_max: 2_000_000, ..Settings::default() }.validated().unwrap());
    let longest: [Longest; 3] = Default::default();
    let shared = (settings, Mutex::new(to), Arc::new(Barrier::new(WORKERS)), longest.clone());
    let guards = timely::execute(timely::Config::process(WORKERS), move |worker| {
        let (settings, barrier, longest) = (shared.0.clone(), shared.2.clone(), shared.3.clone());
        let to = shared.1.lock().unwrap().clone();
        let (index, peers) = (worker.index(), worker.peers());
        let probe = ProbeHandle::new();
        let (mut samples, mut ends) = worker.dataflow(|scope| {
            let (samples, stream) = scope.new_input_with_builder::<NoopBuilder<Samples>>();
            let (ends, marks) = scope.new_input_with_builder::<CapacityContainerBuilder<Vec<Mark>>>();
            let (outcomes, _) = graph::build(stream, marks.clone(), &settings, &Default::default());
            driver::complete(outcomes, marks, "take", move |_, all| {
                assemble(std::mem::take(&mut all.saved))
                    .into_iter()
                    .for_each(|saved| to.send(saved).unwrap());
                true
            })
            .probe_with(&probe);
            (samples, ends)
        });
        let mine: Vec<(usize, u64)> = (index..series).step_by(peers).map(|i| (i, series_id(i))).collect();
        let mut epoch = 0_u64;
        let mut batch = Samples::with_capacity(driver::BATCH_SAMPLES);
        // One sample of some series, an end, and steps until it is done; the longest of them.
        let mut tick = |worker: &mut timely::worker::Worker,
                        at_ms: i64,
                        part: (usize, usize),
                        save: Option<SaveRequest>| {
            for (i, id) in mine[mine.len() * part.0 / part.1..mine.len() * (part.0 + 1) / part.1].iter() {
                batch.push(*id, at_ms, value(*i, at_ms as usize / 15_000));
                if batch.len() == driver::BATCH_SAMPLES {
                    samples.send_batch(&mut batch);
                    batch.clear();
                }
            }
            samples.send_batch(&mut batch);
            batch.clear();
            epoch += 1;
            save.into_iter().for_each(|save| ends.send(Mark::Save(save)));
            ends.send(Mark::End(EpochEnd {
                epoch,
                processing_ms: at_ms,
                watermark_ms: at_ms,
                last_of_input: false,
            }));
            samples.advance_to(epoch + 1);
            ends.advance_to(epoch + 1);
            let mut most = Duration::ZERO;
            while probe.less_than(&(epoch + 1)) {
                let begun = Instant::now();
                worker.step();
                most = most.max(begun.elapsed());
            }
            most.as_secs_f64()
        };
        let parts = (series / 100_000).max(1);
        let mut now = START_MS;
        let until = START_MS + 12 * 60 * MINUTE_MS;
        while now < until {
            for part in 0..parts {
                tick(worker, now, (part, parts), None);
            }
            now += if now < until - 60 * MINUTE_MS { MINUTE_MS } else { 15_000 };
        }
        // A sender that scrapes each 15 s brings a 256th of its series with each epoch of the rounds.
        let rounds = [
            None,
            Some(Round { chain: 0, whole: true }),
            Some(Round { chain: 1, whole: true }),
            Some(Round { chain: 0, whole: false }),
        ];
        for round in rounds {
            barrier.wait();
            let mut most: f64 = 0.0;
            for shard in 0..SHARDS {
                let save = round.map(|Round { chain, whole }| SaveRequest { shard, chain, whole });
                most = most.max(tick(worker, now, (shard, SHARDS), save));
            }
            // Five minutes pass between rounds.
            for _ in 0..20 {
                now += 15_000;
                for part in 0..parts {
                    tick(worker, now, (part, parts), None);
                }
            }
            now += 15_000;
            let place = round.map_or(0, |round| if round.whole { 1 } else { 2 });
            let mut longest = longest[place].lock().unwrap();
            *longest = longest.max(most);
        }
    })
    .unwrap();
    guards.join().into_iter().for_each(|joined| joined.unwrap());
    longest.map(|longest| *longest.lock().unwrap())
}
