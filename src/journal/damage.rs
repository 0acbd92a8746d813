//! Records in order, and what is done about those that cannot be read.
//!
//! Damage ends the process with an error that says where it is and what is lost, unless that was accepted
//! (`--accept-loss`): then it is gone round, logged and counted. The damaged bytes stay where they are.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::JournalError;
use super::record::{KIND_EPOCH_END, decode, epoch_of};
use crate::metrics::Counter;
use crate::segments::{
    KIND_SYNCED, Position, SegmentPlace, SegmentReader, SegmentsError, TailProof, decode_synced,
};
use parking_lot::Mutex;

/// Most damaged places remembered, so that one that is read again is not counted again.
const PLACES_MAX: usize = 4_096;

/// Whether a record can be one of the journal: its bytes decode.
pub(super) fn plausible(kind: u8, payload: &[u8]) -> bool {
    if kind == KIND_SYNCED { decode_synced(kind, payload).is_some() } else { decode(kind, payload).is_ok() }
}

/// What is lost, and whether that was accepted.
#[derive(Clone, Debug)]
pub(super) struct Losses {
    accepted: bool,
    bytes: Counter,
    /// Places that were counted.
    reported: Arc<Mutex<BTreeSet<Position>>>,
}

impl Losses {
    pub(super) fn new(accepted: bool, bytes: Counter) -> Losses {
        Losses { accepted, bytes, reported: Arc::default() }
    }

    /// How the segments tell damage from a torn tail.
    pub(super) fn proof(&self) -> TailProof {
        TailProof { plausible, accept_loss: self.accepted }
    }

    fn report(&self, place: Position, bytes: u64, damage: &JournalError) {
        let mut reported = self.reported.lock();
        if reported.len() < PLACES_MAX && reported.insert(place) {
            self.bytes.inc_by(bytes);
            tracing::error!("going on without what was lost, as accepted: {damage}");
        }
    }
}

/// Reads records and knows the epochs around.
pub(super) struct DamageReader {
    reader: SegmentReader,
    losses: Losses,
    /// The newest epoch end read.
    epoch: Option<u64>,
}

impl DamageReader {
    pub(super) fn new(reader: SegmentReader, losses: Losses) -> DamageReader {
        DamageReader { reader, losses, epoch: None }
    }

    /// Reads the next record before `end`; `false` when there is none.
    pub(super) fn advance(&mut self, end: Position) -> Result<bool, JournalError> {
        loop {
            match self.reader.advance(end) {
                Ok(true) => {
                    let (kind, payload) = self.reader.record();
                    self.epoch = epoch_of(kind, payload).or(self.epoch);
                    return Ok(true);
                }
                Ok(false) => return Ok(false),
                Err(error @ (SegmentsError::Damaged { .. } | SegmentsError::Missing { .. })) => {
                    let damage = describe(&self.reader, end, self.epoch, error)?;
                    if !self.losses.accepted {
                        return Err(damage);
                    }
                    let skipped = self.reader.resync(end, plausible)?;
                    self.losses.report(skipped.from, skipped.bytes, &damage);
                }
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Goes round damage without a word: what is there is not needed.
    pub(super) fn pass(&mut self, end: Position) -> Result<(), JournalError> {
        self.reader.resync(end, plausible)?;
        Ok(())
    }

    /// The record that was read last.
    pub(super) fn record(&self) -> (u8, &[u8]) {
        self.reader.record()
    }

    pub(super) fn position(&self) -> Position {
        self.reader.position()
    }

    /// Where to come back to.
    pub(super) fn place(&self) -> SegmentPlace {
        self.reader.place()
    }

    /// Goes back to a place it has been at, whose last epoch end was `epoch`.
    pub(super) fn go_back(&mut self, place: SegmentPlace, epoch: Option<u64>) -> Result<(), JournalError> {
        self.reader.go_to(place)?;
        self.epoch = epoch;
        Ok(())
    }
}

/// What is lost at the place where `reader` fails: how many bytes, between which epochs.
fn describe(
    reader: &SegmentReader,
    end: Position,
    before: Option<u64>,
    source: SegmentsError,
) -> Result<JournalError, JournalError> {
    let mut ahead = reader.another()?;
    let mut bytes = ahead.resync(end, plausible)?.bytes;
    let after = loop {
        match ahead.next(end) {
            Ok(None) => break None,
            Ok(Some((kind, payload))) => {
                if let Some(epoch) = epoch_of(kind, payload) {
                    break Some(epoch);
                }
            }
            Err(SegmentsError::Damaged { .. } | SegmentsError::Missing { .. }) => {
                bytes += ahead.resync(end, plausible)?.bytes;
            }
            Err(other) => return Err(other.into()),
        }
    };
    Ok(JournalError::Damaged { source, bytes, before, after })
}

/// [`describe`] for damage that opening the last segment has found, which is as long as `end` says.
pub(super) fn describe_last(
    mut reader: SegmentReader,
    end: Position,
    source: SegmentsError,
) -> Result<JournalError, JournalError> {
    let mut before = None;
    while let Ok(Some((kind, payload))) = reader.next(end) {
        if kind == KIND_EPOCH_END {
            before = epoch_of(kind, payload);
        }
    }
    describe(&reader, end, before, source)
}
