//! Where the engine is; read by the API, written by its threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use tidewatch_dataflows::graph::Sizes;
use tidewatch_dataflows::sample::SeriesId;
use tidewatch_dataflows::shard::WorkPosition;

use crate::journal::QuarantineEntry;

/// Where the engine is; read by the API.
#[derive(Debug)]
pub struct EngineProgress {
    /// Samples handed to the workers since the process started, those that it read back included.
    pub samples: AtomicU64,
    /// Of these, those of epochs that ended after the start, each counted once.
    pub(super) live: AtomicU64,
    /// The newest epoch that is counted there, or that the journal held at start.
    pub(super) live_upto: AtomicU64,
    /// The newest epoch computed since the process started, and durable in the outbox; 0 for none.
    pub epoch: AtomicU64,
    /// Its processing time; `i64::MIN` for none.
    pub processing_ms: AtomicI64,
    /// Window rows computed since the process started.
    pub rows: AtomicU64,
    /// Why the engine waits for the outbox, if it does.
    pub(super) blocked_on: Mutex<Option<BlockedOn>>,
    /// What the workers hold.
    pub sizes: Arc<Sizes>,
    /// What each worker is at.
    pub(super) positions: Vec<Arc<WorkPosition>>,
    /// The newest epoch that the present generation has computed; 0 for none.
    pub(super) computed: AtomicU64,
    /// The newest epoch that the journal held when the present generation began.
    pub(super) upto: AtomicU64,
    /// Generations begun, and waits before them.
    pub(super) generation: AtomicU64,
    /// Epochs handed to the outbox, those that it holds already included, and shards that were loaded.
    pub(super) steps: AtomicU64,
    /// Series that were kept out of the computation, and those that still are.
    pub(super) quarantined: Mutex<Vec<QuarantineEntry>>,
    pub(super) restarted: Mutex<Option<EngineRestart>>,
}

/// Why the engine waits for the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockedOn {
    /// It is at its bound `outbox.bytes_max`.
    Full,
    /// It cannot be written now, for this reason: the disk is full, most often.
    Unwritable(String),
}

impl std::fmt::Display for BlockedOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BlockedOn::Full => f.write_str("the outbox is at its bound outbox.bytes_max"),
            BlockedOn::Unwritable(why) => f.write_str(why),
        }
    }
}

/// Why the engine was built anew the last time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineRestart {
    /// The panic.
    pub after: String,
    /// The epoch with which the state is there again.
    pub upto: u64,
}

impl EngineProgress {
    pub(super) fn new(workers: usize, quarantined: Vec<QuarantineEntry>, found: u64) -> EngineProgress {
        EngineProgress {
            samples: AtomicU64::new(0),
            live: AtomicU64::new(0),
            live_upto: AtomicU64::new(found),
            epoch: AtomicU64::new(0),
            processing_ms: AtomicI64::new(i64::MIN),
            rows: AtomicU64::new(0),
            blocked_on: Mutex::new(None),
            sizes: Arc::default(),
            positions: (0..workers).map(|_| Arc::default()).collect(),
            computed: AtomicU64::new(0),
            upto: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            quarantined: Mutex::new(quarantined),
            restarted: Mutex::new(None),
        }
    }

    /// Samples handed to the workers that no start and no generation before had to compute.
    pub fn live_samples(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Counts the samples of an epoch that was handed to the workers. The feeder calls it, one at a time.
    pub(super) fn count_live(&self, epoch: u64, samples: u64) {
        if epoch > self.live_upto.load(Ordering::Relaxed) {
            self.live_upto.store(epoch, Ordering::Relaxed);
            self.live.fetch_add(samples, Ordering::Relaxed);
        }
    }

    /// Why the engine waits for the outbox, if it does: nothing is computed, so nothing should be taken.
    pub fn blocked_on(&self) -> Option<BlockedOn> {
        self.blocked_on.lock().clone()
    }

    /// Sets why it waits; what was said before.
    pub(super) fn set_blocked_on(&self, why: Option<BlockedOn>) -> Option<BlockedOn> {
        std::mem::replace(&mut *self.blocked_on.lock(), why)
    }

    /// The newest epoch that the present generation has computed; 0 for none.
    pub fn computed(&self) -> u64 {
        self.computed.load(Ordering::Acquire)
    }

    /// Whether the workers do not yet know what the journal held when they were built.
    pub fn rebuilding(&self) -> bool {
        self.computed() < self.upto.load(Ordering::Acquire)
    }

    /// Why the state is being computed again, if it is after a panic.
    pub fn restarted(&self) -> Option<EngineRestart> {
        let restarted = self.restarted.lock().clone();
        restarted.filter(|restarted| self.computed() < restarted.upto)
    }

    /// A figure that stands still only if the engine does.
    pub fn moved(&self) -> (u64, u64) {
        (self.generation.load(Ordering::Relaxed), self.steps.load(Ordering::Relaxed))
    }

    /// What the workers are at, as a sentence.
    pub fn at(&self) -> String {
        let at = self.positions.iter().enumerate().filter_map(|(index, position)| {
            let (epoch, series) = position.now()?;
            let series = series.map_or_else(|| "a shard".to_owned(), |series| format!("series {series}"));
            Some(format!("worker {index} is at {series} of epoch {epoch}"))
        });
        let at: Vec<String> = at.collect();
        if at.is_empty() { "the workers are at no epoch".to_owned() } else { at.join(", ") }
    }

    /// Series that are kept out of the computation, in the order in which they were found.
    pub fn quarantined(&self) -> Vec<SeriesId> {
        let held = self.quarantined.lock();
        held.iter().filter(|held| !held.lifted).map(|held| SeriesId(held.series)).collect()
    }
}
