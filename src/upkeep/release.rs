//! Forgetting series: their labels are released once no sink needs them.
//!
//! Two threads. The *releaser* follows the slots that are freed: when every sink holds the epoch in which a slot was
//! freed, its series is released. What waits for that is bounded by the series known, for of a series only the last
//! freeing counts. The *cleaner* asks the workers about series that were not used for long, and releases those without a
//! slot. At start these are all that the log brought back: the limit on series counts them until the workers know what
//! the journal held, and until then nobody is refused for good for it ([`Released::settled`]). The log is at most twice as
//! long as needed, so at most twice as many series are loaded as were known. Later they are series without a slot whose
//! samples never came through.
//!
//! Not here: cleaning the series log (`labels`, called by `trim`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidewatch_dataflows::sample::SeriesId;

use crate::engine::{AskError, EngineProgress, FreedSlots, Questions};
use crate::labels::Labels;
use crate::sinks::list::SinkPositions;

/// Epochs with freed slots that may wait for the releaser, which never waits for long.
const FREED_QUEUED: usize = 256;
/// How often the releaser looks how far the sinks are.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the cleaner looks for work.
const CLEAN_EVERY: Duration = Duration::from_millis(200);
/// How often it asks about series that were not used for long.
const ASK_EVERY: Duration = Duration::from_secs(600);
/// Not used for so many milliseconds, which are the numbers of epochs: more than a request takes from its first byte to
/// the journal, and a minute, after which rejects are handed out.
const UNUSED_MS: u64 = 120_000;
/// Series released under one lock.
const RELEASED_AT_ONCE: usize = 4_096;

/// What the threads share with the rest of the process.
pub struct ReleaseDeps {
    /// Whose series are released.
    pub labels: Arc<Labels>,
    /// What the sinks hold.
    pub sinks: SinkPositions,
    /// What is computed.
    pub engine: Arc<EngineProgress>,
    /// The workers.
    pub questions: Questions,
    /// The last epoch that the journal held at start.
    pub found_epoch: u64,
}

/// The running threads.
pub struct Release {
    releaser: JoinHandle<()>,
    cleaner: JoinHandle<()>,
    quit: Sender<()>,
}

/// How far releasing is.
#[derive(Debug, Default)]
pub struct ReleaseProgress {
    /// Slots freed up to this epoch are released.
    epoch: AtomicU64,
    /// Series of the log that had no slot when everything was computed again are released.
    settled: AtomicBool,
}

impl ReleaseProgress {
    /// Whether the series that the log brought back and nobody uses are released.
    pub fn settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Slots freed up to this epoch are released.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

/// Where the engine puts freed slots, and where the releaser takes them from.
pub fn queue() -> (SyncSender<FreedSlots>, Receiver<FreedSlots>) {
    sync_channel(FREED_QUEUED)
}

impl Release {
    /// Starts both threads; they end after the engine, when the other side of `freed` is dropped.
    ///
    /// # Errors
    /// A thread that cannot be started.
    pub fn start(
        freed: Receiver<FreedSlots>,
        parts: ReleaseDeps,
        released: &Arc<ReleaseProgress>,
    ) -> std::io::Result<Release> {
        // A new log has nothing to be asked about.
        released.settled.store(parts.found_epoch == 0, Ordering::Release);
        let parts = Arc::new(parts);
        let (quit, told) = channel();
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let (parts_, released_) = (Arc::clone(&parts), Arc::clone(released));
        let releaser = named("release").spawn(move || follow(&freed, &parts_, &released_))?;
        let released_ = Arc::clone(released);
        let cleaner = named("clean").spawn(move || clean(&told, &parts, &released_))?;
        Ok(Release { releaser, cleaner, quit })
    }

