//! One row against the samples that it is made of, computed again by the slow twin.
//!
//! How exactly numbers have to agree is as in `verify`; `increase` within 1e-10 of all that the values moved.

use tidewatch_dataflows::kernels::reference;
use tidewatch_dataflows::rows::WindowStats;

use crate::verify;

/// Tolerance of the increase, relative to the sum of all steps.
const INCREASE: f64 = 1e-10;

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
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return vec![RowDifference { field: "count", kept: f64::from(row.count), again: 0.0 }];
    };
    let values: Vec<f64> = samples.iter().map(|(_, value)| *value).collect();
    let slow = reference::moments(&values);
    let exact = [
        ("count", f64::from(row.count), values.len() as f64),
        ("min", row.min, slow.min),
        ("max", row.max, slow.max),
        ("first", row.first, first.1),
        ("last", row.last, last.1),
        ("span_ms", f64::from(row.span_ms), (last.0 - first.0) as f64),
    ];
    let mut found: Vec<RowDifference> = exact
        .into_iter()
        // As numbers: which of two zeros is the smallest depends on the order.
        .filter(|(_, kept, again)| kept != again)
        .map(|(field, kept, again)| RowDifference { field, kept, again })
        .collect();
    let answer = [values.len() as f64, slow.min, slow.max, slow.avg, slow.std];
    let beyond = verify::beyond(&verify::distance(row, &answer));
    if beyond[3] {
        found.push(RowDifference { field: "avg", kept: row.avg, again: slow.avg });
    }
    if beyond[4] {
        found.push(RowDifference { field: "std", kept: row.std, again: slow.std });
    }
    let apart = (row.increase - slow.increase).abs();
    // Beyond the numbers, the order of the steps decides what is left of their sum.
    if slow.steps.is_finite()
        && !reference::near(row.increase, slow.increase)
        && apart.partial_cmp(&(INCREASE * slow.steps)).is_none_or(|order| order.is_gt())
    {
        found.push(RowDifference { field: "increase", kept: row.increase, again: slow.increase });
    }
    found
}

#[cfg(test)]
mod tests {
    use tidewatch_dataflows::kernels::moments::Moments;
    use tidewatch_dataflows::sample::SeriesId;

    use super::*;

    /// As the workers put it together: panes of five samples, merged.
    fn row(samples: &[(i64, f64)]) -> WindowStats {
        let panes = samples.chunks(5).map(|pane| {
            let mut moments = Moments::EMPTY;
            pane.iter().for_each(|(at_ms, value)| moments.push(*at_ms, *value));
            moments
        });
        let all = panes.fold(Moments::EMPTY, |all, pane| all.then(&pane));
        WindowStats {
            series: SeriesId(1),
            window_ms: 3_600_000,
            at_ms: 3_600_000,
            revision: 0,
            count: all.count,
            span_ms: all.span_ms(),
            min: all.min,
            max: all.max,
            avg: all.avg(),
            std: all.std(),
            first: all.first,
            last: all.last,
            increase: all.increase,
            partial: false,
        }
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
