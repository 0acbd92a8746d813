//! Parts of pages that are written from what the program says of itself, between `<!-- generated: NAME -->` and
//! `<!-- end -->`; and tables written by hand that must name what the program has.
//!
//! `TEST_WRITE_DOCS=1 cargo test --features faults --test main -- docs::reference` writes the generated parts anew.

use std::collections::{BTreeMap, BTreeSet};

use clap::CommandFactory;
use serde_json::Value;
use tidewatch::cli::Cli;
use tidewatch::metrics::LIMITS;
use tidewatch_dataflows::sample::Reason;
use tidewatch_dataflows::statistics::STATISTICS;

use super::read;
use crate::support::process::Tidewatch;
use crate::support::repository;

const METRICS: &str = include_str!("../../src/metrics.rs");

/// Holds the generated part of a page to `text`, or writes it.
fn hold(page: &str, name: &str, text: &str) {
    let old = read(page);
    let (begin, end) = (format!("<!-- generated: {name} -->\n"), "<!-- end -->");
    let from = old.find(&begin).unwrap_or_else(|| panic!("{page} has no part {name}")) + begin.len();
    let to = from + old[from..].find(end).unwrap_or_else(|| panic!("{page}: the part {name} has no end"));
    if &old[from..to] == text {
        return;
    }
    assert!(
        std::env::var_os("TEST_WRITE_DOCS").is_some(),
        "{page}: the part {name} is not what the program says; TEST_WRITE_DOCS=1 writes it:\n{text}"
    );
    // Other tests read the page meanwhile.
    let (path, whole) = (repository().join(page), repository().join(format!("{page}.new")));
    std::fs::write(&whole, format!("{}{text}{}", &old[..from], &old[to..])).unwrap();
    std::fs::rename(&whole, &path).unwrap();
}

/// A row of a table; `|` in cells is escaped.
fn row(cells: &[&str]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn table(head: &[&str], rows: impl Iterator<Item = String>) -> String {
    let line = format!("|{}\n", "---|".repeat(head.len()));
    row(head) + &line + &rows.collect::<String>()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What values of a schema are, in words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap_or_default();
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(|word| format!("`{}`", text(word))).collect::<Vec<_>>().join(", ");
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().map(text).collect::<Vec<_>>().join(" or "),
        one => text(one).to_owned(),
    };
    let format = schema["format"].as_str().filter(|format| *format == "date-time").map(|_| " (RFC 3339)");
    match types.as_str() {
        "array" => format!("list of {}", kind(&schema["items"])),
        "object" if schema["additionalProperties"]["type"].is_string() => {
            format!("object of {}", kind(&schema["additionalProperties"]))
        }
        _ => types + format.unwrap_or_default(),
    }
}

/// Bounds and default of a parameter.
fn bounds(schema: &Value) -> String {
    let schema = if schema["items"].is_object() { &schema["items"] } else { schema };
    let mut words = Vec::new();
    if let (Some(least), Some(most)) = (schema["minimum"].as_u64(), schema["maximum"].as_u64()) {
        words.push(format!("{least} to {most}"));
    }
    if let Some(most) = schema["maxLength"].as_u64() {
        words.push(format!("{most} bytes at most"));
    }
    if let Some(default) = schema.get("default") {
        words
            .push(format!("default {}", default.as_str().map_or_else(|| default.to_string(), str::to_owned)));
    }
    if let Some(example) = schema["examples"].get(0) {
        let example = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
        words.push(format!("such as `{example}`"));
    }
    words.join("; ")
}

