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

impl Random {
    /// Of a distribution near the normal one with deviation 1.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() / 2.0
    }

    /// Of a Poisson distribution with a small mean.
    pub(crate) fn poisson(&mut self, mean: f64) -> f64 {
        let (mut left, mut count) = (1.0, -1.0);
        while left > (-mean).exp() {
            left *= (self.unit() + 1.0) / 2.0;
            count += 1.0;
        }
        count
    }

    /// An autoregression of order 1.
    fn autoregression(&mut self, n: usize, coefficient: f64) -> Vec<f64> {
        let mut x = 0.0;
        let mut next = || {
            x = coefficient * x + self.normal();
            x
        };
        (0..n).map(|_| next()).collect()
    }
}

/// Families of series that tell good tests of stationarity from bad ones.
pub(crate) const FAMILIES: [&str; 25] = [
    "white noise",
    "AR 0.5",
    "AR 0.95",
    "AR -0.9",
    "random walk",
    "random walk with drift",
    "4e10 and AR 0.9",
    "3.9e10 and uniform",
    "1e12 and random walk",
    "bytes near 4e10",
    "counter of 10",
    "counter of 1e6 from 3e12",
    "sparse counts",
    "small counts",
    "steps",
    "one step",
    "heavy tails",
    "spike",
    "sine and noise",
    "sine and 1e-2",
    "sine and 1e-4",
    "smooth",
    "trend and noise",
    "1e-12 scale",
    "1e15 scale",
];

/// A series of one of the [`FAMILIES`].
pub(crate) fn family(random: &mut Random, name: &str, n: usize) -> Vec<f64> {
    let sum = |x: Vec<f64>, from: f64| {
        x.iter().scan(from, |sum, x| (*sum += x, Some(*sum)).1).collect::<Vec<f64>>()
    };
    let from = |offset: f64, scale: f64, x: Vec<f64>| x.iter().map(|x| offset + scale * x).collect();
    let sine = |period: f64, t: usize| (std::f64::consts::TAU * t as f64 / period).sin();
    let at = random.below(n.max(1));
    let mut list = |next: &mut dyn FnMut(&mut Random, usize) -> f64| -> Vec<f64> {
        (0..n).map(|t| next(random, t)).collect()
    };
    match name {
        "white noise" => list(&mut |random, _| random.normal()),
        "AR 0.5" => random.autoregression(n, 0.5),
        "AR 0.95" => random.autoregression(n, 0.95),
        "AR -0.9" => random.autoregression(n, -0.9),
        "random walk" => random.autoregression(n, 1.0),
        "random walk with drift" => sum(list(&mut |random, _| 3.0 + random.normal()), 7.0),
        "4e10 and AR 0.9" => from(4e10, 2.0, random.autoregression(n, 0.9)),
        "3.9e10 and uniform" => list(&mut |random, _| 3.9e10 + random.unit()),
        "1e12 and random walk" => from(1e12, 1.0, random.autoregression(n, 1.0)),
        "bytes near 4e10" => {
            random.autoregression(n, 0.99).iter().map(|x| 4e10 + 4_096.0 * (100.0 * x).round()).collect()
        }
        "counter of 10" => sum(list(&mut |random, _| random.poisson(10.0)), 1e6),
        "counter of 1e6 from 3e12" => sum(list(&mut |random, _| (1e6 + 3.0 * random.normal()).round()), 3e12),
        "sparse counts" => list(&mut |random, _| random.poisson(0.05)),
        "small counts" => list(&mut |random, _| random.poisson(2.0)),
        "steps" => {
            let mut level = 5.0;
            list(&mut |random, _| {
                level += if random.below(15) == 0 { random.below(7) as f64 - 3.0 } else { 0.0 };
                level
            })
        }
        "one step" => (0..n).map(|t| if t < at { 2.5 } else { 3.5 }).collect(),
        "heavy tails" => list(&mut |random, _| random.normal() / random.normal().abs().max(1e-3)),
        "spike" => list(&mut |random, t| random.normal() + if t == at { 1e6 } else { 0.0 }),
        "sine and noise" => list(&mut |random, t| sine(24.0, t) + 0.3 * random.normal()),
        "sine and 1e-2" => list(&mut |random, t| 10.0 * sine(60.0, t) + 1e-1 * random.normal()),
        "sine and 1e-4" => list(&mut |random, t| 10.0 * sine(60.0, t) + 1e-3 * random.normal()),
        "smooth" => {
            let (mut a, mut b) = (0.0, 0.0);
            random
                .autoregression(n, 0.99)
                .iter()
                .map(|x| {
                    a = 0.98 * a + x;
                    b = 0.97 * b + a;
                    b
                })
                .collect()
        }
        "trend and noise" => list(&mut |random, t| 0.5 * t as f64 + random.normal()),
        "1e-12 scale" => from(0.0, 1e-12, random.autoregression(n, 0.9)),
        "1e15 scale" => from(5e15, 1e15, random.autoregression(n, 0.9)),
        _ => panic!("there is no family {name}"),
    }
}
