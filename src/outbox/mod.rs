//! The log out: the outcomes of each epoch are durable here before any sink takes them.
//!
//! The engine appends; sinks read with a [`Tail`] each, at their own pace, keeping their own place. One epoch is one
//! batch, also when it has no rows: that is how a sink learns that the epoch is done. An epoch that is held already is
//! not written again, so a restarted engine may compute from the beginning.
//!
//! What no sink needs any more is removed by a [`Trimmer`], segment by segment, while the outbox is written. It does not
//! count against the bound.
//!
//! A segment ends when it is full, also within an epoch: an epoch may be larger than the bound. If its writing is cut
//! short behind that, it is written again from its beginning, and readers pass over what was there before.
//!
//! Not here: sorting (`Rows::settle`), what sinks do with rows, when is trimmed.

mod error;
mod record;
mod records;
mod tail;
mod trim;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use tidewatch_dataflows::rows::RowLists;

pub use self::error::OutboxError;
use self::error::at;
use self::record::{Ends, RECORD_ROWS_MAX, encode_part, header};
pub use self::record::{KIND_BATCH, OutboxBatch, decode, encode};
use self::records::{LOG, last_epoch_of, plausible};
pub use self::tail::{ReadStep, Tail};
pub use self::trim::OutboxTrimmer;
use crate::disk::DiskFolder;
use crate::faults::mutant;
use crate::metrics::{Gauge, Histogram, LogLabels, Metrics};
pub use crate::segments::DurablePosition;
use crate::segments::{self, KIND_SYNCED, Segments, SegmentsError, TailCut};

/// How an outbox is run.
#[derive(Clone, Copy, Debug)]
pub struct OutboxOptions {
    /// Bytes after which a new segment is begun.
    pub segment_bytes: u64,
    /// Bytes of all segments beyond which [`Outbox::full`] says so.
    pub bytes_max: u64,
    /// What proves which epochs it must hold.
    pub proof: AcceptProof,
}

