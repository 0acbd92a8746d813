//! One row against the samples that it is made of, computed again by the slow twin.
//!
//! How exactly numbers have to agree says the table of statistics, as in `verify`.

use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::stages::window::row::exact;
use tidewatch_dataflows::statistics::{Agreement, REVISION, STATISTICS, Shown, Statistic};

use crate::verify;

/// A number that is not what the samples give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowDifference {
    /// Which number.
    pub field: &'static str,
    /// As the row has it.
    pub kept: f64,
    /// As the samples give it.
    pub again: f64,
}

/// What of a row is not what these samples give, which are all in its window.
pub fn differences(row: &WindowStats, samples: &[(i64, f64)]) -> Vec<RowDifference> {
    if samples.is_empty() {
        return vec![RowDifference { field: "count", kept: f64::from(row.count), again: 0.0 }];
    }
    let exact = exact(samples);
    let judged = STATISTICS.iter().filter(|statistic| {
        // Beyond the numbers, the order of the steps decides what is left of their sum.
        let beyond = matches!(statistic.agreement, Agreement::OfSteps(_)) && !exact.steps.is_finite();
        let unset = statistic.shown == Shown::Selected && (statistic.value)(row).is_none();
        **statistic != REVISION && !beyond && !unset
    });
    let number = |statistic: &Statistic, row| (statistic.value)(row).unwrap_or(f64::NAN);
    let numbers = judged.map(|statistic| {
        let (kept, again) = (number(statistic, row), number(statistic, &exact.row));
        let scale = (verify::STD_FLOOR, exact.steps);
        let apart = verify::number_apart(statistic, row, (kept, again), scale);
        let wrong = apart > statistic.agreement.tolerance();
        (statistic.name(), kept, again, wrong)
    });
    let spans = (f64::from(row.span_ms), f64::from(exact.row.span_ms));
    let found = numbers.chain([("span_ms", spans.0, spans.1, spans.0 != spans.1)]);
    found
        .filter(|(.., wrong)| *wrong)
        .map(|(field, kept, again, _)| RowDifference { field, kept, again })
        .collect()
}

#[cfg(test)]
mod tests {
    use tidewatch_dataflows::kernels::moments::Moments;
    use tidewatch_dataflows::sample::SeriesId;
    use tidewatch_dataflows::stages::window::row::numbers;

    use super::*;

    /// As the workers put it together: panes of five samples, merged.
    fn row(samples: &[(i64, f64)]) -> WindowStats {
        let panes = samples.chunks(5).map(|pane| {
            let mut moments = Moments::EMPTY;
            pane.iter().for_each(|(at_ms, value)| moments.push(*at_ms, *value));
            moments
        });
        let all = panes.fold(Moments::EMPTY, |all, pane| all.then(&pane));
        WindowStats { series: SeriesId(1), window_ms: 3_600_000, at_ms: 3_600_000, ..numbers(&all) }
    }

    fn samples(value: impl Fn(f64) -> f64) -> Vec<(i64, f64)> {
        (1..240).map(|i| (i * 15_000, value(i as f64))).collect()
    }

    #[test]
    fn rounding_is_no_difference() {
        let waves = [
            samples(|i| (i * 0.7).sin()),
            samples(|i| 4e10 + (i * 0.7).sin()),
            samples(|i| -3e12 + i / 7.0),
            samples(|i| if i == 100.0 { -1e7 } else { (i * 0.7).sin() * 1e-3 }),
            samples(|i| if i == 1.0 { -1e7 } else { 1e-9 * i }),
            samples(|i| i * 1e-310),
            samples(|i| i * 1e-170),
            samples(|i| if i % 2.0 == 0.0 { 1e308 } else { -1e308 }),
            samples(|i| if i % 2.0 == 0.0 { 1e16 } else { -1e16 + i }),
            samples(|_| 0.1),
            samples(|_| -0.0),
            samples(|i| i % 17.0),
        ];
        for (case, samples) in waves.iter().enumerate() {
            assert_eq!(differences(&row(samples), samples), [], "case {case}");
        }
    }

    #[test]
    fn rounding_is_no_difference_and_a_wrong_number_is_one_at_any_size() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for round in 0..2_000 {
            // Whole multiples of a power of two, the smallest and some of the largest numbers included.
            let unit = match rng.i32(-1_090..1_000) {
                small if small < -1_022 => f64::from_bits(1 << (small + 1_074).max(0)),
                exponent => 2_f64.powi(exponent),
            };
            let (range, offset) = (rng.i32(1..100), rng.i32(-5..5) * 10);
            let mut all: Vec<(i64, f64)> = Vec::new();
            for i in 1..=rng.i64(2..240) {
                all.push((i * 15_000, unit * f64::from(offset + rng.i32(0..=range))));
            }
            let good = row(&all);
            assert_eq!(differences(&good, &all), [], "round {round}: {unit:e} {range} {offset}");
            let more = |value: f64| value + unit * 5.0;
            for (row, field) in [
                (WindowStats { avg: more(good.avg), ..good }, "avg"),
                (WindowStats { std: more(good.std), ..good }, "std"),
                (WindowStats { increase: more(good.increase), ..good }, "increase"),
            ] {
                let found: Vec<_> = differences(&row, &all).into_iter().map(|found| found.field).collect();
                assert_eq!(found, [field], "round {round}: {unit:e} {range} {offset}");
            }
        }
    }

    #[test]
    fn a_sample_more_or_less_and_any_other_number_is_a_difference() {
        let all = samples(|i| 100.0 + (i * 0.7).sin());
        let good = row(&all);
        for lost in [0, 1, 100, 237, 238] {
            let mut less = all.clone();
            less.remove(lost);
            let found = differences(&row(&less), &all);
            assert_eq!(found[0], RowDifference { field: "count", kept: 238.0, again: 239.0 }, "{lost}");
        }
        assert_eq!(differences(&good, &[])[0].field, "count");
        let cases: [(WindowStats, &str); 8] = [
            (WindowStats { min: good.min - 1e-9, ..good }, "min"),
            (WindowStats { max: good.max + 1e-9, ..good }, "max"),
            (WindowStats { first: 0.0, ..good }, "first"),
            (WindowStats { last: 0.0, ..good }, "last"),
            (WindowStats { span_ms: 1, ..good }, "span_ms"),
            (WindowStats { avg: good.avg * (1.0 + 1e-11), ..good }, "avg"),
            (WindowStats { std: good.std * (1.0 + 1e-8), ..good }, "std"),
            (WindowStats { increase: good.increase * (1.0 + 1e-9), ..good }, "increase"),
        ];
        for (row, field) in cases {
            let found: Vec<_> = differences(&row, &all).into_iter().map(|found| found.field).collect();
            assert_eq!(found, [field]);
        }
        let not_a_number = WindowStats { avg: f64::NAN, ..good };
        assert_eq!(differences(&not_a_number, &all)[0].field, "avg");
    }
}
