//! What the outbox's records mean. All numbers little-endian; no padding.
//!
//! ```text
//! kind 1   ends u8 | epoch u64 | sections
//! section  kind u8 | version u8 | rows u32 | bytes u32 | rows
//! ```
//! Where all rows of a section end with the tail of their kind ([`ResultRow::TAIL`]), they are written without it.
//! A section holds rows of one kind; what a row is, its kind says (`rows` in the dataflow's crate). A kind that is not
//! known is passed over and counted; a version of a known kind that is not known is an error.
//!
//! One epoch is one or more records in a row; an epoch without rows is one record. Of `ends` bit 0 is set in the last of
//! them, bit 1 in the first. Records of an epoch that a first one of it follows again are void: its writing was cut short
//! behind the end of a segment.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::ops::{Deref, Range};

use tidewatch_dataflows::rows::{
    KINDS, KindInfo, KindList, KindVisitor, ResultRow, RowLists, WindowStats, each_kind,
};
use tidewatch_dataflows::sample::SeriesId;

use super::OutboxError;

/// Kind byte of a batch, or a part of one.
pub const KIND_BATCH: u8 = 1;
/// Most rows in one record: at most 1.5 MB.
pub const RECORD_ROWS_MAX: usize = 16_384;

/// Bits of `ends`.
const LAST: u8 = 1;
const FIRST: u8 = 2;
const HEADER_BYTES: usize = 1 + 8;
const SECTION_BYTES: usize = 1 + 1 + 4 + 4;

/// The result rows of one epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutboxBatch {
    /// The epoch whose outcomes these are.
    pub epoch: u64,
    /// Its rows, each kind sorted by its key.
    pub rows: RowLists,
    /// Rows of kinds that this program does not know.
    pub unknown: u64,
}

impl Deref for OutboxBatch {
    type Target = RowLists;

    fn deref(&self) -> &RowLists {
        &self.rows
    }
}

/// Appends the rows of one epoch: the bytes that must be the same for the same log.
///
/// # Panics
/// If there are more than `u32::MAX` rows of a kind.
pub fn encode(epoch: u64, rows: &RowLists, out: &mut Vec<u8>) {
    encode_part(epoch, Ends { first: true, last: true }, rows, 0..rows.rows(), out);
}

/// Which ends of an epoch a record is.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) first: bool,
    pub(super) last: bool,
}

/// Appends some rows of an epoch: those of a range, counted through all kinds.
pub(super) fn encode_part(epoch: u64, ends: Ends, rows: &RowLists, range: Range<usize>, out: &mut Vec<u8>) {
    out.push((LAST * u8::from(ends.last)) | (FIRST * u8::from(ends.first)));
    out.extend_from_slice(&epoch.to_le_bytes());
    let Ok(()) = each_kind(&mut EncodeSections { rows, range, before: 0, out });
}

/// Writes a section of each kind that has rows in a range.
struct EncodeSections<'a> {
    rows: &'a RowLists,
    range: Range<usize>,
    /// Rows of the kinds before.
    before: usize,
    out: &'a mut Vec<u8>,
}

impl KindVisitor for EncodeSections<'_> {
    type Error = Infallible;

    fn kind<K: ResultRow>(&mut self, list: KindList<K>) -> Result<(), Infallible> {
        let all = (list.of)(self.rows);
        let place = |at: usize| at.saturating_sub(self.before).min(all.len());
        let some = &all[place(self.range.start)..place(self.range.end)];
        self.before += all.len();
        if some.is_empty() {
            return Ok(());
        }
        let out = &mut *self.out;
        let count = |n: usize| u32::try_from(n).expect("a record has few rows").to_le_bytes();
        out.reserve(SECTION_BYTES + some.len() * K::BYTES);
        out.extend_from_slice(&[K::KIND, K::VERSION]);
        out.extend_from_slice(&count(some.len()));
        let start = out.len() + size_of::<u32>();
        out.resize(start + some.len() * K::BYTES, 0);
        for (place, row) in out[start..].chunks_exact_mut(K::BYTES).zip(some) {
            row.put(place);
        }
        leave_out_tails::<K>(start, out);
        let bytes = count(out.len() - start);
        out[start - bytes.len()..start].copy_from_slice(&bytes);
        Ok(())
    }
}

