//! Reads the journal from its first record to its durable end, and on as that moves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidewatch_dataflows::settings::Settings;

use super::record::{Record, decode};
use super::{JournalError, LOG};
use crate::disk::Folder;
use crate::segments::{Durable, SegmentReader};

/// Reads a journal in order. Sees nothing that is not durable.
pub struct Reader {
    folder: Folder,
    segments: Option<SegmentReader>,
    durable: Arc<Durable>,
    settings: Option<Settings>,
}

impl Reader {
    /// Opens the journal in `folder`, which is durable as far as `durable` says, at its first record.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn open(folder: impl Into<Folder>, durable: Arc<Durable>) -> Result<Reader, JournalError> {
        let folder = folder.into();
        Ok(Reader { segments: SegmentReader::open(&folder, LOG)?, folder, durable, settings: None })
    }

    /// The next record; `None` when there is none within `timeout`, or none any more ([`Reader::finished`]).
    ///
    /// # Errors
    /// Damage, or a record that is not what its kind says; both name what is wrong and neither goes away.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Record>, JournalError> {
        let begun = Instant::now();
        loop {
            // In this order: what became durable before the journal closed is read.
            let closed = self.durable.closed();
            if let Some(record) = self.next_ready()? {
                return Ok(Some(record));
            }
            let left = timeout.checked_sub(begun.elapsed()).filter(|left| !left.is_zero());
            let (false, Some(left), Some(segments)) = (closed, left, &self.segments) else { return Ok(None) };
            self.durable.wait_beyond(segments.position(), left);
        }
    }

    /// The next record if one is durable already.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub fn next_ready(&mut self) -> Result<Option<Record>, JournalError> {
        if self.segments.is_none() {
            self.segments = SegmentReader::open(&self.folder, LOG)?;
        }
        let Some(segments) = &mut self.segments else { return Ok(None) };
        let end = self.durable.end();
        while let Some((kind, payload)) = segments.next(end)? {
            let record = decode(kind, payload)?;
            if let Record::Settings(settings) = &record {
                // Each segment repeats them.
                if self.settings.as_ref() == Some(settings) {
                    continue;
                }
                self.settings = Some(settings.clone());
            }
            // For whoever opens the journal; a reader has seen the records it sums up.
            if matches!(record, Record::Fills(_)) {
                continue;
            }
            return Ok(Some(record));
        }
        Ok(None)
    }

    /// Whether every record has been read and none will follow.
    pub fn finished(&self) -> bool {
        self.durable.closed()
            && self.segments.as_ref().is_none_or(|segments| segments.position() >= self.durable.end())
    }
}
