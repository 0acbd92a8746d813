//! The driver: holds capabilities and frontiers, so that a stage never has to.
//!
//! Two functions call closures with complete batches in a fixed order:
//! * [`by_shard`] exchanges samples by shard and calls its closure once per epoch and owned shard, epochs rising, every
//!   owned shard of every epoch, samples or not; again and again, until it says that the shard is done with the epoch. The
//!   batch is complete and in any order. What the closure may do at once is bounded by a budget, so that it never blocks its
//!   worker for long.
//! * [`complete`] hands over all rows of an epoch at once, epochs rising, when nothing more can come.
//!
//! Capabilities are held to the end of what they promise and dropped with the last output of an epoch, so
//! the output frontier follows the input. Timestamps are epoch numbers; event time never shows here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use timely::Accountable;
use timely::communication::Push;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::{Stream, StreamVec};
use timely::progress::Stamp;

use crate::rows::Rows;
use crate::sample::{Control, EpochEnd, Mark, SHARDS, Samples};
use crate::snapshot::SaveRequest;
use crate::stage::{Budget, Progress};

/// Samples for which the memory of a shard stays from epoch to epoch; what a larger epoch took is given back.
const SHARD_SAMPLES_KEPT: usize = 512;
/// What one activation may cost before it lets other operators run, in the units of a [`Budget`].
const ACTIVATION_UNITS: u64 = 16_384;
/// Rows that are gathered before they are sent on. Few enough that an allocator gives their memory to the next ones, in place
/// of fresh pages.
const ROWS_SENT: usize = 512;
/// Samples an exchanged batch is filled to.
pub const BATCH_SAMPLES: usize = 4_096;

/// The worker that owns a shard: shards are dealt out in turn.
pub fn owner(shard: usize, peers: usize) -> usize {
    shard % peers
}

/// One epoch of one shard, complete.
#[derive(Clone, Copy, Debug)]
pub struct EpochBatch<'a> {
    /// The shard.
    pub shard: usize,
    /// Its end.
    pub end: EpochEnd,
    /// What was told to all shards, in the order of the journal.
    pub controls: &'a [Arc<Control>],
    /// Samples of bootstraps, one batch a bootstrap, in any order.
    pub bootstraps: &'a [Samples],
    /// Live samples, in any order.
    pub live: &'a Samples,
    /// Whether the state of the shard as of this end is wanted.
    pub save: Option<SaveRequest>,
}

impl EpochBatch<'_> {
    /// How many samples it has.
    pub fn samples(&self) -> usize {
        self.live.len() + self.bootstraps.iter().map(Samples::len).sum::<usize>()
    }
}

/// One epoch that is still arriving, or being retired.
struct PendingEpoch {
    capability: Capability<u64>,
    end: Option<EpochEnd>,
    controls: Vec<Arc<Control>>,
    saves: Vec<SaveRequest>,
    shards: Vec<Samples>,
    /// By shard; few epochs have any.
    bootstraps: BTreeMap<usize, Vec<Samples>>,
    /// The next shard to retire.
    next: usize,
}

impl PendingEpoch {
    fn new(capability: Capability<u64>, spare: &mut Vec<Vec<Samples>>) -> PendingEpoch {
        PendingEpoch {
            capability,
            end: None,
            controls: Vec::new(),
            saves: Vec::new(),
            shards: spare.pop().unwrap_or_else(|| vec![Samples::default(); SHARDS]),
            bootstraps: BTreeMap::new(),
            next: 0,
        }
    }

    /// Deals the samples of an exchanged batch out to shards.
    fn scatter(&mut self, batch: &mut Samples) {
        let n = batch.len();
        let (at_ms, value) = (&batch.at_ms[..n], &batch.value[..n]);
        for i in 0..n {
            let series = batch.series[i];
            let shard = (series % SHARDS as u64) as usize;
            match batch.bootstrap {
                0 => self.shards[shard].push(series, at_ms[i], value[i]),
                bootstrap => self.of_bootstrap(shard, bootstrap).push(series, at_ms[i], value[i]),
            }
        }
        batch.clear();
    }

    fn of_bootstrap(&mut self, shard: usize, bootstrap: u64) -> &mut Samples {
        let bootstraps = self.bootstraps.entry(shard).or_default();
        let at = bootstraps.iter().position(|samples| samples.bootstrap == bootstrap).unwrap_or_else(|| {
            bootstraps.push(Samples::of_bootstrap(bootstrap));
            bootstraps.len() - 1
        });
        &mut bootstraps[at]
    }

    fn record(&mut self, mark: Mark) {
        match mark {
            Mark::Control(control) => self.controls.push(control),
            Mark::Save(save) => self.saves.push(save),
            Mark::End(end) => self.end = Some(end),
        }
    }

