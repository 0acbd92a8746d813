//! The page in a real Chromium, beside a running server with data: loads, searches, sorts, opens a series, reloads, goes
//! back, in light and dark, wide and narrow. What is judged is in `tests/browser/page.mjs`.
//!
//! `TEST_CHROMIUM`, `TEST_NODE` and `TEST_PLAYWRIGHT` (the folder of the package playwright-core) are set by `./test.sh`.
//! `TEST_SCREENSHOTS` may name a folder that keeps the pictures. With `TEST_WRITE_DOCS=1` that of a demo becomes
//! docs/screenshot.png.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::filled::filled;
use crate::support::process::Tidewatch;
use crate::support::{Folder, eventually, repository, server};

const CONFIG: &str = "
windows: [{length: 5m, hop: 1m}, {length: 1h, hop: 1m}, {length: 3h, hop: 3m}]
idle_timeout: 5s
store: {rows_per_day_max: 1000}
";

/// How long all of it may take; a browser on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(240);

/// Ends with the test, also where that fails.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The browser, what runs the script, and what drives the browser.
fn tools() -> Option<[PathBuf; 3]> {
    Some([server("TEST_CHROMIUM")?, server("TEST_NODE")?, server("TEST_PLAYWRIGHT")?])
}

/// Where the pictures of a run go.
fn pictures(tidewatch: &Tidewatch, name: &str) -> PathBuf {
    let kept = std::env::var_os("TEST_SCREENSHOTS").filter(|path| !path.is_empty()).map(PathBuf::from);
    kept.unwrap_or_else(|| tidewatch.folder().join("screenshots")).join(name)
}

/// Runs the script against a server; what it said.
fn drive(tidewatch: &Tidewatch, [chromium, node, playwright]: [PathBuf; 3], name: &str) -> String {
    let pictures = pictures(tidewatch, name);
    let script = repository().join("tests/browser/page.mjs");
    let log = tidewatch.folder().join("page.log");
    let said = std::fs::File::create(&log).unwrap();
    let child = Command::new(&node)
        .arg(script)
        .arg(tidewatch.url("/"))
        .arg(&pictures)
        .env("TEST_CHROMIUM", chromium)
        .env("TEST_PLAYWRIGHT", playwright)
        .stdin(Stdio::null())
        .stdout(said.try_clone().unwrap())
        .stderr(said)
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {}: {e}", node.display()));
    let mut child = Script(child);
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    let status =
        eventually("the browser is through", PATIENCE, || child.0.try_wait().unwrap().ok_or_else(read));
    println!("{}", read());
    assert!(status.success(), "{status}, see above");
    for picture in ["series-light-1280-first", "series-dark-390-first", "one-dark-1280", "one-light-390"] {
        let bytes = std::fs::metadata(pictures.join(format!("{picture}.png"))).map_or(0, |meta| meta.len());
        assert!(bytes > 10_000, "{picture} has {bytes} bytes");
    }
    read()
}

#[test]
fn the_page_shows_what_the_api_answers_in_a_real_browser() {
    let Some(tools) = tools() else { return };
    let said = drive(&filled("page", CONFIG), tools, "replayed");
    for step in [
        "a label with markup is text",
        "refused samples are listed",
        "revisions are listed",
        "too many rows a day are told",
    ] {
        assert!(said.contains(&format!("ok: {step}")), "the data is such that {step}");
    }
}

/// Live: numbers change while they are looked at.
#[test]
fn the_page_of_a_demo_shows_two_days_and_goes_on() {
    let Some(tools) = tools() else { return };
    let folder = Folder::new("demo-page");
    std::fs::write(folder.path().join("tidewatch.yml"), "").unwrap();
    let mut tidewatch = Tidewatch::begin(folder, &["demo"]);
    tidewatch.process().await_ready("/-/ready");
    let said = drive(&tidewatch, tools, "demo");
    assert!(said.contains("ok: the kind of a series is told"), "of two days some series is seasonal");
    let shown = repository().join("docs/screenshot.png");
    if std::env::var_os("TEST_WRITE_DOCS").is_some() {
        std::fs::copy(pictures(&tidewatch, "demo").join("series-light-1280-first.png"), &shown).unwrap();
    }
    // The README shows it.
    let bytes = std::fs::read(&shown).unwrap();
    assert!(
        bytes.starts_with(b"\x89PNG") && bytes.len() > 10_000,
        "{} has {} bytes",
        shown.display(),
        bytes.len()
    );
}
