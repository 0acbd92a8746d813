//! One series' labels as text, the gate they pass, and the identity made from them.
//!
//! Not here: which series are known (`mod.rs`) and where they are kept on disk (`log.rs`).

use std::fmt;

use tidewatch_dataflows::sample::SeriesId;
use xxhash_rust::xxh3::xxh3_64;

use crate::promql;

/// The label that holds the metric's name.
pub const NAME: &str = "__name__";

/// Most bytes the names and values of one series may have together, whatever the configuration says.
pub const LABEL_BYTES_MAX: usize = 1 << 20;

/// Bounds on labels; see the settings under `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most series known at once.
    pub series: usize,
    /// Most series known at once that share a metric name.
    pub series_per_name: usize,
    /// Most labels of one series, `__name__` included.
    pub labels: usize,
    /// Most bytes of one series' label names and values together; at most [`LABEL_BYTES_MAX`].
    pub label_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { series: 1_200_000, series_per_name: 200_000, labels: 64, label_bytes: 4_096 }
    }
}

/// Why a label set was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelsRefusal {
    /// There is no metric name.
    #[error("label __name__ must be present and not empty; got labels {labels}")]
    MissingName { labels: String },
    /// A label has no name.
    #[error("label names must not be empty; got an empty name with value \"{value}\"")]
    EmptyLabelName { value: String },
    /// A label name occurs twice.
    #[error("label names must differ; got \"{name}\" twice, with values \"{first}\" and \"{second}\"")]
    DuplicateLabel { name: String, first: String, second: String },
    /// More labels than `limits.labels`.
    #[error("a series has at most {max} labels (limits.labels); got {got} for \"{name}\"")]
    TooManyLabels { name: String, got: usize, max: usize },
    /// More bytes than `limits.label_bytes`.
    #[error(
        "label names and values of a series have at most {max} bytes together (limits.label_bytes); got {got} for \"{name}\""
    )]
    LabelsTooLong { name: String, got: usize, max: usize },
    /// As many series as `limits.series` are known.
    #[error("at most {max} series are kept at once (limits.series); \"{name}\" would be one more")]
    SeriesLimit { name: String, max: usize },
    /// As many series of this name as `limits.series_per_name` are known.
    #[error("at most {max} series may share a name (limits.series_per_name); \"{name}\" has them already")]
    SeriesPerNameLimit { name: String, max: usize },
    /// Two label sets have one identity; the first keeps it.
    #[error("series id {id} belongs to {held}; {refused} has the same id and cannot be told apart")]
    IdCollision { id: SeriesId, held: String, refused: String },
}

impl LabelsRefusal {
    /// The word used in metrics and answers.
    pub fn reason(&self) -> &'static str {
        match self {
            LabelsRefusal::MissingName { .. } => "missing_name",
            LabelsRefusal::EmptyLabelName { .. } => "empty_label_name",
            LabelsRefusal::DuplicateLabel { .. } => "duplicate_label",
            LabelsRefusal::TooManyLabels { .. } => "too_many_labels",
            LabelsRefusal::LabelsTooLong { .. } => "labels_too_long",
            LabelsRefusal::SeriesLimit { .. } => "series_limit",
            LabelsRefusal::SeriesPerNameLimit { .. } => "series_per_name_limit",
            LabelsRefusal::IdCollision { .. } => "id_collision",
        }
    }

    /// The path of the setting that refused it, if it was a limit.
    pub fn limit(&self) -> Option<&'static str> {
        match self {
            LabelsRefusal::TooManyLabels { .. } => Some("limits.labels"),
            LabelsRefusal::LabelsTooLong { .. } => Some("limits.label_bytes"),
            LabelsRefusal::SeriesLimit { .. } => Some("limits.series"),
            LabelsRefusal::SeriesPerNameLimit { .. } => Some("limits.series_per_name"),
            _ => None,
        }
    }
}

/// The labels of one series, sorted by name, without empty values: one allocation.
///
/// The text is, per label, the length of the name and of the value, each as one `char`, then name and value.
/// So it is a `str` throughout and reading it validates nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LabelSet {
    text: Box<str>,
}

impl LabelSet {
    /// Labels from pairs that are sorted by name, without duplicates and empty values.
    ///
    /// # Panics
    /// If a name or value is longer than [`LABEL_BYTES_MAX`]; [`check`] refuses such labels before.
    pub fn from_sorted<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> LabelSet {
        let mut text = String::new();
        for (name, value) in pairs {
            text.push(length_to_char(name.len()));
            text.push(length_to_char(value.len()));
            text.push_str(name);
            text.push_str(value);
        }
        LabelSet { text: text.into_boxed_str() }
    }

