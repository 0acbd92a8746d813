//! The format of Prometheus text 0.0.4 with timestamps, one line at a time.
//!
//! ```text
//! http_requests_total{method="post", code="200"} 1027 1395066363000
//! {"a.quoted name", "ünïcode"="c"} +Inf 1395066363000
//! {__name__="up", job="x"} 1 1395066363000              as `promtool tsdb dump` prints
//! ```
//!
//! Three escapes are known: `\\`, `\"` and `\n`; any other backslash stands for itself, as in Prometheus. A line of a
//! dump is quoted as Go does it, and may hold a native histogram (`dump`).
//!
//! A line is first glanced at from its end: the last two words are value and timestamp, what precedes them names the
//! series. If exactly those bytes were read as a series before, the line is done. Only otherwise it is read from the
//! left, which finds labels or a definite complaint. The glance cannot be fooled: bytes that were once a whole series
//! and are followed by two words that are numbers read the same from the left.
//!
//! OpenMetrics names series in the same way and differs in what follows the value: a [`Dialect`].
//!
//! Not here: what OpenMetrics says between its samples (`openmetrics`).

use std::borrow::Cow;

use super::dump::{self, DumpHistogram};
use super::openmetrics;

/// What follows the value on a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Prometheus text: whole milliseconds.
    Prometheus,
    /// OpenMetrics: seconds, then perhaps an exemplar after `#`, which is left out.
    OpenMetrics,
}

impl Dialect {
    fn milliseconds(self, time: &[u8]) -> Option<i64> {
        match self {
            Dialect::Prometheus => whole(time),
            Dialect::OpenMetrics => openmetrics::milliseconds(time),
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Dialect::Prometheus => "a timestamp in milliseconds (every line needs one)",
            Dialect::OpenMetrics => "a timestamp in seconds (every line needs one)",
        }
    }

    /// What is wrong with a timestamp.
    fn complaint(self, time: &str) -> String {
        let must = match self {
            Dialect::Prometheus if time.contains('.') => {
                "whole milliseconds (seconds are read with --format openmetrics)"
            }
            Dialect::Prometheus => "whole milliseconds",
            Dialect::OpenMetrics => "a number of seconds",
        };
        format!("the timestamp must be {must}; got {}", shown(time))
    }
}

/// One sample of a line.
#[derive(Clone, Debug, PartialEq)]
pub struct LineSample<'a> {
    /// The text that names the series, as it stands.
    pub key: &'a [u8],
    /// Event time, Unix milliseconds.
    pub at_ms: i64,
    /// Value.
    pub value: f64,
}

/// What a line says of its series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LineSeries {
    /// One number.
    Float(f64),
    /// A native histogram, only in a dump.
    Histogram(DumpHistogram),
}

/// Name and value of a label.
pub type LabelText<'a> = (Cow<'a, str>, Cow<'a, str>);

/// One line, read in full.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpositionLine<'a> {
    /// As in a [`Glance`].
    pub key: &'a [u8],
    /// Event time, Unix milliseconds.
    pub at_ms: i64,
    /// Value.
    pub value: LineSeries,
    /// Labels in the order of the line, `__name__` included; not yet judged.
    pub pairs: Vec<LabelText<'a>>,
}

/// Whether a line holds no sample: blank, or a comment.
pub fn is_empty(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    line.is_empty() || line[0] == b'#'
}

/// Splits a line from its end; `None` if that does not work out, which says nothing about the line.
pub fn glance(line: &[u8], dialect: Dialect) -> Option<LineSample<'_>> {
    let (rest, time) = last_word(line.trim_ascii_end())?;
    let (rest, value) = last_word(rest)?;
    let key = trim(rest);
    // A name, a label or a quote begins a series. Other formats' keys begin otherwise and are never met here.
    let begins = key.first().is_some_and(|b| b.is_ascii_alphabetic() || matches!(b, b'_' | b':' | b'{'));
    let value = number(str::from_utf8(value).ok()?)?;
    begins.then_some(LineSample { key, at_ms: dialect.milliseconds(time)?, value })
}

/// The last word of `line`, and what precedes it.
fn last_word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = trim(line);
    let begin = line.iter().rposition(|b| is_blank(*b))? + 1;
    Some((&line[..begin], &line[begin..]))
}

/// What separates words within a line.
fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_blank(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_blank(*last)
    {
        text = rest;
    }
    text
}

/// A whole number of up to 18 digits.
fn whole(digits: &[u8]) -> Option<i64> {
    let (negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        all => (false, all),
    };
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let size = digits.iter().fold(0_i64, |all, digit| all * 10 + i64::from(digit - b'0'));
    Some(if negative { -size } else { size })
}

