//! `export` of a data directory that nothing can be written to: a file system that is mounted so, a backup.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use crate::support::Folder;
use crate::support::eventually;
use crate::support::process::{Tidewatch, done};
use crate::support::remote_write::WriteRequest;

const START_MS: i64 = 1_767_225_600_000;
const CONFIG: &str = "windows: [{length: 10s, hop: 5s}]\nidle_timeout: 5s\n";
const ROWS: usize = 18;
/// Who owns nothing.
const NOBODY: u32 = 65_534;

fn exported(text: &str) -> usize {
    text.lines().filter(|line| line.contains("read_only")).count()
}

/// A copy of a data directory with these files of the store, which its owner may only read.
fn sealed(data: &Path, suffixes: &[&str]) -> Folder {
    let folder = Folder::new("sealed");
    std::fs::write(folder.path().join("tidewatch.yml"), CONFIG).unwrap();
    let copy = folder.path().join("data");
    std::fs::create_dir(&copy).unwrap();
    for suffix in suffixes {
        let file = copy.join(format!("store.sqlite{suffix}"));
        std::fs::copy(data.join(format!("store.sqlite{suffix}")), &file).unwrap();
        seal(&file, 0o400);
    }
    seal(&copy, 0o500);
    folder
}

fn seal(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    // To the superuser nothing is forbidden.
    if is_superuser() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

fn is_superuser() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// Runs the program as one who may not write there.
fn export(folder: &Folder) -> String {
    let program = folder.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_tidewatch"), &program).unwrap();
    let mut command = std::process::Command::new(program);
    command.args(["export", "--final", "--config", "tidewatch.yml", "--data-dir", "data"]);
    command.current_dir(folder.path());
    if is_superuser() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let data = folder.path().join("data");
    std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_store_that_can_only_be_read_is_exported_whole() {
    let mut tidewatch = Tidewatch::start(CONFIG);
    let samples: Vec<(i64, f64)> = (0..100).map(|i| (START_MS + i * 1_000, i as f64)).collect();
    let write = WriteRequest::default().series(&[("__name__", "read_only")], &samples);
    assert_eq!(write.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
    let folder = tidewatch.folder().to_owned();
    let rows = || done(&folder, &["export", "--final"], None);
    let want = eventually("all rows", std::time::Duration::from_secs(60), || match rows() {
        text if exported(&text) >= ROWS => Ok(text),
        text => Err(text),
    });
    let data = folder.join("data");
    tidewatch.process().kill();
    // What the log holds is not in the file yet.
    assert!(std::fs::metadata(data.join("store.sqlite-wal")).unwrap().len() > 0);
    assert_eq!(export(&sealed(&data, &["", "-wal", "-shm"])), want, "with a log and its index");
    assert_eq!(export(&sealed(&data, &["", "-wal"])), want, "with a log");
    tidewatch.start_again();
    assert_eq!(tidewatch.process().terminate().code(), Some(0));
    let want = rows();
    assert!(exported(&want) >= ROWS);
    assert_eq!(export(&sealed(&data, &[""])), want, "without a log");
}
