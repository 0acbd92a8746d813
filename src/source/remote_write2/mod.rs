//! The format of Prometheus remote write 2.0: a decompressed `io.prometheus.write.v2.Request` → samples.
//!
//! ```text
//! Request    { symbols = 4, timeseries = 5 }     every text is a symbol; symbols[0] is ""
//! TimeSeries { labels_refs = 1 (name, value, ...), samples = 2, histograms = 3 (`histogram`), exemplars = 4,
//!              metadata = 5, created_timestamp = 6 (of older senders) }
//! Sample     { value = 1 (fixed64), timestamp = 2 (ms), start_timestamp = 3 }
//! Exemplar   { labels_refs = 1, ... }            Metadata { type = 1, help_ref = 3, unit_ref = 4 }
//! ```
//!
//! As in 1.0 ([`remote_write`](super::remote_write)) everything is checked first and known series are resolved; then
//! unknown ones are interned: an undecodable body has changed nothing. References mean something in one request only,
//! so a series is looked up by its texts, sorted and written into a buffer that all series share: a known series costs
//! no allocation, whatever the table of symbols and the order of its labels.
//!
//! A label costs two bytes here, however long its texts are. So what is gathered of one series is bounded before any
//! text is copied or compared.

use std::borrow::Cow;
use std::ops::Range;

use tidewatch_dataflows::sample::{MetricType, Samples};

use crate::labels::{FAMILIES_MAX, LABEL_BYTES_MAX, Labels, NAME, TypeFamily, check};
use crate::source::histogram::{self, CountAndSum};
use crate::source::protobuf::{DecodeError, Field, FieldCursor};
use crate::source::remote_write::{DecodedBody, LABELS_GATHERED, truncate};
use crate::source::validate::{self, EventTimeBounds, SeriesRefusal};

/// In front of the texts of a series in its look-up key. No label of 1.0 is encoded with it as its first byte.
const KEY_MARK: u8 = 0xff;

/// The tag of a symbol: field 4, with a length.
const SYMBOL: u8 = 4 << 3 | 2;

/// What a body held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded2 {
    /// As of 1.0.
    pub decoded: DecodedBody,
    /// Exemplars of series that passed the gate.
    pub exemplars: u64,
}

/// Appends the samples of `body` that pass the gate to `out`, in the order of the body.
///
/// `epoch` marks the last use of the series. Warm series cost no allocation beyond the growth of `out`.
///
/// # Errors
/// If the body is not a request of 2.0; then neither `out` nor `labels` has changed.
pub fn decode(
    body: &[u8],
    labels: &Labels,
    bounds: EventTimeBounds,
    epoch: u64,
    out: &mut Samples,
) -> Result<Decoded2, DecodeError> {
    let symbols = Symbols::read(body)?;
    let start = out.len();
    let mut walk = Walk2 {
        texts: LabelTexts2 { symbols, pairs: Vec::new(), key: Vec::new() },
        labels,
        bounds,
        epoch,
        out,
        refs: Vec::new(),
        histograms: Vec::new(),
        derived_key: Vec::new(),
        declared_types: Vec::new(),
        alone: Vec::new(),
        missed: Vec::new(),
        misses: Vec::new(),
        decoded: Decoded2::default(),
    };
    match walk.request(body) {
        Ok(()) => {
            walk.intern();
            walk.observe_type();
            Ok(walk.decoded)
        }
        Err(undecodable) => {
            truncate(walk.out, start);
            Err(undecodable)
        }
    }
}

/// The table of symbols: where each stands in the body. An empty symbol is two bytes of it, so four are kept of each.
struct Symbols<'a> {
    body: &'a [u8],
    at: Vec<u32>,
    /// Whether all of them are UTF-8. If not, each series is judged by those it uses.
    utf8: bool,
}

