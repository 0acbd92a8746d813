//! The sums of a window that moves, kept as whole numbers: what comes is added, what goes is subtracted, and nothing drifts.
//!
//! # Formula
//! Values are whole numbers `N_s` of a unit, which is a power of two: a 2^53rd of the largest power of two up to their largest
//! magnitude. So the unit depends on the values of the window alone. Kept are `sum N`, `sum N^2`, `sum s N_s` and, of the differences
//! `d_s = N_s - N_{s-1}`, `sum d_s d_{s-k}` for the lags `k` below [`GRID_LAGS`], all in 128 bits. The sums about the
//! window's line, whose slope and offset are whole numbers as well, follow without rounding ([`LagSums::compute_from`]).
//!
//! Sums of whole numbers do not depend on the order, so those of a window that moved are those of the window from scratch, to the bit.
//!
//! # Precision
//! A value that has at least half of the largest magnitude is exact, and so are all that have few enough digits. Another one is off
//! by half a unit at most. Then the window spans half of the largest magnitude or more, so that this is less than 1.2e-16 of
//! its range: the sums are those of a window that differs from the given one by the rounding of its range.
//! Numbers are below 2^54, products of two differences below 2^110; sums of 2,048 of them have 121 bits.
//!
//! # Cost
//! 32 multiplications for each value that comes or goes: 0.3 µs for five of each. From scratch it is 1 ns for each value and lag.
//!
//! [`LagSums::compute_from`]: super::lag_sums::LagSums::compute_from

use std::ops::Range;

use super::moments::power_of_two;

/// Lags whose products are kept, from 0 on.
pub const GRID_LAGS: usize = 32;
/// How many numbers at each end of a window are asked for.
pub const GRID_ENDS: usize = 64;
/// Values of a window, at most.
pub const GRID_VALUES_MAX: usize = 2_048;
/// Bits of a number.
const NUMBER_BITS: i32 = 54;
/// Biased exponents of largest magnitudes that have a grid: the squares of the unit and of the largest number are numbers.
const EXPONENTS: Range<u16> = 100..1_900;

/// The largest exponent of some values, as their bits have it: 0 if all are zeros, 2,047 if one is not finite. NaN counts as absent.
pub fn largest_exponent(values: &[f64]) -> u16 {
    let magnitude = |value: &f64| if value.is_nan() { 0 } else { value.to_bits() << 1 };
    let bits = values.iter().map(magnitude).fold(0, u64::max);
    // Below the normal numbers it is 1, as for the smallest of these.
    ((bits >> 53) as u16).max(u16::from(bits > 0))
}

/// The unit that the values of a window are whole numbers of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grid {
    exponent: i16,
}

impl Grid {
    /// That of a window, by its [`largest_exponent`]. None where its squares would leave the numbers.
    pub fn of(largest: u16) -> Option<Grid> {
        match largest {
            0 => Some(Grid { exponent: 0 }),
            _ if EXPONENTS.contains(&largest) => {
                Some(Grid { exponent: (i32::from(largest) - 1_022 - NUMBER_BITS) as i16 })
            }
            _ => None,
        }
    }

    /// The unit is 2 to the power of this.
    pub fn exponent(self) -> i32 {
        self.exponent.into()
    }

    /// Appends the numbers of the values that are not NaN.
    pub fn numbers(self, values: &[f64], to: &mut Vec<i64>) {
        let inverse = power_of_two(-i64::from(self.exponent));
        let number = |value: f64| {
            let units = value * inverse;
            let whole = units as i64;
            whole + ((units - whole as f64) * 2.0) as i64
        };
        to.extend(values.iter().filter(|value| !value.is_nan()).map(|value| number(*value)));
    }
}

/// The line that the sums of a window are about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    first: i64,
    /// Of one value to the next.
    pub(super) slope: i64,
    /// What makes the mean of the levels smaller than 1.
    pub(super) offset: i64,
}

impl Line {
    /// What the line leaves of the number at `s`.
    pub(super) fn level(&self, s: usize, number: i64) -> i64 {
        (number - self.first - self.offset) - self.slope * s as i64
    }

