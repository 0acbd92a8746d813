//! Backfills from a real Prometheus into a running server: `POST /api/v1/backfill`. Every window it may write is what the
//! server's own samples give; a second one writes nothing; one at a time; a kill leaves nothing behind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tidewatch_dataflows::sample::Samples;
use tidewatch_dataflows::settings::{Settings, Window};

use crate::oracle::{from_scratch, same_row};
use crate::replayed::{parts, rows, samples_of};
use crate::support::http;
use crate::support::process::{Prometheus, Tidewatch, done};
use crate::support::remote_write::WriteRequest;
use crate::support::{Folder, eventually, server, stored};

const MINUTE_MS: i64 = 60_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn settings() -> Settings {
    let minutes = |length: i64, hop: i64| Window { length_ms: length * MINUTE_MS, hop_ms: hop * MINUTE_MS };
    Settings { windows: vec![minutes(5, 1), minutes(60, 3)], ..Settings::default() }.validated().unwrap()
}

/// A server that may ask these servers, and asks none by itself.
fn config(servers: &[&str]) -> String {
    let entry =
        |url: &&str| format!("{{url: '{url}', match: ['{{job=\"node\"}}'], bootstrap: 0s, poll: 0s}}");
    let entries: Vec<_> = servers.iter().map(entry).collect();
    format!(
        "windows: [{{length: 5m, hop: 1m}}, {{length: 1h, hop: 3m}}]\nselect: [{{match: '{{job=~\".+\"}}', quantiles: [0.9]}}]\nsources: {{prometheus: [{}]}}\n",
        entries.join(", ")
    )
}

/// Three hours of samples up to now, at whole seconds: Prometheus reads OpenMetrics' times as fractions.
fn text(now_ms: i64) -> String {
    let folder = Folder::new("generated");
    let start = ((now_ms / 1_000) - 3 * 3_600).to_string();
    let arguments = ["generate", "--seed", "5", "--series", "20", "--hours", "3", "--start", &start];
    done(folder.path(), &[&arguments[..], &["-o", "all.prom"]].concat(), None);
    let text = std::fs::read_to_string(folder.path().join("all.prom")).unwrap();
    let whole = |line: &str| {
        let (rest, at_ms) = line.rsplit_once(' ').unwrap();
        format!("{rest} {}", at_ms.parse::<i64>().unwrap() / 1_000 * 1_000)
    };
    text.lines().map(whole).filter(|line| at_ms(line) < now_ms - MINUTE_MS).fold(
        String::new(),
        |mut all, line| {
            writeln!(all, "{line}").unwrap();
            all
        },
    )
}