impl<'a> Symbols<'a> {
    /// Gathers and checks the symbols of a request, wherever they stand in it.
    fn read(body: &'a [u8]) -> Result<Symbols<'a>, DecodeError> {
        let (mut at, mut utf8) = (Vec::new(), true);
        let mut fields = FieldCursor::new(body);
        while let Some(field) = fields.field()? {
            match field.number {
                4 => {
                    let symbol = field.bytes()?;
                    if at.is_empty() && !symbol.is_empty() {
                        return Err(DecodeError { at: field.at, what: "symbols[0] must be the empty text" });
                    }
                    utf8 &= str::from_utf8(symbol).is_ok();
                    let what = "a body longer than 4 GiB";
                    at.push(u32::try_from(field.at).map_err(|_| DecodeError { at: field.at, what })?);
                }
                1 | 3 => {
                    let what = "a field of remote write 1.0 in a request declared as 2.0; \
                                set the Content-Type's proto parameter or protobuf_message to io.prometheus.write.v2.Request";
                    return Err(DecodeError { at: field.at, what });
                }
                _ => {}
            }
        }
        Ok(Symbols { body, at, utf8 })
    }

    /// Whether there is a symbol of this number.
    fn hold(&self, reference: u64) -> bool {
        usize::try_from(reference).is_ok_and(|reference| reference < self.at.len())
    }

    /// The text of a symbol that is there.
    #[inline]
    fn text(&self, reference: u32) -> &'a [u8] {
        let at = self.at[reference as usize] as usize;
        // Nearly all are a tag of one byte, a length of one byte, and the text.
        if let [SYMBOL, length @ ..0x80, text @ ..] = &self.body[at..] {
            return &text[..usize::from(*length)];
        }
        let field = FieldCursor::within(self.body, at).field();
        field.ok().flatten().and_then(|field| field.bytes().ok()).expect("the symbols were read before")
    }
}

/// Why labels have no look-up key.
enum KeyError {
    /// So many bytes are more than are looked at.
    TooLong(usize),
    /// A name or a value is not UTF-8.
    NotUtf8,
}

/// The labels of one series as texts. The buffers are used again for the next one.
struct LabelTexts2<'a> {
    symbols: Symbols<'a>,
    pairs: Vec<(&'a [u8], &'a [u8])>,
    key: Vec<u8>,
}

impl<'a> LabelTexts2<'a> {
    /// Makes `pairs` of references; the bytes of all names and values.
    fn gather(&mut self, refs: &[u32]) -> usize {
        self.pairs.clear();
        let mut bytes = 0;
        for pair in refs.chunks_exact(2) {
            let (name, value) = (self.symbols.text(pair[0]), self.symbols.text(pair[1]));
            bytes += name.len() + value.len();
            self.pairs.push((name, value));
        }
        bytes
    }

    /// Makes `key` of references: the mark, then the pairs, sorted, each `name 0xFF value 0xFF`.
    ///
    /// # Errors
    /// [`KeyError`]; nothing was copied or compared then.
    fn spell(&mut self, refs: &[u32], max: usize) -> Result<(), KeyError> {
        let bytes = self.gather(refs);
        if bytes > max {
            return Err(KeyError::TooLong(bytes));
        }
        // Bytes that are not UTF-8 may hold the separator, and so spell the key of another series.
        if !self.symbols.utf8 && self.not_utf8().is_some() {
            return Err(KeyError::NotUtf8);
        }
        if !self.pairs.is_sorted_by_key(|(name, _)| *name) {
            self.pairs.sort_unstable();
        }
        self.key.clear();
        self.key.push(KEY_MARK);
        for (name, value) in &self.pairs {
            self.key.extend_from_slice(name);
            self.key.push(0xff);
            self.key.extend_from_slice(value);
            self.key.push(0xff);
        }
        Ok(())
    }

    /// The first of the pairs that is not UTF-8.
    #[cold]
    fn not_utf8(&self) -> Option<(&'a [u8], &'a [u8])> {
        let is_text = |bytes: &[u8]| str::from_utf8(bytes).is_ok();
        self.pairs.iter().copied().find(|(name, value)| !is_text(name) || !is_text(value))
    }

    /// The metric name among the pairs; empty if there is none.
    #[inline]
    fn named(&self) -> &'a [u8] {
        let named = self.pairs.iter().find(|(name, _)| *name == NAME.as_bytes());
        named.map_or(b"", |(_, name)| name)
    }

    /// The pairs as text, once they are spelled.
    fn pairs(&self) -> Vec<(&'a str, &'a str)> {
        let text = |bytes| str::from_utf8(bytes).expect("spelling has checked them");
        self.pairs.iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    /// The beginning of the metric name among the pairs, for a message: of texts that are too long little is read.
    fn name(&self) -> Cow<'a, str> {
        const SHOWN: usize = 1_024;
        let named = self.pairs.iter().find(|(name, _)| *name == NAME.as_bytes());
        named
            .map_or(Cow::Borrowed(""), |(_, value)| String::from_utf8_lossy(&value[..value.len().min(SHOWN)]))
    }
}

/// A series that was not known, or gave exemplars only: what waits for the judgement of its labels, and what was said
/// of its type.
struct UnknownSeries2 {
    /// Where its references are in `Walk::missed`.
    refs: Range<usize>,
    /// How many labels it has, those beyond what is gathered included.
    labels: usize,
    samples: Range<usize>,
    /// Whether the samples are those of native histograms: for two series, derived from this one.
    derived: bool,
    exemplars: u64,
    family: Option<TypeFamily>,
}

