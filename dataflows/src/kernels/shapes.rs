//! Series of the shapes that tell good arithmetic from bad: for tests.

/// The smallest number above 0.
pub(crate) const TINY: f64 = f64::from_bits(1);

/// A small deterministic stream of numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n
    }

    /// In (-1, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    /// Times a power of two from `low` on, of `among` many.
    pub(crate) fn scaled(&mut self, low: i32, among: usize) -> f64 {
        let exponent = low + self.below(among) as i32;
        self.unit() * 2.0_f64.powi(exponent / 2) * 2.0_f64.powi(exponent - exponent / 2)
    }
}

/// A series of one of the shapes that tell kernels apart.
pub(crate) fn values(random: &mut Random) -> Vec<f64> {
    let n = 1 + random.below(300);
    let offset = [0.0, 1.0, 4e10, -3e12, 1e16, 1e300][random.below(6)];
    let low = random.below(2_098) as i32 - 1_074;
    let (spike, kind) = (random.below(n), random.below(13));
    (0..n)
        .map(|i| match kind {
            // Some noise far from 0, or one value throughout.
            0 | 1 => offset + random.unit(),
            2 => offset * (1.0 + (random.next() % 8) as f64 * f64::EPSILON),
            3 => offset + 0.1,
            // All the numbers there are; those of a few exponents, beside the bounds of the scales as well.
            4 => random.scaled(-1_074, 2_098),
            5 => random.scaled(low, 3),
            6 => random.scaled([-420, -360, 380, 880, 1_000, 1_022][i % 6], 40),
            7 => random.scaled([-410, 390, 890][spike % 3], 20),
            // Denormals, the largest of all, and sums that cancel.
            8 => random.unit().signum() * (random.next() % 1_000) as f64 * TINY,
            9 => f64::MAX * random.unit(),
            10 => [1e16, 1.0, -1e16, 1.0][i % 4],
            // A mean and a deviation that lie just between two numbers.
            11 => [0.0, 3.0 * TINY][(i + spike) % 2],
            // One spike, and a counter that begins anew.
            _ if i == spike => -1e7,
            _ => (i % (2 + spike)) as f64 * 0.37,
        })
        .map(|value| value.clamp(-f64::MAX, f64::MAX))
        .collect()
}
