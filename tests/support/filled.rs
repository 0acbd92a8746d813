//! A server with everything to look at.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Folder;
use super::process::{Tidewatch, done};

/// Hours of samples with a gap that is longer than a window, late and refused ones, and a label that looks like markup.
pub fn filled(name: &str, config: &str) -> Tidewatch {
    let folder = Folder::new(name);
    let path = folder.path();
    std::fs::write(path.join("tidewatch.yml"), config).unwrap();
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
