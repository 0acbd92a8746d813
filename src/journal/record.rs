//! What the journal's records mean: kinds, and payloads as bytes. All numbers little-endian.
//!
//! ```text
//! kind 1  samples    n u32 | width u8 | lowest at i64 | n x (at - lowest at), width bytes each | n x series u64 | n x value bits u64
//! kind 2  epoch end  epoch u64 | stream_ms i64 | close_ms i64 | last_of_input u8
//! kind 3  settings   JSON
//! ```
//! Kinds 4 and up are free: aggregates, metric types, fills, objectives, quarantine, clock reset.
//! Columns are plain arrays so that both directions run at the speed of memory; values keep their bits. The width of
//! times is 0, 2, 4 or 8: samples of one scrape share their time, those of one request are seconds apart.

use tidewatch_dataflows::sample::{EpochEnd, Samples};
use tidewatch_dataflows::settings::Settings;

use super::JournalError;

/// Kind byte of [`Record::Samples`].
pub const KIND_SAMPLES: u8 = 1;
/// Kind byte of [`Record::EpochEnd`].
pub const KIND_EPOCH_END: u8 = 2;
/// Kind byte of [`Record::Settings`].
pub const KIND_SETTINGS: u8 = 3;

/// Most samples the writer puts into one record.
pub const RECORD_SAMPLES_MAX: usize = 4_096;

const SAMPLES_HEADER: usize = 4 + 1 + 8;
const EPOCH_END_BYTES: usize = 8 + 8 + 8 + 1;

/// One record of the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Samples of the epoch that the next [`Record::EpochEnd`] ends.
    Samples(Samples),
    /// The end of an epoch.
    EpochEnd(EpochEnd),
    /// What the samples from here on are computed under.
    Settings(Settings),
}

/// Appends the payload of a samples record.
pub fn encode_samples(samples: &Samples, out: &mut Vec<u8>) {
    encode_columns(&samples.series, &samples.at_ms, &samples.value, out);
}

/// [`encode_samples`] for columns of one length.
///
/// # Panics
/// If the columns differ in length or have more than `u32::MAX` samples.
pub(super) fn encode_columns(series: &[u64], at_ms: &[i64], value: &[f64], out: &mut Vec<u8>) {
    assert!(
        series.len() == at_ms.len() && at_ms.len() == value.len(),
        "columns of one batch have one length"
    );
    let n = u32::try_from(series.len()).expect("queues bound a batch far below the highest u32");
    let lowest = at_ms.iter().copied().min().unwrap_or(0);
    let span = at_ms.iter().copied().max().unwrap_or(0).abs_diff(lowest);
    let width = match span {
        0 => 0,
        1..=0xFFFF => 2,
        0x1_0000..=0xFFFF_FFFF => 4,
        _ => 8,
    };
    out.extend_from_slice(&n.to_le_bytes());
    out.push(width);
    out.extend_from_slice(&lowest.to_le_bytes());
    match width {
        0 => {}
        2 => put_column(out, at_ms, |at| ((at - lowest) as u16).to_le_bytes()),
        4 => put_column(out, at_ms, |at| ((at - lowest) as u32).to_le_bytes()),
        _ => put_column(out, at_ms, |at| at.wrapping_sub(lowest).to_le_bytes()),
    }
    put_column(out, series, u64::to_le_bytes);
    put_column(out, value, |value| value.to_bits().to_le_bytes());
}

/// Room first, then one loop without checks for room.
fn put_column<T: Copy, const N: usize>(out: &mut Vec<u8>, column: &[T], bytes: impl Fn(T) -> [u8; N]) {
    let start = out.len();
    out.resize(start + column.len() * N, 0);
    for (place, item) in out[start..].as_chunks_mut::<N>().0.iter_mut().zip(column) {
        *place = bytes(*item);
    }
}

/// Appends the payload of an epoch-end record.
pub fn encode_epoch_end(end: &EpochEnd, out: &mut Vec<u8>) {
    out.extend_from_slice(&end.epoch.to_le_bytes());
    out.extend_from_slice(&end.stream_ms.to_le_bytes());
    out.extend_from_slice(&end.close_ms.to_le_bytes());
    out.push(u8::from(end.last_of_input));
}

