//! The bytes of the three kinds of files. All numbers little-endian.
//!
//! ```text
//! manifest   magic "tidemani" | version u32 | crc32 u32 of version and rest | n x entry
//!   entry    shard u16 | chain u8 | epoch u64 | begun u64 | sealed bytes u64 | whole bytes u64 | state bytes u64
//! state      magic "tidestat" | version u32 | crc32 u32 of version and rest | entry | processing_ms i64 | watermark_ms i64 |
//!            last_of_input u8 | length u32 and settings as JSON | state of the shard
//! sealed     magic "tideseal" | version u32 | crc32 u32 of version and rest | shard u16 | chain u8 | begun u64,
//!            then block by block: length u32 | crc32 u32 of what follows | what one save sealed
//! ```
//!
//! The checksum of a header covers its version as well: a file of another version is an error that says so, one whose
//! version is a flipped bit is damaged.

use std::io;

use tidewatch_dataflows::sample::{EpochEnd, SHARDS};
use tidewatch_dataflows::settings::Settings;
use tidewatch_dataflows::snapshot::CHAINS;

use super::SnapshotError;
use crate::disk::DiskFolder;

/// Version of all three formats. Panes of version 1 had nine words; settings of version 2 other names; gates
/// of version 3 knew no kinds of series.
pub const VERSION: u32 = 4;
const MANIFEST: &[u8; 8] = b"tidemani";
const STATE: &[u8; 8] = b"tidestat";
const SEALED: &[u8; 8] = b"tideseal";
const HEADER: usize = 16;
/// Bytes of the header of a file of what is sealed.
pub const SEALED_HEADER: u64 = (HEADER + 2 + 1 + 8) as u64;
const BLOCK_HEADER: usize = 8;
/// Largest file that is read, and so that is written: a shard of 5,000 series takes a fiftieth of it.
pub const FILE_BYTES_MAX: u64 = 4 << 30;

/// One chain of one shard, as far as it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestEntry {
    /// The shard.
    pub shard: usize,
    /// The chain.
    pub chain: usize,
    /// The epoch whose end its last save is the state of.
    pub epoch: u64,
    /// The epoch of its first save: part of the name of what is sealed.
    pub begun: u64,
    /// Sealed bytes that count.
    pub sealed_bytes: u64,
    /// Sealed bytes after the first save.
    pub whole_bytes: u64,
    /// Bytes of the file of its state.
    pub state_bytes: u64,
}

impl ManifestEntry {
    /// Name of the file of its state.
    pub fn state_name(&self) -> String {
        format!("{:03}{}-{:020}.state", self.shard, ["a", "b"][self.chain], self.epoch)
    }

    /// Name of the file of what is sealed.
    pub fn sealed_name(&self) -> String {
        format!("{:03}{}-{:020}.sealed", self.shard, ["a", "b"][self.chain], self.begun)
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.shard as u16).to_le_bytes());
        out.push(self.chain as u8);
        for value in [self.epoch, self.begun, self.sealed_bytes, self.whole_bytes, self.state_bytes] {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn take(bytes: &mut &[u8]) -> Option<ManifestEntry> {
        let shard = usize::from(u16::from_le_bytes(array(bytes)?));
        let [chain] = array(bytes)?;
        let mut next = || array(bytes).map(u64::from_le_bytes);
        let (epoch, begun) = (next()?, next()?);
        let (sealed_bytes, whole_bytes, state_bytes) = (next()?, next()?, next()?);
        let chain = usize::from(chain);
        let good = shard < SHARDS && chain < CHAINS && begun <= epoch;
        good.then_some(ManifestEntry { shard, chain, epoch, begun, sealed_bytes, whole_bytes, state_bytes })
    }
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (some, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*some)
}

fn header(magic: &[u8; 8], rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + rest.len());
    out.extend_from_slice(magic);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&crc(VERSION, rest).to_le_bytes());
    out.extend_from_slice(rest);
    out
}

/// The checksum of a version and what follows the header.
fn crc(version: u32, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&version.to_le_bytes());
    hasher.update(rest);
    hasher.finalize()
}

