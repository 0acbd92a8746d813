//! What a profile of a series costs: autocorrelation, Ljung-Box and ADF of one window, beside their slow twins.

use std::hint::black_box;
use std::time::Instant;

use tidewatch_dataflows::kernels::lag_sums::LagSums;
use tidewatch_dataflows::kernels::reference::stationarity as slow;
use tidewatch_dataflows::kernels::{acf, adf, ljung_box};

use crate::core::median;

const WINDOWS: usize = 32;
/// The twins need a thousand times longer.
const ROUNDS: usize = 50;
const REGRESSION: adf::Regression = adf::Regression::Constant;

/// Windows of random walks and of autoregressions, some of them far from 0.
fn windows(n: usize) -> Vec<Vec<f64>> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut window = |i: usize| {
        let (keep, offset, mut x) = ([1.0, 0.9, 0.5][i % 3], [0.0, 4e10][i % 2], 0.0);
        let mut next = || {
            x = keep * x + (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
            offset + x
        };
        (0..n).map(|_| next()).collect()
    };
    (0..WINDOWS).map(&mut window).collect()
}

/// The memory of an evaluation.
struct Evaluation {
    sums: LagSums,
    workspace: adf::Workspace,
    autocorrelations: Vec<f64>,
    half_widths: Vec<f64>,
}

impl Evaluation {
    fn new(n: usize) -> Evaluation {
        let room = vec![0.0; acf::default_lags(n) + 1];
        Evaluation {
            sums: LagSums::default(),
            workspace: adf::Workspace::default(),
            autocorrelations: room.clone(),
            half_widths: room,
        }
    }

    /// The ADF statistic and the p-value of Ljung-Box.
    fn run(&mut self, window: &[f64]) -> (f64, f64) {
        let (n, lags) = (window.len(), ljung_box::verdict_lags(window.len()));
        self.sums.compute(window, self.autocorrelations.len() - 1);
        acf::autocorrelation(&self.sums, &mut self.autocorrelations);
        acf::bartlett_half_widths(&self.autocorrelations, n, &mut self.half_widths);
        black_box(&self.half_widths);
        let q = ljung_box::statistic(&self.autocorrelations, n, lags);
        let adf = adf::test(&self.sums, REGRESSION, &mut self.workspace);
        (adf.statistic, ljung_box::p_value(q, lags))
    }
}

fn run_slowly(window: &[f64]) -> (f64, f64) {
    let (n, lags) = (window.len(), ljung_box::verdict_lags(window.len()));
    black_box(slow::autocorrelation(window, acf::default_lags(n)));
    let p = slow::chi_squared_survival(slow::ljung_box(window, lags), lags);
    (slow::adf(window, REGRESSION).unwrap().statistic, p)
}

/// Microseconds for each of so many evaluations.
fn micros(count: usize, work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64() * 1e6 / count as f64
}

/// Of each length: microseconds of an evaluation, those of the twins, and the median ratio of three pairs, run in turn.
pub fn kernels() {
    for n in [240, 480, 1_440] {
        let (windows, mut evaluation) = (windows(n), Evaluation::new(n));
        let (mut fast, mut slow, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..3 {
            let (mut got, mut want) = (Vec::new(), Vec::new());
            let quick = micros(ROUNDS * WINDOWS, || {
                for _ in 0..ROUNDS {
                    got = windows.iter().map(|window| evaluation.run(window)).collect();
                }
            });
            let long = micros(WINDOWS, || want = windows.iter().map(|window| run_slowly(window)).collect());
            for (got, want) in got.iter().zip(&want) {
                let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs().max(1.0);
                assert!(near(got.0, want.0) && near(got.1, want.1), "{got:?} {want:?}");
            }
            fast.push(quick);
            slow.push(long);
            ratios.push(long / quick);
        }
        println!(
            "acf, Ljung-Box and ADF of {n:>5}     {:>7.1} µs {:>7.0} µs by the slow twins, ratio {:.0}",
            median(&mut fast),
            median(&mut slow),
            median(&mut ratios)
        );
    }
}
