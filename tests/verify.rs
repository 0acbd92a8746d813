//! `tidewatch verify` beside a real Prometheus: clean where both have the same samples, live and from files; and it finds
//! each kind of fault, and says what is none.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::process::{NodeExporter, Prometheus, Tidewatch, done, run};
use crate::support::remote_write::{Histogram, WriteRequest};
use crate::support::{Folder, eventually, server};

const CONFIG: &str = "windows: [{length: 10m, hop: 1m}, {length: 1h, hop: 2m}, {length: 3h, hop: 3m}]\n\
                      select: [{match: '{__name__=~\".+\"}', quantiles: [0.05, 0.5, 0.99]}]\n";
const START_MS: i64 = 1_767_225_600_000;
const STEP_MS: i64 = 15_000;
const SAMPLES: i64 = 4 * 240;

/// The programs to run against; a second one if `TEST_PROMETHEUS_3` names it.
fn programs() -> Vec<PathBuf> {
    let second = std::env::var_os("TEST_PROMETHEUS_3").filter(|path| !path.is_empty()).map(PathBuf::from);
    server("TEST_PROMETHEUS").into_iter().chain(second).collect()
}

/// The series of the file, and the value of each at its n-th sample.
fn series(rng: &mut fastrand::Rng) -> Vec<(&'static str, Vec<f64>)> {
    let mut all: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut add = |key, value: &mut dyn FnMut(i64) -> f64| all.push((key, (0..SAMPLES).map(value).collect()));
    add("noise{kind=\"gauge\"}", &mut |_| rng.f64());
    add("noise{kind=\"gauge\",of=\"many \\\"labels\\\" \\\\ and\\nlines\"}", &mut |_| rng.f64() - 0.5);
    add("noise{kind=\"offset\"}", &mut |_| 3.9e10 + rng.f64() * 2.0 - 1.0);
    let mut walk = 1e12;
    add("walk", &mut |_| {
        walk += rng.f64() - 0.5;
        walk
    });
    add("constant{x=\"0.1\"}", &mut |_| 0.1);
    add("tiny{x=\"1e-9\"}", &mut |_| 5.0 + 1e-9 * rng.f64());
    // Resets at every 77th sample.
    add("resets_total", &mut |n| ((n % 77) * 10) as f64);
    add("quantile{quantile=\"0.5\"}", &mut |n| if n % 3 == 0 { f64::NAN } else { rng.f64() });
    add("idle{quantile=\"0.5\"}", &mut |_| f64::NAN);
    add("infinite_bucket{le=\"+Inf\"}", &mut |n| if n % 100 == 7 { f64::INFINITY } else { n as f64 });
    add("a:recorded:rule", &mut |n| -(n as f64));
    add("huge", &mut |_| 1e300 * rng.f64());
    all
}

/// OpenMetrics of these series. The samples lie on the full quarter of a minute, so also on the bounds of windows.
fn openmetrics(series: &[(&str, Vec<f64>)], keep: impl Fn(&str, i64) -> bool) -> String {
    let mut text = String::new();
    for (key, values) in series {
        for (n, value) in (0..).zip(values).filter(|(n, _)| keep(key, *n)) {
            let at_ms = START_MS + n * STEP_MS;
            let value = if value.is_infinite() { "+Inf".to_owned() } else { value.to_string() };
            writeln!(text, "{key} {value} {}.{:03}", at_ms / 1_000, at_ms % 1_000).unwrap();
        }
    }
    text + "# EOF\n"
}

