//! Rows against samples and answers, case by case.

use tidewatch_dataflows::rows::windows::QuantileValues;
use tidewatch_dataflows::sample::SeriesId;

use super::*;

const AT_MS: i64 = 1_767_225_600_000;

fn samples(values: &[f64]) -> Vec<(i64, f64)> {
    let begin = AT_MS - 1_000 * (values.len() as i64 - 1);
    values.iter().zip(0..).map(|(value, i)| (begin + 1_000 * i, *value)).collect()
}

fn row(samples: &[(i64, f64)]) -> WindowStats {
    let row = exact(samples).row;
    let quantiles = QuantileValues::default();
    WindowStats { series: SeriesId(1), window_ms: 60_000, at_ms: AT_MS, quantiles, ..row }
}

/// Answers of the first functions, and what `like` answers for the others.
fn answers(first: [f64; 5], like: &WindowStats) -> FunctionAnswers {
    let mut all = answer(like);
    all[..5].copy_from_slice(&first);
    all
}

fn raw(samples: &[(i64, f64)]) -> ServerSamples {
    ServerSamples::new(samples, 0, AT_MS - 60_000, AT_MS)
}

#[test]
fn the_slow_statistics_are_right_at_any_offset_and_size() {
    for offset in [0.0, 3.9e10, 1e12] {
        let truth = exact(&samples(&[offset + 2.0, offset + 6.0]));
        assert_eq!(answer(&truth.row)[..5], [2.0, offset + 2.0, offset + 6.0, offset + 4.0, 2.0], "{offset}");
    }
    assert_eq!(answer(&exact(&samples(&[1.0, 1e100, 1.0, -1e100])).row)[3], 0.5);
    assert_eq!(answer(&exact(&samples(&[1e308, -1e308])).row)[..5], [2.0, -1e308, 1e308, 0.0, 1e308]);
    assert_eq!(answer(&exact(&samples(&[1e-200, 3e-200])).row)[3..5], [2e-200, 1e-200]);
    assert_eq!(answer(&exact(&samples(&[7.0])).row)[..5], [1.0, 7.0, 7.0, 7.0, 0.0]);
}

#[test]
fn quantiles_agree_within_one_percent_and_only_where_they_are_set() {
    let place = |name| VERIFIED.iter().position(|statistic| statistic.name() == name).unwrap();
    for (offset, is_within_of_magnitude) in [(100.0, false), (-3.0, true)] {
        let values: Vec<f64> = (0..100).map(|i| offset + f64::from(i) / 16.0).collect();
        let mut ours = row(&samples(&values));
        ours.quantiles = exact(&samples(&values)).row.quantiles;
        let mut theirs = answer(&ours);
        // As PromQL has it.
        theirs[place("p50")] = offset + 49.5 / 16.0;
        assert!(within(&distance(&ours, &theirs)), "{offset}");
        theirs[place("p50")] *= 1.02;
        theirs[place("p5")] += 0.005 * offset;
        assert_eq!(within(&distance(&ours, &theirs)), is_within_of_magnitude, "{offset}");
        let shown = |ours: &WindowStats| verified_of([ours].into_iter()).len();
        assert_eq!(shown(&ours), VERIFIED_COUNT);
        ours.quantiles = QuantileValues::default();
        assert!(within(&distance(&ours, &theirs)), "{offset}");
        assert_eq!(shown(&ours), VERIFIED_COUNT - 8);
    }
}

#[test]
fn tolerances_are_those_of_the_table() {
    let ours = row(&samples(&[3.9e10 - 1.0, 3.9e10 + 1.0, 3.9e10 + 2.0]));
    let base = answer(&ours);
    let cases: [(usize, f64, bool); 12] = [
        (0, 0.0, true),
        (0, 1.0, false),
        (1, 1e-5, false),
        (2, -1e-5, false),
        (3, 3.0e-2, true),
        (3, 5.0e-2, false),
        // 1e-16 of 3.9e10.
        (4, 3.8e-6, true),
        (4, -3.8e-6, true),
        (4, 4.0e-6, false),
        (0, f64::NAN, false),
        (3, f64::NAN, false),
        (4, f64::INFINITY, false),
    ];
    for (i, change, want) in cases {
        let mut theirs = base;
        theirs[i] += change;
        assert_eq!(within(&distance(&ours, &theirs)), want, "{} {change}", VERIFIED[i].name());
    }
    let zero = row(&samples(&[0.0, 0.0]));
    assert!(within(&distance(&zero, &answers([2.0, -0.0, 0.0, 0.0, 0.0], &zero))));
    assert!(!within(&distance(&zero, &answers([2.0, 0.0, 0.0, 1e-300, 0.0], &zero))));
    // Two units of the smallest number are roundings of what is computed, and not of what is copied.
    let unit = f64::from_bits(1);
    assert!(within(&distance(&zero, &answers([2.0, 0.0, 0.0, 2.0 * unit, 2.0 * unit], &zero))));
    assert!(!within(&distance(&zero, &answers([2.0, 0.0, 0.0, 3.0 * unit, 0.0], &zero))));
    assert!(!within(&distance(&zero, &answers([2.0, 0.0, unit, 0.0, 0.0], &zero))));
    let small = row(&samples(&[1.0, 1.0 + 1e-9]));
    let mut theirs = answer(&small);
    theirs[4] *= 1.0 + 1e-6;
    assert!(!within(&distance(&small, &theirs)), "5e-10 is not below the values' own grid");
    let huge = WindowStats { std: f64::NAN, ..row(&samples(&[1e308, 1e307])) };
    let mut theirs = answer(&huge);
    theirs[4] = f64::INFINITY;
    assert!(within(&distance(&huge, &theirs)), "beyond the numbers on both sides");
}