/// Every operation: its parameters, its answer, and what else it may answer.
fn operations(document: &Value) -> String {
    let mut page = String::new();
    for (path, verbs) in document["paths"].as_object().unwrap() {
        for (verb, operation) in verbs.as_object().unwrap() {
            page += &format!("### {} {path}\n\n", verb.to_uppercase());
            page += &format!("{}. {}\n\n", text(&operation["summary"]), text(&operation["description"]));
            let params = operation["parameters"].as_array().unwrap();
            let filter = |param: &&Value| {
                let name = text(&param["name"]);
                text(&param["in"]) == "query" && (name.starts_with("min_") || name.starts_with("max_"))
            };
            let rows = params.iter().filter(|param| !filter(param)).map(|param| {
                let repeated = if param["schema"]["type"] == "array" { ", may be repeated" } else { "" };
                let needed = if param["required"] == true { ", required" } else { "" };
                let place = format!("{}{needed}{repeated}", text(&param["in"]));
                let name = format!("`{}`", text(&param["name"]));
                row(&[&name, &place, text(&param["description"]), &bounds(&param["schema"])])
            });
            if !params.is_empty() {
                page += &(table(&["parameter", "in", "what it says", "bounds"], rows) + "\n");
            }
            let filters: Vec<_> = params.iter().filter(filter).map(|param| text(&param["name"])).collect();
            if !filters.is_empty() {
                page += &format!("Filters, each a number: `{}`.\n\n", filters.join("` `"));
            }
            if let Some(body) = operation["requestBody"]["content"].as_object() {
                let bodies = body.iter().map(|(media, shape)| match shape["schema"].get("$ref") {
                    Some(_) => format!("`{media}`: {}", kind(&shape["schema"])),
                    None => format!("`{media}`"),
                });
                page += &format!("Body: {}.\n\n", bodies.collect::<Vec<_>>().join(", "));
            }
            page += &format!("Answers: {}.\n\n", answers(&operation["responses"]));
        }
    }
    page
}

fn answers(responses: &Value) -> String {
    let answers: BTreeMap<_, _> =
        responses.as_object().unwrap().iter().filter(|(code, _)| *code != "default").collect();
    let answers = answers.into_iter();
    let answers = answers.map(|(code, response)| {
        let good = code.starts_with('2');
        let shape = response["content"]["application/json"].get("schema").filter(|_| good).map(|schema| {
            match schema["properties"].get("data") {
                Some(rows) => format!(" ({})", kind(rows)),
                None if schema.get("$ref").is_some() => format!(" ({})", kind(schema)),
                None => String::new(),
            }
        });
        format!("{code}{}", shape.unwrap_or_default())
    });
    answers.collect::<Vec<_>>().join(", ")
}

/// Every named shape: its fields.
fn shapes(document: &Value) -> String {
    let mut page = String::new();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        page += &format!("### {name}\n\n");
        if let Some(about) = schema["description"].as_str() {
            page += &format!("{about}\n\n");
        }
        if schema["properties"].is_object() {
            page += &(table(&["field", "type", "what it says"], fields(schema, "").into_iter()) + "\n");
        } else {
            page += &format!("{}\n\n", kind(schema));
        }
    }
    page
}

/// What a field says that is named alike everywhere, where its shape does not say so.
fn usual(name: &str) -> &'static str {
    match name {
        "series" => "The series: its id, 16 hex digits.",
        "name" => "Its metric name.",
        "labels" => "Its other labels.",
        "count" => "Samples in it.",
        "min" | "max" | "avg" => "Of these samples, in the metric's unit.",
        name if name.ends_with("_ms") => "In Unix milliseconds.",
        name if name.starts_with("bytes") => "On disk.",
        _ => "",
    }
}

fn fields(schema: &Value, above: &str) -> Vec<String> {
    let mut rows = Vec::new();
    for (name, field) in schema["properties"].as_object().unwrap() {
        let needed: Vec<&str> = schema["required"].as_array().into_iter().flatten().map(text).collect();
        let path = format!("{above}{name}");
        let optional = if needed.contains(&name.as_str()) { "" } else { ", may be absent" };
        let about = match text(&field["description"]) {
            "" => usual(name),
            about => about,
        };
        let about = about.replace('\n', " ");
        rows.push(row(&[&format!("`{path}`"), &format!("{}{optional}", kind(field)), &about]));
        let (inner, mark) =
            if field["items"]["properties"].is_object() { (&field["items"], "[].") } else { (field, ".") };
        if inner["properties"].is_object() {
            rows.extend(fields(inner, &format!("{path}{mark}")));
        }
    }
    rows
}

fn problems(problems: &Value) -> String {
    let rows = problems["data"].as_array().unwrap().iter().map(|problem| {
        let slug = text(&problem["type"]).rsplit('/').next().unwrap_or_default();
        let status = problem["status"].to_string();
        row(&[&status, &format!("`{slug}`"), text(&problem["title"]), text(&problem["meaning"])])
    });
    table(&["status", "type", "title", "when, and what to do"], rows)
}

#[test]
fn the_api_is_described_as_the_server_describes_it() {
    let server = Tidewatch::start("");
    let document = server.get("/api/v1/openapi.json", &[]).json();
    hold("docs/api.md", "operations", &operations(&document));
    hold("docs/api.md", "shapes", &shapes(&document));
    hold("docs/api.md", "problems", &problems(&server.get("/api/v1/problems", &[]).json()));
    let known: BTreeSet<String> = declared().into_keys().collect();
    for line in server.get("/metrics", &[]).text.lines() {
        let Some(name) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split(' ').next()) else {
            continue;
        };
        assert!(known.contains(name), "docs/operations.md does not know the metric {name}");
    }
}

