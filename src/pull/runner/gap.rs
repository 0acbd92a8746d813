//! What was taken of partial answers: where they began, and when that is read again.
//!
//! Not here: judging answers and reading (`runner`).

use tidewatch_dataflows::settings::duration;

use crate::source::query::read::ReadSpan;
use crate::source::query::take::OVERLAP_MS;

use super::{ReadPosition, Runner};

/// When what was partial is read again for the second time; each pause is twice the one before.
const REVISIT_MS: i64 = 3_600_000;
/// Longest of these pauses.
const REVISIT_MS_MAX: i64 = 86_400_000;

/// What is listed as not read where no selector is to blame.
const PARTIAL: &str = "of partial answers";

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
    again_ms: i64,
    /// It is being read again.
    pub(super) revisited: bool,
}

impl Runner<'_> {
    /// What was partial was read again up to the present, and whole.
    pub(super) fn read_again(&self, position: &mut ReadPosition) {
        if position.gap.take_if(|gap| gap.revisited).is_some() {
            self.whole_again(position.at_ms);
        }
    }

    /// Nothing is partial up to here.
    pub(super) fn whole_again(&self, at_ms: i64) {
        if let Some(partial) = self.status.whole() {
            self.status.read_to(at_ms);
            // One that was asked for again and came whole is nothing to tell: a server may do so at every poll.
            if partial.taken == 0 {
                return;
            }
            let lasted = duration((((self.clock)() - partial.since_ms) / 1_000).max(1) * 1_000);
            tracing::info!("{}: answers are whole again after {lasted}", self.status.url());
        }
    }

    /// What is older than is read back is no longer waited for.
    pub(super) fn give_up_old(&self, position: &mut ReadPosition) {
        let oldest_ms = (self.clock)() - position.reach_ms.max(OVERLAP_MS);
        let Some(gap) = position.gap.as_mut().filter(|gap| gap.from_ms < oldest_ms) else { return };
        let lost = ReadSpan { after_ms: gap.from_ms, to_ms: gap.to_ms.min(oldest_ms) };
        self.misses(PARTIAL, lost, "answers were partial for longer than is read back");
        gap.from_ms = oldest_ms;
        let is_over = gap.to_ms <= oldest_ms;
        self.status.read_to(gap.from_ms);
        if is_over {
            position.gap = None;
            self.whole_again(position.at_ms);
        }
    }

    /// Goes back to where answers began to be partial, if it is time; whether it does.
    pub(super) fn revisit(&self, position: &mut ReadPosition) -> bool {
        let now_ms = (self.clock)();
        let Some(gap) = position.gap.as_mut().filter(|gap| gap.again_ms <= now_ms) else { return false };
        gap.revisited = true;
        position.taker.begin_again();
        position.at_ms = gap.from_ms;
        position.read_ms = None;
        let back = duration(((now_ms - position.at_ms) / 1_000).max(1) * 1_000);
        tracing::info!("{}: answers are whole; reading {back} of partial ones again", self.status.url());
        true
    }
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
