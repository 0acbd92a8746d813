//! A regex that matches whole texts, a slice of a text at a time: between two slices the budget of the question is
//! looked at, so that no regex and no label can hold a thread beyond it.
//!
//! A lazy DFA is stepped by hand, because a search of the `regex` crate cannot be interrupted. A step costs a look-up;
//! the first one into a state costs up to the size of the regex, which is bounded. States are kept in a cache of bounded
//! size. A regex that fills it again and again is given up.
//!
//! Not here: the syntax (`re2`).

use std::fmt;
use std::sync::Arc;

use regex_automata::Anchored;
use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::NFA;
use regex_automata::util::pool::Pool;
use regex_automata::util::start;

use crate::store::budget::{Budget, BudgetExceeded};

/// Bytes of a text between two looks at the budget.
const SLICE_BYTES: usize = 64;
/// Times that the cache of one regex may run full in one question, some milliseconds each, unless that is seldom.
const FILLS_MAX: u64 = 256;
/// Seldom: the states of a full cache have served for so many bytes.
const BYTES_PER_FILL_MIN: u64 = 8 << 10;
/// Bytes of a pattern that an error shows.
const SHOWN_MAX: usize = 120;

/// A compiled regex; clones share it.
#[derive(Clone)]
pub struct Pattern(Arc<PatternInner>);

struct PatternInner {
    shown: String,
    dfa: DFA,
    scratch: Pool<Scratch, Box<dyn Fn() -> Scratch + Send + Sync>>,
}

/// What matching writes to.
struct Scratch {
    cache: Cache,
    /// Bytes that were matched with it.
    bytes: u64,
}

impl Pattern {
    /// A pattern of an automaton, with about so many bytes for states.
    ///
    /// # Errors
    /// Why it cannot be matched.
    pub fn new(text: &str, nfa: NFA, cache_bytes: usize) -> Result<Pattern, String> {
        let config = DFA::config().cache_capacity(cache_bytes).skip_cache_capacity_check(true);
        let built = DFA::builder().configure(config).build_from_nfa(nfa);
        let dfa = built.map_err(|error| error.to_string())?;
        let of = dfa.clone();
        let fresh = move || Scratch { cache: of.create_cache(), bytes: 0 };
        let shown = text.chars().take(SHOWN_MAX).collect();
        Ok(Pattern(Arc::new(PatternInner { shown, dfa, scratch: Pool::new(Box::new(fresh)) })))
    }

    /// Whether the pattern, which is anchored at both ends, matches a text.
    ///
    /// # Errors
    /// The budget is over, or the regex takes too much work. Without bounds neither can be.
    pub fn is_match(&self, text: &str, budget: &Budget) -> Result<bool, BudgetExceeded> {
        let PatternInner { dfa, scratch, .. } = &*self.0;
        let mut scratch = scratch.get();
        let Scratch { cache, bytes } = &mut *scratch;
        let start = start::Config::new().anchored(Anchored::Yes);
        let mut state = dfa.start_state(cache, &start).map_err(|_| self.work())?;
        for slice in text.as_bytes().chunks(SLICE_BYTES) {
            budget.check()?;
            state = self.step(cache, state, slice)?;
            if state.is_dead() {
                return Ok(false);
            }
            *bytes += slice.len() as u64;
            let fills = cache.clear_count() as u64;
            if budget.is_bounded() && fills >= FILLS_MAX && *bytes / fills < BYTES_PER_FILL_MIN {
                return Err(self.work());
            }
        }
        // Its own error is one of limits that are not set.
        let end = dfa.next_eoi_state(cache, state).map_err(|_| self.work())?;
        Ok(end.is_match())
    }

    fn step(
        &self,
        cache: &mut Cache,
        mut state: LazyStateID,
        slice: &[u8],
    ) -> Result<LazyStateID, BudgetExceeded> {
        for byte in slice {
            state = self.0.dfa.next_state(cache, state, *byte).map_err(|_| self.work())?;
            if state.is_dead() {
                break;
            }
        }
        Ok(state)
    }

    fn work(&self) -> BudgetExceeded {
        BudgetExceeded::Work { regex: self.0.shown.clone() }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.shown)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::super::re2::compile;
    use super::*;

    /// Whose states are as many as the texts have bytes, and each as large as the regex.
    const HUNGRY: &str = "[ab]*a[ab]{900}[ab]{900}[ab]{900}c";

    fn text(bytes: usize) -> String {
        let mut random = fastrand::Rng::with_seed(7);
        (0..bytes).map(|_| if random.bool() { 'a' } else { 'b' }).collect()
    }

    #[test]
    fn a_budget_ends_within_a_text() {
        let pattern = compile(HUNGRY, 1 << 20).unwrap();
        let text = text(1 << 20);
        let begun = Instant::now();
        let over = pattern.is_match(&text, &Budget::of(Duration::from_millis(50)));
        assert_eq!(over, Err(BudgetExceeded::Late { limit_ms: 50 }));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let flag = Arc::new(AtomicBool::new(false));
        let budget = Budget::of(Duration::from_secs(3_600)).until(Arc::clone(&flag));
        let matching = std::thread::spawn(move || pattern.is_match(&text, &budget));
        flag.store(true, Ordering::Relaxed);
        assert_eq!(matching.join().unwrap(), Err(BudgetExceeded::Cancelled));
    }

    #[test]
    fn work_is_bounded_where_time_is() {
        let pattern = compile("[ab]*a[ab]{200}c", 4 << 10).unwrap();
        let text = text(256 << 10);
        let over = pattern.is_match(&text, &Budget::of(Duration::from_secs(3_600)));
        assert_eq!(over, Err(BudgetExceeded::Work { regex: "[ab]*a[ab]{200}c".to_owned() }));
        assert_eq!(pattern.is_match(&text, &Budget::default()), Ok(false));
        let end = format!("{text}c");
        assert_eq!(pattern.is_match(&end, &Budget::default()), Ok(&end[end.len() - 202..][..1] == "a"));
    }
}
