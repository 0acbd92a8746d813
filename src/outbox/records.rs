//! The outbox's records in order, without those that only say how far it was synced; where loss was accepted, round what
//! is damaged.

use super::error::OutboxError;
use super::record::{RecordHeader, header};
use crate::disk::DiskFolder;
use crate::segments::{KIND_SYNCED, Position, SegmentReader, SegmentsError, decode_synced};

/// Its name in metrics and logs.
pub(super) const LOG: &str = "outbox";

/// Whether a record can be one of the outbox.
pub(super) fn plausible(kind: u8, payload: &[u8]) -> bool {
    decode_synced(kind, payload).is_some() || header(kind, payload).is_ok()
}

/// What a reader came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordStep {
    /// A batch, or a part of one.
    Batch,
    /// Something was damaged and is passed over.
    Lost,
    /// There is no more.
    Nothing,
}

/// Reads records.
pub(super) struct OutboxRecords {
    reader: SegmentReader,
    accept_loss: bool,
}

impl OutboxRecords {
    /// At the first segment there is; `None` without one.
    pub(super) fn open(folder: &DiskFolder, accept_loss: bool) -> Result<Option<OutboxRecords>, OutboxError> {
        let reader = SegmentReader::open(folder, LOG).map_err(damage)?;
        Ok(reader.map(|reader| OutboxRecords { reader, accept_loss }))
    }

    /// At a segment.
    pub(super) fn open_at(
        folder: &DiskFolder,
        segment: u64,
        accept_loss: bool,
    ) -> Result<OutboxRecords, OutboxError> {
        let reader = SegmentReader::open_at(folder, LOG, segment).map_err(damage)?;
        Ok(OutboxRecords { reader, accept_loss })
    }

    /// Reads the next record before `end`.
    pub(super) fn advance(&mut self, end: Position) -> Result<RecordStep, OutboxError> {
        loop {
            match self.reader.advance(end) {
                Ok(true) if self.reader.record().0 == KIND_SYNCED => {}
                Ok(true) => return Ok(RecordStep::Batch),
                Ok(false) => return Ok(RecordStep::Nothing),
                Err(error @ (SegmentsError::Damaged { .. } | SegmentsError::Missing { .. }))
                    if self.accept_loss =>
                {
                    let skipped = self.reader.resync(end, plausible)?;
                    let bytes = skipped.bytes;
                    tracing::error!(
                        bytes,
                        "the rows of the epochs that lie there are missing, as accepted: {error}"
                    );
                    return Ok(RecordStep::Lost);
                }
                Err(error) => return Err(damage(error)),
            }
        }
    }

    /// The record that was read last.
    pub(super) fn record(&self) -> (u8, &[u8]) {
        self.reader.record()
    }

    pub(super) fn position(&self) -> Position {
        self.reader.position()
    }

    /// The end of the segment being read, as long as its file is now.
    pub(super) fn segment_end(&self) -> Result<Position, OutboxError> {
        Ok(self.reader.segment_end()?)
    }
}

fn damage(error: SegmentsError) -> OutboxError {
    match error {
        SegmentsError::Damaged { .. } => OutboxError::Damaged(error),
        other => other.into(),
    }
}

/// The last epoch of which a segment that is written no more has a record that `counts`.
pub(super) fn last_epoch_of(
    folder: &DiskFolder,
    segment: u64,
    accept_loss: bool,
    counts: impl Fn(&RecordHeader) -> bool,
) -> Result<Option<u64>, OutboxError> {
    let mut records = OutboxRecords::open_at(folder, segment, accept_loss)?;
    let (end, mut last) = (records.segment_end()?, None);
    loop {
        match records.advance(end)? {
            RecordStep::Nothing => return Ok(last),
            RecordStep::Lost => {}
            RecordStep::Batch => {
                let (kind, payload) = records.record();
                let (header, _) = header(kind, payload)?;
                if counts(&header) {
                    last = Some(header.epoch);
                }
            }
        }
    }
}
