//! What Prometheus answers: the envelope, series of a vector or matrix, and what to make of a refusal.
//!
//! Servers like Prometheus are written in Go, whose empty lists, maps and texts may be `null` in JSON. So a `null` is
//! taken for what is not there, wherever it stands: an empty list, no label, no sample.
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
pub struct QuerySeries {
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
pub struct ServerVersion {
    /// As the server says; `None` if it does not.
    pub text: Option<String>,
}

impl ServerVersion {
    /// The convention of range selectors, if the version tells.
    pub fn range(&self) -> Option<RangeConvention> {
        let major: u32 = self.text.as_deref()?.trim_start_matches('v').split('.').next()?.parse().ok()?;
        Some(if major >= 3 { RangeConvention::LeftOpen } else { RangeConvention::Closed })
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.as_deref().unwrap_or("unknown"))
    }
}

/// What a query found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryAnswer {
    /// The series of a vector or a matrix.
    pub series: Vec<QuerySeries>,
    /// Why the server says that some may be missing, if it does.
    pub partial: Option<String>,
}

impl QueryAnswer {
    /// The series, where none may be missing.
    ///
    /// # Errors
    /// [`QueryError::Transient`]: the rest may be there a moment later.
    pub fn whole(self) -> Result<Vec<QuerySeries>, QueryError> {
        match self.partial {
            None => Ok(self.series),
            Some(why) => Err(QueryError::Transient(format!("the answer is partial: {why}"))),
        }
    }
}

/// Around every answer of the API.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a, D: Deserialize<'de>"))]
struct Envelope<'a, D> {
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
    /// Nothing where there is no `data`, as opposed to `null`.
    #[serde(default = "Option::default", deserialize_with = "given")]
    data: Option<Option<D>>,
    #[serde(borrow, default, rename = "errorType")]
    error_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error: Option<Cow<'a, str>>,
    #[serde(default)]
    warnings: Option<Vec<Option<String>>>,
    /// As VictoriaMetrics says that a part of its cluster did not answer.
    #[serde(default, rename = "isPartial")]
    is_partial: Option<bool>,
}

fn given<'de, D: Deserialize<'de>, F: Deserializer<'de>>(from: F) -> Result<Option<Option<D>>, F::Error> {
    Option::deserialize(from).map(Some)
}

/// `data` of a query.
#[derive(Default, Deserialize)]
pub struct QueryData {
    result: Option<Vec<Option<QuerySeries>>>,
}

impl QueryData {
    /// The series of a vector or a matrix.
    pub fn series(self) -> Vec<QuerySeries> {
        self.result.into_iter().flatten().flatten().collect()
    }
}

/// `data` of a list of texts.
#[derive(Default, Deserialize)]
pub struct TextList(Vec<Option<String>>);

impl TextList {
    /// Those that are given.
    pub fn given(self) -> Vec<String> {
        self.0.into_iter().flatten().collect()
    }
}

/// `data` of `status/buildinfo`.
#[derive(Default, Deserialize)]
pub struct BuildInfo {
    /// E.g. `2.42.0`.
    #[serde(default)]
    pub version: Option<String>,
}

/// The data of a 200, and why the server says that some may be missing.
///
/// # Errors
/// A body that is not what Prometheus' API answers.
pub fn data<'a, D: Default + Deserialize<'a>>(body: &'a [u8]) -> Result<(D, Option<String>), String> {
    // Both the error and the status may repeat texts of the answer, however long.
    let envelope: Envelope<'a, D> = serde_json::from_slice(body)
        .map_err(|error| format!("the answer is not Prometheus': {}", shown(&error.to_string())))?;
    let status = envelope.status.unwrap_or_default();
    match envelope.data {
        Some(data) if status == "success" => {
            let partial = partial(envelope.is_partial == Some(true), envelope.warnings.unwrap_or_default());
            Ok((data.unwrap_or_default(), partial))
        }
        _ => Err(format!("the answer is not Prometheus': status {:?}", shown(&status))),
    }
}