    /// The metric's name; empty if there is none.
    pub fn name(&self) -> &str {
        self.get(NAME).unwrap_or("")
    }

    /// The value of the label `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(held, _)| *held == name).map(|(_, value)| value)
    }

    /// All labels, `__name__` included, sorted by name.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.text }
    }

    /// All labels but `__name__`, as rows show them beside the name.
    pub fn to_json_map(&self) -> serde_json::Map<String, serde_json::Value> {
        self.iter()
            .filter(|(name, _)| *name != NAME)
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect()
    }

    /// The identity of these labels.
    pub fn series_id(&self) -> SeriesId {
        id_of(self.iter(), self.text.len() + 64)
    }

    /// Whether these are exactly the labels `pairs`, sorted.
    pub fn same(&self, pairs: &[(&str, &str)]) -> bool {
        self.iter().eq(pairs.iter().copied())
    }

    /// Bytes of label text held.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }
}

/// As PromQL writes it: `name{a="1", b="2"}`.
impl fmt::Display for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&selector(self.iter()))
    }
}

impl fmt::Debug for LabelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'a> IntoIterator for &'a LabelSet {
    type Item = (&'a str, &'a str);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Walks the labels of a [`LabelSet`].
#[derive(Clone)]
pub struct Iter<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let mut chars = self.rest.chars();
        let name_len = char_to_length(chars.next()?);
        let value_len = char_to_length(chars.next()?);
        let (name, rest) = chars.as_str().split_at_checked(name_len)?;
        let (value, rest) = rest.split_at_checked(value_len)?;
        self.rest = rest;
        Some((name, value))
    }
}

/// Code points leave out the surrogates, so lengths from their first on are moved up by their number.
const SURROGATES_BEGIN: u32 = 0xd800;
const SURROGATES: u32 = 0x800;

fn length_to_char(length: usize) -> char {
    let n = u32::try_from(length).unwrap_or(u32::MAX);
    let code = if n < SURROGATES_BEGIN { n } else { n.saturating_add(SURROGATES) };
    char::from_u32(code)
        .expect("label texts are at most LABEL_BYTES_MAX long, which is below the highest code point")
}

fn char_to_length(c: char) -> usize {
    let code = u32::from(c);
    (if code < SURROGATES_BEGIN { code } else { code - SURROGATES }) as usize
}

/// The identity of a series: xxh3_64 over its labels sorted by name, each written `name 0xFF value 0xFF`.
pub fn series_id(sorted: &[(&str, &str)]) -> SeriesId {
    let bytes = sorted.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    id_of(sorted.iter().copied(), bytes)
}

fn id_of<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>, bytes: usize) -> SeriesId {
    let mut canonical = Vec::with_capacity(bytes);
    for (name, value) in pairs {
        canonical.extend_from_slice(name.as_bytes());
        canonical.push(0xff);
        canonical.extend_from_slice(value.as_bytes());
        canonical.push(0xff);
    }
    SeriesId(xxh3_64(&canonical))
}

/// Sorts `pairs`, drops labels with empty values as Prometheus does, and judges them.
///
/// # Errors
/// The first reason, in the order: empty name, count, bytes, duplicate, metric name.
pub fn check(pairs: &mut Vec<(&str, &str)>, limits: &Limits) -> Result<(), LabelsRefusal> {
    if let Some((_, value)) = pairs.iter().find(|(name, _)| name.is_empty()) {
        return Err(LabelsRefusal::EmptyLabelName { value: shown(value) });
    }
    let name = |pairs: &[(&str, &str)]| {
        shown(pairs.iter().find(|(name, _)| *name == NAME).map_or("", |(_, value)| value))
    };
    let held = || pairs.iter().filter(|(_, value)| !value.is_empty());
    let count = held().count();
    if count > limits.labels {
        return Err(LabelsRefusal::TooManyLabels { name: name(pairs), got: count, max: limits.labels });
    }
    let bytes = held().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    let bytes_max = limits.label_bytes.min(LABEL_BYTES_MAX);
    if bytes > bytes_max {
        return Err(LabelsRefusal::LabelsTooLong { name: name(pairs), got: bytes, max: bytes_max });
    }
    // Senders sort already, which the sort notices; duplicates are judged before empty values go: `{a="",a="x"}` is unclear.
    pairs.sort_unstable();
    if let Some(two) = pairs.windows(2).find(|two| two[0].0 == two[1].0) {
        return Err(LabelsRefusal::DuplicateLabel {
            name: shown(two[0].0),
            first: shown(two[0].1),
            second: shown(two[1].1),
        });
    }
    pairs.retain(|(_, value)| !value.is_empty());
    if !pairs.iter().any(|(name, _)| *name == NAME) {
        return Err(LabelsRefusal::MissingName { labels: shown(&selector(pairs.iter().copied())) });
    }
    Ok(())
}

