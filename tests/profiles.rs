//! What kind of series each is, from samples to the API: verdicts of series that are made to be of a kind, filters, rates of
//! counters by their names, a kill in between, and the same rows for any number of workers.

use std::f64::consts::TAU;
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;
use crate::support::{Folder, eventually, http};

/// A time long past, so that nothing depends on the clock.
const START_MS: i64 = 1_767_225_600_000;
const PATIENCE: Duration = Duration::from_secs(60);
/// Samples, one a minute: thirty hours.
const SAMPLES: usize = 1_800;

/// From this sample on one series is a walk, which was noise before.
const TURN: usize = 600;

/// Six series, each of another kind, sample by sample.
fn series() -> Vec<(&'static str, Vec<(i64, f64)>)> {
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut walk, mut turning, mut total) = (0.0, 0.0, 0.0);
    let names = ["hourly", "noise", "walk", "constant", "requests_total", "turning"];
    let mut all: Vec<(&str, Vec<(i64, f64)>)> = names.map(|name| (name, Vec::new())).into();
    for i in 0..SAMPLES {
        let mut noise = || rng.f64() - 0.5;
        walk += noise();
        // Two a second, but for the noise.
        total += 120.0 + 10.0 * noise();
        turning = noise() + if i < TURN { 0.0 } else { turning };
        let values =
            [10.0 + 3.0 * (TAU * i as f64 / 60.0).sin() + noise(), 4e10 + noise(), walk, 7.0, total, turning];
        for ((_, samples), value) in all.iter_mut().zip(values) {
            samples.push((START_MS + i as i64 * 60_000, value));
        }
    }
    all
}

fn send(tidewatch: &Tidewatch, range: std::ops::Range<usize>) {
    let request = series().iter().fold(WriteRequest::default(), |request, (name, samples)| {
        request.series(&[("__name__", name)], &samples[range.clone()])
    });
    assert_eq!(request.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
}

#[test]
fn series_of_each_kind_are_told_apart_also_after_a_kill() {
    let mut tidewatch = Tidewatch::start("idle_timeout: 1s\nsnapshots: {every: 1s}\n");
    send(&tidewatch, 0..900);
    eventually("profiles of half of the samples", PATIENCE, || {
        let rows = tidewatch.rows("/api/v1/profiles", &[]);
        (rows.len() == 6).then_some(()).ok_or_else(|| format!("{rows:?}"))
    });
    tidewatch.process().kill();
    tidewatch.start_again();
    send(&tidewatch, 900..SAMPLES);
    let rows = eventually("profiles of a whole day", PATIENCE, || {
        let rows = tidewatch.rows("/api/v1/profiles", &[]);
        let whole = rows.iter().all(|row| row["steps"].as_u64().is_some_and(|steps| steps >= 1_439));
        (rows.len() == 6 && whole).then_some(()).ok_or_else(|| format!("{rows:?}"))?;
        Ok(rows)
    });
    let of = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    let verdicts =
        |row: &Value| [&row["stationary"], &row["seasonal"], &row["autocorrelated"]].map(Value::clone);
    assert_eq!(verdicts(of("hourly"))[1], json!(true), "{}", of("hourly"));
    assert_eq!(of("hourly")["period_seconds"], 3_600);
    assert_eq!(verdicts(of("noise"))[..2], [json!(true), json!(false)], "{}", of("noise"));
    assert_eq!(verdicts(of("walk")), [json!(false), json!(false), json!(true)], "{}", of("walk"));
    assert_eq!((&verdicts(of("constant"))[0], &of("constant")["status"]), (&Value::Null, &json!("constant")));
    let requests = of("requests_total");
    assert_eq!(requests["transform"], "rate");
    assert!((requests["mean"].as_f64().unwrap() - 2.0).abs() < 0.01, "{requests}");
    assert_eq!(of("walk")["acf"].as_array().unwrap().len(), 32);

    let names = |parameters: &[(&str, &str)]| -> Vec<String> {
        let rows = tidewatch.rows("/api/v1/profiles", parameters);
        rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&[("seasonal", "true")]), ["hourly"]);
    assert_eq!(
        names(&[("stationary", "false"), ("autocorrelated", "true"), ("match[]", "{__name__=~\"w.*\"}")]),
        ["walk"]
    );
    let one = tidewatch.get("/api/v1/profiles/hourly", &[]).json();
    assert_eq!((one["data"].as_array().unwrap().len(), &one["data"][0]), (1, of("hourly")));
    let ids = [of("walk"), of("constant")].map(|row| row["series"].as_str().unwrap());
    assert_eq!(
        names(&[("series", ids[0]), ("series", ids[1]), ("series", "0000000000000001")]),
        ["constant", "walk"]
    );
    assert_eq!(names(&[("series", ids[0]), ("stationary", "true")]), [""; 0]);
    for (name, value, why) in [
        ("seasonal", "perhaps", "seasonal must be true or false"),
        ("series", "walk", "series must be an id of 16 hex"),
    ] {
        let wrong = http::get(&tidewatch.url("/api/v1/profiles"), &[(name, value)]).unwrap();
        assert!(wrong.status == 400 && wrong.text.contains(why), "{wrong:?}");
    }
    what_is_computed_on_request_agrees_with_the_rows(&tidewatch, &rows);
    events_say_what_has_changed(&tidewatch);
}