/// Shortens rows that begin at `start` if all of them end with the tail of their kind.
fn leave_out_tails<K: ResultRow>(start: usize, out: &mut Vec<u8>) {
    let short = K::BYTES - K::TAIL.len();
    if K::TAIL.is_empty() || !out[start..].chunks_exact(K::BYTES).all(|row| row[short..] == *K::TAIL) {
        return;
    }
    let rows = (out.len() - start) / K::BYTES;
    for n in 1..rows {
        out.copy_within(start + n * K::BYTES..start + n * K::BYTES + short, start + n * short);
    }
    out.truncate(start + rows * short);
}

/// The rows of a whole epoch, as [`encode`] wrote them.
///
/// # Errors
/// Bytes that [`encode`] does not write.
pub fn decode(payload: &[u8]) -> Result<OutboxBatch, OutboxError> {
    let mut batch = OutboxBatch::default();
    if !decode_part(KIND_BATCH, payload, &mut batch)? {
        return Err(OutboxError::Malformed { why: "the end of the epoch is missing".to_owned() });
    }
    Ok(batch)
}

/// What the header of a record says.
pub(super) struct RecordHeader {
    pub(super) epoch: u64,
    pub(super) last: bool,
    /// Whether the epoch begins with it.
    pub(super) first: bool,
}

/// Rows of one kind.
struct Section<'a> {
    kind: u8,
    rows: u32,
    bytes: &'a [u8],
}

/// The header of a record and the bytes of its sections, each of which has as many as it says.
pub(super) fn header(kind: u8, payload: &[u8]) -> Result<(RecordHeader, &[u8]), OutboxError> {
    let malformed = |why: String| OutboxError::Malformed { why };
    if kind != KIND_BATCH {
        return Err(OutboxError::UnknownKind { kind });
    }
    let Some((header, rest)) = payload.split_first_chunk::<HEADER_BYTES>() else {
        let bytes = payload.len();
        return Err(malformed(format!("{bytes} bytes are shorter than a header of {HEADER_BYTES}")));
    };
    let ([ends], epoch) = (array(header), u64::from_le_bytes(array(&header[1..])));
    if ends > LAST | FIRST {
        let most = LAST | FIRST;
        return Err(malformed(format!(
            "the flags for the ends of an epoch are {ends}; they must be 0 to {most}"
        )));
    }
    let mut sections = rest;
    while !sections.is_empty() {
        section(&mut sections)?;
    }
    Ok((RecordHeader { epoch, last: ends & LAST != 0, first: ends & FIRST != 0 }, rest))
}

/// Takes the next section.
fn section<'a>(rest: &mut &'a [u8]) -> Result<Section<'a>, OutboxError> {
    let malformed = |why: String| Err(OutboxError::Malformed { why });
    let Some((head, behind)) = rest.split_first_chunk::<SECTION_BYTES>() else {
        return malformed(format!("{} bytes are shorter than the head of a section", rest.len()));
    };
    let (kind, version, rows) = (head[0], head[1], u32::from_le_bytes(array(&head[2..])));
    let bytes = u32::from_le_bytes(array(&head[6..])) as usize;
    let Some((bytes, behind)) = behind.split_at_checked(bytes) else {
        return malformed(format!("a section of {bytes} bytes has {}", behind.len()));
    };
    if let Some(info) = KINDS.iter().find(|info| info.kind == kind) {
        let KindInfo { name, version: known, bytes: of_row, tail, .. } = *info;
        if version != known {
            return malformed(format!(
                "its {name} are of version {version}; this program reads version {known}"
            ));
        }
        let fill = |of_row: usize| u64::from(rows) * of_row as u64 == bytes.len() as u64;
        if !fill(of_row) && !fill(of_row - tail.len()) {
            return malformed(format!("{rows} {name} do not fill {} bytes exactly", bytes.len()));
        }
    }
    *rest = behind;
    Ok(Section { kind, rows, bytes })
}

/// Appends a record's rows to `batch`; whether the epoch ends with it.
pub(super) fn decode_part(kind: u8, payload: &[u8], batch: &mut OutboxBatch) -> Result<bool, OutboxError> {
    let (header, mut rest) = header(kind, payload)?;
    batch.epoch = header.epoch;
    while !rest.is_empty() {
        let section = section(&mut rest)?;
        if !KINDS.iter().any(|info| info.kind == section.kind) {
            batch.unknown += u64::from(section.rows);
            continue;
        }
        each_kind(&mut DecodeSection { section, rows: &mut batch.rows })?;
    }
    Ok(header.last)
}

/// Appends the rows of a section to the list of its kind.
struct DecodeSection<'a> {
    section: Section<'a>,
    rows: &'a mut RowLists,
}

