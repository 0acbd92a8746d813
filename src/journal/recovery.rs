//! What a journal holds when it is opened: its last epoch end, its settings, open bootstraps, and whether a record of it is
//! damaged. Read from the last segment back, as far as needed.

use tidewatch_dataflows::sample::{Control, EpochEnd};
use tidewatch_dataflows::settings::Settings;

use super::damage::{self, DamageReader, Losses};
use super::record::{self, BootstrapState, KIND_BOOTSTRAP_SAMPLES, KIND_SAMPLES, Record, decode};
use super::{JournalError, LOG};
use crate::disk::DiskFolder;
use crate::segments::{KIND_SYNCED, SegmentReader, Segments, SegmentsError};

/// What the journal held when it was opened.
#[derive(Debug)]
pub(super) struct JournalContents {
    pub(super) last_end: Option<EpochEnd>,
    /// Samples follow the last epoch end.
    pub(super) open_epoch: bool,
    /// The lowest reset of the clock that follows it.
    pub(super) reset_ms: i64,
    pub(super) settings: Option<Settings>,
    /// Every segment's head has what was before it.
    pub(super) bootstraps: BootstrapState,
    /// The first record that made no sense.
    pub(super) error: Option<JournalError>,
}

impl Default for JournalContents {
    fn default() -> JournalContents {
        JournalContents {
            last_end: None,
            open_epoch: false,
            reset_ms: i64::MAX,
            settings: None,
            bootstraps: BootstrapState::default(),
            error: None,
        }
    }
}

impl JournalContents {
    /// Takes note of one record; samples are not decoded.
    fn visit(&mut self, kind: u8, payload: &[u8]) {
        match kind {
            KIND_SAMPLES | KIND_BOOTSTRAP_SAMPLES => return self.open_epoch = true,
            KIND_SYNCED => return,
            _ => {}
        }
        match decode(kind, payload) {
            Ok(Record::EpochEnd(end)) => {
                (self.last_end, self.open_epoch, self.reset_ms) = (Some(end), false, i64::MAX);
            }
            Ok(Record::Settings(settings)) => self.settings = Some(settings),
            Ok(Record::Samples(_)) => self.open_epoch = true,
            Ok(Record::Control(control)) => {
                self.open_epoch = true;
                if let Control::ClockReset { to_ms } = control {
                    self.reset_ms = self.reset_ms.min(to_ms);
                }
                self.bootstraps.note(&control);
            }
            Ok(Record::Bootstraps(bootstraps)) => self.bootstraps = bootstraps,
            Err(error) => self.error = self.error.take().or(Some(error)),
        }
    }
}

/// Opens the segments and finds the last epoch end and settings, going back segment by segment as far as needed.
pub(super) fn recover(
    folder: &DiskFolder,
    segment_bytes: u64,
    losses: &Losses,
) -> Result<(Segments, JournalContents), JournalError> {
    let mut found = JournalContents::default();
    let opened = Segments::open_proving(folder, LOG, segment_bytes, Some(losses.proof()), |kind, payload| {
        found.visit(kind, payload);
        // A head that was torn before its settings is cut off and written anew: a segment that went on without them
        // would be taken for empty.
        kind != record::KIND_BOOTSTRAPS
    });
    let segments = match opened {
        Ok((segments, _)) => segments,
        Err(error) => return Err(damage_at_open(folder, error)?),
    };
    for segment in segments.trimmer().segments().into_iter().rev().skip(1) {
        if found.error.is_some() || (found.last_end.is_some() && found.settings.is_some()) {
            break;
        }
        let mut earlier = JournalContents::default();
        let reader = SegmentReader::open_at(folder, LOG, segment)?;
        let end = reader.segment_end()?;
        let mut records = DamageReader::new(reader, losses.clone());
        while records.advance(end)? {
            let (kind, payload) = records.record();
            earlier.visit(kind, payload);
        }
        found = JournalContents {
            open_epoch: found.open_epoch || (found.last_end.is_none() && earlier.open_epoch),
            reset_ms: if found.last_end.is_some() {
                found.reset_ms
            } else {
                found.reset_ms.min(earlier.reset_ms)
            },
            last_end: found.last_end.or(earlier.last_end),
            // A segment without settings was torn at its head, so nothing else is in it.
            bootstraps: if found.settings.is_some() { found.bootstraps } else { earlier.bootstraps },
            settings: found.settings.or(earlier.settings),
            error: earlier.error,
        };
    }
    match found.error.take() {
        Some(error) => Err(error),
        None => {
            found.last_end = found.last_end.map(|end| end.reset(found.reset_ms));
            Ok((segments, found))
        }
    }
}

/// What could not be opened, with the epochs around if it is a record of the last segment.
fn damage_at_open(folder: &DiskFolder, error: SegmentsError) -> Result<JournalError, JournalError> {
    let SegmentsError::Damaged { segment, offset: 1.., .. } = error else { return Ok(error.into()) };
    let reader = SegmentReader::open_at(folder, LOG, segment)?;
    let end = reader.segment_end()?;
    damage::describe_last(reader, end, error)
}