    /// Has the owned shards that are left computed, as far as the budget reaches; what they give goes to `give`.
    fn retire(
        &mut self,
        owned: impl Fn(usize) -> bool,
        budget: &mut Budget,
        step: &mut impl FnMut(usize, &EpochBatch<'_>, &mut Budget, &mut Rows) -> Progress,
        give: &mut impl FnMut(Rows),
    ) -> Progress {
        let Some(end) = self.end else { return Progress::Done };
        let mut rows = Rows::default();
        let mut progress = Progress::Done;
        while self.next < SHARDS && progress == Progress::Done {
            let shard = self.next;
            if owned(shard) {
                if budget.is_spent() {
                    progress = Progress::More;
                    break;
                }
                progress = step(shard, &self.epoch(end), budget, &mut rows);
                if rows.len() >= ROWS_SENT {
                    let capacity = rows.windows.len();
                    give(std::mem::take(&mut rows));
                    rows.windows.reserve(capacity);
                }
            }
            if progress == Progress::Done {
                self.shards[shard].clear_to(SHARD_SAMPLES_KEPT);
                self.next += 1;
            }
        }
        if !rows.is_empty() {
            give(rows);
        }
        progress
    }

    /// The epoch of the next shard.
    fn epoch(&mut self, end: EpochEnd) -> EpochBatch<'_> {
        let bootstraps = self.bootstraps.get_mut(&self.next);
        let bootstraps = bootstraps.map_or(&mut [][..], |bootstraps| {
            bootstraps.sort_by_key(|samples| samples.bootstrap);
            bootstraps
        });
        let save = self.saves.iter().find(|save| save.shard == self.next).copied();
        EpochBatch {
            shard: self.next,
            end,
            controls: &self.controls,
            bootstraps,
            live: &self.shards[self.next],
            save,
        }
    }
}

/// Exchanges samples by shard and has each epoch computed shard by shard once it is complete.
///
/// `step` is called with the same shard and epoch again until it returns that it is done; what it gave is sent on. An epoch
/// whose `EpochEnd` never came (input ended in its middle) is dropped: it is not in the journal whole.
pub fn by_shard<'scope>(
    samples: Stream<'scope, u64, Samples>,
    marks: StreamVec<'scope, u64, Mark>,
    name: &str,
    mut step: impl FnMut(usize, &EpochBatch<'_>, &mut Budget, &mut Rows) -> Progress + 'static,
) -> StreamVec<'scope, u64, Rows> {
    let scope = samples.scope();
    let (index, peers) = (scope.index(), scope.peers());
    samples.binary_frontier::<_, CapacityContainerBuilder<Vec<Rows>>, _, _, _, _>(
        marks,
        exchange(),
        Pipeline,
        name,
        move |initial, info| {
            drop(initial);
            let activator = scope.activator_for(info.address);
            let mut pending: BTreeMap<u64, PendingEpoch> = BTreeMap::new();
            let mut spare: Vec<Vec<Samples>> = Vec::new();
            move |(samples, samples_frontier), (marks, marks_frontier), output| {
                let port = output.output_index();
                samples.for_each_stamp(|stamp, batches| {
                    let Some(capability) = stamp.retain_least(port) else { return };
                    let epoch = pending
                        .entry(*capability.time())
                        .or_insert_with(|| PendingEpoch::new(capability, &mut spare));
                    batches.for_each(|batch| epoch.scatter(batch));
                });
                marks.for_each_stamp(|stamp, batches| {
                    let Some(capability) = stamp.retain_least(port) else { return };
                    let epoch = pending
                        .entry(*capability.time())
                        .or_insert_with(|| PendingEpoch::new(capability, &mut spare));
                    batches.for_each(|batch| batch.drain(..).for_each(|mark| epoch.record(mark)));
                });
                let mut budget = Budget::new(ACTIVATION_UNITS);
                while let Some(mut first) = pending.first_entry() {
                    if samples_frontier.less_equal(first.key()) || marks_frontier.less_equal(first.key()) {
                        break;
                    }
                    let epoch = first.get_mut();
                    let capability = epoch.capability.clone();
                    let mut session = output.session(&capability);
                    let owned = |shard: usize| owner(shard, peers) == index;
                    let done = epoch.retire(owned, &mut budget, &mut step, &mut |rows| session.give(rows));
                    if done == Progress::More {
                        activator.activate();
                        return;
                    }
                    let mut done = first.remove();
                    done.shards.iter_mut().for_each(|samples| samples.clear_to(SHARD_SAMPLES_KEPT));
                    if spare.len() < 4 {
                        spare.push(done.shards);
                    }
                }
            }
        },
    )
}

/// The one exchange: each sample to the owner of its shard.
pub fn exchange() -> DistributorPact<fn(usize) -> ByShard> {
    DistributorPact(ByShard::new)
}

