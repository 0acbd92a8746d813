//! Reads the journal from its first record to its durable end, and on as that moves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidewatch_dataflows::settings::Settings;

use super::damage::{DamageReader, Losses};
use super::record::{KIND_SETTINGS, Record, decode, epoch_of};
use super::{JournalError, LOG};
use crate::disk::DiskFolder;
use crate::metrics::Counter;
use crate::segments::{DurablePosition, KIND_SYNCED, SegmentReader};

/// Reads a journal in order. Sees nothing that is not durable.
pub struct JournalReader {
    folder: DiskFolder,
    records: Option<DamageReader>,
    durable: Arc<DurablePosition>,
    losses: Losses,
    settings: Option<Settings>,
}

impl JournalReader {
    /// Opens the journal in `folder`, which is durable as far as `durable` says, at its first record.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn open(
        folder: impl Into<DiskFolder>,
        durable: Arc<DurablePosition>,
    ) -> Result<JournalReader, JournalError> {
        let folder = folder.into();
        let reader = SegmentReader::open(&folder, LOG)?;
        Ok(JournalReader::at(folder, reader, durable, Losses::new(false, Counter::default())))
    }

    pub(super) fn at(
        folder: DiskFolder,
        reader: Option<SegmentReader>,
        durable: Arc<DurablePosition>,
        losses: Losses,
    ) -> JournalReader {
        let records = reader.map(|reader| DamageReader::new(reader, losses.clone()));
        JournalReader { folder, records, durable, losses, settings: None }
    }

    /// Passes over everything up to the end of `epoch`, or of the last one before it.
    ///
    /// # Errors
    /// Files that cannot be read. Damage in what is passed over is none.
    pub(super) fn pass(&mut self, epoch: u64) -> Result<(), JournalError> {
        let Some(records) = &mut self.records else { return Ok(()) };
        let end = self.durable.end();
        let (mut held, mut settings) = ((records.place(), None, None), None);
        loop {
            match records.advance(end) {
                Ok(true) => {}
                Ok(false) => break,
                // If it is behind the epoch it will be met again.
                Err(JournalError::Damaged { .. }) => {
                    records.pass(end)?;
                    continue;
                }
                Err(other) => return Err(other),
            }
            let (kind, payload) = records.record();
            if kind == KIND_SETTINGS
                && let Record::Settings(found) = decode(kind, payload)?
            {
                settings = Some(found);
            }
            let Some(ended) = epoch_of(kind, payload) else { continue };
            if ended <= epoch {
                held = (records.place(), Some(ended), settings.clone());
            }
            if ended >= epoch {
                break;
            }
        }
        let (place, ended, settings) = held;
        records.go_back(place, ended)?;
        self.settings = settings;
        Ok(())
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
            let (false, Some(left), Some(records)) = (closed, left, &self.records) else { return Ok(None) };
            self.durable.wait_beyond(records.position(), left);
        }
    }

    /// The next record if one is durable already.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub fn next_ready(&mut self) -> Result<Option<Record>, JournalError> {
        if self.records.is_none() {
            let reader = SegmentReader::open(&self.folder, LOG)?;
            self.records = reader.map(|reader| DamageReader::new(reader, self.losses.clone()));
        }
        let Some(records) = &mut self.records else { return Ok(None) };
        let end = self.durable.end();
        while records.advance(end)? {
            let (kind, payload) = records.record();
            if kind == KIND_SYNCED {
                continue;
            }
            let record = decode(kind, payload)?;
            if let Record::Settings(settings) = &record {
                // Each segment repeats them.
                if self.settings.as_ref() == Some(settings) {
                    continue;
                }
                self.settings = Some(settings.clone());
            }
            // For whoever opens the journal; a reader has seen the records it sums up.
            if matches!(record, Record::Bootstraps(_)) {
                continue;
            }
            return Ok(Some(record));
        }
        Ok(None)
    }

    /// The settings in force where it stands, those it has passed over included. `None` where it has seen none: then
    /// the first ones are handed on.
    pub fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    /// Whether every record has been read and none will follow.
    pub fn finished(&self) -> bool {
        self.durable.closed()
            && self.records.as_ref().is_none_or(|records| records.position() >= self.durable.end())
    }
}
