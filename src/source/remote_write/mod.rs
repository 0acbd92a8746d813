//! The format of Prometheus remote write 1.0: a decompressed `prometheus.WriteRequest` → samples.
//!
//! ```text
//! WriteRequest { timeseries = 1, metadata = 3 }  MetricMetadata { type = 1, metric_family_name = 2, help = 4, unit = 5 }
//! TimeSeries   { labels = 1, samples = 2, exemplars = 3, histograms = 4 (`histogram`) }
//! Label        { name = 1, value = 2 }          Sample { value = 1 (fixed64), timestamp = 2 (ms) }
//! ```
//!
//! The body is walked twice. The first walk checks everything and resolves warm series: the contiguous span of a
//! series' encoded labels is looked up as it stands, so a known series costs one hash and no allocation. The second
//! visits only series that were not found and interns them. So a body that turns out undecodable at its last byte has
//! changed nothing: no sample was given out, no label was interned.
//!
//! Not here: transport and compression (`receive`), and what is computed from the samples.

use std::ops::Range;

use tidewatch_dataflows::sample::{MetricType, Samples};

use crate::labels::{FAMILIES_MAX, Labels, NAME, TypeFamily};
use crate::source::histogram::{self, CountAndSum};
pub use crate::source::protobuf::DecodeError;
use crate::source::protobuf::FieldCursor;
use crate::source::validate::{self, EventTimeBounds, Refusals};

/// The name of the source in metrics.
pub const SOURCE: &str = "remote_write";

/// Labels of a series, those without a value included, that are looked at, in multiples of `limits.labels`.
pub(super) const LABELS_GATHERED: usize = 16;

/// What a body held. `received` is always the samples given out plus `refusals.total()`, where a native histogram is
/// one, though two samples are given out for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecodedBody {
    /// Samples and native histograms that arrived.
    pub received: u64,
    /// Native histograms that passed the gate.
    pub histograms: u64,
    /// Exemplars, and metadata that says no type: nothing uses them.
    pub ignored: u64,
    /// Types of series that the journal does not hold, to be written with the samples.
    pub types: Vec<(u64, MetricType)>,
    /// What did not pass the gate; everything else of the request stands.
    pub refusals: Refusals,
}

/// A series whose encoded labels were not known: where they are and which samples wait for it.
struct UnknownSeries1 {
    labels: LabelsSpan,
    samples: Range<usize>,
    /// Whether the samples are those of native histograms: for two series, derived from this one.
    derived: bool,
}

/// Encoded labels of one series.
#[derive(Clone)]
enum LabelsSpan {
    /// As they stand in the body.
    Body(Range<usize>),
    /// Gathered, because the sender put other fields between them.
    Gathered(Box<[u8]>),
}

impl LabelsSpan {
    fn bytes<'a>(&'a self, body: &'a [u8]) -> &'a [u8] {
        match self {
            LabelsSpan::Body(range) => &body[range.clone()],
            LabelsSpan::Gathered(bytes) => bytes,
        }
    }
}

/// Appends the samples of `body` that pass the gate to `out`, in the order of the body.
///
/// `epoch` marks the last use of the series. Warm series cost no allocation beyond the growth of `out`.
///
/// # Errors
/// If the body is not a write request; then neither `out` nor `labels` has changed.
pub fn decode(
    body: &[u8],
    labels: &Labels,
    bounds: EventTimeBounds,
    epoch: u64,
    out: &mut Samples,
) -> Result<DecodedBody, DecodeError> {
    let start = out.len();
    let mut walk = Walk1 {
        body,
        labels,
        bounds,
        epoch,
        out,
        histograms: Vec::new(),
        key: Vec::new(),
        families: Vec::new(),
        misses: Vec::new(),
        decoded: DecodedBody::default(),
    };
    match walk.request() {
        Ok(()) => {
            let mut misses = std::mem::take(&mut walk.misses);
            walk.intern(&mut misses);
            let heard = labels.observe_families(&walk.families, epoch);
            walk.decoded.types.extend(heard);
            Ok(walk.decoded)
        }
        Err(undecodable) => {
            truncate(out, start);
            Err(undecodable)
        }
    }
}

