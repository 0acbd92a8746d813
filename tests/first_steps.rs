//! What a newcomer meets first: the words for what was mistyped, the files of deploy/, the two commands of the README.

use std::process::{Command, Output};

use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;
use crate::support::{Folder, server};

const README: &str = include_str!("../README.md");

/// Runs the program in an empty folder, without our variables.
fn tidewatch(folder: &Folder, arguments: &[&str]) -> (Option<i32>, String, String) {
    tidewatch_with(folder, arguments, &[])
}

/// [`tidewatch`] with these variables.
fn tidewatch_with(
    folder: &Folder,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
    let ours = std::env::vars_os().map(|(name, _)| name);
    ours.filter(|name| name.to_string_lossy().starts_with("TIDEWATCH_")).for_each(|name| {
        command.env_remove(name);
    });
    command.envs(environment.iter().copied());
    let Output { status, stdout, stderr } =
        command.args(arguments).current_dir(folder.path()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn what_is_mistyped_is_named_and_leaves_nothing_behind() {
    let folder = Folder::new("mistyped");
    let cases: [(&[&str], i32, &str); 11] = [
        (&["rnu"], 2, "unrecognized subcommand 'rnu'"),
        (&["run", "--bogus"], 2, "unexpected argument '--bogus'"),
        (
            &["run", "--workers", "two"],
            1,
            "workers must be a whole number from 1 to 256; got \"two\" (flag --workers)",
        ),
        (&["run", "--config", "nope.yml"], 1, "reading the configuration file nope.yml: "),
        (&["replay", "nope.prom"], 1, "reading nope.prom: No such file or directory"),
        (&["replay", "nope.parquet"], 1, "the format of nope.parquet cannot be guessed"),
        (&["generate", "--late", "2"], 1, "--late must be 0 to 1; got 2"),
        (&["generate", "--hours", "0"], 1, "--hours must be above 0, at most 87840; got 0"),
        (&["export", "--kind", "foo"], 2, "invalid value 'foo' for '--kind <KIND>'"),
        (&["export", "--match", "{"], 1, "--match: \"{\" is not a selector"),
        (&["export"], 1, "there is no store at ./tidewatch-data/store.sqlite"),
    ];
    for (arguments, code, words) in cases {
        let (got, out, err) = tidewatch(&folder, arguments);
        assert_eq!((got, out.as_str()), (Some(code), ""), "{arguments:?}: {err}");
        assert!(err.contains(words), "{arguments:?}: {err}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was left behind");
}

#[test]
fn variables_of_others_are_told_and_refuse_no_start() {
    let folder = Folder::new("variables");
    // What Kubernetes sets in every pod for the other services of a Helm release that is named tidewatch.
    let others = [
        ("TIDEWATCH_GRAFANA_SERVICE_HOST", "10.96.1.7"),
        ("TIDEWATCH_GRAFANA_SERVICE_PORT_HTTP", "80"),
        ("TIDEWATCH_PROMETHEUS_SERVER_PORT", "tcp://10.96.1.8:80"),
        ("TIDEWATCH_PROMETHEUS_SERVER_PORT_80_TCP_ADDR", "10.96.1.8"),
        ("TIDEWATCH_LIMIT__SERIES", "9"),
    ];
    let (code, out, err) = tidewatch_with(&folder, &["check"], &others);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with("the configuration is good"), "{out}");
    let warned: Vec<&str> = err.lines().filter(|line| line.contains(" WARN ")).collect();
    assert_eq!(warned.len(), others.len(), "{err}");
    for (name, value) in others {
        assert!(warned.iter().any(|line| line.contains(&format!("{name},"))), "{name}: {err}");
        assert!(value.len() < 3 || !err.contains(value), "{name}: {err}");
    }
    assert!(
        err.contains("TIDEWATCH_LIMIT__SERIES, it is ignored; the nearest is TIDEWATCH_LIMITS__SERIES"),
        "{err}"
    );
    // A setting stays one: its value is judged.
    let (code, _, err) = tidewatch_with(&folder, &["check"], &[("TIDEWATCH_LIMITS__SERIES", "9")]);
    assert_eq!(code, Some(1), "{err}");
    assert!(
        err.contains("limits.series must be auto or a whole number from 256 to 100000000; got \"9\""),
        "{err}"
    );
}

#[test]
fn the_version_is_told_in_every_way_one_may_ask() {
    let folder = Folder::new("version");
    let plain = format!("tidewatch {}\n", env!("CARGO_PKG_VERSION"));
    for arguments in [["version"], ["--version"], ["-V"]] {
        assert_eq!(tidewatch(&folder, &arguments), (Some(0), plain.clone(), String::new()), "{arguments:?}");
    }
}

/// One command runs the main job on embedded defaults, one passes every test; `docs` runs the first.
#[test]
fn the_two_commands_of_the_readme_are_there() {
    use std::os::unix::fs::PermissionsExt;
    let commands: Vec<&str> =
        README.lines().filter(|line| ["cargo run --release -- demo", "./test.sh"].contains(line)).collect();
    assert_eq!(commands, ["cargo run --release -- demo", "./test.sh"]);
    let script = std::fs::metadata(crate::support::repository().join("test.sh")).unwrap();
    assert_ne!(script.permissions().mode() & 0o111, 0, "test.sh cannot be run");
}

#[test]
fn the_config_for_prometheus_is_good_and_is_the_one_in_the_readme() {
    let file = crate::support::repository().join("deploy/prometheus.yml");
    let remote_write = "remote_write:\n  - url: http://127.0.0.1:7464/api/v1/write\n";
    assert!(README.contains(remote_write) && std::fs::read_to_string(&file).unwrap().contains(remote_write));
    let Some(promtool) = server("TEST_PROMTOOL") else { return };
    let Output { status, stdout, stderr } =
        Command::new(promtool).args(["check", "config"]).arg(&file).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&[stdout, stderr].concat()));
}

#[test]
fn the_alerts_are_good_and_are_those_of_the_docs() {
    let file = crate::support::repository().join("deploy/alerts.yml");
    let rules = std::fs::read_to_string(&file).unwrap();
    let of = |key: &str| rules.lines().filter_map(|line| line.trim().strip_prefix(key)).collect::<Vec<_>>();
    let (alerts, expressions) = (of("- alert: "), of("expr: "));
    assert!(alerts.len() > 10 && alerts.len() == expressions.len());
    let page = include_str!("../docs/operations.md");
    for (alert, expression) in alerts.iter().zip(expressions) {
        let row = format!("| `{alert}` | `{expression}` |");
        assert!(page.contains(&row), "docs/operations.md lacks {row}");
    }
    let Some(promtool) = server("TEST_PROMTOOL") else { return };
    let Output { status, stdout, stderr } =
        Command::new(promtool).args(["check", "rules"]).arg(&file).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&[stdout, stderr].concat()));
}

#[test]
fn each_accepted_sample_is_counted_once() {
    let tidewatch = Tidewatch::start("");
    let samples: Vec<_> = (0..7).map(|i| (1_767_225_600_000 + i * 1_000, 1.0)).collect();
    let request = WriteRequest::default().series(&[("__name__", "up")], &samples);
    assert_eq!(request.send(&tidewatch.url("/api/v1/write")).unwrap().status, 204);
    let metrics = tidewatch.get("/metrics", &[]).text;
    for word in ["received", "accepted"] {
        let line = format!("tidewatch_samples_{word}_total{{source=\"remote_write\"}} 7\n");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
}
