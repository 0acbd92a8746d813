//! Every operation of the HTTP API, in the order in which readers meet them.
//!
//! What is not here is neither taken nor answered. Each is declared in the file of its handler. The web page is not among them: it
//! is no interface for programs.

use super::operation::Operation;
use super::{
    analysis, backfill, catalog, corrections, events, explain, health, names, openapi, problems, profiles,
    rejects, samples, status, windows, write,
};

/// The methods that a path takes, as the header `Allow` lists them.
pub fn allowed(path: &str) -> String {
    let verbs: Vec<_> = ALL.iter().filter(|one| one.path == path).map(|one| one.verb.allowed()).collect();
    verbs.join(", ")
}

/// Every operation, as readers meet them.
pub const ALL: [&Operation; 26] = [
    &names::NAMES,
    &catalog::CATALOG,
    &windows::WINDOWS,
    &windows::WINDOWS_OF_SERIES,
    &corrections::CORRECTIONS,
    &explain::EXPLAIN,
    &samples::SAMPLES,
    &profiles::PROFILES,
    &profiles::PROFILE_OF_SERIES,
    &analysis::acf::ACF,
    &analysis::adf::ADF,
    &analysis::decomposition::DECOMPOSITION,
    &analysis::phases::PHASES,
    &events::EVENTS,
    &rejects::REJECTS,
    &write::WRITE,
    &backfill::BEGIN_BACKFILL,
    &backfill::BACKFILL_SHOWN,
    &backfill::END_BACKFILL,
    &status::STATUS,
    &health::HEALTHY,
    &health::READY,
    &health::METRICS,
    &problems::PROBLEMS,
    &problems::PROBLEM,
    &openapi::OPENAPI,
];
