//! What ends the process: who finds that nothing can go on says so here, and `app` ends it.

use std::sync::Arc;

/// What ends the process.
#[derive(Clone, Debug)]
pub struct Fatal {
    /// The sentence.
    pub message: String,
    /// The exit code.
    pub code: u8,
}

/// Exit code that asks whoever started the process to start it again: what is durable is as it should be.
pub const RESTART_ME: u8 = 75;

/// Called with what ends the process.
pub type FatalHook = Arc<dyn Fn(Fatal) + Send + Sync>;
