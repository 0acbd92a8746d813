//! The reader of a log.

use std::io;

use super::{
    HEADER_BYTES, PAYLOAD_BYTES_MAX, PROBED_RECORD_BYTES, Position, RECORD_HEADER, SegmentsError, io_error,
    list, name_of, open_checked, path_of, u32_at, whole,
};
use crate::disk::{DiskFile, DiskFolder};

/// How much a reader reads at once.
const BLOCK_BYTES: usize = 1 << 20;
/// Larger blocks are given back once the record that needed them was read.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// Highest kind of a record of any log.
const KIND_MAX: u8 = 32;
/// How much is looked through at once for a whole record behind a bad one; the longest one fits several times.
const LOOK_BYTES: u64 = 4 * PROBED_RECORD_BYTES as u64;

/// A place of a reader.
#[derive(Clone, Copy, Debug)]
pub struct SegmentPlace {
    at: Position,
    records: u64,
    uncounted: bool,
}

/// What [`SegmentReader::resync`] left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkippedBytes {
    /// The bad record.
    pub from: Position,
    /// Where the reader goes on.
    pub to: Position,
    /// Bytes between them that are there and cannot be read; none of a segment that is missing.
    pub bytes: u64,
}

/// Reads a log from the beginning of a segment, in order, over the ends of segments, as far as it is told to.
pub struct SegmentReader {
    folder: DiskFolder,
    name: &'static str,
    file: Box<dyn DiskFile>,
    first: u64,
    /// Records read of this segment.
    records: u64,
    /// Offset of the next record.
    offset: u64,
    block: Vec<u8>,
    /// Offset in the file of the block's first byte.
    block_offset: u64,
    /// Bytes of the record that was read last, header included.
    last_bytes: usize,
    /// Records of this segment were left out, so `records` does not tell the next segment's number.
    uncounted: bool,
    /// Length of the file, known once a later segment exists.
    full_length: Option<u64>,
}

impl SegmentReader {
    /// Opens the log `name` in `folder` at its first record; `None` when there is no segment.
    ///
    /// # Errors
    /// A first segment that cannot be read or is none of this log.
    pub fn open(
        folder: impl Into<DiskFolder>,
        name: &'static str,
    ) -> Result<Option<SegmentReader>, SegmentsError> {
        let folder = folder.into();
        list(&folder)?.first().map(|first| SegmentReader::open_at(&folder, name, *first)).transpose()
    }

    /// Opens the log at the segment whose first record is number `first`.
    ///
    /// # Errors
    /// A segment that cannot be read or is none of this log.
    pub fn open_at(
        folder: impl Into<DiskFolder>,
        name: &'static str,
        first: u64,
    ) -> Result<SegmentReader, SegmentsError> {
        let folder = folder.into();
        let file = open_checked(&folder, name, first)?;
        Ok(SegmentReader {
            folder,
            name,
            file,
            first,
            records: 0,
            offset: HEADER_BYTES,
            block: Vec::new(),
            block_offset: HEADER_BYTES,
            last_bytes: 0,
            uncounted: false,
            full_length: None,
        })
    }

    /// Where it is, to come back to.
    pub fn place(&self) -> SegmentPlace {
        SegmentPlace { at: self.position(), records: self.records, uncounted: self.uncounted }
    }

    /// Goes to a place where a reader of this log has been.
    ///
    /// # Errors
    /// A segment that is gone or cannot be read.
    pub fn go_to(&mut self, place: SegmentPlace) -> Result<(), SegmentsError> {
        if place.at.segment != self.first {
            let path = path_of(&self.folder, place.at.segment);
            let file =
                self.folder.open(&name_of(place.at.segment)).map_err(|e| io_error("open", &path, e))?;
            self.enter(place.at.segment, file);
        }
        (self.offset, self.records, self.uncounted) = (place.at.offset, place.records, place.uncounted);
        self.block.clear();
        self.block_offset = self.offset;
        Ok(())
    }

