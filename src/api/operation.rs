//! What an operation of the HTTP API is, as data: its place, parameters, answer and problems.
//!
//! Each handler file has its own ([`super::operations`] has the list). The router, the reading of parameters
//! ([`super::params`]) and the OpenAPI document ([`super::openapi`]) are made from them.
//!
//! Not here: what an operation does, and the shapes of answers that are no lists (`openapi/schemas.json`).

use serde_json::{Value, json};

use super::error::Kind;
use crate::store::record::{Columns, RowRecord};

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
    pub const fn query(
        name: &'static str,
        example: &'static str,
        about: &'static str,
        schema: fn() -> Value,
    ) -> Param {
        let place = ParamPlace::Query;
        Param { name, place, required: false, repeated: false, shows: false, about, example, schema }
    }

    pub const fn path(name: &'static str, example: &'static str, about: &'static str) -> Param {
        let schema = || json!({"type": "string", "minLength": 1});
        Param { place: ParamPlace::Path, required: true, ..Param::query(name, example, about, schema) }
    }

    pub const fn header(
        name: &'static str,
        required: bool,
        about: &'static str,
        schema: fn() -> Value,
    ) -> Param {
        Param { place: ParamPlace::Header, required, ..Param::query(name, "", about, schema) }
    }

    pub const fn required(self) -> Param {
        Param { required: true, ..self }
    }

    pub const fn repeated(self) -> Param {
        Param { repeated: true, ..self }
    }

    pub const fn shows(self) -> Param {
        Param { shows: true, ..self }
    }

    pub const fn says(self, about: &'static str) -> Param {
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

/// A kind of row that is called so.
pub const fn rows<R: RowRecord>(name: &'static str) -> RowKind {
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

/// What a question to the store may be answered with.
pub const STORE_PROBLEMS: &[Kind] = &[Kind::BadParameter, Kind::Internal, Kind::Unavailable, Kind::Deadline];
/// And one about the series of its path.
pub const SERIES_PROBLEMS: &[Kind] = &[
    Kind::BadParameter,
    Kind::UnknownSeries,
    Kind::AmbiguousSeries,
    Kind::Internal,
    Kind::Unavailable,
    Kind::Deadline,
];

/// An operation without anything, to be filled in.
pub const BARE: Operation = Operation {
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
