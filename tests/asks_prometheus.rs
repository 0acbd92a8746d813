//! A real Prometheus as source, with TLS, a password and a small bound on samples: every sample of the file it was made
//! from arrives exactly once, also when it goes away in the middle.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tidewatch::config::http::{BasicAuth, Credential, HttpConfig, Secret, TlsConfig};
use tidewatch::metrics::Metrics;
use tidewatch::source::query::client::{PrometheusClient, QueryError};
use tidewatch::source::query::read::{ReadObserver, ReadSpan, Reading};

use crate::support::process::{Blocks, Tidewatch};
use crate::support::{Folder, eventually, server};

const HOUR_MS: i64 = 3_600_000;
const STEP_MS: i64 = 15_000;
/// The password `secret` as `web.config.file` wants it: bcrypt, at the lowest cost.
const SECRET_HASH: &str = "$2b$04$YU6w2kfYiWuhCkJU/ViYceec9ysAKL9YhdpRh.FrQKB74K4u4Ez8C";

type Samples = BTreeMap<String, BTreeMap<i64, f64>>;

/// Samples of `hours` before `end_ms`: gauges and counters of two jobs, one series with a gap, one that never changes.
fn samples(end_ms: i64, hours: i64) -> Samples {
    let mut all = Samples::new();
    for n in 0..30_i64 {
        let name =
            format!("live_{}{{job=\"{}\",n=\"{n}\"}}", ["gauge", "total", "go_x"][(n % 3) as usize], n % 2);
        let times = (end_ms - hours * HOUR_MS..=end_ms).step_by(STEP_MS as usize);
        let kept = times.filter(|at| n != 4 || at % HOUR_MS < HOUR_MS / 2);
        let value = |at: i64| if n == 5 { 1.0 } else { ((at / STEP_MS * (n + 7)) % 1_009) as f64 / 8.0 };
        all.insert(name, kept.map(|at| (at, value(at))).collect());
    }
    all
}

/// As `promtool tsdb create-blocks-from openmetrics` reads it.
fn open_metrics(samples: &Samples) -> String {
    let mut text = String::new();
    for (name, samples) in samples {
        for (at, value) in samples {
            writeln!(text, "{name} {value} {}.{:03}", at / 1_000, at % 1_000).unwrap();
        }
    }
    text + "# EOF\n"
}

/// A certificate for 127.0.0.1 and its key, as `web.config.file` names them, and the one password.
fn secure(folder: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=prom.test"])
        .args([
            "-addext",
            "subjectAltName=DNS:prom.test,IP:127.0.0.1",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ])
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let web = format!(
        "tls_server_config: {{cert_file: cert.pem, key_file: key.pem}}\nbasic_auth_users: {{u: '{SECRET_HASH}'}}\n"
    );
    std::fs::write(folder.join("web.yml"), web).unwrap();
}

fn http_config(folder: &Path, password: &str) -> HttpConfig {
    HttpConfig {
        basic_auth: Some(BasicAuth {
            username: "u".to_owned(),
            password: Some(Credential::Text(Secret::new(password))),
        }),
        tls: TlsConfig { ca_file: Some(folder.join("cert.pem")), ..TlsConfig::default() },
        ..HttpConfig::default()
    }
}

/// Counts what happens, and never waits long.
#[derive(Default)]
struct Counts {
    failed: AtomicU64,
    left_out: AtomicU64,
}

impl ReadObserver for Counts {
    fn answered(&self) {}

    fn failed(&self, error: &QueryError, _: Duration) {
        println!("{error}");
        self.failed.fetch_add(1, Relaxed);
    }

    fn partial(&self, why: &str, _: ReadSpan, _: Duration) -> bool {
        panic!("Prometheus keeps everything itself: {why}")
    }

    fn left_out(&self, error: &QueryError, _: &str, _: ReadSpan) {
        println!("{error}");
        self.left_out.fetch_add(1, Relaxed);
    }

    fn full(&self) {}

