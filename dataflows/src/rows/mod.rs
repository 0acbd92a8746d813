//! What leaves the dataflow: rows of several kinds, in one batch per epoch.
//!
//! Each kind is a file that says its key, its fields and their encoding, and what is shown of it (`kind.rs` has the
//! contract). The list of kinds stands at [`RowLists`], and nowhere else.

#[macro_use]
pub mod columns;
pub mod events;
pub mod inspect;
pub mod kind;
pub mod profiles;
pub mod rejects;
pub mod types;
pub mod verdicts;
pub mod windows;

use std::convert::Infallible;
use std::ops::{Deref, DerefMut};

pub use events::ProfileEvent;
pub use kind::{KindInfo, ResultRow};
pub use profiles::SeriesProfile;
pub use rejects::Reject;
pub use types::SeriesType;
pub use windows::WindowStats;

use crate::sample::{Reason, SeriesId};
use crate::snapshot::SnapshotPart;

/// Where the rows of a kind are in [`RowLists`].
pub struct KindList<K> {
    /// To read.
    pub of: fn(&RowLists) -> &Vec<K>,
    /// To change.
    pub of_mut: fn(&mut RowLists) -> &mut Vec<K>,
}

impl<K> Clone for KindList<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for KindList<K> {}

/// What is done with every kind of row.
pub trait KindVisitor {
    /// What ends the walk.
    type Error;

    /// Does it with one kind.
    ///
    /// # Errors
    /// What ends the walk.
    fn kind<K: ResultRow>(&mut self, list: KindList<K>) -> Result<(), Self::Error>;
}

macro_rules! row_kinds {
    ($($(#[$about:meta])* $list:ident: $kind:ty),* $(,)?) => {
        /// The rows of one epoch: a list for each kind, typed and flat.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct RowLists {
            $($(#[$about])* pub $list: Vec<$kind>,)*
        }

        /// The kinds, in the order of the outbox.
        pub const KINDS: &[KindInfo] = &[$(KindInfo::of::<$kind>()),*];

        /// Does the same with every kind, in the order of the outbox.
        ///
        /// # Errors
        /// The first that `visitor` returns.
        pub fn each_kind<V: KindVisitor>(visitor: &mut V) -> Result<(), V::Error> {
            $(visitor.kind::<$kind>(KindList { of: |lists| &lists.$list, of_mut: |lists| &mut lists.$list })?;)*
            Ok(())
        }
    };
}

row_kinds! {
    /// Window rows.
    windows: WindowStats,
    /// Reject rows.
    rejects: Reject,
    /// What kinds of metric series are, as far as it was told in this epoch.
    types: SeriesType,
    /// Profile rows.
    profiles: SeriesProfile,
    /// Event rows.
    events: ProfileEvent,
}

/// The place of a kind in [`KINDS`].
pub fn place_of<K: ResultRow>() -> usize {
    KINDS.iter().position(|info| info.kind == K::KIND).expect("every kind stands in the list")
}

impl RowLists {
    /// How many rows there are, of all kinds.
    pub fn rows(&self) -> usize {
        struct Count<'a>(&'a RowLists, usize);
        impl KindVisitor for Count<'_> {
            type Error = Infallible;
            fn kind<K: ResultRow>(&mut self, list: KindList<K>) -> Result<(), Infallible> {
                self.1 += (list.of)(self.0).len();
                Ok(())
            }
        }
        let mut count = Count(self, 0);
        let Ok(()) = each_kind(&mut count);
        count.1
    }

    /// Moves all rows of `other` behind these.
    pub fn append(&mut self, other: &mut RowLists) {
        struct Append<'a>(&'a mut RowLists, &'a mut RowLists);
        impl KindVisitor for Append<'_> {
            type Error = Infallible;
            fn kind<K: ResultRow>(&mut self, list: KindList<K>) -> Result<(), Infallible> {
                (list.of_mut)(self.0).append((list.of_mut)(self.1));
                Ok(())
            }
        }
        let Ok(()) = each_kind(&mut Append(self, other));
    }

    /// Puts the rows of each kind into the order of the outbox.
    pub fn normalize(&mut self) {
        struct Normalize<'a>(&'a mut RowLists);
        impl KindVisitor for Normalize<'_> {
            type Error = Infallible;
            fn kind<K: ResultRow>(&mut self, list: KindList<K>) -> Result<(), Infallible> {
                K::normalize((list.of_mut)(self.0));
                Ok(())
            }
        }
        let Ok(()) = each_kind(&mut Normalize(self));
    }
}

