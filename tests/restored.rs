//! A shard that is saved and begun again from what was saved goes on as if nothing had been: the same bytes, whichever
//! of its two chains it is begun from, whenever, and on however many workers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tidewatch_dataflows::driver;
use tidewatch_dataflows::graph::{self, owned};
use tidewatch_dataflows::pipeline::ShardState;
use tidewatch_dataflows::rows::Rows;
use tidewatch_dataflows::sample::{EpochEnd, Mark, SHARDS, Samples};
use tidewatch_dataflows::settings::Settings;
use tidewatch_dataflows::snapshot::{CHAINS, SaveRequest, ShardSnapshot, StoredShard, assemble};
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::ProbeHandle;
use timely::dataflow::operators::{Input, Probe};

use crate::oracle::Epoch;
use crate::same_log::log;

/// Shards that the series of [`log`] are in.
const USED: [usize; 4] = [0, 1, 2, 77];

/// One chain of a shard, as far as it was kept.
#[derive(Clone)]
struct Chain {
    end: EpochEnd,
    settings: Settings,
    state: Vec<u8>,
    sealed: Vec<Vec<u8>>,
}

impl Chain {
    fn held(&self) -> StoredShard<'_> {
        let sealed = self.sealed.iter().map(Vec::as_slice).collect();
        StoredShard { end: self.end, settings: self.settings.clone(), state: &self.state, sealed }
    }
}

/// The chains of all shards.
type Kept = Vec<[Option<Chain>; CHAINS]>;

/// Puts a save where it belongs.
fn keep(kept: &mut Kept, saved: ShardSnapshot) {
    let ShardSnapshot { save, end, settings, state, sealed } = saved;
    let place = &mut kept[save.shard][save.chain];
    let mut all = if save.whole { Vec::new() } else { place.take().expect("a chain begins whole").sealed };
    all.push(sealed);
    *place = Some(Chain { end, settings, state, sealed: all });
}

/// Runs epochs over these shards, asking for saves; what came out by epoch, and the saves in order.
fn run(
    settings: &Settings,
    workers: usize,
    begun: &[Option<Chain>],
    epochs: &[Epoch],
    saves: &BTreeMap<u64, Vec<SaveRequest>>,
) -> (BTreeMap<u64, Rows>, Vec<ShardSnapshot>) {
    let collected: Arc<Mutex<BTreeMap<u64, Rows>>> = Arc::default();
    let shared = (settings.clone(), begun.to_vec(), epochs.to_vec(), saves.clone(), collected.clone());
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let (settings, begun, epochs, saves, collected) = shared.clone();
        let settings = Arc::new(settings);
        let mine = owned(worker.index(), workers);
        let shard = |shard: usize| match begun.get(shard).and_then(Option::as_ref) {
            Some(chain) => ShardState::load(shard, &chain.held()).expect("what was saved loads"),
            None => ShardState::new(&settings),
        };
        let shards = (0..SHARDS).map(|s| mine(s).then(|| shard(s))).collect();
        let probe = ProbeHandle::new();
        let (mut samples, mut ends) = worker.dataflow(|scope| {
            let (samples, stream) = scope.new_input_with_builder::<NoopBuilder<Samples>>();
            let (ends, marks) = scope.new_input_with_builder::<CapacityContainerBuilder<Vec<Mark>>>();
            let (outcomes, _) = graph::build_from(stream, marks.clone(), shards, &Default::default());
            driver::complete(outcomes, marks, "collect", move |end, all| {
                collected.lock().unwrap().entry(end.epoch).or_default().append(all);
                true
            })
            .probe_with(&probe);
            (samples, ends)
        });
        for (n, epoch) in epochs.iter().enumerate() {
            if worker.index() == n % workers {
                for batch in epoch.bootstraps.iter().chain([&epoch.live]).filter(|batch| !batch.is_empty()) {
                    samples.send_batch(&mut batch.clone());
                }
            }
            epoch.controls.iter().for_each(|control| ends.send(Mark::Control(control.clone())));
            saves.get(&epoch.end.epoch).into_iter().flatten().for_each(|save| ends.send(Mark::Save(*save)));
            ends.send(Mark::End(epoch.end));
            samples.advance_to(n as u64 + 1);
            ends.advance_to(n as u64 + 1);
            worker.step();
        }
    })
    .unwrap();
    guards.join().into_iter().for_each(|joined| joined.unwrap());
    let mut all = std::mem::take(&mut *collected.lock().unwrap());
    let mut saved: Vec<ShardSnapshot> =
        all.values_mut().flat_map(|rows| assemble(std::mem::take(&mut rows.saved))).collect();
    saved.sort_by_key(|saved| saved.end.epoch);
    all.values_mut().for_each(Rows::sort);
    (all, saved)
}