struct Walk2<'a, 'o> {
    texts: LabelTexts2<'a>,
    labels: &'a Labels,
    bounds: EventTimeBounds,
    epoch: u64,
    out: &'o mut Samples,
    /// The label references of the series being read, and its good native histograms.
    refs: Vec<u32>,
    histograms: Vec<CountAndSum>,
    /// A buffer for the look-up keys of derived series.
    derived_key: Vec<u8>,
    /// Types said of known series whose spelling does not tell that the journal holds them.
    declared_types: Vec<(u64, MetricType)>,
    /// Types said of names that no known series with these labels bears.
    alone: Vec<(&'a str, TypeFamily)>,
    /// The label references of all series in `misses`.
    missed: Vec<u32>,
    misses: Vec<UnknownSeries2>,
    decoded: Decoded2,
}

impl<'a> Walk2<'a, '_> {
    fn request(&mut self, body: &'a [u8]) -> Result<(), DecodeError> {
        let mut fields = FieldCursor::new(body);
        while let Some(field) = fields.field()? {
            if field.number == 5 {
                self.series(&field)?;
            }
        }
        Ok(())
    }

    /// Checks one series, resolves it if it is known, and notes it as missing if not.
    fn series(&mut self, series: &Field) -> Result<(), DecodeError> {
        let (first, mut count, mut exemplars, mut family) = (self.out.len(), 0, 0, None);
        self.refs.clear();
        let mut fields = series.message()?;
        while let Some(field) = fields.field()? {
            match field.number {
                1 => count += self.label_refs(&field)?,
                2 => self.sample(field.message()?)?,
                3 => self.histogram(field.message()?)?,
                4 => {
                    self.exemplar(&field)?;
                    exemplars += 1;
                }
                5 => family = self.metadata(field.message()?)?.or(family),
                // The created timestamp of senders before it moved into the samples. Nothing uses either.
                6 => drop(field.int64()?),
                _ => {}
            }
        }
        even(count, series)?;
        self.decoded.exemplars += exemplars;
        self.decoded.decoded.ignored += exemplars;
        let samples = first..self.out.at_ms.len();
        let derived = histogram::put(&self.histograms, self.out);
        self.histograms.clear();
        let (sampled, reduced) = (!samples.is_empty(), !derived.is_empty());
        if !sampled && !reduced && exemplars == 0 && family.is_none() {
            return Ok(());
        }
        let labels = count / 2;
        let spelled = (sampled || reduced || family.is_some())
            && labels <= self.gathered_max()
            && self.texts.spell(&self.refs, self.bytes_max()).is_ok();
        let id = if spelled && (sampled || !reduced) { self.find(family, sampled) } else { None };
        self.out.series.resize(samples.end, id.unwrap_or_default());
        let known = reduced && self.derive(&derived, spelled, family);
        if !sampled && !reduced && exemplars == 0 {
            if let (None, Some(family), true) = (id, family, spelled) {
                self.note(family);
            }
            return Ok(());
        }
        // Exemplars wait for the first judgement of their series' labels.
        let mut waiting = if id.is_some() || known { 0 } else { exemplars };
        if id.is_none() && (sampled || !reduced) {
            let exemplars = std::mem::take(&mut waiting);
            self.miss(UnknownSeries2 { refs: 0..0, labels, samples, derived: false, exemplars, family });
        }
        if reduced && !known {
            self.miss(UnknownSeries2 {
                refs: 0..0,
                labels,
                samples: derived,
                derived: true,
                exemplars: waiting,
                family,
            });
        }
        Ok(())
    }

    /// The series whose labels are spelled, if it is known; notes the type that is said of it, if that is new.
    #[inline]
    fn find(&mut self, family: Option<TypeFamily>, sampled: bool) -> Option<u64> {
        let said = family.and_then(|family| family.of(self.texts.named()));
        // Only samples use a series: what else is said of it must not keep its labels when its slot is freed.
        let epoch = if sampled { self.epoch } else { 0 };
        let (series, told) = self.labels.find_recorded(&self.texts.key, epoch, said)?;
        if let (false, Some(said)) = (told, said) {
            self.declared_types.push((series.0, said));
        }
        Some(series.0)
    }

    /// Notes the type that is said of a series without samples that nobody knows: one of its name may come.
    #[cold]
    fn note(&mut self, family: TypeFamily) {
        let Ok(name) = str::from_utf8(self.texts.named()) else { return };
        let said = match family.of(name.as_bytes()) {
            Some(MetricType::Counter) => TypeFamily::Counter,
            Some(MetricType::Gauge) => TypeFamily::Gauge,
            None => return,
        };
        if self.alone.len() < FAMILIES_MAX {
            self.alone.push((name, said));
        } else {
            self.labels.family_beyond();
        }
    }

