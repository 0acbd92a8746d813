//! What `promtool tsdb dump` prints and Prometheus text has not: labels in Go's quoting, and native histograms.
//!
//! ```text
//! {__name__="up", job="tab\there"} 1 1395066363000
//! {__name__="rpc_seconds"} {count:12, sum:18.4, [-0.001,0.001]:2, (0.5,1]:4, (1,2]:6} 1395066363000
//! ```
//!
//! A line is known by its begin: no name before the brace, and `__name__` among the labels. No other format is so.
//!
//! Not here: the line itself, which is read as Prometheus text is (`exposition`), and what is kept of histograms of
//! remote write (`histogram`).

use std::borrow::Cow;

use tidewatch_dataflows::sample::STALE_NAN_BITS;

use super::histogram::{fits, not_the_count};

/// The longest part of a histogram that a message shows, in characters.
const SHOWN_MAX: usize = 80;
/// Whole numbers below are exact as floats, and so is their sum.
const EXACT_BELOW: f64 = 9_007_199_254_740_992.0;

/// Reads the inside of a string as Go's `strconv.Quote` writes it.
///
/// # Errors
/// Where an escape begins that it never writes, or one of a byte that is no character by itself.
pub fn unquote(raw: &str) -> Result<Cow<'_, str>, usize> {
    if !raw.contains('\\') {
        return Ok(Cow::Borrowed(raw));
    }
    let (mut text, mut at) = (String::with_capacity(raw.len()), 0);
    while let Some(step) = raw[at..].find('\\') {
        text.push_str(&raw[at..at + step]);
        at += step;
        let (read, length) = escape(&raw[at + 1..]).ok_or(at)?;
        text.push(read);
        at += 1 + length;
    }
    text.push_str(&raw[at..]);
    Ok(Cow::Owned(text))
}

/// The character of an escape, from what follows its backslash, and how many bytes it takes there.
fn escape(after: &str) -> Option<(char, usize)> {
    let simple = match after.as_bytes().first()? {
        b'\\' => '\\',
        b'"' => '"',
        b'n' => '\n',
        b't' => '\t',
        b'r' => '\r',
        b'a' => '\u{7}',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'v' => '\u{b}',
        b'x' => return code(after, 2),
        b'u' => return code(after, 4),
        b'U' => return code(after, 8),
        _ => return None,
    };
    Some((simple, 1))
}

/// The character whose code is so many hexadecimal digits behind the first byte.
fn code(after: &str, digits: usize) -> Option<(char, usize)> {
    let hex = after.get(1..1 + digits).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let code = u32::from_str_radix(hex, 16).ok()?;
    // \x names a byte: only below 80 is it a character by itself.
    let whole = digits > 2 || code < 0x80;
    char::from_u32(code).filter(|_| whole).map(|read| (read, 1 + digits))
}

/// A native histogram, of which the count and the sum are kept; not yet judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DumpHistogram {
    count: f64,
    sum: f64,
    /// The sum of all buckets.
    buckets: f64,
    /// Whether it has a bucket.
    any: bool,
    /// Whether count and buckets are whole numbers.
    whole: bool,
    /// The first bucket below zero, or that is not a number.
    bad: Option<f64>,
}

/// Reads `{count:12, sum:18.4, (0.5,1]:4}`.
///
/// # Errors
/// What is wrong with it.
pub fn histogram(text: &str) -> Result<DumpHistogram, String> {
    let inside = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    let mut parts = inside.unwrap_or_default().split(", ");
    let mut labelled = |label: &str| {
        let part = parts.next().unwrap_or_default();
        part.strip_prefix(label).and_then(number).ok_or_else(|| malformed(part))
    };
    let (count, sum) = (labelled("count:")?, labelled("sum:")?);
    let mut read = DumpHistogram { count, sum, buckets: 0.0, any: false, whole: is_whole(count), bad: None };
    for part in parts {
        let bucket = bucket(part).ok_or_else(|| malformed(part))?;
        (read.buckets, read.any) = (read.buckets + bucket, true);
        read.whole &= is_whole(bucket);
        if bucket.is_nan() || bucket < 0.0 {
            read.bad.get_or_insert(bucket);
        }
    }
    Ok(read)
}