impl KindVisitor for DecodeSection<'_> {
    type Error = OutboxError;

    fn kind<K: ResultRow>(&mut self, list: KindList<K>) -> Result<(), OutboxError> {
        if K::KIND != self.section.kind {
            return Ok(());
        }
        let rows = (list.of_mut)(self.rows);
        rows.reserve(self.section.rows as usize);
        self.section.rows::<K>(|row| {
            rows.push(row.get()?);
            Ok(())
        })
    }
}

/// The bytes of a row, perhaps without its tail.
struct RowBytes<'a, K> {
    bytes: &'a [u8],
    /// Room for a whole row, which ends with the tail.
    whole: &'a mut [u8],
    kind: PhantomData<K>,
}

impl<K: ResultRow> RowBytes<'_, K> {
    fn get(&mut self) -> Result<K, OutboxError> {
        let row = match self.bytes.len() == K::BYTES {
            true => self.bytes,
            false => {
                self.whole[..self.bytes.len()].copy_from_slice(self.bytes);
                &*self.whole
            }
        };
        K::get(row).map_err(|why| OutboxError::Malformed { why: format!("a {}: {why}", K::SINGULAR) })
    }
}

impl Section<'_> {
    /// Hands each of its rows, which are of this kind, to `each`.
    fn rows<K: ResultRow>(
        &self,
        mut each: impl FnMut(&mut RowBytes<'_, K>) -> Result<(), OutboxError>,
    ) -> Result<(), OutboxError> {
        let mut whole = vec![0; K::BYTES];
        whole[K::BYTES - K::TAIL.len()..].copy_from_slice(K::TAIL);
        let of_row = self.bytes.len() / (self.rows as usize).max(1);
        for bytes in self.bytes.chunks_exact(of_row.max(1)) {
            each(&mut RowBytes { bytes, whole: &mut whole, kind: PhantomData })?;
        }
        Ok(())
    }
}

/// Appends those windows of a record whose series is wanted; the epoch, and whether it ends with the record.
pub(super) fn decode_windows(
    kind: u8,
    payload: &[u8],
    mut wanted: impl FnMut(SeriesId) -> bool,
    found: &mut Vec<WindowStats>,
) -> Result<(u64, bool), OutboxError> {
    let (header, mut rest) = header(kind, payload)?;
    while !rest.is_empty() {
        let section = section(&mut rest)?;
        if section.kind != WindowStats::KIND {
            continue;
        }
        // The series is the first field: most rows are not looked at further.
        section.rows::<WindowStats>(|row| {
            if wanted(SeriesId(u64::from_le_bytes(array(row.bytes)))) {
                found.push(row.get()?);
            }
            Ok(())
        })?;
    }
    Ok((header.epoch, header.last))
}

/// The first `N` bytes; callers have checked that they are there.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("the length was checked")
}

#[cfg(test)]
pub(super) mod tests {
    use tidewatch_dataflows::rows::columns::{Floats, RowFields};
    use tidewatch_dataflows::rows::verdicts::{ProfileChange, ProfileStatus, Verdict};
    use tidewatch_dataflows::rows::windows::QuantileValues;
    use tidewatch_dataflows::rows::{ProfileEvent, Reject, Rows, SeriesProfile};
    use tidewatch_dataflows::sample::{MetricType, Reason};

    use super::*;

    const NAN_BITS: u64 = 0x7ff8_0000_0000_0000;

    fn window(rng: &mut fastrand::Rng) -> WindowStats {
        let mut float = {
            let mut rng = rng.fork();
            move || f64::from_bits(rng.u64(..))
        };
        WindowStats {
            series: SeriesId(rng.u64(..)),
            window_ms: rng.i64(..),
            at_ms: rng.i64(..),
            revision: rng.u32(..),
            count: rng.u32(..),
            span_ms: rng.u32(..),
            min: float(),
            max: -0.0,
            avg: float(),
            std: f64::NAN,
            first: f64::INFINITY,
            last: float(),
            sum: float(),
            changes: rng.u32(..),
            increase: float(),
            resets: rng.u32(..),
            partial: rng.bool(),
            quantiles: QuantileValues::default(),
        }
    }

    fn reject(rng: &mut fastrand::Rng) -> Reject {
        Reject {
            series: rng.bool().then(|| SeriesId(rng.u64(..))),
            reason: Reason::ALL[rng.usize(..Reason::ALL.len())],
            count: rng.u64(..),
            first_at_ms: rng.i64(..),
            last_at_ms: rng.i64(..),
        }
    }

