//! The lag sums of one series' window, which move with it: what an evaluation costs is what came and went since the last one.
//!
//! They follow from the steps of the window alone, to the bit, whether they moved or were made from scratch. So no snapshot has
//! them, and whatever is out of the ordinary (a late sample, another unit, a long gap) just drops them.

use super::ring::StepRing;
use crate::kernels::grid::{GRID_ENDS, Grid, GridSums};

/// Shorter windows are summed from scratch.
const SLIDING_STEPS_MIN: i64 = 300;
/// With gaps it takes more steps to have enough values at an end; not more than these.
const END_STEPS_MAX: i64 = 192;

/// The sums of the steps `from` to `upto`.
#[derive(Clone, Debug)]
pub(super) struct SlidingSums {
    pub(super) from: i64,
    pub(super) upto: i64,
    pub(super) sums: GridSums,
}

/// The numbers at both ends of a window, and room for what they are made from.
#[derive(Default)]
pub(super) struct WindowEnds {
    values: Vec<f64>,
    oldest: Vec<i64>,
    newest: Vec<i64>,
    /// How many of the oldest have left the window.
    gone: usize,
}

impl WindowEnds {
    /// The oldest numbers of the window.
    pub(super) fn oldest(&self) -> &[i64] {
        &self.oldest[self.gone..][..GRID_ENDS]
    }

    /// The newest.
    pub(super) fn newest(&self) -> &[i64] {
        &self.newest[self.newest.len() - GRID_ENDS..]
    }

    /// Reads the numbers from step `was` on, up to enough of those from step `from` on.
    fn read_oldest(&mut self, ring: &StepRing, grid: Grid, was: i64, from: i64) -> Option<()> {
        for steps in [GRID_ENDS as i64, END_STEPS_MAX] {
            self.values.clear();
            self.oldest.clear();
            ring.read(was, from + steps - 1, &mut self.values);
            let gone = &self.values[..(from - was) as usize];
            self.gone = gone.iter().filter(|value| !value.is_nan()).count();
            grid.numbers(&self.values, &mut self.oldest);
            if self.oldest.len() - self.gone >= GRID_ENDS {
                return Some(());
            }
        }
        None
    }

    /// Reads the numbers up to step `upto`, with enough of those up to step `was`. How many are of steps behind that.
    fn read_newest(&mut self, ring: &StepRing, grid: Grid, was: i64, upto: i64) -> Option<usize> {
        for steps in [GRID_ENDS as i64, END_STEPS_MAX] {
            self.values.clear();
            self.newest.clear();
            ring.read(was - steps + 1, upto, &mut self.values);
            let new = self.values[steps as usize..].iter().filter(|value| !value.is_nan()).count();
            grid.numbers(&self.values, &mut self.newest);
            if self.newest.len() - new >= GRID_ENDS {
                return Some(new);
            }
        }
        None
    }
}

impl SlidingSums {
    /// Moves the sums to the window that ends with the newest step of the ring, whose ends it leaves; nothing if they have to be
    /// made from scratch.
    pub(super) fn slide(&mut self, ring: &StepRing, ends: &mut WindowEnds) -> Option<()> {
        let (from, upto) = (ring.from(), ring.newest);
        let grid = self.sums.grid();
        let is_near = self.from <= from && self.upto <= upto && from - self.from <= END_STEPS_MAX;
        if !is_near
            || self.upto - from < SLIDING_STEPS_MIN
            || self.from < ring.held_from()
            || Grid::of(ring.largest()) != Some(grid)
        {
            return None;
        }
        ends.read_oldest(ring, grid, self.from, from)?;
        let new = ends.read_newest(ring, grid, self.upto, upto)?;
        self.sums.push(&ends.newest, new);
        self.sums.pop(&ends.oldest, ends.gone);
        (self.from, self.upto) = (from, upto);
        Some(())
    }
}
