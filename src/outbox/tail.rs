//! Reads the outbox batch by batch, for one sink.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::sample::SeriesId;

use super::OutboxError;
use super::record::{OutboxBatch, RecordHeader, decode_part, decode_windows, header};
use super::records::{OutboxRecords, RecordStep};
use crate::disk::DiskFolder;
use crate::segments::{self, DurablePosition, Position, SegmentsError};

/// How far a reader came with one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadStep {
    /// There is none yet.
    Nothing,
    /// The epoch goes on.
    Part,
    /// This epoch ends with it.
    End(u64),
}

/// Reads an outbox in order, after a given epoch. Sees nothing that is not durable.
pub struct Tail {
    folder: DiskFolder,
    records: Option<OutboxRecords>,
    accept_loss: bool,
    durable: Arc<DurablePosition>,
    from_epoch: Option<u64>,
    /// The batch being put together from its records.
    partial: OutboxBatch,
    /// The epoch that the records read last are of, if it goes on.
    within: Option<u64>,
}

/// What a record is to a reader.
enum TailPart {
    /// The epoch begins with it: what was read of it before is void.
    Begins,
    GoesOn,
    /// Of an epoch that is not wanted, or whose beginning is gone.
    Passed,
}

impl Tail {
    /// Opens the outbox in `folder`, which is durable as far as `durable` says, after the epoch `from_epoch`.
    ///
    /// # Errors
    /// Files that cannot be read or are damaged.
    pub fn open(
        folder: impl Into<DiskFolder>,
        durable: Arc<DurablePosition>,
        from_epoch: Option<u64>,
    ) -> Result<Tail, OutboxError> {
        Tail::open_accepting(folder, durable, from_epoch, false)
    }

    /// [`Tail::open`], which passes over epochs whose rows are damaged, if `accept_loss`.
    ///
    /// # Errors
    /// As there.
    pub fn open_accepting(
        folder: impl Into<DiskFolder>,
        durable: Arc<DurablePosition>,
        from_epoch: Option<u64>,
        accept_loss: bool,
    ) -> Result<Tail, OutboxError> {
        let folder = folder.into();
        let records = loop {
            let first = segments::list(&folder)?.first().copied();
            let opened = match from_epoch {
                Some(epoch) => seek(&folder, &durable, epoch, accept_loss),
                None => OutboxRecords::open(&folder, accept_loss),
            };
            match opened {
                // It was trimmed between being listed and being opened.
                Err(OutboxError::Segments(SegmentsError::Missing { .. }))
                    if segments::list(&folder)?.first().copied() != first => {}
                opened => {
                    if from_epoch.is_none() && first.is_some_and(|first| first > 0) {
                        tracing::warn!(
                            "a sink that holds nothing begins behind what the outbox was trimmed to"
                        );
                    }
                    break opened?;
                }
            }
        };
        let partial = OutboxBatch::default();
        Ok(Tail { folder, records, accept_loss, durable, from_epoch, partial, within: None })
    }

    /// The next batch if one is durable already.
    ///
    /// # Errors
    /// Damage, or a record that is not what its kind says; neither goes away.
    #[expect(clippy::should_implement_trait, reason = "after `None` it goes on, so it is no iterator")]
    pub fn next(&mut self) -> Result<Option<OutboxBatch>, OutboxError> {
        while let Some(step) = self.advance()? {
            let Some(records) = self.records.as_ref().filter(|_| step == RecordStep::Batch) else { continue };
            let (kind, payload) = records.record();
            match place(self.from_epoch, &mut self.within, &header(kind, payload)?.0) {
                TailPart::Passed => continue,
                TailPart::Begins => self.partial = OutboxBatch::default(),
                TailPart::GoesOn => {}
            }
            if decode_part(kind, payload, &mut self.partial)? {
                self.from_epoch = Some(self.partial.epoch);
                return Ok(Some(std::mem::take(&mut self.partial)));
            }
        }
        Ok(None)
    }

    /// Reads one record on; `None` when there is none.
    fn advance(&mut self) -> Result<Option<RecordStep>, OutboxError> {
        if self.records.is_none() {
            self.records = OutboxRecords::open(&self.folder, self.accept_loss)?;
        }
        let Some(records) = &mut self.records else { return Ok(None) };
        let step = records.advance(self.durable.end())?;
        if step == RecordStep::Lost {
            // Of an epoch that lacks something nothing is handed on.
            (self.partial, self.within) = (OutboxBatch::default(), None);
        }
        Ok((step != RecordStep::Nothing).then_some(step))
    }

