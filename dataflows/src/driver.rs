//! The driver: holds capabilities and frontiers, so that a tactic never has to.
//!
//! A tactic is a closure that is called with complete batches in a fixed order:
//! * [`by_shard`] exchanges samples by shard and calls its tactic once per epoch and owned shard, epochs
//!   rising, every owned shard of every epoch, samples or not. The batch is complete and in any order.
//! * [`in_slices`] calls its tactic with each batch in the order received, again and again until it says
//!   that it is done: one that has much to emit emits a slice at a time and never blocks its worker.
//! * [`complete`] hands over all outcomes of an epoch at once, epochs rising, when nothing more can come.
//!
//! Capabilities are held to the end of what they promise and dropped with the last output of an epoch, so
//! the output frontier follows the input. Timestamps are epoch numbers; event time never shows here.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
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

/// Samples for which the memory of a shard stays from epoch to epoch; what a larger epoch took is given back.
const SHARD_SAMPLES_KEPT: usize = 512;
/// Samples one activation retires before it lets other operators run.
const SLICE_SAMPLES: usize = 65_536;
/// Rows one activation emits before it lets other operators run.
pub const SLICE_ROWS: usize = 16_384;
/// Samples an exchanged batch is filled to.
pub const BATCH_SAMPLES: usize = 4_096;

/// The worker that owns a shard: shards are dealt out in turn.
pub fn owner(shard: usize, peers: usize) -> usize {
    shard % peers
}

/// One epoch of one shard, complete.
#[derive(Clone, Copy, Debug)]
pub struct EpochBatch<'a> {
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

    /// The epoch of the next shard.
    fn epoch(&mut self, end: EpochEnd) -> EpochBatch<'_> {
        let bootstraps = self.bootstraps.get_mut(&self.next);
        let bootstraps = bootstraps.map_or(&mut [][..], |bootstraps| {
            bootstraps.sort_by_key(|samples| samples.bootstrap);
            bootstraps
        });
        let save = self.saves.iter().find(|save| save.shard == self.next).copied();
        EpochBatch { end, controls: &self.controls, bootstraps, live: &self.shards[self.next], save }
    }
}

/// Exchanges samples by shard and retires each epoch shard by shard once it is complete.
///
/// An epoch whose `EpochEnd` never came (input ended in its middle) is dropped: it is not in the journal whole.
pub fn by_shard<'scope, O: 'static>(
    samples: Stream<'scope, u64, Samples>,
    marks: StreamVec<'scope, u64, Mark>,
    name: &str,
    mut retire: impl FnMut(usize, EpochBatch) -> O + 'static,
) -> StreamVec<'scope, u64, Rc<O>> {
    let scope = samples.scope();
    let (index, peers) = (scope.index(), scope.peers());
    samples.binary_frontier::<_, CapacityContainerBuilder<Vec<Rc<O>>>, _, _, _, _>(
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
                let mut retired = 0;
                while let Some(mut first) = pending.first_entry() {
                    if samples_frontier.less_equal(first.key()) || marks_frontier.less_equal(first.key()) {
                        break;
                    }
                    let epoch = first.get_mut();
                    if let Some(end) = epoch.end {
                        let capability = epoch.capability.clone();
                        let mut session = output.session(&capability);
                        while epoch.next < SHARDS && retired < SLICE_SAMPLES {
                            let shard = epoch.next;
                            if owner(shard, peers) == index {
                                let whole = epoch.epoch(end);
                                retired += whole.live.len()
                                    + whole.bootstraps.iter().map(Samples::len).sum::<usize>();
                                // What a shard hands on when its settings change is large: one at a time.
                                if whole.controls.iter().any(|c| matches!(**c, Control::Settings(_))) {
                                    retired = SLICE_SAMPLES;
                                }
                                session.give(Rc::new(retire(shard, whole)));
                            }
                            epoch.shards[shard].clear_to(SHARD_SAMPLES_KEPT);
                            epoch.next += 1;
                        }
                        if epoch.next < SHARDS {
                            activator.activate();
                            return;
                        }
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

/// What a slice of the work on a batch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slice {
    /// The batch is done.
    Done,
    /// There is more to do.
    More,
    /// There is more to do, after other operators ran.
    Pause,
}

/// Calls `step` with each batch until it returns that the batch is done; what it emitted is sent on.
///
/// `step` is told whether it sees the batch for the first time.
pub fn in_slices<'scope, I: 'static>(
    batches: StreamVec<'scope, u64, Rc<I>>,
    name: &str,
    mut step: impl FnMut(&I, bool, &mut Rows) -> Slice + 'static,
) -> StreamVec<'scope, u64, Rows> {
    let scope = batches.scope();
    batches.unary::<CapacityContainerBuilder<Vec<Rows>>, _, _, _>(Pipeline, name, move |initial, info| {
        drop(initial);
        let activator = scope.activator_for(info.address);
        let mut queue: VecDeque<(Capability<u64>, Rc<I>, bool)> = VecDeque::new();
        move |input, output| {
            let port = output.output_index();
            input.for_each_stamp(|stamp, batches| {
                for batch in batches.flat_map(|batch| batch.drain(..)) {
                    queue.extend(stamp.retain_least(port).map(|capability| (capability, batch, true)));
                }
            });
            let mut emitted = 0;
            while let Some((capability, batch, first)) = queue.front_mut() {
                if emitted >= SLICE_ROWS {
                    activator.activate();
                    return;
                }
                let mut out = Rows::default();
                let slice = step(batch, std::mem::take(first), &mut out);
                // A save is a slice's worth by itself.
                emitted += if out.saved.is_empty() { out.windows.len() } else { SLICE_ROWS };
                if !out.is_empty() {
                    output.session(capability).give(out);
                }
                match slice {
                    Slice::Done => drop(queue.pop_front()),
                    Slice::More => {}
                    Slice::Pause => emitted = SLICE_ROWS,
                }
            }
        }
    })
}

/// Hands the outcomes of each epoch to `take`, whole and in order of epochs; every epoch, outcomes or not.
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
            move |(outcomes, outcomes_frontier), (marks, marks_frontier), output| {
                let port = output.output_index();
                outcomes.for_each_stamp(|stamp, batches| {
                    let Some(capability) = stamp.retain_least(port) else { return };
                    let epoch = pending
                        .entry(*capability.time())
                        .or_insert_with(|| (capability, None, Rows::default()));
                    for batch in batches {
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