impl DumpHistogram {
    /// The values of `<name>_count` and `<name>_sum`.
    ///
    /// # Errors
    /// What does not add up, as by remote write.
    pub fn judge(&self) -> Result<[f64; 2], String> {
        let DumpHistogram { count, sum, buckets, .. } = *self;
        // A staleness marker is printed like any other NaN, and no histogram that observed NaN is empty.
        if count == 0.0 && sum.is_nan() && !self.any {
            return Ok([f64::from_bits(STALE_NAN_BITS); 2]);
        }
        if let Some(bad) = self.bad {
            return Err(format!("histogram.buckets must be 0 or more; got {bad}"));
        }
        if count.is_nan() || count < 0.0 {
            return Err(format!("histogram.count must be 0 or more; got {count}"));
        }
        let exact = self.whole && count < EXACT_BELOW && buckets < EXACT_BELOW;
        let adds_up = match exact {
            true if sum.is_nan() => buckets <= count,
            true => buckets == count,
            false => fits(buckets, count, sum),
        };
        if adds_up { Ok([count, sum]) } else { Err(not_the_count(&buckets, &count, sum)) }
    }
}

/// The number in a bucket `(lower,upper]:number`, whose ends may be open or closed.
fn bucket(part: &str) -> Option<f64> {
    let (lower, rest) = part.strip_prefix(['(', '['])?.split_once(',')?;
    let (upper, rest) = rest.split_once([')', ']'])?;
    (number(lower)? <= number(upper)?).then_some(())?;
    number(rest.strip_prefix(':')?)
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

fn is_whole(number: f64) -> bool {
    number.fract() == 0.0
}

fn malformed(part: &str) -> String {
    let shown: String = part.chars().take(SHOWN_MAX).collect();
    let more = if shown.len() < part.len() { "..." } else { "" };
    format!("a histogram must be {{count:N, sum:N, (lower,upper]:N, ...}}; got {shown:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_quoting_is_read() {
        // What Prometheus 3.15 prints of every kind of character.
        let printed = r#"tab\tq\"b\\n\nl\a é \u00ad 😀 \u202e \x7f\x01\b\f\r\v\U000e0001"#;
        let want = "tab\tq\"b\\n\nl\u{7} é \u{ad} 😀 \u{202e} \u{7f}\u{1}\u{8}\u{c}\r\u{b}\u{e0001}";
        assert_eq!(unquote(printed).unwrap(), want);
        assert!(matches!(unquote("plain"), Ok(Cow::Borrowed("plain"))));
        for (raw, at) in [("\\q", 0), ("ab\\xff", 2), ("\\ud800", 0), ("\\u00é", 0), ("\\x4", 0), ("é\\", 2)]
        {
            assert_eq!(unquote(raw), Err(at), "{raw}");
        }
    }

    #[test]
    fn what_promtool_prints_of_a_histogram_is_its_count_and_sum() {
        // Printed by Prometheus 3.15: integers, floats, large floats, custom buckets, custom floats, empty, gauge, with
        // an observation of NaN, and beyond the last bucket.
        let table = [
            (
                "{count:17, sum:18.4, [-4,-2.82842712474619):4, [-2.82842712474619,-2):1, [-1.414213562373095,-1):3, [-1,-0.7071067811865475):2, [-0.001,0.001]:2, (0.7071067811865475,1]:1, (1,1.414213562373095]:2, (2,2.82842712474619]:1, (2.82842712474619,4]:1}",
                [17.0, 18.4],
            ),
            (
                "{count:5.1, sum:5.52, [-4,-2.82842712474619):1.2, [-2.82842712474619,-2):0.3, [-1.414213562373095,-1):0.8999999999999999, [-1,-0.7071067811865475):0.6, [-0.001,0.001]:0.6, (0.7071067811865475,1]:0.3, (1,1.414213562373095]:0.6, (2,2.82842712474619]:0.3, (2.82842712474619,4]:0.3}",
                [5.1, 5.52],
            ),
            ("{count:3e+22, sum:1e-07, (0.5,1]:3e+22}", [3e22, 1e-7]),
            ("{count:6, sum:-1.5, [-Inf,0.5]:1, (0.5,2]:2, (2,+Inf]:3}", [6.0, -1.5]),
            ("{count:3, sum:-0.75, [-Inf,0.5]:0.5, (0.5,2]:1, (2,+Inf]:1.5}", [3.0, -0.75]),
            ("{count:0, sum:0}", [0.0, 0.0]),
            ("{count:1, sum:5, [-0,0]:1}", [1.0, 5.0]),
            ("{count:2, sum:+Inf, (1.7976931348623157e+308,+Inf]:2}", [2.0, f64::INFINITY]),
        ];
        for (text, want) in table {
            assert_eq!(histogram(text).unwrap().judge(), Ok(want), "{text}");
        }
        let unplaced = histogram("{count:2, sum:NaN, [-0,0]:1}").unwrap().judge().unwrap();
        assert!(unplaced[0] == 2.0 && unplaced[1].is_nan());
        // A count of 0 in its place would be a counter that began anew.
        let stale = histogram("{count:0, sum:NaN}").unwrap().judge().unwrap();
        assert_eq!(stale.map(f64::to_bits), [STALE_NAN_BITS; 2]);
    }

    #[test]
    fn what_is_no_histogram_or_does_not_add_up_is_refused() {
        let form = "a histogram must be {count:N, sum:N, (lower,upper]:N, ...}; got ";
        let table = [
            ("{}", format!("{form}\"\"")),
            ("{count:12}", format!("{form}\"\"")),
            ("{count:, sum:1}", format!("{form}\"count:\"")),
            ("{sum:1, count:1}", format!("{form}\"sum:1\"")),
            ("{count:1, sum:1, (0,1]}", format!("{form}\"(0,1]\"")),
            ("{count:1, sum:1, (1,0]:1}", format!("{form}\"(1,0]:1\"")),
            ("{count:1, sum:1, 0,1]:1}", format!("{form}\"0,1]:1\"")),
            ("{count:1, sum:1,(0,1]:1}", format!("{form}\"sum:1,(0,1]:1\"")),
            ("{count:1, sum:1, (0,1]:x}", format!("{form}\"(0,1]:x\"")),
        ];
        for (text, message) in table {
            assert_eq!(histogram(text), Err(message), "{text}");
        }
        assert!(histogram(&format!("{{count:{}}}", "é".repeat(100_000))).unwrap_err().len() < 400);
        let count = "histogram.count must be ";
        let table = [
            ("{count:18, sum:1, (0,1]:17}", format!("{count}equal to the sum of its buckets (17); got 18")),
            ("{count:2, sum:NaN, (0,1]:3}", format!("{count}at least the sum of its buckets (3); got 2")),
            ("{count:1.5, sum:1, (0,1]:1}", format!("{count}equal to the sum of its buckets (1); got 1.5")),
            (
                "{count:1000000000, sum:1, (0,1]:1000000001}",
                format!("{count}equal to the sum of its buckets (1000000001); got 1000000000"),
            ),
            ("{count:-1, sum:1, (0,1]:1}", format!("{count}0 or more; got -1")),
            ("{count:NaN, sum:1}", format!("{count}0 or more; got NaN")),
            ("{count:1, sum:1, (0,1]:-1}", "histogram.buckets must be 0 or more; got -1".to_owned()),
        ];
        for (text, message) in table {
            assert_eq!(histogram(text).unwrap().judge(), Err(message), "{text}");
        }
    }
}
