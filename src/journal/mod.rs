//! The log in: everything that changes results is durable here before it is computed on.
//!
//! ```text
//!  try_append ─┐  bounded queue   ┌────────────── one writer thread ──────────────┐
//!  append     ─┼─────────────────►│ encode, cut epochs ► before_commit ► write ►  │──► acknowledged, durable position
//!  cut        ─┘                  │ fdatasync; commits follow without pause       │         │
//!                                 └───────────────────────────────────────────────┘         ▼
//!                                                                              Reader (the engine's feeder)
//! ```
//! - A batch is acknowledged when the group commit holding it is synced, never before. After a failed write or sync
//!   nobody knows what is on disk: everything queued gets the error and nothing is taken until a restart.
//! - Epoch ends are records in the same stream ([`EpochCutter`] has the rules) and wait for nobody.
//! - Every segment begins with the settings in force and the state of fills, so a segment can be read without those
//!   before it.
//!   [`Reader`] hands on a settings record only when it differs from the one before.
//! - Not here: what samples mean, labels (the id's labels are made durable by `before_commit`), snapshots, trimming.

mod epochs;
mod reader;
mod record;
mod writer;

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tidewatch_dataflows::sample::{Control, EpochEnd, Fill, Samples};
use tidewatch_dataflows::settings::Settings;
use tokio::sync::oneshot;

pub use self::epochs::EpochCutter;
pub use self::reader::Reader;
pub use self::record::{
    Fills, KIND_EPOCH_END, KIND_FILL_SAMPLES, KIND_SAMPLES, KIND_SETTINGS, Quarantined, RECORD_SAMPLES_MAX,
    Record, decode, encode_control, encode_epoch_end, encode_samples, encode_settings,
};
use self::writer::{Item, Shared, Writer};
use crate::disk::Folder;
use crate::metrics::Metrics;
use crate::segments::{self, Durable, SegmentReader, Segments, SegmentsError};

const LOG: &str = "journal";
/// How far the clock may be behind stream time at start.
pub const CLOCK_BEHIND_MS_MAX: i64 = 600_000;

/// The clock in Unix milliseconds; tests bring their own.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| jiff::Timestamp::now().as_millisecond())
}

/// The journal cannot be opened or read. All of these are definite.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The files.
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    /// A record of a kind this program does not know.
    #[error(
        "the journal holds a record of kind {kind}, which this program does not know; was it written by a newer one?"
    )]
    UnknownKind { kind: u8 },
    /// A record that is not what its kind says.
    #[error("a journal record of kind {kind} cannot be used: {why}")]
    Malformed { kind: u8, why: String },
    /// The journal was computed under other settings.
    #[error("the journal was written under other settings: {}; start with those, or with another data_dir", differences.join("; "))]
    SettingsDiffer { differences: Vec<String> },
    /// The clock is far behind what the journal has seen.
    #[error("the clock says {}, more than 10m behind the journal's stream time {}; set the clock, or wait", time(*clock_ms), time(*stream_ms))]
    ClockBehind { clock_ms: i64, stream_ms: i64 },
    /// The writer thread could not be started.
    #[error("cannot start the journal's writer thread: {0}")]
    Thread(io::Error),
    /// Writing failed.
    #[error("{0}")]
    Failed(String),
}

fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}

/// Why the journal did not take a batch. For a source these are all "not now".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The queue has no room; trying again in a moment helps.
    #[error(
        "the journal's queue is full: {batches} batches of {batches_max}, {samples} samples of {samples_max}"
    )]
    Full { batches: usize, batches_max: usize, samples: usize, samples_max: usize },
    /// The journal is as large as it may be.
    #[error("the journal holds {bytes} bytes; journal.bytes_max is {bytes_max}")]
    BytesMax { bytes: u64, bytes_max: u64 },
    /// A write or sync failed; nothing is taken before a restart.
    #[error("the journal has failed and takes nothing before a restart: {0}")]
    Failed(String),
    /// Shutting down.
    #[error("the journal is closed")]
    Closed,
}

/// Who ends epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The journal itself, by clock and size.
    Live,
    /// The caller, by [`Journal::cut`].
    File,
}

/// How a journal is run.
#[derive(Clone)]
pub struct Config {
    /// Bytes after which a new segment is begun.
    pub segment_bytes: u64,
    /// Bytes of all segments beyond which nothing is taken.
    pub bytes_max: u64,
    /// Most batches waiting.
    pub queue_batches: usize,
    /// Most samples waiting; one larger batch is taken when nothing waits.
    pub queue_samples: usize,
    /// Most samples of an epoch, in [`Mode::Live`].
    pub epoch_samples_max: usize,
    /// Longest epoch by the clock, in [`Mode::Live`].
    pub epoch_ms: i64,
    /// Who ends epochs.
    pub mode: Mode,
    /// Whether stream time may be far ahead of the clock (`--allow-future`).
    pub allow_future: bool,
    /// Unix milliseconds.
    pub clock: Clock,
}

