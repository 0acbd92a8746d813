//! Where a generation begins: from which state its shards, and from which record its feeder.
//!
//! Now every generation begins with empty shards and reads the journal from its first record; the outbox drops what it
//! holds already. What would begin elsewhere (a saved state, a trimmed journal) says so here, anew for each
//! generation.

use crate::journal::{Journal, JournalError, Reader};

/// What one generation begins with.
pub(super) struct Start {
    /// Hands on the records that the state does not know yet; the shards are empty, so all of them.
    pub(super) reader: Reader,
    /// The newest epoch that the journal held at the beginning: once it is computed the state is there again.
    pub(super) upto: u64,
}

impl Start {
    /// The beginning of a generation as of now.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub(super) fn now(journal: &Journal) -> Result<Start, JournalError> {
        let upto = journal.last_epoch_end().map_or(0, |end| end.epoch);
        Ok(Start { reader: journal.reader()?, upto })
    }
}