/// Hands the rows of each epoch to `take`, whole and in order of epochs; every epoch, rows or not.
///
/// `take` may return false: it is full, and is asked again a little later. Until it takes an epoch the output
/// frontier stays there.
pub fn complete<'scope>(
    outcomes: StreamVec<'scope, u64, Rows>,
    marks: StreamVec<'scope, u64, Mark>,
    name: &str,
    mut take: impl FnMut(EpochEnd, &mut Rows) -> bool + 'static,
) -> StreamVec<'scope, u64, ()> {
    let scope = outcomes.scope();
    outcomes.binary_frontier::<_, CapacityContainerBuilder<Vec<()>>, _, _, _, _>(
        marks,
        Pipeline,
        Pipeline,
        name,
        move |initial, info| {
            drop(initial);
            let activator = scope.activator_for(info.address);
            let mut pending: BTreeMap<u64, (Capability<u64>, Option<EpochEnd>, Rows)> = BTreeMap::new();
            // As many rows as the epoch before had: so the list need not grow.
            let mut expected = 0;
            move |(outcomes, outcomes_frontier), (marks, marks_frontier), output| {
                let port = output.output_index();
                outcomes.for_each_stamp(|stamp, batches| {
                    let Some(capability) = stamp.retain_least(port) else { return };
                    let epoch = pending
                        .entry(*capability.time())
                        .or_insert_with(|| (capability, None, Rows::default()));
                    for batch in batches {
                        if epoch.2.windows.is_empty() {
                            epoch.2.windows.reserve(expected);
                        }
                        batch.iter_mut().for_each(|part| epoch.2.append(part));
                        batch.clear();
                    }
                });
                marks.for_each_stamp(|stamp, batches| {
                    let Some(capability) = stamp.retain_least(port) else { return };
                    let epoch = pending
                        .entry(*capability.time())
                        .or_insert_with(|| (capability, None, Rows::default()));
                    for mark in batches.flat_map(|batch| batch.drain(..)) {
                        if let Mark::End(end) = mark {
                            epoch.1 = Some(end);
                        }
                    }
                });
                while let Some(mut first) = pending.first_entry() {
                    if outcomes_frontier.less_equal(first.key()) || marks_frontier.less_equal(first.key()) {
                        break;
                    }
                    let (_, end, all) = first.get_mut();
                    expected = all.windows.len();
                    if let Some(end) = *end
                        && !take(end, all)
                    {
                        activator.activate_after(Duration::from_millis(1));
                        break;
                    }
                    first.remove();
                }
            }
        },
    )
}

impl Accountable for Samples {
    fn record_count(&self) -> i64 {
        self.len() as i64
    }
}

/// The wire form, for processes that exchange over sockets: count, bootstrap, then the three columns, little-endian.
impl ContainerBytes for Samples {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        let word = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().expect("eight bytes"));
        let n = word(0) as usize;
        Samples {
            series: (0..n).map(|i| word(2 + i)).collect(),
            at_ms: (0..n).map(|i| word(2 + n + i) as i64).collect(),
            value: (0..n).map(|i| f64::from_bits(word(2 + 2 * n + i))).collect(),
            bootstrap: word(1),
        }
    }

    fn length_in_bytes(&self) -> usize {
        16 + 24 * self.len()
    }

    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        let words = [self.len() as u64, self.bootstrap]
            .into_iter()
            .chain(self.series.iter().copied())
            .chain(self.at_ms.iter().map(|at| *at as u64))
            .chain(self.value.iter().map(|value| value.to_bits()));
        words.for_each(|word| {
            writer.write_all(&word.to_le_bytes()).expect("timely's buffers take what was announced")
        });
    }
}

/// Partitions batches by owner of the shard, filling batches of [`BATCH_SAMPLES`], each of one bootstrap.
pub struct ByShard {
    staged: Vec<Samples>,
    owners: [u16; SHARDS],
}

impl ByShard {
    fn new(peers: usize) -> Self {
        let owners = std::array::from_fn(|shard| owner(shard, peers) as u16);
        ByShard { staged: vec![Samples::default(); peers], owners }
    }
}

impl Distributor<Samples> for ByShard {
    fn partition<T: Clone, P: Push<Message<T, Samples>>>(
        &mut self,
        batch: &mut Samples,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        for staged in self.staged.iter_mut().filter(|staged| staged.series.capacity() == 0) {
            *staged = Samples::with_capacity(BATCH_SAMPLES.max(batch.len()));
        }
        for (staged, pusher) in self.staged.iter_mut().zip(&mut *pushers) {
            if staged.bootstrap != batch.bootstrap && !staged.is_empty() {
                Message::push_at(staged, stamp.clone(), pusher);
                staged.clear();
            }
            staged.bootstrap = batch.bootstrap;
        }
        let n = batch.len();
        let (at_ms, value) = (&batch.at_ms[..n], &batch.value[..n]);
        for i in 0..n {
            let series = batch.series[i];
            let to = self.owners[(series % SHARDS as u64) as usize];
            self.staged[usize::from(to)].push(series, at_ms[i], value[i]);
        }
        batch.clear();
        for (staged, pusher) in self.staged.iter_mut().zip(pushers) {
            if staged.len() >= BATCH_SAMPLES {
                Message::push_at(staged, stamp.clone(), pusher);
                staged.clear();
            }
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Samples>>>(&mut self, stamp: &Stamp<T>, pushers: &mut [P]) {
        for (staged, pusher) in self.staged.iter_mut().zip(pushers) {
            if !staged.is_empty() {
                Message::push_at(staged, stamp.clone(), pusher);
                staged.clear();
            }
        }
    }
}
