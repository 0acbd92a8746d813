//! The writer of a log; what it finds when it opens one is `recovery`.

use std::io;
use std::path::PathBuf;

use super::recovery::{
    LastRecord, SegmentScan, TailProof, keep_if_damaged, last_segment, mend_headers, scan,
};
use super::trimmer::SegmentTrimmer;
use super::{
    HEADER_BYTES, KIND_SYNCED, PAYLOAD_BYTES_MAX, Position, RECORD_HEADER, SegmentsError, encode_synced,
    io_error, make_dir, name_of, path_of, sync_dir, write_header,
};
use crate::disk::{DiskFile, DiskFolder};
use crate::faults::{mutant, sync_fails};

/// What opening a log for writing found at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoverySummary {
    /// Bytes cut off: a torn record, or whole records after the last place where the log may end.
    pub truncated_bytes: u64,
    /// Records in the last segment.
    pub records: u64,
}

/// Where a log would end when it is opened: what follows is about to be cut off.
#[derive(Clone, Debug)]
pub struct TailCut {
    /// The last segment.
    pub path: PathBuf,
    /// The first bad record, or the end of the last good one.
    pub offset: u64,
    /// What is wrong there.
    pub why: String,
}

/// The writer of a log. One at a time: the data folder's lock sees to that.
///
/// [`Segments::append`] only fills a buffer, [`Segments::write`] hands it to the system, [`Segments::sync`] makes it
/// durable and begins a new segment when this one is full. A write that failed may be tried again, or be undone with
/// [`Segments::rewind`]. After a failed sync nothing is written any more.
#[derive(Debug)]
pub struct Segments {
    folder: DiskFolder,
    name: &'static str,
    segment_bytes: u64,
    file: Box<dyn DiskFile>,
    first: u64,
    /// Records in this segment, those in the buffer included.
    records: u64,
    /// Bytes of this segment in the file, each written whole.
    written: u64,
    buffer: Vec<u8>,
    /// Bytes of this segment that are durable.
    synced: u64,
    /// Bytes and records that [`Segments::rewind`] leaves.
    committed: (u64, u64),
    /// The end of a record of [`KIND_SYNCED`] behind which nothing was written yet.
    marked: u64,
    earlier: SegmentTrimmer,
    /// The file may be longer than `written`, by something that is not wanted.
    overhangs: bool,
    /// The next segment could not be begun the last time.
    cannot_begin: bool,
    failed: bool,
}

impl Segments {
    /// Opens the log `name` (at most 8 bytes) in `folder`, making both if needed.
    ///
    /// `visit` sees the kind and payload of every record of the last segment and says whether the log may end after
    /// it; what follows the last such record is cut off like a torn tail.
    ///
    /// # Errors
    /// Whatever cannot be read, written or is no segment of this log in this version.
    pub fn open(
        folder: impl Into<DiskFolder>,
        name: &'static str,
        segment_bytes: u64,
        visit: impl FnMut(u8, &[u8]) -> bool,
    ) -> Result<(Segments, RecoverySummary), SegmentsError> {
        Segments::open_proving(folder, name, segment_bytes, None, visit)
    }

    /// [`Segments::open`] of a log some of whose records say how far it was synced.
    ///
    /// # Errors
    /// As there, and damage in what had been synced.
    pub fn open_proving(
        folder: impl Into<DiskFolder>,
        name: &'static str,
        segment_bytes: u64,
        proof: Option<TailProof>,
        visit: impl FnMut(u8, &[u8]) -> bool,
    ) -> Result<(Segments, RecoverySummary), SegmentsError> {
        Segments::open_judging(folder, name, segment_bytes, proof, visit, |_| Ok(()))
    }