/// What is asked of the workers is what they last published, as far as both have it: the newest rows are of the newest steps.
fn what_is_computed_on_request_agrees_with_the_rows(tidewatch: &Tidewatch, rows: &[Value]) {
    for row in rows {
        let of = |what: &str| {
            let path = format!("/api/v1/profiles/{}/{what}", row["name"].as_str().unwrap());
            tidewatch.get(&path, &[]).json()
        };
        let (acf, adf) = (of("acf"), of("adf"));
        assert_eq!((&acf["transform"], &acf["series"]), (&row["transform"], &row["series"]));
        assert!(acf["at_ms"].as_i64() >= row["at_ms"].as_i64(), "{acf} {row}");
        if row["status"] == "ok" {
            let [there, here] = [&row["acf"][5], &acf["acf"][5]].map(|value| value.as_f64().unwrap());
            assert!((there - here).abs() < 0.1, "{}: {there} {here}", row["name"]);
            assert_eq!(adf["stationary"], row["stationary"], "{adf}");
        } else {
            assert_eq!(adf["status"], row["status"], "{adf}");
        }
        assert_eq!(of("phases")["hour"]["deviations"].as_array().unwrap().len(), 60);
    }
    let parts = tidewatch.get("/api/v1/profiles/hourly/decomposition", &[]).json();
    assert_eq!((&parts["period_seconds"], parts["data"].as_array().unwrap().len()), (&json!(3_600), 1_440));
    let stl =
        tidewatch.get("/api/v1/profiles/walk/decomposition", &[("method", "stl"), ("period", "2h")]).json();
    assert_eq!(
        (&stl["period_steps"], &stl["data"][0]["trend"].is_null()),
        (&json!(120), &false),
        "{}",
        stl["data"][0]
    );
}

fn events_say_what_has_changed(tidewatch: &Tidewatch) {
    let path = "/api/v1/profiles/events";
    let all = tidewatch.rows(path, &[]);
    let changed: Vec<&Value> =
        all.iter().filter(|row| row["name"] == "turning" && row["change"] == "stationary").collect();
    let [event] = changed[..] else { panic!("{all:?}") };
    assert_eq!((&event["from"], &event["to"]), (&json!(true), &json!(false)), "{event}");
    let at_ms = event["at_ms"].as_i64().unwrap();
    assert!(at_ms > START_MS + TURN as i64 * 60_000, "{event}");
    let (mut one_by_one, mut cursor) = (Vec::new(), String::new());
    loop {
        let parameters = [("limit", "1"), ("cursor", &cursor)];
        let page = tidewatch.get(path, &parameters[..if cursor.is_empty() { 1 } else { 2 }]).json();
        one_by_one.extend(page["data"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        next.clone_into(&mut cursor);
    }
    assert_eq!(one_by_one, all, "page by page");
    let at = (at_ms / 1_000).to_string();
    let then = tidewatch.rows(path, &[("match[]", "turning"), ("start", &at), ("end", &at)]);
    assert!(then.contains(event) && then.iter().all(|row| row["at_ms"] == at_ms), "{then:?}");
    let before = (at_ms / 1_000 - 1).to_string();
    let before = tidewatch.rows(path, &[("match[]", "turning"), ("end", &before)]);
    assert!(!before.contains(event), "{before:?}");
}

/// The file by time on one worker, and on four, gives the same rows; a file of the same samples by series ends with the same.
#[test]
fn profiles_are_the_same_for_any_number_of_workers() {
    let folder = Folder::new("profiles");
    let mut text = String::new();
    for i in 0..SAMPLES {
        for (name, samples) in &series() {
            let (at_ms, value) = samples[i];
            writeln!(text, "{name} {value} {at_ms}").unwrap();
        }
    }
    std::fs::write(folder.path().join("in.prom"), text).unwrap();
    let exported = |workers: &str| {
        let run = |arguments: &[&str]| {
            let output = Command::new(env!("CARGO_BIN_EXE_tidewatch"))
                .args(arguments)
                .args(["--workers", workers, "--data-dir", &format!("data{workers}")])
                .current_dir(folder.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["replay", "in.prom"]);
        ["profiles", "events"].map(|kind| run(&["export", "--kind", kind]))
    };
    let one = exported("1");
    assert_eq!(one[0].lines().count(), 6, "{one:?}");
    assert!(one[1].contains(r#""change":"stationary","from":true,"to":false"#), "{one:?}");
    assert_eq!(one, exported("4"));
}