/// Which shards are to be saved in which epoch.
fn plan(
    rng: &mut fastrand::Rng,
    epochs: &[Epoch],
    kept: &Kept,
    begun: &[Option<Chain>],
) -> BTreeMap<u64, Vec<SaveRequest>> {
    let mut saves: BTreeMap<u64, Vec<SaveRequest>> = BTreeMap::new();
    let often = rng.u8(1..8);
    for shard in USED {
        let loaded =
            begun[shard].as_ref().map(|chain| ShardState::load(shard, &chain.held()).expect("it loads"));
        // A chain goes on only from the save that the shard knows as its last.
        let mut goes_on: [bool; CHAINS] = std::array::from_fn(|chain| {
            let epoch = kept[shard][chain].as_ref().map(|chain| chain.end.epoch);
            epoch.is_some() && loaded.as_ref().is_some_and(|shard| shard.saved_epoch(chain) == epoch)
        });
        let from = begun[shard].as_ref().map_or(0, |chain| chain.end.epoch);
        for epoch in epochs.iter().filter(|epoch| epoch.end.epoch > from) {
            if rng.u8(0..8) < often && rng.u8(0..4) == 0 {
                let chain = rng.usize(0..CHAINS);
                let whole = !goes_on[chain] || rng.u8(0..6) == 0;
                goes_on[chain] = true;
                saves.entry(epoch.end.epoch).or_default().push(SaveRequest { shard, chain, whole });
            }
        }
    }
    saves
}

#[test]
fn a_shard_begun_from_either_chain_goes_on_with_the_same_bytes() {
    let (mut restored, mut rows, mut profiles) = (0, 0, 0);
    for seed in 0..crate::rounds(24) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5A7E);
        let (settings, epochs) = log(seed);
        let (truth, _) = run(&settings, 1, &[], &epochs, &BTreeMap::new());
        let mut kept: Kept = vec![[const { None }; CHAINS]; SHARDS];
        let mut done = 0; // epochs whose outcomes are there
        while done < epochs.len() {
            // Each shard from the newer of its chains, or the older one, as if that were damaged.
            let begun: Vec<Option<Chain>> = kept
                .iter_mut()
                .map(|chains| {
                    let newer = chains.iter().max_by_key(|chain| chain.as_ref().map(|chain| chain.end.epoch));
                    let newer = newer.cloned().flatten();
                    let other =
                        chains.iter().flatten().find(|c| Some(c.end) != newer.as_ref().map(|n| n.end));
                    match (newer, other.cloned()) {
                        (Some(damaged), Some(other)) if rng.u8(0..4) == 0 => {
                            let place =
                                chains.iter_mut().find(|c| c.as_ref().is_some_and(|c| c.end == damaged.end));
                            *place.unwrap() = None;
                            Some(other)
                        }
                        (newer, _) => newer,
                    }
                })
                .collect();
            restored += begun.iter().flatten().count();
            let after =
                USED.iter().map(|shard| begun[*shard].as_ref().map_or(0, |chain| chain.end.epoch)).min();
            let from = epochs.partition_point(|epoch| epoch.end.epoch <= after.unwrap_or(0));
            let to = (done + rng.usize(1..=epochs.len() / 2)).min(epochs.len());
            let saves = plan(&mut rng, &epochs[from..to], &kept, &begun);
            let workers = rng.usize(1..5);
            let (got, saved) = run(&settings, workers, &begun, &epochs[from..to], &saves);
            for epoch in &epochs[done..to] {
                let number = epoch.end.epoch;
                let (got, want) = (&got[&number], &truth[&number]);
                assert_eq!(got.windows, want.windows, "seed {seed}, epoch {number}");
                assert_eq!(got.rejects, want.rejects, "seed {seed}, epoch {number}");
                assert_eq!(got.profiles, want.profiles, "seed {seed}, epoch {number}");
                assert_eq!(got.events, want.events, "seed {seed}, epoch {number}");
                assert_eq!(got.freed, want.freed, "seed {seed}, epoch {number}");
                assert_eq!(got.counts, want.counts, "seed {seed}, epoch {number}");
                rows += got.windows.len();
                profiles += got.profiles.len();
            }
            // The last saves did not reach the disk.
            let durable = epochs[rng.usize(from..to)].end.epoch;
            saved
                .into_iter()
                .filter(|saved| saved.end.epoch <= durable)
                .for_each(|saved| keep(&mut kept, saved));
            done = to;
        }
    }
    assert!(restored > 100 && rows > 10_000, "{restored} shards restored, {rows} rows compared");
    assert!(profiles > 100, "{profiles} profiles compared");
}