    /// Takes note of what was said of types: the request is decodable to its end.
    fn observe_type(&mut self) {
        let types = &mut self.decoded.decoded.types;
        let (labels, epoch) = (self.labels, self.epoch);
        let said = self.declared_types.drain(..);
        types.extend(
            said.filter(|(series, kind)| labels.unrecorded_type(*series, Some(*kind), epoch).is_some()),
        );
        if !self.alone.is_empty() {
            types.extend(labels.observe_families(&self.alone, epoch));
        }
    }

    /// Writes the series derived from one with histograms, if they are known; its labels are spelled, or too many.
    #[cold]
    fn derive(&mut self, range: &Range<usize>, spelled: bool, family: Option<TypeFamily>) -> bool {
        let (labels, key, derived_key) = (self.labels, &self.texts.key, &mut self.derived_key);
        let said = family.and_then(TypeFamily::of_derived);
        let mut found = None;
        if spelled {
            found = histogram::find_recorded(labels, key, derived_key, self.epoch, said);
        }
        histogram::name(range, found.map_or([0; 2], |(series, _)| series), self.out);
        if let (Some((series, false)), Some(said)) = (found, said) {
            self.declared_types.extend(series.map(|series| (series, said)));
        }
        found.is_some()
    }

    /// Notes that the series being read waits for the judgement of its labels.
    #[cold]
    fn miss(&mut self, miss: UnknownSeries2) {
        let refs = self.missed.len()..self.missed.len() + self.refs.len();
        self.missed.extend_from_slice(&self.refs);
        self.misses.push(UnknownSeries2 { refs, ..miss });
    }

    /// Reads one native histogram; its samples are written when all of the series is read.
    #[cold]
    fn histogram(&mut self, fields: FieldCursor) -> Result<(), DecodeError> {
        let decoded = &mut self.decoded.decoded;
        decoded.received += 1;
        match histogram::read(fields)? {
            Ok(kept) if self.bounds.contain(kept.at_ms) => {
                decoded.histograms += 1;
                self.histograms.push(kept);
            }
            Ok(kept) => decoded.refusals.add_time(&self.bounds, kept.at_ms),
            Err(sentence) => decoded.refusals.add(validate::BAD_HISTOGRAM, 1, || sentence),
        }
        Ok(())
    }

    /// Labels of one series that are looked at.
    fn gathered_max(&self) -> usize {
        LABELS_GATHERED * self.labels.limits().labels
    }

    /// Bytes of labels of one series that are looked at; names of labels without a value count too.
    fn bytes_max(&self) -> usize {
        self.labels.limits().label_bytes.min(LABEL_BYTES_MAX)
    }

    /// Reads label references into `refs`, as far as they are looked at; how many there are.
    #[inline]
    fn label_refs(&mut self, field: &Field) -> Result<usize, DecodeError> {
        let keep = 2 * self.gathered_max();
        let refs = &mut self.refs;
        each_ref(&self.texts.symbols, field, |reference| {
            if refs.len() < keep {
                refs.push(reference);
            }
        })
    }

    /// Reads one sample; its series is written when all of the series is read.
    #[inline]
    fn sample(&mut self, mut fields: FieldCursor) -> Result<(), DecodeError> {
        let (mut bits, mut at_ms) = (0_u64, 0_i64);
        while let Some(field) = fields.field()? {
            match field.number {
                1 => bits = field.fixed64()?,
                2 => at_ms = field.int64()?,
                3 => drop(field.int64()?),
                _ => {}
            }
        }
        self.decoded.decoded.received += 1;
        if self.bounds.contain(at_ms) {
            self.out.at_ms.push(at_ms);
            self.out.value.push(f64::from_bits(bits));
        } else {
            self.decoded.decoded.refusals.add_time(&self.bounds, at_ms);
        }
        Ok(())
    }

    /// Checks an exemplar.
    fn exemplar(&self, exemplar: &Field) -> Result<(), DecodeError> {
        let (mut fields, mut count) = (exemplar.message()?, 0);
        while let Some(field) = fields.field()? {
            match field.number {
                1 => count += each_ref(&self.texts.symbols, &field, |_| {})?,
                2 => drop(field.fixed64()?),
                3 => drop(field.int64()?),
                _ => {}
            }
        }
        even(count, exemplar)
    }

