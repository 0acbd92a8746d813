//! The format OpenMetrics 1.0: what a file says between its samples, and its timestamps.
//!
//! ```text
//! # TYPE http_requests counter
//! http_requests_total{code="200"} 1027 1395066363.000 # {trace_id="x"} 0.67
//! http_requests_created{code="200"} 1395060000.123 1395066363.000
//! # EOF
//! ```
//!
//! `# EOF` is the proof that a file is whole. A `_created` sample tells when a counter began and is no sample of a
//! metric: it is known by the `# TYPE` of its family, because a gauge may well be called `kube_pod_created`.
//!
//! Not here: the samples themselves, which are those of Prometheus text with another end (`exposition`).

/// Types of metrics whose families hold `_created` samples.
const CREATED: [&str; 4] = ["counter", "histogram", "summary", "gaugehistogram"];
const SUFFIX: &str = "_created";
/// Most digits of a timestamp that are looked at.
const DIGITS_MAX: usize = 36;

/// What a file has said so far.
#[derive(Debug, Default)]
pub struct OpenMetricsFile {
    /// The name of `_created` samples of the family at hand, if it has such.
    created: Option<String>,
    ended: bool,
}

impl OpenMetricsFile {
    /// Takes a line that holds no sample, whatever it says: blank, `# TYPE`, `# EOF`, any comment. False for others.
    pub fn takes(&mut self, line: &[u8]) -> bool {
        let line = line.trim_ascii();
        if line.first().is_some_and(|first| *first != b'#') {
            return false;
        }
        self.ended |= line == b"# EOF";
        if let Some(family) = line.strip_prefix(b"# TYPE ").and_then(|rest| str::from_utf8(rest).ok()) {
            self.created = created(family);
        }
        true
    }

    /// Whether a line may hold a `_created` sample, and so has to be read in full.
    pub fn may_be_created(&self, line: &[u8]) -> bool {
        self.created.is_some() && line.windows(SUFFIX.len()).any(|part| part == SUFFIX.as_bytes())
    }

    /// Whether a sample of this metric tells when one of the family at hand was created.
    pub fn is_created(&self, metric: &str) -> bool {
        self.created.as_deref() == Some(metric)
    }

    /// Whether `# EOF` was met.
    pub fn ended(&self) -> bool {
        self.ended
    }
}

/// The name of a family's `_created` samples, from what follows `# TYPE`; none if its type has none.
fn created(family: &str) -> Option<String> {
    let (name, kind) = family.trim().rsplit_once([' ', '\t'])?;
    // A name that is not plain stands in quotes.
    let name = name.trim();
    let name = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name);
    CREATED.contains(&kind).then(|| format!("{name}{SUFFIX}"))
}

