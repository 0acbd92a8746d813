//! The writer of a log, and what it finds when it opens one.

use std::io;
use std::path::Path;

use super::reader::SegmentReader;
use super::{
    HEADER_BYTES, PAYLOAD_BYTES_MAX, Position, RECORD_HEADER, SegmentsError, create, header_is_torn,
    io_error, list, make_dir, name_of, path_of, sync_dir, u32_at, write_header,
};
use crate::disk::{DiskFile, Folder};

/// How far behind a bad record a whole one is looked for.
const PROBED_BYTES: usize = 1 << 16;
/// Longest record looked for there; all logs write shorter ones.
const PROBED_RECORD_BYTES: usize = 2 << 20;

/// What opening a log for writing found at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Bytes cut off: a torn record, or whole records after the last place where the log may end.
    pub truncated_bytes: u64,
    /// Records in the last segment.
    pub records: u64,
}

/// The writer of a log. One at a time: the data folder's lock sees to that.
///
/// [`Segments::append`] only fills a buffer, [`Segments::write`] hands it to the system, [`Segments::sync`] makes it
/// durable and begins a new segment when this one is full. After a failure nothing is written any more.
#[derive(Debug)]
pub struct Segments {
    folder: Folder,
    name: &'static str,
    segment_bytes: u64,
    file: Box<dyn DiskFile>,
    first: u64,
    /// Records in this segment, those in the buffer included.
    records: u64,
    /// Bytes of this segment in the file.
    written: u64,
    buffer: Vec<u8>,
    unsynced: bool,
    /// Bytes of the segments before this one.
    earlier_bytes: u64,
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
        mut visit: impl FnMut(u8, &[u8]) -> bool,
    ) -> Result<(Segments, Recovered), SegmentsError> {
        let folder = folder.into();
        make_dir(&folder)?;
        let segments = list(&folder)?;
        let Some((&first, earlier)) = segments.split_last() else {
            let file = create(&folder, name, 0)?;
            return Ok((
                Segments::at(folder, name, segment_bytes, file, 0, 0, HEADER_BYTES, 0),
                Recovered::default(),
            ));
        };
        let mut earlier_bytes = 0;
        for segment in earlier {
            let inspected = folder.open(&name_of(*segment)).and_then(|file| file.len());
            earlier_bytes += inspected.map_err(|e| io_error("inspect", &path_of(&folder, *segment), e))?;
        }
        let path = path_of(&folder, first);
        let file = folder.open(&name_of(first)).map_err(|e| io_error("open", &path, e))?;
        let length = file.len().map_err(|e| io_error("inspect", &path, e))?;
        if header_is_torn(&*file, &path, length)? {
            file.set_len(0).map_err(|e| io_error("truncate", &path, e))?;
            write_header(&*file, &path, name, first)?;
            let recovered = Recovered { truncated_bytes: length, records: 0 };
            let writer =
                Segments::at(folder, name, segment_bytes, file, first, 0, HEADER_BYTES, earlier_bytes);
            return Ok((writer, recovered));
        }
        let mut reader = SegmentReader::open_at(&folder, name, first)?;
        let (mut end, mut records, mut seen) = (HEADER_BYTES, 0, 0);
        loop {
            match reader.next(Position { segment: first, offset: length }) {
                Ok(Some((kind, payload))) => {
                    seen += 1;
                    if visit(kind, payload) {
                        (end, records) = (reader.position().offset, seen);
                    }
                }
                Ok(None) => break,
                Err(SegmentsError::Damaged { offset, why, .. }) => {
                    tracing::warn!(file = %path.display(), offset, why, "torn tail of the {name} log found");
                    break;
                }
                Err(other) => return Err(other),
            }
        }
        let recovered = Recovered { truncated_bytes: length - end, records };
        if end < length {
            tracing::warn!(file = %path.display(), bytes = length - end, "cutting off the torn tail of the {name} log");
            keep_if_damaged(&folder, &*file, &path, end, length)?;
            file.set_len(end).map_err(|e| io_error("truncate", &path, e))?;
        }
        // What is there may never have been synced by the one who wrote it.
        file.sync().map_err(|e| io_error("sync", &path, e))?;
        let writer = Segments::at(folder, name, segment_bytes, file, first, records, end, earlier_bytes);
        Ok((writer, recovered))
    }

    #[expect(clippy::too_many_arguments, reason = "the one place that fills in every field")]
    fn at(
        folder: Folder,
        name: &'static str,
        segment_bytes: u64,
        file: Box<dyn DiskFile>,
        first: u64,
        records: u64,
        written: u64,
        earlier_bytes: u64,
    ) -> Segments {
        let (buffer, unsynced, failed) = (Vec::new(), false, false);
        Segments {
            folder,
            name,
            segment_bytes,
            file,
            first,
            records,
            written,
            buffer,
            unsynced,
            earlier_bytes,
            failed,
        }
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
    /// Disk errors; from then on every call fails.
    pub fn write(&mut self) -> Result<(), SegmentsError> {
        self.check_usable()?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        if let Err(e) = self.file.write_at(&self.buffer, self.written) {
            self.failed = true;
            return Err(io_error("write to", &path_of(&self.folder, self.first), e));
        }
        self.written += self.buffer.len() as u64;
        self.unsynced = true;
        self.buffer.clear();
        // One large commit should not hold its memory for ever.
        self.buffer.shrink_to(8 << 20);
        Ok(())
    }

    /// Writes what is buffered and makes it durable; then begins a new segment if this one is full.
    ///
    /// # Errors
    /// Disk errors; from then on every call fails.
    pub fn sync(&mut self) -> Result<(), SegmentsError> {
        self.write()?;
        if self.unsynced {
            if let Err(e) = self.file.sync() {
                self.failed = true;
                return Err(io_error("sync", &path_of(&self.folder, self.first), e));
            }
            self.unsynced = false;
        }
        if self.written >= self.segment_bytes && self.records > 0 {
            self.roll().inspect_err(|_| self.failed = true)?;
        }
        Ok(())
    }

    fn roll(&mut self) -> Result<(), SegmentsError> {
        let first = self.first + self.records;
        self.file = create(&self.folder, self.name, first)?;
        self.earlier_bytes += self.written;
        (self.first, self.records, self.written) = (first, 0, HEADER_BYTES);
        Ok(())
    }

    fn check_usable(&self) -> Result<(), SegmentsError> {
        if self.failed {
            return Err(SegmentsError::FailedBefore { path: path_of(&self.folder, self.first) });
        }
        Ok(())
    }

    /// The end of what was written, the buffer left out. Durable after [`Segments::sync`].
    pub fn end(&self) -> Position {
        Position { segment: self.first, offset: self.written }
    }

    /// Whether the current segment has no record yet, buffered ones included.
    pub fn at_segment_start(&self) -> bool {
        self.records == 0
    }

    /// Bytes of all segments and of the buffer.
    pub fn bytes(&self) -> u64 {
        self.earlier_bytes + self.written + self.buffer.len() as u64
    }

    /// The folder of the log.
    pub fn folder(&self) -> &Folder {
        &self.folder
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
    let whole = |at: usize| {
        let header = tail.get(at..)?.split_at_checked(RECORD_HEADER)?.0;
        let length = Some(u32_at(header, 0) as usize).filter(|length| *length <= PROBED_RECORD_BYTES)?;
        let end = at + RECORD_HEADER + length;
        Some((crc32fast::hash(tail.get(at + 8..end)?) == u32_at(header, 4), end))
    };
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
