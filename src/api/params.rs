//! Query parameters: those that several operations take, and how they are read once, judged by name, value and bound; unknown ones are refused.

use std::ops::RangeInclusive;

use axum::extract::Query;
use axum::http::Uri;
use serde_json::{Value, json};
use tidewatch_dataflows::sample::{AT_MS_MAX, SeriesId};
use tidewatch_dataflows::settings::{Window, duration, parse_duration};

use super::error::{Problem, shown};
use super::operation::{Operation, Param};
use crate::store::record::Rfc3339;
use crate::store::row::RejectGrouping;
use crate::store::search::{SEARCH_BYTES_MAX, Search};
use crate::store::selector::{SELECTOR_BYTES_MAX, Selectors};
use crate::store::sort::{Sort, SortBy};
use crate::store::{Filter, PAGE_ROWS_MAX, Range, STATISTICS, Statistic};

/// Most parameters of a request.
const PARAMETERS_MAX: usize = 256;

/// Rows of a page if `limit` is absent.
pub const LIMIT_DEFAULT: usize = 1_000;

/// Longest window, as the settings bound it.
const WINDOW_MS_MAX: i64 = 30 * 86_400_000;

/// `{series}` in a path.
pub const SERIES: Param = Param::path(
    "series",
    "1f0a3c5e7b9d2468",
    "A series: its id of 16 hex digits, or a metric name that it alone bears (409 lists the ids where several do).",
);
const fn verdict(name: &'static str, about: &'static str) -> Param {
    Param::query(name, "true", about, || json!({"type": "string", "enum": ["true", "false"]}))
}

pub const MATCH: Param = Param::query(
    "match[]",
    "up{job=\"node\"}",
    "Series that this selector means, as in Prometheus; any of several. All series if absent.",
    || json!({"type": "string", "maxLength": SELECTOR_BYTES_MAX}),
)
.repeated();
pub const SEARCH: Param = Param::query(
    "search",
    "node eth0",
    "Words, each of which must occur in the name or in a `label=value`, whatever its case.",
    || json!({"type": "string", "maxLength": SEARCH_BYTES_MAX}),
);
pub const SORT: Param = Param::query(
    "sort",
    "-max",
    "By which column; a minus puts the greatest first. All but `name` take the latest rows of one window: give \
     `window` once, and none of `start`, `end` and `at`.",
    || {
        let words: Vec<_> =
            sorts().into_iter().flat_map(|word| [word.to_owned(), format!("-{word}")]).collect();
        json!({"type": "string", "enum": words, "default": "name"})
    },
);
pub const WINDOW: Param = Param::query(
    "window",
    "1h",
    "Rows of windows of this length, from 1s to 30d; all if absent.",
    duration_schema,
)
.repeated();
pub const START: Param = Param::query(
    "start",
    "2026-01-02T03:04:05Z",
    "The first time, itself included: RFC 3339 (a plus sign is written `%2B`) or Unix seconds.",
    time_schema,
);
pub const END: Param = Param::query(
    "end",
    "2026-01-02T04:04:05Z",
    "The last time, itself included: RFC 3339 (a plus sign is written `%2B`) or Unix seconds.",
    time_schema,
);
pub const NOW: Param = Param::query(
    "at",
    "now",
    "`now` shows windows that are still open, as far as they are filled.",
    || json!({"type": "string", "enum": ["now"]}),
);
pub const STATIONARY: Param = verdict("stationary", "Only series that are stationary, or that are not.");
pub const SEASONAL: Param = verdict("seasonal", "Only series that are seasonal, or that are not.");
pub const AUTOCORRELATED: Param =
    verdict("autocorrelated", "Only series that are autocorrelated, or that are not.");
pub const LIMIT: Param = Param::query(
    "limit",
    "100",
    "Most rows of the page.",
    || json!({"type": "integer", "minimum": 1, "maximum": PAGE_ROWS_MAX, "default": LIMIT_DEFAULT}),
)
.shows();
pub const CURSOR: Param = Param::query(
    "cursor",
    "",
    "Where the page before ended: its `next`, or in CSV its header `x-next-cursor`. It stays good while rows are written. Give \
     every other parameter and the path as before; only `limit` and `format` may change.",
    || json!({"type": "string"}),
)
.shows();
pub const FORMAT: Param = Param::query(
    "format",
    "csv",
    "How rows are written.",
    || json!({"type": "string", "enum": ["json", "csv"], "default": "json"}),
)
.shows();

