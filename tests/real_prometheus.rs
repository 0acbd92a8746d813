//! A real Prometheus scrapes itself, a node exporter and the server, and writes all of it to the server.
//!
//! Then every window of every one of its series has to be what Prometheus' own raw samples give. Windows are short, so
//! that the test is over in two minutes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::process::{NodeExporter, Prometheus, Tidewatch};
use crate::support::windows::{self, Window};
use crate::support::{Folder, eventually, server};

const WINDOWS: [Window; 2] = [("30s", 30_000, 5_000), ("1m", 60_000, 10_000)];

const CONFIG: &str = "
windows: [{length: 30s, hop: 5s}, {length: 1m, hop: 10s}]
idle_timeout: 5s
";

/// Scrapes of the slowest job before the windows are looked at: 75 s, more than the longest window.
const SCRAPES: f64 = 25.0;

/// Labels without `__name__` and the name, as one key.
type Series = (String, BTreeMap<String, String>);

fn series_of(labels: &Value) -> Series {
    let pairs = labels.as_object().unwrap_or_else(|| panic!("no labels: {labels}"));
    let mut labels: BTreeMap<String, String> =
        pairs.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
    (labels.remove("__name__").unwrap_or_default(), labels)
}

/// What 3.x needs to send remote write 2.0.
const MESSAGE_2: &str = "protobuf_message: io.prometheus.write.v2.Request, ";

fn prometheus_config(own: &str, node: &str, tidewatch: &str, write_url: &str, message: &str) -> String {
    let job = |name: &str, target: &str, interval: &str| {
        format!(
            "  - {{job_name: {name}, scrape_interval: {interval}, scrape_timeout: 1s, static_configs: [{{targets: ['{target}']}}]}}\n"
        )
    };
    format!(
        "remote_write:\n  - {{url: '{write_url}', {message}queue_config: {{batch_send_deadline: 1s}}}}\nscrape_configs:\n{}{}{}",
        job("prometheus", own, "3s"),
        job("node", node, "2s"),
        job("tidewatch", tidewatch, "1s"),
    )
}

/// All raw samples of Prometheus, by series and time: finite ones, as the server takes no others.
fn raw(prometheus: &Prometheus) -> BTreeMap<Series, Vec<(i64, f64)>> {
    let matrix = prometheus.query("{__name__!=\"\"}[10m]").unwrap();
    let of = |series: &Value| {
        let values = series["values"].as_array().unwrap().iter().map(|pair| {
            let at_ms = (pair[0].as_f64().unwrap() * 1_000.0).round() as i64;
            (at_ms, pair[1].as_str().unwrap().parse::<f64>().unwrap())
        });
        (series_of(&series["metric"]), values.filter(|(_, value)| value.is_finite()).collect())
    };
    matrix.iter().map(of).collect()
}

#[test]
fn windows_of_every_series_equal_what_its_raw_samples_give() {
    let Some(program) = server("TEST_PROMETHEUS") else { return };
    every_window_equals(&program, "");
}

/// The program is built by `./test.sh --prometheus3` only.
#[test]
fn and_so_they_do_by_remote_write_2_0_of_prometheus_3() {
    let named = std::env::var_os("TEST_PROMETHEUS_3").filter(|path| !path.is_empty());
    let Some(program) = named.map(PathBuf::from) else { return };
    every_window_equals(&program, MESSAGE_2);
}

