//! The Tidewatch server: how the pure dataflows meet the world.
//!
//! The life of a sample:
//!
//! ```text
//!  POST /api/v1/write   source/receive → source/remote_write → source/validate     labels: names it
//!  replay FILE          source/replay  → source/exposition | csv ┘                    │
//!                                   │ Samples                                         │ series log, synced first
//!                                   ▼                                                 ▼
//!                              journal: group commit, one fdatasync for many; now it is acknowledged
//!                                   │ what is durable, epoch by epoch
//!                                   ▼
//!                              engine: timely workers run the pure dataflows (admit → window)
//!                                   │ outcomes of an epoch, merged and sorted
//!                                   ▼
//!                              outbox: durable before any sink takes them
//!                                   │ at the sink's own pace
//!                                   ▼
//!                              sinks/store → store: one transaction with the epoch's number
//!                                   │
//!                                   ▼
//!                              api: /api/v1/windows and the rest; export
//! ```
pub mod app;
pub mod cli;
pub mod config;

pub mod source;

/// Servers that are asked for samples.
pub mod pull;

pub mod labels;

pub mod journal;

pub mod engine;

pub mod outbox;

pub mod sinks;

pub mod upkeep;

pub mod backfill;
pub mod reading;
pub mod select;

pub mod logs;

pub mod store;

pub mod api;

pub mod problem;
/// How PromQL is printed.
pub mod promql;
/// Threads that are made at start and stay.
pub mod threads;

pub mod generate;

pub mod verify;

pub mod metrics;

/// How a server is, in figures.
pub mod status;

pub mod faults;

pub mod fatal;

pub mod segments;
pub mod snapshots;

pub mod disk;
