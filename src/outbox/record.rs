//! What the outbox's records mean. All numbers little-endian; no padding.
//!
//! ```text
//! kind 1   version u8 = 4 | ends u8 | epoch u64 | windows u32 | rejects u32 | types u32 (from version 2 on) | rows
//! window   series u64 | window_ms i64 | at_ms i64 | revision u32 | count u32 | span_ms u32
//!          | min max avg std first last increase: 7 x f64 bits | partial u8 (from version 3 on)  93 bytes
//! reject   series u64 | has series u8 | reason u8 | count u64 | first_at_ms i64 | last_at_ms i64  34 bytes
//! type     series u64 | type u8                                                                  9 bytes
//! ```
//! One epoch is one or more records in a row; an epoch without rows is one record. Of `ends` bit 0 is set in the last of
//! them, bit 1 in the first (from version 4 on). Records of an epoch that a first one of it follows again are void: its
//! writing was cut short behind the end of a segment.
//! A NaN is always written as `0x7ff8000000000000`: which NaN arithmetic gives is up to the processor.

use tidewatch_dataflows::rows::{Reject, Rows, WindowStats};
use tidewatch_dataflows::sample::{MetricType, Reason, SeriesId};

use super::OutboxError;

/// Kind byte of a batch, or a part of one.
pub const KIND_BATCH: u8 = 1;
/// Most rows in one record: at most 1.5 MB.
pub const RECORD_ROWS_MAX: usize = 16_384;

/// The version that is written; those before it are read as well.
const VERSION: u8 = 4;
/// Bits of `ends`.
const LAST: u8 = 1;
const FIRST: u8 = 2;
/// The header of version 1, and what version 2 has more.
const HEADER_BYTES: usize = 1 + 1 + 8 + 4 + 4;
const TYPES_BYTES: usize = 4;
/// A window in versions 1 and 2, and in version 3.
const FULL_WINDOW_BYTES: usize = 3 * 8 + 3 * 4 + 7 * 8;
const WINDOW_BYTES: usize = FULL_WINDOW_BYTES + 1;
const REJECT_BYTES: usize = 8 + 1 + 1 + 3 * 8;
const TYPE_BYTES: usize = 8 + 1;
const NAN_BITS: u64 = 0x7ff8_0000_0000_0000;

/// The result rows of one epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutboxBatch {
    /// The epoch whose outcomes these are.
    pub epoch: u64,
    /// Window rows, sorted by (series, window, at).
    pub windows: Vec<WindowStats>,
    /// Reject rows, sorted; those without series last.
    pub rejects: Vec<Reject>,
    /// Types of series, sorted by series.
    pub types: Vec<(SeriesId, MetricType)>,
}

impl OutboxBatch {
    /// How many rows it holds, of all kinds.
    pub fn row_count(&self) -> usize {
        self.windows.len() + self.rejects.len() + self.types.len()
    }
}

/// Some rows of one epoch, of each kind.
#[derive(Clone, Copy, Default)]
pub(super) struct OutboxRows<'a> {
    pub(super) windows: &'a [WindowStats],
    pub(super) rejects: &'a [Reject],
    pub(super) types: &'a [(SeriesId, MetricType)],
}

impl<'a> OutboxRows<'a> {
    /// All rows of these outcomes that are written.
    pub(super) fn of(outcomes: &'a Rows) -> OutboxRows<'a> {
        OutboxRows { windows: &outcomes.windows, rejects: &outcomes.rejects, types: &outcomes.types }
    }

    /// Takes as many rows as one record holds.
    pub(super) fn take(&mut self) -> OutboxRows<'a> {
        let mut room = RECORD_ROWS_MAX;
        OutboxRows {
            windows: split(&mut self.windows, &mut room),
            rejects: split(&mut self.rejects, &mut room),
            types: split(&mut self.types, &mut room),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.rejects.is_empty() && self.types.is_empty()
    }
}

/// Takes the first rows, as many as there is room for.
fn split<'a, T>(rows: &mut &'a [T], room: &mut usize) -> &'a [T] {
    let (some, more) = rows.split_at(rows.len().min(*room));
    *room -= some.len();
    *rows = more;
    some
}