impl Config {
    /// The usual bounds and the machine's clock.
    pub fn new(mode: Mode) -> Config {
        Config {
            segment_bytes: 64 << 20,
            bytes_max: 20 << 30,
            queue_batches: 1_024,
            // Small on purpose: what waits here streams through the cache that the series' state lives in.
            queue_samples: 1 << 19,
            epoch_samples_max: 262_144,
            epoch_ms: 1_000,
            mode,
            allow_future: false,
            clock: system_clock(),
        }
    }
}

/// Told when the group commit that holds a batch is synced, or why it never will be.
pub type Synced = oneshot::Receiver<Result<(), String>>;

/// Handle of an open journal. When the last one is dropped without [`Journal::close`], the writer stops as if killed.
#[derive(Clone)]
pub struct Journal {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    folder: Folder,
    thread: Mutex<Option<JoinHandle<()>>>,
    found_fills: Fills,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.abandon();
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic of the writer has told its tale already, and there is no one left to tell.
            let _ = thread.join();
        }
    }
}

impl Journal {
    /// Opens the journal in `folder` for writing, making it if needed, and starts its writer.
    ///
    /// An epoch that was cut short is closed with the *last* stream and close time. `before_commit` runs on the
    /// writer's thread before each write; what it returns counts as the journal's own failure.
    ///
    /// # Errors
    /// Damage, settings that differ from the journal's, or a clock more than 10 minutes behind its stream time.
    pub fn open(
        folder: impl Into<Folder>,
        config: Config,
        settings: Settings,
        before_commit: Box<dyn FnMut() -> io::Result<()> + Send>,
        metrics: Arc<Metrics>,
    ) -> Result<Journal, JournalError> {
        let folder = folder.into();
        let (segments, found) = recover(&folder, config.segment_bytes)?;
        if let Some(held) = &found.settings
            && *held != settings
        {
            return Err(JournalError::SettingsDiffer { differences: differences(held, &settings) });
        }
        let clock_ms = (config.clock)();
        if let Some(last) = found.last_end
            && !config.allow_future
            && last.stream_ms.saturating_sub(clock_ms) > CLOCK_BEHIND_MS_MAX
        {
            return Err(JournalError::ClockBehind { clock_ms, stream_ms: last.stream_ms });
        }
        let cutter = EpochCutter::new(found.last_end, settings.settle_ms, settings.catch_up_ms);
        let fills = found.fills.clone();
        let mut writer = Writer::new(segments, cutter, &settings, fills, config, before_commit, metrics);
        writer.begin(found.open_epoch)?;
        Journal::start(writer, folder, found.fills)
    }

