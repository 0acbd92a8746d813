//! Every operation of the HTTP API, in one table: routes, parameters, answers and problems.
//!
//! The router, the reading of parameters ([`super::params`]) and the OpenAPI document ([`super::openapi`]) are made from
//! it, so that what is not here is neither taken nor answered. `/api/v1/write` is in it for the document alone; the source room
//! takes it. The web page is not: it is no interface for programs.
//!
//! Not here: what an operation does (the file named after it), and the shapes of answers that are no lists
//! (`openapi/schemas.json`).

use serde_json::{Value, json};
use tidewatch_dataflows::sample::AT_MS_MAX;

use super::error::Kind;
use super::params::{LIMIT_DEFAULT, sorts};
use super::samples::Aggregate;
use crate::store::PAGE_ROWS_MAX;
use crate::store::record::{Columns, RowRecord};
use crate::store::row::{CorrectionRow, NameRow, OpenRow, RejectRow, SeriesRow, WindowRow};
use crate::store::search::SEARCH_BYTES_MAX;
use crate::store::selector::SELECTOR_BYTES_MAX;

/// How an operation is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET, and so HEAD.
    Get,
    Post,
    Delete,
}

impl Verb {
    /// As the header `Allow` lists it.
    pub fn allowed(self) -> &'static str {
        match self {
            Verb::Get => "GET, HEAD",
            Verb::Post => "POST",
            Verb::Delete => "DELETE",
        }
    }
}

/// What operations are sorted by for readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    Results,
    Samples,
    Server,
    Description,
}

impl Tag {
    /// Every one, with its name and what it holds.
    pub const ALL: [(Tag, &'static str, &'static str); 4] = [
        (Tag::Results, "Results", "What was computed."),
        (Tag::Samples, "Samples", "What comes in, and what came."),
        (Tag::Server, "Server", "How the server fares."),
        (Tag::Description, "Description", "What this API is."),
    ];

    pub fn name(self) -> &'static str {
        Tag::ALL.iter().find(|(tag, ..)| *tag == self).map_or("", |(_, name, _)| name)
    }
}

/// Where a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamPlace {
    Path,
    Query,
    Header,
}

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    pub name: &'static str,
    pub place: ParamPlace,
    pub required: bool,
    /// It may be given more than once.
    pub repeated: bool,
    /// It changes how an answer is shown, not what it is about.
    pub shows: bool,
    pub about: &'static str,
    pub example: &'static str,
    /// Its JSON Schema; of one value, if it may be repeated.
    pub schema: fn() -> Value,
}

impl Param {
    const fn query(
        name: &'static str,
        example: &'static str,
        about: &'static str,
        schema: fn() -> Value,
    ) -> Param {
        let place = ParamPlace::Query;
        Param { name, place, required: false, repeated: false, shows: false, about, example, schema }
    }

    const fn path(name: &'static str, example: &'static str, about: &'static str) -> Param {
        let schema = || json!({"type": "string", "minLength": 1});
        Param { place: ParamPlace::Path, required: true, ..Param::query(name, example, about, schema) }
    }

    const fn header(name: &'static str, required: bool, about: &'static str, schema: fn() -> Value) -> Param {
        Param { place: ParamPlace::Header, required, ..Param::query(name, "", about, schema) }
    }

    const fn required(self) -> Param {
        Param { required: true, ..self }
    }

    const fn repeated(self) -> Param {
        Param { repeated: true, ..self }
    }

    const fn shows(self) -> Param {
        Param { shows: true, ..self }
    }

    const fn says(self, about: &'static str) -> Param {
        Param { about, ..self }
    }
}

