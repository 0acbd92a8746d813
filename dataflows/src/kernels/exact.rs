//! Whole numbers of any length, as many as the slow twins need to sum f64 without rounding.
//!
//! Every finite f64 is a whole number of the smallest, 2^-1074; a square of one is a whole number of 2^-2148.

/// A whole number that is not negative, in 64-bit limbs, the lowest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Natural(Vec<u64>);

impl From<u64> for Natural {
    fn from(value: u64) -> Natural {
        Natural(vec![value])
    }
}

/// The magnitude of a finite f64: `.0` times 2 to the power of `.1` times the smallest.
fn parts(value: f64) -> (u64, usize) {
    let (exponent, fraction) = (value.to_bits() >> 52 & 0x7FF, value.to_bits() & ((1 << 52) - 1));
    if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent as usize - 1) }
}

impl Natural {
    /// Adds the magnitude of an f64 to a number of the smallest.
    pub(super) fn add(&mut self, value: f64) {
        let (digits, shift) = parts(value);
        self.add_shifted(u128::from(digits), shift);
    }

    /// Adds the square of an f64 to a number of the square of the smallest.
    pub(super) fn add_square(&mut self, value: f64) {
        let (digits, shift) = parts(value);
        self.add_shifted(u128::from(digits) * u128::from(digits), 2 * shift);
    }

    /// Adds `value` times 2 to the power of `shift`; `value` is below 2^127.
    fn add_shifted(&mut self, value: u128, shift: usize) {
        let (limb, bits) = (shift / 64, shift % 64);
        let (low, high) = (u128::from(value as u64) << bits, (value >> 64) << bits);
        self.add_limb(limb, low as u64);
        self.add_limb(limb + 1, (low >> 64) as u64);
        self.add_limb(limb + 1, high as u64);
        self.add_limb(limb + 2, (high >> 64) as u64);
    }

    fn add_limb(&mut self, mut limb: usize, value: u64) {
        let mut carry = value;
        while carry != 0 {
            if limb >= self.0.len() {
                self.0.resize(limb + 1, 0);
            }
            let (sum, over) = self.0[limb].overflowing_add(carry);
            self.0[limb] = sum;
            (carry, limb) = (u64::from(over), limb + 1);
        }
    }

    fn limb(&self, limb: usize) -> u64 {
        self.0.get(limb).copied().unwrap_or(0)
    }

    /// How many bits it has; 0 of 0.
    fn bits(&self) -> usize {
        let top = self.0.iter().rposition(|limb| *limb != 0);
        top.map_or(0, |top| 64 * top + 64 - self.0[top].leading_zeros() as usize)
    }

    /// The 64 bits from bit `shift` on.
    fn bits_from(&self, shift: usize) -> u64 {
        let pair = u128::from(self.limb(shift / 64)) | u128::from(self.limb(shift / 64 + 1)) << 64;
        (pair >> (shift % 64)) as u64
    }

    /// Whether any of the lowest `bits` bits is set.
    fn any_below(&self, bits: usize) -> bool {
        (0..bits / 64).any(|limb| self.limb(limb) != 0)
            || (!bits.is_multiple_of(64) && self.limb(bits / 64) << (64 - bits % 64) != 0)
    }

    /// Whether `other` is the larger, and by how much they differ.
    pub(super) fn minus(&self, other: &Natural) -> (bool, Natural) {
        let limbs = self.0.len().max(other.0.len());
        let less = (0..limbs).rev().map(|i| self.limb(i).cmp(&other.limb(i))).find(|order| order.is_ne());
        let less = less.is_some_and(|order| order.is_lt());
        let (large, small) = if less { (other, self) } else { (self, other) };
        let mut borrow = false;
        let difference = (0..limbs).map(|i| {
            let (part, under) = large.limb(i).overflowing_sub(small.limb(i));
            let (part, again) = part.overflowing_sub(u64::from(borrow));
            borrow = under || again;
            part
        });
        (less, Natural(difference.collect()))
    }

