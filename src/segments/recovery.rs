//! What is found of a log when it is opened for writing: where it goes on, what of its end is torn, what is damaged.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use super::reader::SegmentReader;
use super::{
    HEADER_BYTES, KIND_SYNCED, Position, SegmentsError, create, decode_synced, header_is_torn, io_error,
    list, mend_header, name_of, path_of, sync_dir, whole, write_header,
};
use crate::disk::{DiskFile, DiskFolder};

/// How far behind a bad record a whole one is looked for.
const PROBED_BYTES: usize = 1 << 16;

/// Tells a torn tail, which is cut off, from damage, which is not.
#[derive(Clone, Copy, Debug)]
pub struct TailProof {
    /// Whether a record can be one of this log.
    pub plausible: fn(u8, &[u8]) -> bool,
    /// Whether damage is left in the middle of the log, for readers to go round ([`SegmentReader::resync`]), or an
    /// error.
    pub accept_loss: bool,
}

/// The segment a log goes on in, as it was found.
pub(super) struct LastRecord {
    pub(super) first: u64,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) length: u64,
    pub(super) earlier: VecDeque<(u64, u64)>,
    /// Bytes of segments whose making was cut short.
    pub(super) torn_bytes: u64,
}

pub(super) fn last_segment(folder: &DiskFolder, name: &str) -> Result<LastRecord, SegmentsError> {
    let mut segments = list(folder)?;
    let mut torn_bytes = 0;
    loop {
        let Some(first) = segments.pop() else {
            let file = create(folder, name, 0)?;
            return Ok(LastRecord {
                first: 0,
                file,
                length: HEADER_BYTES,
                earlier: VecDeque::new(),
                torn_bytes,
            });
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
        return Ok(LastRecord { first, file, length, earlier, torn_bytes });
    }
}

/// Where the log may end, and how many records of the segment are before that.
pub(super) struct SegmentScan {
    pub(super) end: u64,
    pub(super) records: u64,
    /// Whether the last of them says how far the log was synced.
    pub(super) marked: bool,
    /// The bad record that ended the reading, and what is wrong with it.
    pub(super) bad: Option<(u64, String)>,
}

/// Reads the last segment, which is as long as `whole`.
pub(super) fn scan(
    folder: &DiskFolder,
    name: &'static str,
    whole: Position,
    proof: Option<TailProof>,
    mut visit: impl FnMut(u8, &[u8]) -> bool,
) -> Result<SegmentScan, SegmentsError> {
    let mut reader = SegmentReader::open_at(folder, name, whole.segment).map_err(|error| match error {
        SegmentsError::Damaged { path, segment, offset, why } if proof.is_some() => {
            let why = format!("{why}; nothing else of it is lost, and --accept-loss writes the header anew");
            SegmentsError::Damaged { path, segment, offset, why }
        }
        other => other,
    })?;
    let (mut scanned, mut seen) =
        (SegmentScan { end: HEADER_BYTES, records: 0, marked: false, bad: None }, 0);
    loop {
        match reader.next(whole) {
            Ok(Some((kind, payload))) => {
                seen += 1;
                if visit(kind, payload) {
                    scanned.marked = kind == KIND_SYNCED;
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

/// Writes the headers anew that are damaged, as was accepted: from here on all readers find them good.
pub(super) fn mend_headers(folder: &DiskFolder, name: &'static str) -> Result<(), SegmentsError> {
    for first in list(folder)? {
        if mend_header(folder, name, first)? {
            let path = path_of(folder, first);
            tracing::error!(file = %path.display(), "the damaged header of a segment of the {name} log is written anew, as accepted; nothing of it is lost");
        }
    }
    Ok(())
}

/// Whether a whole record behind the bad one at which `reader` stands says that the bad one had been synced.
fn had_been_synced(
    reader: &SegmentReader,
    whole: Position,
    proof: &TailProof,
) -> Result<bool, SegmentsError> {
    let bad = reader.position();
    let mut ahead = reader.another()?;
    loop {
        let found = match ahead.next(whole) {
            Ok(Some((kind, payload))) => decode_synced(kind, payload),
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
pub(super) fn keep_if_damaged(
    folder: &DiskFolder,
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
fn keep(folder: &DiskFolder, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = match folder.create(&name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => folder.open(&name)?,
        made => made?,
    };
    file.set_len(bytes.len() as u64)?;
    file.write_at(bytes, 0)?;
    file.sync()
}
