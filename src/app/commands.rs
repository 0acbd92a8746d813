//! The commands that start nothing: `generate`, `export`, `verify`, `check`, `version`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use tidewatch_dataflows::settings::{duration, parse_duration};

use crate::cli;
use crate::config::Config;
use crate::config::http::{HttpConfig, Url};
use crate::generate::{self, Generator};
use crate::metrics::Metrics;
use crate::source::query::client::PrometheusClient;
use crate::store::embedded::{self, Embedded};
use crate::store::export::{self, ExportFormat};
use crate::store::row::ExportKind;
use crate::store::selector::Selectors;
use crate::store::{ExportQuery, Range, Store};
use crate::verify;

use super::data_dir::STORE_FILE;
use super::memory::{QuantileCost, SeriesRoom, quantile_costs};
use super::rows_per_day::{DiskRoom, RowsPerDay};
use super::status::thousands;
use super::time::{now_ms, time_ms};
use crate::pull;

const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Writes seeded samples.
pub fn generate(args: &cli::Generate) -> anyhow::Result<ExitCode> {
    let time =
        |field: &str, text: &Option<String>| text.as_deref().map(|text| time_ms(field, text)).transpose();
    let (start, end) = (time("--start", &args.start)?, time("--end", &args.end)?);
    let (start_ms, end_ms) = generate::span(start, end, args.hours, now_ms()).map_err(by_flag)?;
    let step_ms = parse_duration(&args.step)
        .with_context(|| format!("--step must be a duration such as 15s; got {:?}", args.step))?;
    let churn = args.churn.as_deref().map(|text| {
        parse_duration(text).with_context(|| format!("--churn must be a duration such as 10m; got {text:?}"))
    });
    let options = generate::GenerateOptions {
        series: args.series,
        churn_ms: churn.transpose()?.unwrap_or(0),
        seed: args.seed,
        step_ms,
        late_ratio: args.late,
        duplicate_ratio: args.duplicates,
        conflict_ratio: args.conflicts,
        order: match args.order {
            cli::DeliveryOrder::Time => generate::Order::TimeMajor,
            cli::DeliveryOrder::Series => generate::Order::SeriesMajor,
        },
        ..generate::GenerateOptions::over(start_ms, end_ms)
    };
    let named = args.format.as_deref().map(str::parse::<generate::TextFormat>).transpose();
    let named = named.map_err(|error| anyhow::anyhow!("--{error}"))?;
    let told = args.output.as_deref().map(generate::TextFormat::of);
    let format = named.or(told).unwrap_or_default();
    generate::judge(format, &options).map_err(by_flag)?;
    let mut generator = Generator::new(options).map_err(by_flag)?;
    let written = match &args.output {
        Some(path) => {
            let mut output =
                generate::Output::create(path).with_context(|| format!("creating {}", path.display()))?;
            let written = generate::write(&mut generator, format, &mut output)?;
            output.finish().with_context(|| format!("writing {}", path.display()))?;
            written
        }
        None => {
            let mut output = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
            let written = generate::write(&mut generator, format, &mut output);
            match written.and_then(|written| output.flush().map(|()| written)) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                other => other?,
            }
        }
    };
    if args.output.is_some() {
        eprintln!("{} samples of {} series", written.samples, args.series);
    }
    Ok(ExitCode::SUCCESS)
}

/// An option out of its bounds, by the name of the flag that set it.
fn by_flag(error: generate::OptionsError) -> anyhow::Error {
    let flag = match error.option {
        "late_ratio" => "late",
        "duplicate_ratio" => "duplicates",
        "conflict_ratio" => "conflicts",
        option => option,
    };
    anyhow::anyhow!("--{flag} must be {}; got {}", error.bound, error.value)
}

