//! Which segments a log has, and the removing of those nobody needs any more, from any thread.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::{SegmentsError, io_error, name_of, path_of, sync_dir};
use crate::disk::DiskFolder;
use parking_lot::{Mutex, MutexGuard};

/// The segments of a log that is being written; cheap to clone.
#[derive(Clone, Debug)]
pub struct SegmentTrimmer {
    shared: Arc<TrimShared>,
}

#[derive(Debug)]
struct TrimShared {
    folder: DiskFolder,
    hold: Mutex<ReaderHold>,
    /// One removes at a time. Apart from `hold`, so that the log's writer never waits for a disk access of another.
    removing: Mutex<()>,
}

#[derive(Debug)]
struct ReaderHold {
    /// Number and bytes of the segments before the one being written, rising.
    earlier: VecDeque<(u64, u64)>,
    /// Their bytes together.
    bytes: u64,
    /// The segment being written.
    current: u64,
}

impl SegmentTrimmer {
    pub(super) fn new(folder: DiskFolder, earlier: VecDeque<(u64, u64)>, current: u64) -> SegmentTrimmer {
        let hold = ReaderHold { bytes: earlier.iter().map(|(_, bytes)| bytes).sum(), earlier, current };
        SegmentTrimmer {
            shared: Arc::new(TrimShared { folder, hold: Mutex::new(hold), removing: Mutex::new(()) }),
        }
    }

    /// The segment being written is full, and the next one is made.
    pub(super) fn rolled(&self, bytes: u64, next: u64) {
        let mut hold = self.holds();
        let full = hold.current;
        hold.earlier.push_back((full, bytes));
        hold.bytes += bytes;
        hold.current = next;
    }

    /// Bytes of the segments before the one being written.
    pub fn bytes(&self) -> u64 {
        self.holds().bytes
    }

    /// The oldest segment.
    pub fn first_segment(&self) -> u64 {
        let hold = self.holds();
        hold.earlier.front().map_or(hold.current, |(first, _)| *first)
    }

    /// All segments, rising; the last one is being written.
    pub fn segments(&self) -> Vec<u64> {
        let hold = self.holds();
        hold.earlier.iter().map(|(first, _)| *first).chain([hold.current]).collect()
    }

    /// Removes the segments that begin before `segment`, never the one being written; durable when it returns. Gives
    /// the bytes freed. Readers that are in one of them can read it to its end.
    ///
    /// Oldest first and each for itself: a crash never leaves a gap.
    ///
    /// # Errors
    /// The disk's; what was removed stays so, and the log can be written as before.
    pub fn remove_before(&self, segment: u64) -> Result<u64, SegmentsError> {
        let _one = self.shared.removing.lock();
        let folder = &self.shared.folder;
        let mut freed = 0;
        loop {
            let oldest = self.holds().earlier.front().copied();
            let Some((first, bytes)) = oldest.filter(|(first, _)| *first < segment) else { return Ok(freed) };
            match folder.remove(&name_of(first)) {
                // The folder could not be synced the last time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("remove", &path_of(folder, first), error)),
                Ok(()) => {}
            }
            sync_dir(folder)?;
            let mut hold = self.holds();
            hold.earlier.pop_front();
            hold.bytes -= bytes;
            freed += bytes;
        }
    }

    fn holds(&self) -> MutexGuard<'_, ReaderHold> {
        self.shared.hold.lock()
    }
}