/// A Prometheus that has the samples of a file, with this configuration for its own address.
fn prometheus_with(program: &Path, text: &str, config: impl FnOnce(&str) -> String) -> Option<Prometheus> {
    let folder = Folder::new("prometheus");
    std::fs::write(folder.path().join("in.om"), text).unwrap();
    let output = Command::new(server("TEST_PROMTOOL")?)
        .args(["tsdb", "create-blocks-from", "openmetrics", "in.om", "data"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(Prometheus::start_in(folder, program, config))
}

/// It scrapes nothing.
fn idle(_: &str) -> String {
    "scrape_configs: []\n".to_owned()
}

/// A folder with the rows that a file comes to.
fn replayed(text: &str) -> Folder {
    let folder = Folder::new("verified");
    std::fs::write(folder.path().join("tidewatch.yml"), CONFIG).unwrap();
    std::fs::write(folder.path().join("in.om"), text).unwrap();
    done(folder.path(), &["replay", "in.om"], None);
    folder
}

/// Runs `verify --json`; its exit code and report.
fn verify(folder: &Path, url: &str, more: &[&str]) -> (Option<i32>, Value) {
    let ended = run(folder, &[&["verify", "--json", "--prometheus", url], more].concat(), None);
    let report = serde_json::from_str(ended.out.trim()).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    (ended.code, report)
}

fn count(report: &Value, what: &str) -> u64 {
    report[what].as_u64().unwrap_or_else(|| panic!("no {what}: {report}"))
}

/// The names of the series that differ.
fn differing(report: &Value) -> Vec<&str> {
    let mut names: Vec<_> =
        report["differences"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    names.dedup();
    names
}

/// Each quantile that is set is off by something, and by less than 1 %.
fn quantiles_are_compared(report: &Value) {
    for of in report["windows"].as_array().unwrap() {
        for (quantile, is_set) in [("p5", true), ("p50", true), ("p99", true), ("p999", false)] {
            let worst = of["worst"][quantile].as_f64().unwrap();
            assert!(if is_set { worst > 1e-4 && worst < 0.01 } else { worst == 0.0 }, "{report:#}");
        }
    }
}

#[test]
fn the_same_samples_are_clean_and_each_fault_is_found() {
    for program in programs() {
        let seed = 7;
        let series = series(&mut fastrand::Rng::with_seed(seed));
        let whole = openmetrics(&series, |_, _| true);
        let Some(prometheus) = prometheus_with(&program, &whole, idle) else { return };
        let url = prometheus.url();

        let same = replayed(&whole);
        // The latest rows, and some in the middle whose windows were full, or not.
        for at in
            [None, Some("2026-01-01T03:30:00Z"), Some("2026-01-01T00:30:00Z"), Some("2026-01-01T01:00:00Z")]
        {
            let more: Vec<&str> = at.iter().flat_map(|at| ["--at", at]).collect();
            let (code, report) = verify(same.path(), &url, &more);
            assert_eq!((code, count(&report, "different")), (Some(0), 0), "{at:?}: {report:#}");
            // All but the series that is NaN; at 03:30 each of the windows ends.
            quantiles_are_compared(&report);
            let windows = if at == Some("2026-01-01T03:30:00Z") || at.is_none() { 3 } else { 2 };
            let compared = count(&report, "compared");
            assert!(compared >= 11 * windows, "{at:?}: {report:#}");
            assert!(count(&report, "not_finite") >= 2, "{at:?}: {report:#}");
            for other in ["not_full", "not_in_prometheus", "partly_in_prometheus", "by_samples"] {
                assert_eq!(count(&report, other), 0, "{at:?} {other}: {report:#}");
            }
        }
        let (code, report) = verify(same.path(), &url, &["--match", "noise{kind=\"offset\"}"]);
        assert_eq!(
            (code, count(&report, "compared"), count(&report, "series")),
            (Some(0), 3, 1),
            "{report:#}"
        );
        let (code, report) = verify(same.path(), &url, &["--match", "nothing"]);
        assert_eq!((code, count(&report, "compared")), (Some(1), 0), "{report:#}");

        // One value in the last quarter of an hour is another one.
        let mut changed = series.clone();
        changed[0].1[SAMPLES as usize - 30] += 1e-9;
        let folder = replayed(&openmetrics(&changed, |_, _| true));
        let (code, report) = verify(folder.path(), &url, &[]);
        assert_eq!((code, differing(&report)), (Some(1), vec!["noise"]), "{report:#}");
        assert_eq!(count(&report, "different"), 3, "{report:#}");
        let words = run(folder.path(), &["verify", "--prometheus", &url], None);
        assert_eq!(words.code, Some(1), "{words:?}");
        assert!(
            words.out.contains("3 differ\n") && words.out.contains("  noise{\"kind\":\"gauge\"} 10m at "),
            "{words:?}"
        );

        // One sample is missing in the middle, one series begins late, one is not in Prometheus.
        let kept = |key: &str, n: i64| match key {
            "walk" => n != SAMPLES - 30,
            "huge" => n >= SAMPLES - 100,
            _ => true,
        };
        let mut more = series.clone();
        more.push(("elsewhere", vec![1.0; SAMPLES as usize]));
        let folder = replayed(&openmetrics(&more, kept));
        let (code, report) = verify(folder.path(), &url, &[]);
        assert_eq!((code, differing(&report)), (Some(1), vec!["walk"]), "{report:#}");
        // 100 samples are less than an hour and three, and more than ten minutes.
        assert_eq!((count(&report, "not_full"), count(&report, "not_in_prometheus")), (2, 3), "{report:#}");
        let (code, report) = verify(folder.path(), &url, &["--match", "huge"]);
        assert_eq!(
            (code, count(&report, "not_full")),
            (Some(0), 2),
            "not full is said, and no fault: {report:#}"
        );

        // What it forgot is told apart from what it says otherwise.
        let young =
            prometheus_with(&program, &openmetrics(&series, |_, n| n >= SAMPLES - 100), idle).unwrap();
        let (code, report) = verify(same.path(), &young.url(), &["--match", "noise"]);
        assert_eq!((code, count(&report, "partly_in_prometheus")), (Some(0), 6), "{report:#}");

        tampered(&same, &url);
        profiles(&same, &url);
    }
}

/// Profiles are those of the samples, of as many series as are asked for; one that was changed is found by name and number.
fn profiles(folder: &Folder, url: &str) {
    let of = |more: &[&str]| verify(folder.path(), url, more).1["profiles"].clone();
    let all = of(&[]);
    assert_eq!((count(&all, "stored"), count(&all, "equal")), (11, 11), "{all:#}");
    assert_eq!(["3", "0"].map(|n| count(&of(&["--profiles", n]), "looked_at")), [3, 0]);
    let folder = copied(folder);
    let store = rusqlite::Connection::open(folder.path().join("data/store.sqlite")).unwrap();
    assert!(store.execute("UPDATE profiles SET adf_statistic = adf_statistic + 0.01", []).unwrap() > 5);
    drop(store);
    let (code, report) = verify(folder.path(), url, &["--match", "walk"]);
    let difference = &report["profiles"]["differences"][0];
    assert_eq!((code, &difference["name"]), (Some(1), &json!("walk")), "{report:#}");
    assert_eq!(difference["differs"][0]["statistic"], "adf_statistic", "{report:#}");
    let words = run(folder.path(), &["verify", "--prometheus", url, "--match", "walk"], None);
    assert!(words.out.contains("  walk{} profile at "), "{words:?}");
}

/// A row of the store that was changed is found, for every statistic. Each takes ten seconds, so they go side by side.
fn tampered(folder: &Folder, url: &str) {
    let (_, report) = verify(folder.path(), url, &["--match", "a:recorded:rule"]);
    assert_eq!(report["clean"], true, "{report:#}");
    let find = |(column, change): (&str, &str)| {
        let folder = copied(folder);
        let table = Table::open(&folder);
        let at_ms = START_MS + 3 * 3_600_000 + 30 * 60_000;
        let rows = format!("WHERE window_ms = 600000 AND at_ms = {at_ms}");
        assert!(table.update(&format!("{column} = {column} {change} {rows}")) > 5);
        let only = ["--at", "2026-01-01T03:30:00Z", "--match", "a:recorded:rule"];
        let (code, report) = verify(folder.path(), url, &only);
        let found = (code, differing(&report));
        assert_eq!(found, (Some(1), vec!["a:recorded:rule"]), "{column} {change}: {report:#}");
    };
    std::thread::scope(|scope| {
        for change in [
            ("count", "+ 1"),
            ("count", "- 1"),
            ("min", "- 1"),
            ("max", "+ 1e-9"),
            ("avg", "* (1 + 1e-9)"),
            ("std", "* (1 + 1e-6)"),
        ] {
            scope.spawn(move || find(change));
        }
    });
}

/// A folder with the same configuration and store.
fn copied(folder: &Folder) -> Folder {
    let copy = Folder::new("verified");
    std::fs::create_dir(copy.path().join("data")).unwrap();
    for file in ["tidewatch.yml", "data/store.sqlite"] {
        std::fs::copy(folder.path().join(file), copy.path().join(file)).unwrap();
    }
    copy
}

/// The table of window rows of a store.
struct Table {
    store: rusqlite::Connection,
    name: String,
}

impl Table {
    fn open(folder: &Folder) -> Table {
        let store = rusqlite::Connection::open(folder.path().join("data/store.sqlite")).unwrap();
        let sql = "SELECT name FROM sqlite_master WHERE name LIKE 'windows\\_%' ESCAPE '\\'";
        let name = store.query_row(sql, [], |row| row.get(0)).unwrap();
        Table { store, name }
    }

    /// Changes rows; how many.
    fn update(&self, change: &str) -> usize {
        self.store.execute(&format!("UPDATE {} SET {change}", self.name), []).unwrap()
    }
}

/// How many series differ at once: more than are read again at a time.
const MANY: i64 = 600;

/// A sink that is busy with one transaction for seconds, and more rows of one window and time than are read again at once.
#[test]
fn rows_that_the_sink_writes_seconds_later_are_no_difference_however_many() {
    let mut text = String::new();
    for n in 0..MANY {
        for at in 0..50 {
            let value = (at * 7 + n) % 13;
            writeln!(text, "many{{n=\"{n}\"}} {value} {}", START_MS / 1_000 + at * 15).unwrap();
        }
    }
    text += "# EOF\n";
    for program in programs() {
        let Some(prometheus) = prometheus_with(&program, &text, idle) else { return };
        let folder = replayed(&text);
        let table = Table::open(&folder);
        assert!(table.update("max = max + 1") as i64 >= MANY);
        let at = "2026-01-01T00:11:00Z";
        let (code, report) = std::thread::scope(|scope| {
            let verified = scope.spawn(|| verify(folder.path(), &prometheus.url(), &["--at", at]));
            std::thread::sleep(Duration::from_secs(6));
            table.update("max = max - 1");
            verified.join().unwrap()
        });
        let of = |what: &str| count(&report, what);
        assert_eq!((code, of("different"), of("compared")), (Some(0), 0, MANY as u64), "{report:#}");
        assert_eq!(of("equal_later"), MANY as u64, "{report:#}");

        // Where all of them differ for good the rest is not waited for.
        table.update("max = max + 1");
        let began = std::time::Instant::now();
        let (code, report) = verify(folder.path(), &prometheus.url(), &["--at", at]);
        let (differ, at_once) = (count(&report, "different"), count(&report, "different_at_once"));
        assert_eq!((code, differ, at_once), (Some(1), MANY as u64, MANY as u64 - 500), "{report:#}");
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }
}

#[test]
fn what_cannot_be_asked_is_said() {
    let folder = replayed("up 1 1767225600\nup 1 1767229200\n# EOF\n");
    for (arguments, code, words) in [
        (&["verify"][..], 2, "--prometheus"),
        (&["verify", "--prometheus", "nowhere"], 1, "--prometheus must be a URL"),
        (
            &["verify", "--prometheus", "http://127.0.0.1:9", "--match", "{"],
            1,
            "--match: \"{\" is not a selector",
        ),
        (&["verify", "--prometheus", "http://127.0.0.1:9", "--at", "soon"], 1, "--at must be RFC 3339"),
        (
            &["verify", "--prometheus", "http://127.0.0.1:9"],
            1,
            "asking http://127.0.0.1:9/api/v1/status/buildinfo: ",
        ),
    ] {
        let ended = run(folder.path(), arguments, None);
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert!(ended.err.contains(words), "{arguments:?}: {ended:?}");
    }
    // A server among the sources is reached as it is there.
    let source = "sources: {prometheus: [{url: 'http://127.0.0.1:9/', match: [up], http_config: {authorization: {credentials_file: nope}}}]}\n";
    std::fs::write(folder.path().join("tidewatch.yml"), [CONFIG, source].concat()).unwrap();
    let ended = run(folder.path(), &["verify", "--prometheus", "http://127.0.0.1:9"], None);
    assert!(ended.code == Some(1) && ended.err.contains("reading the secret in nope"), "{ended:?}");
}

/// Scrapes before the windows are compared: 50 s, more than the shorter window.
const SCRAPES: f64 = 25.0;

#[test]
fn what_prometheus_writes_is_clean_beside_the_running_server() {
    let Some(node) = NodeExporter::start() else { return };
    for program in programs() {
        let tidewatch =
            Tidewatch::start("windows: [{length: 30s, hop: 5s}, {length: 1h, hop: 10s}]\nidle_timeout: 5s\n");
        let config = |own: &str| {
            format!(
                "global: {{scrape_interval: 2s, scrape_timeout: 1s, external_labels: {{replica: a}}}}\n\
                remote_write: [{{url: '{}', queue_config: {{batch_send_deadline: 1s}}}}]\n\
                scrape_configs:\n\
                - {{job_name: prometheus, static_configs: [{{targets: ['{own}']}}]}}\n\
                - {{job_name: node, static_configs: [{{targets: ['{}']}}]}}\n",
                tidewatch.url("/api/v1/write"),
                node.address()
            )
        };
        let prometheus = Prometheus::start_in(Folder::new("prometheus"), &program, config);
        eventually("Prometheus has scraped long enough", Duration::from_secs(180), || {
            let found = prometheus.query("min(count_over_time(up[10m]))")?;
            let count =
                found.first().and_then(|r| r["value"][1].as_str()?.parse::<f64>().ok()).unwrap_or(0.0);
            if count >= SCRAPES { Ok(()) } else { Err(format!("{count} scrapes; {}", prometheus.log_tail())) }
        });
        let (code, report) = verify(tidewatch.folder(), &prometheus.url(), &["--without-label", "replica"]);
        println!("{report:#}");
        assert_eq!((code, count(&report, "different")), (Some(0), 0), "{report:#}");
        assert!(count(&report, "compared") > 600, "{report:#}");
        for other in ["not_in_prometheus", "partly_in_prometheus"] {
            assert_eq!(count(&report, other), 0, "{other}: {report:#}");
        }
        // Its name for them is another one.
        let (code, report) = verify(tidewatch.folder(), &prometheus.url(), &["--match", "up"]);
        assert_eq!((code, count(&report, "not_in_prometheus")), (Some(1), 4), "{report:#}");
    }
}

/// A server that asks a Prometheus for hours of samples, killed while it does and again later: minutes after its start
/// windows are full, and none that it ever published from then on is half-empty.
#[test]
fn what_a_killed_bootstrap_bootstrapped_is_clean() {
    let history = Folder::new("history");
    let generate = ["generate", "--series", "100", "--hours", "4", "--format", "openmetrics"];
    let text = done(history.path(), &generate, None);
    for program in programs() {
        let scrapes = |own: &str| {
            format!(
                "global: {{scrape_interval: 2s, scrape_timeout: 1s}}\n\
                scrape_configs: [{{job_name: prometheus, static_configs: [{{targets: ['{own}']}}]}}]\n"
            )
        };
        let Some(prometheus) = prometheus_with(&program, &text, scrapes) else { return };
        eventually("Prometheus has scraped", Duration::from_secs(60), || {
            let found = prometheus.query("count_over_time(up[10m]) > 5")?;
            if found.is_empty() { Err(prometheus.log_tail()) } else { Ok(()) }
        });
        let config = format!(
            "windows: [{{length: 1m, hop: 5s}}, {{length: 3h, hop: 10s}}]\nidle_timeout: 5s\ncatch_up: 10s\n\
            sources: {{prometheus: [{{url: '{}', match: ['{{__name__!=\"\"}}'], chunk: 1m, poll: 1s}}]}}\n",
            prometheus.url()
        );
        let mut tidewatch = Tidewatch::start(&config);
        let mut resumed = 0;
        for kill in 0..20 {
            std::thread::sleep(Duration::from_millis(50 + 40 * kill));
            tidewatch.process().kill();
            tidewatch.start_again();
            let log = tidewatch.process().log();
            resumed += u64::from(log.contains("resuming the bootstrap"));
            if log.contains("polling") || resumed == 3 {
                break;
            }
        }
        assert!(resumed > 0, "no kill met the bootstrap: {}", tidewatch.process().log());
        eventually("3h windows of live series", Duration::from_secs(90), || {
            let query = [("window", "3h"), ("match[]", "{job=\"prometheus\"}"), ("min_count", "20")];
            let rows = tidewatch.rows("/api/v1/windows", &query).len();
            if rows > 100 { Ok(()) } else { Err(format!("{rows} rows; {}", tidewatch.process().log_tail())) }
        });
        eventually("and of those that ended", Duration::from_secs(60), || {
            // Some of the generated series have long gaps.
            let query =
                [("window", "3h"), ("match[]", "{job=~\".+\",job!=\"prometheus\"}"), ("min_count", "600")];
            let rows = tidewatch.rows("/api/v1/windows", &query).len();
            if rows >= 60 { Ok(()) } else { Err(format!("{rows} rows; {}", tidewatch.process().log_tail())) }
        });
        let (code, report) = verify(tidewatch.folder(), &prometheus.url(), &[]);
        assert_eq!((code, count(&report, "different")), (Some(0), 0), "{report:#}");
        assert!(count(&report, "compared") > 600, "{report:#}");
        for other in ["not_full", "not_in_prometheus", "partly_in_prometheus"] {
            assert_eq!(count(&report, other), 0, "{other}: {report:#}");
        }
    }
}

/// How many series get late samples.
const LATE: i64 = 24;

/// Sends to a Prometheus what comes live and late: each of `LATE` series a sample a second, and every four seconds one
/// that is 20 to 80 s old; one with infinities, one native histogram. Until told to stop.
fn send_late(prometheus: &Prometheus, stop: &AtomicBool) {
    let url = format!("{}/api/v1/write", prometheus.url());
    let send = |request: WriteRequest| {
        let answer = request.send(&url).unwrap();
        assert!(answer.status < 300, "{answer:?}");
    };
    let numbers: Vec<String> = (0..LATE).map(|n| n.to_string()).collect();
    for round in 0_i64.. {
        if stop.load(Relaxed) {
            return;
        }
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let (mut live, mut late) = (WriteRequest::default(), WriteRequest::default());
        for (n, text) in (0..LATE).zip(&numbers) {
            let labels = [("__name__", "late"), ("n", text)];
            live = live.series(&labels, &[(now_ms, ((round * 7 + n) % 13) as f64)]);
            if (round + n) % 4 == 0 {
                let back_ms = 20_000 + (round * 977 + n * 331) % 60_000;
                late = late.series(&labels, &[(now_ms - back_ms, ((round * 5 + n) % 17) as f64)]);
            }
        }
        let value = if round % 5 == 3 { f64::INFINITY } else { round as f64 };
        live = live.series(&[("__name__", "infinite")], &[(now_ms, value)]);
        let histogram = Histogram {
            count: 3 * (round as u64 + 1),
            sum: round as f64,
            at_ms: now_ms,
            zero: 3 * (round as u64 + 1),
            ..Histogram::default()
        };
        live = live.series_with(&[("__name__", "rpc_seconds")], &[], &[histogram]);
        send(live);
        send(late);
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A row is read, then the server is asked: what came late in between is no difference.
#[test]
fn late_samples_that_arrive_while_it_compares_are_no_difference() {
    let rounds: usize = std::env::var("TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2).min(50);
    for program in programs() {
        let tidewatch =
            Tidewatch::start("windows: [{length: 1m, hop: 5s}, {length: 5m, hop: 10s}]\nidle_timeout: 5s\n");
        let config = |own: &str| {
            format!(
                "global: {{scrape_interval: 2s, scrape_timeout: 1s}}\n\
                storage: {{tsdb: {{out_of_order_time_window: 10m}}}}\n\
                remote_write: [{{url: '{}', send_native_histograms: true, queue_config: {{batch_send_deadline: 1s}}}}]\n\
                scrape_configs: [{{job_name: prometheus, static_configs: [{{targets: ['{own}']}}]}}]\n",
                tidewatch.url("/api/v1/write"),
            )
        };
        let flags = ["--web.enable-remote-write-receiver", "--enable-feature=native-histograms"];
        let prometheus = Prometheus::start_with(Folder::new("prometheus"), &program, &flags, config);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| send_late(&prometheus, &stop));
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                compared_while_late_samples_come(&tidewatch, &prometheus, rounds);
            }));
            stop.store(true, Relaxed);
            if let Err(panic) = checked {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

fn compared_while_late_samples_come(tidewatch: &Tidewatch, prometheus: &Prometheus, rounds: usize) {
    eventually("rows that late samples correct", Duration::from_secs(120), || {
        let corrected =
            tidewatch.rows("/api/v1/windows", &[("match[]", "late"), ("window", "5m"), ("min_count", "80")]);
        let corrected = corrected.iter().filter(|row| row["revision"].as_i64() > Some(0)).count();
        if corrected >= LATE as usize {
            Ok(())
        } else {
            Err(format!("{corrected}; {}", prometheus.log_tail()))
        }
    });
    let mut settled = 0;
    // In one run of five or so no late sample comes between the questions.
    for round in 0..rounds + 20 {
        if round >= rounds && settled > 0 {
            break;
        }
        let (code, report) = verify(tidewatch.folder(), &prometheus.url(), &[]);
        let rest =
            ["different", "not_in_prometheus", "partly_in_prometheus"].map(|what| count(&report, what));
        assert_eq!((code, rest), (Some(0), [0; 3]), "round {round}: {report:#}");
        let of = |what: &str| count(&report, what);
        println!("round {round}: {} compared, {} equal when asked again", of("compared"), of("equal_later"));
        settled += of("equal_later");
        assert!(of("compared") > 500 && of("infinite") >= 1, "{report:#}");
        assert_eq!(of("derived_from_histograms"), 4, "_count and _sum in two windows: {report:#}");
    }
    assert!(settled > 0, "no late sample came between the questions");
    let words =
        run(tidewatch.folder(), &["verify", "--match", "infinite", "--prometheus", &prometheus.url()], None);
    assert!(words.out.contains("+Inf and -Inf are left out"), "{words:?}");
}