    fn profile(rng: &mut fastrand::Rng) -> SeriesProfile {
        let acf = (0..rng.usize(0..40)).map(|_| f64::from_bits(rng.u64(..))).collect();
        SeriesProfile {
            series: SeriesId(rng.u64(..)),
            at_ms: rng.i64(..),
            mean: f64::from_bits(rng.u64(..)),
            acf: Floats::new(acf).unwrap(),
            stationary: Verdict::of(rng.bool()),
            status: ProfileStatus::Gaps,
            ..SeriesProfile::default()
        }
    }

    fn event(rng: &mut fastrand::Rng) -> ProfileEvent {
        let change = ProfileChange::ALL[rng.usize(..ProfileChange::ALL.len())];
        let (series, at_ms, yes) = (SeriesId(rng.u64(..)), rng.i64(..), rng.bool());
        ProfileEvent { series, at_ms, change, from: Verdict::of(!yes), to: Verdict::of(yes) }
    }

    fn kind(rng: &mut fastrand::Rng) -> MetricType {
        if rng.bool() { MetricType::Counter } else { MetricType::Gauge }
    }

    /// Rows of any bits; as many types as rejects.
    pub fn outcomes(rng: &mut fastrand::Rng, windows: usize, rejects: usize) -> Rows {
        let lists = RowLists {
            windows: (0..windows).map(|_| window(rng)).collect(),
            rejects: (0..rejects).map(|_| reject(rng)).collect(),
            types: (0..rejects).map(|_| (SeriesId(rng.u64(..)), kind(rng))).collect(),
            profiles: (0..rejects).map(|_| profile(rng)).collect(),
            events: (0..rejects).map(|_| event(rng)).collect(),
        };
        Rows { freed: vec![SeriesId(1)], ..lists.into() }
    }

    /// The bytes of a row, each NaN as the one that is written.
    pub fn bits(row: &WindowStats) -> Vec<u8> {
        let mut bytes = vec![0; WindowStats::BYTES];
        row.put(&mut bytes);
        bytes
    }

    #[test]
    fn rows_come_back_bit_for_bit() {
        let mut rng = fastrand::Rng::with_seed(3);
        for (windows, rejects) in [(0, 0), (1, 0), (0, 1), (100, 7), (1_000, 1_000)] {
            let outcomes = outcomes(&mut rng, windows, rejects);
            let mut bytes = vec![];
            encode(u64::MAX - 1, &outcomes, &mut bytes);
            let back = decode(&bytes).unwrap();
            assert_eq!((back.epoch, back.unknown), (u64::MAX - 1, 0));
            assert_eq!((&back.rejects, &back.types), (&outcomes.rejects, &outcomes.types));
            assert_eq!(back.windows.len(), outcomes.windows.len());
            for (row, want) in back.windows.iter().zip(&outcomes.windows) {
                let copied = |row: &WindowStats| (row.key(), row.rank(), row.span_ms, row.partial);
                assert_eq!(copied(row), copied(want));
                let floats =
                    |r: &WindowStats| [r.min, r.max, r.avg, r.std, r.first, r.last, r.sum, r.increase];
                for (float, want) in floats(row).into_iter().zip(floats(want)) {
                    let want = if want.is_nan() { NAN_BITS } else { want.to_bits() };
                    assert_eq!(float.to_bits(), want);
                }
            }
            // Encoding what was decoded gives the same bytes.
            let mut again = vec![];
            encode(back.epoch, &back.rows, &mut again);
            assert_eq!(again, bytes);
        }
    }

    #[test]
    fn quantiles_are_written_where_a_row_has_some() {
        let mut rng = fastrand::Rng::with_seed(8);
        let mut rows = outcomes(&mut rng, 5, 2);
        let encoded = |rows: &RowLists| {
            let mut bytes = vec![];
            encode(7, rows, &mut bytes);
            bytes
        };
        let without = encoded(&rows).len();
        for place in [0, 2, 4] {
            rows.windows[place].quantiles.0[place] = 1.5;
            let bytes = encoded(&rows);
            assert_eq!(bytes.len() - without, 5 * WindowStats::TAIL.len());
            let mut found = Vec::new();
            decode_windows(KIND_BATCH, &bytes, |_| true, &mut found).unwrap();
            for windows in [decode(&bytes).unwrap().rows.windows, found] {
                assert!(windows.iter().map(bits).eq(rows.windows.iter().map(bits)));
            }
        }
    }

