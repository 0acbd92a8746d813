//! Reading again what was taken of partial answers.
//!
//! Not here: judging answers and reading (`runner`).

use tidewatch_dataflows::settings::duration;

use crate::source::query::read::ReadSpan;
use crate::source::query::take::OVERLAP_MS;

use super::{ReadPosition, Runner};

/// What is listed as not read where no selector is to blame.
const PARTIAL: &str = "of partial answers";

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
