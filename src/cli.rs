//! The command line as typed: commands, flags, their help. Nothing is judged or done here.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tidewatch_dataflows::rows::KINDS;

/// Streaming analytics on Prometheus metrics: windowed statistics that survive a kill and correct late data.
#[derive(Debug, Parser)]
#[command(name = "tidewatch", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct Common {
    /// Configuration file (YAML); every setting is documented in deploy/tidewatch.example.yml
    #[arg(long, global = true, value_name = "FILE", env = "TIDEWATCH_CONFIG")]
    pub config: Option<PathBuf>,
    /// Folder for everything durable; one process at a time [default: ./tidewatch-data; of demo ./tidewatch-demo]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// IP address and port of the HTTP server [default: 127.0.0.1:7464]
    #[arg(long, global = true, value_name = "ADDR:PORT")]
    pub listen: Option<String>,
    /// Threads that compute; results do not depend on it [default: 2]
    #[arg(long, global = true, value_name = "N")]
    pub workers: Option<String>,
    /// Print what replay, verify, status, check and version say as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take samples over HTTP, compute, store and answer queries until SIGTERM or SIGINT
    Run {
        /// Go on where records of the journal are damaged or lost, and say what is missing
        #[arg(long)]
        accept_loss: bool,
        /// Go by the clock where the journal has seen times far ahead of it: a clock was wrong, and is right now
        #[arg(long)]
        accept_clock: bool,
        /// Flags for all commands.
        #[command(flatten)]
        common: Common,
        /// Compute a quarantined series again, from now on; `all` for all of them
        #[arg(long, value_name = "SERIES")]
        lift_quarantine: Vec<String>,
    },
    /// Make two days of samples, compute over them, and go on live: everything `run` does, with something to see
    Demo(DemoArgs),
    /// Say in a dozen lines how a running server is
    Status(StatusArgs),
    /// Compute over files of samples; returns when the store holds the last of them
    Replay(ReplayArgs),
    /// Write seeded samples like those of node exporters
    Generate(Generate),
    /// Write stored rows as JSON lines or CSV; works beside a running server
    Export(ExportArgs),
    /// Compare stored windows with those of your own Prometheus; works beside a running server
    Verify(VerifyArgs),
    /// Judge the configuration without starting anything
    Check {
        /// Flags for all commands.
        #[command(flatten)]
        common: Common,
    },
    /// Print the version
    Version {
        /// Flags for all commands.
        #[command(flatten)]
        common: Common,
    },
}

/// `demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How many series, 1 to 10000 [default: 200]
    #[arg(long, value_name = "N")]
    pub series: Option<u64>,
    /// How many hours of history before the live samples, above 0, at most 168 [default: 48]
    #[arg(long, value_name = "N")]
    pub hours: Option<f64>,
    /// Distance of two samples of a series, 1s to 5m [default: 15s]
    #[arg(long, value_name = "DURATION")]
    pub step: Option<String>,
    /// Remove what an earlier demo left in the data directory, and begin anew
    #[arg(long)]
    pub fresh: bool,
    /// Flags for all commands.
    #[command(flatten)]
    pub common: Common,
}

/// `status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The server, e.g. http://127.0.0.1:7464 [default: the address it is configured to listen on]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Flags for all commands.
    #[command(flatten)]
    pub common: Common,
}

/// `replay`
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Files: Prometheus text or OpenMetrics with timestamps, CSV, each also in .gz or .zst; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<String>,
    /// Format of all files; otherwise told by each name
    #[arg(long, value_parser = ["prometheus", "openmetrics", "csv"])]
    pub format: Option<String>,
    /// Declare that the input is ordered by time, or endless: windows close as it goes
    #[arg(long)]
    pub live_order: bool,
    /// Beside what is computed already: only the store gets rows, for times the series have left behind
    #[arg(long, conflicts_with = "live_order")]
    pub backfill: bool,
    /// Leave out samples before this time, RFC 3339 or Unix seconds; a backfill answers after it
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Leave out samples after this time, RFC 3339 or Unix seconds
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Stop at the first malformed line
    #[arg(long)]
    pub strict: bool,
    /// Take samples that are more than 10 minutes ahead of the clock
    #[arg(long)]
    pub allow_future: bool,
    /// Go on where records of the journal are damaged or lost, and say what is missing
    #[arg(long)]
    pub accept_loss: bool,
    /// Go by the clock where the journal has seen times far ahead of it: a clock was wrong, and is right now
    #[arg(long)]
    pub accept_clock: bool,
    /// Flags for all commands.
    #[command(flatten)]
    pub common: Common,
}