    /// Reads one record on, and puts those of its windows into `found` whose series is wanted. For who wants few of them
    /// and no whole batch in memory; such a reader takes nothing but this. `found` is emptied where an epoch begins.
    ///
    /// # Errors
    /// As [`Tail::next`].
    pub fn pick(
        &mut self,
        wanted: impl FnMut(SeriesId) -> bool,
        found: &mut Vec<WindowStats>,
    ) -> Result<ReadStep, OutboxError> {
        let Some(step) = self.advance()? else { return Ok(ReadStep::Nothing) };
        let Some(records) = self.records.as_ref().filter(|_| step == RecordStep::Batch) else {
            return Ok(ReadStep::Part);
        };
        let (kind, payload) = records.record();
        match place(self.from_epoch, &mut self.within, &header(kind, payload)?.0) {
            TailPart::Passed => return Ok(ReadStep::Part),
            TailPart::Begins => found.clear(),
            TailPart::GoesOn => {}
        }
        let (epoch, last) = decode_windows(kind, payload, wanted, found)?;
        if last {
            self.from_epoch = Some(epoch);
        }
        Ok(if last { ReadStep::End(epoch) } else { ReadStep::Part })
    }

    /// The next batch; `None` when there is none within `timeout`, or none any more ([`Tail::finished`]).
    ///
    /// # Errors
    /// As [`Tail::next`].
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<OutboxBatch>, OutboxError> {
        let begun = Instant::now();
        loop {
            // In this order: what became durable before the outbox was closed is read.
            let closed = self.durable.closed();
            if let Some(batch) = self.next()? {
                return Ok(Some(batch));
            }
            let left = timeout.checked_sub(begun.elapsed()).filter(|left| !left.is_zero());
            let (false, Some(left), Some(records)) = (closed, left, &self.records) else { return Ok(None) };
            self.durable.wait_beyond(records.position(), left);
        }
    }

    /// Whether every batch has been read and none will follow.
    pub fn finished(&self) -> bool {
        self.durable.closed()
            && self.records.as_ref().is_none_or(|records| records.position() >= self.durable.end())
    }
}

/// What a record is to a reader of what follows `from`, who was `within` an epoch.
fn place(from: Option<u64>, within: &mut Option<u64>, header: &RecordHeader) -> TailPart {
    let RecordHeader { epoch, last, first, .. } = *header;
    if from.is_some_and(|from| epoch <= from) {
        return TailPart::Passed;
    }
    let goes_on = *within == Some(epoch);
    if !first && !goes_on {
        return TailPart::Passed;
    }
    *within = (!last).then_some(epoch);
    if goes_on && !first { TailPart::GoesOn } else { TailPart::Begins }
}

/// The newest segment that can hold the epoch after `epoch`: the last one that begins at or below it.
fn seek(
    folder: &DiskFolder,
    durable: &DurablePosition,
    epoch: u64,
    accept_loss: bool,
) -> Result<Option<OutboxRecords>, OutboxError> {
    let end = durable.end();
    let segments = segments::list(folder)?;
    let (mut low, mut high) = (0, segments.len());
    while low < high {
        let middle = (low + high) / 2;
        let begins_after = match first_epoch(folder, segments[middle], end, accept_loss)? {
            Some(first) => first > epoch,
            // Only the last segment can be without a durable record.
            None => true,
        };
        if begins_after { high = middle } else { low = middle + 1 }
    }
    let segment = segments.get(low.saturating_sub(1));
    segment.map(|segment| OutboxRecords::open_at(folder, *segment, accept_loss)).transpose()
}

/// The epoch that the first record of a segment is of.
fn first_epoch(
    folder: &DiskFolder,
    segment: u64,
    end: Position,
    accept_loss: bool,
) -> Result<Option<u64>, OutboxError> {
    let mut records = OutboxRecords::open_at(folder, segment, accept_loss)?;
    loop {
        match records.advance(end)? {
            RecordStep::Nothing => return Ok(None),
            RecordStep::Lost => {}
            RecordStep::Batch => {
                let (kind, payload) = records.record();
                return Ok(Some(header(kind, payload)?.0.epoch));
            }
        }
    }
}