/// Appends the payload of a settings record.
pub fn encode_settings(settings: &Settings, out: &mut Vec<u8>) {
    serde_json::to_writer(out, settings).expect("plain numbers into memory can always be written as JSON");
}

/// The record of this kind and payload. No bytes make it panic or reserve more than the payload's own size.
///
/// # Errors
/// An unknown kind, or a payload that is not of its kind.
pub fn decode(kind: u8, payload: &[u8]) -> Result<Record, JournalError> {
    let malformed = |why: String| JournalError::Malformed { kind, why };
    match kind {
        KIND_SAMPLES => decode_samples(payload).map(Record::Samples).map_err(malformed),
        KIND_EPOCH_END => decode_epoch_end(payload).map(Record::EpochEnd).map_err(malformed),
        KIND_SETTINGS => {
            serde_json::from_slice(payload).map(Record::Settings).map_err(|e| malformed(e.to_string()))
        }
        _ => Err(JournalError::UnknownKind { kind }),
    }
}

fn decode_samples(payload: &[u8]) -> Result<Samples, String> {
    let Some((header, columns)) = payload.split_at_checked(SAMPLES_HEADER) else {
        return Err(format!("{} bytes are shorter than a header of {SAMPLES_HEADER}", payload.len()));
    };
    let n = u32::from_le_bytes(array(header)) as usize;
    let lowest = i64::from_le_bytes(array(&header[5..]));
    let at_bytes = match header[4] {
        width @ (0 | 2 | 4 | 8) => usize::from(width),
        other => return Err(format!("the width of times is {other}; it must be 0, 2, 4 or 8")),
    };
    if Some(columns.len()) != n.checked_mul(at_bytes + 16) {
        return Err(format!("{n} samples do not fill {} bytes of columns exactly", columns.len()));
    }
    let (at, rest) = columns.split_at(n * at_bytes);
    let (series, value) = rest.split_at(n * 8);
    let at_ms = match at_bytes {
        0 => vec![lowest; n],
        2 => times(at.as_chunks().0, lowest, |b| i64::from(u16::from_le_bytes(b))),
        4 => times(at.as_chunks().0, lowest, |b| i64::from(u32::from_le_bytes(b))),
        _ => times(at.as_chunks().0, lowest, i64::from_le_bytes),
    };
    Ok(Samples {
        series: series.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect(),
        at_ms,
        value: value.as_chunks::<8>().0.iter().map(|b| f64::from_bits(u64::from_le_bytes(*b))).collect(),
    })
}

fn times<const N: usize>(column: &[[u8; N]], lowest: i64, offset: impl Fn([u8; N]) -> i64) -> Vec<i64> {
    column.iter().map(|bytes| lowest.wrapping_add(offset(*bytes))).collect()
}

fn decode_epoch_end(payload: &[u8]) -> Result<EpochEnd, String> {
    if payload.len() != EPOCH_END_BYTES {
        return Err(format!("{} bytes; an epoch end has {EPOCH_END_BYTES}", payload.len()));
    }
    let last_of_input = match payload[24] {
        0 => false,
        1 => true,
        other => return Err(format!("the flag for the end of an input is {other}; it must be 0 or 1")),
    };
    Ok(EpochEnd {
        epoch: u64::from_le_bytes(array(payload)),
        stream_ms: i64::from_le_bytes(array(&payload[8..])),
        close_ms: i64::from_le_bytes(array(&payload[16..])),
        last_of_input,
    })
}

