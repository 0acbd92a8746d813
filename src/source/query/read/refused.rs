//! The names of a selector that a server refuses for good: kept from span to span, so that each costs little there.
//!
//! Memory: at most [`REFUSED_MAX`] names of a selector, each with what the server said.

use std::collections::{BTreeMap, HashSet};

use super::span::ReadSpan;
use crate::source::query::client::QueryError;

/// For how long, in time of samples, what a poll was refused is not asked for again.
pub const REFUSED_MS: i64 = 3_600_000;
/// Most names of a selector that are remembered as refused.
pub const REFUSED_MAX: usize = 1_024;
/// Most names whose time is over that a poll asks for again.
const AGAIN_MAX: usize = 16;
/// Longest span of a poll: in others, which are history, everything is asked for.
const SHORT_MS: i64 = 300_000;

/// What is known as refused of a selector.
#[derive(Clone, Debug, Default)]
pub struct RefusedNames {
    names: BTreeMap<String, LastingRefusal>,
    /// All of it in a poll, though its names are known.
    selector: Option<LastingRefusal>,
}

/// An answer that stays as it is for a while.
#[derive(Clone, Debug)]
struct LastingRefusal {
    /// The end of the span in which it was refused.
    at_ms: i64,
    error: QueryError,
}

impl LastingRefusal {
    /// Whether it counts for a span: of history each span is another question.
    fn holds(&self, span: ReadSpan) -> bool {
        is_short(span) && (self.at_ms..self.at_ms + REFUSED_MS).contains(&span.to_ms)
    }
}

fn is_short(span: ReadSpan) -> bool {
    span.length_ms() <= SHORT_MS
}

/// What was learned of a span.
#[derive(Default)]
pub struct SpanLesson {
    /// Whether something of all names was answered.
    pub all_answered: bool,
    /// Names that were answered at some time.
    pub answered: HashSet<String>,
    /// Names that were refused at some time.
    pub refused: BTreeMap<String, QueryError>,
    /// All names together, where they are known.
    pub selector: Option<QueryError>,
}

impl RefusedNames {
    /// Why the selector is not asked for in a span.
    pub fn selector(&self, span: ReadSpan) -> Option<&QueryError> {
        self.selector.as_ref().filter(|refusal| refusal.holds(span)).map(|refusal| &refusal.error)
    }

    /// Names that are not asked for together with the others.
    pub fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    /// Whether a name is known.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Splits the names: those that are asked for by themselves in this span, and those that are not, with the error.
    pub fn split(&self, span: ReadSpan) -> (Vec<String>, Vec<(&String, &QueryError)>) {
        let mut due: Vec<(&String, &LastingRefusal)> =
            self.names.iter().filter(|(_, refusal)| !refusal.holds(span)).collect();
        if is_short(span) && due.len() > AGAIN_MAX {
            due.sort_by_key(|(_, refusal)| refusal.at_ms);
            due.truncate(AGAIN_MAX);
        }
        let asked: HashSet<&String> = due.into_iter().map(|(name, _)| name).collect();
        let others = self.names.iter().filter(|(name, _)| !asked.contains(name));
        (
            self.names.keys().filter(|name| asked.contains(name)).cloned().collect(),
            others.map(|(name, refusal)| (name, &refusal.error)).collect(),
        )
    }

    /// Takes what was learned of a span; whether there was room for it.
    pub fn learn(&mut self, learned: SpanLesson, span: ReadSpan) -> bool {
        let at_ms = span.to_ms;
        self.names.retain(|name, _| !learned.answered.contains(name));
        let nothing_answered = !learned.all_answered && learned.answered.is_empty();
        let selector = learned.selector.filter(|_| is_short(span) && nothing_answered);
        self.selector = selector.map(|error| LastingRefusal { at_ms, error });
        let mut fits = true;
        for (name, error) in learned.refused {
            if learned.answered.contains(&name) {
                continue;
            }
            let is_known = self.names.contains_key(&name);
            // At other times it may have been in an answer of all names.
            if !is_known && learned.all_answered {
                continue;
            }
            if is_known || self.names.len() < REFUSED_MAX {
                self.names.insert(name, LastingRefusal { at_ms, error });
            } else {
                fits = false;
            }
        }
        fits
    }
}