    /// Reads the metadata of a series, and counts it if it says something else than a type: senders put an empty one
    /// into each series.
    fn metadata(&mut self, mut fields: FieldCursor) -> Result<Option<TypeFamily>, DecodeError> {
        let (mut said, mut family) = (false, None);
        while let Some(field) = fields.field()? {
            said = true;
            match field.number {
                1 => family = TypeFamily::from_code(field.int64()?),
                3 | 4 if !self.texts.symbols.hold(field.int64()?.cast_unsigned()) => {
                    return Err(DecodeError { at: field.at, what: NO_SYMBOL });
                }
                _ => {}
            }
        }
        self.decoded.decoded.ignored += u64::from(said && family.is_none());
        Ok(family)
    }

    /// Gives the missing series an identity, or takes their samples out again.
    fn intern(&mut self) {
        let mut misses = std::mem::take(&mut self.misses);
        misses.retain(|miss| {
            let Err((reason, sentence)) = self.judge(miss) else { return false };
            let mut count = miss.samples.len() as u64;
            if miss.derived {
                count /= 2;
                self.decoded.decoded.histograms -= count;
            }
            self.decoded.decoded.refusals.add(reason, count, || sentence);
            self.decoded.exemplars -= miss.exemplars;
            true
        });
        super::remote_write::remove(self.out, misses.iter().map(|miss| &miss.samples));
    }

    /// Writes the series of a miss, or says why its labels are refused. Without a sample nothing is interned.
    fn judge(&mut self, miss: &UnknownSeries2) -> Result<(), SeriesRefusal> {
        let (gathered_max, bytes_max, epoch) = (self.gathered_max(), self.bytes_max(), self.epoch);
        let Walk2 { texts, labels, derived_key, out, decoded, .. } = self;
        let types = &mut decoded.decoded.types;
        let mut tell = |series: u64, said: Option<MetricType>| {
            types.extend(labels.unrecorded_type(series, said, epoch).map(|kind| (series, kind)));
        };
        let refs = &self.missed[miss.refs.clone()];
        if miss.labels > gathered_max {
            texts.gather(refs);
            let refused = labels.too_many(&texts.name(), miss.labels);
            return Err((refused.reason(), refused.to_string()));
        }
        match texts.spell(refs, bytes_max) {
            Ok(()) => {}
            Err(KeyError::TooLong(bytes)) => {
                let refused = labels.too_long(&texts.name(), bytes);
                return Err((refused.reason(), refused.to_string()));
            }
            Err(KeyError::NotUtf8) => {
                let (name, value) = texts.not_utf8().unwrap_or_default();
                return Err(validate::not_utf8(texts.named(), name, value));
            }
        }
        let key = &texts.key;
        if miss.samples.is_empty() {
            let judged = check(&mut texts.pairs(), labels.limits());
            return judged.map_err(|refused| (refused.reason(), refused.to_string()));
        }
        // The same new series may have come earlier in this request, or in another one meanwhile.
        if miss.derived {
            let series = match histogram::find(labels, key, derived_key, epoch) {
                Some(series) => series,
                None => histogram::intern(labels, &texts.pairs(), key, derived_key, epoch)?,
            };
            histogram::name(&miss.samples, series, out);
            series.into_iter().for_each(|series| tell(series, miss.family.and_then(TypeFamily::of_derived)));
        } else {
            let series = match labels.find(key, epoch) {
                Some(series) => series.0,
                None => validate::intern(labels, &mut texts.pairs(), key, epoch)?,
            };
            out.series[miss.samples.clone()].fill(series);
            tell(series, miss.family.and_then(|family| family.of(texts.named())));
        }
        Ok(())
    }
}

const NO_SYMBOL: &str = "a reference to a symbol that is not in the request";

/// Gives each reference of a field to `visit`; how many there are.
#[inline]
fn each_ref(symbols: &Symbols, field: &Field, mut visit: impl FnMut(u32)) -> Result<usize, DecodeError> {
    let mut count = 0;
    field.numbers(|number, at| {
        count += 1;
        match u32::try_from(number) {
            Ok(reference) if symbols.hold(number) => {
                visit(reference);
                Ok(())
            }
            _ => Err(DecodeError { at, what: NO_SYMBOL }),
        }
    })?;
    Ok(count)
}

/// Refuses label references that are not pairs.
fn even(count: usize, of: &Field) -> Result<(), DecodeError> {
    match count % 2 {
        0 => Ok(()),
        _ => Err(DecodeError {
            at: of.at,
            what: "an odd number of label references; they are pairs of name and value",
        }),
    }
}

#[cfg(test)]
pub(crate) mod wire;

#[cfg(test)]
mod tests;