/// The first `N` bytes; callers have checked that they are there.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("the length was checked")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(samples: &Samples) -> (Vec<u64>, Vec<i64>, Vec<u64>) {
        (samples.series.clone(), samples.at_ms.clone(), samples.value.iter().map(|v| v.to_bits()).collect())
    }

    #[test]
    fn samples_come_back_bit_for_bit() {
        let mut rng = fastrand::Rng::with_seed(7);
        for n in [0, 1, 2, 3, 255, RECORD_SAMPLES_MAX] {
            for spread in [1_000, 1 << 31, 1 << 32, i64::MAX] {
                let mut samples = Samples::with_capacity(n);
                for _ in 0..n {
                    samples.push(rng.u64(..), rng.i64(-spread..spread), f64::from_bits(rng.u64(..)));
                }
                let mut bytes = vec![];
                encode_samples(&samples, &mut bytes);
                let Record::Samples(back) = decode(KIND_SAMPLES, &bytes).unwrap() else {
                    panic!("another kind")
                };
                assert_eq!(bits(&back), bits(&samples), "{n} samples, spread {spread}");
            }
        }
        let mut edge = Samples::default();
        edge.push(1, i64::MIN, f64::from_bits(0x7ff0_0000_0000_0002));
        edge.push(2, i64::MAX, -0.0);
        let mut bytes = vec![];
        encode_samples(&edge, &mut bytes);
        let Record::Samples(back) = decode(KIND_SAMPLES, &bytes).unwrap() else { panic!("another kind") };
        assert_eq!(bits(&back), bits(&edge));
    }

    #[test]
    fn times_are_as_wide_as_they_must_be() {
        for (step_ms, width) in [(0, 0), (1, 2), (15_000, 4), (1 << 40, 8)] {
            let mut samples = Samples::default();
            (0..100).for_each(|i| samples.push(i, 1_700_000_000_000 - i as i64 * step_ms, 1.0));
            let mut bytes = vec![];
            encode_samples(&samples, &mut bytes);
            assert_eq!(bytes.len(), SAMPLES_HEADER + 100 * (width + 16), "{step_ms} ms apart");
            assert_eq!(decode(KIND_SAMPLES, &bytes).unwrap(), Record::Samples(samples));
        }
    }

    #[test]
    fn control_records_come_back() {
        let end = EpochEnd { epoch: u64::MAX, stream_ms: i64::MIN, close_ms: -1, last_of_input: true };
        let mut bytes = vec![];
        encode_epoch_end(&end, &mut bytes);
        assert_eq!(decode(KIND_EPOCH_END, &bytes).unwrap(), Record::EpochEnd(end));
        let settings = Settings { late_samples_max: 17, ..Settings::default() };
        bytes.clear();
        encode_settings(&settings, &mut bytes);
        assert_eq!(decode(KIND_SETTINGS, &bytes).unwrap(), Record::Settings(settings));
    }

    #[test]
    fn no_bytes_make_decoding_panic() {
        let mut rng = fastrand::Rng::with_seed(11);
        let mut samples = Samples::default();
        (0..9).for_each(|i| samples.push(i, i as i64, i as f64));
        let (mut batch, mut settings) = (vec![], vec![]);
        encode_samples(&samples, &mut batch);
        encode_settings(&Settings::default(), &mut settings);
        for kind in 0..=8 {
            for _ in 0..20_000 {
                let mut bytes: Vec<u8> = match rng.u8(..3) {
                    0 => (0..rng.usize(..64)).map(|_| rng.u8(..)).collect(),
                    1 => batch.clone(),
                    _ => settings.clone(),
                };
                if !bytes.is_empty() {
                    let at = rng.usize(..bytes.len());
                    bytes[at] = rng.u8(..);
                    bytes.truncate(rng.usize(..=bytes.len()));
                }
                let decoded = decode(kind, &bytes);
                if kind == 0 || kind > 3 {
                    assert!(matches!(decoded, Err(JournalError::UnknownKind { .. })));
                }
                if let Ok(Record::Samples(s)) = decoded {
                    assert!(
                        s.at_ms.len() == s.len() && s.value.len() == s.len() && s.len() * 16 <= bytes.len()
                    );
                }
            }
        }
        for length in 0..batch.len() {
            assert!(decode(KIND_SAMPLES, &batch[..length]).is_err(), "{length} of {} bytes", batch.len());
        }
        let huge = [u32::MAX.to_le_bytes().as_slice(), &[1; 9]].concat();
        assert!(decode(KIND_SAMPLES, &huge).is_err());
    }
}
