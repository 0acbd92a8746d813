//! The series log: the durable home of label strings, `{id, epoch of registration, labels}`, synced before use.
//!
//! A series that was released and came back has several entries, the last with the newest epoch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tidewatch_dataflows::sample::SeriesId;

use super::LabelsError;
use super::set::{LABEL_BYTES_MAX, LabelSet};
use crate::disk::DiskFolder;
use crate::metrics::{Gauge, Histogram, LogLabels, Metrics};
use crate::segments::{
    KIND_SYNCED, Position, SegmentReader, SegmentTrimmer, Segments, SegmentsError, TailProof, decode_synced,
};

const LOG: &str = "series";
/// The only kind of entry so far.
const KIND_SERIES: u8 = 1;
/// Bytes that a segment adds to each record.
const RECORD_HEADER: u64 = 9;

/// The writer of the series log.
pub(super) struct SeriesLog {
    segments: Segments,
    segment_bytes: u64,
    accept_loss: bool,
    bytes: Gauge,
    sync_seconds: Histogram,
}

impl SeriesLog {
    /// Opens the log in `folder` and gives each entry, in order, to `visit`, with the number of its segment.
    pub(super) fn open(
        folder: &DiskFolder,
        segment_bytes: u64,
        accept_loss: bool,
        metrics: &Arc<Metrics>,
        mut visit: impl FnMut(u64, SeriesId, u64, LabelSet),
    ) -> Result<SeriesLog, LabelsError> {
        // First the torn tail goes, then all segments are read as a reader would.
        let proof = Some(TailProof { plausible, accept_loss });
        let opened = Segments::open_proving(folder, LOG, segment_bytes, proof, |_, _| true);
        // What is wrong with the last segment's header says itself what to do.
        let (mut segments, _) = opened.map_err(|error| match error {
            SegmentsError::Damaged { offset: 0, .. } => LabelsError::Segments(error),
            other => damage(other),
        })?;
        let log = LogLabels { log: LOG };
        let bytes = metrics.log_bytes.get_or_create(&log).clone();
        bytes.set(i64::try_from(segments.bytes()).unwrap_or(i64::MAX));
        let sync_seconds = metrics.log_sync_seconds.get_or_create(&log).clone();
        each(
            &SeriesLogPlace { folder: folder.clone(), end: segments.end(), accept_loss },
            |segment, series, epoch, labels| {
                visit(segment, series, epoch, labels);
                true
            },
        )?;
        segments.mark();
        Ok(SeriesLog { segments, segment_bytes, accept_loss, bytes, sync_seconds })
    }

    /// Writes entries and makes them durable; the number of the segment they are in. After an error none of them is in
    /// the log.
    pub(super) fn write_all<'a>(
        &mut self,
        entries: impl Iterator<Item = (SeriesId, u64, &'a LabelSet)>,
    ) -> Result<u64, SegmentsError> {
        let begun = std::time::Instant::now();
        let segment = self.segments.end().segment;
        for (series, epoch, labels) in entries {
            self.segments.append_with(KIND_SERIES, |out| encode(series, epoch, labels, out));
        }
        if let Err(error) = self.segments.sync() {
            if error.is_transient() {
                // Should that fail as well, the next write does it first.
                let _ = self.segments.rewind();
            }
            return Err(error);
        }
        self.sync_seconds.observe(begun.elapsed().as_secs_f64());
        // The next commit may be days away, and a reader would take damage in this one for a torn tail.
        self.segments.mark();
        self.publish();
        Ok(segment)
    }

    /// The oldest segment and the one behind it, if the log is too long for records of `needed` bytes.
    pub(super) fn too_long(&self, needed: u64) -> Option<(u64, u64)> {
        if self.segments.bytes() <= 2 * needed + self.segment_bytes {
            return None;
        }
        let all = self.segments.trimmer().segments();
        all.first().copied().zip(all.get(1).copied())
    }

    /// Removes old segments, without the log's lock.
    pub(super) fn trimmer(&self) -> SegmentTrimmer {
        self.segments.trimmer()
    }

    /// Publishes how long the log is.
    pub(super) fn publish(&self) {
        self.bytes.set(i64::try_from(self.segments.bytes()).unwrap_or(i64::MAX));
    }

    /// Where a reader finds what is written so far.
    pub(super) fn place(&self) -> SeriesLogPlace {
        let (folder, end) = (self.segments.folder().clone(), self.segments.end());
        SeriesLogPlace { folder, end, accept_loss: self.accept_loss }
    }

    /// Whether nothing can be written any more.
    pub(super) fn has_failed(&self) -> bool {
        self.segments.has_failed()
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.bytes()
    }
}

/// What a reader of the log needs.
pub(super) struct SeriesLogPlace {
    folder: DiskFolder,
    end: Position,
    /// Whether it goes round what is damaged.
    accept_loss: bool,
}

