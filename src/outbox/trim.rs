//! Trimming: whole segments of the outbox go when every sink holds the epochs in them.
//!
//! Which epoch is the last of a segment is read from its records once, for the oldest one only, and remembered. The
//! segment with the newest whole epoch stays, for the outbox knows by it where it goes on; so does what is behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::OutboxError;
use super::records::last_epoch_of;
use crate::disk::DiskFolder;
use crate::metrics::Gauge;
use crate::segments::{self, SegmentsError};
use parking_lot::Mutex;

/// Removes what no sink needs any more, from any thread, while the outbox is written. Cheap to clone.
#[derive(Clone)]
pub struct OutboxTrimmer {
    folder: DiskFolder,
    segments: segments::SegmentTrimmer,
    bytes: Gauge,
    /// The segment with the newest whole epoch that is durable.
    newest: Arc<AtomicU64>,
    /// The epoch up to which every sink has everything, and one more; 0 for none.
    held: Arc<AtomicU64>,
    accept_loss: bool,
    /// The oldest segment, and the last epoch in it. Held while it is being found.
    known: Arc<Mutex<Option<(u64, u64)>>>,
}

impl OutboxTrimmer {
    pub(super) fn new(
        folder: DiskFolder,
        segments: segments::SegmentTrimmer,
        bytes: Gauge,
        newest: u64,
        accept_loss: bool,
    ) -> OutboxTrimmer {
        let (newest, held, known) = (Arc::new(AtomicU64::new(newest)), Arc::default(), Arc::default());
        OutboxTrimmer { folder, segments, bytes, newest, held, accept_loss, known }
    }

    /// Takes note of the segment with the newest whole epoch, now that it is durable.
    pub(super) fn synced(&self, newest: u64) {
        self.newest.store(newest, Ordering::Release);
    }

    /// Whether every sink has all epochs up to this one, durably.
    pub(super) fn holds(&self, epoch: Option<u64>) -> bool {
        epoch.is_none_or(|epoch| epoch < self.held.load(Ordering::Acquire))
    }

    /// Removes the segments that hold nothing but epochs up to `upto_epoch`, which every sink must hold, durably; how many
    /// bytes that freed. Who reads one of them reads it to its end.
    ///
    /// # Errors
    /// The disk's, and damage in the oldest segment; the outbox can be written as before.
    pub fn trim(&self, upto_epoch: u64) -> Result<u64, OutboxError> {
        self.held.fetch_max(upto_epoch.saturating_add(1), Ordering::AcqRel);
        let mut freed = 0;
        // One at a time, so that the removing waits for no reading.
        while let Some(next) = self.first_to_keep(upto_epoch)? {
            let bytes = self.segments.remove_before(next)?;
            self.bytes.dec_by(i64::try_from(bytes).unwrap_or(i64::MAX));
            freed += bytes;
        }
        Ok(freed)
    }

    /// The segment behind the oldest one, if that may go.
    fn first_to_keep(&self, upto_epoch: u64) -> Result<Option<u64>, OutboxError> {
        let all = self.segments.segments();
        let [oldest, next, ..] = all[..] else { return Ok(None) };
        if oldest >= self.newest.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut known = self.known.lock();
        let last = match *known {
            Some((segment, last)) if segment == oldest => last,
            _ => {
                let Some(last) = self.last_epoch_of(oldest)? else { return Ok(None) };
                *known = Some((oldest, last));
                last
            }
        };
        Ok((last <= upto_epoch).then_some(next))
    }

    /// The last epoch of a segment; none if another trimmer took it away.
    fn last_epoch_of(&self, segment: u64) -> Result<Option<u64>, OutboxError> {
        // Also one that goes on behind it: of that every sink must have all.
        match last_epoch_of(&self.folder, segment, self.accept_loss, |_| true) {
            Err(OutboxError::Segments(SegmentsError::Missing { .. })) => Ok(None),
            read => read,
        }
    }
}
