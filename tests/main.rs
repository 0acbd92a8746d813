//! The one test binary. Table of contents:
//!
//! - `architecture`: who may import whom, and other rules of the house that can be read off the source.
//! - `asks_prometheus`: a real Prometheus is asked for a day of samples; each arrives once. Needs servers.
//! - `audit`: the audit of a running server checks what comes in, and finds nothing.
//! - `away`: a sender or a server that was away for two hours: the same windows, and no half-empty one.
//! - `backfill`: backfills from a real Prometheus into a running server; what cannot be, and how it is told.
//!   Needs servers for the first: `./test.sh` starts it.
//! - `bad_inputs`: every line, file, configuration and command line that is wrong, with its exit code and its words.
//! - `bad_requests`: every request that is wrong, with its status and its words; nothing of it is applied, the server
//!   goes on.
//! - `browser`: the page in a real Chromium, held to what the API answers. Needs a browser: `./test.sh` installs it.
//! - `churn`: more names than may be alive at once: slots are freed and filled again, nothing grows with the names.
//! - `clock`: a clock that is far ahead or behind for a while costs no row, no sample and no restart. Needs the feature
//!   `faults`.
//! - `damaged_store`: a store that is damaged is found, set aside and filled again from the outbox.
//! - `demo`: a demo's rows are those of its generator's samples, live ones follow, also after kills in either phase;
//!   what it refuses.
//! - `docs`: every command in README.md and docs/ is run and prints what is shown; settings, flags, routes and metrics are those
//!   of the program. Needs curl, and a server for the last: `./test.sh` starts it.
//! - `explain`: a row's panes, revisions and late samples, told by a running server, and the same after a kill.
//! - `crashes`: kill -9 under remote write and replay, with snapshots, trimmed logs and other workers each time: nothing
//!   is lost, and the whole journal run again gives the same outbox.
//! - `bootstraps`: history applied before the live samples of its series: right, corrected, never half-empty.
//! - `first_steps`: what a newcomer meets first: flags, mistyped names, variables of others, the files of deploy/.
//! - `failed_syncs`: a log or a store whose sync fails: what becomes of it and of the process. Needs the feature `faults`.
//! - `files`: what a file comes to does not depend on the order of its lines.
//! - `fuzz_corpus`: the inputs that fuzzing kept hold the laws of every decoder.
//! - `golden`: moments computed elsewhere, in exact arithmetic, equal ours.
//! - `replay_backfill`: old samples beside the live engine: the rows of all samples together, or a range that is named.
//! - `kill_and_rerun`: kill -9, SIGTERM and start again: nothing acknowledged is lost, no row changes.
//! - `limits`: each limit reached has its status and its metric, and the server goes on.
//! - `memory`: what a burst leaves behind beside the state of its series is bounded.
//! - `metric_types`: what sources say of types decides what rows show; it is journalled once and survives a kill.
//! - `no_threads`: a server to which the system gives no thread: what needs one is refused, and it stops. Needs root.
//! - `now`: windows that are open equal a direct computation while samples come in; samples of the ring are shown.
//! - `oracle`: the slow model of the rules, and random feeds.
//! - `odd_servers`: servers like Prometheus with a quirk each: what they give is computed, what they refuse is told.
//! - `open_files`: a server that may open few files, and one whose descriptors are all taken.
//! - `panics`: a computation that panics or hangs ends no process that can go on; a series that panics again and
//!   again is kept out. Needs the feature `faults`.
//! - `profiles`: what kind of series each is, from samples to the API, after a kill, and for any number of workers.
//! - `promtool`: what passes through the tools of Prometheus and back gives the same rows. Needs promtool.
//! - `read_only`: a data directory that nothing can be written to is exported whole.
//! - `real_prometheus`: a real Prometheus writes to a running server; every window equals what its raw samples give.
//!   Needs servers: `./test.sh` starts it, a bare `cargo test` says so.
//! - `remote_write2`: the same samples by remote write 1.0 and 2.0 give the same rows; what 2.0 answers.
//! - `remote_write_conformance`: every row of the contract of remote write, and what is stored of it.
//! - `replayed`: the same samples as files in any order, format and number of commands give the same rows.
//! - `restarts`: restarts, changed settings, bootstraps, quarantine and late samples together, on random window sets.
//! - `restored`: shards begun again from what was saved of them go on with the same bytes.
//! - `rules`: every row and revision of the tactics equals the slow model; the same samples give the same bytes.
//! - `same_log`: the same journal gives the same bytes for any workers, batches and interleavings.
//! - `schemathesis`: thousands of requests made up from the description of the API; none is answered otherwise.
//!   Needs its program: `./test.sh` installs it.
//! - `select_options`: what `select` sets for series, from their first samples on, over kills and starts with other entries.
//! - `settings_change`: settings that change are carried over as the slow model does; windows that stay never notice.
//! - `sinks`: a second sink beside that of the store, killed, slow and refusing, gets the same rows; trimming waits for it.
//! - `simulated`: the logs and the engine on a disk that loses, tears and refuses; seeded bugs that must be found.
//! - `statsmodels`: profiles and what is computed on request, beside statsmodels over the same samples. Needs Python packages:
//!   `./test.sh` installs them.
//! - `status`: what `tidewatch status` says of a server, and of what is none.
//! - `stopping`: SIGTERM ends a server with status 0, whatever is in its way.
//! - `strangers`: whoever reaches the port, and pages of other sites, hold nothing up, read nothing and write nothing.
//! - `unread_bodies`: an answer that is given before its request's body was read reaches the sender.
//! - `verify`: `tidewatch verify` is clean beside a real Prometheus with the same samples, and finds what is wrong.
//!   Needs servers; `TEST_PROMETHEUS_3` may name a second Prometheus.
//! - `support`: the servers, the server and the clients that the other modules use.
#![allow(clippy::unwrap_used)]

mod architecture;
mod asks_prometheus;
mod audit;
mod away;
mod backfill;
mod bad_inputs;
mod bad_requests;
mod bootstraps;
mod browser;
mod churn;
#[cfg(feature = "faults")]
mod clock;
mod crashes;
mod damaged_store;
mod demo;
mod docs;
mod explain;
#[cfg(feature = "faults")]
mod failed_syncs;
mod failing_store;
mod files;
mod first_steps;
mod fuzz_corpus;
mod golden;
mod hostile;
mod kill_and_rerun;
mod limits;
mod memory;
mod metric_types;
mod no_threads;
mod now;
mod odd_servers;
mod open_files;
mod oracle;
#[cfg(feature = "faults")]
mod panics;
mod power_cuts;
mod profiles;
mod promtool;
mod read_only;
mod real_prometheus;
mod remote_write2;
mod remote_write_conformance;
mod replay_backfill;
mod replayed;
mod restarts;
mod restored;
mod rules;
mod same_log;
mod schemathesis;
mod select_options;
mod settings_change;
mod simulated;
mod sinks;
mod statsmodels;
mod status;
mod stopping;
mod strangers;
mod support;
mod unread_bodies;
mod verify;

/// The first seed of a randomised test, where `TEST_SEED` gives no other.
fn first_seed(usual: u64) -> u64 {
    std::env::var("TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// How many seeds a randomised test tries; `TEST_ROUNDS` multiplies.
fn rounds(n: u64) -> u64 {
    n * std::env::var("TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}
