//! The servers that `run` asks for samples: a thread each, what it is doing, and where it goes on after a restart.
//!
//! Not here: what one of them does (`runner`), asking and reading (`source/query`).

mod port;
mod runner;
mod status;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use tidewatch_dataflows::sample::{Bootstrap, Control};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::{Config, PrometheusSource, SelectConfig};
use crate::journal::Journal;
use crate::labels::{Labels, NAME};
use crate::metrics::{Metrics, SourceLabels};
use crate::source::query::SOURCE;
use crate::source::query::choose::{Chooser, Classify};
use crate::source::query::client::{PrometheusClient, QueryError};
use crate::source::query::read::{QueryPort, Reading};
use crate::source::query::take::Taker;
use crate::status::SourceReport;
use crate::store::selector::{SelectorError, Selectors};

use self::port::REFUSED;
pub use self::port::{SourceJournal, StopSignal, write_progress};
use self::runner::{Runner, SourceStart, answer};
pub use self::status::{SourceState, SourceStatus};

/// Folder of the data directory in which each source keeps how far it has read.
pub const FOLDER: &str = "sources";

/// The sources of a running Tidewatch.
pub struct RunningSources {
    stop: Arc<StopSignal>,
    clients: Vec<Arc<PrometheusClient>>,
    threads: Vec<JoinHandle<()>>,
}

/// A source that a command brings beside those that are configured.
pub struct Guest {
    /// What it is doing.
    pub status: Arc<SourceStatus>,
    /// What its thread does until it is told to stop.
    pub run: GuestRun,
}

/// What the thread of a guest does, given where Tidewatch listens.
pub type GuestRun = Box<dyn FnOnce(&SourceDeps, &StopSignal, SocketAddr) + Send>;

/// A source cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// A text that is no selector.
    #[error("{path}")]
    Selector { path: String, source: SelectorError },
    /// What `http_config` names cannot be used.
    #[error("{path}")]
    Server { path: String, source: QueryError },
    /// No thread is to be had.
    #[error("starting the thread of a source")]
    Thread(#[source] std::io::Error),
}

impl PullError {
    fn selector(path: impl FnOnce() -> String) -> impl FnOnce(SelectorError) -> PullError {
        move |source| PullError::Selector { path: path(), source }
    }
}

/// What sources need of the rest of Tidewatch.
#[derive(Clone)]
pub struct SourceDeps {
    /// Where samples go.
    pub log: Arc<dyn SourceJournal>,
    /// What is found there at start.
    pub journal: Journal,
    /// Labels and series ids.
    pub labels: Arc<Labels>,
    /// Metrics of this process.
    pub metrics: Arc<Metrics>,
    /// Unix milliseconds.
    pub clock: fn() -> i64,
}

/// Judges what only the store's parser can: selectors.
///
/// # Errors
/// The first that is none, with its path.
pub fn judge(config: &Config) -> Result<(), PullError> {
    for (at, source) in config.sources.prometheus.iter().enumerate() {
        for (n, text) in source.matching.iter().enumerate() {
            let parsed = Selectors::parse(&[text]);
            parsed.map_err(PullError::selector(|| format!("sources.prometheus[{at}].match[{n}]")))?;
        }
    }
    for (at, entry) in config.select.iter().enumerate() {
        let parsed = Selectors::parse(&[&entry.matching]);
        parsed.map_err(PullError::selector(|| format!("select[{at}].match")))?;
    }
    Ok(())
}

/// A client for each server, connected to nothing: judges the files and headers that `http_config` names.
///
/// # Errors
/// The first source with one that cannot be used, with its path.
pub fn clients(config: &Config, metrics: &Arc<Metrics>) -> Result<Vec<Arc<PrometheusClient>>, PullError> {
    let client = |(at, source): (usize, &PrometheusSource)| {
        let client = PrometheusClient::new(&source.url, &source.http, Arc::clone(metrics));
        let path = || format!("sources.prometheus[{at}]");
        client.map(Arc::new).map_err(|error| PullError::Server { path: path(), source: error })
    };
    config.sources.prometheus.iter().enumerate().map(client).collect()
}

