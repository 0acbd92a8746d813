//! The reader of a log.

use std::io;

use super::{
    HEADER_BYTES, PAYLOAD_BYTES_MAX, Position, RECORD_HEADER, SegmentsError, io_error, list, open_checked,
    path_of, u32_at,
};
use crate::disk::{DiskFile, Folder};

/// How much a reader reads at once.
const BLOCK_BYTES: usize = 1 << 20;

/// Reads a log from the beginning of a segment, in order, over the ends of segments, as far as it is told to.
pub struct SegmentReader {
    folder: Folder,
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
    /// Length of the file, known once a later segment exists.
    full_length: Option<u64>,
}

impl SegmentReader {
    /// Opens the log `name` in `folder` at its first record; `None` when there is no segment.
    ///
    /// # Errors
    /// A first segment that cannot be read or is none of this log.
    pub fn open(
        folder: impl Into<Folder>,
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
        folder: impl Into<Folder>,
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
            full_length: None,
        })
    }

    /// The kind and payload of the next record before `end`; `None` when there is none. `end` may grow between calls.
    ///
    /// # Errors
    /// Damage, naming file and offset; the reader stays where it is.
    pub fn next(&mut self, end: Position) -> Result<Option<(u8, &[u8])>, SegmentsError> {
        let limit = loop {
            if end.segment < self.first {
                return Ok(None);
            }
            let limit = if end.segment > self.first { self.length()? } else { end.offset };
            if self.offset < limit {
                break limit;
            }
            if end.segment == self.first {
                return Ok(None);
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
        let start = (self.offset - self.block_offset) as usize;
        self.offset += whole as u64;
        self.records += 1;
        let record = &self.block[start..start + whole];
        Ok(Some((record[8], &record[RECORD_HEADER..])))
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
        let first = self.first + self.records;
        if self.records == 0 {
            return Err(self.damaged("the segment has no record, and later segments are there"));
        }
        self.file = open_checked(&self.folder, self.name, first)?;
        (self.first, self.records, self.offset) = (first, 0, HEADER_BYTES);
        (self.block_offset, self.full_length) = (HEADER_BYTES, None);
        self.block.clear();
        Ok(())
    }

    fn damaged(&self, why: &str) -> SegmentsError {
        SegmentsError::Damaged {
            path: path_of(&self.folder, self.first),
            offset: self.offset,
            why: why.to_owned(),
        }
    }
}