    /// [`Segments::open_proving`] of a log of which others know what it must hold: `judge` is asked when all records were
    /// visited, before anything is cut off.
    ///
    /// # Errors
    /// As there, and what `judge` says.
    pub fn open_judging<E: From<SegmentsError>>(
        folder: impl Into<DiskFolder>,
        name: &'static str,
        segment_bytes: u64,
        proof: Option<TailProof>,
        visit: impl FnMut(u8, &[u8]) -> bool,
        judge: impl FnOnce(TailCut) -> Result<(), E>,
    ) -> Result<(Segments, RecoverySummary), E> {
        let folder = folder.into();
        make_dir(&folder)?;
        let LastRecord { first, file, length, earlier, torn_bytes } = last_segment(&folder, name)?;
        let path = path_of(&folder, first);
        if proof.is_some_and(|proof| proof.accept_loss) {
            mend_headers(&folder, name)?;
        }
        let SegmentScan { mut end, records, marked, bad } =
            scan(&folder, name, Position { segment: first, offset: length }, proof, visit)?;
        let (offset, why) = bad.unwrap_or_else(|| (end, "what should follow is not there".to_owned()));
        judge(TailCut { path: path.clone(), offset, why })?;
        if mutant(6) {
            end = length;
        }
        if end < length {
            tracing::warn!(file = %path.display(), bytes = length - end, "cutting off the torn tail of the {name} log");
            keep_if_damaged(&folder, &*file, &path, end, length)?;
            file.set_len(end).map_err(|e| io_error("truncate", &path, e))?;
        }
        // What is there may never have been synced by the one who wrote it, nor its name.
        if !mutant(11) {
            file.sync().map_err(|e| io_error("sync", &path, e))?;
            sync_dir(&folder)?;
        }
        let recovered = RecoverySummary { truncated_bytes: length - end + torn_bytes, records };
        let earlier = SegmentTrimmer::new(folder.clone(), earlier, first);
        let writer = Segments {
            folder,
            name,
            segment_bytes,
            file,
            first,
            records,
            written: end,
            buffer: Vec::new(),
            synced: end,
            committed: (end, records),
            marked: if marked { end } else { 0 },
            earlier,
            overhangs: false,
            cannot_begin: false,
            failed: false,
        };
        Ok((writer, recovered))
    }

    /// Buffers one record.
    ///
    /// # Panics
    /// If the payload is longer than [`PAYLOAD_BYTES_MAX`]; the rooms above bound their records.
    pub fn append(&mut self, kind: u8, payload: &[u8]) {
        self.append_with(kind, |buffer| buffer.extend_from_slice(payload));
    }

