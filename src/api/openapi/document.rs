//! The API as OpenAPI 3.1, made from the list of operations.
//!
//! Rows are described by their columns, parameters and problems by the table; the other answers by `schemas.json`.

use serde_json::{Map, Value, json};
use tidewatch_dataflows::rows::KINDS;

use crate::api::backfill;
use crate::api::boundary::is_costly;
use crate::api::error::Kind;
use crate::api::operation::{AnswerKind, Operation, Param, ParamPlace, RequestBody, RowKind, Tag, Verb};
use crate::api::params::{DURATION, SERIES};
use crate::status::KindRows;
use crate::store::STATISTICS;
use crate::store::record::{CellType, Column};

const ABOUT: &str = "Statistics of every series over sliding windows, corrected by late samples, and what they are made of.\n\n\
    A list is `{\"data\": [...], \"next\": cursor or null}`, or CSV with the cursor in the header `x-next-cursor`. Times are \
    RFC 3339 or Unix seconds; ranges include both ends. Every error is `application/problem+json`, also for paths and methods \
    that are not described here, and its `type`, a path from where this server is served, says what it means. Only what is no \
    HTTP has a status without a body: 400 for characters that an address must not have (`curl -G --data-urlencode` writes \
    quotes as `%22`), 414 and 431 for what is too long.";

/// Shapes of answers that are no lists, by name.
const SCHEMAS: &str = include_str!("schemas.json");

/// The document that describes these operations.
pub fn document(operations: &[&Operation]) -> Value {
    let mut paths = Map::new();
    for operation in operations {
        let verb = match operation.verb {
            Verb::Get => "get",
            Verb::Post => "post",
            Verb::Delete => "delete",
        };
        // There is an entry for each path, and in it one for each method.
        paths.entry(operation.path).or_insert_with(|| json!({}))[verb] = described(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidewatch",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": "MIT OR Apache-2.0"},
        },
        // Of where the document is: whatever name and path a proxy gives the server.
        "servers": [{"url": "../.."}],
        "tags": Tag::ALL.map(|(_, name, about)| json!({"name": name, "description": about})),
        "paths": paths,
        "components": {"schemas": schemas(operations)},
    })
}

/// The named shapes: those of the file, and the rows of lists.
pub(in crate::api) fn schemas(operations: &[&Operation]) -> Map<String, Value> {
    // A test reads the file too: it is JSON.
    let mut schemas: Map<String, Value> = serde_json::from_str(SCHEMAS).unwrap_or_default();
    for (name, about) in [("Sink", "written since the start of the process"), ("StoreStatus", "held")] {
        schemas.entry(name).and_modify(|schema| add_rows(schema, about));
    }
    for operation in operations {
        if let AnswerKind::Rows(rows) = operation.answer {
            schemas.extend(rows.iter().map(|rows| (rows.name.to_owned(), of_row(rows))));
        }
    }
    schemas
}

/// Adds to a shape how many rows of each kind there are.
fn add_rows(schema: &mut Value, about: &str) {
    for kind in KINDS {
        let name = KindRows::field(kind);
        let about = format!("Rows of `{}` {about}.", kind.name);
        schema["properties"][&name] = json!({"type": "integer", "description": about});
        if let Some(required) = schema["required"].as_array_mut() {
            required.push(json!(name));
        }
    }
}

fn described(operation: &Operation) -> Value {
    let filters = STATISTICS.iter().filter(|_| operation.filters);
    let filters = filters.flat_map(|statistic| of_filter(statistic.name()));
    let params: Vec<Value> = operation.params.iter().map(of_param).chain(filters).collect();
    let mut described = json!({
        "operationId": operation.id,
        "tags": [operation.tag.name()],
        "summary": operation.summary,
        "description": operation.about,
        "parameters": params,
        "responses": responses(operation),
    });
    if let Some(body) = operation.body {
        let content = match body {
            RequestBody::Json(name) => json!({"application/json": {"schema": named(name)}}),
            RequestBody::Bytes(media_type) => {
                json!({media_type: {"schema": {"type": "string", "format": "binary"}}})
            }
        };
        described["requestBody"] = json!({"required": true, "content": content});
    }
    described
}

fn of_param(param: &Param) -> Value {
    let place = match param.place {
        ParamPlace::Path => "path",
        ParamPlace::Query => "query",
        ParamPlace::Header => "header",
    };
    let mut schema = (param.schema)();
    if !param.example.is_empty() {
        let number = (schema["type"] == "integer").then(|| param.example.parse::<u64>().ok()).flatten();
        schema["examples"] = json!([number.map_or_else(|| Value::from(param.example), Value::from)]);
    }
    if param.repeated {
        schema = json!({"type": "array", "items": schema});
    }
    json!({
        "name": param.name,
        "in": place,
        "required": param.required,
        "description": param.about,
        "schema": schema,
    })
}