/// A value as Prometheus writes it: a decimal number, `NaN`, `+Inf`, `-Inf`.
pub fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// Reads a line from the left.
///
/// # Errors
/// What is wrong, with its column (counted in bytes from 1).
pub fn read(line: &str, dialect: Dialect) -> Result<ExpositionLine<'_>, String> {
    let mut reader =
        LineReader { text: line.trim_ascii_end(), at: 0, raw: Vec::new(), name_in_labels: false };
    reader.blanks();
    let begin = reader.at;
    let name = reader.word(|b, first| {
        b.is_ascii_alphabetic() || matches!(b, b'_' | b':') || (!first && b.is_ascii_digit())
    });
    if !name.is_empty() {
        reader.raw.push((RawString::NAME, RawString { text: name, at: begin }));
    }
    let mut end = reader.at;
    reader.blanks();
    if reader.next_is(b'{') {
        reader.labels()?;
        end = reader.at;
    } else if name.is_empty() {
        return Err(reader.complaint("expected a metric name or {"));
    }
    let dumped = name.is_empty() && reader.name_in_labels;
    let pairs = reader.pairs(dumped)?;
    reader.blanks();
    let value = match reader.at_byte(b'{') && dumped {
        true => LineSeries::Histogram(reader.histogram()?),
        false => {
            let word = reader.number("a value")?;
            let value = number(word).ok_or_else(|| {
                format!("the value must be a number, NaN, +Inf or -Inf; got {}", shown(word))
            })?;
            LineSeries::Float(value)
        }
    };
    reader.blanks();
    if dialect == Dialect::OpenMetrics && reader.at_byte(b'#') {
        return Err(reader.complaint(&format!("expected {}", dialect.expected())));
    }
    let time = reader.number(dialect.expected())?;
    let at_ms = dialect.milliseconds(time.as_bytes()).ok_or_else(|| dialect.complaint(time))?;
    reader.blanks();
    let exemplar = dialect == Dialect::OpenMetrics && reader.at_byte(b'#');
    if reader.at < reader.text.len() && !exemplar {
        return Err(reader.complaint("expected the end of the line"));
    }
    Ok(ExpositionLine { key: &line.as_bytes()[begin..end], at_ms, value, pairs })
}

/// A word as a message shows it: a line may be one long word.
fn shown(word: &str) -> String {
    const SHOWN_MAX: usize = 80;
    match word.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?}...", &word[..end]),
        None => format!("{word:?}"),
    }
}

/// The inside of a string before its escapes are read, and where it begins on the line.
#[derive(Clone, Copy)]
struct RawString<'a> {
    text: &'a str,
    at: usize,
}

impl RawString<'_> {
    const NAME: RawString<'static> = RawString { text: "__name__", at: 0 };

    fn is_name(&self) -> bool {
        self.text == RawString::NAME.text
    }
}

/// Reads the three escapes of the format.
fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let (mut text, mut rest) = (String::with_capacity(raw.len()), raw);
    while let Some((before, after)) = rest.split_once('\\') {
        let (read, length) = match after.as_bytes().first() {
            Some(b'\\') => ('\\', 1),
            Some(b'"') => ('"', 1),
            Some(b'n') => ('\n', 1),
            _ => ('\\', 0),
        };
        text.push_str(before);
        text.push(read);
        rest = &after[length..];
    }
    text.push_str(rest);
    Cow::Owned(text)
}

struct LineReader<'a> {
    text: &'a str,
    at: usize,
    raw: Vec<(RawString<'a>, RawString<'a>)>,
    /// Whether `__name__`, not in quotes, is among the labels.
    name_in_labels: bool,
}

impl<'a> LineReader<'a> {
    /// Reads `{...}`, whose opening brace is taken.
    fn labels(&mut self) -> Result<(), String> {
        loop {
            self.blanks();
            if self.next_is(b'}') {
                return Ok(());
            }
            self.pair()?;
            self.blanks();
            if !self.next_is(b',') {
                if self.next_is(b'}') {
                    return Ok(());
                }
                return Err(self.complaint("expected , or } after a label"));
            }
        }
    }