#[test]
fn raw_samples_decide() {
    let all = samples(&[5.0, 1.0, 4.0, 8.0]);
    let good = row(&all);
    let exact = answer(&good);
    let with_nan = {
        let mut more = all.clone();
        more.insert(2, (all[1].0 + 500, f64::NAN));
        more.insert(0, (all[0].0 - 1, f64::NAN));
        more
    };
    let rounded = answers([4.0, 1.0, 8.0, 4.5, 2.5 * (1.0 + 1e-6)], &good);
    let not_full = RowVerdict::NotFull { since_ms: all[1].0 };
    let mut with_infinity = all.clone();
    with_infinity.push((AT_MS, f64::INFINITY));
    let cases: [(&str, WindowStats, Option<FunctionAnswers>, ServerSamples, RowVerdict); 11] = [
        (
            "an infinity is left out, also where it is the newest",
            good,
            Some(answers([5.0, 1.0, f64::INFINITY, f64::INFINITY, f64::NAN], &good)),
            raw(&with_infinity),
            RowVerdict::Infinite,
        ),
        (
            "and where we began later",
            row(&all[1..]),
            Some(answers([5.0, 1.0, f64::INFINITY, f64::INFINITY, f64::NAN], &good)),
            raw(&with_infinity),
            RowVerdict::NotFull { since_ms: all[1].0 },
        ),
        (
            "NaN is left out",
            good,
            Some(answers([6.0, f64::NAN, 8.0, f64::NAN, f64::NAN], &good)),
            raw(&with_nan),
            RowVerdict::NotFinite,
        ),
        ("rounding", good, Some(rounded), raw(&all), RowVerdict::Rounding),
        (
            "another count",
            good,
            Some(answers([3.0, 1.0, 8.0, 4.5, 2.5], &good)),
            raw(&all),
            RowVerdict::Samples,
        ),
        ("nothing answered", good, None, raw(&all), RowVerdict::Samples),
        ("we began later", row(&all[1..]), Some(exact), raw(&all), not_full),
        ("it has nothing", good, None, raw(&[]), RowVerdict::Absent),
        ("it has NaN only", good, None, raw(&[(AT_MS, f64::NAN)]), RowVerdict::Absent),
        ("it began later", good, None, raw(&all[2..]), RowVerdict::PartlyAbsent),
        (
            "native histograms",
            good,
            Some(answers([5.0, 1.0, 8.0, 4.5, 2.5], &good)),
            ServerSamples { others: 1, ..raw(&all) },
            RowVerdict::NotFinite,
        ),
    ];
    for (what, ours, theirs, raw, want) in cases {
        assert_eq!(by_samples(&ours, theirs.as_ref(), &raw).0, want, "{what}");
    }
}

#[test]
fn what_is_wrong_is_found_and_named() {
    let all = samples(&[5.0, 1.0, 4.0, 8.0]);
    let good = row(&all);
    let before = [&[(AT_MS - 60_000, 5.0)][..], &all].concat();
    let cases: [(WindowStats, ServerSamples, &[&str]); 9] = [
        (WindowStats { max: 9.0, ..good }, raw(&all), &["max"]),
        (WindowStats { min: 0.0, ..good }, raw(&all), &["min"]),
        (WindowStats { avg: 4.5 + 1e-10, ..good }, raw(&all), &["avg"]),
        (WindowStats { std: good.std * (1.0 + 1e-8), ..good }, raw(&all), &["std"]),
        (WindowStats { count: 5, ..good }, raw(&all), &["count"]),
        (WindowStats { last: 7.0, ..good }, raw(&all), &["last"]),
        // The oldest sample is gone, but the span says that it was there.
        (
            WindowStats { span_ms: good.span_ms, ..row(&all[1..]) },
            raw(&all),
            &["count", "avg", "std", "sum", "changes", "resets", "first"],
        ),
        // One in the middle is missing.
        (row(&[all[0], all[2], all[3]]), raw(&all), &["count", "min", "avg", "std", "sum", "changes"]),
        // It knows what was before, so it did not begin later.
        (WindowStats { count: 6, span_ms: 50_000, ..good }, raw(&before), &["count", "span_ms"]),
    ];
    for (ours, raw, want) in cases {
        let (verdict, _) = by_samples(&ours, None, &raw);
        let RowVerdict::Different(what) = verdict else { panic!("{want:?}: {verdict:?}") };
        assert_eq!(what.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), want);
    }
}

