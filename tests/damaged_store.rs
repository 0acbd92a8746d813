//! A store that is damaged is found by the next start, set aside, and begun anew with what the outbox holds.

use std::time::Duration;

use crate::support::eventually;
use crate::support::process::{Tidewatch, run};
use crate::support::remote_write::WriteRequest;

const CONFIG: &str = "windows: [{length: 10s, hop: 5s}]\nidle_timeout: 1s\n";
const START_MS: i64 = 1_767_225_600_000;
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_damaged_store_is_named_set_aside_and_filled_again() {
    let mut tidewatch = Tidewatch::start(CONFIG);
    let samples: Vec<(i64, f64)> = (0..400).map(|i| (START_MS + i * 5_000, i as f64)).collect();
    let mut request = WriteRequest::default();
    for n in 0..20 {
        request = request.series(&[("__name__", "up"), ("n", &n.to_string())], &samples);
    }
    assert_eq!(request.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
    let rows = |tidewatch: &Tidewatch| {
        tidewatch.get("/api/v1/status", &[]).json()["store"]["window_rows"].as_u64().unwrap()
    };
    eventually("all rows", PATIENCE, || match rows(&tidewatch) {
        rows if rows >= 20 * 398 => Ok(()),
        rows => Err(rows.to_string()),
    });
    assert_eq!(tidewatch.process().terminate().code(), Some(0));
    let before = {
        tidewatch.start_again();
        let before = rows(&tidewatch);
        assert_eq!(tidewatch.process().terminate().code(), Some(0));
        before
    };
    let file = tidewatch.folder().join("data/store.sqlite");
    let mut bytes = std::fs::read(&file).unwrap();
    let page = bytes.len() / 4_096 / 2 * 4_096;
    bytes[page..page + 4_096].fill(0xa5);
    std::fs::write(&file, &bytes).unwrap();
    // The check in the background finds it: somebody has to start the server again.
    let ended = run(tidewatch.folder(), &["run", "--listen", "127.0.0.1:0"], None);
    assert_eq!(ended.code, Some(75), "{ended:?}");
    assert!(
        ended.err.contains("store.sqlite is damaged") || ended.err.contains("the store is damaged"),
        "{ended:?}"
    );
    tidewatch.start_again();
    eventually("all rows again", PATIENCE, || match rows(&tidewatch) {
        rows if rows >= before => Ok(()),
        rows => Err(format!("{rows} of {before}")),
    });
    let log = tidewatch.process().log();
    assert!(log.contains("it is set aside as") && log.contains("store.sqlite.damaged-"), "{log}");
    let names = std::fs::read_dir(tidewatch.folder().join("data")).unwrap();
    let aside =
        names.filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().contains(".damaged-"));
    assert!(aside.count() >= 1);
}
