//! The composition root: reads the configuration, builds every room, joins them by channels, and runs a command.
//!
//! Order of a start: read → judge → lock the data directory → open the logs and the store → start the engine
//! and the sinks → only then bind a port. Order of an end: stop intake → close the journal → the engine drains
//! into the outbox → the sinks drain the outbox → release the lock.

mod backfill;
mod clock;
mod clock_reset;
mod commands;
mod connections;
mod data_dir;
mod demo;
pub mod log;
mod memory;
mod process;
mod progress;
mod rate;
mod raw;
mod replay;
mod rows_per_day;
mod run;
mod server;
mod stack;
mod status;
mod store_check;
mod time;

use std::process::ExitCode;

use anyhow::Context;

use crate::cli::{Cli, Command, Common};
use crate::config::{Config, ConfigFlags};
use crate::pull;
use crate::sinks::sink::Sink;

use self::memory::SeriesRoom;
use self::stack::AcceptedRisks;

/// Runs one command to its end.
///
/// # Errors
/// Whatever ended it, with what was attempted.
pub fn main(cli: Cli) -> anyhow::Result<ExitCode> {
    process::refuse_huge_pages();
    let level = if matches!(cli.command, Command::Run { .. } | Command::Demo(_)) { "info" } else { "warn" };
    log::start(level);
    #[cfg(feature = "faults")]
    crate::faults::arm();
    process::raise_open_files();
    match cli.command {
        Command::Run { common, accept_loss, accept_clock, lift_quarantine } => {
            let accepted =
                AcceptedRisks { loss: accept_loss, clock: accept_clock, ..AcceptedRisks::default() };
            run::run(load(&common)?, accepted, &lift_quarantine, None, Vec::new())
        }
        Command::Replay(args) => replay::replay(load(&args.common)?, &args),
        Command::Demo(args) => demo::demo(load(&args.common)?, &args),
        Command::Status(args) => status::status(&load(&args.common)?, &args),
        Command::Generate(args) => commands::generate(&args),
        Command::Export(args) => commands::export(&load(&args.common)?, &args),
        Command::Verify(args) => commands::verify(&load(&args.common)?, &args),
        Command::Check { common } => commands::check(&load(&common)?, common.json),
        Command::Version { common } => commands::version(common.json),
    }
}

/// Runs the server with these sinks beside that of the store, until it is told to stop.
///
/// # Errors
/// Whatever ended it, with what was attempted.
pub fn serve(config: Config, sinks: Vec<Box<dyn Sink>>) -> anyhow::Result<ExitCode> {
    log::start("info");
    run::run(config, AcceptedRisks::default(), &[], None, sinks)
}

/// The configuration from file, environment and flags, every setting judged.
fn load(common: &Common) -> anyhow::Result<Config> {
    let flags = ConfigFlags {
        data_dir: common.data_dir.clone(),
        listen: common.listen.clone(),
        workers: common.workers.clone(),
    };
    // Of `faults`, and no setting.
    let env = std::env::vars_os().filter(|(name, _)| {
        !cfg!(feature = "faults") || (name != "TIDEWATCH_FAULT" && name != "TIDEWATCH_CLOCK")
    });
    let (config, ignored) = Config::load(common.config.as_deref(), env, flags)
        .map_err(anyhow::Error::from)
        .and_then(|(config, ignored)| {
            pull::judge(&config)?;
            Ok((config, ignored))
        })
        .context("the configuration cannot be used")?;
    ignored.iter().for_each(|sentence| tracing::warn!("{sentence}"));
    let mut config = config;
    SeriesRoom::here(&config.settings()).apply(&mut config);
    Ok(config)
}
