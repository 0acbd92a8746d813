//! The timely workers: threads that build the dataflow, step it, and answer questions between their steps.
//!
//! Not here: what feeds them (`feeder`) and who takes what they hand on (`merger`).

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use tidewatch_dataflows::driver;
use tidewatch_dataflows::graph::{self, Instruments};
use tidewatch_dataflows::pipeline::ShardState;
use tidewatch_dataflows::rows::Rows;
use tidewatch_dataflows::sample::{EpochEnd, Mark, SHARDS, Samples};
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::{OutputBuilder, builder_rc::OperatorBuilder};
use timely::dataflow::{ProbeHandle, Scope, Stream, StreamVec};
use timely::scheduling::SyncActivator;

use super::busy::{StageMeter, log_times};
use super::error::EngineError;
use super::questions::{WorkerQueue, serve};
use super::shared::EngineShared;
use super::start;
use super::thread::{PATIENCE, Signals, Thread, ThreadEvent, ThreadReport, WorkerFeed, WorkerMessage};

/// Batches that may wait for one worker.
const BATCHES_QUEUED: usize = 64;
/// Epochs a source may be ahead of the output.
const EPOCHS_IN_FLIGHT: u64 = 4;
/// How long a source that is so far ahead lets its worker park. Epochs that fill a worker last longer.
const EPOCHS_PATIENCE: Duration = Duration::from_millis(1);

pub(super) type Guards = timely::communication::WorkerGuards<()>;

/// Starts the workers; each tells when it has built its dataflow, and how it ended.
pub(super) fn start_workers(
    shared: &EngineShared,
    to_merger: Vec<SyncSender<(EpochEnd, Rows)>>,
    signals: &Arc<Signals>,
    events: &Sender<ThreadEvent>,
) -> Result<Guards, EngineError> {
    let of_all = (
        Arc::clone(&shared.settings),
        Arc::clone(&shared.progress),
        Arc::clone(&shared.busy),
        Arc::clone(signals),
        shared.snapshots.clone(),
        shared.outbox.lock().expect("after a panic in the outbox no generation follows").last_epoch(),
    );
    let of_each: Vec<_> =
        to_merger.into_iter().map(|sender| Mutex::new(Some((sender, events.clone())))).collect();
    timely::execute(timely::Config::process(shared.workers), move |worker| {
        let (settings, progress, busy, signals, snapshots, outbox) = of_all.clone();
        let index = worker.index();
        let (to_merger, events) = of_each[index].lock().take().expect("each worker takes it once");
        let work = |worker: &mut timely::worker::Worker| {
            let mine = graph::owned(index, worker.peers());
            let mut shards: Vec<Option<ShardState>> = Vec::with_capacity(SHARDS);
            for shard in 0..SHARDS {
                // Other workers load theirs meanwhile.
                shards.push(match mine(shard) && !signals.over() {
                    true => Some(start::shard(shard, &settings, snapshots.as_ref(), outbox)?),
                    false => None,
                });
                let _ = events.send(ThreadEvent::Loaded);
            }
            if signals.over() {
                return Ok(());
            }
            let begun = shards.iter().flatten().map(ShardState::epoch).collect();
            log_times(worker, &busy);
            let instruments = Instruments {
                sizes: Arc::clone(&progress.sizes),
                position: Arc::clone(&progress.positions[index]),
                meter: Rc::new(StageMeter::new(&busy)),
            };
            let (queue, messages) = sync_channel(BATCHES_QUEUED);
            let (activator, queries) = worker.dataflow(|scope| {
                let probe = ProbeHandle::new();
                let (samples, marks, activator) = source(scope, messages, probe.clone());
                let (rows, queries) = graph::build_from(samples, marks.clone(), shards, &instruments);
                driver::complete(rows, marks, "outbox", move |end, all| send(&to_merger, end, all))
                    .probe_with(&probe);
                (activator, queries)
            });
            let (to_worker, questions) = WorkerQueue::new(activator.clone());
            // Whoever started this worker may have given the generation up; then it is over.
            let _ = events.send(ThreadEvent::Ready(
                index,
                WorkerFeed { queue, activator, questions: to_worker },
                begun,
            ));
            while worker.has_dataflows() && !signals.over() {
                worker.step_or_park(Some(PATIENCE));
                serve(&questions, &queries);
            }
            Ok(())
        };
        // Otherwise timely would go on stepping a dataflow that a panic has left half done.
        let clear = |worker: &mut timely::worker::Worker| {
            worker.installed_dataflows().into_iter().for_each(|flow| worker.drop_dataflow(flow));
        };
        ThreadReport::new(Thread::Worker(index), events.clone()).run(worker, work, clear);
    })
    .map_err(EngineError::Timely)
}

/// Hands an epoch to the merger; false if it is full.
fn send(to_merger: &SyncSender<(EpochEnd, Rows)>, end: EpochEnd, all: &mut Rows) -> bool {
    all.sort();
    match to_merger.try_send((end, std::mem::take(all))) {
        Ok(()) => true,
        Err(TrySendError::Full((_, back))) => {
            *all = back;
            false
        }
        // The merger ended with an error that is being reported; there is nobody to hand this to.
        Err(TrySendError::Disconnected(_)) => true,
    }
}

/// The zero-input operator that takes one worker's messages into the dataflow.
fn source<'scope>(
    scope: Scope<'scope, u64>,
    messages: Receiver<WorkerMessage>,
    output: ProbeHandle<u64>,
) -> (Stream<'scope, u64, Samples>, StreamVec<'scope, u64, Mark>, SyncActivator) {
    let mut builder = OperatorBuilder::new("source".to_owned(), scope);
    let info = builder.operator_info();
    let outside = scope.worker().sync_activator_for(info.address.to_vec());
    let again = scope.activator_for(info.address);
    let (samples, sample_stream) = builder.new_output::<Samples>();
    let (marks, mark_stream) = builder.new_output::<Vec<Mark>>();
    let mut samples = OutputBuilder::<u64, NoopBuilder<Samples>>::from(samples);
    let mut marks = OutputBuilder::<u64, CapacityContainerBuilder<Vec<Mark>>>::from(marks);
    builder.build(move |capabilities| {
        let mut held = Some(capabilities);
        let mut epoch = 0_u64;
        move |_| {
            let Some(capabilities) = held.as_mut() else { return };
            let (mut samples, mut marks) = (samples.activate(), marks.activate());
            for _ in 0..BATCHES_QUEUED {
                if output.less_than(&epoch.saturating_sub(EPOCHS_IN_FLIGHT)) {
                    again.activate_after(EPOCHS_PATIENCE);
                    return;
                }
                match messages.try_recv() {
                    Ok(WorkerMessage::Batch(mut batch)) => {
                        samples.session_with_builder(&capabilities[0]).give_container(&mut batch)
                    }
                    Ok(WorkerMessage::Mark(mark)) => {
                        let ends = matches!(mark, Mark::End(_));
                        marks.session(&capabilities[1]).give(mark);
                        if ends {
                            epoch += 1;
                            capabilities.iter_mut().for_each(|capability| capability.downgrade(&epoch));
                        }
                    }
                    Err(TryRecvError::Empty) => return,
                    Err(TryRecvError::Disconnected) => {
                        held = None;
                        return;
                    }
                }
            }
            again.activate();
        }
    });
    (sample_stream, mark_stream, outside)
}