    fn start(writer: Writer, folder: Folder, found_fills: Fills) -> Result<Journal, JournalError> {
        let shared = writer.shared();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run())
            .map_err(JournalError::Thread)?;
        let thread = Mutex::new(Some(thread));
        Ok(Journal { handle: Arc::new(Handle { shared, folder, thread, found_fills }) })
    }

    /// Queues `samples`, never waiting; `source` names them in the metrics once they are durable.
    ///
    /// # Errors
    /// [`Refused`]; nothing of the batch was taken.
    pub fn try_append(&self, samples: Samples, source: &'static str) -> Result<Synced, Refused> {
        let (done, synced) = oneshot::channel();
        self.handle.shared.offer(Item::Samples { samples, source, done: Some(done) }, false)?;
        Ok(synced)
    }

    /// Queues what is no sample, never waiting. It applies to the whole epoch it comes into; the end of a fill comes
    /// into a later one than the fill's samples queued before it.
    ///
    /// # Errors
    /// [`Refused`]; nothing was taken.
    pub fn try_control(&self, control: Control) -> Result<Synced, Refused> {
        let (done, synced) = oneshot::channel();
        self.handle.shared.offer(Item::Control { control, done }, false)?;
        Ok(synced)
    }

    /// Fills that were begun and not ended when the journal was opened.
    pub fn open_fills(&self) -> &[Fill] {
        &self.handle.found_fills.open
    }

    /// Series that were quarantined when the journal was opened, each with the epoch it begins with.
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.handle.found_fills.quarantined
    }

    /// Whether a fill from this source had ended when the journal was opened.
    pub fn filled(&self, source: &str) -> bool {
        self.handle.found_fills.done.iter().any(|done| done == source)
    }

    /// Queues `samples`, waiting for room. Whether they became durable shows in what [`Journal::cut`] returns.
    ///
    /// # Errors
    /// [`Refused`], but never [`Refused::Full`].
    pub fn append_blocking(&self, samples: Samples, source: &'static str) -> Result<(), Refused> {
        self.handle.shared.offer(Item::Samples { samples, source, done: None }, true)
    }

    /// Ends the current epoch after what is queued, at these times (see [`EpochCutter::cut_at`]); waits for room.
    ///
    /// # Errors
    /// [`Refused`], but never [`Refused::Full`].
    pub fn cut(&self, stream_ms: i64, close_ms: i64, last_of_input: bool) -> Result<Synced, Refused> {
        let (done, synced) = oneshot::channel();
        self.handle.shared.offer(Item::Cut { stream_ms, close_ms, last_of_input, done }, true)?;
        Ok(synced)
    }

    /// Takes nothing more, writes what is queued, ends the epoch in [`Mode::Live`], and syncs. Waits for all of it.
    ///
    /// # Errors
    /// A failure of the journal, now or earlier.
    pub fn close(&self) -> Result<(), JournalError> {
        self.handle.shared.close();
        let thread = self.handle.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            return Err(JournalError::Failed("the journal's writer panicked".to_owned()));
        }
        self.failed().map_or(Ok(()), |why| Err(JournalError::Failed(why)))
    }

    /// How far the journal is durable.
    pub fn durable(&self) -> Arc<Durable> {
        self.handle.shared.durable.clone()
    }

    /// Reads the journal from its first record on.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn reader(&self) -> Result<Reader, JournalError> {
        Reader::open(&self.handle.folder, self.durable())
    }

    /// The lowest number the epoch being filled can get.
    pub fn current_epoch(&self) -> u64 {
        self.handle.shared.current_epoch.load(Relaxed)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.handle.shared.bytes.load(Relaxed)
    }

    /// The newest durable epoch end.
    pub fn last_epoch_end(&self) -> Option<EpochEnd> {
        *self.handle.shared.last_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the journal takes nothing any more, if it failed.
    pub fn failed(&self) -> Option<String> {
        self.handle.shared.failed()
    }

    /// Makes the writer look at its clock.
    #[cfg(test)]
    fn poke(&self) {
        self.handle.shared.poke();
    }
}

/// What the journal held when it was opened.
#[derive(Debug, Default)]
struct Found {
    last_end: Option<EpochEnd>,
    /// Samples follow the last epoch end.
    open_epoch: bool,
    settings: Option<Settings>,
    /// Every segment's head has what was before it.
    fills: Fills,
    /// The first record that made no sense.
    error: Option<JournalError>,
}

impl Found {
    /// Takes note of one record; samples are not decoded.
    fn visit(&mut self, kind: u8, payload: &[u8]) {
        if matches!(kind, KIND_SAMPLES | KIND_FILL_SAMPLES) {
            self.open_epoch = true;
            return;
        }
        match decode(kind, payload) {
            Ok(Record::EpochEnd(end)) => (self.last_end, self.open_epoch) = (Some(end), false),
            Ok(Record::Settings(settings)) => self.settings = Some(settings),
            Ok(Record::Samples(_)) => self.open_epoch = true,
            Ok(Record::Control(control)) => {
                self.open_epoch = true;
                self.fills.note(&control);
            }
            Ok(Record::Fills(fills)) => self.fills = fills,
            Err(error) => self.error = self.error.take().or(Some(error)),
        }
    }
}

/// Opens the segments and finds the last epoch end and settings, going back segment by segment as far as needed.
fn recover(folder: &Folder, segment_bytes: u64) -> Result<(Segments, Found), JournalError> {
    let mut found = Found::default();
    let (segments, _) = Segments::open(folder, LOG, segment_bytes, |kind, payload| {
        found.visit(kind, payload);
        // A head that was torn before its settings is cut off and written anew: a segment that went on without them
        // would be taken for empty.
        kind != record::KIND_FILLS
    })?;
    for segment in segments::list(folder)?.into_iter().rev().skip(1) {
        if found.error.is_some() || (found.last_end.is_some() && found.settings.is_some()) {
            break;
        }
        let mut earlier = Found::default();
        let mut reader = SegmentReader::open_at(folder, LOG, segment)?;
        let end = reader.segment_end()?;
        while let Some((kind, payload)) = reader.next(end)? {
            earlier.visit(kind, payload);
        }
        found = Found {
            open_epoch: found.open_epoch || (found.last_end.is_none() && earlier.open_epoch),
            last_end: found.last_end.or(earlier.last_end),
            // A segment without settings was torn at its head, so nothing else is in it.
            fills: if found.settings.is_some() { found.fills } else { earlier.fills },
            settings: found.settings.or(earlier.settings),
            error: earlier.error,
        };
    }
    match found.error.take() {
        Some(error) => Err(error),
        None => Ok((segments, found)),
    }
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
mod tests;