/// Why samples may be missing: what `isPartial` and `warnings` say, except for Prometheus' remarks on an expression.
fn partial(is_partial: bool, warnings: Vec<Option<String>>) -> Option<String> {
    let about_storage = |warning: &String| !warning.trim().is_empty() && !warning.starts_with("PromQL ");
    let mut warnings = warnings.into_iter().flatten().filter(about_storage);
    match (warnings.next(), warnings.count()) {
        (Some(first), 0) => Some(shown(&first)),
        (Some(first), more) => Some(format!("{} (and {more} more warnings)", shown(&first))),
        (None, _) => is_partial.then(|| "isPartial is true".to_owned()),
    }
}

/// What to make of any other status than 200.
pub fn refusal(status: u16, retry_after: Option<&str>, body: &[u8]) -> QueryError {
    let (error_type, error) = match serde_json::from_slice::<Envelope<'_, IgnoredAny>>(body) {
        Ok(envelope) => (
            envelope.error_type.unwrap_or_default().into_owned(),
            envelope.error.unwrap_or_default().into_owned(),
        ),
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
struct WireSeries {
    metric: Option<WireLabels>,
    value: Option<WirePoint>,
    #[serde(default)]
    values: Option<Vec<Option<WirePoint>>>,
    histogram: Option<IgnoredAny>,
    #[serde(default)]
    histograms: Option<Vec<Option<IgnoredAny>>>,
}

impl<'de> Deserialize<'de> for QuerySeries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<QuerySeries, D::Error> {
        let written = WireSeries::deserialize(from)?;
        let values = written.values.into_iter().flatten().flatten().chain(written.value);
        let samples = values.filter_map(|point| Some((point.0, point.1?))).collect();
        let histograms = written.histograms.into_iter().flatten().flatten().count()
            + usize::from(written.histogram.is_some());
        let labels = written.metric.map_or_else(Vec::new, |metric| metric.0);
        Ok(QuerySeries { labels, samples, histograms })
    }
}

struct WireLabels(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WireLabels {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<WireLabels, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Vec<(String, String)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Option<String>>()? {
                    pairs.extend(value.map(|value| (name, value)));
                }
                Ok(pairs)
            }
        }
        from.deserialize_map(Pairs).map(WireLabels)
    }
}

/// `[1435781430.781,"1"]`; without a value where that is `null`.
struct WirePoint(i64, Option<f64>);

impl<'de> Deserialize<'de> for WirePoint {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<WirePoint, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = WirePoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds and a number as text")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<WirePoint, A::Error> {
                let seconds: Option<f64> = pair.next_element()?;
                let value: Option<Option<WireNumber>> = pair.next_element()?;
                let (Some(seconds), Some(value)) = (seconds, value) else {
                    return Err(A::Error::custom("a sample is a time and a value"));
                };
                // Far beyond any time we take, so that the gate refuses it by its own words.
                Ok(WirePoint((seconds * 1_000.0).round() as i64, value.map(|value| value.0)))
            }
        }
        from.deserialize_seq(Pair)
    }
}

struct WireNumber(f64);