fn of_filter(stat: &str) -> [Value; 2] {
    [("min", "least"), ("max", "most")].map(|(bound, word)| {
        json!({
            "name": format!("{bound}_{stat}"),
            "in": "query",
            "required": false,
            "description": format!("Only rows whose `{stat}` is at {word} this."),
            "schema": {"type": "number"},
        })
    })
}

/// What is answered, by status.
fn responses(operation: &Operation) -> Map<String, Value> {
    let json_of = |schema: Value| json!({"application/json": {"schema": schema}});
    let (status, answered) = match operation.answer {
        AnswerKind::Text => ("200", json!({"content": {"text/plain": {"schema": {"type": "string"}}}})),
        AnswerKind::Exposition => {
            let text = json!({"schema": {"type": "string"}});
            let content = json!({"text/plain": text, "application/openmetrics-text": text});
            ("200", json!({"content": content}))
        }
        AnswerKind::Rows(rows) => ("200", list(rows)),
        AnswerKind::Json(name) => ("200", json!({"content": json_of(named(name))})),
        AnswerKind::Begun(name) => {
            let place = json!({"description": "Where to ask how far it is.", "schema": {"type": "string"}});
            let id = json!({"id": "$response.body#/id"});
            let links = [&backfill::BACKFILL_SHOWN, &backfill::END_BACKFILL];
            let links = links.map(|to| (to.id.to_owned(), json!({"operationId": to.id, "parameters": id})));
            let links = Map::from_iter(links);
            ("202", json!({"headers": {"Location": place}, "content": json_of(named(name)), "links": links}))
        }
        AnswerKind::Nothing => ("204", json!({})),
    };
    let mut responses = Map::new();
    let about = json!({"description": if status == "204" { "Done." } else { operation.summary }});
    responses.insert(status.to_owned(), merged(about, answered));
    for kinds in problems(operation).chunk_by(|a, b| a.about().status == b.about().status) {
        responses.insert(kinds[0].about().status.as_str().to_owned(), of_problems(kinds));
    }
    let bounds = [
        ("414", "The address has more than 65,534 bytes."),
        ("431", "The headers have more bytes than are read."),
    ];
    let long =
        |(status, about)| (String::from(status), json!({"description": format!("{about} Without a body.")}));
    responses.extend(bounds.map(long));
    responses
}

fn list(rows: &[RowKind]) -> Value {
    let row = match rows {
        [one] => named(one.name),
        several => json!({"anyOf": several.iter().map(|rows| named(rows.name)).collect::<Vec<_>>()}),
    };
    let cursor = json!({"type": ["string", "null"], "description": "Where the next page begins; null on the last one."});
    let page = json!({
        "type": "object",
        "required": ["data", "next"],
        "properties": {"data": {"type": "array", "items": row}, "next": cursor},
    });
    let next = json!({"description": "Of CSV: where the next page begins, if there is one.", "schema": {"type": "string"}});
    json!({
        "headers": {"x-next-cursor": next},
        "content": {"application/json": {"schema": page}, "text/csv": {"schema": {"type": "string"}}},
    })
}

/// All problems of an operation, by status: its own, those of the browser's boundary, and those of selectors.
fn problems(operation: &Operation) -> Vec<Kind> {
    let mut kinds = operation.problems.to_vec();
    kinds.push(Kind::Misdirected);
    if operation.verb != Verb::Get || is_costly(operation.path) {
        kinds.push(Kind::CrossSite);
    }
    if operation.query("match[]").is_some() {
        kinds.push(Kind::TooMuch);
    }
    kinds.sort_by_key(|kind| (kind.about().status.as_u16(), kind.about().slug));
    kinds.dedup();
    kinds
}

