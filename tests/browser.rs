//! The page in a real Chromium, beside a running worker with data: loads, searches, sorts, opens a series, reloads, goes
//! back, in light and dark, wide and narrow. What is judged is in `tests/browser/page.mjs`.
//!
//! `TEST_CHROMIUM`, `TEST_NODE` and `TEST_PLAYWRIGHT` (the folder of the package playwright-core) are set by `./test.sh`;
//! without them this fails. `TEST_SCREENSHOTS` may name a folder that keeps the pictures.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::process::{Tidewatch, done};
use crate::support::{Folder, eventually};

const CONFIG: &str = "
windows: [{length: 5m, hop: 1m}, {length: 1h, hop: 1m}, {length: 3h, hop: 3m}]
settle: 5s
";

/// How long all of it may take; a browser on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(300);

fn given(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    path.unwrap_or_else(|| {
        panic!("{variable} is not set; ./test.sh installs what is needed and runs this test")
    })
}

/// Hours of samples with a gap that is longer than a window, late and refused ones, and a label that looks like markup.
fn worker_with_data() -> Tidewatch {
    let folder = Folder::new("page");
    let path = folder.path();
    std::fs::write(path.join("tidewatch.yml"), CONFIG).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let generate = |hours: &str, end: u64, file: &str, more: &[&str]| {
        let end = end.to_string();
        let options =
            ["generate", "--series", "250", "--seed", "4", "--hours", hours, "--end", &end, "-o", file];
        done(path, &[&options, more].concat(), None);
    };
    generate("3", now - 7_200, "before.prom", &[]);
    generate("1", now - 60, "after.prom", &["--late", "0.02", "--duplicates", "0.01", "--conflicts", "0.01"]);
    let mut after = std::fs::File::options().append(true).open(path.join("after.prom")).unwrap();
    writeln!(after, "page_test{{what=\"<img src=x onerror=alert(1)>\"}} 1 {}", (now - 600) * 1_000).unwrap();
    drop(after);
    done(path, &["replay", "before.prom", "after.prom"], None);
    Tidewatch::start_in(folder)
}

/// Ends with the test, also where that fails.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the script against a worker; what it said.
fn drive(worker: &Tidewatch, name: &str) -> String {
    let (chromium, node, playwright) = (given("TEST_CHROMIUM"), given("TEST_NODE"), given("TEST_PLAYWRIGHT"));
    let kept = std::env::var_os("TEST_SCREENSHOTS").filter(|path| !path.is_empty()).map(PathBuf::from);
    let pictures = kept.unwrap_or_else(|| worker.folder().join("screenshots")).join(name);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/page.mjs");
    let log = worker.folder().join("page.log");
    let said = std::fs::File::create(&log).unwrap();
    let child = Command::new(&node)
        .arg(script)
        .arg(worker.url("/"))
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
    let said = drive(&worker_with_data(), "replayed");
    for step in ["a label with markup is text", "refused samples are listed"] {
        assert!(said.contains(&format!("ok: {step}")), "the data is such that {step}");
    }
}

/// Live: numbers change while they are looked at.
#[test]
fn the_page_of_a_demo_shows_two_days_and_goes_on() {
    let folder = Folder::new("demo-page");
    std::fs::write(folder.path().join("tidewatch.yml"), "").unwrap();
    let mut worker = Tidewatch::begin(folder, &["demo"]);
    worker.process().await_ready("/-/ready");
    drive(&worker, "demo");
}