/// The flags of a command, without those that all take.
fn flags(command: &clap::Command, global: bool) -> String {
    let rows = command.get_arguments().filter(|arg| arg.is_global_set() == global).map(|arg| {
        let values: Vec<String> =
            arg.get_value_names().into_iter().flatten().map(|name| format!("<{name}>")).collect();
        let takes = arg.get_num_args().is_some_and(|n| n.takes_values()) || arg.get_action().takes_values();
        let values = if takes { values.join(" ") } else { String::new() };
        let name = match (arg.get_short(), arg.get_long()) {
            (Some(short), Some(long)) => format!("-{short}, --{long} {values}"),
            (None, Some(long)) => format!("--{long} {values}"),
            _ => values,
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let defaults: Vec<_> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        let default = if defaults.is_empty() || !takes {
            String::new()
        } else {
            format!(" [default: {}]", defaults.join(", "))
        };
        let words: Vec<String> =
            arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let words =
            if words.is_empty() || !takes { String::new() } else { format!(" [{}]", words.join(", ")) };
        row(&[&format!("`{}`", name.trim()), &format!("{help}{words}{default}")])
    });
    let rows: Vec<String> = rows.collect();
    if rows.is_empty() {
        "No flags of its own.\n".to_owned()
    } else {
        table(&["flag", "what it does"], rows.into_iter())
    }
}

#[test]
fn every_command_and_flag_is_described_as_help_describes_it() {
    let cli = Cli::command();
    let mut names: Vec<&str> = Vec::new();
    for command in cli.get_subcommands() {
        names.push(command.get_name());
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let part = format!("{about}.\n\n{}", flags(command, false));
        hold("docs/commands.md", command.get_name(), &part);
    }
    let run = cli.find_subcommand("run").unwrap();
    hold("docs/commands.md", "all", &flags(run, true));
    let page = read("docs/commands.md");
    let described =
        page.lines().filter_map(|line| line.strip_prefix("<!-- generated: ")?.strip_suffix(" -->"));
    for name in described.filter(|name| *name != "all") {
        assert!(names.contains(&name), "docs/commands.md describes {name}, which is no command");
    }
}

/// A counter that is not made at start is missed by `increase` when it is first counted.
#[test]
fn every_limit_that_is_counted_is_in_the_list_and_no_other() {
    let mut sources = String::new();
    let mut folders = vec![repository().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let code = path.extension().is_some_and(|end| end == "rs") && !path.ends_with("src/metrics.rs");
            if path.is_dir() {
                folders.push(path);
            } else if code {
                sources.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let counted = sources.split("limit(\"").skip(1).filter_map(|rest| rest.split('"').next());
    for limit in counted {
        assert!(LIMITS.contains(&limit), "{limit} is counted and not in the list of src/metrics.rs");
    }
    for limit in LIMITS {
        assert!(sources.contains(&format!("\"{limit}\"")), "nothing counts {limit}");
    }
}

/// The labels of a family: each with what is said of its values.
fn labels(family: &str) -> Vec<(String, String)> {
    let begin = METRICS.find(&format!("pub struct {family} {{")).unwrap_or_else(|| panic!("{family}"));
    let fields = METRICS[begin..].split_once("\n}").map(|(fields, _)| fields).unwrap_or_default();
    let (mut labels, mut doc) = (Vec::new(), Vec::new());
    for line in fields.lines().map(str::trim) {
        if let Some(said) = line.strip_prefix("/// ") {
            doc.push(said);
        } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")) {
            labels.push((name.to_owned(), std::mem::take(&mut doc).join(" ")));
        }
    }
    labels
}

fn labels_of(family: &str) -> Vec<String> {
    labels(family).into_iter().map(|(name, _)| name).collect()
}

/// The families that have labels.
fn families() -> BTreeSet<&'static str> {
    let rest = METRICS.split("Family<").skip(1).filter_map(|rest| rest.split(',').next());
    rest.filter(|name| name.ends_with("Labels")).collect()
}

/// Every metric that the program declares: its name as scraped, with its row.
fn declared() -> BTreeMap<String, String> {
    let mut metrics = BTreeMap::new();
    let mut help: Vec<&str> = Vec::new();
    for line in METRICS.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("/// ") {
            help.push(doc);
            continue;
        }
        let of = line.split_once(": ").and_then(|(_, rest)| rest.split_once(" = \""));
        if let Some((of, rest)) = of.filter(|(_, rest)| rest.contains("\", ")) {
            let name = rest.split('"').next().unwrap_or_default();
            let (kind, suffix) = match of {
                of if of.contains("Counter") => ("counter", "_total"),
                of if of.contains("Histogram") => ("histogram", ""),
                _ => ("gauge", ""),
            };
            let labels = of.strip_prefix("Family<").and_then(|rest| rest.split(',').next());
            let names = labels.into_iter().flat_map(labels_of).map(|name| format!("`{name}`"));
            let labels = names.collect::<Vec<_>>().join(", ");
            let name = format!("{name}{suffix}");
            metrics.insert(name.clone(), row(&[&format!("`{name}`"), kind, &labels, &help.join(" ")]));
        }
        help.clear();
    }
    metrics
}