    /// Waits for both. The engine must have ended.
    pub fn join(self) {
        drop(self.quit);
        for thread in [self.releaser, self.cleaner] {
            // A panic there was printed; what is not released now is released after the next start.
            let _ = thread.join();
        }
    }
}

/// Freed slots whose epoch some sink does not hold yet.
#[derive(Default)]
struct FreedQueue {
    by_epoch: BTreeMap<u64, Vec<SeriesId>>,
    last: HashMap<SeriesId, u64>,
}

impl FreedQueue {
    fn add(&mut self, (epoch, series): FreedSlots, labels: &Labels) {
        let known = |series: &SeriesId| labels.knows(*series);
        let series: Vec<_> = series.into_iter().filter(known).collect();
        for one in &series {
            let Some(earlier) = self.last.insert(*one, epoch) else { continue };
            // It came back and was freed again before the sinks had the first time.
            if let Some(others) = self.by_epoch.get_mut(&earlier).filter(|_| earlier != epoch) {
                others.retain(|other| other != one);
            }
        }
        self.by_epoch.entry(epoch).or_default().extend(series);
    }

    /// Those freed in the oldest epoch, if it is not after `written`.
    fn next(&mut self, written: u64) -> Option<(u64, Vec<SeriesId>)> {
        let first = self.by_epoch.first_entry().filter(|first| *first.key() <= written)?;
        let (epoch, series) = first.remove_entry();
        for one in &series {
            if self.last.get(one) == Some(&epoch) {
                self.last.remove(one);
            }
        }
        Some((epoch, series))
    }
}

/// Releases what was freed as the sinks come on.
fn follow(freed: &Receiver<FreedSlots>, parts: &ReleaseDeps, released: &ReleaseProgress) {
    let mut waiting = FreedQueue::default();
    loop {
        // Before the queue is emptied: what was freed up to here is in it or was taken from it.
        let written = parts.sinks.least();
        let ended = match freed.recv_timeout(LOOK_EVERY) {
            Ok(more) => {
                waiting.add(more, &parts.labels);
                freed.try_iter().take(FREED_QUEUED).for_each(|more| waiting.add(more, &parts.labels));
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        while let Some((epoch, series)) = waiting.next(written) {
            for some in series.chunks(RELEASED_AT_ONCE) {
                parts.labels.release(some, epoch);
            }
        }
        released.epoch.fetch_max(written, Ordering::Release);
        if ended {
            return;
        }
    }
}

/// Looks for series that nobody uses.
fn clean(quit: &Receiver<()>, parts: &ReleaseDeps, released: &ReleaseProgress) {
    let mut asked = released.settled().then(Instant::now);
    while quit.recv_timeout(CLEAN_EVERY) == Err(RecvTimeoutError::Timeout) {
        let written = parts.sinks.least();
        let caught_up = parts.engine.epoch.load(Ordering::Relaxed).min(written) >= parts.found_epoch;
        if !caught_up || asked.is_some_and(|at| at.elapsed() < ASK_EVERY) {
            continue;
        }
        // At start what was registered before it counts as not used; later only what was not used for long.
        let before = match asked {
            None => parts.found_epoch + 1,
            Some(_) => written.saturating_sub(UNUSED_MS),
        };
        match release_unused(parts, before) {
            Ok(n) => {
                if n > 0 {
                    tracing::info!("{n} series without a slot are forgotten");
                }
                asked = Some(Instant::now());
                released.settled.store(true, Ordering::Release);
            }
            // Next time, then.
            Err(AskError::Ended) => return,
            Err(_) => {}
        }
    }
}

/// Releases the series that were not used since before `epoch` and have no slot; how many.
fn release_unused(parts: &ReleaseDeps, epoch: u64) -> Result<usize, AskError> {
    let unused = parts.labels.unused_since(epoch);
    let mut gone = 0;
    for some in unused.chunks(RELEASED_AT_ONCE) {
        let seen = parts.questions.newest(some)?;
        let without = some.iter().zip(seen).filter(|(_, seen)| !seen.has_slot());
        let without: Vec<_> = without.map(|(series, _)| SeriesId(*series)).collect();
        gone += parts.labels.release(&without, epoch);
    }
    Ok(gone)
}
