//! The writer of a log, and what it finds when it opens one.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use super::reader::SegmentReader;
use super::trimmer::Trimmer;
use super::{
    HEADER_BYTES, PAYLOAD_BYTES_MAX, Position, RECORD_HEADER, SegmentsError, create, header_is_torn,
    io_error, list, make_dir, name_of, path_of, sync_dir, whole, write_header,
};
use crate::disk::{DiskFile, Folder};
use crate::faults::mutant;

/// How far behind a bad record a whole one is looked for.
const PROBED_BYTES: usize = 1 << 16;

/// What opening a log for writing found at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Bytes cut off: a torn record, or whole records after the last place where the log may end.
    pub truncated_bytes: u64,
    /// Records in the last segment.
    pub records: u64,
}

/// Where a log would end when it is opened: what follows is about to be cut off.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The last segment.
    pub path: PathBuf,
    /// The first bad record, or the end of the last good one.
    pub offset: u64,
    /// What is wrong there.
    pub why: String,
}

/// Tells a torn tail, which is cut off, from damage, which is not.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// What a record says, if it is of the kind that says how far the log was synced when it was written.
    pub synced: fn(u8, &[u8]) -> Option<Position>,
    /// Whether a record can be one of this log.
    pub plausible: fn(u8, &[u8]) -> bool,
    /// Whether damage is left in the middle of the log, for readers to go round ([`SegmentReader::resync`]), or an
    /// error.
    pub accept_loss: bool,
}