/// The JSON Schema of a time.
fn time_schema() -> Value {
    let most = AT_MS_MAX / 1_000;
    json!({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": -most, "maximum": most}]})
}

/// The JSON Schema of a duration.
pub fn duration_schema() -> Value {
    json!({"type": "string", "pattern": DURATION, "minLength": 1})
}

/// A duration as Prometheus writes it.
pub const DURATION: &str = "^([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";

/// How a list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFormat {
    /// `{"data":[...],"next":...}`
    Json,
    /// A line of column names, then a line per row.
    Csv,
}

/// The query parameters of one request.
#[derive(Debug)]
pub struct Params {
    operation: &'static Operation,
    path: String,
    pairs: Vec<(String, String)>,
}

impl Params {
    /// Reads the parameters of a request for an operation.
    ///
    /// # Errors
    /// 400 naming the first parameter that the operation does not have, or that is given twice.
    pub fn read(uri: &Uri, operation: &'static Operation) -> Result<Params, Problem> {
        let query = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Problem::bad_request(format!("the query string cannot be read: {error}")))?;
        let pairs = query.0;
        if pairs.len() > PARAMETERS_MAX {
            let detail = format!("at most {PARAMETERS_MAX} parameters are taken; got {}", pairs.len());
            return Err(Problem::bad_request(detail));
        }
        for (i, (name, _)) in pairs.iter().enumerate() {
            let filter = operation.filters && filtered(name).is_some();
            let known = operation.query(name);
            if !filter && known.is_none() {
                let taken = operation.taken();
                let detail = format!("{} takes {taken}; got {}", uri.path(), shown(name));
                return Err(Problem::bad_request(detail));
            }
            let again = pairs[..i].iter().any(|(earlier, _)| earlier == name);
            if again && !known.is_some_and(|known| known.repeated) {
                return Err(Problem::bad_request(format!("{name} must be given once; got it twice")));
            }
        }
        Ok(Params { operation, path: uri.path().to_owned(), pairs })
    }

    /// The value of a parameter that is given once.
    pub fn one(&self, wanted: &str) -> Option<&str> {
        self.pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    /// `series`: the ids that are asked for, at most so many.
    pub fn series_ids(&self, most: usize) -> Result<Vec<SeriesId>, Problem> {
        let texts: Vec<_> = self.all("series").collect();
        if texts.len() > most {
            return Err(Problem::parameter(
                "series",
                &format!("given at most {most} times"),
                &texts.len().to_string(),
            ));
        }
        texts
            .into_iter()
            .map(|text| {
                text.parse().map_err(|_| Problem::parameter("series", "an id of 16 hex digits", text))
            })
            .collect()
    }

    /// A verdict that is asked for.
    pub fn verdict(&self, name: &'static str) -> Result<Option<bool>, Problem> {
        match self.one(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(Problem::parameter(name, "true or false", other)),
        }
    }

    /// `limit`: rows of a page.
    pub fn limit(&self) -> Result<usize, Problem> {
        Ok(self.count("limit", 1..=PAGE_ROWS_MAX)?.unwrap_or(LIMIT_DEFAULT))
    }

    /// A whole number within bounds.
    pub fn count(&self, name: &'static str, bounds: RangeInclusive<usize>) -> Result<Option<usize>, Problem> {
        let Some(text) = self.one(name) else { return Ok(None) };
        let count = text.parse().ok().filter(|count| bounds.contains(count));
        let bound = || format!("{} to {}", bounds.start(), bounds.end());
        count.map(Some).ok_or_else(|| Problem::parameter(name, &bound(), text))
    }

    /// One of some words, and what it means.
    pub fn choice<T: Copy>(
        &self,
        name: &'static str,
        choices: &[(&'static str, T)],
    ) -> Result<Option<(&'static str, T)>, Problem> {
        let Some(text) = self.one(name) else { return Ok(None) };
        let words = || choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let found = choices.iter().find(|(word, _)| *word == text);
        found
            .map(|found| Some(*found))
            .ok_or_else(|| Problem::parameter(name, &format!("one of {}", words()), text))
    }

    /// `format`: json or csv.
    pub fn format(&self) -> Result<ListFormat, Problem> {
        match self.one("format") {
            None | Some("json") => Ok(ListFormat::Json),
            Some("csv") => Ok(ListFormat::Csv),
            Some(text) => Err(Problem::parameter("format", "json or csv", text)),
        }
    }

    /// `match[]`: which series.
    pub fn selectors(&self) -> Result<Selectors, Problem> {
        let texts: Vec<_> = self.all("match[]").collect();
        Selectors::parse(&texts).map_err(|error| Problem::bad_request(format!("match[]: {error}")))
    }

    /// `search`: words that must occur.
    pub fn search(&self) -> Result<Search, Problem> {
        let text = self.one("search").unwrap_or("");
        let bound = format!("at most {SEARCH_BYTES_MAX} bytes");
        Search::parse(text).map_err(|_| Problem::parameter("search", &bound, text))
    }

    /// `sort`: a column, falling with a leading minus; none for the order that lists have anyway.
    pub fn sort(&self) -> Result<Option<Sort>, Problem> {
        let text = self.one("sort").unwrap_or("name");
        let (descending, word) = text.strip_prefix('-').map_or((false, text), |word| (true, word));
        let stat = Statistic::named(word).map(SortBy::Stat);
        let by = match (word, stat) {
            ("name", _) if !descending => return Ok(None),
            ("name", _) => SortBy::Name,
            ("at", _) => SortBy::At,
            (_, Some(by)) => by,
            (_, None) => {
                let bound = format!("{}, or one of them behind a minus", sorts().join(", "));
                return Err(Problem::parameter("sort", &bound, text));
            }
        };
        Ok(Some(Sort { by, descending, after: None }))
    }

    /// `start` and `end`, inclusive; none if neither is given.
    pub fn range(&self) -> Result<Option<Range>, Problem> {
        let time = |name| self.one(name).map(|text| time_ms(name, text)).transpose();
        let (start, end) = (time("start")?, time("end")?);
        let range = Range { start_ms: start.unwrap_or(i64::MIN), end_ms: end.unwrap_or(i64::MAX) };
        if range.start_ms > range.end_ms {
            let bound = format!("at most end ({})", shown(self.one("end").unwrap_or("")));
            return Err(Problem::parameter("start", &bound, self.one("start").unwrap_or("")));
        }
        Ok((start.is_some() || end.is_some()).then_some(range))
    }

    /// `at`: whether what is open is asked for, and not what is stored.
    pub fn now(&self) -> Result<bool, Problem> {
        match self.one("at") {
            None => Ok(false),
            Some("now") => match ["start", "end"].into_iter().find(|name| self.one(name).is_some()) {
                Some(name) => Err(Problem::bad_request(format!("{name} has no place beside at=now"))),
                None => Ok(true),
            },
            Some(text) => {
                Err(Problem::parameter("at", "now; rows of other times are asked for by start and end", text))
            }
        }
    }

    /// `window`: lengths in milliseconds.
    pub fn windows(&self) -> Result<Vec<i64>, Problem> {
        let lengths = self.all("window").map(|text| {
            let bound = "a duration from 1s to 30d, such as 1h30m";
            window_ms(text).ok_or_else(|| Problem::parameter("window", bound, text))
        });
        lengths.collect()
    }

    /// `window` and `at`: a key of one of these windows.
    ///
    /// # Errors
    /// 400 naming the windows, or the keys nearest to `at`.
    pub fn key(&self, windows: &[Window]) -> Result<(Window, i64), Problem> {
        let names: Vec<String> = windows.iter().map(|window| duration(window.length_ms)).collect();
        let bound = format!("one of {}", names.join(", "));
        let Some(text) = self.one("window") else {
            return Err(Problem::bad_request(format!("window must be given: {bound}")));
        };
        let ms = parse_duration(text);
        let window = windows.iter().find(|window| Some(window.length_ms) == ms);
        let window = *window.ok_or_else(|| Problem::parameter("window", &bound, text))?;
        let Some(text) = self.one("at") else {
            return Err(Problem::bad_request("at must be given: the end of the window".to_owned()));
        };
        let (at_ms, hop_ms) = (time_ms("at", text)?, window.hop_ms);
        if at_ms.rem_euclid(hop_ms) != 0 {
            let before = at_ms.div_euclid(hop_ms) * hop_ms;
            let show = |ms| Rfc3339::from_ms(ms).map_or_else(|| ms.to_string(), |time| time.to_string());
            let near = format!("{} or {}", show(before), show(before + hop_ms));
            let bound = format!("a multiple of the hop {} since 1970, such as {near}", duration(hop_ms));
            return Err(Problem::parameter("at", &bound, text));
        }
        Ok((window, at_ms))
    }

    /// `min_<statistic>` and `max_<statistic>`.
    pub fn filters(&self) -> Result<Vec<Filter>, Problem> {
        let mut filters = Vec::new();
        for (name, text) in &self.pairs {
            let Some((least, stat)) = filtered(name) else { continue };
            let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
            let bound = number.ok_or_else(|| Problem::parameter(name, "a finite number", text))?;
            filters.push(if least {
                Filter { stat, least: bound, most: f64::INFINITY }
            } else {
                Filter { stat, least: f64::NEG_INFINITY, most: bound }
            });
        }
        Ok(filters)
    }

    /// `by`: what sums are by, as a list or repeated; by everything if absent.
    pub fn by(&self) -> Result<RejectGrouping, Problem> {
        if self.one("by").is_none() {
            return Ok(RejectGrouping::ALL);
        }
        let mut by = RejectGrouping { series: false, name: false, reason: false };
        for word in self.all("by").flat_map(|text| text.split(',')) {
            match word {
                "series" => by.series = true,
                "name" => by.name = true,
                "reason" => by.reason = true,
                _ => return Err(Problem::parameter("by", "a list of series, name and reason", word)),
            }
        }
        Ok(by)
    }

    /// `cursor`.
    pub fn cursor(&self) -> Option<&str> {
        self.one("cursor")
    }

    /// What the question is about, as bytes: a cursor belongs to one question.
    pub fn question(&self) -> Vec<u8> {
        let about =
            |(name, _): &&(String, String)| !self.operation.query(name).is_some_and(|param| param.shows);
        let mut pairs: Vec<_> = self.pairs.iter().filter(about).collect();
        pairs.sort();
        let mut bytes = self.path.clone().into_bytes();
        for (name, value) in pairs {
            for text in [name, value] {
                bytes.push(0xff);
                bytes.extend_from_slice(text.as_bytes());
            }
        }
        bytes
    }
}

/// What a list may be sorted by.
pub fn sorts() -> Vec<&'static str> {
    ["name", "at"].into_iter().chain(STATISTICS.iter().map(Statistic::name)).collect()
}

/// A duration as long as a window may be, in milliseconds.
pub fn window_ms(text: &str) -> Option<i64> {
    parse_duration(text).filter(|ms| (1_000..=WINDOW_MS_MAX).contains(ms))
}

/// Whether a parameter is a lower bound, and of which statistic.
fn filtered(name: &str) -> Option<(bool, &'static Statistic)> {
    let (least, stat) = match name.split_once('_')? {
        ("min", stat) => (true, stat),
        ("max", stat) => (false, stat),
        _ => return None,
    };
    Statistic::named(stat).map(|stat| (least, stat))
}

/// An instant in Unix milliseconds: RFC 3339 or Unix seconds.
pub fn time_ms(name: &str, text: &str) -> Result<i64, Problem> {
    let seconds_max = AT_MS_MAX / 1_000;
    if let Ok(seconds) = text.parse::<f64>() {
        if seconds.abs() <= seconds_max as f64 {
            return Ok((seconds * 1_000.0).round() as i64);
        }
    } else if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let plus = if text.contains(' ') { " (a plus sign is written %2B)" } else { "" };
    // No later time is at hand whatever the offset from UTC is.
    let bound = format!("RFC 3339 up to 9999-12-30T22:00:00Z or Unix seconds up to {seconds_max}{plus}");
    Err(Problem::parameter(name, &bound, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_or_unix_seconds() {
        for (text, ms) in [
            ("1700000000", 1_700_000_000_000),
            ("1700000000.25", 1_700_000_000_250),
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14T23:13:20.5+01:00", 1_700_000_000_500),
            ("-1", -1_000),
        ] {
            assert_eq!(time_ms("start", text), Ok(ms), "{text}");
        }
    }
}