/// `generate`
#[derive(Debug, Args)]
pub struct Generate {
    /// How many series
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub series: u64,
    /// How many hours of samples [default: 1]
    #[arg(long)]
    pub hours: Option<f64>,
    /// Distance of two samples of a series, e.g. 15s
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub step: String,
    /// Seed of every choice: same seed, same bytes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// First time, RFC 3339 or Unix seconds
    #[arg(long, value_name = "TIME")]
    pub start: Option<String>,
    /// Last time, RFC 3339 or Unix seconds [default: now]
    #[arg(long, value_name = "TIME")]
    pub end: Option<String>,
    /// Format [default: by the output's name]
    #[arg(long, value_parser = ["prometheus", "openmetrics", "csv"])]
    pub format: Option<String>,
    /// Order of delivery: time = all series beside one another, series = one after the other (always so in openmetrics)
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = DeliveryOrder::Time)]
    pub order: DeliveryOrder,
    /// Share of samples delivered late, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub late: f64,
    /// Share of samples delivered twice, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub duplicates: f64,
    /// Share of samples delivered a second time with another value, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub conflicts: f64,
    /// How long each instance keeps its name; then another takes its place, with new series [default: for ever]
    #[arg(long, value_name = "DURATION")]
    pub churn: Option<String>,
    /// Where to; standard output if absent; a name ending in .gz is compressed
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Flags for all commands.
    #[command(flatten)]
    pub common: Common,
}

/// Order of delivery of generated samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeliveryOrder {
    /// By time, all series beside one another
    Time,
    /// One series after the other
    Series,
}

/// The kinds of rows that can be exported: the words for many, then those for one.
fn exported_kinds() -> PossibleValuesParser {
    let kinds = || KINDS.iter().filter(|kind| kind.is_exported());
    PossibleValuesParser::new(kinds().map(|kind| kind.name).chain(kinds().map(|kind| kind.singular)))
}

/// `export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Which rows; the singular is taken as well
    #[arg(long, default_value = "windows", value_parser = exported_kinds())]
    pub kind: String,
    /// Leave the revision out: the same samples give the same lines
    #[arg(long = "final")]
    pub final_only: bool,
    /// Only series that a Prometheus selector matches; may be repeated
    #[arg(long = "match", value_name = "SELECTOR")]
    pub matching: Vec<String>,
    /// First time, RFC 3339 or Unix seconds, inclusive
    #[arg(long, value_name = "TIME")]
    pub start: Option<String>,
    /// Last time, RFC 3339 or Unix seconds, inclusive
    #[arg(long, value_name = "TIME")]
    pub end: Option<String>,
    /// JSON lines or CSV
    #[arg(long, default_value = "jsonl", value_parser = ["jsonl", "csv"])]
    pub format: String,
    /// Where to; standard output if absent
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Flags for all commands.
    #[command(flatten)]
    pub common: Common,
}

/// `verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The Prometheus that has the same samples, e.g. http://127.0.0.1:9090
    #[arg(long, value_name = "URL")]
    pub prometheus: String,
    /// Only series that a Prometheus selector matches; may be repeated
    #[arg(long = "match", value_name = "SELECTOR")]
    pub matching: Vec<String>,
    /// The rows at this time, RFC 3339 or Unix seconds [default: the latest of each series and window]
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Of how many series the profile is computed again from the samples of Prometheus, a day of each; 0 for none
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub profiles: usize,
    /// A label that Prometheus adds when it writes (external_labels) and does not know itself; may be repeated
    #[arg(long = "without-label", value_name = "NAME")]
    pub without: Vec<String>,
    /// Flags for all commands.
    #[command(flatten)]
    pub common: Common,
}
