//! Append-only logs on disk: a folder of segment files with checked records. No meaning: kinds and payloads are the
//! business of the rooms above (`journal`, `outbox`, `labels`).
//!
//! ```text
//! <20-digit number of its first record>.seg
//!   header  32 bytes  magic "tidewtch" | name, 8 bytes | version u32 | crc32 u32 of the rest | first record u64
//!   record            length of payload u32 | crc32 u32 of kind and payload | kind u8 | payload
//! ```
//! Numbers are little-endian. A segment's name follows from the one before it, so a missing file is noticed.
//!
//! **Torn tail.** Only what follows the last sync can be torn, and that is in the last segment. When a log is opened
//! for writing, the last segment is read; from its first bad record on it is cut off
//! (and kept beside the log if whole records follow it). A bad record anywhere else, or of which a later record proves
//! that it had been synced ([`KIND_SYNCED`], [`Proof`]), is damage and an error; who can do without it goes round it
//! ([`SegmentReader::resync`]). So is a bad header, of which nothing is lost: the file's name says what was in it. Readers never see a record beyond the durable [`Position`].

mod durable;
mod reader;
mod recovery;
mod trimmer;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crc32fast::Hasher;

pub use self::durable::DurablePosition;
pub use self::reader::{SegmentPlace, SegmentReader, SkippedBytes};
pub use self::recovery::TailProof;
pub use self::trimmer::SegmentTrimmer;
pub use self::writer::{RecoverySummary, Segments, TailCut};
use crate::disk::{self, DiskFile, DiskFolder};
use crate::faults::mutant;

const MAGIC: &[u8; 8] = b"tidewtch";
/// Version of the format; others are refused.
pub const VERSION: u32 = 2;
/// Bytes of a segment's header: the offset of its first record.
pub const HEADER_BYTES: u64 = 32;
const RECORD_HEADER: usize = 9;
/// Longest record looked for behind a bad one; all logs write shorter ones.
const PROBED_RECORD_BYTES: usize = 2 << 20;
/// Kind of the record that says, in every log, how far it was synced before: `segment u64 | offset u64`. It means nothing
/// else, and readers pass over it.
pub const KIND_SYNCED: u8 = 10;
/// How long a reader waits for a descriptor, and how often it tries.
const DESCRIPTOR_WAIT: Duration = Duration::from_secs(30);
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(50);
/// Longest payload of one record.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// A log cannot be read or written. Only [`SegmentsError::Write`] may go away by trying again.
#[derive(Debug, thiserror::Error)]
pub enum SegmentsError {
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// The system did not take what was to be written: no room, most often. What was durable is as it was.
    #[error("cannot write to {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// Bytes that were once durable are not what was written.
    #[error("{} is damaged at offset {offset}: {why}", path.display())]
    Damaged { path: PathBuf, segment: u64, offset: u64, why: String },
    /// Written by a program of another age.
    #[error("{} has version {found} of the segment format; this program reads version {VERSION}. Start the program that wrote it, or begin with another data directory", path.display())]
    Version { path: PathBuf, found: u32 },
    /// A segment between others is gone.
    #[error("{} is missing: the log goes on with this record, and later segments are there", path.display())]
    Missing { path: PathBuf },
    /// An earlier sync failed, so nobody knows what is on disk.
    #[error("syncing {} failed before; it is not written to again before a restart", path.display())]
    FailedBefore { path: PathBuf },
}

impl SegmentsError {
    /// Whether the log can go on when this is over: nothing was lost, and the same can be written again.
    pub fn is_transient(&self) -> bool {
        matches!(self, SegmentsError::Write { .. })
    }

    /// Whether another start of the process may do better: what is durable is as it should be, as far as is known.
    pub fn restart_helps(&self) -> bool {
        match self {
            SegmentsError::Io { .. } | SegmentsError::Write { .. } | SegmentsError::FailedBefore { .. } => {
                true
            }
            SegmentsError::Damaged { .. } | SegmentsError::Version { .. } | SegmentsError::Missing { .. } => {
                false
            }
        }
    }
}

/// A place between two records of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Number of the first record of the segment.
    pub segment: u64,
    /// Offset in the segment's file.
    pub offset: u64,
}

/// Appends the payload of a record of [`KIND_SYNCED`].
pub fn encode_synced(synced: Position, out: &mut Vec<u8>) {
    out.extend_from_slice(&synced.segment.to_le_bytes());
    out.extend_from_slice(&synced.offset.to_le_bytes());
}

/// How far the log was durable, if the record is of [`KIND_SYNCED`].
pub fn decode_synced(kind: u8, payload: &[u8]) -> Option<Position> {
    let (segment, offset) = payload.split_first_chunk::<8>().filter(|_| kind == KIND_SYNCED)?;
    let offset: [u8; 8] = offset.try_into().ok()?;
    Some(Position { segment: u64::from_le_bytes(*segment), offset: u64::from_le_bytes(offset) })
}

/// The numbers of the segments in `folder`, rising. Files with other names are left alone.
///
/// # Errors
/// A folder that cannot be read.
pub fn list(folder: impl Into<DiskFolder>) -> Result<Vec<u64>, SegmentsError> {
    let folder = folder.into();
    let names = folder.list().map_err(|e| io_error("list", folder.path(), e))?;
    let number = |name: &String| {
        let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?
    };
    let mut segments: Vec<u64> = names.iter().filter_map(number).collect();
    segments.sort_unstable();
    Ok(segments)
}

fn name_of(first: u64) -> String {
    format!("{first:020}.seg")
}