    /// What it leaves of the difference of two.
    pub(super) fn difference(&self, pair: &[i64]) -> i64 {
        (pair[1] - pair[0]) - self.slope
    }
}

/// Sums of levels over some of a window.
pub(super) struct LevelTotals {
    pub(super) sum: f64,
    pub(super) squares: f64,
    /// Of their products with the time about its middle.
    pub(super) moment: f64,
}

/// The sums of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridSums {
    grid: Grid,
    count: usize,
    sum: i128,
    squares: i128,
    /// Of the products with the place in the window, from 0 on.
    moment: i128,
    /// Of differences, by lag.
    products: [i128; GRID_LAGS],
}

impl GridSums {
    /// Those of a window, of at most [`GRID_VALUES_MAX`] numbers.
    pub fn new(grid: Grid, numbers: &[i64]) -> GridSums {
        debug_assert!(numbers.len() <= GRID_VALUES_MAX);
        let mut sums = GridSums { grid, count: 0, sum: 0, squares: 0, moment: 0, products: [0; GRID_LAGS] };
        sums.push(numbers, numbers.len());
        sums
    }

    /// The unit of the numbers.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Numbers in the window.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes the last `new` of these numbers. Those before them are in the window already, at least [`GRID_LAGS`] of them or all.
    pub fn push(&mut self, numbers: &[i64], new: usize) {
        let from = numbers.len() - new;
        for number in &numbers[from..] {
            self.sum += i128::from(*number);
            self.squares += product(*number, *number);
            self.moment += product(*number, self.count as i64);
            self.count += 1;
        }
        let differences = differences(numbers);
        let from = from.saturating_sub(1);
        for (lag, sum) in self.products.iter_mut().enumerate() {
            let first = from.max(lag).min(differences.len());
            *sum += dot(&differences[first..], &differences[first.saturating_sub(lag)..]);
        }
    }

    /// Loses the first `old` of these numbers, with which the window begins. There are at least [`GRID_LAGS`] behind them.
    pub fn pop(&mut self, numbers: &[i64], old: usize) {
        for number in &numbers[..old] {
            self.sum -= i128::from(*number);
            self.squares -= product(*number, *number);
            // All others are one place nearer to the beginning.
            self.moment -= self.sum;
            self.count -= 1;
        }
        let differences = differences(numbers);
        for (lag, sum) in self.products.iter_mut().enumerate() {
            *sum -= dot(&differences[..old], &differences[lag..]);
        }
    }

    /// Whether all numbers are equal, or there is none.
    pub fn is_constant(&self) -> bool {
        self.products[0] == 0
    }

    /// The line of the window, whose first and last number are these two.
    pub(super) fn line(&self, first: i64, last: i64) -> Line {
        let steps = self.count as i64 - 1;
        let slope = (2 * (last - first) + steps).div_euclid(2 * steps);
        let without = Line { first, slope, offset: 0 };
        let n = self.count as f64;
        Line { offset: (self.total(&without) as f64 / n) as i64, ..without }
    }

    /// The sum of the levels.
    fn total(&self, line: &Line) -> i128 {
        let n = self.count as i128;
        self.sum - n * i128::from(line.first + line.offset) - i128::from(line.slope) * (n * (n - 1) / 2)
    }

    /// Fills `whole` with the products of the differences about the line, by lag, and `core` with those of the lags up to `edge`
    /// without the oldest and the newest `edge` differences.
    pub(super) fn lagged_products(
        &self,
        line: &Line,
        (oldest, newest): (&[i64], &[i64]),
        edge: usize,
        whole: &mut Vec<f64>,
        core: &mut Vec<f64>,
    ) {
        let n = self.count;
        let number = |s: usize| if s < oldest.len() { oldest[s] } else { newest[s + newest.len() - n] };
        let about =
            |numbers: &[i64]| -> Vec<i64> { numbers.windows(2).map(|pair| line.difference(pair)).collect() };
        let first = about(&oldest[..=edge]);
        let last = about(&newest[newest.len().saturating_sub(2 * edge + 1)..]);
        let (first_number, last_number) = (number(0), number(n - 1));
        whole.clear();
        core.clear();
        for (lag, sum) in self.products.iter().enumerate().take(n - 1) {
            let spans = (last_number - number(lag)) + (number(n - 1 - lag) - first_number);
            let pairs = (n - 1 - lag) as i64;
            let slope = line.slope;
            let sum = sum - product(slope, spans) + product(slope, slope) * i128::from(pairs);
            whole.push(rounded(sum));
            if lag <= edge {
                let from = (last.len() - edge).max(lag);
                let ends = dot(&first[lag..], &first) + dot(&last[from..], &last[from - lag..]);
                core.push(rounded(sum - ends));
            }
        }
    }