#[test]
fn a_row_may_be_of_a_moment_between_two_looks() {
    let all = samples(&[5.0, 1.0, 4.0, 8.0, 3.0, 7.0]);
    let of = |which: &[usize]| which.iter().map(|n| all[*n]).collect::<Vec<_>>();
    let (earlier, later) = (raw(&of(&[0, 3, 5])), raw(&all));
    let end = Instant::now() + std::time::Duration::from_secs(60);
    let between = |ours: &WindowStats, earlier: &ServerSamples, later: &ServerSamples| {
        between(ours, earlier, later, end)
    };
    for which in [&[0, 3, 5][..], &[0, 1, 3, 5], &[0, 2, 3, 4, 5], &[0, 1, 2, 3, 4, 5]] {
        assert!(between(&row(&of(which)), &earlier, &later).is_some(), "{which:?}");
    }
    let good = row(&of(&[0, 2, 3, 5]));
    for wrong in [
        row(&of(&[0, 3])),
        row(&of(&[1, 2, 3, 5])),
        WindowStats { max: 9.0, ..good },
        WindowStats { avg: good.avg + 1e-9, ..good },
        WindowStats { last: 6.0, ..good },
        WindowStats { count: 7, ..good },
    ] {
        assert_eq!(between(&wrong, &earlier, &later), None, "{wrong:?}");
    }
    // A sample that went away is no matter of late ones.
    assert_eq!(between(&good, &raw(&of(&[0, 3, 5])), &raw(&of(&[0, 2, 3]))), None);
    let many = raw(&samples(&[1.0; 30]));
    assert_eq!(between(&row(&samples(&[1.0; 20])), &raw(&[]), &many), None);
    // Once the time is over nothing is tried.
    assert_eq!(super::between(&good, &earlier, &later, Instant::now()), None);
}

#[test]
fn few_sums_are_computed_for_a_moment_between_two_looks() {
    let values: Vec<f64> = (0..50).map(|n| if n == 9 { 100.0 } else { f64::from(n * 37 % 101) }).collect();
    let all = samples(&values);
    // Six came late, in the middle.
    let earlier: Vec<_> =
        all.iter().enumerate().filter(|(n, _)| !(20..26).contains(n)).map(|(_, s)| *s).collect();
    let (earlier, later) = (raw(&earlier), raw(&all));
    let some: Vec<_> =
        all.iter().enumerate().filter(|(n, _)| !(23..26).contains(n)).map(|(_, s)| *s).collect();
    let good = row(&some);
    for (ours, sums, found) in [
        (good, 1..=20, true),
        (WindowStats { avg: good.avg * 1.1, ..good }, 20..=20, false),
        (WindowStats { min: -1.0, ..good }, 0..=0, false),
        (WindowStats { max: 500.0, ..good }, 0..=0, false),
        (WindowStats { first: 50.0, ..good }, 0..=0, false),
        (WindowStats { last: 50.5, ..good }, 0..=0, false),
        (WindowStats { span_ms: good.span_ms - 1, ..good }, 0..=0, false),
        (WindowStats { count: good.count + 4, ..good }, 0..=0, false),
    ] {
        let mut computed = 0;
        let apart = moments_between(&ours, &earlier, &later, |samples| {
            computed += 1;
            Some(exact(samples))
        });
        assert!(apart.is_some() == found && sums.contains(&computed), "{computed} sums: {ours:?}");
    }
    // Seven are too many to tell apart.
    let seven: Vec<_> =
        all.iter().enumerate().filter(|(n, _)| !(19..26).contains(n)).map(|(_, s)| *s).collect();
    assert!(moments_between(&good, &raw(&seven), &later, |_| panic!("no sum")).is_none());
}

#[test]
fn a_window_is_open_at_its_left() {
    let edge = [(AT_MS - 60_000, 1.0), (AT_MS - 59_999, 2.0), (AT_MS, 3.0), (AT_MS + 1, 4.0)];
    let raw = raw(&edge);
    assert_eq!((raw.finite.as_slice(), raw.others, raw.older), (&edge[1..3], 0, true));
}