/// Why bytes are not what they should be.
enum FormatError {
    Version(u32),
    Good(&'static str),
}

/// What follows the header, of `n` bytes or all of them.
fn checked<'a>(magic: &[u8; 8], bytes: &'a [u8], n: Option<usize>) -> Result<&'a [u8], FormatError> {
    let mut rest = bytes;
    if array::<8>(&mut rest).is_none_or(|found| found != *magic) {
        return Err(FormatError::Good("it does not begin as such a file does"));
    }
    let version = array(&mut rest).map(u32::from_le_bytes);
    let crc = array(&mut rest).map(u32::from_le_bytes);
    let (Some(version), Some(crc)) = (version, crc) else { return Err(FormatError::Good("it is cut short")) };
    let body = match n {
        Some(n) => rest.get(..n).ok_or(FormatError::Good("it is cut short"))?,
        None => rest,
    };
    if self::crc(version, body) != crc {
        return Err(FormatError::Good("its checksum does not match"));
    }
    if version != VERSION { Err(FormatError::Version(version)) } else { Ok(body) }
}

fn error(folder: &DiskFolder, name: &str, offset: u64, not: FormatError) -> SnapshotError {
    let path = folder.path().join(name);
    match not {
        FormatError::Version(found) => SnapshotError::Version { path, found, known: VERSION },
        FormatError::Good(why) => SnapshotError::Damaged { path, offset, why: why.to_owned() },
    }
}

/// The bytes of a manifest of these chains.
pub fn manifest(entries: impl Iterator<Item = ManifestEntry>) -> Vec<u8> {
    let mut body = Vec::new();
    entries.for_each(|entry| entry.put(&mut body));
    header(MANIFEST, &body)
}

/// The chains in the manifest of this name.
pub fn read_manifest(folder: &DiskFolder, name: &str) -> Result<Vec<ManifestEntry>, SnapshotError> {
    let bytes = read(folder, name, None)?;
    let mut body = checked(MANIFEST, &bytes, None).map_err(|not| error(folder, name, 0, not))?;
    let mut entries = Vec::new();
    while !body.is_empty() {
        let at = (bytes.len() - body.len()) as u64;
        let entry = ManifestEntry::take(&mut body).filter(|_| entries.len() < CHAINS * SHARDS);
        entries.push(entry.ok_or_else(|| error(folder, name, at, FormatError::Good("an entry cannot be")))?);
    }
    Ok(entries)
}

/// The bytes of a file of a shard's state.
pub fn state(entry: ManifestEntry, end: &EpochEnd, settings: &Settings, state: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(state.len() + 512);
    // Its own length is in the manifest only.
    ManifestEntry { state_bytes: 0, ..entry }.put(&mut body);
    body.extend_from_slice(&end.processing_ms.to_le_bytes());
    body.extend_from_slice(&end.watermark_ms.to_le_bytes());
    body.push(u8::from(end.last_of_input));
    let settings = serde_json::to_vec(settings).expect("plain numbers can always be written as JSON");
    body.extend_from_slice(&(settings.len() as u32).to_le_bytes());
    body.extend_from_slice(&settings);
    body.extend_from_slice(state);
    header(STATE, &body)
}

/// A file of a shard's state, read back.
pub struct StateFile {
    /// The chain it ends.
    pub entry: ManifestEntry,
    /// The epoch it is the state of.
    pub end: EpochEnd,
    /// The settings in force.
    pub settings: Settings,
    /// The state of the shard.
    pub state: Vec<u8>,
}

/// Reads the file of a shard's state of this name.
pub fn read_state(folder: &DiskFolder, name: &str) -> Result<StateFile, SnapshotError> {
    let mut bytes = read(folder, name, None)?;
    let length = bytes.len() as u64;
    let body = checked(STATE, &bytes, None).map_err(|not| error(folder, name, 0, not))?;
    let mut rest = body;
    let parsed = (|| {
        let entry = ManifestEntry::take(&mut rest)?;
        let (processing_ms, watermark_ms) =
            (i64::from_le_bytes(array(&mut rest)?), i64::from_le_bytes(array(&mut rest)?));
        let [last] = array(&mut rest)?;
        let n = u32::from_le_bytes(array(&mut rest)?) as usize;
        let (settings, _) = rest.split_at_checked(n)?;
        let settings = serde_json::from_slice(settings).ok()?;
        let end = EpochEnd { epoch: entry.epoch, processing_ms, watermark_ms, last_of_input: last == 1 };
        Some((ManifestEntry { state_bytes: length, ..entry }, end, settings, rest.len() - n))
    })();
    let (entry, end, settings, left) = parsed.ok_or_else(|| {
        error(folder, name, HEADER as u64, FormatError::Good("what comes before the state cannot be"))
    })?;
    let state = bytes.split_off(bytes.len() - left);
    Ok(StateFile { entry, end, settings, state })
}