/// The problems of one status.
fn of_problems(kinds: &[Kind]) -> Value {
    let words = kinds.iter().map(|kind| format!("`{}`: {}.", kind.about().slug, kind.about().title));
    let uris: Vec<String> = kinds.iter().map(|kind| kind.uri()).collect();
    let status = kinds[0].about().status.as_u16();
    let one = json!({"properties": {"type": {"enum": uris}, "status": {"const": status}}});
    let schema = json!({"allOf": [named("Problem"), one]});
    let content = json!({"application/problem+json": {"schema": schema}});
    let mut response = json!({"description": words.collect::<Vec<_>>().join(" "), "content": content});
    if kinds.contains(&Kind::Unavailable) {
        let seconds = json!({"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}});
        response["headers"] = json!({"Retry-After": seconds});
    }
    response
}

/// A row by its columns.
fn of_row(rows: &RowKind) -> Value {
    let columns = || rows.columns.iter().copied().flatten();
    let properties: Map<_, _> = columns().map(|column| (column.name.to_owned(), of_column(column))).collect();
    let required: Vec<_> = columns().filter(|column| !column.optional).map(|column| column.name).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

fn of_column(column: &Column) -> Value {
    let (type_name, more) = match column.of {
        CellType::Text => ("string", json!({})),
        CellType::Labels => {
            ("object", json!({"additionalProperties": {"type": "string"}, "examples": [{"job": "node"}]}))
        }
        CellType::Series => ("string", json!({"pattern": "^[0-9a-f]{16}$", "examples": [SERIES.example]})),
        CellType::Window => ("string", json!({"pattern": DURATION, "examples": ["1h"]})),
        CellType::Time => ("string", json!({"format": "date-time"})),
        CellType::Int => ("integer", json!({})),
        CellType::UInt => ("integer", json!({"minimum": 0})),
        CellType::Float => ("number", json!({})),
        CellType::Floats { most } => {
            ("array", json!({"items": {"type": ["number", "null"]}, "maxItems": most}))
        }
        CellType::Bool => ("boolean", json!({})),
        CellType::True => ("boolean", json!({"const": true})),
    };
    let types = if column.nullable { json!([type_name, "null"]) } else { json!(type_name) };
    let described = merged(json!({"type": types, "description": column.about}), more);
    if column.unit.is_empty() { described } else { merged(described, json!({"x-unit": column.unit})) }
}

fn named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// An object with the entries of both.
fn merged(mut one: Value, other: Value) -> Value {
    if let (Value::Object(one), Value::Object(other)) = (&mut one, other) {
        one.extend(other);
    }
    one
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::operations::ALL;

    /// Every `$ref` in a value.
    fn refs(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(entries) => {
                for (key, value) in entries {
                    match value {
                        Value::String(text) if key == "$ref" => drop(found.insert(text.clone())),
                        value => refs(value, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| refs(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_shape_is_used_and_every_used_one_is_there() {
        assert!(serde_json::from_str::<Map<String, Value>>(SCHEMAS).is_ok());
        let mut used = BTreeSet::new();
        let document = document(&ALL);
        refs(&document, &mut used);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let there = schemas.keys().map(|name| format!("#/components/schemas/{name}")).collect();
        assert_eq!(used, there);
    }

    #[test]
    fn operations_are_told_apart_and_complete() {
        let ids: BTreeSet<_> = ALL.iter().map(|one| one.id).collect();
        let places: BTreeSet<_> = ALL.iter().map(|one| (one.path, one.verb.allowed())).collect();
        assert_eq!((ids.len(), places.len()), (ALL.len(), ALL.len()));
        for one in ALL {
            assert!(one.problems.is_sorted_by_key(|kind| kind.about().status.as_u16()), "{}", one.id);
            for text in [one.summary, one.about].into_iter().chain(one.params.iter().map(|param| param.about))
            {
                assert!(!text.is_empty(), "{} lacks words", one.id);
            }
            let in_path: Vec<_> =
                one.path.split('{').skip(1).filter_map(|part| part.split('}').next()).collect();
            let params: Vec<_> = one
                .params
                .iter()
                .filter(|param| param.place == ParamPlace::Path)
                .map(|param| param.name)
                .collect();
            assert_eq!(in_path, params, "{}", one.id);
        }
    }

    /// The fields of a shape without a description, by their paths.
    fn undescribed(shape: &Value, path: &str, found: &mut Vec<String>) {
        for (name, field) in shape["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field["description"].as_str().is_none_or(str::is_empty) {
                found.push(path.clone());
            }
            undescribed(field, &path, found);
        }
        let lists = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| shape[key].as_array()).flatten();
        for inner in lists.chain(shape.get("items")) {
            undescribed(inner, path, found);
        }
    }

    #[test]
    fn every_field_says_what_it_is() {
        let mut found = Vec::new();
        for (name, shape) in schemas(&ALL) {
            undescribed(&shape, &name, &mut found);
        }
        assert!(found.is_empty(), "these fields have no description: {found:#?}");
        let mut seeded = Vec::new();
        undescribed(&json!({"items": {"properties": {"at": {"type": "integer"}}}}), "x", &mut seeded);
        assert_eq!(seeded, ["x.at"]);
    }

    #[test]
    fn a_list_is_an_array_with_a_bound() {
        let column = Column::new("by_lag", CellType::Floats { most: 24 }, "By lag.");
        let items = json!({"type": ["number", "null"]});
        let wanted = json!({"type": "array", "description": "By lag.", "items": items, "maxItems": 24});
        assert_eq!(of_column(&column), wanted);
    }
}