    fn pause(&self, _: Duration) -> bool {
        std::thread::sleep(Duration::from_millis(200));
        true
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

/// A Prometheus with these samples, asked for by `https` with a password; `most` bounds the samples of a query.
fn blocks(variable: &str, samples: &Samples, most: usize) -> Option<Blocks> {
    let (program, promtool) = (server(variable)?, server("TEST_PROMTOOL")?);
    let folder = Folder::new("blocks");
    secure(folder.path());
    let most = format!("--query.max-samples={most}");
    Some(Blocks::start(
        folder,
        &program,
        &promtool,
        &open_metrics(samples),
        &["--web.config.file=web.yml", &most],
    ))
}

/// Everything that reading gives, which must be no sample twice.
fn read_all(
    server: &mut Blocks,
    selectors: &[&str],
    span: ReadSpan,
    stop_in_the_middle: bool,
) -> (Samples, Counts, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let url = server.url("").replace("http://", "https://").parse().unwrap();
    let client =
        PrometheusClient::new(&url, &http_config(server.folder(), "secret"), Arc::clone(&metrics)).unwrap();
    assert!(client.version().unwrap().range().is_some());
    let counts = Counts::default();
    let mut got = Samples::new();
    let mut readings: Vec<Reading> = selectors.iter().map(|selector| Reading::new(selector)).collect();
    let mut rest = span;
    let mut restart = stop_in_the_middle;
    while rest.after_ms < rest.to_ms {
        let chunk = rest.chunk(HOUR_MS);
        for reading in &mut readings {
            let read = reading.read(&client, &counts, chunk, &mut |answer| {
                for mut series in answer {
                    series.labels.sort();
                    let text =
                        |name: &str| series.labels.iter().find(|(key, _)| key == name).unwrap().1.clone();
                    let name = format!("{}{{job=\"{}\",n=\"{}\"}}", text("__name__"), text("job"), text("n"));
                    let held = got.entry(name.clone()).or_default();
                    for (at, value) in series.samples {
                        let newest = held.last_key_value().map(|(newest, _)| *newest);
                        assert!(
                            newest.is_none_or(|newest| newest < at),
                            "{name} at {at}: not in order, or twice"
                        );
                        held.insert(at, value);
                    }
                }
                Ok(())
            });
            read.unwrap();
        }
        rest.after_ms = chunk.to_ms;
        if restart && rest.to_ms - rest.after_ms < (span.to_ms - span.after_ms) / 2 {
            restart = false;
            server.restart_slowly();
        }
    }
    (got, counts, metrics)
}

/// One after another, because a server of another version is judged by the same.
fn every_sample_comes_once(variable: &str) {
    let end_ms = now_ms() / 60_000 * 60_000 - 2 * HOUR_MS;
    let file = samples(end_ms, 24);
    let Some(mut server) = blocks(variable, &file, 3_000) else { return };
    let span = ReadSpan { after_ms: end_ms - 24 * HOUR_MS - 1, to_ms: end_ms };
    let (got, counts, metrics) =
        read_all(&mut server, &["{job=\"0\"}", "{job=\"1\",__name__=~\"live_.*\"}"], span, true);
    for (name, samples) in &file {
        assert_eq!(got.get(name).map(BTreeMap::len), Some(samples.len()), "{name}");
    }
    assert!(got == file, "the same samples with the same values");
    assert_eq!(counts.left_out.load(Relaxed), 0);
    assert!(counts.failed.load(Relaxed) > 0, "it was away");
    let text = metrics.text();
    for outcome in ["ok", "transient", "too_much"] {
        assert!(
            text.contains(&format!("tidewatch_prometheus_requests_total{{outcome=\"{outcome}\"}}")),
            "{text}"
        );
    }
    // A bound below what one minute holds: name by name, and nothing is lost.
    let span = ReadSpan { after_ms: end_ms - 600_000, to_ms: end_ms };
    drop(server);
    let Some(mut server) = blocks(variable, &file, 60) else { return };
    let (got, counts, _) = read_all(&mut server, &["{job=~\".+\"}"], span, false);
    assert_eq!(counts.left_out.load(Relaxed), 0);
    for (name, samples) in &file {
        let wanted: BTreeMap<i64, f64> =
            samples.range(span.after_ms + 1..).map(|(at, value)| (*at, *value)).collect();
        assert_eq!(got.get(name).cloned().unwrap_or_default(), wanted, "{name}");
    }
    wrong_keys_are_definite(&server);
}

/// The file of those we trust is read at each question, whatever connection is open.
fn a_file_that_is_replaced_counts_at_once(
    url: &str,
    http: &HttpConfig,
    folder: &Path,
    metrics: &Arc<Metrics>,
) {
    let (others, file) = (Folder::new("others"), folder.join("trusted.pem"));
    secure(others.path());
    let mut http = http.clone();
    http.tls.ca_file = Some(file.clone());
    let put = |from: &Path| std::fs::copy(from.join("cert.pem"), &file).unwrap();
    put(folder);
    let client = PrometheusClient::new(&url.parse().unwrap(), &http, Arc::clone(metrics)).unwrap();
    let ask = || client.query("up", now_ms(), Duration::from_secs(60));
    ask().unwrap();
    put(others.path());
    let error = ask().unwrap_err();
    assert!(
        matches!(&error, QueryError::Definite(why) if why.contains("TLS: invalid peer certificate")),
        "{error}"
    );
    put(folder);
    ask().unwrap();
    std::fs::remove_file(&file).unwrap();
    let error = ask().unwrap_err();
    assert!(matches!(&error, QueryError::Definite(why) if why.contains("tls_config.ca_file")), "{error}");
}

/// A wrong password, a certificate nobody vouches for, and a wrong name are for a human to mend.
fn wrong_keys_are_definite(server: &Blocks) {
    let metrics = Arc::new(Metrics::new());
    let base = server.url("").replace("http://", "https://");
    let ask = |url: &str, http: &HttpConfig| {
        let client = PrometheusClient::new(&url.parse().unwrap(), http, Arc::clone(&metrics)).unwrap();
        client.query("up", now_ms(), Duration::from_secs(60))
    };
    let good = http_config(server.folder(), "secret");
    let tls = |change: fn(&mut TlsConfig)| {
        let mut http = good.clone();
        change(&mut http.tls);
        http
    };
    for (http, says) in [
        (http_config(server.folder(), "other"), "401"),
        (tls(|tls| tls.server_name = Some("else.test".to_owned())), "TLS: invalid peer certificate"),
    ] {
        let error = ask(&base, &http).unwrap_err();
        assert!(matches!(&error, QueryError::Definite(why) if why.contains(says)), "{says}: {error}");
    }
    let plain = ask(&base.replace("https://", "http://"), &good).unwrap_err();
    assert!(matches!(&plain, QueryError::Definite(why) if why.contains("HTTPS server")), "{plain}");
    for http in [
        tls(|tls| tls.server_name = Some("prom.test".to_owned())),
        tls(|tls| *tls = TlsConfig { insecure_skip_verify: true, ..TlsConfig::default() }),
    ] {
        ask(&base, &http).unwrap();
    }
    a_file_that_is_replaced_counts_at_once(&base, &good, server.folder(), &metrics);
    // Debian's own list of certificates does not know the one made here; a machine may have no list at all.
    let unknown = PrometheusClient::new(
        &base.parse().unwrap(),
        &tls(|tls| *tls = TlsConfig::default()),
        Arc::clone(&metrics),
    )
    .and_then(|client| client.query("up", now_ms(), Duration::from_secs(60)));
    assert!(matches!(unknown, Err(QueryError::Definite(_))), "{unknown:?}");
}

#[test]
fn every_sample_of_a_day_comes_exactly_once() {
    every_sample_comes_once("TEST_PROMETHEUS");
}

/// Its ranges are open on the left. The program is built by `./test.sh --prometheus3` only.
#[test]
fn and_so_it_does_from_prometheus_3() {
    if std::env::var_os("TEST_PROMETHEUS_3").is_some_and(|path| !path.is_empty()) {
        every_sample_comes_once("TEST_PROMETHEUS_3");
    }
}

/// Its samples as they are and resampled, from the ring and from the server, each once.
fn samples_are_those_of_the_file(tidewatch: &Tidewatch, file: &Samples) {
    for name in file.keys().take(5) {
        let samples: Vec<(i64, f64)> = file[name].iter().map(|(at, value)| (*at, *value)).collect();
        let (first_ms, last_ms) = (samples[0].0, samples[samples.len() - 1].0);
        let mut labels: Vec<(String, String)> = name[name.find('{').unwrap() + 1..name.len() - 1]
            .split(',')
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned()))
            .collect();
        labels.push(("__name__".to_owned(), name[..name.find('{').unwrap()].to_owned()));
        labels.sort();
        let pairs: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        let path = format!("/api/v1/samples/{}", tidewatch::labels::series_id(&pairs));
        let seconds = |ms: i64| format!("{}.{:03}", ms / 1_000, ms % 1_000);
        let ask = |start_ms: i64, more: &[(&str, &str)]| {
            let (start, end) = (seconds(start_ms), seconds(last_ms));
            let parameters = [&[("start", start.as_str()), ("end", &end)], more].concat();
            tidewatch.get(&path, &parameters).json()
        };
        let points = |answer: &serde_json::Value| -> Vec<(i64, f64)> {
            let point =
                |row: &serde_json::Value| (row["at_ms"].as_i64().unwrap(), row["value"].as_f64().unwrap());
            answer["data"].as_array().unwrap().iter().map(point).collect()
        };
        // Until the end of the bootstrap is computed the server alone has them.
        eventually("the ring is there", Duration::from_secs(30), || {
            let all = ask(first_ms, &[]);
            assert_eq!(points(&all), samples, "{name}: {}", all["parts"]);
            (all["source"] == "prometheus+ring").then_some(()).ok_or_else(|| all["parts"].to_string())
        });
        let newest = ask(last_ms - 60_000, &[]);
        assert_eq!((&newest["source"], points(&newest).len()), (&"ring".into(), 5), "{name}");
        let wanted: BTreeMap<i64, f64> = samples.iter().fold(BTreeMap::new(), |mut most, (at, value)| {
            let end = (at - 1).div_euclid(900_000) * 900_000 + 900_000;
            let held = most.entry(end).or_insert(*value);
            *held = held.max(*value);
            most
        });
        let most = ask(first_ms, &[("resample", "15m"), ("aggregate", "max")]);
        assert_eq!(points(&most).into_iter().collect::<BTreeMap<_, _>>(), wanted, "{name}");
        // Since 1970: the years before the first sample are few questions.
        let all = ask(0, &[("resample", "30d"), ("aggregate", "count")]);
        let count: f64 = points(&all).iter().map(|(_, count)| count).sum();
        assert_eq!(count, samples.len() as f64, "{name}: {all}");
    }
}