/// Writes stored rows; reads beside a running server.
pub fn export(config: &Config, args: &cli::ExportArgs) -> anyhow::Result<ExitCode> {
    let kind: ExportKind = args.kind.parse().map_err(|error| anyhow::anyhow!("--{error}"))?;
    let format: ExportFormat = args.format.parse().map_err(|error| anyhow::anyhow!("--{error}"))?;
    let select = Selectors::parse(&args.matching).context("--match")?;
    let start_ms = args.start.as_deref().map_or(Ok(i64::MIN), |text| time_ms("--start", text))?;
    let end_ms = args.end.as_deref().map_or(Ok(i64::MAX), |text| time_ms("--end", text))?;
    let query = ExportQuery { kind, select, range: Range { start_ms, end_ms } };
    let store =
        Embedded::open_read_only(&config.data_dir.join(STORE_FILE), embedded::EmbeddedOptions::default())?;
    let store: &dyn Store = &store;
    match &args.output {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
            let mut out = BufWriter::with_capacity(1 << 16, file);
            let rows = export::export(store, &query, format, args.final_only, &mut out)?;
            out.flush().with_context(|| format!("writing {}", path.display()))?;
            eprintln!("{rows} rows");
        }
        None => {
            let mut out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
            let done = export::export(store, &query, format, args.final_only, &mut out);
            match done.and_then(|_| Ok(out.flush()?)) {
                Err(crate::store::StoreError::Output(error))
                    if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                other => other?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Compares stored windows with those of a Prometheus; reads beside a running server.
pub fn verify(config: &Config, args: &cli::VerifyArgs) -> anyhow::Result<ExitCode> {
    let url: Url =
        args.prometheus.parse().map_err(|error| anyhow::anyhow!("--prometheus must be {error}"))?;
    // A server that is asked for samples is reached as it is there; what the flag says of a user wins.
    let source = config.sources.prometheus.iter().find(|source| source.url.base() == url.base());
    let (url, http) = match source {
        Some(source) if url.user().is_none() => (source.url.clone(), source.http.clone()),
        Some(source) => (url, source.http.clone()),
        None => (url, HttpConfig::default()),
    };
    let at_ms = args.at.as_deref().map(|text| time_ms("--at", text)).transpose()?;
    let select = Selectors::parse(&args.matching).context("--match")?;
    let (profiles, without) = (args.profiles, args.without.clone());
    let options = verify::VerifyOptions { select, at_ms, profiles, without };
    let store =
        Embedded::open_read_only(&config.data_dir.join(STORE_FILE), embedded::EmbeddedOptions::default())?;
    let client = PrometheusClient::new(&url, &http, Arc::new(Metrics::new()))?;
    let mut told = Instant::now();
    let report = verify::run(&store, &client, &options, &mut |report| {
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            eprintln!("{} windows compared, {} differ", report.compared(), report.different);
        }
    })?;
    match args.common.json {
        true => println!("{}", report.json()),
        false => print!("{report}"),
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The configuration was judged when it was read; says what it comes to with the series that are stored.
pub fn check(config: &Config, as_json: bool) -> anyhow::Result<ExitCode> {
    pull::clients(config, &Arc::new(Metrics::new())).context("the configuration cannot be used")?;
    let settings = config.settings();
    let windows = config.windows_in_words();
    let base = duration(settings.base_ms());
    let of_one = config.rows_per_day(1);
    // The configuration is judged here; a store that cannot be read does not make it a bad one.
    let stored = stored_series(config);
    let series = *stored.as_ref().unwrap_or(&0);
    let rows = RowsPerDay::new(config, series, DiskRoom::of(&config.data_dir));
    let unread = stored.err().map(|error| format!("{error:#}"));
    let room = SeriesRoom::here(&settings);
    if as_json {
        println!(
            "{}",
            json!({"ok": true, "windows": windows, "base_pane": base, "rows_per_series_and_day": of_one,
                   "quantiles": quantile_costs(&settings).iter().map(QuantileCost::json).collect::<Vec<_>>(),
                   "rows_per_day": unread.is_none().then(|| rows.status()),
                   "series_max": config.limits.series, "bytes_per_series": room.series_bytes,
                   "memory_bytes": room.memory_bytes, "store_error": unread, "series_that_fit": rows.series_that_fit()})
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "the configuration is good: windows {}; base pane {base}; {of_one} rows per series and day",
        windows.join(", ")
    );
    println!("memory: {}", room.sentence(config));
    quantile_costs(&settings).iter().for_each(|cost| println!("{cost}"));
    match unread {
        Some(why) => println!(
            "stored: not known, {why}; store.rows_per_day_max is enough for {} series",
            thousands(rows.series_that_fit() as f64)
        ),
        None if rows.exceeded() => {
            println!("stored: {rows}; that is exceeded: run starts all the same and warns");
        }
        None => println!("stored: {rows}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Series of the store that make rows, as a start counts them; 0 where there is no store yet.
fn stored_series(config: &Config) -> anyhow::Result<u64> {
    let path = config.data_dir.join(STORE_FILE);
    if !path.try_exists().with_context(|| format!("reading {}", path.display()))? {
        return Ok(0);
    }
    let store = Embedded::open_read_only(&path, embedded::EmbeddedOptions::default())
        .with_context(|| format!("opening {}", path.display()))?;
    Ok(store.status().context("reading the store")?.series.min(config.limits.series))
}

/// Prints the version.
pub fn version(as_json: bool) -> anyhow::Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    if as_json {
        println!("{}", json!({"version": version}));
    } else {
        println!("tidewatch {version}");
    }
    Ok(ExitCode::SUCCESS)
}
