//! What the journal's records mean: kinds, and payloads as bytes. All numbers little-endian.
//!
//! ```text
//! kind 1  samples    n u32 | width u8 | lowest at i64 | n x (at - lowest at), width bytes each | n x series u64 | n x value bits u64
//! kind 2  epoch end  epoch u64 | processing_ms i64 | watermark_ms i64 | last_of_input u8
//! kind 3  settings   JSON
//! kind 4  bootstrap samples   bootstrap u64 | as kind 1
//! kind 5  bootstrap begin     JSON
//! kind 6  bootstrap end       bootstrap u64
//! kind 7  types      n x (series u64 | type u8)
//! kind 8  bootstraps      JSON: which bootstraps are open, what was bootstrapped, what is quarantined; heads every segment as the settings do
//! kind 9  quarantine   series u64 | epoch u64
//! kind 10 synced     segment u64 | offset u64: the log was durable up to there before this was written; no [`Record`]
//! kind 11 lift         series u64
//! kind 12 clock reset  to_ms i64: an epoch end without samples follows at once
//! kind 13 named types  as kind 7: what series are by their names
//! kind 14 options      length of JSON u16 | JSON: what is set | n x series u64
//! ```
//! Kinds 15 and up are free: aggregates, objectives.
//! Columns are plain arrays so that both directions run at the speed of memory; values keep their bits. The width of
//! times is 0, 2, 4 or 8: samples of one scrape share their time, those of one request are seconds apart.

use serde::{Deserialize, Serialize};
use tidewatch_dataflows::sample::{Bootstrap, Control, EpochEnd, MetricType, Samples};
use tidewatch_dataflows::settings::{SeriesOptions, Settings};

use super::JournalError;

/// Kind byte of [`Record::Samples`].
pub const KIND_SAMPLES: u8 = 1;
/// Kind byte of [`Record::EpochEnd`].
pub const KIND_EPOCH_END: u8 = 2;
/// Kind byte of [`Record::Settings`].
pub const KIND_SETTINGS: u8 = 3;
/// Kind byte of [`Record::Samples`] of a bootstrap.
pub const KIND_BOOTSTRAP_SAMPLES: u8 = 4;
/// Kind byte of [`Control::BootstrapBegin`].
pub const KIND_BOOTSTRAP_BEGIN: u8 = 5;
/// Kind byte of [`Control::BootstrapEnd`].
pub const KIND_BOOTSTRAP_END: u8 = 6;
/// Kind byte of [`Control::Types`].
pub const KIND_TYPES: u8 = 7;
/// Kind byte of [`Record::Bootstraps`].
pub const KIND_BOOTSTRAPS: u8 = 8;
/// Kind byte of [`Control::Quarantine`].
pub const KIND_QUARANTINE: u8 = 9;
/// Kind byte of [`Control::Lift`].
pub const KIND_LIFT: u8 = 11;
/// Kind byte of [`Control::ClockReset`].
pub const KIND_CLOCK_RESET: u8 = 12;
/// Kind byte of [`Control::NamedTypes`].
pub const KIND_NAMED_TYPES: u8 = 13;
/// Kind byte of [`Control::Options`].
pub const KIND_OPTIONS: u8 = 14;

/// Most samples the writer puts into one record.
pub const RECORD_SAMPLES_MAX: usize = 4_096;

/// Most series whose types, or options, are in one record.
pub const RECORD_TYPES_MAX: usize = 65_536;
/// Most sources whose finished bootstraps are remembered; then the oldest is forgotten.
const SOURCES_BOOTSTRAPPED_MAX: usize = 1_024;

const SAMPLES_HEADER: usize = 4 + 1 + 8;
const TYPE_BYTES: usize = 8 + 1;
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
    /// What changes results and is no sample.
    Control(Control),
    /// The state of bootstraps at the head of a segment, for whoever opens the journal; computes nothing.
    Bootstraps(BootstrapState),
}

/// Which bootstraps are going on, and whose are done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootstrapState {
    /// Begun and not ended.
    pub open: Vec<Bootstrap>,
    /// Sources of bootstraps that ended, oldest first.
    pub done: Vec<String>,
    /// Series that were quarantined, in the order in which that was written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<QuarantineEntry>,
}

/// A series that is kept out of the computation, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineEntry {
    /// The series.
    pub series: u64,
    /// The first epoch, or one before it.
    pub epoch: u64,
    /// A later record lets it in again.
    pub lifted: bool,
}

