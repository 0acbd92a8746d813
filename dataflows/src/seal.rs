//! Sealing: what no late sample can touch any more is written once in a chain of saves, and never again.
//!
//! A stage that keeps a ring of something by time, such as panes, says up to where the ring of a series is sealed: newest
//! minus allowed lateness. Of each chain this remembers how far that was written. A save then appends what was sealed since,
//! and writes anew what is not sealed. When a series begins anew, so do its sealed parts; when the shape of the rings changes,
//! so do the chains.
//!
//! Not here: what is sealed, and its bytes.

use crate::snapshot::CHAINS;

/// No time yet.
const NEVER: i64 = i64::MIN;

/// How far what is sealed of each slot is held by each chain.
#[derive(Default)]
pub struct Sealing {
    /// By slot and chain: what ends before this is held; the least number if nothing of this beginning is.
    before: Vec<[i64; CHAINS]>,
    /// By chain: whether it holds what is sealed in the present shape.
    continues: [bool; CHAINS],
}

impl Sealing {
    /// No chain goes on: what is sealed of so many slots has another shape now.
    pub fn anew(slots: usize) -> Sealing {
        Sealing { before: vec![[NEVER; CHAINS]; slots], continues: [false; CHAINS] }
    }

    /// The series of the slot begins anew.
    pub fn begin(&mut self, slot: u32) {
        let slot = slot as usize;
        if slot >= self.before.len() {
            self.before.resize(slot + 1, [NEVER; CHAINS]);
        }
        self.before[slot] = [NEVER; CHAINS];
    }

    /// Whether a chain goes on from what it holds.
    pub fn continues(&self, chain: usize) -> bool {
        self.continues[chain]
    }

    /// A save of a chain begins; if the whole of it, the chain counts as empty before.
    pub fn begin_save(&mut self, chain: usize, whole: bool) {
        if whole {
            self.before.iter_mut().for_each(|before| before[chain] = NEVER);
        }
        self.continues[chain] = true;
    }

    /// What ends before this is held by the chain; the least number if nothing is.
    pub fn before(&self, slot: u32, chain: usize) -> i64 {
        self.before[slot as usize][chain]
    }

    /// What ends before `horizon` is held by the chain now.
    pub fn advance(&mut self, slot: u32, chain: usize, horizon: i64) {
        self.before[slot as usize][chain] = horizon;
    }

    /// Goes on from a stored snapshot. Whether its chains may be continued is known to who stored it.
    pub fn loaded(&mut self) {
        self.continues = [true; CHAINS];
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.before.capacity() * size_of::<[i64; CHAINS]>()
    }
}