/// The header of a file of what is sealed.
pub fn sealed_header(entry: &ManifestEntry) -> Vec<u8> {
    let mut body = (entry.shard as u16).to_le_bytes().to_vec();
    body.push(entry.chain as u8);
    body.extend_from_slice(&entry.begun.to_le_bytes());
    header(SEALED, &body)
}

/// The bytes of a block; `None` for more than one can hold.
pub fn block(sealed: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(BLOCK_HEADER + sealed.len());
    out.extend_from_slice(&u32::try_from(sealed.len()).ok()?.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(sealed).to_le_bytes());
    out.extend_from_slice(sealed);
    Some(out)
}

/// What is sealed in a chain, read back: a file, and where in it what each save sealed is.
pub struct SealedFile {
    bytes: Vec<u8>,
    blocks: Vec<std::ops::Range<usize>>,
}

impl SealedFile {
    /// Save by save.
    pub fn blocks(&self) -> Vec<&[u8]> {
        self.blocks.iter().map(|block| &self.bytes[block.clone()]).collect()
    }
}

/// Reads what is sealed in a chain.
pub fn read_sealed(folder: &DiskFolder, entry: &ManifestEntry) -> Result<SealedFile, SnapshotError> {
    let name = &entry.sealed_name();
    let bytes = read(folder, name, Some(entry.sealed_bytes))?;
    let damaged = |at: usize, why| error(folder, name, at as u64, FormatError::Good(why));
    checked(SEALED, &bytes, Some(SEALED_HEADER as usize - HEADER))
        .map_err(|not| error(folder, name, 0, not))?;
    if bytes[..SEALED_HEADER as usize] != sealed_header(entry) {
        return Err(damaged(0, "it is of another chain"));
    }
    let (mut at, mut blocks) = (SEALED_HEADER as usize, Vec::new());
    while at < bytes.len() {
        let word = |i: usize| {
            bytes.get(at + i..at + i + 4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        };
        let (Some(n), Some(crc)) = (word(0), word(4)) else {
            return Err(damaged(at, "a block is cut short"));
        };
        let block = at + BLOCK_HEADER..at + BLOCK_HEADER + n as usize;
        let sealed = bytes.get(block.clone()).ok_or_else(|| damaged(at, "a block is cut short"))?;
        if crc32fast::hash(sealed) != crc {
            return Err(damaged(at, "a block's checksum does not match"));
        }
        at = block.end;
        blocks.push(block);
    }
    Ok(SealedFile { bytes, blocks })
}

/// The first `n` bytes of a file, or all.
fn read(folder: &DiskFolder, name: &str, n: Option<u64>) -> Result<Vec<u8>, SnapshotError> {
    let io = |doing, e| SnapshotError::Io { doing, path: folder.path().join(name), source: e };
    let file = folder.open(name).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => error(folder, name, 0, FormatError::Good("it is missing")),
        _ => io("open", e),
    })?;
    let length = file.len().map_err(|e| io("inspect", e))?;
    let n = n.unwrap_or(length);
    if n > length || n > FILE_BYTES_MAX {
        return Err(error(folder, name, length, FormatError::Good("it is not as long as it was")));
    }
    let mut bytes = vec![0; n as usize];
    file.read_at(&mut bytes, 0).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => error(folder, name, 0, FormatError::Good("it is cut short")),
        // A bad sector is damage like any other; the chain beside it may be good.
        _ => SnapshotError::Damaged {
            path: folder.path().join(name),
            offset: 0,
            why: format!("it cannot be read: {e}"),
        },
    })?;
    Ok(bytes)
}
