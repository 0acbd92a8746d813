//! Why a number is what it is: a running server tells the panes, revisions and late samples behind a row, and after a kill
//! the same.

use std::time::Duration;

use serde_json::{Value, json};
use tidewatch::labels::series_id;

use crate::support::eventually;
use crate::support::http;
use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;

const CONFIG: &str = "
windows: [{length: 10s, hop: 5s}, {length: 1m, hop: 10s}]
idle_timeout: 5s
";

/// Times long past, so that windows close by the samples alone and by no clock.
const START_MS: i64 = 1_767_225_600_000;

const LABELS: [(&str, &str); 2] = [("__name__", "told"), ("job", "explain")];

fn send(tidewatch: &Tidewatch, seconds: impl Iterator<Item = i64>) {
    let samples: Vec<(i64, f64)> = seconds.map(|s| (START_MS + s * 1_000, s as f64)).collect();
    let answer =
        WriteRequest::default().series(&LABELS, &samples).send(&tidewatch.url("/api/v1/write")).unwrap();
    assert!((200..300).contains(&answer.status), "{answer:?}");
}

fn explain(tidewatch: &Tidewatch, series: &str, at_s: i64) -> Value {
    let at = (START_MS / 1_000 + at_s).to_string();
    let path = format!("/api/v1/windows/{series}/explain");
    tidewatch.get(&path, &[("window", "1m"), ("at", &at)]).json()
}

/// Explains a key once its row has so many samples.
fn with_count(tidewatch: &Tidewatch, at_s: i64, count: u32) -> Value {
    eventually(&format!("the row at {at_s} has {count} samples"), Duration::from_secs(30), || {
        let path = format!("/api/v1/windows/{}/explain", series_id(&LABELS));
        let at = (START_MS / 1_000 + at_s).to_string();
        let answer = http::get(&tidewatch.url(&path), &[("window", "1m"), ("at", &at)])?;
        let told = (answer.status == 200).then(|| answer.json()).ok_or_else(|| answer.text.clone())?;
        if told["row"]["count"] == count { Ok(told) } else { Err(told.to_string()) }
    })
}

fn why(told: &Value) -> String {
    let lines = told["why"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
    lines.collect::<Vec<_>>().join("; ")
}

#[test]
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn a_row_tells_its_panes_its_revisions_and_its_late_samples() {
    let mut tidewatch = Tidewatch::start(CONFIG);
    send(&tidewatch, (0..100).filter(|s| ![30, 31, 32].contains(s)));
    let told = with_count(&tidewatch, 60, 57);
    assert_eq!((&told["revisions"], &told["samples_added"]), (&json!([]), &json!(0)), "{told}");
    assert!(why(&told).contains("the row is the first answer to this key"), "{told}");
    send(&tidewatch, [30].into_iter());
    with_count(&tidewatch, 60, 58);
    send(&tidewatch, [31, 32].into_iter());
    let told = with_count(&tidewatch, 60, 60);

    assert_eq!((&told["name"], &told["labels"]), (&json!("told"), &json!({"job": "explain"})));
    assert_eq!(
        (&told["start"], &told["at"]),
        (&json!("2026-01-01T00:00:00Z"), &json!("2026-01-01T00:01:00Z"))
    );
    let revisions = told["revisions"].as_array().unwrap();
    let shown: Vec<_> =
        revisions.iter().map(|one| (&one["revision"], &one["count"], &one["added"])).collect();
    let counts = [
        (json!(0), json!(57), Value::Null),
        (json!(1), json!(58), json!(1)),
        (json!(2), json!(60), json!(2)),
    ];
    assert_eq!(shown, counts.iter().map(|(a, b, c)| (a, b, c)).collect::<Vec<_>>(), "{told}");
    let epochs = [1, 2].map(|i: usize| revisions[i]["epoch"].as_u64().unwrap());
    assert!(epochs[0] < epochs[1] && revisions[2]["written_at"].is_string(), "{told}");
    assert_eq!(
        (&told["samples_added"], &told["closed"], &told["correctable"]),
        (&json!(3), &json!(true), &json!(true))
    );
    let panes = told["panes"].as_array().unwrap();
    assert_eq!((panes.len(), &told["samples_in_panes"]), (6, &json!(60)), "{told}");
    for (i, pane) in panes.iter().enumerate() {
        let last = 10.0 * (i + 1) as f64;
        assert_eq!(
            (&pane["count"], &pane["min"], &pane["max"]),
            (&json!(10), &json!(last - 9.0), &json!(last))
        );
        assert_eq!((&pane["avg"], &pane["raw"]), (&json!(last - 4.5), &json!(true)));
    }
    assert!(why(&told).contains("a late sample may still change it"), "{told}");
    // By its name, for it alone bears it; and a key that is still open.
    assert_eq!(explain(&tidewatch, "told", 60)["series"], told["series"]);
    let open = explain(&tidewatch, "told", 110);
    assert_eq!((&open["closed"], &open["row"]), (&json!(false), &Value::Null), "{open}");
    assert!(why(&open).contains("the key is not closed"), "{open}");

    tidewatch.process().kill();
    tidewatch.start_again();
    let again = with_count(&tidewatch, 60, 60);
    for field in ["revisions", "panes", "row", "samples_added", "closed", "correctable"] {
        assert_eq!(again[field], told[field], "{field} after a kill");
    }

    // An hour later its panes are gone, and with them what could change it; row and revisions stay.
    send(&tidewatch, [3_650, 3_661].into_iter());
    with_count(&tidewatch, 3_660, 1);
    let old = explain(&tidewatch, "told", 60);
    assert_eq!((&old["panes"], &old["correctable"]), (&json!([]), &json!(false)), "{old}");
    assert!(
        why(&old).contains("no longer held") && why(&old).contains("no sample changes it any more"),
        "{old}"
    );
    assert_eq!((&old["revisions"], &old["row"]), (&told["revisions"], &told["row"]));
    // A key between the two has no sample and no row.
    let empty = explain(&tidewatch, "told", 3_000);
    assert_eq!((&empty["row"], &empty["closed"]), (&Value::Null, &json!(true)), "{empty}");

    let other = [("__name__", "told"), ("job", "other")];
    let request = WriteRequest::default().series(&other, &[(START_MS, 1.0), (START_MS + 3_600_000, 1.0)]);
    assert!((200..300).contains(&request.send(&tidewatch.url("/api/v1/write")).unwrap().status));
    let both = eventually("two series bear the name", Duration::from_secs(30), || {
        let answer =
            http::get(&tidewatch.url("/api/v1/windows/told/explain"), &[("window", "1m"), ("at", "0")])?;
        if answer.status == 409 { Ok(answer) } else { Err(answer.text) }
    });
    assert_eq!(both.content_type, "application/problem+json");
    for labels in [LABELS, other] {
        assert!(both.text.contains(&series_id(&labels).to_string()), "{both:?}");
    }
    assert!(!tidewatch.process().log().contains("panicked"), "{}", tidewatch.process().log_tail());
}
