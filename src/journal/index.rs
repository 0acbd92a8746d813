//! Which segment an epoch lies in: for trimming, and for reading on after an epoch.
//!
//! A segment may begin in the middle of an epoch. Everything before the first epoch end of a segment belongs to that
//! epoch or earlier ones, so the newest segment whose *first* epoch end is at or below an epoch holds all that follows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::damage::plausible;
use super::record::epoch_of;
use super::{JournalError, LOG};
use crate::disk::DiskFolder;
use crate::segments::{DurablePosition, SegmentReader, SegmentTrimmer, SegmentsError};
use parking_lot::Mutex;

/// The first epoch end of each segment, read when first asked for.
pub(super) struct Index {
    folder: DiskFolder,
    pub(super) trimmer: SegmentTrimmer,
    durable: Arc<DurablePosition>,
    /// Also what keeps trimming and the opening of readers apart.
    firsts: Mutex<BTreeMap<u64, u64>>,
}

impl Index {
    pub(super) fn new(folder: DiskFolder, trimmer: SegmentTrimmer, durable: Arc<DurablePosition>) -> Index {
        Index { folder, trimmer, durable, firsts: Mutex::default() }
    }

    /// Removes the segments that hold nothing but epochs up to `upto`, and gives their bytes.
    pub(super) fn trim(&self, upto: u64) -> Result<u64, JournalError> {
        let mut firsts = self.firsts.lock();
        let Some(segment) = self.newest(upto, &mut firsts)? else { return Ok(0) };
        let freed = self.trimmer.remove_before(segment)?;
        firsts.retain(|held, _| *held >= segment);
        Ok(freed)
    }

    /// A reader at the beginning of a segment that holds all that follows `epoch`; without an epoch, at the first one.
    /// `None` where there is no segment.
    pub(super) fn reader(&self, epoch: Option<u64>) -> Result<Option<SegmentReader>, JournalError> {
        let mut firsts = self.firsts.lock();
        let newest = match epoch {
            Some(epoch) => self.newest(epoch, &mut firsts)?,
            None => None,
        };
        let oldest = self.trimmer.first_segment();
        let segment = match newest {
            Some(segment) => segment,
            None if oldest == 0 => 0,
            None => {
                // What was looked for may be there and be damaged: then that is said.
                self.read_through(oldest)?;
                let first = self.first_end(oldest, &mut firsts)?;
                return Err(JournalError::Trimmed { wanted: epoch, first });
            }
        };
        Ok(Some(SegmentReader::open_at(&self.folder, LOG, segment)?))
    }

    /// The newest segment whose first epoch end is at or below `epoch`.
    fn newest(&self, epoch: u64, firsts: &mut BTreeMap<u64, u64>) -> Result<Option<u64>, JournalError> {
        let segments = self.trimmer.segments();
        let (mut low, mut high, mut newest) = (0, segments.len(), None);
        while low < high {
            let middle = low.midpoint(high);
            // A segment in the middle of a long epoch has no end; the next one that has speaks for it.
            let mut at = middle;
            let first = loop {
                match segments[middle..high].get(at - middle) {
                    None => break None,
                    Some(segment) => match self.first_end(*segment, firsts)? {
                        None => at += 1,
                        found => break found,
                    },
                }
            };
            if first.is_some_and(|first| first <= epoch) {
                newest = Some(segments[at]);
                low = at + 1;
            } else {
                high = middle;
            }
        }
        Ok(newest)
    }

    /// Reads a segment to its end.
    fn read_through(&self, segment: u64) -> Result<(), JournalError> {
        let end = self.durable.end();
        let mut reader = SegmentReader::open_at(&self.folder, LOG, segment)?;
        while reader.position().segment == segment && reader.advance(end)? {}
        Ok(())
    }

    /// The first durable epoch end in a segment. One that cannot be read is passed over: then less is trimmed.
    fn first_end(&self, segment: u64, firsts: &mut BTreeMap<u64, u64>) -> Result<Option<u64>, JournalError> {
        if let Some(epoch) = firsts.get(&segment) {
            return Ok(Some(*epoch));
        }
        let end = self.durable.end();
        let mut reader = match SegmentReader::open_at(&self.folder, LOG, segment) {
            Err(SegmentsError::Damaged { .. }) => return Ok(None),
            opened => opened?,
        };
        loop {
            match reader.advance(end) {
                Ok(true) if reader.position().segment == segment => {
                    let (kind, payload) = reader.record();
                    if let Some(epoch) = epoch_of(kind, payload) {
                        firsts.insert(segment, epoch);
                        return Ok(Some(epoch));
                    }
                }
                Ok(_) => return Ok(None),
                Err(SegmentsError::Damaged { .. } | SegmentsError::Missing { .. }) => {
                    if reader.resync(end, plausible)?.to.segment != segment {
                        return Ok(None);
                    }
                }
                Err(other) => return Err(other.into()),
            }
        }
    }
}
