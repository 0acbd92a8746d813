//! Unit tests of this module.

use super::*;

fn load(text: &str, env: &[(&str, &str)], flags: ConfigFlags) -> Result<Config, ConfigError> {
    let (config, ignored) = load_telling(text, env, flags)?;
    assert_eq!(ignored, Vec::<String>::new());
    Ok(config)
}

fn load_telling(
    text: &str,
    env: &[(&str, &str)],
    flags: ConfigFlags,
) -> Result<(Config, Vec<String>), ConfigError> {
    let env = env.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    Config::from_parts(text, "file t.yml".to_owned(), env, flags)
}

fn file(text: &str) -> Result<Config, String> {
    load(text, &[], ConfigFlags::default()).map_err(|error| error.to_string())
}

#[test]
fn nothing_given_means_the_defaults() {
    for text in ["", "\n# only a comment\n", "limits:\n", "windows:\n"] {
        assert_eq!(file(text), Ok(Config::default()), "{text:?}");
    }
    assert_eq!(Config::default().settings(), Settings::default());
    assert!(Settings::default().validated().is_ok());
}

#[test]
fn the_example_holds_every_setting_with_its_default() {
    let text = include_str!("../../deploy/tidewatch.example.yml");
    assert_eq!(file(text), Ok(Config::default()));
    let mut reader =
        ConfigReader::new(text, String::new(), std::iter::empty(), ConfigFlags::default()).unwrap();
    reader.config().unwrap();
    for path in reader.known.clone() {
        assert!(reader.given(&path).is_some(), "deploy/tidewatch.example.yml lacks {path}");
    }
    assert_eq!(reader.known.len(), 1 + 7 + 2 + 28, "windows, their parts, sources and select, and the rest");
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let text = "workers: 3\nlisten: 127.0.0.1:1\ndata_dir: 007\nwindows: [{length: 2h, hop: 2m}, {length: 10m, hop: 10s}]";
    let env = [
        ("TIDEWATCH_WORKERS", "4"),
        ("TIDEWATCH_LISTEN", "[::1]:2"),
        ("TIDEWATCH_WINDOWS__0__HOP", "1m"),
        ("TIDEWATCH_LIMITS__BODY_BYTES", "1MiB"),
        ("TIDEWATCH_LOG", "debug"),
        ("TIDEWATCH_SERVICE_PORT_HTTP", "80"),
        ("TIDEWATCH_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("TIDEWATCH_PORT", "tcp://10.0.0.1:80"),
        ("HOME", "/"),
    ];
    let flags = ConfigFlags { workers: Some("5".to_owned()), data_dir: Some("x".to_owned()), listen: None };
    // `007` without quotes is a number to YAML, but the flag wins before it is judged.
    let config = load(text, &env, flags).unwrap();
    assert_eq!(
        (config.workers, config.listen.to_string(), config.data_dir),
        (5, "[::1]:2".into(), "x".into())
    );
    assert_eq!(config.limits.body_bytes, 1 << 20);
    let window = |length_ms, hop_ms| Window { length_ms, hop_ms };
    assert_eq!(config.windows, [window(600_000, 10_000), window(7_200_000, 60_000)], "sorted by length");
    let env = [("TIDEWATCH_WINDOWS", "[{length: 5m, hop: 5s}]")];
    assert_eq!(
        load(text, &env, ConfigFlags { data_dir: Some("x".into()), ..ConfigFlags::default() })
            .unwrap()
            .windows,
        [window(300_000, 5_000)]
    );
    let env = [("TIDEWATCH_WINDOWS__2__HOP", "6m")];
    assert_eq!(load("", &env, ConfigFlags::default()).unwrap().windows[2], window(43_200_000, 360_000));
}

#[test]
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn bad_files_are_refused_with_path_bound_value_and_origin() {
    let table = [
        (
            "worker: 2",
            "there is no setting worker (file t.yml); at the top there are allowed_lateness, audit, catch_up, data_dir, idle_timeout, journal, limits, listen, outbox, profile, select, snapshots, sources, store, umask, watchdog, web, windows, workers",
        ),
        (
            "limits: {serie: 2}",
            "there is no setting limits.serie (file t.yml); at limits there are body_bytes, connections, label_bytes, labels, late_samples, series, series_per_name",
        ),
        (
            "windows: [{length: 1h, hop: 1m, step: 1s}]",
            "there is no setting windows[0].step (file t.yml); at windows[0] there are hop, length",
        ),
        (
            "sources: {kafka: []}",
            "there is no setting sources.kafka (file t.yml); at sources there are prometheus",
        ),
        ("limits: 5", "limits must be a map of settings; got 5 (file t.yml)"),
        ("[1, 2]", "the configuration must be a map of settings; got [1,2] (file t.yml)"),
        ("just text", "the configuration must be a map of settings; got \"just text\" (file t.yml)"),
        ("workers: two", "workers must be a whole number from 1 to 256; got \"two\" (file t.yml)"),
        ("workers: \"2\"", "workers must be a whole number from 1 to 256; got \"2\" (file t.yml)"),
        ("workers: 0", "workers must be a whole number from 1 to 256; got 0 (file t.yml)"),
        ("workers: -1", "workers must be a whole number from 1 to 256; got -1 (file t.yml)"),
        ("workers: 2.5", "workers must be a whole number from 1 to 256; got 2.5 (file t.yml)"),
        ("workers: [2]", "workers must be a whole number from 1 to 256; got [2] (file t.yml)"),
        ("data_dir: ''", "data_dir must be the path of a directory; got \"\" (file t.yml)"),
        ("data_dir: 7", "data_dir must be the path of a directory; got 7 (file t.yml)"),
        (
            "listen: localhost",
            "listen must be an IP address and port such as 127.0.0.1:7464; got \"localhost\" (file t.yml)",
        ),
        (
            "listen: 127.0.0.1:70000",
            "listen must be an IP address and port such as 127.0.0.1:7464; got \"127.0.0.1:70000\" (file t.yml)",
        ),
        ("idle_timeout: 30", "idle_timeout must be a duration such as 30s or 1h30m; got 30 (file t.yml)"),
        (
            "idle_timeout: 1.5s",
            "idle_timeout must be a duration such as 30s or 1h30m; got \"1.5s\" (file t.yml)",
        ),
        ("idle_timeout: 10ms", "idle_timeout must be 1s to 1h; got 10ms (file t.yml)"),
        ("allowed_lateness: 2d", "allowed_lateness must be 0s to 1d; got 2d (file t.yml)"),
        (
            "allowed_lateness: 999999999999y",
            "allowed_lateness must be a duration such as 30s or 1h30m; got \"999999999999y\" (file t.yml)",
        ),
        ("catch_up: 10s", "catch_up must be at least idle_timeout (30s); got 10s (file t.yml)"),
        ("idle_timeout: 10m", "catch_up must be at least idle_timeout (10m); got 5m (default)"),
        (
            "windows: 1h",
            "windows must be a list of 1 to 16 windows such as [{length: 1h, hop: 1m}]; got \"1h\" (file t.yml)",
        ),
        (
            "windows: []",
            "windows must be a list of 1 to 16 windows such as [{length: 1h, hop: 1m}]; got [] (file t.yml)",
        ),
        ("windows: [1h]", "windows[0] must be a map such as {length: 1h, hop: 1m}; got \"1h\" (file t.yml)"),
        (
            "windows: [{length: 1h}]",
            "windows[0].hop must be a duration such as 30s or 1h30m; got null (file t.yml)",
        ),
        (
            "windows: [{length: 1h, hop: 7m}]",
            "windows[0].hop must be whole seconds that divide the length 1h; got 7m (file t.yml)",
        ),
        ("windows: [{length: 31d, hop: 1h}]", "windows[0].length must be 1s to 30d; got 31d (file t.yml)"),
        (
            "windows: [{length: 1h, hop: 1m}, {length: 1h, hop: 2m}]",
            "windows must be windows of different lengths (the length is a window's name); got 1h twice (file t.yml)",
        ),
        (
            "windows: [{length: 12h, hop: 1s}]",
            "windows must be such that no ring of a series holds more than 4096 panes (length plus allowed_lateness over hop); got 43802 panes (file t.yml)",
        ),
        (
            "limits: {series: 255}",
            "limits.series must be auto or a whole number from 256 to 100000000; got 255 (file t.yml)",
        ),
        (
            "limits: {series_per_name: 0}",
            "limits.series_per_name must be a whole number from 1 to 100000000; got 0 (file t.yml)",
        ),
        (
            "limits: {labels: 1025}",
            "limits.labels must be a whole number from 1 to 1024; got 1025 (file t.yml)",
        ),
        (
            "limits: {label_bytes: 63}",
            "limits.label_bytes must be a whole number from 64 to 1048576; got 63 (file t.yml)",
        ),
        (
            "limits: {body_bytes: 2GiB}",
            "limits.body_bytes must be a size from 1KiB to 1GiB in B, KiB, MiB, GiB or TiB; got \"2GiB\" (file t.yml)",
        ),
        (
            "limits: {body_bytes: 32MB}",
            "limits.body_bytes must be a size from 1KiB to 1GiB in B, KiB, MiB, GiB or TiB; got \"32MB\" (file t.yml)",
        ),
        (
            "limits: {late_samples: 15}",
            "limits.late_samples must be a whole number from 16 to 1048576; got 15 (file t.yml)",
        ),
        (
            "limits: {connections: 15}",
            "limits.connections must be a whole number from 16 to 65536; got 15 (file t.yml)",
        ),
        (
            "journal: {sync: 5ms}",
            "journal.sync must be commit, never, or an interval from 10ms to 1m; got \"5ms\" (file t.yml)",
        ),
        (
            "journal: {sync: 61s}",
            "journal.sync must be commit, never, or an interval from 10ms to 1m; got \"61s\" (file t.yml)",
        ),
        ("journal: {trim: maybe}", "journal.trim must be on or off; got \"maybe\" (file t.yml)"),
        (
            "journal: {bytes_max: 99999999999999999999TiB}",
            "journal.bytes_max must be a size from 1MiB to 1024TiB in B, KiB, MiB, GiB or TiB; got \"99999999999999999999TiB\" (file t.yml)",
        ),
        (
            "outbox: {bytes_max: true}",
            "outbox.bytes_max must be a size from 1MiB to 1024TiB in B, KiB, MiB, GiB or TiB; got true (file t.yml)",
        ),
        (
            "umask: \"0177\"",
            "umask must be an octal number in quotes from \"0000\" to \"0077\"; got \"0177\" (file t.yml)",
        ),
        (
            "umask: 63",
            "umask must be an octal number in quotes from \"0000\" to \"0077\"; got 63 (file t.yml)",
        ),
        (
            "web: {hosts: [\"a:1\"]}",
            "web.hosts must be a list of up to 64 host names without ports such as [tidewatch.example.org]; got [\"a:1\"] (file t.yml)",
        ),
        (
            "web: {hosts: tide}",
            "web.hosts must be a list of up to 64 host names without ports such as [tidewatch.example.org]; got \"tide\" (file t.yml)",
        ),
        ("watchdog: 9s", "watchdog must be a duration from 10s to 1h; got \"9s\" (file t.yml)"),
        (
            "snapshots: {every: 2h}",
            "snapshots.every must be a duration from 1s to 1h; got \"2h\" (file t.yml)",
        ),
        ("store: {kind: clickhouse}", "store.kind must be embedded; got \"clickhouse\" (file t.yml)"),
        (
            "store: {retention: 30m}",
            "store.retention must be a duration from 1h to 3650d; got \"30m\" (file t.yml)",
        ),
        (
            "store: {rows_per_day_max: 0}",
            "store.rows_per_day_max must be a whole number from 1 to 1000000000000; got 0 (file t.yml)",
        ),
    ];
    for (text, message) in table {
        assert_eq!(file(text), Err(message.to_owned()), "{text}");
    }
    let long = file(&format!("store: {{kind: {}}}", "é".repeat(500))).unwrap_err();
    assert!(long.len() < 300 && long.contains("..."), "{long}");
}

#[test]
fn hosts_are_a_list_in_the_file_and_separated_by_commas_in_the_environment() {
    let text = "web: {hosts: [tide.example.org, Tide]}\numask: \"0027\"";
    let config = file(text).unwrap();
    assert_eq!(
        (config.web.hosts, config.umask),
        (vec!["tide.example.org".to_owned(), "Tide".to_owned()], 0o27)
    );
    let env = [("TIDEWATCH_WEB__HOSTS", "a, b.c"), ("TIDEWATCH_UMASK", "0007")];
    let config = load(text, &env, ConfigFlags::default()).unwrap();
    assert_eq!((config.web.hosts, config.umask), (vec!["a".to_owned(), "b.c".to_owned()], 0o7));
}

#[test]
fn text_that_is_not_yaml_is_refused_with_its_line() {
    for text in
        ["workers: [1", "a: 1\n\tb: 2", "workers: 1\nworkers: 2", "workers: *nowhere", "a: 1\n---\nb: 2"]
    {
        let message = file(text).expect_err(text);
        assert!(message.starts_with("file t.yml is not valid YAML: "), "{message}");
        assert!(message.contains("line") && !message.contains('\n'), "{message}");
    }
}

#[test]
fn variables_and_flags_are_judged_like_the_file() {
    let table = [
        (
            "TIDEWATCH_WORKERS",
            "two",
            "workers must be a whole number from 1 to 256; got \"two\" (environment TIDEWATCH_WORKERS)",
        ),
        (
            "TIDEWATCH_WORKERS",
            "",
            "workers must be a whole number from 1 to 256; got \"\" (environment TIDEWATCH_WORKERS)",
        ),
        (
            "TIDEWATCH_LIMITS__SERIES",
            "9",
            "limits.series must be auto or a whole number from 256 to 100000000; got \"9\" (environment TIDEWATCH_LIMITS__SERIES)",
        ),
        (
            "TIDEWATCH_IDLE_TIMEOUT",
            "2h",
            "idle_timeout must be 1s to 1h; got 2h (environment TIDEWATCH_IDLE_TIMEOUT)",
        ),
        (
            "TIDEWATCH_WINDOWS",
            "[{length: 1h, hop: 1m, x: 1}]",
            "there is no setting windows[0].x (environment TIDEWATCH_WINDOWS); at windows[0] there are hop, length",
        ),
        (
            "TIDEWATCH_WINDOWS",
            "[{length: 1h, hop: 7m}]",
            "windows[0].hop must be whole seconds that divide the length 1h; got 7m (environment TIDEWATCH_WINDOWS)",
        ),
        (
            "TIDEWATCH_WINDOWS__0__HOP",
            "7m",
            "windows[0].hop must be whole seconds that divide the length 1h; got 7m (environment TIDEWATCH_WINDOWS__0__HOP)",
        ),
    ];
    for (name, value, message) in table {
        let got = load("", &[(name, value)], ConfigFlags::default()).map_err(|error| error.to_string());
        assert_eq!(got, Err(message.to_owned()), "{name}={value}");
    }
    let flags = ConfigFlags { data_dir: Some(String::new()), ..ConfigFlags::default() };
    let message = load("", &[], flags).unwrap_err().to_string();
    assert_eq!(message, "data_dir must be the path of a directory; got \"\" (flag --data-dir)");
    let flags = ConfigFlags { workers: Some("257".to_owned()), ..ConfigFlags::default() };
    let message = load("workers: 1", &[], flags).unwrap_err().to_string();
    assert_eq!(message, "workers must be a whole number from 1 to 256; got \"257\" (flag --workers)");
}

#[test]
fn variables_that_are_no_settings_are_told_with_the_nearest_and_refuse_nothing() {
    let table = [
        ("TIDEWATCH_LIMIT__SERIES", "TIDEWATCH_LIMITS__SERIES"),
        ("TIDEWATCH_LIMITS_SERIES", "TIDEWATCH_LIMITS__SERIES"),
        ("TIDEWATCH_WORKER", "TIDEWATCH_WORKERS"),
        ("TIDEWATCH_LISTENS", "TIDEWATCH_LISTEN"),
        ("TIDEWATCH_WINDOWS__3__HOP", "TIDEWATCH_WINDOWS__2__HOP"),
        ("TIDEWATCH_JOURNAL_BYTES_MAX", "TIDEWATCH_JOURNAL__BYTES_MAX"),
    ];
    for (name, nearest) in table {
        let told = format!("no setting has the variable {name}, it is ignored; the nearest is {nearest}");
        let got = load_telling("", &[(name, "9")], ConfigFlags::default()).unwrap();
        assert_eq!(got, (Config::default(), vec![told]));
    }
    // What Kubernetes sets for the other services of a release that is named tidewatch, and a script's own.
    let others = [
        ("TIDEWATCH_GRAFANA_SERVICE_HOST", "10.96.1.7"),
        ("TIDEWATCH_LIMITS", "{}"),
        ("TIDEWATCH_PORT__X", "1"),
        ("TIDEWATCH_PROMETHEUS_SERVER_PORT", "tcp://10.96.1.8:80"),
        ("TIDEWATCH_PROMETHEUS_SERVER_PORT_80_TCP_ADDR", "10.96.1.8"),
        ("TIDEWATCH_URL\nWARN", "secret"),
    ];
    let (config, told) = load_telling("workers: 3", &others, ConfigFlags::default()).unwrap();
    assert_eq!((config.workers, told.len()), (3, others.len()));
    for ((name, value), told) in others.iter().zip(&told) {
        assert!(told.contains(&name.escape_debug().to_string()) && !told.contains('\n'), "{told}");
        assert!(!told.contains(value), "{told}");
    }
    // However many there are, and however long.
    let many: Vec<String> = (0..500).map(|n| format!("TIDEWATCH_X{n:03}{}", "X".repeat(10_000))).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
    let (_, told) = load_telling("", &many, ConfigFlags::default()).unwrap();
    assert_eq!(told.len(), 17);
    assert_eq!(told[16], "484 more variables that begin with TIDEWATCH_ are ignored");
    assert!(told.iter().all(|told| told.len() < 300), "{told:?}");
}

#[test]
fn a_variable_that_is_no_text_is_refused_where_it_is_a_setting() {
    use std::os::unix::ffi::OsStringExt;
    let load = |name: &[u8]| {
        let variable = (OsString::from_vec(name.to_vec()), OsString::from_vec(b"B\xfcro".to_vec()));
        let loaded = Config::from_parts("", String::new(), std::iter::once(variable), ConfigFlags::default());
        loaded.map(|(_, told)| told.len()).map_err(|error| error.to_string())
    };
    let told = "data_dir must be UTF-8; got bytes that are not (environment TIDEWATCH_DATA_DIR)";
    assert_eq!(load(b"TIDEWATCH_DATA_DIR"), Err(told.to_owned()));
    assert_eq!([load(b"TIDEWATCH_X"), load(b"TIDEWATCH_B\xfcro")], [Ok(1), Ok(1)]);
    assert_eq!([load(b"B\xfcro"), load(b"HOME")], [Ok(0), Ok(0)]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let path = Path::new("/nowhere/at all.yml");
    let message =
        Config::load(Some(path), std::iter::empty(), ConfigFlags::default()).unwrap_err().to_string();
    assert!(message.starts_with("reading the configuration file /nowhere/at all.yml: "), "{message}");
}

#[test]
fn rows_a_day_follow_the_hops() {
    assert_eq!(Config::default().rows_per_day(1), 1_440 + 480 + 120);
    assert_eq!(Config::default().rows_per_day(u64::MAX), u64::MAX);
}