/// Labels as PromQL writes them.
pub(super) fn selector<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let name = pairs.clone().find(|(name, _)| *name == NAME).map_or("", |(_, value)| value);
    promql::series(name, pairs.filter(|(name, _)| *name != NAME))
}

/// The beginning of a text from outside, fit for a message.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_the_hash_of_the_sorted_labels_with_separators() {
        let pairs = [("__name__", "up"), ("instance", "a:9"), ("job", "é")];
        let canonical = b"__name__\xffup\xffinstance\xffa:9\xffjob\xff\xc3\xa9\xff";
        assert_eq!(series_id(&pairs), SeriesId(xxh3_64(canonical)));
        assert_eq!(LabelSet::from_sorted(pairs).series_id(), series_id(&pairs));
        assert_ne!(series_id(&[("a", "bc")]), series_id(&[("ab", "c")]));
    }

    #[test]
    fn label_sets_give_back_what_they_took() {
        for length in [0, 1, 127, 128, 0xd7ff, 0xd800, 0xdfff, 0xe000, LABEL_BYTES_MAX] {
            let long = "x".repeat(length);
            let pairs = [("__name__", "name"), ("k\u{ff}", "ä\"b"), ("zz", long.as_str())];
            let set = LabelSet::from_sorted(pairs);
            assert!(set.iter().eq(pairs), "a value of {length} bytes");
            assert!(set.same(&pairs) && !set.same(&pairs[..2]));
            assert_eq!((set.name(), set.get("zz"), set.get("none")), ("name", Some(long.as_str()), None));
        }
        let set = LabelSet::from_sorted([("A", "1"), ("__name__", "up"), ("job", "a\"b")]);
        assert_eq!(set.to_string(), r#"up{A="1", job="a\"b"}"#);
        assert_eq!(serde_json::Value::Object(set.to_json_map()).to_string(), r#"{"A":"1","job":"a\"b"}"#);
        assert_eq!(LabelSet::from_sorted([]).name(), "");
    }

    #[test]
    fn each_malformed_set_has_its_reason_and_bound() {
        let limits = Limits { labels: 3, label_bytes: 40, ..Limits::default() };
        let long = "v".repeat(31);
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
        let cases: [Case; 9] = [
            (&[], "missing_name", "__name__"),
            (&[("a", "1")], "missing_name", "a=\"1\""),
            (&[("__name__", ""), ("a", "1")], "missing_name", "__name__"),
            (&[("__name__", "up"), ("", "x")], "empty_label_name", "\"x\""),
            (&[("a", "1"), ("__name__", "up"), ("a", "2")], "duplicate_label", "\"1\" and \"2\""),
            (&[("a", ""), ("__name__", "up"), ("a", "2")], "duplicate_label", "\"a\" twice"),
            (
                &[("__name__", "up"), ("a", "1"), ("b", "1"), ("c", "1")],
                "too_many_labels",
                "at most 3 labels (limits.labels); got 4",
            ),
            (
                &[("__name__", "up"), ("a", &long)],
                "labels_too_long",
                "at most 40 bytes together (limits.label_bytes); got 42",
            ),
            (&[("__name__", "up"), ("__name__", "down")], "duplicate_label", "__name__"),
        ];
        for (pairs, reason, part) in cases {
            let refused = check(&mut pairs.to_vec(), &limits).unwrap_err();
            assert_eq!(refused.reason(), reason, "{pairs:?}");
            assert!(refused.to_string().contains(part), "{refused}");
        }
        let mut pairs =
            vec![("job", "x"), ("gone", ""), ("__name__", "up"), ("also", ""), ("c", &long[..20])];
        check(&mut pairs, &limits).unwrap();
        assert_eq!(pairs, [("__name__", "up"), ("c", &long[..20]), ("job", "x")]);
    }
}
