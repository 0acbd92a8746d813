//! What Prometheus answers: the envelope, series of a vector or matrix, and what to make of a refusal.
//!
//! Not here: asking (`client`).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

/// Most characters of what a server said that we repeat.
const SAID_MAX: usize = 300;

/// One series of an answer. Its samples ascend in time; that of an instant vector is one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Label names and values, in the server's order.
    pub labels: Vec<(String, String)>,
    /// Unix milliseconds and value. Staleness markers never come; other NaN do.
    pub samples: Vec<(i64, f64)>,
    /// Native histograms among the values, which we do not read.
    pub histograms: usize,
}

/// Why there is no answer, split by what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Connection, timeout, overload: the same question may be answered later.
    #[error("{0}")]
    Transient(String),
    /// Too much for the server, or for us: ask for less at once.
    #[error("{0}")]
    TooMuch(String),
    /// The same question will get the same answer: a human has to change something.
    #[error("{0}")]
    Definite(String),
}

impl QueryError {
    /// The word in metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            QueryError::Transient(_) => "transient",
            QueryError::TooMuch(_) => "too_much",
            QueryError::Definite(_) => "definite",
        }
    }
}

/// How a range selector of this server takes its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeConvention {
    /// `[t - range, t]`, before Prometheus 3.
    Closed,
    /// `(t - range, t]`, since then.
    LeftOpen,
}

/// What server it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// As the server says; `None` if it does not.
    pub text: Option<String>,
}

impl Version {
    /// The convention of range selectors, if the version tells.
    pub fn range(&self) -> Option<RangeConvention> {
        let major: u32 = self.text.as_deref()?.trim_start_matches('v').split('.').next()?.parse().ok()?;
        Some(if major >= 3 { RangeConvention::LeftOpen } else { RangeConvention::Closed })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.as_deref().unwrap_or("unknown"))
    }
}

/// Around every answer of the API.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a, D: Deserialize<'de>"))]
struct Envelope<'a, D> {
    #[serde(borrow, default)]
    status: Cow<'a, str>,
    data: Option<D>,
    #[serde(borrow, default, rename = "errorType")]
    error_type: Cow<'a, str>,
    #[serde(borrow, default)]
    error: Cow<'a, str>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// `data` of a query.
#[derive(Deserialize)]
pub struct QueryData {
    /// The series of a vector or a matrix.
    pub result: Vec<Series>,
}

/// `data` of `status/buildinfo`.
#[derive(Deserialize)]
pub struct BuildInfo {
    /// E.g. `2.42.0`.
    #[serde(default)]
    pub version: Option<String>,
}

/// The data of a 200 and what the server warns of.
///
/// # Errors
/// A body that is not what Prometheus' API answers.
pub fn data<'a, D: Deserialize<'a>>(body: &'a [u8]) -> Result<(D, Vec<String>), String> {
    // Both the error and the status may repeat texts of the answer, however long.
    let envelope: Envelope<'a, D> = serde_json::from_slice(body)
        .map_err(|error| format!("the answer is not Prometheus': {}", shown(&error.to_string())))?;
    match envelope.data {
        Some(data) if envelope.status == "success" => Ok((data, envelope.warnings.unwrap_or_default())),
        _ => Err(format!("the answer is not Prometheus': status {:?}", shown(&envelope.status))),
    }
}

/// What to make of any other status than 200.
pub fn refusal(status: u16, retry_after: Option<&str>, body: &[u8]) -> QueryError {
    let (error_type, error) = match serde_json::from_slice::<Envelope<'_, IgnoredAny>>(body) {
        Ok(envelope) => (envelope.error_type.into_owned(), envelope.error.into_owned()),
        Err(_) => (String::new(), String::from_utf8_lossy(body).into_owned()),
    };
    let later = retry_after.map_or_else(String::new, |after| format!(" (Retry-After: {after})"));
    let hint = match status {
        401 | 403 => "; see http_config: basic_auth, authorization, tls_config",
        300..=399 => "; redirects are not followed: give the URL it leads to",
        404 => "; the URL is that of the server, before /api/v1",
        _ => "",
    };
    let gap = if error.trim().is_empty() { "" } else { ": " };
    let said = format!("{status}{gap}{}{later}{hint}", shown(&error));
    let lower = error.to_lowercase();
    let holds = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    match status {
        413 => QueryError::TooMuch(said),
        // What Prometheus, Thanos, Mimir and VictoriaMetrics say when a question is too big.
        400 | 422
            if holds(&[
                "too many",
                "too long",
                "exceed",
                "limit",
                "timed out",
                "cannot select more than",
            ]) =>
        {
            QueryError::TooMuch(said)
        }
        503 if error_type == "timeout" || lower.contains("timed out") => QueryError::TooMuch(said),
        408 | 425 | 429 | 500.. => QueryError::Transient(said),
        _ => QueryError::Definite(said),
    }
}

/// A server's words on one line of readable length.
fn shown(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SAID_MAX) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// A series as it is written.
#[derive(Deserialize)]
struct Written {
    metric: Metric,
    value: Option<Point>,
    #[serde(default)]
    values: Vec<Point>,
    histogram: Option<IgnoredAny>,
    #[serde(default)]
    histograms: Vec<IgnoredAny>,
}

impl<'de> Deserialize<'de> for Series {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Series, D::Error> {
        let written = Written::deserialize(from)?;
        let mut samples: Vec<(i64, f64)> =
            written.values.into_iter().map(|point| (point.0, point.1)).collect();
        samples.extend(written.value.map(|point| (point.0, point.1)));
        let histograms = written.histograms.len() + usize::from(written.histogram.is_some());
        Ok(Series { labels: written.metric.0, samples, histograms })
    }
}