/// The writer of a log. One at a time: the data folder's lock sees to that.
///
/// [`Segments::append`] only fills a buffer, [`Segments::write`] hands it to the system, [`Segments::sync`] makes it
/// durable and begins a new segment when this one is full. A write that failed may be tried again, or be undone with
/// [`Segments::rewind`]. After a failed sync nothing is written any more.
#[derive(Debug)]
pub struct Segments {
    folder: Folder,
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
    kept: (u64, u64),
    earlier: Trimmer,
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
        folder: impl Into<Folder>,
        name: &'static str,
        segment_bytes: u64,
        visit: impl FnMut(u8, &[u8]) -> bool,
    ) -> Result<(Segments, Recovered), SegmentsError> {
        Segments::open_proving(folder, name, segment_bytes, None, visit)
    }

    /// [`Segments::open`] of a log some of whose records say how far it was synced.
    ///
    /// # Errors
    /// As there, and damage in what had been synced.
    pub fn open_proving(
        folder: impl Into<Folder>,
        name: &'static str,
        segment_bytes: u64,
        proof: Option<Proof>,
        visit: impl FnMut(u8, &[u8]) -> bool,
    ) -> Result<(Segments, Recovered), SegmentsError> {
        Segments::open_judging(folder, name, segment_bytes, proof, visit, |_| Ok(()))
    }

    /// [`Segments::open_proving`] of a log of which others know what it must hold: `judge` is asked when all records were
    /// visited, before anything is cut off.
    ///
    /// # Errors
    /// As there, and what `judge` says.
    pub fn open_judging<E: From<SegmentsError>>(
        folder: impl Into<Folder>,
        name: &'static str,
        segment_bytes: u64,
        proof: Option<Proof>,
        visit: impl FnMut(u8, &[u8]) -> bool,
        judge: impl FnOnce(Ending) -> Result<(), E>,
    ) -> Result<(Segments, Recovered), E> {
        let folder = folder.into();
        make_dir(&folder)?;
        let Last { first, file, length, earlier, torn_bytes } = last_segment(&folder, name)?;
        let path = path_of(&folder, first);
        let Scanned { mut end, records, bad } =
            scan(&folder, name, Position { segment: first, offset: length }, proof, visit)?;
        let (offset, why) = bad.unwrap_or_else(|| (end, "what should follow is not there".to_owned()));
        judge(Ending { path: path.clone(), offset, why })?;
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
        let recovered = Recovered { truncated_bytes: length - end + torn_bytes, records };
        let earlier = Trimmer::new(folder.clone(), earlier, first);
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
            kept: (end, records),
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
    /// That a segment cannot be begun for want of room is no error: the log goes on in the old one, and the next sync
    /// tries again.
    ///
    /// # Errors
    /// As [`Segments::write`].
    pub fn sync(&mut self) -> Result<(), SegmentsError> {
        self.write()?;
        if self.synced < self.written {
            // For good: the system may have marked the pages as written, or dropped them, and a second sync that
            // succeeds would say nothing of them. Only reading the log anew tells what is there.
            if let Err(e) = self.file.sync() {
                self.failed = true;
                return Err(io_error("sync", &path_of(&self.folder, self.first), e));
            }
            self.synced = self.written;
        }
        self.keep();
        if self.full() && self.records > 0 {
            self.roll()?;
        }
        Ok(())
    }

    /// Whether the next sync will begin a new segment.
    pub fn full(&self) -> bool {
        self.written >= self.segment_bytes
    }

    /// What is written so far stays, even if it is not synced yet: [`Segments::rewind`] goes back to here.
    pub fn keep(&mut self) {
        debug_assert!(self.buffer.is_empty(), "what is kept was written");
        self.kept = (self.written, self.records);
    }

    /// Undoes what was appended since the last sync or [`Segments::keep`], written or not, so that the log can go on.
    ///
    /// # Errors
    /// A file that cannot be cut off now; nothing is written before it can. A failed sync is for good.
    pub fn rewind(&mut self) -> Result<(), SegmentsError> {
        self.check_usable()?;
        self.buffer.clear();
        (self.written, self.records) = self.kept;
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
        let made = self.folder.create(&name_of(next)).map_err(|e| io_error("create", &path, e));
        let made = made.and_then(|file| write_header(&*file, &path, self.name, next).map(|()| file));
        let file = match made {
            Ok(file) => file,
            Err(error) if begins_later(&error) => return self.cannot_begin(next, &error),
            Err(error) => {
                self.failed = true;
                return Err(error);
            }
        };
        let synced = file.sync().map_err(|e| io_error("sync", &path, e));
        let synced = synced.and_then(|()| if mutant(5) { Ok(()) } else { sync_dir(&self.folder) });
        synced.inspect_err(|_| self.failed = true)?;
        if std::mem::take(&mut self.cannot_begin) {
            tracing::info!(file = %path.display(), "the next segment of the {} log is begun after all", self.name);
        }
        self.earlier.rolled(self.written, next);
        self.file = file;
        (self.first, self.records, self.written) = (next, 0, HEADER_BYTES);
        self.synced = HEADER_BYTES;
        self.keep();
        Ok(())
    }

    /// Takes away what was begun of the next segment. Durably, or the log would have two ends after a crash.
    fn cannot_begin(&mut self, next: u64, error: &SegmentsError) -> Result<(), SegmentsError> {
        let removed = match self.folder.remove(&name_of(next)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &path_of(&self.folder, next), e))
            }
            _ => sync_dir(&self.folder),
        };
        removed.inspect_err(|_| self.failed = true)?;
        if !std::mem::replace(&mut self.cannot_begin, true) {
            tracing::warn!("the {} log goes on in its old segment: {error}", self.name);
        }
        Ok(())
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
    pub fn trimmer(&self) -> Trimmer {
        self.earlier.clone()
    }

    /// The folder of the log.
    pub fn folder(&self) -> &Folder {
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

/// The segment a log goes on in, as it was found.
struct Last {
    first: u64,
    file: Box<dyn DiskFile>,
    length: u64,
    earlier: VecDeque<(u64, u64)>,
    /// Bytes of segments whose making was cut short.
    torn_bytes: u64,
}

fn last_segment(folder: &Folder, name: &str) -> Result<Last, SegmentsError> {
    let mut segments = list(folder)?;
    let mut torn_bytes = 0;
    loop {
        let Some(first) = segments.pop() else {
            let file = create(folder, name, 0)?;
            return Ok(Last { first: 0, file, length: HEADER_BYTES, earlier: VecDeque::new(), torn_bytes });
        };
        let path = path_of(folder, first);
        let file = folder.open(&name_of(first)).map_err(|e| io_error("open", &path, e))?;
        let mut length = file.len().map_err(|e| io_error("inspect", &path, e))?;
        if header_is_torn(&*file, &path, length)? {
            torn_bytes += length;
            if !segments.is_empty() {
                // There never was a record in it, and the one before may have been gone on in since.
                folder.remove(&name_of(first)).map_err(|e| io_error("remove", &path, e))?;
                sync_dir(folder)?;
                continue;
            }
            file.set_len(0).map_err(|e| io_error("truncate", &path, e))?;
            write_header(&*file, &path, name, first)?;
            file.sync().map_err(|e| io_error("sync", &path, e))?;
            length = HEADER_BYTES;
        }
        let mut earlier = VecDeque::new();
        for segment in segments {
            let inspected = folder.open(&name_of(segment)).and_then(|file| file.len());
            earlier.push_back((
                segment,
                inspected.map_err(|e| io_error("inspect", &path_of(folder, segment), e))?,
            ));
        }
        return Ok(Last { first, file, length, earlier, torn_bytes });
    }
}

/// Where the log may end, and how many records of the segment are before that.
struct Scanned {
    end: u64,
    records: u64,
    /// The bad record that ended the reading, and what is wrong with it.
    bad: Option<(u64, String)>,
}

/// Reads the last segment, which is as long as `whole`.
fn scan(
    folder: &Folder,
    name: &'static str,
    whole: Position,
    proof: Option<Proof>,
    mut visit: impl FnMut(u8, &[u8]) -> bool,
) -> Result<Scanned, SegmentsError> {
    let mut reader = SegmentReader::open_at(folder, name, whole.segment)?;
    let (mut scanned, mut seen) = (Scanned { end: HEADER_BYTES, records: 0, bad: None }, 0);
    loop {
        match reader.next(whole) {
            Ok(Some((kind, payload))) => {
                seen += 1;
                if visit(kind, payload) {
                    (scanned.end, scanned.records) = (reader.position().offset, seen);
                }
            }
            Ok(None) => return Ok(scanned),
            Err(SegmentsError::Damaged { path, segment, offset, why }) => {
                let proven = match &proof {
                    Some(proof) => had_been_synced(&reader, whole, proof)?,
                    None => false,
                };
                match proof.filter(|_| proven) {
                    None => {
                        tracing::warn!(file = %path.display(), offset, why, "torn tail of the {name} log found");
                        scanned.bad = Some((offset, why));
                        return Ok(scanned);
                    }
                    Some(proof) if proof.accept_loss => {
                        reader.resync(whole, proof.plausible)?;
                        seen += 1;
                    }
                    Some(_) => {
                        let why = format!("{why}, and a later record says that this had been synced");
                        return Err(SegmentsError::Damaged { path, segment, offset, why });
                    }
                }
            }
            Err(other) => return Err(other),
        }
    }
}

/// Whether a whole record behind the bad one at which `reader` stands says that the bad one had been synced.
fn had_been_synced(reader: &SegmentReader, whole: Position, proof: &Proof) -> Result<bool, SegmentsError> {
    let bad = reader.position();
    let mut ahead = reader.another()?;
    loop {
        let found = match ahead.next(whole) {
            Ok(Some((kind, payload))) => (proof.synced)(kind, payload),
            Ok(None) => return Ok(false),
            Err(SegmentsError::Damaged { .. }) => {
                ahead.resync(whole, proof.plausible)?;
                continue;
            }
            Err(other) => return Err(other),
        };
        if found.is_some_and(|synced| synced.segment == bad.segment && synced.offset > bad.offset) {
            return Ok(true);
        }
    }
}

/// Copies what is about to be cut off beside the log if whole records follow the bad one.
///
/// A write that was cut short is followed by nothing. So this is a bit that flipped on the disk, or pages of one lost
/// commit that a power cut let through out of order; nobody can tell, and what was acknowledged must not be destroyed.
fn keep_if_damaged(
    folder: &Folder,
    file: &dyn DiskFile,
    path: &Path,
    from: u64,
    to: u64,
) -> Result<(), SegmentsError> {
    let mut tail = vec![0; (to - from) as usize];
    file.read_at(&mut tail, from).map_err(|e| io_error("read", path, e))?;
    let whole = |at: usize| whole(&tail, at);
    // Also when the length itself is what flipped: any whole record behind it counts.
    let behind = match whole(0) {
        Some((false, end)) if whole(end).is_some_and(|(good, _)| good) => true,
        Some((true, _)) => false,
        _ => (1..tail.len().min(PROBED_BYTES)).any(|at| whole(at).is_some_and(|(good, _)| good)),
    };
    if behind {
        let kept = path.with_extension(format!("seg.cut-{from}"));
        tracing::error!(file = %path.display(), kept = %kept.display(), "whole records follow the damage; they are kept in a file beside the log");
        keep(folder, &kept, &tail).map_err(|e| io_error("write to", &kept, e))?;
        sync_dir(folder)?;
    }
    Ok(())
}

/// Writes a file beside the log; one of this name was left by a start that came no further.
fn keep(folder: &Folder, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = match folder.create(&name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => folder.open(&name)?,
        made => made?,
    };
    file.set_len(bytes.len() as u64)?;
    file.write_at(bytes, 0)?;
    file.sync()
}