/// What each source is doing, before any does anything.
pub fn statuses(config: &Config) -> Vec<Arc<SourceStatus>> {
    let new = |source: &PrometheusSource| {
        Arc::new(SourceStatus::new(source.url.to_string(), source.matching.clone()))
    };
    config.sources.prometheus.iter().map(new).collect()
}

/// For `/status`.
pub fn report(statuses: &[Arc<SourceStatus>], now_ms: i64) -> Vec<SourceReport> {
    statuses.iter().map(|status| status.report(now_ms)).collect()
}

/// Sets the metric of how far sources are behind: of each kind that of the one furthest behind.
pub fn publish(statuses: &[Arc<SourceStatus>], now_ms: i64, metrics: &Metrics) {
    let mut furthest: BTreeMap<&'static str, i64> = BTreeMap::new();
    for status in statuses {
        if let Some(behind_ms) = status.behind_ms(now_ms) {
            let most = furthest.entry(status.source()).or_default();
            *most = behind_ms.max(*most);
        }
    }
    for (source, behind_ms) in furthest {
        metrics.source_lag_seconds.get_or_create(&SourceLabels { source }).set(behind_ms as f64 / 1e3);
    }
}

impl RunningSources {
    /// Judges every source and starts its thread.
    ///
    /// # Errors
    /// A file or name in `http_config` that cannot be used, or a thread that cannot be started.
    pub fn start(
        config: &Config,
        statuses: &[Arc<SourceStatus>],
        parts: &SourceDeps,
    ) -> Result<RunningSources, PullError> {
        let clients = clients(config, &parts.metrics)?;
        let mut sources = RunningSources { stop: Arc::default(), clients, threads: Vec::new() };
        sources.end_bootstraps_of_others(config, parts)?;
        // Above those before, also when the clock was set back: epochs never go back.
        let open =
            parts.journal.open_bootstraps().iter().map(|bootstrap| bootstrap.id + 1).max().unwrap_or(1);
        let first_id = parts.log.epoch().max(open);
        for (at, source) in config.sources.prometheus.iter().enumerate() {
            let client = Arc::clone(&sources.clients[at]);
            let identity = identity(source);
            let progress =
                config.data_dir.join(FOLDER).join(format!("{:016x}", xxh3_64(identity.as_bytes())));
            let start = start_of(&identity, first_id + at as u64, &progress, config, parts);
            let chooser = Chooser::new(config.select.clone(), classify(&config.select)?);
            let taker = Taker::new(Arc::clone(&parts.labels), Arc::clone(&parts.metrics), chooser);
            let (log, metrics, clock) = (Arc::clone(&parts.log), Arc::clone(&parts.metrics), parts.clock);
            let (stop, status) = (Arc::clone(&sources.stop), Arc::clone(&statuses[at]));
            let readings = source.matching.iter().map(|selector| Reading::new(selector)).collect();
            let config = source.clone();
            let run = move || {
                announce(&client);
                let ask: &dyn QueryPort = client.as_ref();
                let clock = &clock;
                let runner = Runner {
                    config: &config,
                    ask,
                    log: &*log,
                    stop: &stop,
                    status: &status,
                    metrics: &metrics,
                    clock,
                    progress,
                };
                runner.run(start, taker, readings);
            };
            sources.spawn(format!("prometheus-{at}"), run)?;
        }
        Ok(sources)
    }

