//! Reads the outbox batch by batch, for one sink.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidewatch_dataflows::outcome::WindowStats;
use tidewatch_dataflows::sample::SeriesId;

use super::record::{Batch, decode_part, decode_windows, header};
use super::{LOG, OutboxError};
use crate::disk::Folder;
use crate::segments::{self, Durable, SegmentReader, SegmentsError};

/// How far a reader came with one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Picked {
    /// There is none yet.
    Nothing,
    /// The epoch goes on.
    Part,
    /// This epoch ends with it.
    End(u64),
}

/// Reads an outbox in order, after a given epoch. Sees nothing that is not durable.
pub struct Tail {
    folder: Folder,
    reader: Option<SegmentReader>,
    durable: Arc<Durable>,
    from_epoch: Option<u64>,
    /// The batch being put together from its records.
    partial: Batch,
}

impl Tail {
    /// Opens the outbox in `folder`, which is durable as far as `durable` says, after the epoch `from_epoch`.
    ///
    /// # Errors
    /// Files that cannot be read or are damaged.
    pub fn open(
        folder: impl Into<Folder>,
        durable: Arc<Durable>,
        from_epoch: Option<u64>,
    ) -> Result<Tail, OutboxError> {
        let folder = folder.into();
        let reader = loop {
            let first = segments::list(&folder)?.first().copied();
            let opened = match from_epoch {
                Some(epoch) => seek(&folder, &durable, epoch),
                None => SegmentReader::open(&folder, LOG).map_err(OutboxError::from),
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
        Ok(Tail { folder, reader, durable, from_epoch, partial: Batch::default() })
    }

    /// The next batch if one is durable already.
    ///
    /// # Errors
    /// Damage, or a record that is not what its kind says; neither goes away.
    #[expect(clippy::should_implement_trait, reason = "after `None` it goes on, so it is no iterator")]
    pub fn next(&mut self) -> Result<Option<Batch>, OutboxError> {
        if self.reader.is_none() {
            self.reader = SegmentReader::open(&self.folder, LOG)?;
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let end = self.durable.end();
        while let Some((kind, payload)) = reader.next(end)? {
            if let Some(from) = self.from_epoch
                && header(kind, payload)?.0.epoch <= from
            {
                continue;
            }
            if decode_part(kind, payload, &mut self.partial)? {
                self.from_epoch = Some(self.partial.epoch);
                return Ok(Some(std::mem::take(&mut self.partial)));
            }
        }
        Ok(None)
    }

    /// Reads one record on, and puts those of its windows into `found` whose series is wanted. For who wants few of them
    /// and no whole batch in memory; such a reader takes nothing but this.
    ///
    /// # Errors
    /// As [`Tail::next`].
    pub fn pick(
        &mut self,
        wanted: impl FnMut(SeriesId) -> bool,
        found: &mut Vec<WindowStats>,
    ) -> Result<Picked, OutboxError> {
        if self.reader.is_none() {
            self.reader = SegmentReader::open(&self.folder, LOG)?;
        }
        let Some(reader) = &mut self.reader else { return Ok(Picked::Nothing) };
        let end = self.durable.end();
        let Some((kind, payload)) = reader.next(end)? else { return Ok(Picked::Nothing) };
        if self
            .from_epoch
            .is_some_and(|from| matches!(header(kind, payload), Ok((header, _)) if header.epoch <= from))
        {
            return Ok(Picked::Part);
        }
        let (epoch, last) = decode_windows(kind, payload, wanted, found)?;
        if last {
            self.from_epoch = Some(epoch);
        }
        Ok(if last { Picked::End(epoch) } else { Picked::Part })
    }

    /// The next batch; `None` when there is none within `timeout`, or none any more ([`Tail::finished`]).
    ///
    /// # Errors
    /// As [`Tail::next`].
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Batch>, OutboxError> {
        let begun = Instant::now();
        loop {
            // In this order: what became durable before the outbox was closed is read.
            let closed = self.durable.closed();
            if let Some(batch) = self.next()? {
                return Ok(Some(batch));
            }
            let left = timeout.checked_sub(begun.elapsed()).filter(|left| !left.is_zero());
            let (false, Some(left), Some(reader)) = (closed, left, &self.reader) else { return Ok(None) };
            self.durable.wait_beyond(reader.position(), left);
        }
    }

    /// Whether every batch has been read and none will follow.
    pub fn finished(&self) -> bool {
        self.durable.closed()
            && self.reader.as_ref().is_none_or(|reader| reader.position() >= self.durable.end())
    }
}

/// The newest segment that can hold the epoch after `epoch`: the last one that begins at or below it.
fn seek(folder: &Folder, durable: &Durable, epoch: u64) -> Result<Option<SegmentReader>, OutboxError> {
    let end = durable.end();
    let segments = segments::list(folder)?;
    let (mut low, mut high) = (0, segments.len());
    while low < high {
        let middle = (low + high) / 2;
        let mut reader = SegmentReader::open_at(folder, LOG, segments[middle])?;
        let begins_after = match reader.next(end)? {
            Some((kind, payload)) => header(kind, payload)?.0.epoch > epoch,
            // Only the last segment can be without a durable record.
            None => true,
        };
        if begins_after { high = middle } else { low = middle + 1 }
    }
    let segment = segments.get(low.saturating_sub(1));
    Ok(segment.map(|segment| SegmentReader::open_at(folder, LOG, *segment)).transpose()?)
}
