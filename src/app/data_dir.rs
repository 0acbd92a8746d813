//! Names of files in the data directory.

/// Name of the store's file in the data directory.
pub const STORE_FILE: &str = "store.sqlite";

/// Name of the file that one process at a time holds.
pub const LOCK_FILE: &str = "lock";
