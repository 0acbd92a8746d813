//! Same log, same bytes: the dataflow under a seeded scheduler that decides which worker steps when, how
//! the log's batches are cut, and who is starved. Real timely workers on real threads; only the holder of a
//! baton may step.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};

use tidewatch::outbox;
use tidewatch_dataflows::rows::Rows;
use tidewatch_dataflows::sample::{Control, Mark, MetricType, Samples, SeriesId};
use tidewatch_dataflows::settings::Settings;
use tidewatch_dataflows::{driver, graph};
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::operators::{Input, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};

use crate::oracle::{Epoch, feed};

type Collected = Arc<Mutex<BTreeMap<u64, Rows>>>;

/// What one worker feeds of an epoch.
type Part = (Vec<Samples>, Vec<Mark>);

/// A worker's inputs and what it still has to feed.
struct Side {
    samples: InputHandle<u64, NoopBuilder<Samples>>,
    ends: InputHandle<u64, CapacityContainerBuilder<Vec<Mark>>>,
    /// Per epoch: its batches (cut by the seed) and its marks.
    todo: std::vec::IntoIter<Part>,
    now: Option<(std::vec::IntoIter<Samples>, Vec<Mark>)>,
    epoch: u64,
}

impl Side {
    /// Feeds one batch, or ends an epoch; false when all is fed.
    fn feed(&mut self) -> bool {
        if self.now.is_none() {
            let Some((batches, marks)) = self.todo.next() else { return false };
            self.now = Some((batches.into_iter(), marks));
        }
        let Some((batches, marks)) = &mut self.now else { return false };
        match batches.next() {
            Some(mut batch) => self.samples.send_batch(&mut batch),
            None => {
                marks.drain(..).for_each(|mark| self.ends.send(mark));
                self.epoch += 1;
                self.samples.advance_to(self.epoch);
                self.ends.advance_to(self.epoch);
                self.now = None;
            }
        }
        true
    }
}

/// The types of series that are told in some epochs, of some of them twice. Every other series is told the same each time.
fn types(samples: &Samples) -> Vec<Mark> {
    let kind = |n: u64| if n.is_multiple_of(3) { MetricType::Gauge } else { MetricType::Counter };
    let of = |from: usize| -> Vec<_> {
        let series = (0..).zip(&samples.series).skip(from).step_by(2);
        series.map(|(n, series)| (*series, kind(if series % 2 == 0 { n } else { *series }))).collect()
    };
    let told = if samples.len() % 4 == 1 { vec![of(0), of(1)] } else { Vec::new() };
    told.into_iter().map(|types| Mark::Control(Arc::new(Control::Types(types)))).collect()
}

/// Cuts the log's samples into batches and deals them to workers, as the seed says.
fn deal(epochs: &[Epoch], workers: usize, rng: &mut fastrand::Rng) -> Vec<Vec<Part>> {
    let batch_max = [1, 7, 64, 4_096][rng.usize(0..4)];
    let mut dealt = vec![Vec::new(); workers];
    for Epoch { end, controls, bootstraps, live } in epochs {
        let mut parts: Vec<Vec<Samples>> = vec![Vec::new(); workers];
        for samples in bootstraps.iter().chain([live]) {
            let mut from = 0;
            while from < samples.len() {
                let to = (from + rng.usize(1..=batch_max)).min(samples.len());
                let mut batch = Samples::of_bootstrap(samples.bootstrap);
                (from..to).for_each(|i| batch.push(samples.series[i], samples.at_ms[i], samples.value[i]));
                parts[rng.usize(0..workers)].push(batch);
                from = to;
            }
        }
        let marks = controls.iter().cloned().map(Mark::Control).chain(types(live)).chain([Mark::End(*end)]);
        let marks: Vec<Mark> = marks.collect();
        for (worker, mut part) in parts.into_iter().enumerate() {
            rng.shuffle(&mut part);
            dealt[worker].push((part, marks.clone()));
        }
    }
    dealt
}