/// The newest epochs of what is made only from epochs that are durable here. An outbox that ends before them has not a
/// torn tail: it is damaged.
#[derive(Clone, Copy, Debug, Default)]
pub struct AcceptProof {
    /// That of the newest snapshot.
    pub snapshot: Option<u64>,
    /// That of the sink that is furthest, and its name.
    pub newest_sink: Option<(&'static str, u64)>,
    /// That of the sink that is furthest behind.
    pub oldest_sink: Option<u64>,
    /// Whether the start goes on without the epochs that are lost.
    pub accept_loss: bool,
}

impl AcceptProof {
    /// What the newest snapshot and these sinks prove, each with its name and the newest epoch that it holds.
    pub fn new(
        snapshot: Option<u64>,
        sinks: &[(&'static str, Option<u64>)],
        accept_loss: bool,
    ) -> AcceptProof {
        let newest_sink = sinks.iter().filter_map(|(name, epoch)| Some((*name, (*epoch)?)));
        let newest_sink = newest_sink.max_by_key(|(_, epoch)| *epoch);
        let oldest_sink = sinks.iter().map(|(_, epoch)| *epoch).min().flatten();
        AcceptProof { snapshot, newest_sink, oldest_sink, accept_loss }
    }

    /// The newest epoch of all, and whose it is.
    fn newest(&self) -> Option<(&'static str, u64)> {
        let snapshot = self.snapshot.map(|epoch| ("newest snapshot", epoch));
        snapshot.into_iter().chain(self.newest_sink).max_by_key(|(_, epoch)| *epoch)
    }
}

impl Default for OutboxOptions {
    fn default() -> Self {
        OutboxOptions { segment_bytes: 64 << 20, bytes_max: 10 << 30, proof: AcceptProof::default() }
    }
}

/// The writer of the outbox; one at a time.
pub struct Outbox {
    segments: Segments,
    config: OutboxOptions,
    /// The newest epoch held, durable or not yet.
    last_epoch: Option<u64>,
    /// The segment it ends in.
    whole_in: u64,
    durable: Arc<DurablePosition>,
    trimmer: OutboxTrimmer,
    bytes: Gauge,
    sync_seconds: Histogram,
}

impl Outbox {
    /// Opens the outbox in `folder`, making it if needed. An epoch that was not written whole is cut off.
    ///
    /// # Errors
    /// Files that cannot be read or written, or are damaged before their end. An outbox that ends before what
    /// [`Config::proof`] says; nothing is cut off then, unless the loss is accepted.
    pub fn open(
        folder: impl Into<DiskFolder>,
        config: OutboxOptions,
        metrics: Arc<Metrics>,
    ) -> Result<Outbox, OutboxError> {
        let folder = folder.into();
        let accept_loss = config.proof.accept_loss;
        let (last_here, error, last) = (Cell::new(None), Cell::new(None), Cell::new(None));
        let before = Cell::new(None);
        let whole = Cell::new(true);
        let visit = |kind, payload: &[u8]| match header(kind, payload) {
            Ok((header, _)) => {
                whole.set(header.last);
                if header.last {
                    last_here.set(Some(header.epoch));
                }
                header.last
            }
            Err(_) if kind == KIND_SYNCED => whole.get(),
            Err(e) => {
                // Not torn: the checksum was right. It stays as it is, and opening fails below.
                error.set(error.take().or(Some(e)));
                true
            }
        };
        let judge = |ending| {
            if let Some(error) = error.take() {
                return Err(error);
            }
            if last_here.get().is_none() {
                before.set(last_end_before(&folder, accept_loss)?);
            }
            last.set(last_here.get().or(before.get().map(|(epoch, _)| epoch)));
            judge(&config.proof, last.get(), ending)
        };
        let damage = segments::TailProof { plausible, accept_loss };
        let bytes = config.segment_bytes;
        let opened = Segments::open_judging(&folder, LOG, bytes, Some(damage), visit, judge);
        let (mut segments, _) = opened.map_err(OutboxError::of_opening)?;
        segments.mark();
        let whole_in = before.get().map_or(segments.end().segment, |(_, segment)| segment);
        let last_epoch = last.get();
        let log = LogLabels { log: LOG };
        let bytes = metrics.log_bytes.get_or_create(&log).clone();
        let sync_seconds = metrics.log_sync_seconds.get_or_create(&log).clone();
        bytes.set(i64::try_from(segments.bytes()).unwrap_or(i64::MAX));
        let durable = Arc::new(DurablePosition::new(segments.end(), last_epoch));
        let trimmer = OutboxTrimmer::new(folder, segments.trimmer(), bytes.clone(), whole_in, accept_loss);
        let mut outbox =
            Outbox { segments, config, last_epoch, whole_in, durable, trimmer, bytes, sync_seconds };
        outbox.pass_loss()?;
        Ok(outbox)
    }

    /// Where the epochs up to what is proven are not there, which was accepted: writes the last of them without rows, so
    /// that neither the engine nor a sink comes back to them.
    fn pass_loss(&mut self) -> Result<(), OutboxError> {
        let Some((what, proven)) = self.config.proof.newest() else { return Ok(()) };
        if self.last_epoch.is_some_and(|last| last >= proven) {
            return Ok(());
        }
        let ends = at(self.last_epoch);
        let oldest = self.config.proof.oldest_sink;
        let held = oldest.max(self.last_epoch).filter(|held| *held < proven);
        if oldest == Some(proven) {
            tracing::warn!(
                "the outbox ends {ends}; the {what} holds all up to epoch {proven}, so nothing is lost: going on above it"
            );
        } else {
            tracing::error!(
                "the outbox ends {ends} and the {what} holds epoch {proven}: the rows of the epochs after {} up to {proven} are missing, as accepted",
                held.unwrap_or(0)
            );
        }
        self.append(proven, &RowLists::default())?;
        self.sync()
    }

    /// The newest epoch held.
    pub fn last_epoch(&self) -> Option<u64> {
        self.last_epoch
    }

    /// Takes the rows of `epoch`; whether they are new: an epoch at or below [`Outbox::last_epoch`] is ignored.
    ///
    /// Durable, and seen by sinks, after [`Outbox::sync`].
    ///
    /// # Errors
    /// Disk errors. After one that [passes](OutboxError::passes) nothing of the epoch is in the outbox, and the same call
    /// may be made again; after others every call fails.
    pub fn append(&mut self, epoch: u64, rows: &RowLists) -> Result<bool, OutboxError> {
        if self.last_epoch.is_some_and(|last| epoch <= last) && !mutant(10) {
            return Ok(false);
        }
        if let Err(error) = self.append_rows(epoch, rows) {
            if error.is_transient() {
                // Should that fail as well, the next write does it first.
                let _ = self.segments.rewind();
            }
            return Err(error.into());
        }
        Ok(true)
    }

    fn append_rows(&mut self, epoch: u64, rows: &RowLists) -> Result<(), SegmentsError> {
        let (all, mut from) = (rows.rows(), 0);
        loop {
            let upto = (from + RECORD_ROWS_MAX).min(all);
            let (first, last) = (from == 0, upto == all);
            self.segments.append_with(KIND_BATCH, |out| {
                encode_part(epoch, Ends { first, last }, rows, from..upto, out);
            });
            // A large epoch goes to the system part by part, so that the buffer stays small.
            self.segments.write()?;
            if last {
                self.segments.keep();
                (self.last_epoch, self.whole_in) = (Some(epoch), self.segments.end().segment);
            }
            // Not only when sinks are shown something: what is between may be far more than the bound.
            if self.segments.full() {
                self.segments.sync()?;
            }
            if last {
                return Ok(());
            }
            from = upto;
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
        let end = self.segments.end();
        self.segments.mark();
        self.bytes.set(i64::try_from(self.segments.bytes()).unwrap_or(i64::MAX));
        self.durable.advance(end, self.last_epoch);
        self.trimmer.synced(self.whole_in);
        Ok(())
    }

    /// How far the outbox is durable. Closed when the outbox is dropped.
    pub fn durable(&self) -> Arc<DurablePosition> {
        self.durable.clone()
    }

    /// Removes old segments, from any thread.
    pub fn trimmer(&self) -> OutboxTrimmer {
        self.trimmer.clone()
    }

    /// Whether the outbox is as large as it may be. What every sink has does not count, also where it cannot go because
    /// it tells the last epoch.
    pub fn full(&self) -> bool {
        !self.trimmer.holds(self.last_epoch) && self.segments.bytes() >= self.config.bytes_max
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

/// Whether an outbox may end with this epoch.
fn judge(proof: &AcceptProof, found: Option<u64>, ending: TailCut) -> Result<(), OutboxError> {
    match proof.newest() {
        Some((what, epoch)) if found.is_none_or(|found| found < epoch) && !proof.accept_loss => {
            let TailCut { path, offset, why } = ending;
            Err(OutboxError::Behind { path, offset, why, what, epoch, found })
        }
        _ => Ok(()),
    }
}

/// The newest epoch that ends before the last segment, and the segment it ends in.
fn last_end_before(folder: &DiskFolder, accept_loss: bool) -> Result<Option<(u64, u64)>, OutboxError> {
    for segment in segments::list(folder)?.into_iter().rev().skip(1) {
        if let Some(epoch) = last_epoch_of(folder, segment, accept_loss, |header| header.last)? {
            return Ok(Some((epoch, segment)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
