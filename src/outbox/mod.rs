//! The log out: the outcomes of each epoch are durable here before any sink takes them.
//!
//! The engine appends; sinks read with a [`Tail`] each, at their own pace, keeping their own place. One epoch is one
//! batch, also when it has no rows: that is how a sink learns that the epoch is done. An epoch that is held already is
//! not written again, so a restarted engine may compute from the beginning.
//!
//! What no sink needs any more is removed by a [`Trimmer`], segment by segment, while the outbox is written.
//!
//! Not here: sorting (`Outcomes::settle`), what sinks do with rows, when is trimmed.

mod record;
mod tail;
mod trim;

use std::sync::Arc;
use std::time::Instant;

use tidewatch_dataflows::outcome::Outcomes;

pub use self::record::{Batch, KIND_BATCH, decode, encode};
use self::record::{Rows, encode_part, header};
pub use self::tail::Tail;
pub use self::trim::Trimmer;
use crate::disk::Folder;
use crate::faults::mutant;
use crate::metrics::{Gauge, Histogram, Log, Metrics};
pub use crate::segments::Durable;
use crate::segments::{self, SegmentReader, Segments, SegmentsError};

const LOG: &str = "outbox";

/// The outbox cannot be opened, read or written. All of these are definite, unless [`OutboxError::passes`].
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The files.
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    /// A record of a kind this program does not know.
    #[error(
        "the outbox holds a record of kind {kind}, which this program does not know; was it written by a newer one?"
    )]
    UnknownKind { kind: u8 },
    /// A record that is not what its kind says.
    #[error("an outbox record cannot be used: {why}")]
    Malformed { why: String },
}

impl OutboxError {
    /// Whether the same can be written again when this is over: the disk has no room, most often.
    pub fn passes(&self) -> bool {
        matches!(self, OutboxError::Segments(error) if error.passes())
    }
}

/// How an outbox is run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes after which a new segment is begun.
    pub segment_bytes: u64,
    /// Bytes of all segments beyond which [`Outbox::full`] says so.
    pub bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config { segment_bytes: 64 << 20, bytes_max: 10 << 30 }
    }
}

/// The writer of the outbox; one at a time.
pub struct Outbox {
    segments: Segments,
    config: Config,
    /// The newest epoch held, durable or not yet.
    last_epoch: Option<u64>,
    /// The segment it ends in.
    whole_in: u64,
    durable: Arc<Durable>,
    trimmer: Trimmer,
    bytes: Gauge,
    sync_seconds: Histogram,
}

impl Outbox {
    /// Opens the outbox in `folder`, making it if needed. An epoch that was not written whole is cut off.
    ///
    /// # Errors
    /// Files that cannot be read or written, or are damaged before their end.
    pub fn open(
        folder: impl Into<Folder>,
        config: Config,
        metrics: Arc<Metrics>,
    ) -> Result<Outbox, OutboxError> {
        let folder = folder.into();
        let (mut last_epoch, mut error) = (None, None);
        let (segments, _) = Segments::open(&folder, LOG, config.segment_bytes, |kind, payload| {
            match header(kind, payload) {
                Ok((header, _)) if header.last => {
                    last_epoch = Some(header.epoch);
                    true
                }
                Ok(_) => false,
                Err(e) => {
                    // Not torn: the checksum was right. It stays as it is, and opening fails below.
                    error.get_or_insert(e);
                    true
                }
            }
        })?;
        if let Some(error) = error {
            return Err(error);
        }
        let mut whole_in = segments.end().segment;
        if last_epoch.is_none() {
            last_epoch = last_epoch_before(&folder)?;
            // As good as the one before, which is the last that may go.
            whole_in = segments::list(&folder)?.into_iter().rev().nth(1).unwrap_or(whole_in);
        }
        let log = Log { log: LOG };
        let bytes = metrics.log_bytes.get_or_create(&log).clone();
        let sync_seconds = metrics.log_sync_seconds.get_or_create(&log).clone();
        bytes.set(i64::try_from(segments.bytes()).unwrap_or(i64::MAX));
        let durable = Arc::new(Durable::new(segments.end(), last_epoch));
        let trimmer = Trimmer::new(folder, segments.trimmer(), Arc::clone(&durable), bytes.clone(), whole_in);
        Ok(Outbox { segments, config, last_epoch, whole_in, durable, trimmer, bytes, sync_seconds })
    }