/// Unix milliseconds from decimal seconds (`1.395066363e+09` too), exactly; what is finer is cut off, as Prometheus
/// does. None for what is no decimal number, and for times that are beyond all bounds.
pub fn milliseconds(seconds: &[u8]) -> Option<i64> {
    let (mantissa, exponent) = match seconds.iter().position(|b| matches!(b, b'e' | b'E')) {
        None => (seconds, 0),
        Some(at) => (&seconds[..at], str::from_utf8(&seconds[at + 1..]).ok()?.parse::<i16>().ok()?),
    };
    let (negative, digits) = match mantissa {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    if digits.len() > DIGITS_MAX || !digits.iter().any(u8::is_ascii_digit) {
        return None;
    }
    let (mut size, mut decimals, mut point) = (0_i128, 0_i32, false);
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                size = size * 10 + i128::from(byte - b'0');
                decimals += i32::from(point);
            }
            b'.' if !point => point = true,
            _ => return None,
        }
    }
    let shift = i32::from(exponent) + 3 - decimals;
    let power = 10_i128.checked_pow(shift.unsigned_abs());
    let size = match (shift < 0, power) {
        (false, Some(power)) => size.checked_mul(power)?,
        (false, None) => (size == 0).then_some(0)?,
        (true, Some(power)) => size / power,
        (true, None) => 0,
    };
    i64::try_from(if negative { -size } else { size }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::exposition::{Dialect, LineSeries, glance, read};

    #[test]
    fn seconds_become_milliseconds_without_a_float_between() {
        let table: [(&str, Option<i64>); 36] = [
            ("0", Some(0)),
            ("1", Some(1_000)),
            ("-1.5", Some(-1_500)),
            ("+1.5", Some(1_500)),
            ("1.", Some(1_000)),
            (".5", Some(500)),
            ("1395066363.000", Some(1_395_066_363_000)),
            ("1395066363.001", Some(1_395_066_363_001)),
            ("1395066363.0019999999", Some(1_395_066_363_001)),
            ("1.395066363e+09", Some(1_395_066_363_000)),
            ("1.520879607789e+09", Some(1_520_879_607_789)),
            ("1.520879607789E9", Some(1_520_879_607_789)),
            ("1520879607789e-3", Some(1_520_879_607_789)),
            ("15208796077891e-4", Some(1_520_879_607_789)),
            // 4.35 x 1000 is 4349.99... as floats.
            ("4.35", Some(4_350)),
            ("-4.35", Some(-4_350)),
            ("1e-400", Some(0)),
            ("0e9999", Some(0)),
            ("000000000001.001", Some(1_001)),
            ("9223372036854775.807", Some(i64::MAX)),
            ("9223372036854775.808", None),
            ("1e400", None),
            ("1e99999", None),
            ("1e", None),
            ("e5", None),
            ("", None),
            ("-", None),
            (".", None),
            ("1.2.3", None),
            ("1_000", None),
            ("0x10", None),
            ("NaN", None),
            ("+Inf", None),
            ("Inf", None),
            ("--1", None),
            ("1111111111111111111111111111111111111", None),
        ];
        for (text, want) in table {
            assert_eq!(milliseconds(text.as_bytes()), want, "{text}");
        }
        let seed = 5;
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..100_000 {
            let at_ms = random.i64(0..253_402_300_800_000);
            let plain = format!("{}.{:03}", at_ms / 1_000, at_ms % 1_000);
            assert_eq!(milliseconds(plain.as_bytes()), Some(at_ms), "seed {seed}: {plain}");
            let go = format!("{:e}", at_ms as f64 / 1_000.0);
            assert_eq!(milliseconds(go.as_bytes()), Some(at_ms), "seed {seed}: {go}");
        }
    }

    #[test]
    fn lines_are_read_up_to_their_exemplars() {
        let good = [
            "up 1 1.5",
            "  up\t1.0  1.5 \r",
            "up 1 1.5 # {} 1",
            "up 1 1.5 # {trace_id=\"KOO5S4vxi0o\"} 0.67 1520879607.789",
            "up{} 1 1500e-3",
            "{\"up\"} 1 1.5",
        ];
        for text in good {
            let line = read(text, Dialect::OpenMetrics).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                (line.at_ms, line.value, line.pairs[0].1.as_ref()),
                (1_500, LineSeries::Float(1.0), "up"),
                "{text}"
            );
        }
        let line = read(r#"{"my.metric", "a.b"="c # d"} NaN 1"#, Dialect::OpenMetrics).unwrap();
        assert_eq!((line.pairs.len(), line.pairs[0].1.as_ref()), (2, "my.metric"));
        assert!(matches!(line.value, LineSeries::Float(nan) if nan.is_nan()));
        let bad = [
            (
                "up 1",
                "column 5: expected a timestamp in seconds (every line needs one); got the end of the line",
            ),
            (
                "up 1 # {a=\"b\"} 1 2",
                "column 6: expected a timestamp in seconds (every line needs one); got \"# {a=\\\"b\\\"} 1 2\"",
            ),
            ("up 1 x", "the timestamp must be a number of seconds; got \"x\""),
            ("up 1 NaN", "the timestamp must be a number of seconds; got \"NaN\""),
            ("up 1 5#", "the timestamp must be a number of seconds; got \"5#\""),
            ("up 1 5 6", "column 8: expected the end of the line; got \"6\""),
            ("up one 5", "the value must be a number, NaN, +Inf or -Inf; got \"one\""),
        ];
        for (text, message) in bad {
            assert_eq!(read(text, Dialect::OpenMetrics), Err(message.to_owned()), "{text}");
        }
        // The numbers of an exemplar are not taken for those of the sample: such a key was never read.
        let glanced = glance(b"up 1 5 # {a=\"b\"} 3 7", Dialect::OpenMetrics).unwrap();
        assert_eq!(glanced.key, b"up 1 5 # {a=\"b\"}");
        assert_eq!(glance(b"up 1 5.25", Dialect::OpenMetrics).unwrap().at_ms, 5_250);
    }

    #[test]
    fn created_samples_are_known_by_the_type_of_their_family() {
        let table = [
            ("# TYPE a counter", "a_created", true),
            ("# TYPE a histogram \r\n", "a_created", true),
            ("# TYPE \"a b\" summary", "a b_created", true),
            ("# TYPE a gaugehistogram", "a_created", true),
            ("# TYPE kube_pod_created gauge", "kube_pod_created", false),
            ("# TYPE a unknown", "a_created", false),
            ("# TYPE a", "a_created", false),
            ("# HELP a counter", "a_created", false),
            ("# TYPE a counter", "b_created", false),
            ("# TYPE a counter", "a_total", false),
        ];
        for (comment, metric, want) in table {
            let mut file = OpenMetricsFile::default();
            assert!(file.takes(comment.as_bytes()), "{comment}");
            assert_eq!(file.is_created(metric), want, "{comment}, {metric}");
            assert!(!want || file.may_be_created(format!("{metric} 1 2").as_bytes()), "{comment}");
        }
        let mut file = OpenMetricsFile::default();
        assert!(file.takes(b"# TYPE a counter") && file.takes(b"# TYPE b gauge"));
        assert!(!file.is_created("a_created"), "the family at hand is another one");
    }

    #[test]
    fn only_the_line_eof_ends_a_file() {
        for line in ["", " \n", "#", "# EOFF", "#EOF", "# eof", "# UNIT a seconds", "# HELP a # EOF"] {
            let mut file = OpenMetricsFile::default();
            assert!(file.takes(line.as_bytes()) && !file.ended(), "{line:?}");
        }
        for line in ["# EOF", "# EOF\n", "# EOF\r\n"] {
            let mut file = OpenMetricsFile::default();
            assert!(file.takes(line.as_bytes()) && file.ended(), "{line:?}");
        }
        assert!(!OpenMetricsFile::default().takes(b"up 1 2"));
    }
}