fn at_ms(line: &str) -> i64 {
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Blocks of a Prometheus with these samples.
fn blocks(promtool: &Path, folder: &Path, text: &str) {
    let mut open_metrics = String::new();
    for line in text.lines() {
        let (rest, at_ms) = line.rsplit_once(' ').unwrap();
        writeln!(open_metrics, "{rest} {}", at_ms.parse::<i64>().unwrap() / 1_000).unwrap();
    }
    open_metrics.push_str("# EOF\n");
    std::fs::write(folder.join("all.om"), open_metrics).unwrap();
    let made = Command::new(promtool)
        .args(["tsdb", "create-blocks-from", "openmetrics", "all.om", "data"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Sends these lines as remote write, and waits until the store holds what came of them.
fn send(tidewatch: &Tidewatch, text: &str) {
    let lines: Vec<_> = text.lines().collect();
    for some in lines.chunks(2_000) {
        let request = some.iter().fold(WriteRequest::default(), |request, line| {
            let (labels, at_ms, value) = parts(line);
            request.series(&labels, &[(at_ms, value)])
        });
        let answer = request.send(&tidewatch.url("/api/v1/write")).unwrap();
        assert_eq!(answer.status, 204, "{answer:?}");
    }
    let epoch =
        |path: &str| tidewatch.get("/api/v1/status", &[]).json().pointer(path).and_then(Value::as_u64);
    let last = epoch("/epoch/journal").unwrap_or(0);
    eventually("all of it is stored", PATIENCE, || match epoch("/store/epoch") {
        Some(stored) if stored > last => Ok(()),
        stored => Err(format!("{stored:?}, not above {last}")),
    });
}

fn order(tidewatch: &Tidewatch, body: &Value) -> http::Answer {
    http::post(
        &tidewatch.url("/api/v1/backfill"),
        &[("content-type", "application/json")],
        body.to_string().as_bytes(),
    )
    .unwrap()
}

/// Begins a backfill and follows it to its end.
fn finished(tidewatch: &Tidewatch, body: &Value) -> Value {
    let begun = order(tidewatch, body);
    assert_eq!(begun.status, 202, "{begun:?}");
    let path = format!("/api/v1/backfill/{}", begun.json()["id"].as_str().unwrap());
    eventually("the backfill has ended", PATIENCE, || {
        let job = tidewatch.get(&path, &[]).json();
        if job["state"] == "running" { Err(job.to_string()) } else { Ok(job) }
    })
}

#[test]
fn a_backfill_from_a_real_prometheus_is_what_its_samples_give() {
    let (Some(promtool), Some(program)) = (server("TEST_PROMTOOL"), server("TEST_PROMETHEUS")) else {
        return;
    };
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let text = text(now_ms);
    let samples = samples_of(&text);
    let folder = Folder::new("prometheus");
    blocks(&promtool, folder.path(), &text);
    let prometheus = Prometheus::start_in(folder, &program, |_| String::new());
    let mut tidewatch = Tidewatch::start(&config(&[&prometheus.url()]));
    // The server was there for the last hour, and every tenth sample never came.
    let middle = now_ms - 60 * MINUTE_MS;
    let mut n = 0;
    let lines = text.lines().filter(|line| {
        n += 1;
        at_ms(line) > middle && n % 10 != 0
    });
    let live = lines.fold(String::new(), |mut all, line| {
        writeln!(all, "{line}").unwrap();
        all
    });
    send(&tidewatch, &live);
    let start_ms = now_ms - 120 * MINUTE_MS;
    let body = json!({"start": start_ms as f64 / 1e3, "end": jiff::Timestamp::from_millisecond(now_ms).unwrap().to_string()});
    let job = finished(&tidewatch, &body);
    assert_eq!((&job["state"], &job["error"]), (&json!("done"), &Value::Null), "{job}");
    assert!(job["requests"].as_u64().unwrap() >= 3, "{job}");
    assert!(job["rows_written"].as_u64().unwrap() > 0 && job["summary"]["series"] == 20, "{job}");

    // Every key up to the limit of its series has all samples; nothing was kept, for the backfill knows all.
    let settings = settings();
    let (want, newest) = (from_scratch(&settings, &samples), stored::newest(&samples_of(&live)));
    let first: BTreeMap<u64, i64> = firsts(&samples, start_ms - 60 * MINUTE_MS);
    let check = |exported: &str| {
        let got: BTreeMap<_, _> =
            rows(exported).into_iter().map(|row| (stored::key(&settings, &row), row)).collect();
        let (mut checked, mut partial) = (0, 0);
        for (key, want) in &want {
            let Some(newest) = newest.get(&key.0.0) else { continue };
            if key.2 <= start_ms || key.2 > newest - settings.allowed_lateness_ms {
                continue;
            }
            // A sparse series may begin within the window: then a row that is there stays.
            if key.2 - key.1 < first[&key.0.0] && key.2 > middle {
                partial += 1;
                continue;
            }
            let row = got.get(key).unwrap_or_else(|| panic!("there is no row {want:?}\n{job}"));
            assert!(same_row(&stored::stats(row, want), want), "\n got {row}\nwant {want:?}\n{job}");
            assert!(row["p90"].is_number(), "{row}");
            checked += 1;
        }
        assert!(checked > 1_000 && partial < checked / 4, "{checked} rows checked, {partial} not");
    };
    check(&done(tidewatch.folder(), &["export", "--final"], None));

    // A second one writes nothing. While one is at work there is no other; it can be ended.
    let again = finished(&tidewatch, &body);
    assert_eq!((&again["state"], &again["rows_written"]), (&json!("done"), &json!(0)), "{again}");
    let begun = order(&tidewatch, &body);
    assert_eq!(begun.status, 202, "{begun:?}");
    let id = begun.json()["id"].as_str().unwrap().to_owned();
    let refused = order(&tidewatch, &body);
    // It may be that fast.
    if refused.status != 202 {
        assert_eq!((refused.status, refused.content_type.as_str()), (409, "application/problem+json"));
        assert!(refused.text.contains(&id), "{refused:?}");
    }
    let left = tidewatch.folder().join("data/backfill");
    tidewatch.process().kill();
    tidewatch.start_again();
    assert!(!left.exists(), "a backfill that was killed leaves nothing behind");
    let forgotten = http::get(&tidewatch.url(&format!("/api/v1/backfill/{id}")), &[]).unwrap();
    assert_eq!(forgotten.status, 404, "{forgotten:?}");
    check(&done(tidewatch.folder(), &["export", "--final"], None));
    assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());
}

/// The first sample of each series from a time on.
fn firsts(samples: &Samples, from_ms: i64) -> BTreeMap<u64, i64> {
    let mut first = BTreeMap::new();
    for (series, at_ms) in samples.series.iter().zip(&samples.at_ms).filter(|(_, at_ms)| **at_ms >= from_ms) {
        let held = first.entry(*series).or_insert(*at_ms);
        *held = (*at_ms).min(*held);
    }
    first
}

#[test]
fn what_cannot_be_backfilled_is_told() {
    let none = Tidewatch::start(&config(&[]).replace("sources: {prometheus: []}\n", ""));
    let body = json!({"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"});
    let refused = order(&none, &body);
    assert_eq!((refused.status, refused.content_type.as_str()), (400, "application/problem+json"));
    assert!(refused.text.contains("of which none is configured"), "{refused:?}");
    // Two servers that are none: one nobody listens at, and one that knows no such path.
    let mut tidewatch = Tidewatch::start(&config(&["http://127.0.0.1:9", &none.url("/nothing")]));
    for (source, says) in [
        (json!(2), "or its place from 0; got 2"),
        (json!("http://127.0.0.1:9090"), "source must be one of http://127.0.0.1:9, "),
    ] {
        let refused =
            order(&tidewatch, &json!({"source": source, "start": body["start"], "end": body["end"]}));
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(refused.text.contains(says), "{refused:?}");
    }
    let with = |source: Value| json!({"source": source, "start": body["start"], "end": body["end"]});
    let failed = finished(&tidewatch, &with(json!(none.url("/nothing"))));
    assert_eq!(failed["state"], "failed", "{failed}");
    assert!(failed["error"].as_str().unwrap().contains("404"), "{failed}");
    // One that is tried again until someone ends it.
    let begun = order(&tidewatch, &with(json!(0)));
    assert_eq!(begun.status, 202, "{begun:?}");
    let path = format!("/api/v1/backfill/{}", begun.json()["id"].as_str().unwrap());
    let job = || tidewatch.get(&path, &[]).json();
    eventually("it fails and goes on", PATIENCE, || {
        let job = job();
        if job["requests_failed"].as_u64() > Some(0) && job["state"] == "running" {
            Ok(())
        } else {
            Err(job.to_string())
        }
    });
    let second = order(&tidewatch, &with(json!(0)));
    assert_eq!((second.status, second.json()["status"].as_u64()), (409, Some(409)), "{second:?}");
    assert!(second.text.contains(&path), "{second:?}");
    assert_eq!(tidewatch.metric("tidewatch_limit_reached_total{limit=\"backfill.running\"}"), 1.0);
    let ended = http::delete(&tidewatch.url(&path)).unwrap();
    assert_eq!(ended.status, 200, "{ended:?}");
    eventually("it is cancelled", PATIENCE, || match job()["state"].as_str() {
        Some("cancelled") => Ok(()),
        state => Err(format!("{state:?}")),
    });
    assert!(!tidewatch.folder().join("data/backfill").exists());
    // SIGTERM does not wait for one.
    assert_eq!(order(&tidewatch, &with(json!(0))).status, 202);
    assert_eq!(tidewatch.process().terminate().code(), Some(0), "{}", tidewatch.process().log_tail());
    assert!(!tidewatch.folder().join("data/backfill").exists());
}

/// A question may hang for minutes: who cancels the job ends the question as well.
#[test]
fn a_cancelled_backfill_leaves_no_question_behind() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    // `poll` and `bootstrap` of 0: nobody but the job asks.
    let source = format!("{{url: '{url}', match: [up], bootstrap: 0s, poll: 0s}}");
    let tidewatch = Tidewatch::start(&format!("sources: {{prometheus: [{source}]}}\n"));
    let (to, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in silent.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4_096];
            let n = std::io::Read::read(&mut stream, &mut head).unwrap_or(0);
            let question = String::from_utf8_lossy(&head[..n]).contains("/api/v1/query");
            if question && to.send(stream).is_err() {
                return;
            }
        }
    });
    let begun = order(&tidewatch, &json!({"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"}));
    assert_eq!(begun.status, 202, "{begun:?}");
    let mut question = asked.recv_timeout(5 * PATIENCE).expect("the job asks");
    let path = format!("/api/v1/backfill/{}", begun.json()["id"].as_str().unwrap());
    assert_eq!(http::delete(&tidewatch.url(&path)).unwrap().status, 200);
    // The rest of the question, then the end: without the job's care it would come minutes later.
    question.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut question, &mut rest).expect("the question is ended");
}