    /// Buffers one record whose payload `fill` appends to what it is given.
    ///
    /// # Panics
    /// As [`Segments::append`].
    pub fn append_with(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; RECORD_HEADER]);
        self.buffer[start + 8] = kind;
        fill(&mut self.buffer);
        let payload_bytes = self.buffer.len() - start - RECORD_HEADER;
        assert!(
            payload_bytes <= PAYLOAD_BYTES_MAX,
            "a record of {payload_bytes} bytes; at most {PAYLOAD_BYTES_MAX} fit"
        );
        let crc = crc32fast::hash(&self.buffer[start + 8..]);
        self.buffer[start..start + 4].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        self.buffer[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        self.records += 1;
    }

    /// Hands buffered records to the operating system.
    ///
    /// # Errors
    /// [`SegmentsError::Write`]: the buffer is as it was and can be written again, with more behind it, or be dropped by
    /// [`Segments::rewind`]. Any other error is for good.
    pub fn write(&mut self) -> Result<(), SegmentsError> {
        self.check_usable()?;
        // Also where nothing is to be written: a sync may begin the next segment, and this one would keep records that
        // nobody counts.
        if self.overhangs {
            self.cut_overhang()?;
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        // Written again it covers whatever a failed attempt has left, for the buffer only grows.
        self.file.write_at(&self.buffer, self.written).map_err(|e| self.write_error(e))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        // One large commit should not hold its memory for ever.
        self.buffer.shrink_to(8 << 20);
        Ok(())
    }

    /// Writes what is buffered and makes it durable; then begins a new segment if this one is full.
    ///
    /// That a segment cannot be begun for want of room or of a descriptor is no error: the log goes on in the old one, and
    /// the next sync tries again.
    ///
    /// # Errors
    /// As [`Segments::write`].
    pub fn sync(&mut self) -> Result<(), SegmentsError> {
        self.write()?;
        let rolls = self.full() && self.records > 0;
        // A mark alone is worth no sync, unless the segment ends with it.
        if self.synced < self.written && (self.marked != self.written || rolls) {
            // For good: the system may have marked the pages as written, or dropped them, and a second sync that
            // succeeds would say nothing of them. Only reading the log anew tells what is there.
            let synced =
                if sync_fails(self.name) { Err(io::Error::from_raw_os_error(5)) } else { self.file.sync() };
            if let Err(e) = synced {
                self.failed = true;
                return Err(io_error("sync", &path_of(&self.folder, self.first), e));
            }
            self.synced = self.written;
        }
        self.keep();
        if rolls {
            self.roll()?;
        }
        Ok(())
    }

    /// Writes down behind what was just synced that it was, so that damage in it is never taken for a torn tail. For those
    /// whose next commit, which could say so, may be long in coming. The record is not synced: where it is lost, only the
    /// proof is.
    pub fn mark(&mut self) {
        let synced = self.synced();
        let whole = self.buffer.is_empty() && !self.overhangs && synced.offset == self.written;
        if self.failed || !whole || synced.offset <= HEADER_BYTES || self.marked == self.written {
            return;
        }
        self.append_with(KIND_SYNCED, |out| encode_synced(synced, out));
        match self.write() {
            Ok(()) => {
                self.keep();
                self.marked = self.written;
            }
            // Should that fail as well, the next write does it first.
            Err(_) => drop(self.rewind()),
        }
    }

    /// Whether the next sync will begin a new segment.
    pub fn full(&self) -> bool {
        self.written >= self.segment_bytes
    }

    /// What is written so far stays, even if it is not synced yet: [`Segments::rewind`] goes back to here.
    pub fn keep(&mut self) {
        debug_assert!(self.buffer.is_empty(), "what is kept was written");
        self.committed = (self.written, self.records);
    }

    /// Undoes what was appended since the last sync or [`Segments::keep`], written or not, so that the log can go on.
    ///
    /// # Errors
    /// A file that cannot be cut off now; nothing is written before it can. A failed sync is for good.
    pub fn rewind(&mut self) -> Result<(), SegmentsError> {
        self.check_usable()?;
        self.buffer.clear();
        (self.written, self.records) = self.committed;
        self.overhangs = true;
        self.cut_overhang()
    }

    /// Looks whether `bytes` can be written, and leaves the log as it was. Nothing may be buffered.
    ///
    /// # Errors
    /// [`SegmentsError::Write`] if they cannot; any other error is for good.
    pub fn probe(&mut self, bytes: usize) -> Result<(), SegmentsError> {
        self.check_usable()?;
        self.overhangs = true;
        let probed = self.file.write_at(&vec![0; bytes], self.written).map_err(|e| self.write_error(e));
        self.cut_overhang()?;
        probed
    }

    /// Cuts the file off where the log ends, durably: records of a commit that was answered with an error must not
    /// come up again behind those of a later one.
    fn cut_overhang(&mut self) -> Result<(), SegmentsError> {
        self.file.set_len(self.written).map_err(|e| self.write_error(e))?;
        if let Err(e) = self.file.sync() {
            self.failed = true;
            return Err(io_error("sync", &path_of(&self.folder, self.first), e));
        }
        self.synced = self.written;
        self.overhangs = false;
        Ok(())
    }

    /// Begins the next segment, or puts things back so that this one can go on.
    fn roll(&mut self) -> Result<(), SegmentsError> {
        debug_assert!(!self.overhangs, "what is written before has cut it");
        let next = self.first + self.records;
        let path = path_of(&self.folder, next);
        let file = match self.folder.create(&name_of(next)).map_err(|e| io_error("create", &path, e)) {
            Ok(file) => file,
            Err(error) if begins_later(&error) => {
                self.goes_on_here(&error);
                return Ok(());
            }
            Err(error) => {
                self.failed = true;
                return Err(error);
            }
        };
        let begun = write_header(&*file, &path, self.name, next);
        // Of a file that is taken away again it does not matter what became of it.
        let begun = begun.and_then(|()| file.sync().map_err(|e| io_error("sync", &path, e)));
        if let Err(error) = begun {
            return self.cannot_begin(next, &error);
        }
        let synced = if mutant(5) { Ok(()) } else { sync_dir(&self.folder) };
        synced.inspect_err(|_| self.failed = true)?;
        if std::mem::take(&mut self.cannot_begin) {
            tracing::info!(file = %path.display(), "the next segment of the {} log is begun after all", self.name);
        }
        self.earlier.rolled(self.written, next);
        self.file = file;
        (self.first, self.records, self.written) = (next, 0, HEADER_BYTES);
        (self.synced, self.marked) = (HEADER_BYTES, 0);
        self.keep();
        Ok(())
    }

    /// Takes away what was begun of the next segment. Durably, or the log would have two ends after a crash.
    fn cannot_begin(&mut self, next: u64, error: &SegmentsError) -> Result<(), SegmentsError> {
        let removed = match self.folder.remove(&name_of(next)) {
            Err(e) => Err(io_error("remove", &path_of(&self.folder, next), e)),
            Ok(()) => sync_dir(&self.folder),
        };
        removed.inspect_err(|_| self.failed = true)?;
        self.goes_on_here(error);
        Ok(())
    }

    fn goes_on_here(&mut self, error: &SegmentsError) {
        if !std::mem::replace(&mut self.cannot_begin, true) {
            tracing::warn!("the {} log goes on in its old segment: {error}", self.name);
        }
    }

    /// Whether nothing is written any more: nobody knows what is on disk before the log is opened anew.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    fn check_usable(&self) -> Result<(), SegmentsError> {
        if self.failed {
            return Err(SegmentsError::FailedBefore { path: path_of(&self.folder, self.first) });
        }
        Ok(())
    }

    fn write_error(&self, source: io::Error) -> SegmentsError {
        SegmentsError::Write { path: path_of(&self.folder, self.first), source }
    }

    /// The end of what was written, the buffer left out. Durable after [`Segments::sync`].
    pub fn end(&self) -> Position {
        Position { segment: self.first, offset: self.written }
    }

    /// The end of what is durable.
    pub fn synced(&self) -> Position {
        Position { segment: self.first, offset: self.synced }
    }

    /// Whether anything is buffered.
    pub fn has_buffered(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Whether the current segment has no record yet, buffered ones included.
    pub fn at_segment_start(&self) -> bool {
        self.records == 0
    }

    /// Bytes of all segments and of the buffer.
    pub fn bytes(&self) -> u64 {
        self.earlier.bytes() + self.current_bytes()
    }

    /// Bytes of the segment being written and of the buffer.
    pub fn current_bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// For another thread: which segments there are, and the removing of old ones.
    pub fn trimmer(&self) -> SegmentTrimmer {
        self.earlier.clone()
    }

    /// The folder of the log.
    pub fn folder(&self) -> &DiskFolder {
        &self.folder
    }
}

/// Whether the next segment may be begun at another time: whatever but that somebody else writes there, or that the
/// folder is gone and what is written with it.
fn begins_later(error: &SegmentsError) -> bool {
    let (SegmentsError::Io { source, .. } | SegmentsError::Write { source, .. }) = error else {
        return false;
    };
    !matches!(source.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound)
}
