//! How long a question may be worked on, and whether anybody still waits for it.
//!
//! Whatever is evaluated for a question looks at its budget again and again: between two series, and within the texts
//! of one. A budget is cheap to clone, and all clones end together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::StoreError;

/// Why a question is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BudgetExceeded {
    /// Its time is over.
    Late {
        /// The bound.
        limit_ms: u64,
    },
    /// Nobody waits for the answer any more.
    Cancelled,
    /// A regex takes more work than is spent on one.
    Work {
        /// Its beginning.
        regex: String,
    },
}

impl From<BudgetExceeded> for StoreError {
    fn from(over: BudgetExceeded) -> StoreError {
        match over {
            BudgetExceeded::Late { limit_ms } => StoreError::Deadline { limit_ms },
            BudgetExceeded::Cancelled => StoreError::Cancelled,
            BudgetExceeded::Work { regex } => StoreError::Work { regex },
        }
    }
}

/// The time of one question; without bounds unless one is set.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    deadline: Option<Instant>,
    limit: Duration,
    cancelled: Option<Arc<AtomicBool>>,
}

impl Budget {
    /// So much time from now on.
    pub fn of(limit: Duration) -> Budget {
        Budget { deadline: Some(Instant::now() + limit), limit, cancelled: None }
    }

    /// And only until this flag is set.
    pub fn until(self, cancelled: Arc<AtomicBool>) -> Budget {
        Budget { cancelled: Some(cancelled), ..self }
    }

    /// Whether there is a bound at all.
    pub fn is_bounded(&self) -> bool {
        self.deadline.is_some()
    }

    /// When the time is over, if it is bounded.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Judges the budget.
    ///
    /// # Errors
    /// It is over.
    pub fn check(&self) -> Result<(), BudgetExceeded> {
        if self.cancelled.as_ref().is_some_and(|cancelled| cancelled.load(Ordering::Relaxed)) {
            return Err(BudgetExceeded::Cancelled);
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(self.late()),
            _ => Ok(()),
        }
    }

    /// That the time is over.
    pub fn late(&self) -> BudgetExceeded {
        BudgetExceeded::Late { limit_ms: u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_by_time_or_by_its_flag() {
        assert_eq!(Budget::default().check(), Ok(()));
        assert_eq!(Budget::of(Duration::ZERO).check(), Err(BudgetExceeded::Late { limit_ms: 0 }));
        let flag = Arc::new(AtomicBool::new(false));
        let budget = Budget::of(Duration::from_secs(3_600)).until(Arc::clone(&flag));
        let clone = budget.clone();
        assert_eq!(clone.check(), Ok(()));
        flag.store(true, Ordering::Relaxed);
        assert_eq!(
            (clone.check(), budget.check()),
            (Err(BudgetExceeded::Cancelled), Err(BudgetExceeded::Cancelled))
        );
    }
}
