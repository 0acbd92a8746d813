//! The log in: everything that changes results is durable here before it is computed on.
//!
//! ```text
//!  try_append ─┐  bounded queue   ┌────────────── one writer thread ──────────────┐
//!  append     ─┼─────────────────►│ encode, cut epochs ► before_commit ► write ►  │──► acknowledged, durable position
//!  cut        ─┘                  │ fdatasync; commits follow without pause       │         │
//!                                 └───────────────────────────────────────────────┘         ▼
//!                                                                              Reader (the engine's feeder)
//! ```
//! - A batch is acknowledged when the group commit holding it is synced, or written if [`SyncMode`] says so. The durable
//!   position, which is all that readers see, moves with the sync (with [`SyncMode::Never`] with the write).
//! - When a write fails, for want of room most often, everything queued gets the error, the log goes back to what was
//!   acknowledged, and nothing is taken until a write succeeds: the writer tries once a second. In [`Mode::File`] nobody
//!   would send again what was refused, so there it is for good; as a failed sync is everywhere, after which nobody
//!   knows what is on disk.
//! - A bad record that had been synced is damage (`damage` has what becomes of it). Each commit says how far the log
//!   was synced before, so that it is not taken for a torn tail, which is cut off.
//! - Epoch ends are records in the same stream ([`EpochCutter`] has the rules) and wait for nobody.
//! - Every segment begins with the settings in force and the state of bootstraps, so a segment can be read without those
//!   before it.
//!   [`Reader`] hands on a settings record only when it differs from the one before.
//! - Not here: what samples mean, labels (the id's labels are made durable by `before_commit`), snapshots,
//!   when to trim ([`Journal::trim`] is told how far).

mod damage;
mod epochs;
mod error;
mod index;
mod options;
mod queue;
mod reader;
mod record;
mod recovery;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tidewatch_dataflows::sample::{Bootstrap, Control, EpochEnd, Samples};
use tidewatch_dataflows::settings::Settings;
use tokio::sync::oneshot;

use self::damage::Losses;
pub use self::epochs::EpochCutter;
use self::error::time;
pub use self::error::{JournalError, QueueError};
use self::index::Index;
use self::options::LOG;
pub use self::options::{
    Clock, DescribeSeries, EpochMode, FailureHook, JournalOptions, NewSeries, SyncMode, system_clock,
};
use self::queue::{Item, QueueShared};
pub use self::reader::JournalReader;
pub use self::record::{
    BootstrapState, KIND_BOOTSTRAP_SAMPLES, KIND_EPOCH_END, KIND_SAMPLES, KIND_SETTINGS, QuarantineEntry,
    RECORD_SAMPLES_MAX, Record, decode, encode_control, encode_epoch_end, encode_samples, encode_settings,
};
use self::recovery::recover;
use self::writer::JournalWriter;
use crate::disk::DiskFolder;
use crate::metrics::{Counter, Gauge, LogLabels, Metrics};
use crate::segments::DurablePosition;
pub use crate::segments::KIND_SYNCED;

/// How far the clock may be behind processing time at start.
pub const CLOCK_BEHIND_MS_MAX: i64 = 600_000;

/// Told when the group commit that holds a batch is synced, or why it never will be.
pub type SyncedCallback = oneshot::Receiver<Result<(), String>>;

/// Handle of an open journal. When the last one is dropped without [`Journal::close`], the writer stops as if killed.
#[derive(Clone)]
pub struct Journal {
    handle: Arc<JournalHandle>,
}

struct JournalHandle {
    shared: Arc<QueueShared>,
    folder: DiskFolder,
    index: Index,
    losses: Losses,
    bytes: Gauge,
    thread: Mutex<Option<JoinHandle<()>>>,
    found_bootstraps: BootstrapState,
}

impl Drop for JournalHandle {
    fn drop(&mut self) {
        self.shared.abandon();
        if let Some(thread) = self.thread.get_mut().take() {
            // A panic of the writer was printed when it happened, and nobody is left to pass it on to.
            let _ = thread.join();
        }
    }
}

