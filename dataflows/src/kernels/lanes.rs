//! Sums over slices in eight lanes: the order of summation depends on the length alone, and compilers can use any vectors.
//!
//! A compiler may not reorder a sum, so one running sum is neither fast nor, over long slices, exact. No product is fused
//! with a sum here: results are the same on every CPU.

const LANES: usize = 8;

/// The sum of a slice; 0 of an empty one.
pub(super) fn sum(values: &[f64]) -> f64 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += chunk[lane];
        }
    }
    rest.iter().fold(total(sums), |sum, x| sum + x)
}

/// The sum of the products of two slices, as far as the shorter one goes.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let length = a.len().min(b.len());
    let (a_chunks, a_rest) = a[..length].as_chunks::<LANES>();
    let (b_chunks, b_rest) = b[..length].as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    a_rest.iter().zip(b_rest).fold(total(sums), |sum, (a, b)| sum + a * b)
}

/// The sum of `(from + i) values[i]`.
pub(super) fn weighted_sum(values: &[f64], from: f64) -> f64 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (i, chunk) in chunks.iter().enumerate() {
        let weight = from + (i * LANES) as f64;
        for lane in 0..LANES {
            sums[lane] += (weight + lane as f64) * chunk[lane];
        }
    }
    let weight = from + (chunks.len() * LANES) as f64;
    rest.iter().enumerate().fold(total(sums), |sum, (i, x)| sum + (weight + i as f64) * x)
}

/// Adds `factor` times each of `values` to `to`, as far as the shorter one goes.
pub(super) fn add_scaled(to: &mut [f64], factor: f64, values: &[f64]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += factor * value;
    }
}

fn total(sums: [f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_add_up_whatever_the_length() {
        for n in 0..50_usize {
            // Whole numbers, whose sums are exact in any order.
            let a: Vec<f64> = (0..n).map(|i| (i * i) as f64 - 7.0).collect();
            let b: Vec<f64> = (0..n).map(|i| 3.0 - i as f64).collect();
            let pairs = || a.iter().zip(&b);
            assert_eq!(sum(&a), a.iter().sum::<f64>());
            assert_eq!(dot(&a, &b), pairs().map(|(a, b)| a * b).sum::<f64>());
            let weighted: f64 = a.iter().enumerate().map(|(i, a)| (i as f64 - 3.0) * a).sum();
            assert_eq!(weighted_sum(&a, -3.0), weighted);
            let mut to = a.clone();
            add_scaled(&mut to, 2.0, &b);
            assert_eq!(to, pairs().map(|(a, b)| a + 2.0 * b).collect::<Vec<_>>());
        }
    }
}
