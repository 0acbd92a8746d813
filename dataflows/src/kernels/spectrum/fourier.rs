//! The discrete Fourier transform of a power of two of complex numbers, the same bits on every machine.
//!
//! Crates that do this choose instructions by the machine they run on, or take sines and cosines from the system, whose last bits
//! differ. Periods need two transforms of one length, which is padded anyway, so a short one of our own is enough. It uses
//! additions, multiplications and the sines of `libm`, which is compiled with it.
//!
//! # Formula
//! `X_k = sum_j x_j exp(-2 pi i j k / N)`, by Stockham's algorithm of radix 4 with one last step of radix 2 where one is left.
//!
//! # Cost
//! `O(N log N)`. The table of sines is made anew when the length is another than before.

use std::f64::consts::TAU;

/// Complex numbers, their parts apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Complex {
    pub(super) re: Vec<f64>,
    pub(super) im: Vec<f64>,
}

impl Complex {
    /// This many zeros.
    pub(super) fn reset(&mut self, length: usize) {
        for part in [&mut self.re, &mut self.im] {
            part.clear();
            part.resize(length, 0.0);
        }
    }
}

/// Tables and room for transforms, made for the length that was asked for last.
#[derive(Clone, Debug, Default)]
pub(super) struct Fourier {
    length: usize,
    /// `exp(-2 pi i k / length)` for three quarters of the circle.
    roots: Complex,
    scratch: Complex,
}

impl Fourier {
    /// Transforms numbers in place. There is a power of two of them.
    pub(super) fn transform(&mut self, numbers: &mut Complex) {
        let length = numbers.re.len();
        debug_assert!(length.is_power_of_two() && numbers.im.len() == length);
        self.prepare(length);
        let (mut rest, mut stride) = (length, 1);
        while rest >= 4 {
            quarter(rest, stride, numbers, &mut self.scratch, &self.roots);
            std::mem::swap(numbers, &mut self.scratch);
            (rest, stride) = (rest / 4, 4 * stride);
        }
        if rest == 2 {
            for part in [&mut numbers.re, &mut numbers.im] {
                let (low, high) = part.split_at_mut(stride);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
        }
    }

    /// Real and imaginary part of `exp(-2 pi i k / length)` for the length of the last transform and `k` below three quarters of it.
    pub(super) fn root(&self, k: usize) -> (f64, f64) {
        (self.roots.re[k], self.roots.im[k])
    }

    fn prepare(&mut self, length: usize) {
        if self.length == length {
            return;
        }
        self.length = length;
        self.scratch.reset(length);
        self.roots.reset(length * 3 / 4);
        for k in 0..self.roots.re.len() {
            let (sin, cos) = libm::sincos(TAU * k as f64 / length as f64);
            (self.roots.re[k], self.roots.im[k]) = (cos, -sin);
        }
    }
}

/// One pass of radix 4 over all numbers, from `x` to `y`: `stride` transforms of length `rest` become four times as many of a quarter.
fn quarter(rest: usize, stride: usize, x: &Complex, y: &mut Complex, roots: &Complex) {
    let step = rest / 4;
    let groups = y.re.chunks_exact_mut(4 * stride).zip(y.im.chunks_exact_mut(4 * stride));
    for (p, (y_re, y_im)) in groups.enumerate() {
        let part = |quarter: usize| {
            let from = stride * (p + quarter * step);
            (&x.re[from..from + stride], &x.im[from..from + stride])
        };
        let root = |times: usize| (roots.re[times * p * stride], roots.im[times * p * stride]);
        let ((a_re, a_im), (b_re, b_im)) = (part(0), part(1));
        let ((c_re, c_im), (d_re, d_im)) = (part(2), part(3));
        let ((w1_re, w1_im), (w2_re, w2_im), (w3_re, w3_im)) = (root(1), root(2), root(3));
        let (y0_re, y1_re, y2_re, y3_re) = quarters(y_re);
        let (y0_im, y1_im, y2_im, y3_im) = quarters(y_im);
        for q in 0..stride {
            let (sum_re, sum_im) = (a_re[q] + c_re[q], a_im[q] + c_im[q]);
            let (gap_re, gap_im) = (a_re[q] - c_re[q], a_im[q] - c_im[q]);
            let (even_re, even_im) = (b_re[q] + d_re[q], b_im[q] + d_im[q]);
            // i (b - d)
            let (odd_re, odd_im) = (d_im[q] - b_im[q], b_re[q] - d_re[q]);
            (y0_re[q], y0_im[q]) = (sum_re + even_re, sum_im + even_im);
            let (re, im) = (gap_re - odd_re, gap_im - odd_im);
            (y1_re[q], y1_im[q]) = (re * w1_re - im * w1_im, re * w1_im + im * w1_re);
            let (re, im) = (sum_re - even_re, sum_im - even_im);
            (y2_re[q], y2_im[q]) = (re * w2_re - im * w2_im, re * w2_im + im * w2_re);
            let (re, im) = (gap_re + odd_re, gap_im + odd_im);
            (y3_re[q], y3_im[q]) = (re * w3_re - im * w3_im, re * w3_im + im * w3_re);
        }
    }
}

/// Four parts of one length.
fn quarters(values: &mut [f64]) -> (&mut [f64], &mut [f64], &mut [f64], &mut [f64]) {
    let (low, high) = values.split_at_mut(values.len() / 2);
    let quarter = low.len() / 2;
    let ((a, b), (c, d)) = (low.split_at_mut(quarter), high.split_at_mut(quarter));
    (a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference::seasonality as slow;
    use crate::kernels::shapes::Random;

    #[test]
    fn transforms_equal_sums_over_all_numbers() {
        let (mut random, mut fourier) = (Random::new(1), Fourier::default());
        for exponent in [0, 1, 2, 3, 4, 5, 8, 9, 3] {
            let length = 1 << exponent;
            let mut noise = || (0..length).map(|_| random.unit()).collect::<Vec<_>>();
            let (re, im) = (noise(), noise());
            let want = slow::transform(&re, &im);
            let mut numbers = Complex { re, im };
            fourier.transform(&mut numbers);
            for (k, want) in want.iter().enumerate() {
                let apart = (numbers.re[k] - want.0).abs().max((numbers.im[k] - want.1).abs());
                assert!(apart < 1e-14 * length as f64, "{length}: {k}: {apart:e}");
            }
        }
    }
}