    /// Another reader at the same place.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn another(&self) -> Result<SegmentReader, SegmentsError> {
        let file = self.folder.open(&name_of(self.first));
        Ok(SegmentReader {
            folder: self.folder.clone(),
            name: self.name,
            file: file.map_err(|e| io_error("open", &path_of(&self.folder, self.first), e))?,
            first: self.first,
            records: self.records,
            offset: self.offset,
            block: Vec::new(),
            block_offset: self.offset,
            last_bytes: 0,
            uncounted: self.uncounted,
            full_length: None,
        })
    }

    /// The kind and payload of the next record before `end`; `None` when there is none. `end` may grow between calls.
    ///
    /// # Errors
    /// Damage, naming file and offset; the reader stays where it is.
    pub fn next(&mut self, end: Position) -> Result<Option<(u8, &[u8])>, SegmentsError> {
        Ok(self.advance(end)?.then(|| self.record()))
    }

    /// Reads the next record before `end`; `false` when there is none.
    ///
    /// # Errors
    /// As [`SegmentReader::next`].
    pub fn advance(&mut self, end: Position) -> Result<bool, SegmentsError> {
        let limit = loop {
            if end.segment < self.first {
                return Ok(false);
            }
            let limit = self.limit(end)?;
            if self.offset < limit {
                break limit;
            }
            if end.segment == self.first {
                return Ok(false);
            }
            self.go_on()?;
        };
        let length = match self.bytes(RECORD_HEADER, limit)? {
            Some(header) => u32_at(header, 0) as usize,
            None => return Err(self.damaged("a record's header is cut short")),
        };
        if length > PAYLOAD_BYTES_MAX {
            return Err(
                self.damaged(&format!("a record of {length} bytes; at most {PAYLOAD_BYTES_MAX} are written"))
            );
        }
        let whole = RECORD_HEADER + length;
        let Some(record) = self.bytes(whole, limit)? else {
            return Err(self.damaged("a record is cut short"));
        };
        if crc32fast::hash(&record[8..]) != u32_at(record, 4) {
            return Err(self.damaged("a record's checksum does not match"));
        }
        self.offset += whole as u64;
        self.records += 1;
        self.last_bytes = whole;
        Ok(true)
    }

    /// Kind and payload of the record that [`SegmentReader::advance`] has read.
    ///
    /// # Panics
    /// If it has read none.
    pub fn record(&self) -> (u8, &[u8]) {
        let end = (self.offset - self.block_offset) as usize;
        let record = &self.block[end - self.last_bytes..end];
        (record[8], &record[RECORD_HEADER..])
    }

    /// Goes round what made [`SegmentReader::next`] fail by damage: to the next whole record of which `plausible` says
    /// that it is one of this log, to the end of the segment, or into the next segment there is.
    ///
    /// # Errors
    /// Files that cannot be read at all.
    pub fn resync(
        &mut self,
        end: Position,
        plausible: fn(u8, &[u8]) -> bool,
    ) -> Result<SkippedBytes, SegmentsError> {
        let from = self.position();
        self.uncounted = true;
        let limit = self.limit(end)?;
        if self.offset < limit {
            self.offset = self.look(limit, plausible)?;
            let to = self.position();
            return Ok(SkippedBytes { from, to, bytes: to.offset - from.offset });
        }
        // What is bad is the next segment's header, or that it is missing.
        let first = self.next_listed()?;
        let (file, bytes) = match open_checked(&self.folder, self.name, first) {
            Err(SegmentsError::Damaged { path, .. }) => {
                let file = self.folder.open(&name_of(first)).map_err(|e| io_error("open", &path, e))?;
                (file, HEADER_BYTES)
            }
            opened => (opened?, 0),
        };
        self.enter(first, file);
        self.uncounted = true;
        Ok(SkippedBytes { from, to: self.position(), bytes })
    }

    /// Offset of the next whole record before `limit`, or `limit`.
    fn look(&self, limit: u64, plausible: fn(u8, &[u8]) -> bool) -> Result<u64, SegmentsError> {
        let good = |bytes: &[u8], at: usize| {
            // The kind first: most bytes are none, and a checksum over what looks like a length is dear.
            let kind = bytes.get(at + 8).is_some_and(|kind| *kind != 0 && *kind <= KIND_MAX);
            kind && whole(bytes, at)
                .is_some_and(|(good, end)| good && plausible(bytes[at + 8], &bytes[at + RECORD_HEADER..end]))
        };
        let mut base = self.offset;
        loop {
            let mut bytes = vec![0; (limit - base).min(LOOK_BYTES) as usize];
            let read = self.file.read_at(&mut bytes, base);
            read.map_err(|e| io_error("read", &path_of(&self.folder, self.first), e))?;
            // The nearest one; a length that is bad itself could lead past some.
            let last = base + bytes.len() as u64 == limit;
            let upto = if last { bytes.len() } else { bytes.len() / 2 };
            let first = usize::from(base == self.offset);
            if let Some(at) = (first..upto).find(|at| good(&bytes, *at)) {
                return Ok(base + at as u64);
            }
            if last {
                return Ok(limit);
            }
            base += upto as u64;
        }
    }

    /// Where the next record begins.
    pub fn position(&self) -> Position {
        Position { segment: self.first, offset: self.offset }
    }

    /// The end of the segment being read, as long as its file is now.
    ///
    /// # Errors
    /// A file that cannot be inspected.
    pub fn segment_end(&self) -> Result<Position, SegmentsError> {
        Ok(Position { segment: self.first, offset: self.inspect()? })
    }

    /// The `n` bytes at the current offset, from the block or read anew; `None` if they reach beyond `limit`.
    fn bytes(&mut self, n: usize, limit: u64) -> Result<Option<&[u8]>, SegmentsError> {
        let left = limit - self.offset;
        if (n as u64) > left {
            return Ok(None);
        }
        let held = (self.block_offset + self.block.len() as u64).saturating_sub(self.offset);
        if held < n as u64 {
            let block_bytes = left.min(n.max(BLOCK_BYTES) as u64) as usize;
            self.block.clear();
            // One large record should not hold its memory for ever.
            if self.block.capacity() > KEPT_BYTES_MAX && block_bytes <= BLOCK_BYTES {
                self.block.shrink_to(BLOCK_BYTES);
            }
            self.block.resize(block_bytes, 0);
            self.block_offset = self.offset;
            if let Err(e) = self.file.read_at(&mut self.block, self.offset) {
                self.block.clear();
                let path = path_of(&self.folder, self.first);
                return Err(match e.kind() {
                    io::ErrorKind::UnexpectedEof => self.damaged("the file is shorter than it was"),
                    _ => io_error("read", &path, e),
                });
            }
        }
        let start = (self.offset - self.block_offset) as usize;
        Ok(Some(&self.block[start..start + n]))
    }

    /// How far this segment may be read.
    fn limit(&mut self, end: Position) -> Result<u64, SegmentsError> {
        if end.segment > self.first { self.length() } else { Ok(end.offset) }
    }

    /// Length of this segment's file, which no longer grows.
    fn length(&mut self) -> Result<u64, SegmentsError> {
        if let Some(length) = self.full_length {
            return Ok(length);
        }
        let length = self.inspect()?;
        self.full_length = Some(length);
        Ok(length)
    }

    fn inspect(&self) -> Result<u64, SegmentsError> {
        self.file.len().map_err(|e| io_error("inspect", &path_of(&self.folder, self.first), e))
    }

    /// Opens the segment after this one.
    fn go_on(&mut self) -> Result<(), SegmentsError> {
        let first = if self.uncounted { self.next_listed()? } else { self.first + self.records };
        if first == self.first {
            return Err(self.damaged("the segment has no record, and later segments are there"));
        }
        let file = open_checked(&self.folder, self.name, first)?;
        self.enter(first, file);
        Ok(())
    }

    fn enter(&mut self, first: u64, file: Box<dyn DiskFile>) {
        self.file = file;
        (self.first, self.records, self.offset) = (first, 0, HEADER_BYTES);
        (self.block_offset, self.full_length, self.uncounted) = (HEADER_BYTES, None, false);
        self.block.clear();
    }

    /// The next segment that is there.
    fn next_listed(&self) -> Result<u64, SegmentsError> {
        let next = list(&self.folder)?.into_iter().find(|segment| *segment > self.first);
        next.ok_or_else(|| SegmentsError::Missing { path: path_of(&self.folder, self.first + self.records) })
    }

    fn damaged(&self, why: &str) -> SegmentsError {
        SegmentsError::Damaged {
            path: path_of(&self.folder, self.first),
            segment: self.first,
            offset: self.offset,
            why: why.to_owned(),
        }
    }
}
