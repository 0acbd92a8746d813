//! What a source that runs by itself needs: the journal as it sees it, the signal to end, and its place on disk.

use std::path::Path;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tidewatch_dataflows::sample::{Control, Samples};

use crate::source::{DurableFuture, IntakeRefusal};

/// How long is waited where Tidewatch takes nothing.
pub(super) const REFUSED: Duration = Duration::from_secs(1);

/// The journal as sources that run by themselves see it.
pub trait SourceJournal: Send + Sync {
    /// Hands samples over for the next group commit; `source` names them in metrics. Never waits.
    ///
    /// # Errors
    /// If they cannot be taken now. None of them was taken then.
    fn append(&self, samples: Samples, source: &'static str) -> Result<DurableFuture, IntakeRefusal>;

    /// As [`SourceJournal::append`], for what is no sample.
    ///
    /// # Errors
    /// If it cannot be taken now.
    fn control(&self, control: Control) -> Result<DurableFuture, IntakeRefusal>;

    /// The lowest number that the epoch being filled can get: never lower than before, also over restarts.
    fn epoch(&self) -> u64;

    /// Whether series that ended before the start may still be counted.
    fn catching_up(&self) -> bool;

    /// Whether nothing is taken any more before a restart.
    fn ended(&self) -> bool;
}

/// Tells threads to end, and lets them wait for it.
#[derive(Default)]
pub struct StopSignal {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl StopSignal {
    /// Ends every pause, now and later.
    pub fn signal(&self) {
        *self.stopped.lock() = true;
        self.changed.notify_all();
    }

    /// Waits for this time, or until the signal; `false` once it was given.
    pub fn pause(&self, time: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        self.changed.wait_while_for(&mut stopped, |stopped| !*stopped, time);
        !*stopped
    }
}

/// Writes down how far a source has read. Not synced: after a power cut it reads a little twice, which is no harm.
pub fn write_progress(path: &Path, at_ms: i64) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let next = path.with_extension("next");
    std::fs::write(&next, format!("{at_ms}\n"))?;
    std::fs::rename(next, path)
}