/// What `admit` counted in one epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Samples applied, late ones included.
    pub applied: u64,
    /// Of these, late ones merged into closed or open windows.
    pub late: u64,
    /// Staleness markers seen.
    pub stale_markers: u64,
    /// Not applied, by [`Reason`] code.
    pub rejected: [u64; Reason::ALL.len()],
    /// Rows that corrected an earlier row.
    pub corrections: u64,
    /// Slots given.
    pub slots_given: u64,
    /// Slots freed.
    pub slots_freed: u64,
}

impl Counts {
    /// Adds `other` to these counts.
    pub fn add(&mut self, other: &Counts) {
        self.applied += other.applied;
        self.late += other.late;
        self.stale_markers += other.stale_markers;
        for (mine, theirs) in self.rejected.iter_mut().zip(other.rejected) {
            *mine += theirs;
        }
        self.corrections += other.corrections;
        self.slots_given += other.slots_given;
        self.slots_freed += other.slots_freed;
    }
}

/// What the engine knows of a series' time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesPresence {
    /// It has a slot, and this is its newest applied sample.
    Live {
        /// Unix milliseconds.
        newest_ms: i64,
    },
    /// Its slot was freed; nothing up to this sample is ever computed again.
    Freed {
        /// Unix milliseconds.
        newest_ms: i64,
    },
    /// It has a slot, and since it got it no sample was applied: not a number, or too old.
    Given {
        /// If it had one before: nothing up to this sample is ever computed again. Unix milliseconds.
        freed_ms: Option<i64>,
    },
    /// It has no slot, and no sample of it was ever applied, or it was forgotten.
    Unknown,
}

impl SeriesPresence {
    /// Whether it has a slot: then its samples may still come to be rows, of windows or of rejects.
    pub fn has_slot(&self) -> bool {
        matches!(self, SeriesPresence::Live { .. } | SeriesPresence::Given { .. })
    }
}

/// All outcomes of one epoch (of one worker, or merged over workers).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// The rows that go into the outbox.
    pub lists: RowLists,
    /// Series whose slot was freed. Stays inside: never in the outbox.
    pub freed: Vec<SeriesId>,
    /// What was counted. Stays inside: never in the outbox.
    pub counts: Counts,
    /// Parts of snapshots that were asked for. Stays inside: never in the outbox.
    pub saved: Vec<SnapshotPart>,
}

impl Deref for Rows {
    type Target = RowLists;

    fn deref(&self) -> &RowLists {
        &self.lists
    }
}

impl DerefMut for Rows {
    fn deref_mut(&mut self) -> &mut RowLists {
        &mut self.lists
    }
}

impl From<RowLists> for Rows {
    fn from(lists: RowLists) -> Rows {
        Rows { lists, ..Rows::default() }
    }
}

impl Rows {
    /// Whether there is nothing to hand on.
    pub fn is_empty(&self) -> bool {
        self.lists.rows() == 0
            && self.freed.is_empty()
            && self.counts == Counts::default()
            && self.saved.is_empty()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows()
    }

    /// Moves everything of `other` into these outcomes.
    pub fn append(&mut self, other: &mut Rows) {
        self.lists.append(&mut other.lists);
        self.freed.append(&mut other.freed);
        self.counts.add(&std::mem::take(&mut other.counts));
        self.saved.append(&mut other.saved);
    }

    /// Sorts by (kind, series, window, at), the order of the outbox, sums the reject rows without series, and keeps
    /// the last type of each series.
    ///
    /// After this the outcomes of an epoch are the same bytes for any number of workers.
    pub fn sort(&mut self) {
        self.lists.normalize();
        self.freed.sort_unstable();
    }
}
