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
#[path = "../../tests/support/protobuf.rs"]
pub(crate) mod wire;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::labels::{Limits, series_id};
    use crate::metrics::Metrics;
    use crate::source::histogram::wire::Histogram;
    use crate::source::support::Folder;

    const NOW: i64 = 1_714_521_600_000;

    fn labels(folder: &Folder, limits: Limits) -> Labels {
        Labels::open(&folder.path, limits, Arc::new(Metrics::new())).unwrap()
    }

    fn take(body: &[u8], labels: &Labels) -> Result<(Samples, DecodedBody), DecodeError> {
        let mut out = Samples::default();
        let decoded = decode(body, labels, EventTimeBounds::at(NOW, false), 7, &mut out)?;
        let kept = out.len() as u64 - decoded.histograms;
        assert_eq!(decoded.received, kept + decoded.refusals.total());
        assert!(out.at_ms.len() == out.len() && out.value.len() == out.len());
        Ok((out, decoded))
    }

    /// A request of three series with labels, samples, an exemplar, and a metadata entry.
    fn request() -> Vec<u8> {
        let exemplar = wire::bytes(3, &wire::label("trace_id", "1"));
        let with_exemplar = [wire::label("__name__", "b"), wire::sample(NOW, 2.5), exemplar].concat();
        let metadata = wire::bytes(3, &[vec![0x08, 1], wire::bytes(2, b"up")].concat());
        [
            wire::series(
                &[("__name__", "up"), ("instance", "a:1"), ("job", "é\n")],
                &[(NOW - 1, 1.0), (NOW, -0.0)],
            ),
            wire::bytes(1, &with_exemplar),
            metadata,
            wire::series(
                &[("__name__", "c")],
                &[(NOW, f64::from_bits(tidewatch_dataflows::sample::STALE_NAN_BITS))],
            ),
        ]
        .concat()
    }

    #[test]
    fn a_native_histogram_becomes_its_count_and_its_sum() {
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        let h = |at_ms, sum| wire::bytes(4, &Histogram::ten(at_ms, sum).0);
        let (name, job) = (wire::label("__name__", "h"), wire::label("job", "x"));
        let bad = wire::bytes(4, &Histogram::at(NOW, 1.0).number(1, 1).0);
        let parts = [&h(NOW - 1, 2.5)[..], &name, &job, &wire::sample(NOW, 1.0), &bad, &h(NOW, 3.5)].concat();
        let body = [wire::bytes(1, &parts), wire::series(&[("__name__", "up")], &[(NOW, 1.0)])].concat();
        let id = |name| series_id(&[("__name__", name), ("job", "x")]).0;
        let (h, count, sum) = (id("h"), id("h_count"), id("h_sum"));
        let up = series_id(&[("__name__", "up")]).0;
        for round in ["cold", "warm"] {
            let (out, decoded) = take(&body, &labels).unwrap();
            assert_eq!(out.series, [h, count, count, sum, sum, up], "{round}");
            assert_eq!(out.value, [1.0, 10.0, 10.0, 2.5, 3.5, 1.0], "{round}");
            assert_eq!(out.at_ms, [NOW, NOW - 1, NOW, NOW - 1, NOW, NOW], "{round}");
            assert_eq!((decoded.histograms, decoded.received), (2, 5));
            assert_eq!((decoded.refusals.total(), decoded.refusals.count("bad_histogram")), (1, 1));
        }
        assert_eq!(labels.len(), 4);
        // A classic histogram beside it is the same series.
        let classic = wire::series(&[("__name__", "h_count"), ("job", "x")], &[(NOW, 10.0)]);
        assert_eq!(take(&classic, &labels).unwrap().0.series, [count]);
    }

    #[test]
    fn metadata_says_types_before_and_after_the_samples() {
        let kind = |code, name: &str| {
            wire::bytes(3, &[&[0x08, code][..], &wire::bytes(2, name.as_bytes())].concat())
        };
        let said =
            [kind(1, "req"), kind(3, "h"), kind(0, "u"), kind(2, "\u{fc}"), wire::bytes(3, b"")].concat();
        let odd = wire::bytes(3, &[vec![0x08, 1], wire::bytes(2, b"\xff")].concat());
        let samples: Vec<u8> = ["req_total", "h_bucket", "u", "\u{fc}", "other"]
            .iter()
            .flat_map(|name| wire::series(&[("__name__", name)], &[(NOW, 1.0)]))
            .collect();
        let id = |name| series_id(&[("__name__", name)]).0;
        let (counter, gauge) = (MetricType::Counter, MetricType::Gauge);
        let mut want = vec![(id("req_total"), counter), (id("h_bucket"), counter), (id("\u{fc}"), gauge)];
        want.sort_unstable();
        for parts in [[&said, &samples], [&samples, &said]] {
            let folder = Folder::new();
            let labels = labels(&folder, Limits::default());
            let bodies = [parts.map(|part| &part[..]).concat()];
            for bodies in [&bodies[..], &parts.map(Clone::clone)] {
                let decoded: Vec<_> = bodies.iter().map(|body| take(body, &labels).unwrap().1).collect();
                let mut types: Vec<_> = decoded.iter().flat_map(|decoded| decoded.types.clone()).collect();
                types.sort_unstable();
                types.dedup();
                // The second time everything is known, and nothing has changed.
                assert!(types == want || types.is_empty() && bodies.len() == 2, "{types:?}");
                assert_eq!(decoded.iter().map(|decoded| decoded.ignored).sum::<u64>(), 2);
            }
            assert_eq!(take(&odd, &labels).unwrap().1.ignored, 1, "a name that is no text names no series");
        }
        // An undecodable end, and nothing was said.
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        assert!(take(&[&said[..], &[0x0a, 9]].concat(), &labels).is_err());
        assert!(take(&samples, &labels).unwrap().1.types.is_empty());
    }

    #[test]
    fn a_histogram_is_kept_whole_or_not_at_all() {
        let folder = Folder::new();
        let labels = labels(&folder, Limits { series: 2, ..Limits::default() });
        let h = wire::bytes(4, &Histogram::ten(NOW, 2.5).0);
        let series = wire::bytes(1, &[&wire::label("__name__", "h")[..], &h, &h].concat());
        let body = [wire::series(&[("__name__", "a")], &[(NOW, 1.0)]), series].concat();
        for round in ["cold", "warm"] {
            let (out, decoded) = take(&body, &labels).unwrap();
            assert_eq!((out.value, decoded.histograms), (vec![1.0], 0), "{round}");
            assert_eq!(decoded.refusals.count("series_limit"), 2, "{round}");
        }
    }

    #[test]
    fn a_request_becomes_samples_bit_for_bit_cold_and_warm() {
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        let (cold, decoded) = take(&request(), &labels).unwrap();
        let up = series_id(&[("__name__", "up"), ("instance", "a:1"), ("job", "é\n")]).0;
        let (b, c) = (series_id(&[("__name__", "b")]).0, series_id(&[("__name__", "c")]).0);
        assert_eq!(
            (cold.series.clone(), cold.at_ms.clone()),
            (vec![up, up, b, c], vec![NOW - 1, NOW, NOW, NOW])
        );
        let bits: Vec<u64> = cold.value.iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, [1.0_f64.to_bits(), (-0.0_f64).to_bits(), 2.5_f64.to_bits(), 0x7ff0_0000_0000_0002]);
        // The metadata says that "up" is a counter.
        let types = vec![(up, MetricType::Counter)];
        assert_eq!(decoded, DecodedBody { received: 4, ignored: 1, types, ..DecodedBody::default() });
        assert_eq!(labels.len(), 3);
        labels.record_types(&decoded.types);
        let (warm, again) = take(&request(), &labels).unwrap();
        let decoded = DecodedBody { types: vec![], ..decoded };
        assert_eq!((warm.series, again, labels.len()), (cold.series, decoded, 3));
    }

    #[test]
    fn a_request_cut_anywhere_is_refused_whole_or_read_up_to_there() {
        let body = request();
        for cut in 0..body.len() {
            let folder = Folder::new();
            let labels = labels(&folder, Limits::default());
            let mut out = Samples::default();
            out.push(1, 2, 3.0);
            match decode(&body[..cut], &labels, EventTimeBounds::at(NOW, false), 7, &mut out) {
                Ok(decoded) => assert_eq!(out.len() as u64, 1 + decoded.received, "cut at {cut}"),
                Err(error) => {
                    assert!(error.at <= cut, "{error} in a body of {cut} bytes");
                    assert_eq!((out.len(), labels.len()), (1, 0), "cut at {cut}: nothing may be applied");
                }
            }
        }
    }

    #[test]
    fn a_request_with_any_bytes_changed_never_panics() {
        let folder = Folder::new();
        let labels = labels(&folder, Limits { series: 50, ..Limits::default() });
        let seed = 1;
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..20_000 {
            let mut body = request();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..body.len());
                body[at] = random.u8(..);
            }
            let known = labels.len();
            if take(&body, &labels).is_err() {
                assert_eq!(labels.len(), known, "seed {seed}, round {round}");
            }
        }
        assert_eq!(labels.len(), 50, "the mutations make enough series to reach the limit");
    }

    #[test]
    fn what_is_no_write_request_is_refused_with_its_place() {
        let name = wire::label("__name__", "up");
        let in_series = |bytes: &[u8]| wire::bytes(1, &[&name[..], bytes].concat());
        let reaches = "a field that reaches past the end of its message";
        let cut = "a number that the end of its message cuts off";
        let table: Vec<(Vec<u8>, usize, &str)> = vec![
            (vec![0x0a], 1, cut),
            (vec![0x0a, 0x80], 1, cut),
            (vec![0x0a, 5, 1], 0, reaches),
            (vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], 0, reaches),
            (
                vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
                1,
                "a number longer than 64 bits",
            ),
            (
                vec![0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1],
                0,
                "a number longer than 64 bits",
            ),
            (vec![0x02, 0], 0, "a field number outside 1 to 536870911"),
            (vec![0x80, 0x80, 0x80, 0x80, 0x10, 0], 0, "a field number outside 1 to 536870911"),
            (vec![0x0b], 0, "a group, which remote write does not have"),
            (vec![0x0c], 0, "a group, which remote write does not have"),
            (vec![0x0e], 0, "a wire type that protobuf does not have"),
            (vec![0x0f], 0, "a wire type that protobuf does not have"),
            (vec![0x08, 1], 0, "a message was expected; its wire type is another"),
            (vec![0x39, 1, 2, 3], 0, reaches),
            (vec![0x3d, 1, 2, 3], 0, reaches),
            (wire::bytes(3, &[0x0b]), 2, "a group, which remote write does not have"),
            (in_series(&[0x10, 1]), 2 + name.len(), "a message was expected; its wire type is another"),
            (
                in_series(&wire::bytes(2, &[0x08, 1])),
                4 + name.len(),
                "a double was expected; its wire type is another",
            ),
            (
                in_series(&wire::bytes(2, &[0x11; 9])),
                4 + name.len(),
                "an int64 was expected; its wire type is another",
            ),
            (in_series(&wire::bytes(2, &[0x09, 1])), 4 + name.len(), reaches),
            (
                in_series(&wire::bytes(1, &[0x08, 1])),
                4 + name.len(),
                "a text was expected; its wire type is another",
            ),
        ];
        for (bad, at, what) in table {
            let folder = Folder::new();
            let labels = labels(&folder, Limits::default());
            // What comes before must not be applied either.
            let body = [request(), bad.clone()].concat();
            let want = DecodeError { at: at + request().len(), what };
            assert_eq!(take(&body, &labels).unwrap_err(), want, "{bad:02x?}");
            assert_eq!(labels.len(), 0);
        }
        let second = [wire::bytes(4, b""), wire::bytes(5, b"")].concat();
        let folder = Folder::new();
        let message = take(&second, &labels(&folder, Limits::default())).unwrap_err().to_string();
        assert_eq!(
            message,
            "byte 0 of the decompressed body: a field of remote write 2.0 in a request declared as 1.0; \
            set the Content-Type's proto parameter or protobuf_message to prometheus.WriteRequest"
        );
    }

    #[test]
    fn bad_series_are_refused_with_a_reason_and_the_good_ones_kept() {
        let good = |name: &str| wire::series(&[("__name__", name)], &[(NOW, 1.0)]);
        let one = &[(NOW, 1.0), (NOW + 1, 1.0)];
        let many: Vec<(String, String)> = (0..65).map(|n| (format!("l{n}"), "x".to_owned())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let long = "x".repeat(5_000);
        let bad = Histogram::at(NOW, 1.0).number(1, 1);
        let early = Histogram::at(NOW / 1_000, 1.0);
        let table: [(Vec<u8>, &str, u64); 15] = [
            (
                wire::bytes(1, &[wire::label("__name__", "h"), wire::bytes(4, &early.0)].concat()),
                "before_2000",
                1,
            ),
            (wire::bytes(1, &wire::bytes(4, &Histogram::ten(NOW, 1.0).0)), "missing_name", 1),
            (
                wire::bytes(
                    1,
                    &[
                        wire::label("__name__", "tidewatch_window"),
                        wire::bytes(4, &Histogram::ten(NOW, 1.0).0),
                    ]
                    .concat(),
                ),
                "own_result",
                1,
            ),
            (wire::series(&[("job", "x")], one), "missing_name", 2),
            (wire::series(&[], one), "missing_name", 2),
            (wire::series(&[("__name__", "")], one), "missing_name", 2),
            (wire::series(&[("__name__", "x"), ("", "y")], one), "empty_label_name", 2),
            (wire::series(&[("__name__", "x"), ("a", "1"), ("a", "2")], one), "duplicate_label", 2),
            (wire::series(&many, one), "too_many_labels", 2),
            (wire::series(&[("__name__", "x"), ("a", &long)], one), "labels_too_long", 2),
            (wire::series(&[("__name__", "tidewatch_window_avg")], one), "own_result", 2),
            (wire::series(&[("__name__", "g1")], &[(NOW / 1_000, 1.0)]), "before_2000", 1),
            (wire::series(&[("__name__", "g1")], &[(NOW + 600_001, 1.0)]), "too_far_ahead", 1),
            (
                wire::bytes(1, &[wire::label("__name__", "h"), wire::bytes(4, &bad.0)].concat()),
                "bad_histogram",
                1,
            ),
            (
                wire::bytes(1, &[wire::label("__name__", "g1"), wire::bytes(2, b"")].concat()),
                "before_2000",
                1,
            ),
        ];
        for (bad, reason, count) in table {
            let folder = Folder::new();
            let labels = labels(&folder, Limits::default());
            let body = [good("g1"), bad.clone(), good("g2"), bad, good("g3")].concat();
            for round in ["cold", "warm"] {
                let (out, decoded) = take(&body, &labels).unwrap();
                let ids = ["g1", "g2", "g3"].map(|name| series_id(&[("__name__", name)]).0);
                assert_eq!(out.series, ids, "{reason}, {round}");
                assert_eq!(
                    (decoded.refusals.count(reason), decoded.refusals.total()),
                    (2 * count, 2 * count)
                );
            }
            assert_eq!(labels.len(), 3, "{reason}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_cost_their_own_series_only() {
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        let name = wire::label("__name__", "svc");
        let bad = [
            [&name[..], &wire::label("display", b"B\xfcro")].concat(),
            [&name[..], &wire::label(b"\xc3\x28", "x")].concat(),
            [&name[..], &wire::label(b"\xff", "")].concat(),
            wire::label("__name__", b"\xff"),
        ];
        let samples = [wire::sample(NOW, 1.0), wire::sample(NOW + 1, 2.0)].concat();
        let histogram = wire::bytes(4, &Histogram::ten(NOW, 1.0).0);
        let good = |name| wire::series(&[("__name__", name)], &[(NOW, 1.0)]);
        let mut body = good("g1");
        for labels in &bad {
            body.extend(wire::bytes(1, &[&labels[..], &samples, &histogram].concat()));
            // Nothing is lost of a series without samples.
            body.extend(wire::bytes(1, labels));
        }
        body.extend(good("g2"));
        for round in ["cold", "warm"] {
            let (out, decoded) = take(&body, &labels).unwrap();
            assert_eq!(out.series, ["g1", "g2"].map(|name| series_id(&[("__name__", name)]).0), "{round}");
            assert_eq!((decoded.received, decoded.histograms), (14, 0), "{round}");
            assert_eq!((decoded.refusals.count("not_utf8"), decoded.refusals.total()), (12, 12), "{round}");
            assert_eq!(
                decoded.refusals.sentence(),
                "12 not_utf8 (first: label names and values must be UTF-8; got display=\"B\\xfcro\" for \"svc\")"
            );
        }
        assert_eq!(labels.len(), 2);
        // The sentence is short however long the bytes are.
        let long = vec![0xff; 1 << 20];
        let series = [wire::label("__name__", &long), wire::label(&long, &long), samples].concat();
        let (_, decoded) = take(&wire::bytes(1, &series), &labels).unwrap();
        assert!(decoded.refusals.sentence().len() < 2_000, "{}", decoded.refusals.sentence());
    }

    #[test]
    fn bytes_that_are_no_text_cost_nothing_where_nothing_reads_them() {
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        let metadata =
            [&[0x08, 1][..], &wire::bytes(2, b"up"), &wire::bytes(4, b"\xff"), &wire::bytes(5, b"\xff")];
        // Of a label given twice the last counts.
        let twice = [wire::bytes(1, b"\xff"), wire::bytes(1, b"job"), wire::bytes(2, b"x")].concat();
        let exemplar = wire::bytes(3, &wire::label("trace_id", b"\xff"));
        let series = [
            &wire::label("__name__", "up")[..],
            &wire::bytes(1, &twice),
            &wire::sample(NOW, 1.0),
            &exemplar,
            &wire::bytes(9, b"\xff"),
        ];
        let body = [wire::bytes(1, &series.concat()), wire::bytes(3, &metadata.concat())].concat();
        let up = series_id(&[("__name__", "up"), ("job", "x")]).0;
        for types in [vec![(up, MetricType::Counter)], vec![]] {
            let (out, decoded) = take(&body, &labels).unwrap();
            let want = DecodedBody { received: 1, ignored: 1, types, ..DecodedBody::default() };
            assert_eq!((out.series, decoded), (vec![up], want));
            labels.record_types(&[(up, MetricType::Counter)]);
        }
    }

    #[test]
    fn series_beyond_the_limit_are_refused_and_known_ones_go_on() {
        let folder = Folder::new();
        let labels = labels(&folder, Limits { series: 2, ..Limits::default() });
        let body: Vec<u8> = (0..4)
            .flat_map(|n| wire::series(&[("__name__", &format!("m{n}"))], &[(NOW, f64::from(n))]))
            .collect();
        for _ in 0..2 {
            let (out, decoded) = take(&body, &labels).unwrap();
            assert_eq!((out.value, decoded.refusals.count("series_limit")), (vec![0.0, 1.0], 2));
        }
    }

    #[test]
    fn labels_in_any_order_and_place_name_the_same_series() {
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        let id = series_id(&[("__name__", "x"), ("a", "1"), ("b", "2")]).0;
        let (x, a, b) = (wire::label("__name__", "x"), wire::label("a", "1"), wire::label("b", "2"));
        let s = wire::sample(NOW, 1.0);
        let empty = wire::label("c", "");
        // An unknown field, as a later sender may add, is skipped.
        let unknown = [wire::bytes(9, b"new"), vec![0x78, 5]].concat();
        for parts in [
            [&x[..], &a, &b, &s].concat(),
            [&b[..], &x, &a, &s].concat(),
            [&s[..], &x, &a, &b].concat(),
            [&x[..], &s, &a, &unknown, &b].concat(),
            [&x[..], &a, &empty, &b, &s].concat(),
        ] {
            let body = wire::bytes(1, &parts);
            for _ in 0..2 {
                assert_eq!(take(&body, &labels).unwrap().0.series, [id]);
            }
        }
        assert_eq!(labels.len(), 1);
        let twice = wire::bytes(1, &[&x[..], &s, &s].concat()).repeat(2);
        assert_eq!(take(&twice, &labels).unwrap().0.len(), 4, "one new series, twice in a request");
    }

    #[test]
    fn requests_without_samples_are_fine() {
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        let metadata: Vec<u8> = (0..150).flat_map(|_| wire::bytes(3, &wire::bytes(2, b"up"))).collect();
        assert_eq!(
            take(&metadata, &labels).unwrap().1,
            DecodedBody { ignored: 150, ..DecodedBody::default() }
        );
        assert_eq!(take(&[], &labels).unwrap().1, DecodedBody::default());
        assert_eq!(
            take(&wire::series(&[("__name__", "up")], &[]), &labels).unwrap().1,
            DecodedBody::default()
        );
        assert_eq!(labels.len(), 0, "a series without a sample is not registered");
    }

    #[test]
    fn millions_of_labels_of_a_series_are_not_gathered() {
        let folder = Folder::new();
        let labels = labels(&folder, Limits::default());
        let mut series = wire::label("__name__", "up");
        (0..2_000).for_each(|i| series.extend(wire::label(format!("l{i}"), "")));
        series.extend(wire::sample(NOW, 1.0));
        let (out, decoded) = take(&wire::bytes(1, &series), &labels).unwrap();
        assert_eq!((out.len(), decoded.refusals.count("too_many_labels")), (0, 1));
        assert!(
            decoded.refusals.sentence().contains("got 2001 for \"up\""),
            "{}",
            decoded.refusals.sentence()
        );
    }
}
