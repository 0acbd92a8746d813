//! The rooms of a server, opened in order and joined by channels.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;

use crate::backfill::{self, LiveServer};
use crate::config::Config;
use crate::disk::DiskFolder;
use crate::engine::{self, BlockedOn, Engine, EngineError, FreedSlots, Questions};
use crate::fatal::{Fatal, FatalHook, RESTART_ME};
use crate::journal::{self, EpochMode, Journal};
use crate::labels::Labels;
use crate::logs;
use crate::metrics::{BuildLabels, Metrics};
use crate::outbox::{self, DurablePosition};
use crate::sinks::list::{SinkList, SinkPositions};
use crate::sinks::runner::{OnSinkFailure, RetryPolicy, SinkFailure, SinkInput, SinkProgress};
use crate::sinks::sink::Sink;
use crate::sinks::store::{self as store_sink, StoreSink, StoreSinkDeps};
use crate::snapshots::Snapshots;
use crate::store::Store;
use crate::store::embedded::{self, Embedded};
use crate::upkeep::release::{self, Release, ReleaseProgress};
use crate::upkeep::trim::{self, Trim};

use super::data_dir::LOCK_FILE;
use super::time::now_ms;
use super::{process, store_check};
use crate::select;

/// Everything between samples and rows, running.
pub struct Stack {
    /// Metrics of this process.
    pub metrics: Arc<Metrics>,
    /// Labels and series ids.
    pub labels: Arc<Labels>,
    /// The log in.
    pub journal: Journal,
    /// How far the outbox is durable.
    pub outbox: Arc<DurablePosition>,
    /// What can be read back.
    pub store: Arc<Embedded>,
    /// Where the engine is.
    pub engine_progress: Arc<engine::EngineProgress>,
    /// Where all sinks are.
    pub sinks: SinkPositions,
    /// Where the store's sink is: what the API can answer from.
    pub stored: Arc<SinkProgress>,
    /// What the workers hold.
    pub questions: Questions,
    /// How far series are released whose slots were freed.
    pub released: Arc<ReleaseProgress>,
    /// The last epoch that the journal held at start; ready means that the store holds it.
    pub found_epoch: u64,
    /// Whether the outbox is trimmed, so that there comes room in it.
    trims: bool,
    running: Mutex<Option<StackThreads>>,
    _lock: File,
}

/// What a start goes on with although it would be refused otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct AcceptedRisks {
    /// Records that are damaged or lost (`--accept-loss`).
    pub loss: bool,
    /// Samples, and processing time, far ahead of the clock (`--allow-future`).
    pub future: bool,
    /// That processing time goes back to the clock (`--accept-clock`).
    pub clock: bool,
}

/// The threads, in the order in which they end.
struct StackThreads {
    trim: Option<Trim>,
    engine: Engine,
    sinks: SinkList,
    release: Release,
}