    /// Sums of the levels of a part of the window, that is all but these at its ends.
    pub(super) fn levels(&self, line: &Line, oldest: &[i64], newest: &[i64]) -> LevelTotals {
        let (n, count) = (self.count as i128, self.count);
        let (level, slope) = (i128::from(line.first + line.offset), i128::from(line.slope));
        // Of the places, and of their squares.
        let (places, squares) = (n * (n - 1) / 2, (n - 1) * n * (2 * n - 1) / 6);
        let mut sum = self.total(line);
        let mut square = self.squares + n * level * level + slope * slope * squares
            - 2 * level * self.sum
            - 2 * slope * self.moment
            + 2 * level * slope * places;
        let mut moment = self.moment - level * places - slope * squares;
        let newest_from = count - newest.len();
        let ends = oldest.iter().enumerate();
        for (s, number) in ends.chain(newest.iter().enumerate().map(|(i, number)| (newest_from + i, number)))
        {
            let level = line.level(s, *number);
            sum -= i128::from(level);
            square -= product(level, level);
            moment -= product(level, s as i64);
        }
        // Twice the middle of the places that are left.
        let middle = (oldest.len() + newest_from) as i128 - 1;
        LevelTotals {
            sum: sum as f64,
            squares: square as f64,
            moment: (2 * moment - middle * sum) as f64 / 2.0,
        }
    }
}

/// A product that has more than 64 bits.
fn product(a: i64, b: i64) -> i128 {
    i128::from(a) * i128::from(b)
}

/// The nearest f64, or the one next to it: faster than a conversion that is always right.
fn rounded(value: i128) -> f64 {
    match i64::try_from(value) {
        Ok(value) => value as f64,
        Err(_) => ((value >> 64) as i64 as f64) * power_of_two(64) + (value as u64) as f64,
    }
}

/// The sum of the products of two slices, as far as the shorter one goes.
fn dot(a: &[i64], b: &[i64]) -> i128 {
    a.iter().zip(b).map(|(a, b)| product(*a, *b)).sum()
}