#[test]
fn the_server_bootstraps_from_a_real_prometheus_and_polls_on() {
    let end_ms = now_ms() / 60_000 * 60_000 - 60_000;
    let file = samples(end_ms, 6);
    let Some(server) = blocks("TEST_PROMETHEUS", &file, 50_000) else { return };
    let config = format!(
        "windows: [{{length: 1h, hop: 1m}}]\nsources: {{prometheus: [
        {{url: 'http://127.0.0.1:9', match: [up], bootstrap: 0s, poll: 0s}},
        {{url: '{}', match: ['{{job=~\".+\"}}'], bootstrap: 6h, poll: 1s,
        http_config: {{basic_auth: {{username: u, password: secret}}, tls_config: {{ca_file: '{}'}}}}}}]}}\n",
        server.url("").replace("http://", "https://"),
        server.folder().join("cert.pem").display(),
    );
    let mut tidewatch = Tidewatch::start(&config);
    let polling = |tidewatch: &Tidewatch| {
        eventually("the bootstrap ends", Duration::from_secs(60), || {
            let status = tidewatch.get("/api/v1/status", &[]).json();
            // Nobody is at the first: the second is asked all the same.
            match status["sources"][1]["state"].as_str() {
                Some("polling") => Ok(status),
                _ => Err(status["sources"].to_string()),
            }
        })
    };
    let status = polling(&tidewatch);
    let wanted: usize = file.values().map(BTreeMap::len).sum();
    let accepted = tidewatch.metric("tidewatch_samples_accepted_total{source=\"prometheus\"}");
    // Samples at the first millisecond may be older than the bootstrap by the seconds the start took.
    assert!(accepted <= wanted as f64 && accepted > wanted as f64 * 0.98, "{accepted} of {wanted}: {status}");
    assert!(!status.to_string().contains("secret") && !tidewatch.process().log().contains("secret"));
    samples_are_those_of_the_file(&tidewatch, &file);
    assert!(tidewatch.process().terminate().success());
    tidewatch.start_again();
    polling(&tidewatch);
    let again = tidewatch.metric("tidewatch_samples_accepted_total{source=\"prometheus\"}");
    assert!(again < accepted / 10.0, "a finished bootstrap is not done again: {again}");
}