    pub(super) fn times(&self, other: &Natural) -> Natural {
        let mut product = Natural::default();
        for (i, a) in self.0.iter().enumerate().filter(|(_, a)| **a != 0) {
            for (j, b) in other.0.iter().enumerate().filter(|(_, b)| **b != 0) {
                let part = u128::from(*a) * u128::from(*b);
                product.add_limb(i + j, part as u64);
                product.add_limb(i + j + 1, (part >> 64) as u64);
            }
        }
        product
    }

    /// This many of the smallest f64 divided by `n`: the nearest f64, of two the even one.
    pub(super) fn over(&self, n: u64) -> f64 {
        let mut quotient = self.clone();
        let mut rest = 0;
        for limb in quotient.0.iter_mut().rev() {
            let part = u128::from(rest) << 64 | u128::from(*limb);
            (*limb, rest) = ((part / u128::from(n)) as u64, (part % u128::from(n)) as u64);
        }
        let shift = quotient.bits().saturating_sub(53);
        let digits = quotient.bits_from(shift);
        // What is cut off, against half of the last digit.
        let (half, more) = if shift == 0 {
            let twice = 2 * u128::from(rest);
            (twice >= u128::from(n), twice > u128::from(n))
        } else {
            let half = quotient.bits_from(shift - 1) & 1 == 1;
            (half, half && (rest != 0 || quotient.any_below(shift - 1)))
        };
        let digits = digits + u64::from(more || half && digits & 1 == 1);
        // The bits of an f64 count on from 0 through all of them; a first digit counts one exponent up by itself.
        let bits = ((shift as u64) << 52) + digits;
        f64::from_bits(bits.min(f64::INFINITY.to_bits()))
    }

    /// The root of this many squares of the smallest f64, divided by `n`; within three roundings.
    pub(super) fn root_over(&self, n: u64) -> f64 {
        let shift = self.bits().saturating_sub(63).next_multiple_of(2);
        let root = (self.bits_from(shift) as f64).sqrt() / n as f64;
        // In two steps, neither of which is beyond the numbers, and at most the last rounds.
        let exponent = (shift / 2) as i32 - 1_074;
        root * 2.0_f64.powi(exponent / 2) * 2.0_f64.powi(exponent - exponent / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: [f64; 12] = [
        0.0,
        f64::from_bits(1),
        f64::from_bits(3),
        f64::MIN_POSITIVE,
        f64::from_bits(f64::MIN_POSITIVE.to_bits() - 1),
        1e-200,
        0.1,
        1.0,
        1.0 + f64::EPSILON,
        4e10,
        1e300,
        f64::MAX,
    ];

    fn of(value: f64) -> Natural {
        let mut natural = Natural::default();
        natural.add(value);
        natural
    }

    #[test]
    fn every_number_comes_back_and_sums_are_those_of_the_machine() {
        for a in SOME {
            assert_eq!(of(a).over(1), a);
            for b in SOME {
                let mut both = of(a);
                both.add(b);
                // One addition of the machine is rounded right.
                assert_eq!(both.over(1), a + b, "{a:e} {b:e}");
                let (negative, difference) = of(a).minus(&of(b));
                assert_eq!((negative, difference.over(1)), (a < b, (a - b).abs()), "{a:e} {b:e}");
            }
        }
    }

    #[test]
    fn quotients_are_those_of_the_machine() {
        for a in SOME {
            for n in [1, 2, 3, 7, 10, 12_345, u64::from(u32::MAX)] {
                assert_eq!(of(a).over(n), a / n as f64, "{a:e} {n}");
            }
        }
    }

    #[test]
    fn roots_of_squares_are_what_was_squared() {
        for a in SOME {
            let mut square = Natural::default();
            square.add_square(a);
            let root = square.root_over(1);
            assert!((root - a).abs() <= 4e-16 * a, "{a:e} {root:e}");
            assert_eq!(of(a).times(&of(a)).minus(&square).1.bits(), 0);
        }
    }
}