impl BootstrapState {
    /// Takes note of a bootstrap's begin or end.
    pub fn note(&mut self, control: &Control) {
        match control {
            Control::BootstrapBegin(bootstrap) if self.open.iter().all(|open| open.id != bootstrap.id) => {
                self.open.push(bootstrap.clone());
            }
            Control::BootstrapEnd { bootstrap } => {
                let ended = self.open.iter().position(|open| open.id == *bootstrap);
                let Some(ended) = ended.map(|at| self.open.remove(at)) else { return };
                self.done.retain(|source| *source != ended.source);
                self.done.push(ended.source);
                let excess = self.done.len().saturating_sub(SOURCES_BOOTSTRAPPED_MAX);
                self.done.drain(..excess);
            }
            Control::Quarantine { series, epoch } => {
                let mut held = self.quarantined.iter_mut();
                match held.find(|held| held.series == *series && !held.lifted) {
                    Some(held) => held.epoch = held.epoch.min(*epoch),
                    None => {
                        self.quarantined.push(QuarantineEntry {
                            series: *series,
                            epoch: *epoch,
                            lifted: false,
                        });
                    }
                }
            }
            Control::Lift { series } => {
                let held = self.quarantined.iter_mut().filter(|held| held.series == *series);
                held.for_each(|held| held.lifted = true);
            }
            Control::BootstrapBegin(_)
            | Control::Types(_)
            | Control::NamedTypes(_)
            | Control::Options { .. }
            | Control::Settings(_)
            | Control::ClockReset { .. } => {}
        }
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.done.is_empty() && self.quarantined.is_empty()
    }
}

/// Appends the payload of a samples record, whose kind is [`kind_of`] its bootstrap.
pub fn encode_samples(samples: &Samples, out: &mut Vec<u8>) {
    encode_columns(samples.bootstrap, &samples.series, &samples.at_ms, &samples.value, out);
}

/// The kind of samples of a bootstrap, or of live ones.
pub fn kind_of(bootstrap: u64) -> u8 {
    if bootstrap == 0 { KIND_SAMPLES } else { KIND_BOOTSTRAP_SAMPLES }
}

/// [`encode_samples`] for columns of one length.
///
/// # Panics
/// If the columns differ in length or have more than `u32::MAX` samples.
pub(super) fn encode_columns(
    bootstrap: u64,
    series: &[u64],
    at_ms: &[i64],
    value: &[f64],
    out: &mut Vec<u8>,
) {
    if bootstrap != 0 {
        out.extend_from_slice(&bootstrap.to_le_bytes());
    }
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
    out.extend_from_slice(&end.processing_ms.to_le_bytes());
    out.extend_from_slice(&end.watermark_ms.to_le_bytes());
    out.push(u8::from(end.last_of_input));
}

/// Appends the payload of a settings record.
pub fn encode_settings(settings: &Settings, out: &mut Vec<u8>) {
    serde_json::to_writer(out, settings).expect("plain numbers into memory can always be written as JSON");
}

fn encode_types(types: &[(u64, MetricType)], out: &mut Vec<u8>) {
    for (series, kind) in types {
        out.extend_from_slice(&series.to_le_bytes());
        out.push(*kind as u8);
    }
}

/// Appends the payload of a control record of at most [`RECORD_TYPES_MAX`] series, and gives its kind.
pub fn encode_control(control: &Control, out: &mut Vec<u8>) -> u8 {
    match control {
        Control::BootstrapBegin(bootstrap) => {
            serde_json::to_writer(out, bootstrap).expect("numbers and a text can always be written as JSON");
            KIND_BOOTSTRAP_BEGIN
        }
        Control::BootstrapEnd { bootstrap } => {
            out.extend_from_slice(&bootstrap.to_le_bytes());
            KIND_BOOTSTRAP_END
        }
        Control::Types(types) => {
            encode_types(types, out);
            KIND_TYPES
        }
        Control::NamedTypes(types) => {
            encode_types(types, out);
            KIND_NAMED_TYPES
        }
        Control::Options { options, series } => {
            let json = serde_json::to_vec(options).expect("numbers and words can always be written as JSON");
            let length = u16::try_from(json.len()).expect("options are a few words");
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&json);
            series.iter().for_each(|series| out.extend_from_slice(&series.to_le_bytes()));
            KIND_OPTIONS
        }
        Control::Settings(settings) => {
            encode_settings(settings, out);
            KIND_SETTINGS
        }
        Control::Quarantine { series, epoch } => {
            out.extend_from_slice(&series.to_le_bytes());
            out.extend_from_slice(&epoch.to_le_bytes());
            KIND_QUARANTINE
        }
        Control::Lift { series } => {
            out.extend_from_slice(&series.to_le_bytes());
            KIND_LIFT
        }
        Control::ClockReset { to_ms } => {
            out.extend_from_slice(&to_ms.to_le_bytes());
            KIND_CLOCK_RESET
        }
    }
}