/// The table says what Go says; a real Prometheus is of the same mind. Before version 3 its dot left line ends out, which
/// the flag `s` mends.
#[test]
fn regexes_mean_to_prometheus_what_the_table_says() {
    let mut lines =
        include_str!("../src/store/selector/re2/table.tsv").lines().filter(|l| !l.starts_with('#'));
    let values: Vec<String> = serde_json::from_str(lines.next().unwrap()).unwrap();
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let at_ms = now_ms() / 60_000 * 60_000 - HOUR_MS;
    let file = values.iter().enumerate().map(|(n, value)| {
        (format!("r{{n=\"{n}\",v=\"{}\"}}", quoted(value)), BTreeMap::from([(at_ms, 1.0)]))
    });
    for variable in ["TEST_PROMETHEUS", "TEST_PROMETHEUS_3"] {
        let second = std::env::var_os(variable).is_some_and(|path| !path.is_empty());
        if variable == "TEST_PROMETHEUS_3" && !second {
            continue;
        }
        let Some(server) = blocks(variable, &file.clone().collect(), 50_000) else { return };
        let url = server.url("").replace("http://", "https://").parse().unwrap();
        let metrics = Arc::new(Metrics::new());
        let client = PrometheusClient::new(&url, &http_config(server.folder(), "secret"), metrics).unwrap();
        eventually("it answers", Duration::from_secs(60), || {
            client.alive(at_ms).map_err(|error| error.to_string())
        });
        for line in lines.clone() {
            let (pattern, wanted) = line.split_once('\t').unwrap();
            let selector = format!("r{{v=~\"(?s){}\"}}", quoted(pattern));
            let said = match client.query(&selector, at_ms, Duration::from_secs(10)) {
                Ok(answer) => {
                    let number = |series: &tidewatch::source::query::client::QuerySeries| {
                        let n = series.labels.iter().find(|(name, _)| name == "n");
                        n.unwrap().1.parse::<usize>().unwrap()
                    };
                    let mut found: Vec<usize> = answer.whole().unwrap().iter().map(number).collect();
                    found.sort_unstable();
                    found.iter().map(usize::to_string).collect::<Vec<_>>().join(" ")
                }
                Err(QueryError::Definite(_)) => "refused".to_owned(),
                Err(other) => panic!("{pattern}: {other}"),
            };
            assert_eq!(said, wanted, "{pattern:?} of {variable}");
        }
    }
}