/// Appends the rows of one epoch: the bytes that must be the same for the same log.
///
/// # Panics
/// If there are more than `u32::MAX` rows of a kind.
pub fn encode(epoch: u64, outcomes: &Rows, out: &mut Vec<u8>) {
    encode_part(epoch, Ends { first: true, last: true }, OutboxRows::of(outcomes), out);
}

/// Which ends of an epoch a record is.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) first: bool,
    pub(super) last: bool,
}

/// Appends some rows of an epoch.
pub(super) fn encode_part(epoch: u64, ends: Ends, rows: OutboxRows, out: &mut Vec<u8>) {
    let OutboxRows { windows, rejects, types } = rows;
    let count = |n: usize| u32::try_from(n).expect("memory ends long before 2^32 rows").to_le_bytes();
    let rows = windows.len() * WINDOW_BYTES + rejects.len() * REJECT_BYTES + types.len() * TYPE_BYTES;
    out.reserve(HEADER_BYTES + TYPES_BYTES + rows);
    out.extend_from_slice(&[VERSION, (LAST * u8::from(ends.last)) | (FIRST * u8::from(ends.first))]);
    out.extend_from_slice(&epoch.to_le_bytes());
    out.extend_from_slice(&count(windows.len()));
    out.extend_from_slice(&count(rejects.len()));
    out.extend_from_slice(&count(types.len()));
    let start = out.len();
    out.resize(start + windows.len() * WINDOW_BYTES, 0);
    for (place, row) in out[start..].as_chunks_mut::<WINDOW_BYTES>().0.iter_mut().zip(windows) {
        put_window(row, place);
    }
    for row in rejects {
        out.extend_from_slice(&row.series.unwrap_or_default().0.to_le_bytes());
        out.extend_from_slice(&[u8::from(row.series.is_some()), row.reason as u8]);
        out.extend_from_slice(&row.count.to_le_bytes());
        out.extend_from_slice(&row.first_at_ms.to_le_bytes());
        out.extend_from_slice(&row.last_at_ms.to_le_bytes());
    }
    for (series, kind) in types {
        out.extend_from_slice(&series.0.to_le_bytes());
        out.push(*kind as u8);
    }
}

fn put_window(row: &WindowStats, place: &mut [u8; WINDOW_BYTES]) {
    let float = |value: f64| if value.is_nan() { NAN_BITS } else { value.to_bits() }.to_le_bytes();
    place[..8].copy_from_slice(&row.series.0.to_le_bytes());
    place[8..16].copy_from_slice(&row.window_ms.to_le_bytes());
    place[16..24].copy_from_slice(&row.at_ms.to_le_bytes());
    place[24..28].copy_from_slice(&row.revision.to_le_bytes());
    place[28..32].copy_from_slice(&row.count.to_le_bytes());
    place[32..36].copy_from_slice(&row.span_ms.to_le_bytes());
    place[36..44].copy_from_slice(&float(row.min));
    place[44..52].copy_from_slice(&float(row.max));
    place[52..60].copy_from_slice(&float(row.avg));
    place[60..68].copy_from_slice(&float(row.std));
    place[68..76].copy_from_slice(&float(row.first));
    place[76..84].copy_from_slice(&float(row.last));
    place[84..92].copy_from_slice(&float(row.increase));
    place[92] = u8::from(row.partial);
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
    /// Whether the epoch begins with it; not known before version 4, when no epoch went over the end of a segment.
    pub(super) first: Option<bool>,
    windows: usize,
    window_bytes: usize,
    rejects: usize,
    types: usize,
}

