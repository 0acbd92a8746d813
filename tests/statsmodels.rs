//! Profiles held to statsmodels in one run: series of many kinds pass through the whole server, and a script makes the same of
//! their samples without anything of ours.
//!
//! `TEST_STATSMODELS` is a Python that has it, which `./test.sh` installs. What is compared, and how exactly, is in
//! `tests/statsmodels/compare.py`.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::process::{Tidewatch, done};
use crate::support::{Folder, repository, server};

/// Windows are not what is looked at; one is enough.
const CONFIG: &str = "windows: [{length: 1h, hop: 1h}]\n";

/// So many series at least.
const SERIES: &str = "200";

fn script(python: &Path, arguments: &[&str]) -> Output {
    let script = repository().join("tests/statsmodels/compare.py");
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    output
}

#[test]
fn statsmodels_makes_the_same_of_the_same_samples() {
    let Some(python) = server("TEST_STATSMODELS") else { return };
    let folder = Folder::new("statsmodels");
    let samples = folder.path().join("in.prom");
    let file = samples.to_str().unwrap();
    let made = script(&python, &["generate", file]);
    assert!(made.status.success(), "{made:?}");
    std::fs::write(folder.path().join("tidewatch.yml"), CONFIG).unwrap();
    done(folder.path(), &["replay", "in.prom"], None);
    let tidewatch = Tidewatch::start_in(folder);
    let compared = script(&python, &["compare", &tidewatch.url(""), file, SERIES]);
    assert!(compared.status.success(), "{}, see above; {compared:?}", compared.status);

    // And one sample that it did not take as it is in the file is noticed.
    let text = std::fs::read_to_string(&samples).unwrap();
    let mut lines: Vec<String> =
        text.lines().filter(|line| line.starts_with("walk_0 ")).map(str::to_owned).collect();
    let middle = lines.len() / 2;
    let mut words = lines[middle].split(' ').map(str::to_owned).collect::<Vec<String>>();
    words[1] = (words[1].parse::<f64>().unwrap() + 1e-3).to_string();
    lines[middle] = words.join(" ");
    std::fs::write(&samples, lines.join("\n")).unwrap();
    let altered = script(&python, &["compare", &tidewatch.url(""), file, "1"]);
    let said = String::from_utf8_lossy(&altered.stdout);
    assert_eq!(altered.status.code(), Some(1), "{altered:?}");
    assert!(said.contains("MISS walk_0: variance"), "{said}");
}
