//! The API held to its own description by schemathesis: thousands of requests, right and wrong, of every operation.
//!
//! `TEST_SCHEMATHESIS` is its program, which `./test.sh` installs. What is checked is in `tests/schemathesis/`; a failure
//! names the request and how to send it again.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::filled::filled;
use crate::support::process::{Prometheus, Tidewatch};
use crate::support::{Folder, repository, server};

/// The server answers old samples and backfills; it scrapes itself.
fn config(server: &str) -> String {
    format!(
        "
windows: [{{length: 5m, hop: 1m}}, {{length: 1h, hop: 1m}}]
idle_timeout: 5s
sources: {{prometheus: [{{url: '{server}', match: ['up'], bootstrap: 0s, poll: 1s}}]}}
"
    )
}

fn scrapes(address: &str) -> String {
    format!(
        "scrape_configs: [{{job_name: it, scrape_interval: 1s, static_configs: [{{targets: ['{address}']}}]}}]\n"
    )
}

/// Requests that are made up for each operation, beside those at the bounds of its schemas.
const EXAMPLES: u64 = 100;

/// What the description does not say is not answered: an object has the members that it names, and no others.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.contains_key("properties") && members.contains_key("type") {
                members.entry("additionalProperties").or_insert(json!(false));
            }
            members.values_mut().for_each(close);
        }
        Value::Array(all) => all.iter_mut().for_each(close),
        _ => {}
    }
}

/// Narrows what would have to be guessed to values of this server; others are made up as wrong ones.
fn hint(document: &mut Value, tidewatch: &Tidewatch) {
    let corrected = [("window", "5m"), ("start", "0"), ("min_revision", "1"), ("limit", "1")];
    let row = &tidewatch.get("/api/v1/windows", &corrected).json()["data"][0];
    let (at, revised) = (row["at"].clone(), row["series"].clone());
    assert!(at.is_string(), "a late sample corrected a row");
    let page = tidewatch.get("/api/v1/catalog", &[("limit", "3")]).json();
    let mut known: Vec<Value> =
        page["data"].as_array().unwrap().iter().map(|row| row["series"].clone()).collect();
    // The name of one series, and one that several bear.
    known.extend([revised, json!("page_test"), json!("node_load1")]);
    document["servers"] = json!([{"url": "/"}]);
    for (path, operations) in document["paths"].as_object_mut().unwrap() {
        for operation in operations.as_object_mut().unwrap().values_mut() {
            for param in operation["parameters"].as_array_mut().unwrap() {
                let some = match param["name"].as_str().unwrap() {
                    "series" => json!(known),
                    "match[]" => json!(["{job=~\"node.*\"}", "node_load1"]),
                    "window" if path.ends_with("explain") => json!(["5m", "1h"]),
                    "at" if path.ends_with("explain") => json!([at]),
                    "slug" => json!(["bad-parameter", "deadline"]),
                    _ => continue,
                };
                match param["schema"].get_mut("items") {
                    Some(items) => *items = json!({"anyOf": [{"enum": some}, items]}),
                    None => param["schema"] = json!({"enum": some}),
                }
            }
        }
    }
}

#[test]
fn no_request_is_answered_otherwise_than_described() {
    let (Some(program), Some(prometheus)) = (server("TEST_SCHEMATHESIS"), server("TEST_PROMETHEUS")) else {
        return;
    };
    let prometheus = Prometheus::start_in(Folder::new("prometheus"), &prometheus, scrapes);
    let tidewatch = filled("schemathesis", &config(&prometheus.url()));
    let mut document = tidewatch.get("/api/v1/openapi.json", &[]).json();
    let described: usize =
        document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
    close(&mut document);
    hint(&mut document, &tidewatch);
    let file = tidewatch.folder().join("openapi.json");
    std::fs::write(&file, document.to_string()).unwrap();
    // Whoever waited for the server was told 503 until it was ready; what counts comes after.
    let failed = |tidewatch: &Tidewatch| -> Vec<String> {
        let metrics = tidewatch.get("/metrics", &[]).text;
        metrics.lines().filter(|line| line.contains(",code=\"5")).map(str::to_owned).collect()
    };
    let before = failed(&tidewatch);
    let settings = repository().join("tests/schemathesis");
    let examples = crate::rounds(EXAMPLES).to_string();
    let run = Command::new(program)
        .arg("--config-file")
        .arg(settings.join("schemathesis.toml"))
        .arg("run")
        .arg(&file)
        .args(["--url", &tidewatch.url(""), "--max-examples", &examples, "--no-color"])
        .env("SCHEMATHESIS_HOOKS", settings.join("hooks.py"))
        .current_dir(tidewatch.folder())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    // Some requests are long.
    for line in said.lines().filter(|line| !line.is_empty()) {
        println!("{}", line.chars().take(400).collect::<String>());
    }
    assert!(run.status.success(), "{}, see above; {}", run.status, String::from_utf8_lossy(&run.stderr));
    let all = format!("{described} selected / {described} total");
    assert!(said.contains(&all), "every operation is asked: {all}");
    // Every route was asked something right, and nothing failed.
    assert_eq!(failed(&tidewatch), before);
    let metrics = tidewatch.get("/metrics", &[]).text;
    for path in document["paths"].as_object().unwrap().keys() {
        // Nobody makes up a message in protobuf.
        let right = format!("tidewatch_http_responses_total{{route=\"{path}\",code=\"2");
        assert!(path == "/api/v1/write" || metrics.contains(&right), "{path} never answered 2xx: {metrics}");
    }
}