impl Stack {
    /// Opens the data directory and starts the engine and the sinks: that of the store, and `others`.
    ///
    /// # Errors
    /// Another process holds the directory, a log or the store cannot be opened, or they do not fit together.
    #[expect(
        clippy::too_many_lines,
        reason = "the rooms are opened here, in the order in which they depend on one another"
    )]
    pub fn open(
        config: &Config,
        mode: EpochMode,
        accepted: AcceptedRisks,
        on_fatal: &FatalHook,
        others: Vec<Box<dyn Sink>>,
    ) -> anyhow::Result<Stack> {
        let dir = &config.data_dir;
        let lock = lock(dir, config.umask)?;
        let metrics = Arc::new(Metrics::new());
        metrics.build_info.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        backfill::remove_folder(dir)?;
        let labels = logs::open_labels(config, &dir.join("series"), accepted.loss, Arc::clone(&metrics))
            .context("opening the series log")?;
        let options = embedded::EmbeddedOptions {
            retention_ms: config.store.retention_ms,
            // Twice those that are alive at once: as many come as go.
            series_seen: 2 * config.limits.series as usize,
            ..embedded::EmbeddedOptions::default()
        };
        let store = Arc::new(store_check::open(dir, options)?);
        // The journal is read from behind the snapshots only, and types stand in it once.
        let types = store.types().context("reading the store's types")?;
        labels.record_types(&types.into_iter().map(|(series, kind)| (series.0, kind)).collect::<Vec<_>>());
        labels.note_names();
        select::find(&labels, &config.settings().select)?;

        let every = Duration::from_millis(config.snapshots.every_ms.unsigned_abs());
        let snapshots = Snapshots::open(dir.join("snapshots"), every, Arc::clone(&metrics))
            .context("opening the snapshots")?;

        let outbox_dir = dir.join("outbox");
        let mut sinks: Vec<Box<dyn Sink>> = vec![store_sink(dir, &store, &labels, &metrics)?];
        sinks.extend(others);
        let written = written(&sinks)?;
        let proof = outbox::AcceptProof::new(snapshots.newest_epoch(), &written, accepted.loss);
        let outbox = logs::open_outbox(config, &outbox_dir, proof, Arc::clone(&metrics))
            .context("opening the outbox")?;

        let mut journal_config = logs::journal_config(config, mode, accepted.future);
        journal_config.accept_loss = accepted.loss;
        journal_config.accept_clock = accepted.clock;
        journal_config.new_series = Some(Arc::new(select::FromLabels(Arc::clone(&labels))));
        // Whoever reads a file or makes samples is told by what it waits for.
        journal_config.on_failed = (mode == EpochMode::Live).then(|| journal_failed(on_fatal));
        let derived = [("outbox", outbox.last_epoch()), ("newest snapshot", snapshots.newest_epoch())];
        let derived = derived.into_iter().chain(written);
        journal_config.derived = derived.filter_map(|(what, epoch)| Some((what, epoch?))).collect();
        let before_commit = {
            let labels = Arc::clone(&labels);
            Box::new(move || labels.sync())
        };
        let journal = Journal::open(
            dir.join("journal"),
            journal_config,
            config.settings(),
            before_commit,
            Arc::clone(&metrics),
        )
        .context("opening the journal")?;
        let found_epoch = journal.last_epoch_end().map_or(0, |end| end.epoch);

        let (durable, trimmer) = (outbox.durable(), outbox.trimmer());
        let input = SinkInput {
            outbox: outbox_dir.into(),
            durable: Arc::clone(&durable),
            accept_loss: accepted.loss,
            retry: RetryPolicy::default(),
        };
        let sinks = SinkList::start(sinks, &input, &metrics, &sink_failed(on_fatal))?;
        let positions = sinks.positions();
        let stored = positions.of(store_sink::NAME).context("the store has no sink")?;
        let (freed_to, freed_from) = release::queue();
        let engine = Engine::start(
            config.workers,
            &config.settings(),
            engine::EngineLogs { journal: journal.clone(), outbox, snapshots: Some(snapshots.clone()) },
            Arc::clone(&metrics),
            engine::Listeners {
                freed: hand_on(freed_to),
                types: types_hook(&labels),
                quarantined: quarantined(&labels),
            },
            fatal(on_fatal, EngineError::restart_helps),
        )?;
        let trim = if config.journal.trim {
            let parts = trim::TrimDeps {
                journal: journal.clone(),
                snapshots: snapshots.clone(),
                outbox: trimmer,
                sinks: positions.clone(),
                labels: Arc::clone(&labels),
                engine: engine.progress(),
                journal_bytes_max: config.journal.bytes_max,
                on_fatal: Arc::clone(on_fatal),
            };
            Some(Trim::start(parts).context("starting the thread that trims the logs")?)
        } else {
            None
        };
        let released = Arc::default();
        let release_parts = release::ReleaseDeps {
            labels: Arc::clone(&labels),
            sinks: positions.clone(),
            engine: engine.progress(),
            questions: engine.questions(),
            found_epoch,
        };
        let release = Release::start(freed_from, release_parts, &released)?;
        Ok(Stack {
            metrics,
            labels,
            journal,
            outbox: durable,
            store,
            engine_progress: engine.progress(),
            sinks: positions,
            stored,
            questions: engine.questions(),
            released,
            found_epoch,
            trims: config.journal.trim,
            running: Mutex::new(Some(StackThreads { trim, engine, sinks, release })),
            _lock: lock,
        })
    }

    /// Drains everything that was taken into the sinks and stops. Who still holds the stack then is refused.
    ///
    /// # Errors
    /// The journal failed; what was answered before that is durable all the same.
    pub fn close(&self) -> anyhow::Result<()> {
        let closed = self.journal.close();
        let running = self.running.lock().take();
        if let Some(StackThreads { trim, engine, sinks, release }) = running {
            drop(trim);
            engine.join();
            sinks.join();
            release.join();
        }
        closed.context("closing the journal")
    }

    /// What a backfill needs of this stack.
    pub fn live(self: &Arc<Self>) -> LiveServer {
        let (stuck, ready) = (Arc::clone(self), Arc::clone(self));
        LiveServer {
            metrics: Arc::clone(&self.metrics),
            journal: self.journal.clone(),
            store: Arc::clone(&self.store) as Arc<dyn Store>,
            stored: Arc::clone(&self.stored),
            questions: self.questions.clone(),
            stuck: Arc::new(move || stuck.stuck().map(|why| why.to_string())),
            ready: Arc::new(move || ready.ready()),
            clock: now_ms,
        }
    }

    /// Whether everything found at start is computed and stored again, and what ended in it released: until then more
    /// series may count than there are. A sink beside the store that lags keeps labels, and is not waited for.
    pub fn caught_up(&self) -> bool {
        let found = self.found_epoch;
        self.engine_progress.epoch.load(Ordering::Relaxed) >= found
            && self.stored.epoch() >= found
            && (self.released.settled() || self.sinks.least() < found)
    }

    /// Why nothing is taken, if the engine waits for its outbox: with the sink that holds it up, if one does.
    pub fn blocked_on(&self) -> Option<String> {
        let why = self.engine_progress.blocked_on()?;
        let behind = self.sinks.furthest_behind().filter(|(_, behind)| *behind > 0);
        Some(match (&why, behind) {
            (BlockedOn::Full, Some((sink, behind))) => format!(
                "{why}; the sink {} holds it up: it has epoch {}, {behind} behind the outbox ({:.1} s)",
                sink.name,
                sink.epoch(),
                behind as f64 / 1e3
            ),
            _ => why.to_string(),
        })
    }

    /// Why the engine waits for its outbox, if nobody makes room there: waiting with it would be for ever.
    pub fn stuck(&self) -> Option<BlockedOn> {
        self.engine_progress.blocked_on().filter(|why| !self.trims || *why != BlockedOn::Full)
    }

    /// Whether the store holds every epoch found at start, and the workers can be asked.
    ///
    /// # Errors
    /// A sentence that says how far it is, or why intake is refused.
    pub fn ready(&self) -> Result<(), String> {
        if let Some(why) = self.journal.failed() {
            return Err(format!("the journal failed: {why}"));
        }
        if let Some(why) = self.journal.stalled() {
            return Err(format!("the journal is stalled: {why}"));
        }
        if let Some(why) = self.blocked_on() {
            return Err(format!("{why}; the computation waits"));
        }
        if let Some(engine::EngineRestart { after, upto }) = self.engine_progress.restarted() {
            let at = self.engine_progress.computed();
            return Err(format!("the engine was restarted after: {after}; at epoch {at} of {upto}"));
        }
        let stored = self.stored.epoch();
        if self.engine_progress.rebuilding() {
            let computed = self.engine_progress.computed();
            return Err(format!(
                "catching up: epoch {computed} of {} is computed, the store holds {stored}",
                self.found_epoch
            ));
        }
        if stored < self.found_epoch {
            return Err(format!("catching up: the store holds epoch {stored} of {}", self.found_epoch));
        }
        if !self.questions.begun() {
            return Err("the workers are being started".to_owned());
        }
        Ok(())
    }
}