    #[test]
    fn an_epoch_cut_anywhere_is_the_same_rows() {
        let mut rng = fastrand::Rng::with_seed(9);
        let rows = outcomes(&mut rng, 5, 3);
        for cut in 0..=rows.rows() {
            let mut back = OutboxBatch::default();
            for range in [0..cut, cut..rows.rows()] {
                let (ends, mut bytes) =
                    (Ends { first: range.start == 0, last: range.end == rows.rows() }, vec![]);
                encode_part(3, ends, &rows, range, &mut bytes);
                decode_part(KIND_BATCH, &bytes, &mut back).unwrap();
            }
            assert!(back.windows.iter().map(bits).eq(rows.windows.iter().map(bits)), "cut at {cut}");
            assert_eq!((&back.rejects, &back.types), (&rows.rejects, &rows.types), "cut at {cut}");
        }
    }

    /// The section behind the header that holds the windows.
    const FIRST_SECTION: usize = HEADER_BYTES;

    #[test]
    fn rows_of_an_unknown_kind_are_passed_over_and_counted() {
        let mut rng = fastrand::Rng::with_seed(5);
        let rows = outcomes(&mut rng, 3, 2);
        let mut bytes = vec![];
        encode(7, &rows, &mut bytes);
        let known = decode(&bytes).unwrap();
        // In front, and of a length that is no other kind's.
        let unknown = [&[200, 9][..], &4_u32.to_le_bytes(), &10_u32.to_le_bytes(), &[1; 10]].concat();
        bytes.splice(FIRST_SECTION..FIRST_SECTION, unknown);
        let batch = decode(&bytes).unwrap();
        assert_eq!((batch.epoch, batch.unknown), (7, 4));
        assert!(batch.windows.iter().map(bits).eq(known.windows.iter().map(bits)));
        assert_eq!((&batch.rejects, &batch.types), (&known.rejects, &known.types));
        let mut found = Vec::new();
        assert_eq!(decode_windows(KIND_BATCH, &bytes, |_| true, &mut found).unwrap(), (7, true));
        assert!(found.iter().map(bits).eq(known.windows.iter().map(bits)));
    }

    #[test]
    fn an_unknown_version_of_a_known_kind_is_an_error_that_names_it() {
        let mut rng = fastrand::Rng::with_seed(6);
        let mut bytes = vec![];
        encode(7, &outcomes(&mut rng, 1, 0), &mut bytes);
        bytes[FIRST_SECTION + 1] += 1;
        let error = decode(&bytes).unwrap_err().to_string();
        let version = WindowStats::VERSION;
        let wanted =
            format!("its windows are of version {}; this program reads version {version}", version + 1);
        assert!(error.contains(&wanted), "{error}");
    }

    #[test]
    fn a_window_is_partial_or_not() {
        let mut rng = fastrand::Rng::with_seed(6);
        let mut bytes = vec![];
        encode(7, &outcomes(&mut rng, 1, 0), &mut bytes);
        *bytes.last_mut().unwrap() = 2;
        let error = decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("a window: partial: a flag is 2; it must be 0 or 1"), "{error}");
    }

    #[test]
    fn what_stays_inside_is_not_written() {
        let mut outcomes = Rows { freed: vec![SeriesId(9)], ..Rows::default() };
        outcomes.counts.applied = 77;
        let (mut with, mut without) = (vec![], vec![]);
        encode(5, &outcomes, &mut with);
        encode(5, &RowLists::default(), &mut without);
        assert_eq!(with, without);
    }

    #[test]
    fn no_bytes_make_decoding_panic() {
        let mut rng = fastrand::Rng::with_seed(4);
        let (mut good, mut short) = (vec![], vec![]);
        let mut rows = outcomes(&mut rng, 2, 2);
        encode(8, &rows, &mut short);
        rows.windows[1].quantiles.0[3] = 7.0;
        encode(8, &rows, &mut good);
        for length in 0..good.len() {
            // Between two sections it is a whole record.
            if let Ok(batch) = decode(&good[..length]) {
                assert!(batch.rows.rows() < rows.rows(), "the first {length} bytes");
            }
        }
        for _ in 0..50_000 {
            let mut bytes = if rng.bool() { good.clone() } else { short.clone() };
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(bytes.len() - rng.usize(..3));
            if let Ok(batch) = decode(&bytes) {
                let held = batch.windows.len() * (WindowStats::BYTES - WindowStats::TAIL.len())
                    + batch.rejects.len() * Reject::BYTES;
                assert!(held < bytes.len());
            }
        }
    }
}