#[test]
fn every_metric_is_listed_and_every_one_that_is_named_exists() {
    let declared = declared();
    assert!(declared.len() > 60, "{}", declared.len());
    let said: BTreeSet<(String, String)> = families().into_iter().flat_map(labels).collect();
    let rows = said.iter().map(|(name, values)| row(&[&format!("`{name}`"), values]));
    hold("docs/operations.md", "labels", &table(&["label", "its values"], rows));
    let rows = declared.values().cloned();
    hold("docs/operations.md", "metrics", &table(&["metric", "type", "labels", "what it says"], rows));
    let pages =
        ["README.md", "docs/operations.md", "docs/semantics.md", "docs/concepts.md", "docs/tutorial.md"];
    for page in pages.into_iter().chain([
        "docs/api.md",
        "docs/commands.md",
        "docs/settings.md",
        "docs/reliability.md",
    ]) {
        let text = read(page);
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            let metric = word.strip_prefix("tidewatch_").is_some_and(|rest| rest.contains('_'));
            // Names of our results, which are no metrics of the server.
            let result =
                ["tidewatch_window_", "tidewatch_profile_", "tidewatch_forecast_", "tidewatch_breach_"];
            if metric && !result.iter().any(|prefix| word.starts_with(prefix)) {
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
                let known =
                    declared.contains_key(word) || family.is_some_and(|name| declared.contains_key(name));
                assert!(known, "{page}: there is no metric {word}");
            }
        }
    }
}

#[test]
fn every_statistic_is_explained() {
    let page = read("docs/semantics.md");
    let table =
        page.split("| column | is | in PromQL |").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap();
    for statistic in STATISTICS.iter().filter(|statistic| statistic.name() != "revision") {
        let name = format!("`{}`", statistic.name());
        let row =
            table.lines().find(|line| line.split(" | ").next().is_some_and(|cell| cell.contains(&name)));
        let row = row.unwrap_or_else(|| panic!("docs/semantics.md lacks {name}"));
        let promql = statistic.promql.map(|function| format!("`{function}`")).unwrap_or_default();
        assert!(row.contains(&promql), "docs/semantics.md: {name} is {promql} in PromQL: {row}");
    }
}

#[test]
fn every_reason_for_which_a_sample_is_not_applied_is_explained() {
    let page = read("docs/semantics.md");
    for reason in Reason::ALL {
        let row = format!("| `{}` |", reason.as_str());
        assert!(page.contains(&row), "docs/semantics.md lacks the row {row}");
    }
}

/// The text of every file of the server's source, as its literals read: a backslash at a line's end joins it to the next.
fn source(folder: &std::path::Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &source(&path);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let lines = std::fs::read_to_string(&path).unwrap();
            text += &lines.split("\\\n").map(str::trim_start).collect::<String>();
        }
    }
    text
}

#[test]
fn errors_are_quoted_in_the_words_of_the_program() {
    let source = source(&repository().join("src"));
    let page = read("docs/operations.md");
    let mut rows = 0;
    let tables = page.split("| words | ").skip(1).map(|table| table.split("\n\n").next().unwrap_or_default());
    for line in tables.flat_map(|table| table.lines().skip(2)) {
        let words = line.trim_start_matches("| ").split(" | ").next().unwrap_or_default();
        for fragment in words.split("...").map(|part| part.trim_matches([' ', ',', ';', ':'])) {
            assert!(source.contains(fragment), "docs/operations.md: no error says {fragment:?}: {words}");
        }
        rows += 1;
    }
    assert!(rows >= 20, "{rows} rows");
}