struct Metric(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Metric, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Vec<(String, String)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }
        from.deserialize_map(Pairs).map(Metric)
    }
}

/// `[1435781430.781,"1"]`
struct Point(i64, f64);

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Point, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Point;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds and a number as text")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Point, A::Error> {
                let seconds: Option<f64> = pair.next_element()?;
                let value: Option<Number> = pair.next_element()?;
                let (Some(seconds), Some(value)) = (seconds, value) else {
                    return Err(A::Error::custom("a sample is a time and a value"));
                };
                // Far beyond any time we take, so that the gate refuses it by its own words.
                Ok(Point((seconds * 1_000.0).round() as i64, value.0))
            }
        }
        from.deserialize_seq(Pair)
    }
}

struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Number, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = f64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number as text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<f64, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_str(Text).map(Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(body: &str) -> Result<Vec<Series>, String> {
        data::<QueryData>(body.as_bytes()).map(|(data, _)| data.result)
    }

    #[test]
    fn vectors_and_matrices_are_read() {
        let got = series(
            r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"__name__":"a","l":"ä\n"},"values":[[1435781430.781,"1"],[1435781445.001,"NaN"],[1.5e9,"-Inf"]],
             "histograms":[[1,{"count":"1"}]]},
            {"metric":{},"value":[0.001,"1e-7"]}]},"warnings":["w"]}"#,
        )
        .unwrap();
        assert_eq!(
            got[0].labels,
            [("__name__".to_owned(), "a".to_owned()), ("l".to_owned(), "ä\n".to_owned())]
        );
        assert_eq!(got[0].samples[0], (1_435_781_430_781, 1.0));
        assert!(got[0].samples[1].0 == 1_435_781_445_001 && got[0].samples[1].1.is_nan());
        assert_eq!((got[0].samples[2], got[0].histograms), ((1_500_000_000_000, f64::NEG_INFINITY), 1));
        assert_eq!((&got[1].labels[..], &got[1].samples[..]), (&[][..], &[(1, 1e-7)][..]));
    }

    #[test]
    fn what_is_no_answer_is_refused_and_never_panics() {
        let good = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1,"2"]}]}}"#;
        assert_eq!(series(good).unwrap().len(), 1);
        for end in 0..good.len() {
            assert!(series(&good[..end]).is_err(), "{end}");
        }
        let damaged = |from: &str, to: &str| series(&good.replace(from, to));
        for (from, to) in [
            ("success", "error"),
            ("\"2\"", "2"),
            ("\"2\"", "\"x\""),
            ("[1,\"2\"]", "[1]"),
            ("[1,\"2\"]", "[1,\"2\",3]"),
            ("{\"a\":\"b\"}", "[]"),
            ("\"b\"", "7"),
            ("data", "dato"),
            ("[1,", "[\"1\","),
        ] {
            assert!(
                damaged(from, to).unwrap_err().starts_with("the answer is not Prometheus'"),
                "{from} {to}"
            );
        }
        assert!(series("<html>").is_err());
        let long = "x".repeat(100_000);
        for (from, to) in [("\"2\"", format!("\"{long}\"")), ("success", long)] {
            assert!(damaged(from, &to).unwrap_err().len() < 400, "an answer is repeated");
        }
    }

    #[test]
    fn refusals_are_split_by_what_to_do() {
        let json = |kind: &str, error: &str| {
            format!(r#"{{"status":"error","errorType":"{kind}","error":"{error}"}}"#)
        };
        for (status, body, outcome) in [
            (
                422,
                json(
                    "execution",
                    "query processing would load too many samples into memory in query execution",
                ),
                "too_much",
            ),
            (
                400,
                json("bad_data", "exceeded maximum resolution of 11,000 points per timeseries."),
                "too_much",
            ),
            (503, json("timeout", "query timed out in expression evaluation"), "too_much"),
            (422, json("execution", "the query hit the max number of chunks limit"), "too_much"),
            (413, String::new(), "too_much"),
            (422, json("execution", "expanding series: corrupt block"), "definite"),
            (400, json("bad_data", "invalid parameter"), "definite"),
            (401, "Unauthorized".to_owned(), "definite"),
            (404, "404 page not found".to_owned(), "definite"),
            (301, String::new(), "definite"),
            (503, "Service Unavailable".to_owned(), "transient"),
            (503, json("unavailable", "TSDB not ready"), "transient"),
            (500, json("internal", "x"), "transient"),
            (429, String::new(), "transient"),
        ] {
            assert_eq!(refusal(status, None, body.as_bytes()).outcome(), outcome, "{status} {body}");
        }
        let said = refusal(401, Some("7"), "un\nauth".as_bytes()).to_string();
        assert_eq!(
            said,
            "401: un auth (Retry-After: 7); see http_config: basic_auth, authorization, tls_config"
        );
        assert!(refusal(400, None, "é".repeat(1_000).as_bytes()).to_string().chars().count() < 320);
    }

    #[test]
    fn the_version_tells_how_ranges_are_bounded() {
        let range = |text: &str| Version { text: Some(text.to_owned()) }.range();
        assert_eq!(range("2.42.0+ds"), Some(RangeConvention::Closed));
        assert_eq!(range("v3.0.0-rc.1"), Some(RangeConvention::LeftOpen));
        assert_eq!(range("15.1"), Some(RangeConvention::LeftOpen));
        assert_eq!((range("main"), Version::default().range()), (None, None));
    }
}