impl<'de> Deserialize<'de> for WireNumber {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<WireNumber, D::Error> {
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
        from.deserialize_str(Text).map(WireNumber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(body: &str) -> Result<Vec<QuerySeries>, String> {
        data::<QueryData>(body.as_bytes()).map(|(data, _)| data.series())
    }

    #[test]
    fn null_is_what_is_not_there() {
        for (data, count) in [
            (r#"{"resultType":"matrix","result":null}"#, 0),
            (r#"{"resultType":null,"result":[]}"#, 0),
            ("null", 0),
            (r#"{"result":[null]}"#, 0),
            (r#"{"result":[{"metric":null,"values":null,"histograms":null}]}"#, 1),
            (r#"{"result":[{"metric":{"a":"b","c":null},"value":null,"histogram":null}]}"#, 1),
            (r#"{"result":[{"metric":{},"values":[null,[1,null]],"histograms":[null]}]}"#, 1),
        ] {
            let rest = r#""warnings":null,"error":null,"errorType":null,"isPartial":null,"infos":null"#;
            let body = format!(r#"{{"status":"success","data":{data},{rest}}}"#);
            let (found, partial) = data_of(&body);
            assert_eq!((found.len(), partial), (count, None), "{data}");
            for series in found {
                let held = (series.labels.len() < 2, series.samples.len(), series.histograms);
                assert_eq!(held, (true, 0, 0), "{data}");
            }
        }
        let names = |data: &str| {
            let body = format!(r#"{{"status":"success","data":{data}}}"#);
            self::data::<TextList>(body.as_bytes()).map(|(data, _)| data.given())
        };
        assert_eq!(names("null"), Ok(vec![]));
        assert_eq!(names(r#"["a",null]"#), Ok(vec!["a".to_owned()]));
        let version = |data: &str| self::data::<BuildInfo>(data.as_bytes()).map(|(info, _)| info.version);
        assert_eq!(version(r#"{"status":"success","data":null}"#), Ok(None));
        assert_eq!(version(r#"{"status":"success","data":{"version":null}}"#), Ok(None));
        for body in [r#"{"status":null,"data":null}"#, r#"{"status":"success"}"#, "null"] {
            assert!(series(body).is_err(), "{body}");
        }
        let said = refusal(400, None, br#"{"status":"error","errorType":null,"error":null}"#);
        assert_eq!(said.to_string(), "400");
    }

    fn data_of(body: &str) -> (Vec<QuerySeries>, Option<String>) {
        let (data, partial) =
            data::<QueryData>(body.as_bytes()).unwrap_or_else(|why| panic!("{why}: {body}"));
        (data.series(), partial)
    }

    #[test]
    fn an_answer_says_that_it_is_partial() {
        for (rest, partial) in [
            ("", None),
            (r#","isPartial":false,"warnings":[]"#, None),
            (r#","isPartial":true"#, Some("isPartial is true")),
            (r#","isPartial":true,"warnings":[null,""]"#, Some("isPartial is true")),
            (r#","warnings":["store a is away"]"#, Some("store a is away")),
            (r#","warnings":["a","b","c"],"isPartial":true"#, Some("a (and 2 more warnings)")),
            (r#","warnings":["PromQL warning: encountered a mix"],"infos":["PromQL info: x"]"#, None),
            (r#","infos":["x"]"#, None),
        ] {
            let (_, said) = data_of(&format!(r#"{{"status":"success","data":{{"result":[]}}{rest}}}"#));
            assert_eq!(said.as_deref(), partial, "{rest}");
        }
        let long = format!(r#"{{"status":"success","data":null,"warnings":["{}"]}}"#, "x".repeat(100_000));
        assert!(data_of(&long).1.unwrap().len() < 400);
        let answer = QueryAnswer { series: vec![], partial: Some("x".to_owned()) };
        assert_eq!(answer.whole().unwrap_err().outcome(), "transient");
    }

    #[test]
    fn vectors_and_matrices_are_read() {
        let got = series(
            r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"__name__":"a","l":"ä\n"},"values":[[1435781430.781,"1"],[1435781445.001,"NaN"],[1.5e9,"-Inf"]],
             "histograms":[[1,{"count":"1"}]]},
            {"metric":{},"value":[0.001,"1e-7"]}]}}"#,
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
        let range = |text: &str| ServerVersion { text: Some(text.to_owned()) }.range();
        assert_eq!(range("2.42.0+ds"), Some(RangeConvention::Closed));
        assert_eq!(range("v3.0.0-rc.1"), Some(RangeConvention::LeftOpen));
        assert_eq!(range("15.1"), Some(RangeConvention::LeftOpen));
        assert_eq!((range("main"), ServerVersion::default().range()), (None, None));
    }
}