/// What a run came to.
#[derive(Debug, PartialEq)]
struct Ran {
    /// The outbox.
    bytes: Vec<u8>,
    /// A hash of which worker stepped when.
    schedule: u64,
    /// Rows of profiles.
    profiles: usize,
}

/// Runs the log on `workers` workers under a scheduler seeded with `seed`.
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn run(settings: &Settings, epochs: &[Epoch], workers: usize, seed: u64, refuses: bool) -> Ran {
    let mut rng = fastrand::Rng::with_seed(seed);
    let dealt: Vec<_> =
        deal(epochs, workers, &mut rng).into_iter().map(|part| Mutex::new(Some(part))).collect();
    let collected: Collected = Arc::default();
    let (batons_to, batons_from) = mpsc::channel::<(usize, mpsc::Sender<u8>)>();
    let (done_to, done_from) = mpsc::channel::<bool>();
    let shared = (Arc::new(settings.clone()), collected.clone(), Mutex::new((batons_to, done_to)));
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let (settings, collected) = (shared.0.clone(), shared.1.clone());
        let (batons, done) = shared.2.lock().unwrap().clone();
        let probe = ProbeHandle::new();
        let todo = dealt[worker.index()].lock().unwrap().take().unwrap().into_iter();
        let mut side = Some(worker.dataflow(|scope| {
            let (samples, stream) = scope.new_input_with_builder::<NoopBuilder<Samples>>();
            let (ends, marks) = scope.new_input_with_builder::<CapacityContainerBuilder<Vec<Mark>>>();
            let (outcomes, _) = graph::build(stream, marks.clone(), &settings, &Default::default());
            let mut refuse = 0_u8;
            driver::complete(outcomes, marks, "collect", move |end, all| {
                refuse = refuse.wrapping_add(1);
                if refuses && refuse % 5 == 1 {
                    return false; // a full outbox: it is asked again
                }
                collected.lock().unwrap().entry(end.epoch).or_default().append(all);
                true
            })
            .probe_with(&probe);
            Side { samples, ends, todo, now: None, epoch: 0 }
        }));
        let (baton, turns) = mpsc::channel();
        batons.send((worker.index(), baton)).unwrap();
        while let Ok(what) = turns.recv() {
            for _ in 0..what % 16 {
                if side.as_mut().is_some_and(|side| !side.feed()) {
                    side = None;
                }
            }
            worker.step();
            done.send(side.is_none() && probe.done()).unwrap();
        }
        worker.installed_dataflows().into_iter().for_each(|flow| worker.drop_dataflow(flow));
    })
    .unwrap();
    let mut batons: Vec<Option<mpsc::Sender<u8>>> = vec![None; workers];
    for _ in 0..workers {
        let (index, baton) = batons_from.recv().unwrap();
        batons[index] = Some(baton);
    }
    let (mut finished, mut schedule, mut starved, mut turn) =
        (vec![false; workers], 0xcbf2_9ce4_8422_2325_u64, (0, 0_u64), 0_u64);
    while !finished.iter().all(|done| *done) {
        turn += 1;
        if rng.u8(..) == 0 {
            starved = (rng.usize(0..workers), turn + 200);
        }
        let mut next = rng.usize(0..workers);
        if workers > 1 && next == starved.0 && turn < starved.1 {
            next = (next + 1) % workers;
        }
        let what = rng.u8(..);
        schedule = (schedule ^ (next as u64) << 8 ^ u64::from(what)).wrapping_mul(0x100_0000_01b3);
        batons[next].as_ref().unwrap().send(what).unwrap();
        finished[next] = done_from.recv().unwrap();
    }
    drop(batons);
    guards.join().into_iter().for_each(|joined| joined.unwrap());
    let mut ran = Ran { bytes: Vec::new(), schedule, profiles: 0 };
    for (epoch, mut all) in std::mem::take(&mut *collected.lock().unwrap()) {
        all.sort();
        ran.profiles += all.profiles.len();
        outbox::encode(epoch, &all, &mut ran.bytes);
    }
    ran
}

