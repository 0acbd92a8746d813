//! Where a generation begins: each shard from its newest good snapshot, the feeder from what follows the oldest of them.
//!
//! The outbox holds the epochs of every snapshot. So what comes again between the oldest snapshot and the newest,
//! incomplete because shards ignore what they know, is dropped there.

use std::sync::Arc;

use tidewatch_dataflows::pipeline::ShardState;
use tidewatch_dataflows::settings::Settings;
use tidewatch_dataflows::snapshot::CHAINS;

use super::error::EngineError;
use super::thread::ShardEpochs;
use crate::journal::{Journal, JournalError, JournalReader};
use crate::snapshots::Snapshots;

/// What the feeder of one generation begins with.
pub(super) struct FeederStart {
    /// Hands on the records that not every shard knows.
    pub(super) reader: JournalReader,
    /// The newest epoch that every shard knows; none if one of them begins empty.
    pub(super) after: Option<u64>,
    /// Asks for snapshots, and takes them.
    pub(super) snapshots: Option<Snapshots>,
}

impl FeederStart {
    /// After the epochs that the shards begin with; from the first record if one of them begins empty.
    ///
    /// # Errors
    /// The journal cannot be read, or lacks what is needed.
    pub(super) fn after(
        journal: &Journal,
        begun: &ShardEpochs,
        snapshots: Option<Snapshots>,
    ) -> Result<FeederStart, JournalError> {
        let after = begun.iter().copied().min().flatten();
        Ok(FeederStart { reader: journal.reader_after(after)?, after, snapshots })
    }
}

/// A shard as its newest snapshot has it that is any good, or empty; `outbox` is the newest epoch held there.
pub(super) fn shard(
    shard: usize,
    settings: &Arc<Settings>,
    snapshots: Option<&Snapshots>,
    outbox: Option<u64>,
) -> Result<ShardState, EngineError> {
    let Some(snapshots) = snapshots else { return Ok(ShardState::new(settings)) };
    while let Some(loaded) = snapshots.load(shard)? {
        // Its end was damaged and cut off: what the snapshot knows would be missing there for ever.
        if outbox.is_none_or(|last| last < loaded.epoch()) {
            snapshots.refuse(shard, &loaded, "the outbox does not hold its epoch any more");
            continue;
        }
        match ShardState::load(shard, &loaded.stored()) {
            Ok(begun) => {
                snapshots.begin(shard, std::array::from_fn(|chain| begun.saved_epoch(chain)));
                return Ok(begun);
            }
            Err(why) => snapshots.refuse(shard, &loaded, why.0),
        }
    }
    snapshots.begin(shard, [None; CHAINS]);
    Ok(ShardState::new(settings))
}
