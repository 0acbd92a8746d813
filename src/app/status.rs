//! `status`: how a running server is, in a dozen lines, as its `/api/v1/status` says.
//!
//! Not here: what the figures mean (`run`, which gives them).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::settings::duration;

use super::rate::OVER;
use crate::cli;
use crate::config::Config;
use crate::config::http::{HttpConfig, Url};
use crate::metrics::Metrics;
use crate::sinks::store::NAME as STORE;
use crate::source::query::client::PrometheusClient;
use crate::status::{QuarantineStatus, ServerStatus, SinkStatus, SourceReport, StoreFigures};

const PATH: &str = "/api/v1/status";
/// Most characters of what a server said that we repeat.
const SAID_MAX: usize = 300;

/// Asks a server how it is, and prints it.
pub fn status(config: &Config, args: &cli::StatusArgs) -> anyhow::Result<ExitCode> {
    let url = args.url.clone().unwrap_or_else(|| format!("http://{}", reached(config.listen)));
    let url: Url = url.parse().map_err(|error| anyhow!("--url must be {error}"))?;
    let client = PrometheusClient::new(&url, &HttpConfig::default(), Arc::new(Metrics::new()))?;
    let now = read(&client)?;
    if args.common.json {
        println!("{}", serde_json::to_string(&now).context("writing the status")?);
    } else {
        print!("{}", words(&url, &now));
    }
    Ok(ExitCode::SUCCESS)
}

/// Who listens everywhere is reached here.
pub fn reached(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}

/// One reading.
fn read(client: &PrometheusClient) -> anyhow::Result<ServerStatus> {
    let url = client.url();
    let (status, body) = client.get(PATH).map_err(|error| {
        anyhow!("no tidewatch answers at {url}: {error}; --url says where it is, and tidewatch run or demo starts one")
    })?;
    let answer: Option<Value> = serde_json::from_slice(&body).ok();
    if status == 200 {
        let ours = answer.filter(|answer| answer["version"].is_string() && answer["epoch"].is_object());
        let ours = ours
            .with_context(|| format!("what answers at {url} is no tidewatch: {PATH} is {}", said(&body)))?;
        let version = ours["version"].as_str().unwrap_or_default().to_owned();
        return serde_json::from_value(ours).map_err(|error| {
            anyhow!(
                "the tidewatch at {url} is {version}, whose {PATH} this one ({}) does not read: {error}",
                env!("CARGO_PKG_VERSION")
            )
        });
    }
    match answer.as_ref().and_then(|problem| problem["detail"].as_str()) {
        Some(detail) => bail!("the tidewatch at {url} does not tell how it is: {status}: {detail}"),
        None => bail!(
            "what answers at {url} is no tidewatch, or a proxy before one: {PATH} is {status}: {}",
            said(&body)
        ),
    }
}

/// What a server said, in one line of readable length.
fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = words.char_indices().nth(SAID_MAX) {
        words.truncate(end);
        words.push_str("...");
    }
    if words.is_empty() { "empty".to_owned() } else { words }
}

fn uptime(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX / 1_000);
    let (ms, to) = (seconds.saturating_mul(1_000), if seconds < 3_600 { 1_000 } else { 60_000 });
    duration(ms / to * to)
}

fn count(n: u64) -> String {
    thousands(n as f64)
}

fn size(n: u64) -> String {
    bytes(n as f64)
}

/// The dozen lines, and one for each sink beside the store.
fn words(url: &Url, status: &ServerStatus) -> String {
    let ready = match &status.waits_for {
        None => "yes".to_owned(),
        Some(why) => format!("no: {why}"),
    };
    let rate = status.samples_per_second.map_or_else(|| "?".to_owned(), |rate| format!("{rate:.1}"));
    let (disk, rows) = (&status.disk, &status.rows_per_day);
    let exceeded = if rows.exceeded { ", exceeded" } else { "" };
    let samples = format!(
        "{rate} live a second over {}, {} computed since the start",
        duration(OVER.as_millis() as i64),
        count(status.samples)
    );
    let lag =
        status.lag_seconds.map_or_else(|| "nothing is computed yet".to_owned(), |s| format!("{s:.1} s"));
    let epochs = format!(
        "journal {}, outbox {}, store {}",
        epoch(status.epoch.journal),
        epoch(status.epoch.outbox),
        epoch(status.store.epoch)
    );
    let on_disk = format!(
        "journal {} of {}, outbox {} of {}, store {}, snapshots {}",
        size(disk.journal.bytes),
        size(disk.journal.bytes_max),
        size(disk.outbox.bytes),
        size(disk.outbox.bytes_max),
        size(status.store.bytes),
        size(disk.snapshots.bytes)
    );
    let mut lines = vec![
        ("ready", ready),
        ("series", format!("{} of {}", count(status.series), count(status.limits.series))),
        ("samples", samples),
        ("lag", lag),
        ("epochs", epochs),
    ];
    lines.extend(status.sinks.iter().map(|sink| (sink.name.as_str(), sink_words(sink, &status.store))));
    lines.extend([
        ("sources", sources(&status.sources)),
        ("disk", on_disk),
        ("rows a day", format!("{} of {}{exceeded}", count(rows.estimate), count(rows.max))),
        ("limits met", limits(&status.limits_reached)),
        ("quarantined", quarantined(&status.quarantined)),
    ]);
    let mut all = format!("tidewatch {} at {url}, up {}\n", status.version, uptime(status.uptime_seconds));
    for (name, words) in lines {
        let _ = writeln!(all, "{name:<12} {words}");
    }
    all
}