/// Appends the payload of a record of the state of bootstraps.
pub fn encode_bootstraps(bootstraps: &BootstrapState, out: &mut Vec<u8>) {
    serde_json::to_writer(out, bootstraps).expect("numbers and texts can always be written as JSON");
}

/// The number of the epoch, if the record is the end of one.
pub(super) fn epoch_of(kind: u8, payload: &[u8]) -> Option<u64> {
    let whole = kind == KIND_EPOCH_END && payload.len() == EPOCH_END_BYTES;
    whole.then(|| u64::from_le_bytes(array(payload)))
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
            let settings: Settings = serde_json::from_slice(payload).map_err(|e| malformed(e.to_string()))?;
            // They are computed under: what no one would accept must not get there.
            settings.computable().map(Record::Settings).map_err(|e| malformed(e.to_string()))
        }
        KIND_BOOTSTRAP_SAMPLES => decode_bootstrap_samples(payload).map(Record::Samples).map_err(malformed),
        KIND_BOOTSTRAP_BEGIN => serde_json::from_slice(payload)
            .map(|bootstrap| Record::Control(Control::BootstrapBegin(bootstrap)))
            .map_err(|e| malformed(e.to_string())),
        KIND_BOOTSTRAP_END if payload.len() == 8 => {
            Ok(Record::Control(Control::BootstrapEnd { bootstrap: u64::from_le_bytes(array(payload)) }))
        }
        KIND_BOOTSTRAP_END => {
            Err(malformed(format!("{} bytes; the end of a bootstrap has 8", payload.len())))
        }
        KIND_TYPES => {
            decode_types(payload).map(|types| Record::Control(Control::Types(types))).map_err(malformed)
        }
        KIND_NAMED_TYPES => {
            decode_types(payload).map(|types| Record::Control(Control::NamedTypes(types))).map_err(malformed)
        }
        KIND_OPTIONS => decode_options(payload).map(Record::Control).map_err(malformed),
        KIND_QUARANTINE if payload.len() == 16 => {
            let (series, epoch) = payload.split_at(8);
            let (series, epoch) = (u64::from_le_bytes(array(series)), u64::from_le_bytes(array(epoch)));
            Ok(Record::Control(Control::Quarantine { series, epoch }))
        }
        KIND_QUARANTINE => Err(malformed(format!("{} bytes; a quarantine has 16", payload.len()))),
        KIND_LIFT if payload.len() == 8 => {
            Ok(Record::Control(Control::Lift { series: u64::from_le_bytes(array(payload)) }))
        }
        KIND_LIFT => Err(malformed(format!("{} bytes; the end of a quarantine has 8", payload.len()))),
        KIND_CLOCK_RESET if payload.len() == 8 => {
            Ok(Record::Control(Control::ClockReset { to_ms: i64::from_le_bytes(array(payload)) }))
        }
        KIND_CLOCK_RESET => Err(malformed(format!("{} bytes; a reset of the clock has 8", payload.len()))),
        KIND_BOOTSTRAPS => {
            serde_json::from_slice(payload).map(Record::Bootstraps).map_err(|e| malformed(e.to_string()))
        }
        _ => Err(JournalError::UnknownKind { kind }),
    }
}

fn decode_bootstrap_samples(payload: &[u8]) -> Result<Samples, String> {
    let Some((bootstrap, samples)) = payload.split_first_chunk::<8>() else {
        return Err(format!("{} bytes are shorter than the number of a bootstrap", payload.len()));
    };
    match u64::from_le_bytes(*bootstrap) {
        0 => Err("a bootstrap is never number 0".to_owned()),
        bootstrap => Ok(Samples { bootstrap, ..decode_samples(samples)? }),
    }
}

