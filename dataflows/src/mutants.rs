//! Bugs that tests put in on purpose, to see that they are noticed; without the feature `faults` there are none.
//!
//! Each is one line of the computation that asks [`mutant`]. They are of one thread, so that tests run side by side.
//!
//! Not here: the bugs of the server, which a process has as a whole (its own `faults`).

/// A bug that is put in on purpose, to see that the tests notice: what each one leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Panes of hops are not built when the newest sample leaves them.
    PanesLeftBehind,
    /// The same, of windows that were added by a change of settings only.
    AddedPanesLeftBehind,
    /// A window that is added while a series takes a bootstrap answers keys that lay in the past.
    AddedNotMuted,
    /// Lateness that is lowered in a bootstrap leaves keys open whose panes are gone.
    LoweredAllowedLatenessNotPassed,
    /// The timer of a slot stays where it was when its first sample is applied.
    TimerNotArmed,
    /// Silence counts as an answer although the window knew no sample.
    SilenceCountsAsAnswer,
    /// Panes from before a change of settings are put together anew by a restart.
    ReshapedNotSaved,
    /// A correction of an open key forgets the panes of all windows.
    OtherPanesForgotten,
}

#[cfg(feature = "faults")]
thread_local! {
    static MUTANT: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Puts a bug into what this thread computes from now on, or takes it out.
#[cfg(feature = "faults")]
pub fn put_in(mutant: Option<Mutant>) {
    MUTANT.set(mutant);
}

/// Whether this bug is in.
#[cfg(feature = "faults")]
pub(crate) fn mutant(mutant: Mutant) -> bool {
    MUTANT.get() == Some(mutant)
}

/// Whether this bug is in: never.
#[cfg(not(feature = "faults"))]
#[inline]
pub(crate) const fn mutant(_: Mutant) -> bool {
    false
}