struct Walk1<'a> {
    body: &'a [u8],
    labels: &'a Labels,
    bounds: EventTimeBounds,
    epoch: u64,
    out: &'a mut Samples,
    /// The good histograms of the series being read.
    histograms: Vec<CountAndSum>,
    /// A buffer for the look-up keys of derived series.
    key: Vec<u8>,
    families: Vec<(&'a str, TypeFamily)>,
    misses: Vec<UnknownSeries1>,
    decoded: DecodedBody,
}

impl<'a> Walk1<'a> {
    fn request(&mut self) -> Result<(), DecodeError> {
        let mut fields = FieldCursor::new(self.body);
        while let Some(field) = fields.field()? {
            match field.number {
                1 => self.series(field.message()?)?,
                3 => self.metadata(field.message()?)?,
                4 | 5 => {
                    let what = "a field of remote write 2.0 in a request declared as 1.0; \
                                set the Content-Type's proto parameter or protobuf_message to prometheus.WriteRequest";
                    return Err(DecodeError { at: field.at, what });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads the type of a metric family.
    #[cold]
    fn metadata(&mut self, mut fields: FieldCursor<'a>) -> Result<(), DecodeError> {
        let (mut family, mut name) = (None, &b""[..]);
        while let Some(field) = fields.field()? {
            match field.number {
                1 => family = TypeFamily::from_code(field.int64()?),
                2 => name = field.bytes()?,
                _ => {}
            }
        }
        match (family, str::from_utf8(name)) {
            (Some(family), Ok(name)) if !name.is_empty() => {
                if self.families.len() < FAMILIES_MAX {
                    self.families.push((name, family));
                } else {
                    self.labels.family_beyond();
                }
            }
            // A series is found by text alone, so a name that is none names no series.
            _ => self.decoded.ignored += 1,
        }
        Ok(())
    }

    /// Checks one series, resolves it if it is known, and notes it as missing if not.
    fn series(&mut self, mut fields: FieldCursor) -> Result<(), DecodeError> {
        let first = self.out.len();
        let mut span = fields.at()..fields.at();
        let mut gathered: Option<Vec<u8>> = None;
        while let Some(field) = fields.field()? {
            match field.number {
                1 => {
                    field.message()?;
                    let this = field.at..fields.at();
                    match &mut gathered {
                        Some(bytes) => bytes.extend_from_slice(&self.body[this]),
                        None if span.is_empty() => span = this,
                        None if span.end == this.start => span.end = this.end,
                        None => {
                            let bytes = gathered.insert(self.body[span.clone()].to_vec());
                            bytes.extend_from_slice(&self.body[this]);
                        }
                    }
                }
                2 => self.sample(field.message()?)?,
                3 => {
                    field.message()?.skim()?;
                    self.decoded.ignored += 1;
                }
                4 => self.histogram(field.message()?)?,
                _ => {}
            }
        }
        let bytes = gathered.as_deref().unwrap_or(&self.body[span.clone()]);
        let samples = first..self.out.at_ms.len();
        if !samples.is_empty()
            && self.histograms.is_empty()
            && let Some(id) = self.labels.find(bytes, self.epoch)
        {
            self.out.series.resize(samples.end, id.0);
            return Ok(());
        }
        self.rest_of_series(span, gathered, samples)
    }

    /// The end of a series that is not known, or has histograms.
    #[cold]
    fn rest_of_series(
        &mut self,
        span: Range<usize>,
        gathered: Option<Vec<u8>>,
        samples: Range<usize>,
    ) -> Result<(), DecodeError> {
        let bytes = gathered.as_deref().unwrap_or(&self.body[span.clone()]);
        let id = if samples.is_empty() { None } else { self.labels.find(bytes, self.epoch) };
        self.out.series.resize(samples.end, id.map_or(0, |id| id.0));
        let derived = self.derive(bytes);
        let missing =
            (!samples.is_empty() && id.is_none(), derived.as_ref().is_some_and(|(_, found)| !found));
        if missing == (false, false) && (id.is_some() || derived.is_some()) {
            return Ok(());
        }
        read_labels(bytes, span.start, &mut |_, _| {})?;
        let labels = gathered.map_or(LabelsSpan::Body(span), |bytes| LabelsSpan::Gathered(bytes.into()));
        if missing.0 {
            self.misses.push(UnknownSeries1 { labels: labels.clone(), samples, derived: false });
        }
        if let (true, Some((samples, _))) = (missing.1, derived) {
            self.misses.push(UnknownSeries1 { labels, samples, derived: true });
        }
        Ok(())
    }

    /// Writes the samples of the series' histograms, if there are any: where, and whether their series are known.
    fn derive(&mut self, bytes: &[u8]) -> Option<(Range<usize>, bool)> {
        if self.histograms.is_empty() {
            return None;
        }
        let range = histogram::put(&self.histograms, self.out);
        self.histograms.clear();
        let found = histogram::find(self.labels, bytes, &mut self.key, self.epoch);
        histogram::name(&range, found.unwrap_or_default(), self.out);
        Some((range, found.is_some()))
    }

    /// Reads one native histogram; its samples are written when all of the series is read.
    #[cold]
    fn histogram(&mut self, fields: FieldCursor) -> Result<(), DecodeError> {
        self.decoded.received += 1;
        match histogram::read(fields)? {
            Ok(kept) if self.bounds.contain(kept.at_ms) => {
                self.decoded.histograms += 1;
                self.histograms.push(kept);
            }
            Ok(kept) => self.decoded.refusals.add_time(&self.bounds, kept.at_ms),
            Err(sentence) => self.decoded.refusals.add(validate::BAD_HISTOGRAM, 1, || sentence),
        }
        Ok(())
    }

    /// Reads one sample; its series is written when all of the series is read.
    #[inline]
    fn sample(&mut self, mut fields: FieldCursor) -> Result<(), DecodeError> {
        let (mut bits, mut at_ms) = (0_u64, 0_i64);
        while let Some(field) = fields.field()? {
            match field.number {
                1 => bits = field.fixed64()?,
                2 => at_ms = field.int64()?,
                _ => {}
            }
        }
        self.decoded.received += 1;
        if self.bounds.contain(at_ms) {
            self.out.at_ms.push(at_ms);
            self.out.value.push(f64::from_bits(bits));
        } else {
            self.decoded.refusals.add_time(&self.bounds, at_ms);
        }
        Ok(())
    }

    /// Gives the missing series an identity, or takes their samples out again.
    fn intern(&mut self, misses: &mut Vec<UnknownSeries1>) {
        misses.retain(|miss| {
            let bytes = miss.labels.bytes(self.body);
            let named = if miss.derived {
                intern_derived(bytes, self.labels, &mut self.key, self.epoch).map(|series| {
                    histogram::name(&miss.samples, series, self.out);
                    series.into_iter().for_each(|series| self.record_type(series));
                })
            } else {
                intern(bytes, self.labels, self.epoch).map(|series| {
                    self.out.series[miss.samples.clone()].fill(series);
                    self.record_type(series);
                })
            };
            let Err((reason, sentence)) = named else { return false };
            let mut count = miss.samples.len() as u64;
            if miss.derived {
                count /= 2;
                self.decoded.histograms -= count;
            }
            self.decoded.refusals.add(reason, count, || sentence);
            true
        });
        remove(self.out, misses.iter().map(|miss| &miss.samples));
    }

    /// Notes the type of a series that was not met before, if its family's is known.
    fn record_type(&mut self, series: u64) {
        self.decoded
            .types
            .extend(self.labels.unrecorded_type(series, None, self.epoch).map(|kind| (series, kind)));
    }
}

/// Gives one series an identity by its encoded labels, or says why not.
fn intern(encoded: &[u8], labels: &Labels, epoch: u64) -> Result<u64, validate::SeriesRefusal> {
    // The same new series may have come earlier in this request, or in another one meanwhile.
    match labels.find(encoded, epoch) {
        Some(series) => Ok(series.0),
        None => validate::intern(labels, &mut gather(encoded, labels)?, encoded, epoch),
    }
}

/// [`intern`] for the series that are derived from a native histogram.
fn intern_derived(
    encoded: &[u8],
    labels: &Labels,
    key: &mut Vec<u8>,
    epoch: u64,
) -> Result<[u64; 2], validate::SeriesRefusal> {
    match histogram::find(labels, encoded, key, epoch) {
        Some(series) => Ok(series),
        None => histogram::intern(labels, &gather(encoded, labels)?, encoded, key, epoch),
    }
}

/// The encoded labels of one series as texts, or why they are too many, or none.
fn gather<'a>(
    encoded: &'a [u8],
    labels: &Labels,
) -> Result<Vec<(&'a str, &'a str)>, validate::SeriesRefusal> {
    // Two bytes make a label, so a body may hold millions: few enough to judge are gathered, the rest counted.
    let (mut pairs, mut count, max) = (Vec::new(), 0, labels.limits().labels);
    let (mut metric, mut bad) = (&b""[..], None);
    read_labels(encoded, 0, &mut |name, value| {
        count += 1;
        if count > LABELS_GATHERED * max {
            return;
        }
        if name == NAME.as_bytes() {
            metric = value;
        }
        match (str::from_utf8(name), str::from_utf8(value)) {
            (Ok(name), Ok(value)) => pairs.push((name, value)),
            _ => bad = bad.or(Some((name, value))),
        }
    })
    .expect("the first walk has read these labels already");
    if count > LABELS_GATHERED * max {
        let name = pairs.iter().find(|(name, _)| *name == NAME).map_or("", |(_, value)| value);
        let refused = labels.too_many(name, count);
        return Err((refused.reason(), refused.to_string()));
    }
    match bad {
        Some((name, value)) => Err(validate::not_utf8(metric, name, value)),
        None => Ok(pairs),
    }
}

/// Reads encoded labels that begin at offset `base` of the body, and gives the bytes of each pair to `visit`.
fn read_labels<'a>(
    encoded: &'a [u8],
    base: usize,
    visit: &mut dyn FnMut(&'a [u8], &'a [u8]),
) -> Result<(), DecodeError> {
    let rebase = |error: DecodeError| DecodeError { at: error.at + base, ..error };
    let mut fields = FieldCursor::new(encoded);
    while let Some(field) = fields.field().map_err(rebase)? {
        let mut parts = field.message().map_err(rebase)?;
        let (mut name, mut value) = (&b""[..], &b""[..]);
        while let Some(part) = parts.field().map_err(rebase)? {
            match part.number {
                1 => name = part.text().map_err(rebase)?,
                2 => value = part.text().map_err(rebase)?,
                _ => {}
            }
        }
        visit(name, value);
    }
    Ok(())
}

/// Takes the samples in `ranges`, which rise, out of `out`.
pub(super) fn remove<'a>(out: &mut Samples, ranges: impl Iterator<Item = &'a Range<usize>>) {
    let mut ranges = ranges.peekable();
    let Some(mut to) = ranges.peek().map(|first| first.start) else { return };
    while let Some(range) = ranges.next() {
        let keep = range.end..ranges.peek().map_or(out.len(), |next| next.start);
        out.series.copy_within(keep.clone(), to);
        out.at_ms.copy_within(keep.clone(), to);
        out.value.copy_within(keep.clone(), to);
        to += keep.len();
    }
    truncate(out, to);
}

pub(super) fn truncate(out: &mut Samples, len: usize) {
    out.series.truncate(len);
    out.at_ms.truncate(len);
    out.value.truncate(len);
}

#[cfg(test)]
#[allow(dead_code, reason = "each who encodes needs another part of it")]
#[path = "../../../tests/support/protobuf.rs"]
pub(crate) mod wire;

#[cfg(test)]
mod tests;