/// The header of a record and the bytes of its rows, which are as many as it says.
pub(super) fn header(kind: u8, payload: &[u8]) -> Result<(RecordHeader, &[u8]), OutboxError> {
    let malformed = |why: String| OutboxError::Malformed { why };
    if kind != KIND_BATCH {
        return Err(OutboxError::UnknownKind { kind });
    }
    let Some((header, rows)) = payload.split_first_chunk::<HEADER_BYTES>() else {
        return Err(malformed(format!(
            "{} bytes are shorter than a header of {HEADER_BYTES}",
            payload.len()
        )));
    };
    if !(1..=VERSION).contains(&header[0]) {
        return Err(malformed(format!("its version is {}; this program reads 1 to {VERSION}", header[0])));
    }
    let ends_max = if header[0] < 4 { LAST } else { LAST | FIRST };
    if header[1] > ends_max {
        return Err(malformed(format!(
            "the flags for the ends of an epoch are {}; they must be 0 to {ends_max}",
            header[1]
        )));
    }
    let windows = u32::from_le_bytes(array(&header[10..])) as usize;
    let rejects = u32::from_le_bytes(array(&header[14..])) as usize;
    let (types, rows) = match (header[0], rows.split_first_chunk::<TYPES_BYTES>()) {
        (1, _) => (0, rows),
        (_, Some((types, rows))) => (u32::from_le_bytes(*types) as usize, rows),
        (_, None) => return Err(malformed("the number of types is missing".to_owned())),
    };
    let window_bytes = if header[0] < 3 { FULL_WINDOW_BYTES } else { WINDOW_BYTES };
    // Numbers of 32 bits times less than a hundred: 64 bits hold the sum.
    let sized = [(windows, window_bytes), (rejects, REJECT_BYTES), (types, TYPE_BYTES)];
    if sized.iter().map(|(rows, bytes)| *rows as u64 * *bytes as u64).sum::<u64>() != rows.len() as u64 {
        return Err(malformed(format!(
            "{windows} windows, {rejects} rejects and {types} types do not fill {} bytes exactly",
            rows.len()
        )));
    }
    let epoch = u64::from_le_bytes(array(&header[2..]));
    let first = (header[0] >= 4).then_some(header[1] & FIRST != 0);
    Ok((
        RecordHeader { epoch, last: header[1] & LAST != 0, first, windows, window_bytes, rejects, types },
        rows,
    ))
}

/// Appends a record's rows to `batch`; whether the epoch ends with it.
pub(super) fn decode_part(kind: u8, payload: &[u8], batch: &mut OutboxBatch) -> Result<bool, OutboxError> {
    let (header, rows) = header(kind, payload)?;
    let (windows, rows) = rows.split_at(header.windows * header.window_bytes);
    let (rejects, types) = rows.split_at(header.rejects * REJECT_BYTES);
    batch.epoch = header.epoch;
    batch.windows.reserve(header.windows);
    for row in windows.chunks_exact(header.window_bytes) {
        batch.windows.push(decode_window(row)?);
    }
    batch.rejects.reserve(header.rejects);
    for row in rejects.as_chunks::<REJECT_BYTES>().0 {
        batch.rejects.push(get_reject(row)?);
    }
    batch.types.reserve(header.types);
    for row in types.as_chunks::<TYPE_BYTES>().0 {
        let kind = MetricType::from_code(row[8]).ok_or_else(|| OutboxError::Malformed {
            why: format!("there is no type of metrics {}", row[8]),
        })?;
        batch.types.push((SeriesId(u64::from_le_bytes(array(row))), kind));
    }
    Ok(header.last)
}

/// Appends those windows of a record whose series is wanted; the epoch, and whether it ends with the record.
pub(super) fn decode_windows(
    kind: u8,
    payload: &[u8],
    mut wanted: impl FnMut(SeriesId) -> bool,
    found: &mut Vec<WindowStats>,
) -> Result<(u64, bool), OutboxError> {
    let (header, rows) = header(kind, payload)?;
    for row in rows[..header.windows * header.window_bytes].chunks_exact(header.window_bytes) {
        if wanted(SeriesId(u64::from_le_bytes(array(row)))) {
            found.push(decode_window(row)?);
        }
    }
    Ok((header.epoch, header.last))
}