    /// The newest epoch held.
    pub fn last_epoch(&self) -> Option<u64> {
        self.last_epoch
    }

    /// Takes the outcomes of `epoch`; whether they are new: an epoch at or below [`Outbox::last_epoch`] is ignored.
    ///
    /// Durable, and seen by sinks, after [`Outbox::sync`].
    ///
    /// # Errors
    /// Disk errors. After one that [passes](OutboxError::passes) nothing of the epoch is in the outbox, and the same call
    /// may be made again; after others every call fails.
    pub fn append(&mut self, epoch: u64, outcomes: &Outcomes) -> Result<bool, OutboxError> {
        if self.last_epoch.is_some_and(|last| epoch <= last) && !mutant(10) {
            return Ok(false);
        }
        if let Err(error) = self.append_rows(epoch, Rows::of(outcomes)) {
            if error.passes() {
                // Should that fail as well, the next write does it first.
                let _ = self.segments.rewind();
            }
            return Err(error.into());
        }
        self.segments.keep();
        (self.last_epoch, self.whole_in) = (Some(epoch), self.segments.end().segment);
        Ok(true)
    }

    fn append_rows(&mut self, epoch: u64, mut rows: Rows<'_>) -> Result<(), SegmentsError> {
        loop {
            let some = rows.take();
            let last = rows.is_empty();
            self.segments.append_with(KIND_BATCH, |out| encode_part(epoch, last, some, out));
            // A large epoch goes to the system part by part, so that the buffer stays small.
            self.segments.write()?;
            if last {
                return Ok(());
            }
        }
    }

    /// Makes durable what was appended, and shows it to the sinks.
    ///
    /// # Errors
    /// Disk errors; from then on every call fails.
    pub fn sync(&mut self) -> Result<(), OutboxError> {
        let begun = Instant::now();
        if mutant(1) {
            self.durable.advance(self.segments.end(), self.last_epoch);
        }
        self.segments.sync()?;
        self.sync_seconds.observe(begun.elapsed().as_secs_f64());
        self.bytes.set(i64::try_from(self.segments.bytes()).unwrap_or(i64::MAX));
        self.durable.advance(self.segments.end(), self.last_epoch);
        self.trimmer.synced(self.whole_in);
        Ok(())
    }

    /// How far the outbox is durable. Closed when the outbox is dropped.
    pub fn durable(&self) -> Arc<Durable> {
        self.durable.clone()
    }

    /// Removes old segments, from any thread.
    pub fn trimmer(&self) -> Trimmer {
        self.trimmer.clone()
    }

    /// Whether the outbox is as large as it may be.
    pub fn full(&self) -> bool {
        self.segments.bytes() >= self.config.bytes_max
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.bytes()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.durable.close();
    }
}

/// The last epoch of the newest segment but one; the last one has none yet.
fn last_epoch_before(folder: &Folder) -> Result<Option<u64>, OutboxError> {
    let mut last_epoch = None;
    // A segment is begun only after an epoch, so the one before the last ends with one.
    if let Some(segment) = segments::list(folder)?.into_iter().rev().nth(1) {
        let mut reader = SegmentReader::open_at(folder, LOG, segment)?;
        let end = reader.segment_end()?;
        while let Some((kind, payload)) = reader.next(end)? {
            let (header, _) = header(kind, payload)?;
            if header.last {
                last_epoch = Some(header.epoch);
            }
        }
    }
    Ok(last_epoch)
}

#[cfg(test)]
mod tests;