/// A short log with everything in it: late, duplicate and missing samples, outages, rejects, freed slots, bootstraps and
/// changed settings. Two of three are long enough for profiles; with these no slot is freed.
pub fn log(seed: u64) -> (Settings, Vec<Epoch>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut settings =
        if seed / 2 % 2 == 1 { feed::any_settings(&mut rng) } else { feed::settings(&mut rng) };
    let has_profiles = !seed.is_multiple_of(3);
    if has_profiles {
        settings.profile = feed::OFTEN;
    }
    let mut arrivals = Vec::new();
    let ids = feed::series(&mut rng, 6);
    for id in ids.iter().copied() {
        let mut truth = feed::truth(&mut rng);
        truth.truncate(if has_profiles { 240 } else { 60 });
        arrivals.extend(feed::arrivals(&mut rng, id.0, &truth));
    }
    let span =
        arrivals.iter().map(|a| a.when_ms).max().unwrap() - arrivals.iter().map(|a| a.when_ms).min().unwrap();
    let step_ms = (span / 120).max(1_000);
    // Every other log has a bootstrap in it.
    let mut told = Vec::new();
    if seed % 2 == 1 {
        let first = arrivals.iter().map(|a| a.when_ms).min().unwrap();
        let history = |id: SeriesId| (id.0, (1..50).map(|i| (first - i * 20_000, i as f64)).rev().collect());
        let mut series: Vec<_> = ids.iter().copied().map(history).collect();
        series.push(history(SeriesId(77)));
        let begins_ms = first + rng.i64(-10..10) * step_ms;
        let (bootstrapped, more) = feed::bootstrap(&mut rng, 5, begins_ms, &series, begins_ms);
        arrivals.extend(bootstrapped);
        told = more;
    }
    // And every third a series that is kept out for a while, and other settings.
    if seed % 3 == 1 {
        let (first, last) = (arrivals[0].when_ms, arrivals[arrivals.len() - 1].when_ms);
        let series = ids[0].0;
        told.push((first + (last - first) / 4, Control::Quarantine { series, epoch: 1 }));
        told.push((first + (last - first) / 2, Control::Lift { series }));
        told.sort_by_key(|(when_ms, _)| *when_ms);
    }
    let mut epochs = feed::live_with_bootstraps(&settings, arrivals, &told, step_ms, &[], 20 * step_ms);
    if seed % 3 == 1 {
        feed::change_settings(&mut rng, &settings, &mut epochs);
    }
    // In others the clock is wrong for a while, and is reset.
    if seed % 3 == 2 {
        crate::rules::jump(&mut rng, &mut epochs, &ids, settings.catch_up_ms);
    }
    (settings, epochs)
}

#[test]
fn any_workers_batches_and_interleavings_give_the_same_outbox_bytes() {
    let (mut schedules, mut typed, mut profiles) = (std::collections::BTreeSet::new(), 0, 0);
    for seed in 0..crate::rounds(200) {
        let (settings, epochs) = log(seed / 20);
        let one = run(&settings, &epochs, 1, seed, false);
        assert!(!one.bytes.is_empty());
        profiles += one.profiles;
        typed += u64::from(epochs.iter().any(|epoch| !types(&epoch.live).is_empty()));
        for workers in [2, 4] {
            let many = run(&settings, &epochs, workers, seed, seed % 2 == 0);
            assert!(one.bytes == many.bytes, "seed {seed}: {workers} workers gave other bytes than one");
            schedules.insert(many.schedule);
        }
    }
    assert!(typed > 0, "some logs must tell types");
    println!("{profiles} profile rows");
    assert!(profiles > 0, "some logs must give profiles");
    assert!(schedules.len() as u64 >= crate::rounds(200), "the scheduler must try different interleavings");
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    let (settings, epochs) = log(3);
    // Without refusals: a refused epoch is offered again after a while by the clock.
    assert_eq!(run(&settings, &epochs, 2, 42, false), run(&settings, &epochs, 2, 42, false));
}