/// A window of any version.
fn decode_window(row: &[u8]) -> Result<WindowStats, OutboxError> {
    let (row, partial) = row.split_first_chunk::<FULL_WINDOW_BYTES>().expect("the length was checked");
    let partial = match partial {
        [] | [0] => false,
        [1] => true,
        other => {
            let why = format!("the flag for a partial window is {}; it must be 0 or 1", other[0]);
            return Err(OutboxError::Malformed { why });
        }
    };
    Ok(WindowStats { partial, ..get_window(row) })
}

fn get_window(row: &[u8; FULL_WINDOW_BYTES]) -> WindowStats {
    let float = |at: usize| f64::from_bits(u64::from_le_bytes(array(&row[at..])));
    WindowStats {
        series: SeriesId(u64::from_le_bytes(array(row))),
        window_ms: i64::from_le_bytes(array(&row[8..])),
        at_ms: i64::from_le_bytes(array(&row[16..])),
        revision: u32::from_le_bytes(array(&row[24..])),
        count: u32::from_le_bytes(array(&row[28..])),
        span_ms: u32::from_le_bytes(array(&row[32..])),
        min: float(36),
        max: float(44),
        avg: float(52),
        std: float(60),
        first: float(68),
        last: float(76),
        increase: float(84),
        partial: false,
    }
}

fn get_reject(row: &[u8; REJECT_BYTES]) -> Result<Reject, OutboxError> {
    let malformed = |why: String| OutboxError::Malformed { why };
    let series = SeriesId(u64::from_le_bytes(array(row)));
    let series = match row[8] {
        0 => None,
        1 => Some(series),
        other => {
            return Err(malformed(format!("the flag for a reject's series is {other}; it must be 0 or 1")));
        }
    };
    let reason = Reason::from_code(row[9])
        .ok_or_else(|| malformed(format!("there is no reject reason {}", row[9])))?;
    Ok(Reject {
        series,
        reason,
        count: u64::from_le_bytes(array(&row[10..])),
        first_at_ms: i64::from_le_bytes(array(&row[18..])),
        last_at_ms: i64::from_le_bytes(array(&row[26..])),
    })
}