impl Journal {
    /// Opens the journal in `folder` for writing, making it if needed, and starts its writer.
    ///
    /// Settings that differ from the journal's hold from the first epoch on that is written now.
    /// An epoch that was cut short is closed with the *last* processing time and watermark. `before_commit` runs on the
    /// writer's thread before each write; what it returns counts as the journal's own failure.
    ///
    /// # Errors
    /// Damage, a journal behind what was made from it, or, in [`Mode::File`], a clock more than 10 minutes behind its stream
    /// time. In [`Mode::Live`] such a journal goes on at its processing time until the clock is there or is accepted
    /// ([`Journal::reset_clock`]).
    pub fn open(
        folder: impl Into<DiskFolder>,
        config: JournalOptions,
        settings: Settings,
        before_commit: Box<dyn FnMut() -> io::Result<()> + Send>,
        metrics: Arc<Metrics>,
    ) -> Result<Journal, JournalError> {
        let folder = folder.into();
        let losses = Losses::new(config.accept_loss, metrics.journal_lost_bytes.clone());
        let (segments, found) = recover(&folder, config.segment_bytes, &losses)?;
        let reset_to_ms = judge_clock(&config, found.last_end)?;
        let mut cutter =
            EpochCutter::new(found.last_end, settings.idle_timeout_ms, settings.catch_up_ms, config.epoch_ms);
        cutter.begin_at(first_epoch(&config, found.last_end.map_or(0, |end| end.epoch))?);
        let bytes = metrics.log_bytes.get_or_create(&LogLabels { log: LOG }).clone();
        let trimmer = segments.trimmer();
        let bootstraps = found.bootstraps.clone();
        let mut writer =
            JournalWriter::new(segments, cutter, &settings, bootstraps, config, before_commit, metrics);
        if let Some(held) = &found.settings {
            for difference in differences(held, &settings) {
                tracing::info!("settings changed: {difference}");
            }
        }
        let before = found.settings.as_ref().filter(|held| **held != settings);
        writer.begin(found.open_epoch, before, reset_to_ms)?;
        let shared = writer.shared();
        let index = Index::new(folder.clone(), trimmer, shared.durable.clone());
        let thread = Mutex::new(Some(start(writer)?));
        let found_bootstraps = found.bootstraps;
        Ok(Journal {
            handle: Arc::new(JournalHandle {
                shared,
                folder,
                index,
                losses,
                bytes,
                thread,
                found_bootstraps,
            }),
        })
    }

    /// Queues `samples`, never waiting; `source` names them in the metrics once they are durable.
    ///
    /// # Errors
    /// [`Refused`]; nothing of the batch was taken.
    pub fn try_append(&self, samples: Samples, source: &'static str) -> Result<SyncedCallback, QueueError> {
        let (done, synced) = oneshot::channel();
        self.handle.shared.offer(Item::Samples { samples, source, done: Some(done) }, false)?;
        Ok(synced)
    }

    /// Queues what is no sample, never waiting. It applies to the whole epoch it comes into; the end of a bootstrap comes
    /// into a later one than the bootstrap's samples queued before it.
    ///
    /// # Errors
    /// [`Refused`]; nothing was taken.
    pub fn try_control(&self, control: Control) -> Result<SyncedCallback, QueueError> {
        let (done, synced) = oneshot::channel();
        self.handle.shared.offer(Item::Control { control, done }, false)?;
        Ok(synced)
    }

    /// Takes processing time and the watermark back to the clock, in an epoch of its own.
    ///
    /// # Errors
    /// [`Refused`]; nothing was taken.
    pub fn reset_clock(&self, to_ms: i64) -> Result<SyncedCallback, QueueError> {
        self.try_control(Control::ClockReset { to_ms })
    }

    /// Bootstraps that were begun and not ended when the journal was opened.
    pub fn open_bootstraps(&self) -> &[Bootstrap] {
        &self.handle.found_bootstraps.open
    }

    /// Series that were quarantined when the journal was opened, each with the epoch it begins with.
    pub fn quarantined(&self) -> &[QuarantineEntry] {
        &self.handle.found_bootstraps.quarantined
    }

    /// Whether a bootstrap from this source had ended when the journal was opened.
    pub fn bootstrapped(&self, source: &str) -> bool {
        self.handle.found_bootstraps.done.iter().any(|done| done == source)
    }

    /// Queues `samples`, waiting for room. Whether they became durable shows in what [`Journal::cut`] returns.
    ///
    /// # Errors
    /// [`Refused`], but never [`Refused::Full`].
    pub fn append_blocking(&self, samples: Samples, source: &'static str) -> Result<(), QueueError> {
        self.handle.shared.offer(Item::Samples { samples, source, done: None }, true)
    }

    /// Ends the current epoch after what is queued, at these times (see [`EpochCutter::cut_at`]); waits for room.
    ///
    /// # Errors
    /// [`Refused`], but never [`Refused::Full`].
    pub fn cut(
        &self,
        processing_ms: i64,
        watermark_ms: i64,
        last_of_input: bool,
    ) -> Result<SyncedCallback, QueueError> {
        let (done, synced) = oneshot::channel();
        self.handle.shared.offer(Item::Cut { processing_ms, watermark_ms, last_of_input, done }, true)?;
        Ok(synced)
    }