/// Ends the process when nothing can be taken before another start.
fn journal_failed(on_fatal: &FatalHook) -> journal::FailureHook {
    let on_fatal = Arc::clone(on_fatal);
    Arc::new(move |why| {
        on_fatal(Fatal { message: format!("the journal has failed: {why}"), code: RESTART_ME });
    })
}

/// Ends the process with an error, and with [`RESTART_ME`] where another start may do better.
fn fatal<E: std::fmt::Display + 'static>(
    on_fatal: &FatalHook,
    restart_helps: fn(&E) -> bool,
) -> Arc<dyn Fn(E) + Send + Sync> {
    let on_fatal = Arc::clone(on_fatal);
    Arc::new(move |error| {
        let code = if restart_helps(&error) { RESTART_ME } else { 1 };
        on_fatal(Fatal { message: error.to_string(), code });
    })
}

/// The sink of the store; one that is found damaged is begun anew by the next start.
fn store_sink(
    dir: &Path,
    store: &Arc<Embedded>,
    labels: &Arc<Labels>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Box<dyn Sink>> {
    let dir = dir.to_owned();
    let deps = StoreSinkDeps {
        store: Arc::clone(store) as Arc<dyn Store>,
        labels: Arc::clone(labels),
        metrics: Arc::clone(metrics),
        clock: now_ms,
        uptime: store_sink::uptime,
        on_corrupt: Box::new(move |why| store_check::mark(&dir, why)),
    };
    Ok(Box::new(StoreSink::new(deps).context("reading the store")?))
}

/// The newest epoch of each sink, with its name.
fn written(sinks: &[Box<dyn Sink>]) -> anyhow::Result<Vec<(&'static str, Option<u64>)>> {
    let mut all = Vec::with_capacity(sinks.len());
    for sink in sinks {
        let name = sink.name();
        match sink.written() {
            Ok(epoch) => all.push((name, epoch)),
            // It is asked again by its runner, and nothing is trimmed before it has answered.
            Err(error) if error.is_transient() && !sink.essential() => {
                tracing::warn!("the sink {name} does not say yet where it is: {error}");
                all.push((name, None));
            }
            Err(error) => return Err(error).with_context(|| format!("reading the epoch of the sink {name}")),
        }
    }
    Ok(all)
}

/// Ends the process when a sink has ended without which it is of no use.
fn sink_failed(on_fatal: &FatalHook) -> OnSinkFailure {
    fatal(on_fatal, SinkFailure::restart_helps)
}

/// Another process has the data directory.
#[derive(Debug, thiserror::Error)]
#[error("the data directory {} is in use by another tidewatch process", .0.display())]
pub struct InUse(pub PathBuf);

/// Takes the data directory for this process alone, as long as the file is held. What is made from now on lacks the
/// permissions of `umask`.
///
/// # Errors
/// [`InUse`], or a directory that cannot be made.
pub fn lock(dir: &Path, umask: u32) -> anyhow::Result<File> {
    process::restrict_files(umask);
    DiskFolder::from(dir).make().with_context(|| format!("making the data directory {}", dir.display()))?;
    let mode = std::fs::metadata(dir).map_or(0, |meta| meta.permissions().mode() & 0o777);
    if mode & umask != 0 {
        tracing::warn!(
            "others may enter the data directory {} (its mode is {mode:o}): new files are not theirs to read, older ones may be; chmod {:o} ends that",
            dir.display(),
            mode & !umask
        );
    }
    let path = dir.join(LOCK_FILE);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(InUse(dir.to_owned()).into()),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("locking {}", path.display()))
        }
    }
}

fn hand_on(to: SyncSender<FreedSlots>) -> Box<dyn FnMut(FreedSlots) + Send> {
    // The receiver ends only after the engine; nothing is lost by then.
    Box::new(move |freed| drop(to.send(freed)))
}

/// Tells the labels room which types of series are in the journal: after a start none of them is written again.
fn types_hook(labels: &Arc<Labels>) -> engine::OnTypes {
    let labels = Arc::clone(labels);
    Box::new(move |types| labels.record_types(types))
}

/// Says in the log which series is quarantined.
fn quarantined(labels: &Arc<Labels>) -> engine::OnQuarantine {
    let labels = Arc::clone(labels);
    Box::new(move |series, panic| {
        let name = labels.get(series).map_or_else(String::new, |labels| format!(" {labels}"));
        tracing::error!(
            "series {series}{name} is quarantined: {panic}, twice in the same epoch; its samples are refused until run --lift-quarantine {series}"
        );
    })
}
