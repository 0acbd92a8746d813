//! What fuzzing kept, held to the laws of the decoders on every test run; `fuzz/run.sh` looks for more of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tidewatch::source::replay::FileFormat;

/// Written once, for the fuzz targets too.
#[path = "../fuzz/src/lib.rs"]
mod laws;

/// What holds for any bytes; it panics where it does not.
type Law = fn(&[u8]);

/// The fuzz targets: a corpus each, and what holds for every input in it.
const TARGETS: [(&str, Law); 10] = [
    ("answer", laws::answer),
    ("csv", |text| {
        laws::csv(text);
        laws::file(FileFormat::Csv, text);
    }),
    ("exposition", |text| {
        laws::exposition(text);
        laws::file(FileFormat::Prometheus, text);
    }),
    ("journal", laws::journal),
    ("openmetrics", |text| {
        laws::openmetrics(text);
        laws::file(FileFormat::OpenMetrics, text);
    }),
    ("outbox", laws::outbox),
    ("remote_write", laws::remote_write),
    ("remote_write2", laws::remote_write2),
    ("series", laws::series),
    ("snapshots", laws::snapshots),
];

/// Inputs that a corpus has at least: one that is gone or was emptied is no pass.
const INPUTS_MIN: usize = 50;

fn fuzz() -> PathBuf {
    crate::support::repository().join("fuzz")
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut entries: Vec<PathBuf> = read.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

/// The inputs of a folder that break a law.
fn breaking(folder: &Path, law: Law) -> Vec<PathBuf> {
    let holds = |input: &PathBuf| {
        let bytes = std::fs::read(input).unwrap();
        catch_unwind(AssertUnwindSafe(|| law(&bytes))).is_ok()
    };
    entries(folder).into_iter().filter(|input| !holds(input)).collect()
}

#[test]
fn every_kept_input_holds_the_laws() {
    for (target, law) in TARGETS {
        let folder = fuzz().join("corpus").join(target);
        let kept = entries(&folder).len();
        assert!(kept >= INPUTS_MIN, "{} holds {kept} inputs, fewer than {INPUTS_MIN}", folder.display());
        let broken = breaking(&folder, law);
        assert!(broken.is_empty(), "laws of {target} that are printed above are broken by {broken:?}");
    }
}

#[test]
fn every_fuzz_target_has_its_corpus_here_and_every_corpus_its_target() {
    let names = |folder: &str| -> Vec<String> {
        let stem = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        entries(&fuzz().join(folder)).iter().map(stem).collect()
    };
    let here: Vec<String> = TARGETS.iter().map(|(target, _)| (*target).to_owned()).collect();
    assert_eq!((&names("targets"), &names("corpus")), (&here, &here));
}

#[test]
fn a_law_that_is_broken_is_found() {
    let folder = crate::support::Folder::new("corpus");
    for text in ["good", "bad"] {
        std::fs::write(folder.path().join(text), text).unwrap();
    }
    assert_eq!(breaking(folder.path(), |text| assert_ne!(text, b"bad")), [folder.path().join("bad")]);
}