fn decode_types(payload: &[u8]) -> Result<Vec<(u64, MetricType)>, String> {
    let (types, rest) = payload.as_chunks::<TYPE_BYTES>();
    if !rest.is_empty() {
        return Err(format!("{} bytes are no whole number of types of {TYPE_BYTES}", payload.len()));
    }
    let one = |bytes: &[u8; TYPE_BYTES]| {
        let kind = MetricType::from_code(bytes[8]).ok_or_else(|| format!("there is no type {}", bytes[8]))?;
        Ok((u64::from_le_bytes(array(bytes)), kind))
    };
    types.iter().map(one).collect()
}

fn decode_options(payload: &[u8]) -> Result<Control, String> {
    let too_short = || format!("{} bytes are shorter than the options they name", payload.len());
    let (length, rest) = payload.split_first_chunk::<2>().ok_or_else(too_short)?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (json, series) = rest.split_at_checked(length).ok_or_else(too_short)?;
    let options: SeriesOptions = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let (series, odd) = series.as_chunks::<8>();
    if !odd.is_empty() || !options.is_computable() {
        return Err("options that nothing is computed with, or half of a series".to_owned());
    }
    let series = series.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    Ok(Control::Options { options, series })
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
        return Err(format!("{n} samples do not bootstrap {} bytes of columns exactly", columns.len()));
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
        bootstrap: 0,
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
        processing_ms: i64::from_le_bytes(array(&payload[8..])),
        watermark_ms: i64::from_le_bytes(array(&payload[16..])),
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
    use crate::segments::KIND_SYNCED;

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
        let end =
            EpochEnd { epoch: u64::MAX, processing_ms: i64::MIN, watermark_ms: -1, last_of_input: true };
        let mut bytes = vec![];
        encode_epoch_end(&end, &mut bytes);
        assert_eq!(decode(KIND_EPOCH_END, &bytes).unwrap(), Record::EpochEnd(end));
        let settings = Settings { late_samples_max: 17, ..Settings::default() };
        bytes.clear();
        encode_settings(&settings, &mut bytes);
        assert_eq!(decode(KIND_SETTINGS, &bytes).unwrap(), Record::Settings(settings));
        let bootstrap =
            Bootstrap { id: 7, source: "a \"b\"".to_owned(), from_ms: -1, publish_from_ms: i64::MAX };
        let types = Control::Types(vec![(u64::MAX, MetricType::Counter), (0, MetricType::Gauge)]);
        let options = SeriesOptions { period_ms: 3_600_000, ..SeriesOptions::default() };
        let quarantine = Control::Quarantine { series: 1, epoch: u64::MAX };
        let lift = Control::Lift { series: u64::MAX };
        for control in [
            Control::BootstrapBegin(bootstrap.clone()),
            Control::BootstrapEnd { bootstrap: 9 },
            types,
            quarantine,
            lift,
            Control::Options { options, series: vec![u64::MAX, 0] },
            Control::Options { options: SeriesOptions::default(), series: Vec::new() },
        ] {
            bytes.clear();
            let kind = encode_control(&control, &mut bytes);
            assert_eq!(decode(kind, &bytes).unwrap(), Record::Control(control));
        }
        let quarantined = vec![QuarantineEntry { series: 5, epoch: 6, lifted: true }];
        let bootstraps = BootstrapState { open: vec![bootstrap], done: vec!["c".to_owned()], quarantined };
        bytes.clear();
        encode_bootstraps(&bootstraps, &mut bytes);
        assert_eq!(decode(KIND_BOOTSTRAPS, &bytes).unwrap(), Record::Bootstraps(bootstraps));
        let mut samples = Samples::of_bootstrap(3);
        (0..9).for_each(|i| samples.push(i, i as i64, i as f64));
        bytes.clear();
        encode_samples(&samples, &mut bytes);
        assert_eq!(decode(kind_of(3), &bytes).unwrap(), Record::Samples(samples));
    }

    #[test]
    fn no_bytes_make_decoding_panic() {
        let mut rng = fastrand::Rng::with_seed(11);
        let mut samples = Samples::default();
        (0..9).for_each(|i| samples.push(i, i as i64, i as f64));
        let (mut batch, mut settings) = (vec![], vec![]);
        encode_samples(&samples, &mut batch);
        encode_settings(&Settings::default(), &mut settings);
        for kind in 0..=15 {
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
                if matches!(kind, 0 | KIND_SYNCED) || kind > KIND_OPTIONS {
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
