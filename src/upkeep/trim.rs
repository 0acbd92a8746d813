//! Trims the logs behind what still needs them, a segment at a time.
//!
//! - The journal behind the older of two snapshots of every shard: a start that finds the newer one damaged begins
//!   there.
//! - The outbox behind the sink that is furthest behind, as far as each is safe from a power cut: they are synced first.
//! - The series log of the series that nobody knows any more.
//!
//! `journal.trim: off` keeps everything. Not here: which segments an epoch lies in; what snapshots are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::engine;
use crate::journal::{Journal, JournalError};
use crate::labels::{Labels, LabelsError};
use crate::outbox;
use crate::sinks::list::{SinkPositions, SinkSyncError};
use crate::snapshots::Snapshots;

use parking_lot::Mutex;

use crate::fatal::{Fatal, FatalHook, RESTART_ME};

/// How often it is looked whether something can go.
const EVERY: Duration = Duration::from_secs(1);
/// Every how many looks the sinks are synced and the outbox trimmed, unless that is full.
const OUTBOX_EVERY: u32 = 30;
const PATIENCE: Duration = Duration::from_millis(100);

/// A log cannot be trimmed, and grows until it can.
#[derive(Debug, thiserror::Error)]
pub enum TrimError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Sinks(#[from] SinkSyncError),
    #[error(transparent)]
    Outbox(#[from] outbox::OutboxError),
    #[error(transparent)]
    Labels(#[from] LabelsError),
}

/// What is trimmed, and what tells how far.
pub struct TrimDeps {
    pub journal: Journal,
    pub snapshots: Snapshots,
    pub outbox: outbox::OutboxTrimmer,
    pub sinks: SinkPositions,
    pub labels: Arc<Labels>,
    pub engine: Arc<engine::EngineProgress>,
    /// `journal.bytes_max`.
    pub journal_bytes_max: u64,
    /// Called when the series log has failed while it was made shorter.
    pub on_fatal: FatalHook,
}

/// The thread that trims.
pub struct Trim {
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Trim {
    /// Starts to trim.
    pub fn start(parts: TrimDeps) -> std::io::Result<Trim> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("trim".to_owned()).spawn(move || {
            let (mut told, mut turn) = ([const { None }; 3], 0_u32);
            while !stopped.load(Ordering::Relaxed) {
                parts.hurry();
                let now = turn.is_multiple_of(OUTBOX_EVERY) || parts.full();
                let outbox = if now { parts.trim_outbox() } else { Ok(()) };
                let trimmed = [parts.trim_journal(), outbox, parts.trim_labels()];
                turn = turn.wrapping_add(1);
                for (trimmed, told) in trimmed.into_iter().zip(&mut told) {
                    let why = trimmed.err().map(|error| error.to_string());
                    // Each trouble once, not once a second.
                    if let Some(why) = why.as_ref().filter(|why| told.as_ref() != Some(*why)) {
                        tracing::warn!("a log cannot be trimmed and grows until it can: {why}");
                    }
                    *told = why;
                }
                let mut waited = Duration::ZERO;
                while waited < EVERY && !stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(PATIENCE);
                    waited += PATIENCE;
                }
            }
        })?;
        Ok(Trim { stop, thread: Mutex::new(Some(thread)) })
    }

    /// Stops; waits for what is under way.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().take() {
            // A panic of it was printed; logs are whole segments all the same.
            let _ = thread.join();
        }
    }
}

impl Drop for Trim {
    fn drop(&mut self) {
        self.stop();
    }
}

impl TrimDeps {
    /// Half full, only newer snapshots keep intake from being refused.
    fn hurry(&self) {
        self.snapshots.hurry(self.journal.bytes() > self.journal_bytes_max / 2);
    }

    fn full(&self) -> bool {
        self.engine.blocked_on().is_some()
    }

    fn trim_journal(&self) -> Result<(), TrimError> {
        if let Some(epoch) = self.snapshots.trim_epoch() {
            let bytes = self.journal.trim(epoch)?;
            if bytes > 0 {
                tracing::debug!("the journal was trimmed behind epoch {epoch}: {bytes} bytes");
            }
        }
        Ok(())
    }

    fn trim_outbox(&self) -> Result<(), TrimError> {
        if let Some(safe) = self.sinks.sync()? {
            let bytes = self.outbox.trim(safe)?;
            if bytes > 0 {
                tracing::debug!("the outbox was trimmed behind epoch {safe}: {bytes} bytes");
            }
        }
        Ok(())
    }

    fn trim_labels(&self) -> Result<(), TrimError> {
        let safe = || self.sinks.sync().map(drop).map_err(std::io::Error::other);
        loop {
            match self.labels.compact(safe) {
                Ok(compacted) if compacted.removed_bytes > 0 => {}
                Ok(_) => return Ok(()),
                Err(error) => {
                    // Else the next new series would find it so, and until then all would look well.
                    if self.labels.log_has_failed() {
                        let message = format!("the series log has failed: {error}");
                        (self.on_fatal)(Fatal { message, code: RESTART_ME });
                    }
                    return Err(error.into());
                }
            }
        }
    }
}