    /// Starts the thread of a guest.
    ///
    /// # Errors
    /// A thread that cannot be started.
    pub fn host(&mut self, guest: Guest, parts: &SourceDeps, listening: SocketAddr) -> Result<(), PullError> {
        let (parts, stop) = (parts.clone(), Arc::clone(&self.stop));
        self.spawn(guest.status.source().to_owned(), move || (guest.run)(&parts, &stop, listening))
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> Result<(), PullError> {
        let thread = std::thread::Builder::new().name(name).spawn(run);
        self.threads.push(thread.map_err(PullError::Thread)?);
        Ok(())
    }

    /// Ends the bootstraps that were left open by sources that are no longer configured: nobody will resume them.
    fn end_bootstraps_of_others(&mut self, config: &Config, parts: &SourceDeps) -> Result<(), PullError> {
        let ours: Vec<String> = config.sources.prometheus.iter().map(identity).collect();
        let open = parts.journal.open_bootstraps().iter();
        let orphans: Vec<_> = open.filter(|bootstrap| !ours.contains(&bootstrap.source)).cloned().collect();
        if orphans.is_empty() {
            return Ok(());
        }
        let (log, stop) = (Arc::clone(&parts.log), Arc::clone(&self.stop));
        self.spawn("bootstraps".to_owned(), move || end_bootstraps(&*log, &stop, &orphans))
    }

    /// Interrupts what is being asked and waits until every thread has ended.
    pub fn stop(self) {
        self.stop.signal();
        for client in &self.clients {
            client.shut_down();
        }
        for thread in self.threads {
            // A panic there was printed by the hook.
            let _ = thread.join();
        }
    }
}

/// Ends bootstraps, durably, until told to stop.
fn end_bootstraps(log: &dyn SourceJournal, stop: &StopSignal, orphans: &[Bootstrap]) {
    for Bootstrap { id, source, .. } in orphans {
        let end = || {
            let durable = log
                .control(Control::BootstrapEnd { bootstrap: *id })
                .map_err(|refused| refused.to_string())?;
            answer(durable.blocking_recv().ok())
        };
        while let Err(why) = end() {
            tracing::warn!("the bootstrap from {source} cannot be ended: {why}");
            if log.ended() || !stop.pause(REFUSED) {
                return;
            }
        }
        tracing::info!("the bootstrap from {source} was not finished and is no longer configured: ended");
    }
}

/// Says which server it is, once it answers.
fn announce(client: &PrometheusClient) {
    match client.version() {
        Ok(version) => tracing::info!("{}: Prometheus {version}", client.url()),
        // What is asked next says so in its own words, and again and again.
        Err(error) => tracing::debug!("{error}"),
    }
}

/// Names a source in the journal: server and a hash of tenant and selectors, no secrets.
fn identity(source: &PrometheusSource) -> String {
    let (url, matching, headers) = source.identity();
    let mut text = String::new();
    for part in matching.into_iter().chain(headers.into_iter().flat_map(|(name, value)| [name, value])) {
        text.push_str(part);
        text.push('\0');
    }
    format!("{SOURCE} {url} {:016x}", xxh3_64(text.as_bytes()))
}

/// Where a source begins.
fn start_of(
    identity: &str,
    bootstrap_id: u64,
    progress: &Path,
    config: &Config,
    parts: &SourceDeps,
) -> SourceStart {
    let open = parts.journal.open_bootstraps().iter().rev().find(|bootstrap| bootstrap.source == identity);
    let processing_ms = parts
        .journal
        .last_epoch_end()
        .map(|end| end.processing_ms)
        .filter(|processing_ms| *processing_ms > 0);
    let longest_ms = config.windows.iter().map(|window| window.length_ms).max().unwrap_or(0);
    SourceStart {
        identity: identity.to_owned(),
        bootstrap_id,
        open: open.cloned(),
        bootstrapped: parts.journal.bootstrapped(identity),
        read_to_ms: read_progress(progress).or(processing_ms),
        reach_ms: longest_ms,
    }
}

/// How far a source had read, as it wrote down itself.
pub fn read_progress(path: &Path) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Tells which entry of `select` means a series.
fn classify(select: &[SelectConfig]) -> Result<Classify, PullError> {
    let parsed: Result<Vec<Selectors>, _> =
        select.iter().map(|entry| Selectors::parse(&[&entry.matching])).collect();
    let parsed = parsed.map_err(PullError::selector(|| "select".to_owned()))?;
    Ok(Box::new(move |labels| {
        let get = |wanted: &str| {
            let found = labels.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| *value)
        };
        let name = get(NAME).unwrap_or("");
        // Without a budget nothing fails.
        parsed.iter().position(|selector| selector.matches(name, get).unwrap_or(false))
    }))
}

#[cfg(test)]
mod tests;
