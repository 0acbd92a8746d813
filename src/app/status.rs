//! `status`: how a running server is, in a dozen lines, as its `/api/v1/status` says.
//!
//! Not here: what the figures mean (`run`, which gives them).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use tidewatch_dataflows::settings::duration;

use super::rate::OVER;
use crate::cli;
use crate::config::Config;
use crate::config::http::{HttpConfig, Url};
use crate::metrics::Metrics;
use crate::source::query::client::PrometheusClient;

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
        println!("{now}");
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
fn read(client: &PrometheusClient) -> anyhow::Result<Value> {
    let url = client.url();
    let (status, body) = client.get(PATH).map_err(|error| {
        anyhow!("no tidewatch answers at {url}: {error}; --url says where it is, and tidewatch run or demo starts one")
    })?;
    let answer: Option<Value> = serde_json::from_slice(&body).ok();
    if status == 200 {
        let ours = answer.filter(|answer| answer["version"].is_string() && answer["epoch"].is_object());
        return ours
            .with_context(|| format!("what answers at {url} is no tidewatch: {PATH} is {}", said(&body)));
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

fn uptime(seconds: f64) -> String {
    let (ms, to) = (seconds as i64 * 1_000, if seconds < 3_600.0 { 1_000 } else { 60_000 });
    duration(ms / to * to)
}

fn number(status: &Value, path: &str) -> Option<f64> {
    status.pointer(path)?.as_f64()
}

/// The dozen lines. What an older server does not tell shows as `?`.
fn words(url: &Url, status: &Value) -> String {
    let text = |path: &str| status.pointer(path).and_then(Value::as_str).unwrap_or("?").to_owned();
    let count = |path: &str| number(status, path).map_or_else(|| "?".to_owned(), thousands);
    let size = |path: &str| number(status, path).map_or_else(|| "?".to_owned(), bytes);
    let seconds = |path: &str| number(status, path).map_or_else(|| "?".to_owned(), |s| format!("{s:.1} s"));
    let up = number(status, "/uptime_seconds").map_or_else(|| "?".to_owned(), uptime);
    let ready = match status["ready"].as_bool() {
        Some(true) => "yes".to_owned(),
        _ => format!("no: {}", text("/waits_for")),
    };
    let rate = number(status, "/samples_per_second");
    let rate = rate.map_or_else(|| "?".to_owned(), |rate| format!("{rate:.1}"));
    let exceeded = if status["rows_per_day"]["exceeded"] == true { ", exceeded" } else { "" };
    let lines = [
        ("ready", ready),
        ("series", format!("{} of {}", count("/series"), count("/limits/series"))),
        (
            "samples",
            format!(
                "{rate} live a second over {}, {} computed since the start",
                duration(OVER.as_millis() as i64),
                count("/samples")
            ),
        ),
        (
            "lag",
            if status["lag_seconds"].is_null() {
                "nothing is computed yet".to_owned()
            } else {
                seconds("/lag_seconds")
            },
        ),
        (
            "epochs",
            format!(
                "journal {}, outbox {}, store {}",
                epoch(status, "journal"),
                epoch(status, "outbox"),
                epoch_of_store(status)
            ),
        ),
        (
            "store",
            format!(
                "{} behind the outbox; {} window rows",
                seconds("/sinks/0/behind_seconds"),
                count("/store/window_rows")
            ),
        ),
        ("sources", sources(status)),
        (
            "disk",
            format!(
                "journal {} of {}, outbox {} of {}, store {}, snapshots {}",
                size("/disk/journal/bytes"),
                size("/disk/journal/bytes_max"),
                size("/disk/outbox/bytes"),
                size("/disk/outbox/bytes_max"),
                size("/store/bytes"),
                size("/disk/snapshots/bytes")
            ),
        ),
        (
            "rows a day",
            format!("{} of {}{exceeded}", count("/rows_per_day/estimate"), count("/rows_per_day/max")),
        ),
        ("limits met", limits(status)),
        ("quarantined", quarantined(status)),
    ];
    let mut all = format!("tidewatch {} at {url}, up {up}\n", text("/version"));
    for (name, words) in lines {
        let _ = writeln!(all, "{name:<12} {words}");
    }
    all
}

fn epoch_of_store(status: &Value) -> String {
    number_of_epoch(&status["sinks"][0]["epoch"])
}

fn epoch(status: &Value, of: &str) -> String {
    number_of_epoch(&status["epoch"][of])
}

fn number_of_epoch(value: &Value) -> String {
    value.as_u64().filter(|epoch| *epoch > 0).map_or_else(|| "none".to_owned(), |epoch| epoch.to_string())
}

/// What came by remote write is no source that is asked, so it is not here.
fn sources(status: &Value) -> String {
    let one = |source: &Value| {
        let name = source["url"].as_str().or(source["source"].as_str()).unwrap_or("?");
        let state = source["state"].as_str().unwrap_or("?");
        let behind =
            source["behind_seconds"].as_f64().map_or_else(String::new, |s| format!(", {s:.1} s behind"));
        let failing = match (source["failing"].as_bool(), source["last_error"].as_str()) {
            (Some(true), Some(error)) => format!(", failing: {error}"),
            _ => String::new(),
        };
        let partial = match source["partial"]["why"].as_str() {
            Some(why) if source["partial"]["answers_taken"].as_u64() > Some(0) => {
                format!(", answers are partial: {why}")
            }
            _ => String::new(),
        };
        let not_read = match source["not_read_total"].as_u64() {
            Some(parts) if parts > 0 => format!(", {parts} parts not read (see /api/v1/status)"),
            _ => String::new(),
        };
        format!("{name} {state}{behind}{failing}{partial}{not_read}")
    };
    match status["sources"].as_array() {
        Some(sources) if !sources.is_empty() => sources.iter().map(one).collect::<Vec<_>>().join("; "),
        _ => "none are asked; remote write is taken".to_owned(),
    }
}

fn limits(status: &Value) -> String {
    let Some(reached) = status["limits_reached"].as_object() else { return "?".to_owned() };
    let one = |(limit, times): (&String, &Value)| {
        format!("{limit} {}", times.as_f64().map_or_else(String::new, thousands))
    };
    let all: Vec<String> = reached.iter().map(one).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn quarantined(status: &Value) -> String {
    let held = &status["quarantined"];
    let count = held["count"].as_u64().unwrap_or(0);
    let shown: Vec<&str> =
        held["series"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match count {
        0 => "none".to_owned(),
        count if count > shown.len() as u64 => format!("{count}: {} ...", shown.join(", ")),
        count => format!("{count}: {}", shown.join(", ")),
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
    use serde_json::json;

    use super::*;

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
    fn what_a_worker_does_not_tell_is_no_panic() {
        let url: Url = "http://127.0.0.1:7464".parse().unwrap();
        for status in [
            json!({}),
            json!({"sources": 5, "limits_reached": [], "epoch": {"journal": "x"}, "quarantined": 1}),
        ] {
            let text = words(&url, &status);
            assert_eq!(text.lines().count(), 12, "{text}");
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