/// The first `N` bytes; callers have checked that they are there.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("the length was checked")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

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
            increase: float(),
            partial: rng.bool(),
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

    fn kind(rng: &mut fastrand::Rng) -> MetricType {
        if rng.bool() { MetricType::Counter } else { MetricType::Gauge }
    }

    /// OutboxRows of any bits; as many types as rejects.
    pub fn outcomes(rng: &mut fastrand::Rng, windows: usize, rejects: usize) -> Rows {
        Rows {
            windows: (0..windows).map(|_| window(rng)).collect(),
            rejects: (0..rejects).map(|_| reject(rng)).collect(),
            types: (0..rejects).map(|_| (SeriesId(rng.u64(..)), kind(rng))).collect(),
            freed: vec![SeriesId(1)],
            ..Rows::default()
        }
    }

    /// All fields of a row as integers, each NaN as the one that is written.
    pub fn bits(row: &WindowStats) -> [u64; 14] {
        let float = |v: f64| if v.is_nan() { NAN_BITS } else { v.to_bits() };
        [
            row.series.0,
            row.window_ms as u64,
            row.at_ms as u64,
            row.revision.into(),
            row.count.into(),
            row.span_ms.into(),
            float(row.min),
            float(row.max),
            float(row.avg),
            float(row.std),
            float(row.first),
            float(row.last),
            float(row.increase),
            row.partial.into(),
        ]
    }

    #[test]
    fn rows_come_back_bit_for_bit() {
        let mut rng = fastrand::Rng::with_seed(3);
        for (windows, rejects) in [(0, 0), (1, 0), (0, 1), (100, 7), (1_000, 1_000)] {
            let outcomes = outcomes(&mut rng, windows, rejects);
            let mut bytes = vec![];
            encode(u64::MAX - 1, &outcomes, &mut bytes);
            let back = decode(&bytes).unwrap();
            assert_eq!(back.epoch, u64::MAX - 1);
            assert!(back.windows.iter().map(bits).eq(outcomes.windows.iter().map(bits)));
            assert_eq!((&back.rejects, &back.types), (&outcomes.rejects, &outcomes.types));
            for row in &back.windows {
                let nan = |v: f64| !v.is_nan() || v.to_bits() == NAN_BITS;
                assert!([row.min, row.avg, row.std, row.last, row.increase].into_iter().all(nan));
            }
            // Encoding what was decoded gives the same bytes.
            let mut again = vec![];
            let rows = OutboxRows { windows: &back.windows, rejects: &back.rejects, types: &back.types };
            encode_part(back.epoch, Ends { first: true, last: true }, rows, &mut again);
            assert_eq!(again, bytes);
        }
    }

    #[test]
    fn records_of_older_versions_which_know_no_types_or_partial_windows_are_read() {
        let mut rng = fastrand::Rng::with_seed(5);
        let mut outcomes = Rows { types: Vec::new(), ..outcomes(&mut rng, 3, 2) };
        outcomes.windows.iter_mut().for_each(|row| row.partial = false);
        let mut bytes = vec![];
        encode(7, &outcomes, &mut bytes);
        let batch = decode(&bytes).unwrap();
        // Before version 4 nothing said where an epoch begins.
        bytes[1] = LAST;
        bytes[0] = 3;
        assert_eq!(header(KIND_BATCH, &bytes).unwrap().0.first, None);
        assert!(decode(&bytes).unwrap().windows.iter().map(bits).eq(batch.windows.iter().map(bits)));
        let mut flags = 0;
        for i in (0..3).rev() {
            flags += bytes.remove(HEADER_BYTES + TYPES_BYTES + i * WINDOW_BYTES + FULL_WINDOW_BYTES);
        }
        assert_eq!(flags, 0);
        for version in [2, 1] {
            bytes[0] = version;
            if version == 1 {
                bytes.drain(HEADER_BYTES..HEADER_BYTES + TYPES_BYTES);
            }
            let old = decode(&bytes).unwrap();
            assert_eq!((old.epoch, &old.rejects, old.types.len()), (7, &batch.rejects, 0));
            assert!(old.windows.iter().map(bits).eq(batch.windows.iter().map(bits)));
        }
        for version in [0, 3, 4, 5] {
            bytes[0] = version;
            assert!(decode(&bytes).is_err(), "version {version}");
        }
    }

    #[test]
    fn a_window_is_partial_or_not() {
        let mut rng = fastrand::Rng::with_seed(6);
        let mut bytes = vec![];
        encode(7, &outcomes(&mut rng, 1, 0), &mut bytes);
        bytes[HEADER_BYTES + TYPES_BYTES + FULL_WINDOW_BYTES] = 2;
        let error = decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("the flag for a partial window is 2; it must be 0 or 1"), "{error}");
    }

    #[test]
    fn what_stays_inside_is_not_written() {
        let mut outcomes = Rows { freed: vec![SeriesId(9)], ..Rows::default() };
        outcomes.counts.applied = 77;
        let (mut with, mut without) = (vec![], vec![]);
        encode(5, &outcomes, &mut with);
        encode(5, &Rows::default(), &mut without);
        assert_eq!(with, without);
    }

    #[test]
    fn no_bytes_make_decoding_panic() {
        let mut rng = fastrand::Rng::with_seed(4);
        let mut good = vec![];
        encode(8, &outcomes(&mut rng, 2, 2), &mut good);
        for length in 0..good.len() {
            assert!(decode(&good[..length]).is_err(), "the first {length} bytes");
        }
        for _ in 0..50_000 {
            let mut bytes = good.clone();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(bytes.len() - rng.usize(..3));
            if let Ok(batch) = decode(&bytes) {
                assert!(
                    batch.windows.len() * WINDOW_BYTES + batch.rejects.len() * REJECT_BYTES < bytes.len()
                );
            }
        }
    }
}
