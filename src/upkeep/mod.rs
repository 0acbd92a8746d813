//! What a server does beside its work: logs are trimmed (`trim`), labels are released (`release`), a computation that stands
//! still is found (`watchdog`), and numbers are computed again (`audit`).
//!
//! Each is a thread or two that `app` starts and stops. Not here: retention, which is the store's sink's.

pub mod audit;
pub mod release;
pub mod trim;
pub mod watchdog;