/// What a request brings beside its parameters.
#[derive(Clone, Copy, Debug)]
pub enum RequestBody {
    /// JSON of this schema.
    Json(&'static str),
    /// Bytes of this media type.
    Bytes(&'static str),
}

/// What is answered when all is well.
#[derive(Clone, Copy, Debug)]
pub enum AnswerKind {
    /// A sentence.
    Text,
    /// The metrics of the server.
    Exposition,
    /// A list of any of these rows, as JSON or CSV.
    Rows(&'static [RowKind]),
    /// JSON of this schema.
    Json(&'static str),
    /// 202, a header with the place to ask at, and JSON of this schema.
    Begun(&'static str),
    /// 204.
    Nothing,
}

/// A kind of row in a list.
#[derive(Clone, Copy, Debug)]
pub struct RowKind {
    /// What it is called.
    pub name: &'static str,
    /// Its columns.
    pub columns: Columns,
}

const fn rows<R: RowRecord>(name: &'static str) -> RowKind {
    RowKind { name, columns: R::COLUMNS }
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub id: &'static str,
    pub verb: Verb,
    pub path: &'static str,
    pub tag: Tag,
    pub summary: &'static str,
    pub about: &'static str,
    pub params: &'static [Param],
    /// Whether it takes `min_<statistic>` and `max_<statistic>`.
    pub filters: bool,
    pub body: Option<RequestBody>,
    pub answer: AnswerKind,
    /// What else may be answered.
    pub problems: &'static [Kind],
}

impl Operation {
    /// The parameter of this name in the query, filters aside.
    pub fn query(&self, name: &str) -> Option<&'static Param> {
        self.params.iter().find(|param| param.place == ParamPlace::Query && param.name == name)
    }

    /// In words: which parameters the query may have.
    pub fn taken(&self) -> String {
        let query = self.params.iter().filter(|param| param.place == ParamPlace::Query);
        let filters = ["min_<statistic>", "max_<statistic>"].into_iter().filter(|_| self.filters);
        let names: Vec<&str> = query.map(|param| param.name).chain(filters).collect();
        if names.is_empty() { "no parameters".to_owned() } else { names.join(", ") }
    }
}

pub const SERIES: Param = Param::path(
    "series",
    "1f0a3c5e7b9d2468",
    "A series: its id of 16 hex digits, or a metric name that it alone bears (409 lists the ids where several do).",
);
const MATCH: Param = Param::query(
    "match[]",
    "up{job=\"node\"}",
    "Series that this selector means, as in Prometheus; any of several. All series if absent.",
    || json!({"type": "string", "maxLength": SELECTOR_BYTES_MAX}),
)
.repeated();
const SEARCH: Param = Param::query(
    "search",
    "node eth0",
    "Words, each of which must occur in the name or in a `label=value`, whatever its case.",
    || json!({"type": "string", "maxLength": SEARCH_BYTES_MAX}),
);
const SORT: Param = Param::query(
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
const WINDOW: Param =
    Param::query("window", "1h", "Rows of windows of this length, from 1s to 30d; all if absent.", duration)
        .repeated();
const START: Param = Param::query(
    "start",
    "2026-01-02T03:04:05Z",
    "The first time, itself included: RFC 3339 (a plus sign is written `%2B`) or Unix seconds.",
    time,
);
const END: Param = Param::query(
    "end",
    "2026-01-02T04:04:05Z",
    "The last time, itself included: RFC 3339 (a plus sign is written `%2B`) or Unix seconds.",
    time,
);
const NOW: Param = Param::query(
    "at",
    "now",
    "`now` shows windows that are still open, as far as they are filled.",
    || json!({"type": "string", "enum": ["now"]}),
);
const LIMIT: Param = Param::query(
    "limit",
    "100",
    "Most rows of the page.",
    || json!({"type": "integer", "minimum": 1, "maximum": PAGE_ROWS_MAX, "default": LIMIT_DEFAULT}),
)
.shows();
const CURSOR: Param = Param::query(
    "cursor",
    "",
    "Where the page before ended: its `next`, or in CSV its header `x-next-cursor`. It stays good while rows are written. Give \
     every other parameter and the path as before; only `limit` and `format` may change.",
    || json!({"type": "string"}),
)
.shows();
const FORMAT: Param = Param::query(
    "format",
    "csv",
    "How rows are written.",
    || json!({"type": "string", "enum": ["json", "csv"], "default": "json"}),
)
.shows();
const BY: Param = Param::query(
    "by",
    "reason",
    "What sums are by, repeated, or as a list with commas; everything if absent. What they are not by is left out of the \
     rows.",
    || json!({"type": "string", "enum": ["series", "name", "reason"]}),
)
.repeated();
const RESAMPLE: Param = Param::query(
    "resample",
    "15m",
    "One point for the samples of the range in each (at - resample, at], from 1s to 30d; the samples themselves if absent. \
     The first and the last point may lack samples outside the range, and the last may be after `end`.",
    duration,
);
const AGGREGATE: Param = Param::query(
    "aggregate",
    "max",
    "How the samples of a point become one number.",
    || json!({"type": "string", "enum": Aggregate::ALL.map(|(name, _)| name), "default": "mean"}),
);
const BACKFILL: Param = Param::path("id", "19a2b3c4d5e", "The `id` that its beginning was answered with.");

fn time() -> Value {
    let most = AT_MS_MAX / 1_000;
    json!({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": -most, "maximum": most}]})
}

fn duration() -> Value {
    json!({"type": "string", "pattern": DURATION, "minLength": 1})
}

/// A duration as Prometheus writes it.
pub const DURATION: &str = "^([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$";

/// What a question to the store may be answered with.
const ASKED: &[Kind] = &[Kind::BadParameter, Kind::Internal, Kind::Unavailable, Kind::Deadline];
/// And one about the series of its path.
const ASKED_OF_SERIES: &[Kind] = &[
    Kind::BadParameter,
    Kind::UnknownSeries,
    Kind::AmbiguousSeries,
    Kind::Internal,
    Kind::Unavailable,
    Kind::Deadline,
];

const BARE: Operation = Operation {
    id: "",
    verb: Verb::Get,
    path: "",
    tag: Tag::Results,
    summary: "",
    about: "",
    params: &[],
    filters: false,
    body: None,
    answer: AnswerKind::Text,
    problems: &[],
};

pub const NAMES: Operation = Operation {
    id: "names",
    path: "/api/v1/names",
    summary: "Metric names",
    about: "Names of series that have rows, with how many series bear each, by name.",
    params: &[MATCH, LIMIT, CURSOR, FORMAT],
    answer: AnswerKind::Rows(&[rows::<NameRow>("Name")]),
    problems: ASKED,
    ..BARE
};
pub const CATALOG: Operation = Operation {
    id: "catalog",
    path: "/api/v1/catalog",
    summary: "Series",
    about: "Series that have rows, by (name, series).",
    params: &[MATCH, LIMIT, CURSOR, FORMAT],
    answer: AnswerKind::Rows(&[rows::<SeriesRow>("Series")]),
    problems: ASKED,
    ..BARE
};
pub const WINDOWS: Operation = Operation {
    id: "windows",
    path: "/api/v1/windows",
    summary: "Statistics per series and window",
    about: "By (name, series, window, at). Without a range the latest row of each series and window; with `at=now` the \
            windows that are still open.",
    params: &[MATCH, SEARCH, SORT, WINDOW, START, END, NOW, LIMIT, CURSOR, FORMAT],
    filters: true,
    answer: AnswerKind::Rows(&[rows::<WindowRow>("Window"), rows::<OpenRow>("OpenWindow")]),
    problems: ASKED,
    ..BARE
};
pub const WINDOWS_OF_SERIES: Operation = Operation {
    id: "windowsOfSeries",
    path: "/api/v1/windows/{series}",
    summary: "Statistics of one series",
    about: "By (window, at). Without a range the latest row of each window; with `at=now` the windows that are still open.",
    params: &[SERIES, WINDOW, START, END, NOW, LIMIT, CURSOR, FORMAT],
    answer: WINDOWS.answer,
    problems: ASKED_OF_SERIES,
    ..WINDOWS
};
pub const CORRECTIONS: Operation = Operation {
    id: "corrections",
    path: "/api/v1/windows/{series}/corrections",
    summary: "Revisions of one series",
    about: "What was answered before late samples changed it, the newest first. The newest revisions of a store are kept.",
    params: &[SERIES, WINDOW, LIMIT, CURSOR, FORMAT],
    answer: AnswerKind::Rows(&[rows::<CorrectionRow>("Correction")]),
    problems: ASKED_OF_SERIES,
    ..BARE
};
pub const EXPLAIN: Operation = Operation {
    id: "explain",
    path: "/api/v1/windows/{series}/explain",
    summary: "Why a number is what it is",
    about: "One row with the panes it is made of, its revisions, and in words what may still happen to it.",
    params: &[
        SERIES,
        Param { required: true, repeated: false, ..WINDOW }
            .says("The length of a window of the configuration."),
        END_OF_KEY,
    ],
    answer: AnswerKind::Json("Explanation"),
    problems: ASKED_OF_SERIES,
    ..BARE
};
const END_OF_KEY: Param = Param { name: "at", ..START }
    .required()
    .says("The end of the window, a multiple of its hop: RFC 3339 or Unix seconds.");
pub const SAMPLES: Operation = Operation {
    id: "samples",
    path: "/api/v1/samples/{series}",
    tag: Tag::Samples,
    summary: "Samples of one series",
    about: "The newest from memory, older ones from the configured Prometheus servers; `parts` says which are from where, \
            `missing` what nobody could tell. The last hour if `start` is absent. At most 10,000 points are shown and 1,000,000 \
            samples read; beyond that it is 422.",
    params: &[SERIES, START, END, RESAMPLE, AGGREGATE],
    answer: AnswerKind::Json("SeriesSamples"),
    problems: &[
        Kind::BadParameter,
        Kind::UnknownSeries,
        Kind::AmbiguousSeries,
        Kind::TooMuch,
        Kind::Internal,
        Kind::ServerFailed,
        Kind::Unavailable,
        Kind::Deadline,
    ],
    ..BARE
};
pub const REJECTS: Operation = Operation {
    id: "rejects",
    path: "/api/v1/rejects",
    tag: Tag::Samples,
    summary: "Samples that were not applied",
    about: "Sums by series, name and reason, or by fewer of them.",
    params: &[MATCH, BY, START, END, LIMIT, CURSOR, FORMAT],
    answer: AnswerKind::Rows(&[rows::<RejectRow>("Reject")]),
    problems: &[Kind::BadParameter, Kind::TooMuch, Kind::Internal, Kind::Unavailable, Kind::Deadline],
    ..BARE
};
pub const WRITE: Operation = Operation {
    id: "write",
    verb: Verb::Post,
    path: "/api/v1/write",
    tag: Tag::Samples,
    summary: "Remote write",
    about: "Prometheus remote write: 1.0, or 2.0 where Content-Type has `proto=io.prometheus.write.v2.Request`. 204 once \
            every sample is durable. What passed of a message of 2.0 is counted in the headers \
            `X-Prometheus-Remote-Write-{Samples,Histograms,Exemplars}-Written` of the 204 and the 400.",
    params: &[Param::header(
        "Content-Encoding",
        true,
        "The block format of snappy, without frames.",
        || json!({"type": "string", "enum": ["snappy"]}),
    )],
    body: Some(RequestBody::Bytes("application/x-protobuf")),
    answer: AnswerKind::Nothing,
    problems: &[
        Kind::BadBody,
        Kind::SamplesRefused,
        Kind::CrossSite,
        Kind::TooLarge,
        Kind::UnsupportedMediaType,
        Kind::Internal,
        Kind::Unavailable,
    ],
    ..BARE
};
pub const BEGIN_BACKFILL: Operation = Operation {
    id: "beginBackfill",
    verb: Verb::Post,
    path: "/api/v1/backfill",
    tag: Tag::Samples,
    summary: "Begin a backfill",
    about: "Computes a span of the past from a configured Prometheus server, beside what is live; one at a time.",
    body: Some(RequestBody::Json("BackfillOrder")),
    answer: AnswerKind::Begun("Backfill"),
    problems: &[
        Kind::BadParameter,
        Kind::BadBody,
        Kind::CrossSite,
        Kind::BackfillRunning,
        Kind::TooLarge,
        Kind::UnsupportedMediaType,
        Kind::Internal,
        Kind::Unavailable,
    ],
    ..BARE
};
pub const BACKFILL_SHOWN: Operation = Operation {
    id: "backfill",
    path: "/api/v1/backfill/{id}",
    tag: Tag::Samples,
    summary: "How far a backfill is",
    about: "The last 16 since the server's start are known.",
    params: &[BACKFILL],
    answer: AnswerKind::Json("Backfill"),
    problems: &[Kind::BadParameter, Kind::UnknownBackfill],
    ..BARE
};
pub const END_BACKFILL: Operation = Operation {
    id: "endBackfill",
    verb: Verb::Delete,
    summary: "End a backfill",
    about: "What it has written stays.",
    problems: &[Kind::BadParameter, Kind::CrossSite, Kind::UnknownBackfill],
    ..BACKFILL_SHOWN
};
pub const STATUS: Operation = Operation {
    id: "status",
    path: "/api/v1/status",
    tag: Tag::Server,
    summary: "How far everything is",
    about: "Epochs, sizes, lags, sources, and limits that were reached.",
    answer: AnswerKind::Json("Status"),
    problems: ASKED,
    ..BARE
};
pub const HEALTHY: Operation = Operation {
    id: "healthy",
    path: "/-/healthy",
    tag: Tag::Server,
    summary: "Whether the process answers",
    about: "200 as long as it does.",
    ..BARE
};
pub const READY: Operation = Operation {
    id: "ready",
    path: "/-/ready",
    tag: Tag::Server,
    summary: "Whether the store holds everything found at start",
    about: "503 with what is still to come until it does, and while intake is refused.",
    problems: &[Kind::Unavailable],
    ..BARE
};
pub const METRICS: Operation = Operation {
    id: "metrics",
    path: "/metrics",
    tag: Tag::Server,
    summary: "The server's own metrics",
    about: "For Prometheus, as text or as OpenMetrics, whichever the scraper prefers.",
    answer: AnswerKind::Exposition,
    ..BARE
};
pub const PROBLEMS: Operation = Operation {
    id: "problems",
    path: "/api/v1/problems",
    tag: Tag::Description,
    summary: "Every kind of problem",
    about: "What the `type` of an error may be.",
    answer: AnswerKind::Json("Problems"),
    problems: &[Kind::BadParameter],
    ..BARE
};
pub const PROBLEM: Operation = Operation {
    id: "problem",
    path: "/api/v1/problems/{slug}",
    tag: Tag::Description,
    summary: "One kind of problem",
    about: "What the `type` of an error means, and what to do about it.",
    params: &[Param::path("slug", "bad-parameter", "The last part of the `type`.")],
    answer: AnswerKind::Json("ProblemKind"),
    problems: &[Kind::BadParameter, Kind::UnknownProblem],
    ..BARE
};
pub const OPENAPI: Operation = Operation {
    id: "openapi",
    path: "/api/v1/openapi.json",
    tag: Tag::Description,
    summary: "This document",
    about: "OpenAPI 3.1.",
    answer: AnswerKind::Json("OpenApi"),
    problems: &[Kind::BadParameter],
    ..BARE
};

/// The methods that a path takes, as the header `Allow` lists them.
pub fn allowed(path: &str) -> String {
    let verbs: Vec<_> = ALL.iter().filter(|one| one.path == path).map(|one| one.verb.allowed()).collect();
    verbs.join(", ")
}

/// Every operation, as readers meet them.
pub const ALL: [&Operation; 19] = [
    &NAMES,
    &CATALOG,
    &WINDOWS,
    &WINDOWS_OF_SERIES,
    &CORRECTIONS,
    &EXPLAIN,
    &SAMPLES,
    &REJECTS,
    &WRITE,
    &BEGIN_BACKFILL,
    &BACKFILL_SHOWN,
    &END_BACKFILL,
    &STATUS,
    &HEALTHY,
    &READY,
    &METRICS,
    &PROBLEMS,
    &PROBLEM,
    &OPENAPI,
];
