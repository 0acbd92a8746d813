//! Numbers that are the same bits on every machine: drawn ones, and the shapes made of them.

/// The next number of SplitMix64 (Steele, Lea, Flood 2014): fixed for ever, as a library's generator need not be.
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A state for [`next`] that depends on all three numbers.
pub fn hash(seed: u64, a: u64, b: u64) -> u64 {
    let mut state = seed;
    state = next(&mut state) ^ a;
    state = next(&mut state) ^ b;
    next(&mut state)
}

/// Uniform in [0, 1), from the upper 53 bits.
pub fn unit(drawn: u64) -> f64 {
    (drawn >> 11) as f64 / (1u64 << 53) as f64
}

/// Triangular in (-1, 1), from both halves: noise without a logarithm, the same on every machine.
pub fn centred(drawn: u64) -> f64 {
    ((drawn >> 32) + (drawn & 0xffff_ffff)) as f64 / (1u64 << 32) as f64 - 1.0
}

/// Uniform in 0..n; 0 when there is no choice.
pub fn below(drawn: u64, n: i64) -> i64 {
    if n <= 1 { 0 } else { ((u128::from(drawn) * n as u128) >> 64) as i64 }
}

/// Nearest whole number of what is not negative; 0 for what is. Plain arithmetic, so it costs a nanosecond.
pub fn round(x: f64) -> f64 {
    (x + 0.5) as u64 as f64
}

/// A sine of turns within 0.001, by a parabola and its square: exact arithmetic, the same bits on every machine.
pub fn wave(turns: f64) -> f64 {
    let turn = turns - turns.floor();
    let (half, sign) = if turn < 0.5 { (turn, 1.0) } else { (turn - 0.5, -1.0) };
    let arch = 16.0 * half * (0.5 - half);
    sign * arch * (0.775 + 0.225 * arch)
}
