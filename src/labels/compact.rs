//! Cleaning of the series log: what nobody needs any more goes, segment by segment, from the oldest on.
//!
//! When the log is more than twice as long as the records it needs, plus a segment, those of the oldest segment that are
//! needed are appended anew and synced, and then the segment is removed. Which these are is known in memory: each
//! series remembers the segment of its newest record. Nothing is read.
//!
//! **Why nothing is lost.** Needed are the series that are known, and for a while those that were released. A series is
//! released when the store holds the epoch in which its slot was freed; a slot is not freed while the series has a
//! row that was not handed out. So the store has every row of it that journal, outbox or snapshot can still bring, and
//! with its first row its labels; it makes that safe from a power cut before the segment goes. After that epoch the series is new to us: it is registered again, in a record of its
//! own, before the journal holds a sample of it. (Whoever throws the store away, or wants to read ids of an archived
//! journal, needs the log as it was: then nobody calls [`Labels::compact`].)
//!
//! **Killed between any two steps**: before the sync the copies are a torn tail and the segment is there; after it both
//! are there, and a series that is there twice is one; a removed segment has no record that is needed and not
//! there again, durably. Series that come and go meanwhile have their records behind the segment.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::{Labels, LabelsError};

/// Records appended between two syncs; those who commit to the journal may have to wait for these.
const RECORDS_PER_SYNC: usize = 4_096;

/// What [`Labels::compact`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionSummary {
    /// Records that were needed and so appended anew.
    pub copied: u64,
    /// Bytes of the segment that was removed; 0 if none was.
    pub removed_bytes: u64,
}

impl Labels {
    /// Removes the oldest segment of the series log if the log is more than twice as long as it needs to be, plus a
    /// segment. Cheap if it is not; called again until nothing was removed.
    ///
    /// `make_safe` has the store made safe from a power cut, after it is settled what is needed and before the rest goes.
    ///
    /// # Errors
    /// Disk errors. One of a sync stays, as in [`Labels::sync`].
    pub fn compact(
        &self,
        make_safe: impl FnOnce() -> io::Result<()>,
    ) -> Result<CompactionSummary, LabelsError> {
        let _alone = self.compacting.lock();
        let needed = {
            let entries = self.entries.read();
            entries.record_bytes
        };
        let Some((oldest, next)) = self.log.lock().too_long(needed) else {
            return Ok(CompactionSummary::default());
        };
        let copied = self.copy_from(oldest)?;
        make_safe().map_err(LabelsError::Sink)?;
        let trimmer = self.log.lock().trimmer();
        let removed_bytes = {
            // Who reads the log goes from segment to segment.
            let _nobody_reads = self.segments.write();
            trimmer.remove_before(next)?
        };
        self.log.lock().publish();
        Ok(CompactionSummary { copied, removed_bytes })
    }

    /// Appends anew what is needed and in no later segment than `oldest`; durable when it returns.
    pub(super) fn copy_from(&self, oldest: u64) -> Result<u64, LabelsError> {
        let needed = {
            let entries = self.entries.read();
            entries.only_in(oldest)
        };
        for some in needed.chunks(RECORDS_PER_SYNC) {
            let mut log = self.log.lock();
            let segment =
                log.write_all(some.iter().map(|(series, used, labels)| (*series, *used, &**labels)))?;
            drop(log);
            let entries = self.entries.read();
            some.iter().for_each(|(series, ..)| entries.written(*series, segment));
        }
        Ok(needed.len() as u64)
    }

    /// Bytes of the series log that are needed.
    pub fn log_bytes_needed(&self) -> u64 {
        self.entries.read().record_bytes
    }

    /// Series, by their ids, that were not used since before `epoch`: whoever knows that they have no slot releases them.
    pub fn unused_since(&self, epoch: u64) -> Vec<u64> {
        let entries = self.entries.read();
        let unused = entries.by_id.iter().filter(|(_, entry)| {
            entry.used.load(Relaxed) < epoch && entry.spellings.iter().all(|hash| self.used(*hash) < epoch)
        });
        unused.map(|(series, _)| *series).collect()
    }
}