    /// Reads `name="value"`, `"name"="value"` or a quoted metric name.
    fn pair(&mut self) -> Result<(), String> {
        let begin = self.at;
        let quoted = self.next_is(b'"');
        let name = if quoted {
            self.quoted()?
        } else {
            let text =
                self.word(|b, first| b.is_ascii_alphabetic() || b == b'_' || (!first && b.is_ascii_digit()));
            RawString { text, at: begin }
        };
        if name.text.is_empty() && !quoted {
            return Err(self.complaint("expected a label name"));
        }
        self.blanks();
        if !self.next_is(b'=') {
            if !quoted {
                return Err(self.complaint("expected = after a label name"));
            }
            if self.raw.iter().any(|(name, _)| name.is_name()) {
                return Err(self.complaint("a second metric name before this"));
            }
            self.raw.push((RawString::NAME, name));
            return Ok(());
        }
        self.blanks();
        if !self.next_is(b'"') {
            return Err(self.complaint("expected a label value in quotes"));
        }
        let value = self.quoted()?;
        self.name_in_labels |= !quoted && name.is_name();
        self.raw.push((name, value));
        Ok(())
    }

    /// Reads up to the closing quote; the opening one is taken. What a backslash stands before closes nothing.
    fn quoted(&mut self) -> Result<RawString<'a>, String> {
        let begin = self.at;
        while let Some(step) = self.text[self.at..].find(['"', '\\']) {
            let at = self.at + step;
            if self.text.as_bytes()[at] == b'"' {
                self.at = at + 1;
                return Ok(RawString { text: &self.text[begin..at], at: begin });
            }
            let Some(escaped) = self.text[at + 1..].chars().next() else { break };
            self.at = at + 1 + escaped.len_utf8();
        }
        self.at = begin - 1;
        Err(self.complaint("a quote that is not closed"))
    }

    /// The labels with their escapes read: those of Go in a dump, else the three of the format.
    fn pairs(&self, dumped: bool) -> Result<Vec<LabelText<'a>>, String> {
        let text = |raw: &RawString<'a>| match dumped {
            true => dump::unquote(raw.text)
                .map_err(|at| self.complaint_at(raw.at + at, "an escape that Go does not write")),
            false => Ok(unescape(raw.text)),
        };
        self.raw.iter().map(|(name, value)| Ok((text(name)?, text(value)?))).collect()
    }

    /// Reads a native histogram, whose opening brace is next.
    fn histogram(&mut self) -> Result<DumpHistogram, String> {
        let Some(length) = self.text[self.at..].find('}') else {
            return Err(self.complaint("a histogram that is not closed"));
        };
        let text = &self.text[self.at..=self.at + length];
        self.at += text.len();
        dump::histogram(text)
    }

    /// The next word, which should be `what`.
    fn number(&mut self, what: &str) -> Result<&'a str, String> {
        self.blanks();
        let word = self.word(|b, _| !is_blank(b));
        if word.is_empty() { Err(self.complaint(&format!("expected {what}"))) } else { Ok(word) }
    }

    /// The longest run of bytes that `takes` takes; told whether a byte is the first. It takes either all bytes that
    /// are not ASCII or none, so the run ends between characters.
    fn word(&mut self, takes: impl Fn(u8, bool) -> bool) -> &'a str {
        let bytes = &self.text.as_bytes()[self.at..];
        let length = bytes.iter().enumerate().take_while(|(at, b)| takes(**b, *at == 0)).count();
        let word = &self.text[self.at..self.at + length];
        self.at += length;
        word
    }

    fn blanks(&mut self) {
        self.word(|b, _| is_blank(b));
    }

    /// Takes the next byte if it is `byte`.
    fn next_is(&mut self, byte: u8) -> bool {
        let is = self.at_byte(byte);
        self.at += usize::from(is);
        is
    }

    fn at_byte(&self, byte: u8) -> bool {
        self.text.as_bytes().get(self.at) == Some(&byte)
    }

    fn complaint(&self, what: &str) -> String {
        self.complaint_at(self.at, what)
    }

    fn complaint_at(&self, at: usize, what: &str) -> String {
        const SHOWN_MAX: usize = 20;
        let shown: String = self.text[at..].chars().take(SHOWN_MAX).collect();
        let got = if shown.is_empty() { "the end of the line".to_owned() } else { format!("{shown:?}") };
        format!("column {}: {what}; got {got}", at + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<ExpositionLine<'_>, String> {
        super::read(line, Dialect::Prometheus)
    }

    fn number_of(line: &ExpositionLine) -> f64 {
        let LineSeries::Float(value) = line.value else { panic!("a number: {line:?}") };
        value
    }

    type Pairs = &'static [(&'static str, &'static str)];

    fn pairs<'a>(line: &'a ExpositionLine) -> Vec<(&'a str, &'a str)> {
        line.pairs.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect()
    }

    #[test]
    fn lines_are_read_with_names_labels_and_escapes() {
        let table: [(&str, Pairs, f64); 17] = [
            ("up 1 5", &[("__name__", "up")], 1.0),
            ("  up\t1.5e3   5  \r", &[("__name__", "up")], 1_500.0),
            ("up{} 1 5", &[("__name__", "up")], 1.0),
            ("a:b_1{x=\"1\"}2 5", &[("__name__", "a:b_1"), ("x", "1")], 2.0),
            ("up { x = \"1\" , y=\"2\", } -3 5", &[("__name__", "up"), ("x", "1"), ("y", "2")], -3.0),
            (r#"up{p="C:\\DIR\\\"q\"\n"} 1 5"#, &[("__name__", "up"), ("p", "C:\\DIR\\\"q\"\n")], 1.0),
            (r#"up{x="a b,c}d{e=#"} 1 5"#, &[("__name__", "up"), ("x", "a b,c}d{e=#")], 1.0),
            (r#"{"my.metric", "a.b"="c"} 1 5"#, &[("__name__", "my.metric"), ("a.b", "c")], 1.0),
            (r#"{"a"="c", "ä ö"} 1 5"#, &[("a", "c"), ("__name__", "ä ö")], 1.0),
            (r#"{__name__="up", job="x"} 1 5"#, &[("__name__", "up"), ("job", "x")], 1.0),
            // Any backslash that begins no escape is one.
            (
                r#"up{x="C:\Windows\temp\x41\u00é"} 1 5"#,
                &[("__name__", "up"), ("x", r"C:\Windows\temp\x41\u00é")],
                1.0,
            ),
            (r#"{"a\t\"b", "c\d"="\\n\\\é"} 1 5"#, &[("__name__", "a\\t\"b"), ("c\\d", r"\n\\é")], 1.0),
            // Only `promtool tsdb dump` quotes as Go does.
            (
                r#"{A="\t\x41\u00e9", __name__="up", x="\U0001F600é\\"} 1 5"#,
                &[("A", "\tAé"), ("__name__", "up"), ("x", "😀é\\")],
                1.0,
            ),
            (r#"{__name__="up", "a.b"="\a"} 1 5"#, &[("__name__", "up"), ("a.b", "\u{7}")], 1.0),
            (r#"{"__name__"="up", x="\t"} 1 5"#, &[("__name__", "up"), ("x", "\\t")], 1.0),
            ("up +Inf 5", &[("__name__", "up")], f64::INFINITY),
            ("up -Inf 5", &[("__name__", "up")], f64::NEG_INFINITY),
        ];
        for (text, labels, value) in table {
            let line = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((pairs(&line), number_of(&line), line.at_ms), (labels.to_vec(), value, 5), "{text}");
        }
        assert!(number_of(&read("up NaN 5").unwrap()).is_nan());
        assert_eq!(read("up 1 -5").unwrap().at_ms, -5);
    }

    #[test]
    fn histograms_of_a_dump_are_read() {
        let line = read("{__name__=\"rpc\", a=\"b\"} {count:3, sum:1.5, (0,1]:3} 5").unwrap();
        assert_eq!((line.key, line.at_ms), (&b"{__name__=\"rpc\", a=\"b\"}"[..], 5));
        let LineSeries::Histogram(histogram) = line.value else { panic!("{line:?}") };
        assert_eq!(histogram.judge(), Ok([3.0, 1.5]));
    }

    #[test]
    fn messages_are_short_however_long_the_words() {
        let word = "é".repeat(100_000);
        for line in [format!("up {word} 1"), format!("up 1 {word}"), format!("up{{a=\"{word}"), word] {
            let message = read(&line).unwrap_err();
            assert!(message.len() < 300, "{} bytes", message.len());
        }
    }

    #[test]
    fn bad_lines_are_refused_with_their_column() {
        let table = [
            ("", "column 1: expected a metric name or {; got the end of the line"),
            ("1up 1 5", "column 1: expected a metric name or {; got \"1up 1 5\""),
            ("ü 1 5", "column 1: expected a metric name or {; got \"ü 1 5\""),
            ("up", "column 3: expected a value; got the end of the line"),
            (
                "up 1",
                "column 5: expected a timestamp in milliseconds (every line needs one); got the end of the line",
            ),
            (
                "up{a=\"b c\"} 1",
                "column 14: expected a timestamp in milliseconds (every line needs one); got the end of the line",
            ),
            ("up one 5", "the value must be a number, NaN, +Inf or -Inf; got \"one\""),
            ("up 0x1p3 5", "the value must be a number, NaN, +Inf or -Inf; got \"0x1p3\""),
            (
                "up 1 1.5",
                "the timestamp must be whole milliseconds (seconds are read with --format openmetrics); got \"1.5\"",
            ),
            ("up 1 x", "the timestamp must be whole milliseconds; got \"x\""),
            (
                "up 1 9999999999999999999",
                "the timestamp must be whole milliseconds; got \"9999999999999999999\"",
            ),
            ("up 1 5 6", "column 8: expected the end of the line; got \"6\""),
            ("up 1 5 # {a=\"b\"} 1", "column 8: expected the end of the line; got \"# {a=\\\"b\\\"} 1\""),
            ("up{ 1 5", "column 5: expected a label name; got \"1 5\""),
            ("up{a} 1 5", "column 5: expected = after a label name; got \"} 1 5\""),
            ("up{a=b} 1 5", "column 6: expected a label value in quotes; got \"b} 1 5\""),
            ("up{a=\"b} 1 5", "column 6: a quote that is not closed; got \"\\\"b} 1 5\""),
            ("up{a=\"b\\\"} 1 5", "column 6: a quote that is not closed; got \"\\\"b\\\\\\\"} 1 5\""),
            ("up{a=\"b\" c=\"d\"} 1 5", "column 10: expected , or } after a label; got \"c=\\\"d\\\"} 1 5\""),
            ("up{a=\"b\",,} 1 5", "column 10: expected a label name; got \",} 1 5\""),
            ("up{,} 1 5", "column 4: expected a label name; got \",} 1 5\""),
            (
                "{__name__=\"u\",b=\"c\\q\"} 1 5",
                "column 19: an escape that Go does not write; got \"\\\\q\\\"} 1 5\"",
            ),
            (
                "{b=\"\\xff\",__name__=\"u\"} 1 5",
                "column 5: an escape that Go does not write; got \"\\\\xff\\\",__name__=\\\"u\\\"} \"",
            ),
            ("up{a=\"\\\"} 1 5", "column 6: a quote that is not closed; got \"\\\"\\\\\\\"} 1 5\""),
            ("up{a=\"\\", "column 6: a quote that is not closed; got \"\\\"\\\\\""),
            ("{__name__=\"u\"} {count:1 5", "column 16: a histogram that is not closed; got \"{count:1 5\""),
            ("up {count:1, sum:1} 5", "column 10: expected = after a label name; got \":1, sum:1} 5\""),
            (
                "{\"up\"} {count:1, sum:1} 5",
                "the value must be a number, NaN, +Inf or -Inf; got \"{count:1,\"",
            ),
            ("up{\"down\"} 1 5", "column 10: a second metric name before this; got \"} 1 5\""),
            ("up{a-b=\"c\"} 1 5", "column 5: expected = after a label name; got \"-b=\\\"c\\\"} 1 5\""),
        ];
        for (text, message) in table {
            assert_eq!(read(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn comments_and_blanks_hold_nothing() {
        for line in ["", " ", "\t\r", "# HELP up x", "  # 1 2"] {
            assert!(is_empty(line.as_bytes()), "{line:?}");
        }
        assert!(!is_empty(b"up 1 5"));
    }

    /// A glance that finds a known series agrees with reading from the left, on any line.
    #[test]
    fn a_glance_agrees_with_the_full_reading() {
        let known = [r#"up"#, r#"up{a="b c 1 2"}"#, r#"{"x y" , a="\" 3 4"}"#, "up{}"];
        for key in known {
            assert_eq!(read(&format!("{key} 1 5")).unwrap().key, key.as_bytes());
        }
        let pieces = [
            " ", " 1", " 5", " 2e3", "\t-7", " NaN ", "\r", "\u{c}", "\"", "}", "{", "#", "a=", ",", "\\",
            "x", "é", "_",
        ];
        let seed = 3;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut hits = 0;
        for round in 0..200_000 {
            let mut text = random.choice(known).unwrap().to_owned();
            for _ in 0..random.usize(..6) {
                text.push_str(random.choice(pieces).unwrap());
            }
            let full = read(&text);
            let Some(glance) = glance(text.as_bytes(), Dialect::Prometheus) else { continue };
            if known.iter().any(|key| key.as_bytes() == glance.key) {
                let full = full.unwrap_or_else(|error| panic!("seed {seed}, round {round}: {text}: {error}"));
                assert_eq!((full.key, full.at_ms), (glance.key, glance.at_ms), "{text}");
                assert_eq!(number_of(&full).to_bits(), glance.value.to_bits(), "{text}");
                hits += 1;
            }
        }
        assert!(hits > 1_000, "{hits} lines were worth a glance");
    }
}
