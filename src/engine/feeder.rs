//! The feeder: reads the journal and deals it out to the workers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tidewatch_dataflows::driver::BATCH_SAMPLES;
use tidewatch_dataflows::sample::{Control, Mark, MetricType, Samples};

use super::listeners::OnTypes;
use super::progress::EngineProgress;
use super::start::FeederStart;
use super::thread::{PATIENCE, Signals, WorkerFeed, WorkerMessage};
use crate::journal::{JournalError, QuarantineEntry, Record};

/// Who is told of types, by one generation after the other.
pub(super) type TypesHook = Arc<Mutex<TypesNotifier>>;

/// Tells types epoch by epoch, each epoch once: a generation that begins again would tell old types after new ones.
pub(super) struct TypesNotifier {
    to: OnTypes,
    /// The newest epoch told.
    upto: Option<u64>,
    /// Of the epoch at hand.
    waiting: Vec<(u64, MetricType)>,
}

impl TypesNotifier {
    pub(super) fn new(to: OnTypes) -> TypesNotifier {
        TypesNotifier { to, upto: None, waiting: Vec::new() }
    }

    fn end(&mut self, epoch: u64) {
        if self.upto.is_none_or(|upto| upto < epoch) {
            self.upto = Some(epoch);
            if !self.waiting.is_empty() {
                (self.to)(&self.waiting);
            }
        }
        self.waiting.clear();
    }
}

/// The quarantines that are yet to be told. Each is told with the first epoch that it is about, or that follows it:
/// its record came only later, so all of them were collected when the journal was opened.
struct Quarantines {
    /// By epoch.
    waiting: VecDeque<QuarantineEntry>,
    /// In the epoch at hand.
    lifted: Vec<u64>,
}

impl Quarantines {
    /// Those that shards which know the epochs up to `after` do not know.
    fn after(after: Option<u64>, progress: &EngineProgress) -> Quarantines {
        let all = progress.quarantined.lock();
        let mut waiting: Vec<QuarantineEntry> = all.clone();
        waiting.retain(|one| after.is_none_or(|after| one.epoch > after));
        waiting.sort_by_key(|one| (one.epoch, one.series));
        Quarantines { waiting: waiting.into(), lifted: Vec::new() }
    }

    /// What is to be told with this epoch.
    fn end(&mut self, epoch: u64, progress: &EngineProgress) -> Vec<Control> {
        if !self.lifted.is_empty() {
            let mut all = progress.quarantined.lock();
            for one in all.iter_mut().filter(|one| one.epoch <= epoch) {
                one.lifted |= self.lifted.contains(&one.series);
            }
            self.lifted.clear();
        }
        let mut due = Vec::new();
        while let Some(one) = self.waiting.pop_front_if(|one| one.epoch <= epoch) {
            due.push(Control::Quarantine { series: one.series, epoch: one.epoch });
        }
        due
    }
}

/// Reads the journal and deals its batches out to the workers in turn; every worker gets every epoch's marks.
///
/// Ends when the journal is read to its end, or when a worker is gone: that one has told why, and another generation
/// begins again.
pub(super) fn feed(
    start: FeederStart,
    feeds: &[WorkerFeed],
    progress: &EngineProgress,
    signals: &Signals,
    types: &Mutex<TypesNotifier>,
) -> Result<(), JournalError> {
    let FeederStart { mut reader, after, snapshots } = start;
    let mut quarantines = Quarantines::after(after, progress);
    let (mut turn, mut all_there, mut of_epoch) = (0, true, 0);
    let mut types = types.lock();
    types.waiting.clear();
    let put = |to: usize, message: WorkerMessage| {
        let sent = feeds[to].queue.send(message).is_ok();
        sent && feeds[to].activator.activate().is_ok()
    };
    let tell = |mark: Mark| (0..feeds.len()).all(|to| put(to, WorkerMessage::Mark(mark.clone())));
    while all_there && !signals.over() {
        match reader.next(PATIENCE)? {
            Some(Record::Samples(samples)) => {
                progress.samples.fetch_add(samples.len() as u64, Ordering::Relaxed);
                of_epoch += samples.len() as u64;
                all_there = parts(samples).all(|part| {
                    turn = (turn + 1) % feeds.len();
                    put(turn, WorkerMessage::Batch(part))
                });
            }
            Some(Record::EpochEnd(end)) => {
                types.end(end.epoch);
                progress.count_live(end.epoch, std::mem::take(&mut of_epoch));
                for control in quarantines.end(end.epoch, progress) {
                    tell(Mark::Control(Arc::new(control)));
                }
                // Few are due at once, and each only once.
                while let Some(save) = snapshots.as_ref().and_then(|snapshots| snapshots.next(end.epoch)) {
                    tell(Mark::Save(save));
                }
                all_there = tell(Mark::End(end));
            }
            // Told with the epoch that it is about.
            Some(Record::Control(Control::Quarantine { .. })) => {}
            Some(Record::Control(control)) => {
                if let Control::Lift { series } = &control {
                    quarantines.lifted.push(*series);
                }
                if let Control::Types(told) = &control {
                    types.waiting.extend_from_slice(told);
                }
                all_there = tell(Mark::Control(Arc::new(control)));
            }
            // Also the first of all, which shards without state may not have been made with, and those that a shard
            // with state knows already: the same settings again change nothing.
            Some(Record::Settings(settings)) => {
                all_there = tell(Mark::Control(Arc::new(Control::Settings(Arc::new(settings)))));
            }
            Some(Record::Bootstraps(_)) => {}
            None if reader.finished() => return Ok(()),
            None => {}
        }
    }
    Ok(())
}

/// Splits what is too large for one batch.
fn parts(samples: Samples) -> impl Iterator<Item = Samples> {
    let mut rest = Some(samples);
    std::iter::from_fn(move || {
        let mut all = rest.take().filter(|all| !all.is_empty())?;
        if all.len() > BATCH_SAMPLES {
            rest = Some(all.split_off(BATCH_SAMPLES));
        }
        Some(all)
    })
}

/// Ends the sources, so that the dataflows drain and the workers end.
pub(super) fn finish(feeds: Vec<WorkerFeed>) {
    for WorkerFeed { queue, activator, .. } in feeds {
        drop(queue);
        // An activator fails only if its worker is gone, which is what is wanted.
        let _ = activator.activate();
    }
}