fn path_of(folder: &DiskFolder, first: u64) -> PathBuf {
    folder.path().join(name_of(first))
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> SegmentsError {
    SegmentsError::Io { doing, path: path.to_owned(), source }
}

/// Whether the record at `at` is whole, and where it would end; `None` if it would not end within `bytes`.
fn whole(bytes: &[u8], at: usize) -> Option<(bool, usize)> {
    let header = bytes.get(at..)?.split_at_checked(RECORD_HEADER)?.0;
    let length = Some(u32_at(header, 0) as usize).filter(|length| *length <= PROBED_RECORD_BYTES)?;
    let end = at + RECORD_HEADER + length;
    Some((crc32fast::hash(bytes.get(at + 8..end)?) == u32_at(header, 4), end))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn make_dir(folder: &DiskFolder) -> Result<(), SegmentsError> {
    folder.make().map_err(|e| io_error("make the folder", folder.path(), e))
}

fn sync_dir(folder: &DiskFolder) -> Result<(), SegmentsError> {
    folder.sync().map_err(|e| io_error("sync the folder", folder.path(), e))
}

/// Makes the segment that begins with record `first`, durable with its header and its entry in the folder.
fn create(folder: &DiskFolder, name: &str, first: u64) -> Result<Box<dyn DiskFile>, SegmentsError> {
    let path = path_of(folder, first);
    let file = folder.create(&name_of(first)).map_err(|e| io_error("create", &path, e))?;
    write_header(&*file, &path, name, first)?;
    file.sync().map_err(|e| io_error("sync", &path, e))?;
    if !mutant(5) {
        sync_dir(folder)?;
    }
    Ok(file)
}

fn header(name: &str, version: u32, first: u64) -> [u8; HEADER_BYTES as usize] {
    let mut bytes = [0; HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..8 + name.len()].copy_from_slice(name.as_bytes());
    bytes[16..20].copy_from_slice(&version.to_le_bytes());
    bytes[24..32].copy_from_slice(&first.to_le_bytes());
    let crc = header_crc(&bytes);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn header_crc(bytes: &[u8; HEADER_BYTES as usize]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&bytes[..20]);
    hasher.update(&bytes[24..]);
    hasher.finalize()
}

fn write_header(file: &dyn DiskFile, path: &Path, name: &str, first: u64) -> Result<(), SegmentsError> {
    let written = file.write_at(&header(name, VERSION, first), 0);
    written.map_err(|source| SegmentsError::Write { path: path.to_owned(), source })
}

/// Whether a file of `length` bytes is one whose making was cut short: no whole header, or one never written.
fn header_is_torn(file: &dyn DiskFile, path: &Path, length: u64) -> Result<bool, SegmentsError> {
    if length < HEADER_BYTES {
        return Ok(true);
    }
    let mut bytes = [0; HEADER_BYTES as usize];
    file.read_at(&mut bytes, 0).map_err(|e| io_error("read", path, e))?;
    Ok(length == HEADER_BYTES && bytes.iter().all(|b| *b == 0))
}

/// Writes a header anew that is not whole, for the name of its file says what was in it; whether it had to be. One that is
/// whole and says something else is left alone.
fn mend_header(folder: &DiskFolder, name: &'static str, first: u64) -> Result<bool, SegmentsError> {
    let path = path_of(folder, first);
    let file = open_patiently(folder, first).map_err(|e| io_error("open", &path, e))?;
    let length = file.len().map_err(|e| io_error("inspect", &path, e))?;
    if length < HEADER_BYTES {
        return Ok(false);
    }
    let mut bytes = [0; HEADER_BYTES as usize];
    file.read_at(&mut bytes, 0).map_err(|e| io_error("read", &path, e))?;
    if header_crc(&bytes) == u32_at(&bytes, 20) && bytes[..8] == *MAGIC {
        return Ok(false);
    }
    write_header(&*file, &path, name, first)?;
    file.sync().map_err(|e| io_error("sync", &path, e))?;
    Ok(true)
}

/// Opens a segment; waits a while for a descriptor, for the writer never needs one to go on.
fn open_patiently(folder: &DiskFolder, first: u64) -> io::Result<Box<dyn DiskFile>> {
    let begun = Instant::now();
    loop {
        match folder.open(&name_of(first)) {
            Err(e) if disk::no_descriptor(&e) && begun.elapsed() < DESCRIPTOR_WAIT => {
                std::thread::sleep(DESCRIPTOR_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// Opens a segment for reading and checks its header.
fn open_checked(
    folder: &DiskFolder,
    name: &'static str,
    first: u64,
) -> Result<Box<dyn DiskFile>, SegmentsError> {
    let path = path_of(folder, first);
    let file = open_patiently(folder, first).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => SegmentsError::Missing { path: path.clone() },
        _ => io_error("open", &path, e),
    })?;
    let damaged = |why: &str| SegmentsError::Damaged {
        path: path.clone(),
        segment: first,
        offset: 0,
        why: why.to_owned(),
    };
    let mut bytes = [0; HEADER_BYTES as usize];
    file.read_at(&mut bytes, 0).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => damaged("its header is cut short"),
        _ => io_error("read", &path, e),
    })?;
    if bytes[..8] != *MAGIC {
        return Err(damaged("it does not begin as a segment does"));
    }
    if header_crc(&bytes) != u32_at(&bytes, 20) {
        return Err(damaged("its header's checksum does not match"));
    }
    let version = u32_at(&bytes, 16);
    if version != VERSION {
        return Err(SegmentsError::Version { path, found: version });
    }
    if bytes != header(name, VERSION, first) {
        return Err(damaged(&format!(
            "its header is not that of a segment of the {name} log with record {first} first"
        )));
    }
    Ok(file)
}

#[cfg(test)]
pub(crate) mod tests;