/// Reads the labels of `wanted` from the log, in one pass that ends when all are found.
pub(super) fn find(
    place: &SeriesLogPlace,
    wanted: &[SeriesId],
) -> Result<HashMap<SeriesId, LabelSet>, LabelsError> {
    let mut missing: HashSet<SeriesId> = wanted.iter().copied().collect();
    let mut found = HashMap::new();
    each(place, |_, series, _, labels| {
        if missing.remove(&series) {
            found.insert(series, labels);
        }
        !missing.is_empty()
    })?;
    Ok(found)
}

/// Gives each entry to `visit` until that says to stop.
fn each(
    place: &SeriesLogPlace,
    mut visit: impl FnMut(u64, SeriesId, u64, LabelSet) -> bool,
) -> Result<(), LabelsError> {
    let Some(mut reader) = SegmentReader::open(&place.folder, LOG).map_err(damage)? else { return Ok(()) };
    let mut number = 0;
    loop {
        match reader.advance(place.end) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error @ (SegmentsError::Damaged { .. } | SegmentsError::Missing { .. }))
                if place.accept_loss =>
            {
                let bytes = reader.resync(place.end, plausible)?.bytes;
                tracing::error!(bytes, "labels are lost, as accepted, until they are sent again: {error}");
                continue;
            }
            Err(error) => return Err(damage(error)),
        }
        let (kind, payload) = reader.record();
        if kind == KIND_SYNCED {
            continue;
        }
        let (series, epoch, labels) =
            decode(kind, payload).map_err(|why| LabelsError::Entry { number, why: why.to_owned() })?;
        if !visit(reader.position().segment, series, epoch, labels) {
            return Ok(());
        }
        number += 1;
    }
}

/// What a damaged record is to who reads the log.
fn damage(error: SegmentsError) -> LabelsError {
    match error {
        SegmentsError::Damaged { .. } | SegmentsError::Missing { .. } => LabelsError::Damaged(error),
        other => other.into(),
    }
}

/// Whether a record can be one of the log.
fn plausible(kind: u8, payload: &[u8]) -> bool {
    decode_synced(kind, payload).is_some() || decode(kind, payload).is_ok()
}

/// Bytes of a series' record on disk.
pub(super) fn record_bytes(labels: &LabelSet) -> u64 {
    let texts = labels.iter().map(|(name, value)| 8 + name.len() as u64 + value.len() as u64);
    RECORD_HEADER + 16 + texts.sum::<u64>()
}

/// `id u64, epoch u64, then per label: length of name u32, length of value u32, name, value`.
fn encode(series: SeriesId, epoch: u64, labels: &LabelSet, out: &mut Vec<u8>) {
    out.extend_from_slice(&series.0.to_le_bytes());
    out.extend_from_slice(&epoch.to_le_bytes());
    for (name, value) in labels {
        out.extend_from_slice(&(name.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value.as_bytes());
    }
}

fn decode(kind: u8, payload: &[u8]) -> Result<(SeriesId, u64, LabelSet), &'static str> {
    const SHORT: &str = "it is cut short";
    if kind != KIND_SERIES {
        return Err("its kind is not known to this program");
    }
    let (id, rest) = payload.split_first_chunk::<8>().ok_or(SHORT)?;
    let (epoch, mut rest) = rest.split_first_chunk::<8>().ok_or(SHORT)?;
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let (name_len, after) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
        let (value_len, after) = after.split_first_chunk::<4>().ok_or(SHORT)?;
        let (name, after) = after.split_at_checked(u32::from_le_bytes(*name_len) as usize).ok_or(SHORT)?;
        let (value, after) = after.split_at_checked(u32::from_le_bytes(*value_len) as usize).ok_or(SHORT)?;
        if name.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
            return Err("a label is longer than any that is taken");
        }
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| "a label is not UTF-8");
        pairs.push((text(name)?, text(value)?));
        rest = after;
    }
    let labels = LabelSet::from_sorted(pairs);
    let id = SeriesId(u64::from_le_bytes(*id));
    if labels.series_id() != id {
        return Err("its id is not that of its labels");
    }
    Ok((id, u64::from_le_bytes(*epoch), labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_encoding_and_nothing_else_decodes() {
        let labels = LabelSet::from_sorted([("__name__", "up"), ("job", "ä")]);
        let mut bytes = Vec::new();
        encode(labels.series_id(), 7, &labels, &mut bytes);
        assert_eq!(decode(KIND_SERIES, &bytes), Ok((labels.series_id(), 7, labels)));
        for length in 0..bytes.len() {
            assert!(decode(KIND_SERIES, &bytes[..length]).is_err(), "the first {length} bytes");
        }
        // The epoch is not part of the identity; every other changed byte is noticed.
        for at in (0..8).chain(16..bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(decode(KIND_SERIES, &changed).is_err(), "byte {at} changed");
        }
        assert!(decode(2, &bytes).is_err());
    }
}