    /// Takes nothing more, writes what is queued, ends the epoch in [`Mode::Live`], and syncs. Waits for all of it.
    ///
    /// # Errors
    /// A failure of the journal, now or earlier.
    pub fn close(&self) -> Result<(), JournalError> {
        self.handle.shared.close();
        let thread = self.handle.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            return Err(JournalError::Failed("the journal's writer panicked".to_owned()));
        }
        self.failed().map_or(Ok(()), |why| Err(JournalError::Failed(why)))
    }

    /// How far the journal is durable.
    pub fn durable(&self) -> Arc<DurablePosition> {
        self.handle.shared.durable.clone()
    }

    /// Reads the journal from its first record on.
    ///
    /// # Errors
    /// Files that cannot be read, or a journal that was trimmed.
    pub fn reader(&self) -> Result<JournalReader, JournalError> {
        self.reader_after(None)
    }

    /// Reads the journal from the first record that follows the end of `epoch` (or of the last epoch before it). Of
    /// settings it hands on those that differ from the ones in force there.
    ///
    /// # Errors
    /// Files that cannot be read, or a journal that was trimmed beyond `epoch`.
    pub fn reader_after(&self, epoch: Option<u64>) -> Result<JournalReader, JournalError> {
        let JournalHandle { folder, index, losses, .. } = &*self.handle;
        let mut reader =
            JournalReader::at(folder.clone(), index.reader(epoch)?, self.durable(), losses.clone());
        if let Some(epoch) = epoch {
            reader.pass(epoch)?;
        }
        Ok(reader)
    }

    /// As [`Journal::reader_after`], but what is lost is an error also where that was accepted: for who reads on beside the
    /// engine, and must know what is missing. A reader that the trimming overtakes gets an error as well.
    ///
    /// # Errors
    /// As [`Journal::reader_after`].
    pub fn strict_reader_after(&self, epoch: u64) -> Result<JournalReader, JournalError> {
        let JournalHandle { folder, index, .. } = &*self.handle;
        let losses = Losses::new(false, Counter::default());
        let mut reader =
            JournalReader::at(folder.clone(), index.reader(Some(epoch))?, self.durable(), losses);
        reader.pass(epoch)?;
        Ok(reader)
    }

    /// Removes the segments that hold nothing but epochs up to `upto`, never the last one; gives the bytes freed. Who
    /// reads in them must have gone on.
    ///
    /// # Errors
    /// Files that cannot be read or removed; the journal goes on.
    pub fn trim(&self, upto: u64) -> Result<u64, JournalError> {
        let freed = self.handle.index.trim(upto)?;
        self.handle.bytes.set(i64::try_from(self.bytes()).unwrap_or(i64::MAX));
        Ok(freed)
    }

    /// The lowest number the epoch being filled can get.
    pub fn current_epoch(&self) -> u64 {
        self.handle.shared.current_epoch.load(Relaxed)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.handle.shared.bytes()
    }

    /// The newest durable epoch end.
    pub fn last_epoch_end(&self) -> Option<EpochEnd> {
        *self.handle.shared.last_end.lock()
    }

    /// Why the journal takes nothing any more, if it failed.
    pub fn failed(&self) -> Option<String> {
        self.handle.shared.failed()
    }

    /// Why the journal takes nothing at the moment, if a write failed.
    pub fn stalled(&self) -> Option<String> {
        self.handle.shared.stalled()
    }

    /// Makes the writer look at its clock.
    #[cfg(test)]
    fn poke(&self) {
        self.handle.shared.poke();
    }
}

fn start(writer: JournalWriter) -> Result<JoinHandle<()>, JournalError> {
    let thread = std::thread::Builder::new().name("journal".to_owned());
    thread.spawn(move || writer.run()).map_err(JournalError::Thread)
}

/// Judges a clock that is behind processing time: what both times go back to, if it is accepted.
fn judge_clock(config: &JournalOptions, last: Option<EpochEnd>) -> Result<Option<i64>, JournalError> {
    let clock_ms = (config.clock)();
    let Some(processing_ms) = last.map(|last| last.processing_ms) else { return Ok(None) };
    if processing_ms.saturating_sub(clock_ms) <= CLOCK_BEHIND_MS_MAX || config.allow_future {
        return Ok(None);
    }
    if config.accept_clock {
        tracing::warn!(
            "the journal's processing time goes back from {} to the clock's {}, as accepted",
            time(processing_ms),
            time(clock_ms)
        );
        return Ok(Some(clock_ms));
    }
    match config.mode {
        EpochMode::File => Err(JournalError::ClockBehind { clock_ms, processing_ms }),
        EpochMode::Live => Ok(None),
    }
}

/// The lowest number of the first epoch: above all that was made from epochs the journal does not hold.
fn first_epoch(config: &JournalOptions, found: u64) -> Result<u64, JournalError> {
    let Some((what, epoch)) = config.derived.iter().copied().max_by_key(|(_, epoch)| *epoch) else {
        return Ok(1);
    };
    if epoch <= found {
        return Ok(1);
    }
    if !config.accept_loss {
        return Err(JournalError::Behind { what, epoch, found });
    }
    tracing::warn!(
        "the {what} holds epoch {epoch} and the journal ends with {found}: going on above {epoch}, as accepted; samples between the two may be lost to all windows, and what was answered for them stays"
    );
    Ok(epoch.saturating_add(1))
}

/// Field by field: what the journal has, what was given.
fn differences(held: &Settings, given: &Settings) -> Vec<String> {
    let fields = |settings: &Settings| match serde_json::to_value(settings) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let given = fields(given);
    fields(held)
        .iter()
        .filter(|(field, value)| given.get(*field) != Some(value))
        .map(|(field, value)| {
            let now = given.get(field).map_or_else(|| "nothing".to_owned(), ToString::to_string);
            format!("{field} is {value} in the journal and {now} now")
        })
        .collect()
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;
