//! What was taken of partial answers: where they began, and when that is read again.
//!
//! Not here: reading it again (`revisit`).

/// When what was partial is read again for the second time; each pause is twice the one before.
const REVISIT_MS: i64 = 3_600_000;
/// Longest of these pauses.
const REVISIT_MS_MAX: i64 = 86_400_000;

/// A span that was read from partial answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    /// Up to here everything was read.
    pub(super) from_ms: i64,
    /// The end of the last partial answer.
    pub(super) to_ms: i64,
    /// How long after it was read it is read again.
    pause_ms: i64,
    /// Not before that.
    pub(super) again_ms: i64,
    /// It is being read again.
    pub(super) revisited: bool,
}

/// The gap with another partial chunk, which begins where everything was read.
pub(super) fn widened(gap: Option<Gap>, from_ms: i64, to_ms: i64, now_ms: i64) -> Gap {
    match gap {
        // It is partial again: later there may be more, and what was whole before is not in it.
        Some(gap) if gap.revisited => {
            let pause_ms = (gap.pause_ms * 2).clamp(REVISIT_MS, REVISIT_MS_MAX);
            Gap { from_ms, to_ms, pause_ms, again_ms: now_ms + pause_ms, revisited: false }
        }
        Some(gap) => Gap { to_ms: gap.to_ms.max(to_ms), ..gap },
        None => Gap { from_ms, to_ms, pause_ms: 0, again_ms: now_ms, revisited: false },
    }
}