fn differences(numbers: &[i64]) -> Vec<i64> {
    numbers.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::acf;
    use crate::kernels::adf::{self, Regression, Status};
    use crate::kernels::lag_sums::LagSums;
    use crate::kernels::reference::stationarity as slow;
    use crate::kernels::shapes::{FAMILIES, Random, family};

    fn numbers_of(values: &[f64]) -> (Grid, Vec<i64>) {
        let grid = Grid::of(largest_exponent(values)).expect("ordinary values");
        let mut numbers = Vec::new();
        grid.numbers(values, &mut numbers);
        (grid, numbers)
    }

    /// The sums that tests are computed from, of the ends and of all numbers.
    fn computed(sums: &GridSums, numbers: &[i64]) -> LagSums {
        let mut computed = LagSums::default();
        let n = numbers.len();
        let ends = if n <= 2 * GRID_ENDS { n } else { GRID_ENDS };
        computed.compute_from(sums, &numbers[..ends], &numbers[n - ends..]);
        computed
    }

    #[test]
    fn a_window_that_moved_has_the_sums_of_one_from_scratch() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let name = FAMILIES[random.below(FAMILIES.len())];
            let all = family(&mut random, name, 3_000);
            let (grid, numbers) = numbers_of(&all);
            let (mut from, mut to) = (0, 100 + random.below(1_000));
            let mut sums = GridSums::new(grid, &numbers[..to]);
            for _ in 0..100 {
                let new = random.below(12).min(numbers.len() - to);
                // Just as many before them as are asked for, or all.
                let behind = (to - from).min(GRID_LAGS + random.below(2) * random.below(3_000));
                sums.push(&numbers[to - behind..to + new], new);
                to += new;
                let old = random.below(12).min((to - from).saturating_sub(GRID_LAGS + 2));
                let ahead = (to - from - old).min(GRID_LAGS + random.below(9));
                sums.pop(&numbers[from..from + old + ahead], old);
                from += old;
                assert_eq!(sums, GridSums::new(grid, &numbers[from..to]), "seed {seed}");
            }
        }
    }

    #[test]
    fn the_slow_twins_agree_whatever_the_length() {
        let mut workspace = adf::Workspace::default();
        for name in FAMILIES {
            for (seed, n) in (2..66).chain([127, 128, 129, 130, 240, 700, 1_440]).enumerate() {
                let window = family(&mut Random::new(seed as u64), name, n);
                let (grid, numbers) = numbers_of(&window);
                let sums = GridSums::new(grid, &numbers);
                assert_eq!(sums.is_constant(), window.iter().all(|x| *x == window[0]), "{name}");
                if sums.is_constant() {
                    continue;
                }
                let sums = computed(&sums, &numbers);
                let mut got = vec![0.0; n.min(GRID_LAGS)];
                acf::autocorrelation(&sums, &mut got);
                for (got, want) in got.iter().zip(slow::autocorrelation(&window, got.len() - 1)) {
                    assert!((got - want).abs() <= 5e-13, "{name}, {n}: {got} {want}");
                }
                let mut direct = LagSums::default();
                direct.compute(&window, 0);
                let largest = window.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
                assert!((acf::mean(&sums) - acf::mean(&direct)).abs() <= 1e-15 * largest, "{name}, {n}");
                let (mut got, mut want) = ([0.0], [0.0]);
                acf::autocovariance(&sums, &mut got);
                acf::autocovariance(&direct, &mut want);
                assert!((got[0] - want[0]).abs() <= 1e-12 * want[0], "{name}, {n}: {got:?} {want:?}");
                let want = adf::test(&direct, Regression::Constant, &mut workspace);
                let Some(got) = adf::test_by_products(&sums, Regression::Constant, &mut workspace) else {
                    continue;
                };
                assert_eq!((got.status, got.used_lag, got.nobs), (want.status, want.used_lag, want.nobs));
                let off = (got.statistic - want.statistic).abs() / want.statistic.abs().max(1.0);
                assert!(
                    want.status != Status::Ok || off <= 1e-13 / want.conditioning.min(1e-4),
                    "{name}, {n}: {off:e}"
                );
            }
        }
    }

    #[test]
    fn exponents_are_of_the_largest_magnitude() {
        let exponent = |value: f64| largest_exponent(&[1e-320, value, f64::NAN, -0.0]);
        assert_eq!([0.0, 1.0, -1.5, 2.0].map(exponent), [1, 1_023, 1_023, 1_024]);
        assert_eq!([f64::INFINITY, f64::NEG_INFINITY].map(exponent), [2_047; 2]);
        assert_eq!((largest_exponent(&[]), largest_exponent(&[f64::NAN, -0.0])), (0, 0));
        assert_eq!([1, 99, 1_900, 2_047].map(Grid::of), [None; 4]);
        for exponent in [100, 1_023, 1_899] {
            let grid = Grid::of(exponent).expect("it is ordinary");
            let largest = f64::from_bits((u64::from(exponent) << 52) | ((1 << 52) - 1));
            let mut numbers = Vec::new();
            grid.numbers(&[largest, -largest, largest / 2.0, 0.0, f64::NAN], &mut numbers);
            assert_eq!(numbers, [(1 << 54) - 2, 2 - (1 << 54), (1 << 53) - 1, 0]);
        }
        let (_, numbers) =
            numbers_of(&[1.0, 2.0_f64.powi(-54), 1.4 * 2.0_f64.powi(-54), -1.6 * 2.0_f64.powi(-54)]);
        assert_eq!(numbers, [1 << 53, 1, 1, -1]);
    }
}