fn epoch(number: Option<u64>) -> String {
    number.filter(|epoch| *epoch > 0).map_or_else(|| "none".to_owned(), |epoch| epoch.to_string())
}

/// The store counts the rows that it holds, another sink those that it was given.
fn sink_words(sink: &SinkStatus, store: &StoreFigures) -> String {
    let rows = match sink.name == STORE {
        true => format!("{} window rows", count(store.rows.of::<WindowStats>())),
        false => format!("{} window rows since the start", count(sink.rows.of::<WindowStats>())),
    };
    let trouble = sink.last_error.as_ref().map_or_else(String::new, |why| format!("; {}: {why}", sink.state));
    format!("{:.1} s behind the outbox; {rows}{trouble}", sink.behind_seconds)
}

/// What came by remote write is no source that is asked, so it is not here.
fn sources(all: &[SourceReport]) -> String {
    let one = |source: &SourceReport| {
        let name = source.url.as_ref().unwrap_or(&source.source);
        let behind = source.behind_seconds.map_or_else(String::new, |s| format!(", {s:.1} s behind"));
        let failing = match &source.last_error {
            Some(error) if source.failing => format!(", failing: {error}"),
            _ => String::new(),
        };
        let partial = match &source.partial {
            Some(partial) if partial.answers_taken > 0 => format!(", answers are partial: {}", partial.why),
            _ => String::new(),
        };
        let not_read = match source.not_read_total {
            0 => String::new(),
            parts => format!(", {parts} parts not read (see /api/v1/status)"),
        };
        format!("{name} {}{behind}{failing}{partial}{not_read}", source.state)
    };
    match all {
        [] => "none are asked; remote write is taken".to_owned(),
        all => all.iter().map(one).collect::<Vec<_>>().join("; "),
    }
}

fn limits(reached: &BTreeMap<String, u64>) -> String {
    let all: Vec<String> =
        reached.iter().map(|(limit, times)| format!("{limit} {}", count(*times))).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn quarantined(held: &QuarantineStatus) -> String {
    let shown = held.series.join(", ");
    match held.count {
        0 => "none".to_owned(),
        count if count > held.series.len() => format!("{count}: {shown} ..."),
        count => format!("{count}: {shown}"),
    }
}

/// A whole number in groups of three digits.
pub fn thousands(n: f64) -> String {
    let digits = format!("{n:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Bytes to four digits or so, in binary units.
pub fn bytes(n: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut n, mut unit) = (n, 0);
    while n >= 1_024.0 && unit + 1 < UNITS.len() {
        (n, unit) = (n / 1_024.0, unit + 1);
    }
    if n.fract() == 0.0 || unit == 0 {
        format!("{n:.0} {}", UNITS[unit])
    } else {
        format!("{n:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::KindRows;
    use tidewatch_dataflows::rows::KINDS;

    #[test]
    fn numbers_and_sizes_are_readable() {
        let table = [
            (0.0, "0", "0 B"),
            (999.0, "999", "999 B"),
            (1_000.0, "1,000", "1000 B"),
            (1_234_567.0, "1,234,567", "1.2 MiB"),
            (21_474_836_480.0, "21,474,836,480", "20 GiB"),
        ];
        for (n, grouped, sized) in table {
            assert_eq!((thousands(n).as_str(), bytes(n).as_str()), (grouped, sized));
        }
    }

    #[test]
    fn every_figure_has_its_line() {
        let url: Url = "http://127.0.0.1:7464".parse().unwrap();
        let sink = |name: &str, last_error: Option<&str>| SinkStatus {
            name: name.to_owned(),
            state: if last_error.is_some() { "retrying" } else { "running" }.to_owned(),
            last_error: last_error.map(str::to_owned),
            rows: KindRows([7; KINDS.len()]),
            ..SinkStatus::default()
        };
        let empty = ServerStatus { sinks: vec![sink("store", None)], ..ServerStatus::default() };
        let text = words(&url, &empty);
        assert_eq!(text.lines().count(), 12, "{text}");
        let status = ServerStatus {
            sinks: vec![sink("store", None), sink("lines", Some("no room"))],
            store: StoreFigures { rows: KindRows([1_024; KINDS.len()]), ..StoreFigures::default() },
            quarantined: QuarantineStatus { count: 3, series: vec!["a".to_owned()] },
            limits_reached: [("limits.series".to_owned(), 1_044)].into(),
            sources: vec![SourceReport {
                source: "demo".to_owned(),
                state: "polling".to_owned(),
                behind_seconds: Some(2.0),
                failing: true,
                last_error: Some("503".to_owned()),
                ..SourceReport::default()
            }],
            ..ServerStatus::default()
        };
        let text = words(&url, &status);
        for line in [
            "store        0.0 s behind the outbox; 1,024 window rows\n",
            "lines        0.0 s behind the outbox; 7 window rows since the start; retrying: no room\n",
            "sources      demo polling, 2.0 s behind, failing: 503\n",
            "limits met   limits.series 1,044\n",
            "quarantined  3: a ...\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
    }

    #[test]
    fn an_address_of_everywhere_is_reached_here() {
        let table = [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:2", "[::1]:2"), ("10.0.0.1:3", "10.0.0.1:3")];
        for (listen, at) in table {
            assert_eq!(reached(listen.parse().unwrap()).to_string(), at);
        }
    }
}