fn every_window_equals(program: &Path, message: &str) {
    let Some(node) = NodeExporter::start() else { return };
    let tidewatch = Tidewatch::start(CONFIG);
    let write_url = tidewatch.url("/api/v1/write");
    let config =
        |own: &str| prometheus_config(own, &node.address(), &tidewatch.address(), &write_url, message);
    let prometheus = Prometheus::start_in(Folder::new("prometheus"), program, config);
    eventually("Prometheus has scraped long enough", Duration::from_secs(180), || {
        let found = prometheus.query("min(count_over_time(up[10m]))")?;
        let count = found.first().and_then(|r| r["value"][1].as_str()?.parse::<f64>().ok()).unwrap_or(0.0);
        if count >= SCRAPES { Ok(()) } else { Err(format!("{count} scrapes; {}", prometheus.log_tail())) }
    });

    let raw = raw(&prometheus);
    for (job, least) in [("prometheus", 200), ("node", 100), ("tidewatch", 20)] {
        let found = raw.keys().filter(|(_, labels)| labels.get("job").is_some_and(|j| j == job)).count();
        assert!(found >= least, "only {found} series of the job {job}");
    }
    let expected: Vec<(&Series, Window, i64)> = raw
        .iter()
        .flat_map(|(series, samples)| WINDOWS.map(|window| (series, window, windows::times(samples, window))))
        .flat_map(|(series, window, times)| times.into_iter().map(move |at_ms| (series, window, at_ms)))
        .collect();
    let rows = eventually("every expected row is in the store", Duration::from_secs(60), || {
        let rows = rows(&tidewatch, &expected);
        let missing: Vec<_> =
            expected.iter().filter(|(s, w, at)| !rows.contains_key(&(*s, w.0, *at))).collect();
        match missing.first() {
            None => Ok(rows),
            Some(first) => Err(format!("{} of {} missing, first {first:?}", missing.len(), expected.len())),
        }
    });

    let mut wrong = Vec::new();
    for (series, window, at_ms) in &expected {
        let row = &rows[&(*series, window.0, *at_ms)];
        let different = windows::differences(row, &raw[*series], window.1);
        wrong.extend(different.into_iter().map(|what| format!("{what} in {row}")));
    }
    println!("{} series of Prometheus, {} windows compared", raw.len(), expected.len());
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    // It takes an answer to 2.0 without the headers of what is written as a failure, and says so here.
    for counter in ["samples_failed_total", "samples_dropped_total", "metadata_failed_total"] {
        let sum = format!("sum(prometheus_remote_storage_{counter})");
        let found = prometheus.query(&sum).unwrap();
        assert!(found.iter().all(|series| series["value"][1] == "0"), "{counter}: {found:?}");
    }
    own_metrics_are_clean(&tidewatch);
}

/// The rows of the API over the expected times, by key, of the series that Prometheus had when it was asked.
fn rows<'a>(
    tidewatch: &Tidewatch,
    expected: &[(&'a Series, Window, i64)],
) -> BTreeMap<(&'a Series, &'static str, i64), Value> {
    let known: BTreeMap<&Series, &'a Series> =
        expected.iter().map(|(series, ..)| (*series, *series)).collect();
    let times = || expected.iter().map(|(_, _, at_ms)| at_ms / 1_000);
    let (start, end) = (times().min().unwrap_or(0).to_string(), times().max().unwrap_or(0).to_string());
    let mut rows = BTreeMap::new();
    for row in tidewatch.rows("/api/v1/windows", &[("start", &start), ("end", &end)]) {
        let (_, labels) = series_of(&row["labels"]);
        let series = (row["name"].as_str().unwrap().to_owned(), labels);
        let window = WINDOWS.iter().find(|window| row["window"].as_str() == Some(window.0));
        let name = window.unwrap_or_else(|| panic!("a window nobody asked for: {row}")).0;
        if let Some(series) = known.get(&series) {
            let twice = rows.insert((*series, name, row["at_ms"].as_i64().unwrap()), row);
            assert!(twice.is_none(), "a key twice: {twice:?}");
        }
    }
    rows
}

/// `promtool check metrics` has nothing to say about the server's own metrics.
fn own_metrics_are_clean(tidewatch: &Tidewatch) {
    let Some(promtool) = server("TEST_PROMTOOL") else { return };
    let text = tidewatch.get("/metrics", &[]).text;
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}
