//! One row against what Prometheus says of the same samples: pure, so that every case has a test.
//!
//! First the answers of `*_over_time` are compared. They may be other than ours without either being wrong: a NaN sample
//! makes them NaN, and sums of large numbers are rounded. Where they are, the raw samples decide: what is not finite is
//! left out, and the statistics are computed anew, rounded once at the end.
//!
//! Which statistics are compared, and how closely they have to agree, says their table ([`Statistic::agreement`]). A
//! deviation counts as at least 1e-7 of the largest magnitude when two roundings are compared, so a difference below 1e-16
//! of the magnitude is none: half of the distance between two neighbouring values, where a variance has no meaning. Against
//! the raw samples it counts as itself.
//!
//! What is computed may also differ by the roundings to the smallest f64 ([`reference::near`]).
//!
//! Not here: asking Prometheus.

use std::time::Instant;

use tidewatch_dataflows::kernels::reference;
use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::stages::window::row::{ExactNumbers, exact};
use tidewatch_dataflows::statistics::{Agreement, STATISTICS, Statistic};

/// What a deviation is at least taken for, as a part of the largest magnitude, when two roundings are compared.
pub const STD_FLOOR: f64 = 1e-7;

/// Most samples that came between two looks at the server and are told apart: 20 ways to choose some of them.
const CAME_MAX: usize = 6;

/// How many statistics are compared.
pub const VERIFIED_COUNT: usize = {
    let (mut place, mut found) = (0, 0);
    while place < STATISTICS.len() {
        found += STATISTICS[place].promql.is_some() as usize;
        place += 1;
    }
    found
};

/// The statistics that are compared: those that PromQL has a function for.
pub const VERIFIED: [&Statistic; VERIFIED_COUNT] = {
    let (mut place, mut found) = (0, 0);
    let mut all = [&STATISTICS[0]; VERIFIED_COUNT];
    while place < STATISTICS.len() {
        if STATISTICS[place].promql.is_some() {
            all[found] = &STATISTICS[place];
            found += 1;
        }
        place += 1;
    }
    all
};

/// What Prometheus' functions answer, in the order of [`VERIFIED`]; NaN where they answer nothing.
pub type FunctionAnswers = [f64; VERIFIED_COUNT];

/// How far two rows are apart, in the order of [`VERIFIED`].
pub type Distance = [f64; VERIFIED_COUNT];

/// No distance at all.
pub const NONE: Distance = [0.0; VERIFIED_COUNT];

/// Prometheus' own samples of a series.
#[derive(Clone, Debug, Default)]
pub struct ServerSamples {
    /// Those inside the window that are finite, by time.
    pub finite: Vec<(i64, f64)>,
    /// How many inside the window are not: NaN, infinities, native histograms.
    pub others: usize,
    /// How many of these are infinities.
    pub infinite: usize,
    /// Native histograms, in the window or the hour before.
    pub histograms: usize,
    /// Whether there are samples before the window.
    pub older: bool,
}

impl ServerSamples {
    /// Sorts the samples of a range that reaches further back than the window `(from_ms, at_ms]`.
    pub fn new(samples: &[(i64, f64)], histograms: usize, from_ms: i64, at_ms: i64) -> ServerSamples {
        let inside = || samples.iter().filter(|(t, _)| from_ms < *t && *t <= at_ms);
        let finite: Vec<_> = inside().filter(|(_, value)| value.is_finite()).copied().collect();
        let others = inside().count() - finite.len() + histograms;
        let infinite = inside().filter(|(_, value)| value.is_infinite()).count();
        ServerSamples {
            finite,
            others,
            infinite,
            histograms,
            older: samples.iter().any(|(t, _)| *t <= from_ms),
        }
    }
}

/// What a row came to.
#[derive(Clone, Debug, PartialEq)]
pub enum RowVerdict {
    /// Prometheus' functions say the same.
    Equal,
    /// The same samples without NaN and native histograms, which Prometheus counts.
    NotFinite,
    /// The same samples without those of an infinite value, which Prometheus counts and we do not.
    Infinite,
    /// What it said at first was otherwise; samples came between the two questions.
    Settled,
    /// Its samples say the same as we; the functions round.
    Rounding,
    /// Its samples say the same as we, though the functions did not.
    Samples,
    /// We know only the newest of its samples, from this time on: we began later.
    NotFull {
        /// Unix milliseconds.
        since_ms: i64,
    },
    /// We know only the newest of its samples, and the row says so: a change of settings added its window.
    Partial,
    /// It knows only the newest of our samples: it began later, or its retention ended within the window.
    PartlyAbsent,
    /// It has no sample.
    Absent,
    /// It has no sample, because we derived the series from a native histogram, which it keeps whole.
    Derived,
    /// We say something else: the statistic, ours, its.
    Different(Vec<(&'static str, f64, f64)>),
}

/// How far a row is from what the functions answer.
pub fn distance(ours: &WindowStats, theirs: &FunctionAnswers) -> Distance {
    apart(ours, theirs, STD_FLOOR)
}

/// Whether nothing is beyond its tolerance.
pub fn within(distance: &Distance) -> bool {
    VERIFIED.iter().zip(distance).all(|(statistic, apart)| *apart <= statistic.agreement.tolerance())
}

/// Judges a row by raw samples; `theirs` is what the functions answered. The distance is that from the samples.
pub fn by_samples(
    ours: &WindowStats,
    theirs: Option<&FunctionAnswers>,
    raw: &ServerSamples,
) -> (RowVerdict, Distance) {
    let (all, count) = (raw.finite.as_slice(), ours.count as usize);
    if all.is_empty() {
        return (RowVerdict::Absent, NONE);
    }
    if all.len() < count {
        let truth = exact(all);
        if !raw.older && ours.last == truth.row.last && ours.span_ms > truth.row.span_ms {
            return (RowVerdict::PartlyAbsent, NONE);
        }
        return different(ours, &truth);
    }
    let newest = &all[all.len() - count..];
    let truth = exact(newest);
    let apart = apart(ours, &answer(&truth.row), 0.0);
    if !within(&apart) || !is_of(&truth.row, ours) {
        return different(ours, &exact(all));
    }
    let verdict = if newest.len() < all.len() {
        RowVerdict::NotFull { since_ms: newest[0].0 }
    } else if raw.infinite > 0 {
        RowVerdict::Infinite
    } else if raw.others > 0 {
        RowVerdict::NotFinite
    } else if theirs.is_some_and(|theirs| counts(theirs) == counts(&answer(&truth.row))) {
        RowVerdict::Rounding
    } else {
        RowVerdict::Samples
    };
    (verdict, apart)
}

/// Whether a row was made between two looks at the server: of the earlier samples and some of those that came until the
/// later look. The distance is that from them. Where many came, or `end` is over, it is not tried.
pub fn between(
    ours: &WindowStats,
    earlier: &ServerSamples,
    later: &ServerSamples,
    end: Instant,
) -> Option<Distance> {
    moments_between(ours, earlier, later, |samples| (Instant::now() < end).then(|| exact(samples)))
}

/// The same, with what computes the statistics. They cost an exact sum over the window, so what is copied is judged first.
fn moments_between(
    ours: &WindowStats,
    earlier: &ServerSamples,
    later: &ServerSamples,
    mut truth: impl FnMut(&[(i64, f64)]) -> Option<ExactNumbers>,
) -> Option<Distance> {
    let known = |at_ms: &i64| earlier.finite.binary_search_by_key(at_ms, |(t, _)| *t).is_ok();
    let some = (ours.count as usize).checked_sub(earlier.finite.len())?;
    let expected = later.finite.len().checked_sub(earlier.finite.len())?;
    if expected > CAME_MAX || some > expected {
        return None;
    }
    let came: Vec<(i64, f64)> = later.finite.iter().filter(|(t, _)| !known(t)).copied().collect();
    if came.len() != expected {
        return None;
    }
    let before = CopiedValues::of(&earlier.finite);
    for chosen in (0_u32..1 << came.len()).filter(|chosen| chosen.count_ones() as usize == some) {
        let chosen = came.iter().enumerate().filter(|(n, _)| chosen >> n & 1 == 1).map(|(_, sample)| *sample);
        let chosen: Vec<(i64, f64)> = chosen.collect();
        if !before.and(CopiedValues::of(&chosen)).is_of(ours) {
            continue;
        }
        let mut samples = [earlier.finite.as_slice(), &chosen].concat();
        samples.sort_unstable_by_key(|(at_ms, _)| *at_ms);
        let truth = truth(&samples)?;
        let apart = apart(ours, &answer(&truth.row), 0.0);
        if within(&apart) && is_of(&truth.row, ours) {
            return Some(apart);
        }
    }
    None
}

/// What a row copies of its samples, which costs no sum.
#[derive(Clone, Copy)]
struct CopiedValues {
    min: f64,
    max: f64,
    first: Option<(i64, f64)>,
    last: Option<(i64, f64)>,
}

impl CopiedValues {
    /// Of samples by time.
    fn of(samples: &[(i64, f64)]) -> CopiedValues {
        let values = || samples.iter().map(|(_, value)| *value);
        CopiedValues {
            min: values().fold(f64::INFINITY, f64::min),
            max: values().fold(f64::NEG_INFINITY, f64::max),
            first: samples.first().copied(),
            last: samples.last().copied(),
        }
    }

    /// Of these samples and others.
    fn and(self, other: CopiedValues) -> CopiedValues {
        let both = |a: Option<(i64, f64)>, b| [a, b].into_iter().flatten();
        CopiedValues {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            first: both(self.first, other.first).min_by_key(|(at_ms, _)| *at_ms),
            last: both(self.last, other.last).max_by_key(|(at_ms, _)| *at_ms),
        }
    }

    /// Whether a row may be made of these samples.
    fn is_of(&self, ours: &WindowStats) -> bool {
        let (Some(first), Some(last)) = (self.first, self.last) else { return false };
        (ours.min, ours.max, ours.first, ours.last) == (self.min, self.max, first.1, last.1)
            && i64::from(ours.span_ms) == last.0 - first.0
    }
}

fn different(ours: &WindowStats, truth: &ExactNumbers) -> (RowVerdict, Distance) {
    let apart = apart(ours, &answer(&truth.row), 0.0);
    let judged = VERIFIED.iter().zip(answer(ours)).zip(answer(&truth.row)).zip(apart);
    let beyond = judged.filter(|((statistic, _), apart)| *apart > statistic.0.agreement.tolerance());
    let mut what: Vec<_> = beyond.map(|(((s, ours), theirs), _)| (s.name(), ours, theirs)).collect();
    let row = &truth.row;
    let also = [
        ("first", ours.first, row.first),
        ("last", ours.last, row.last),
        ("span_ms", f64::from(ours.span_ms), f64::from(row.span_ms)),
    ];
    what.extend(also.into_iter().filter(|(_, ours, theirs)| ours != theirs));
    (RowVerdict::Different(what), apart)
}

fn answer(stats: &WindowStats) -> FunctionAnswers {
    VERIFIED.map(|statistic| (statistic.value)(stats).unwrap_or(f64::NAN))
}

/// What is copied or counted of an answer.
fn counts(answer: &FunctionAnswers) -> Vec<f64> {
    let exact = VERIFIED.iter().zip(answer).filter(|(statistic, _)| statistic.agreement == Agreement::Exact);
    exact.map(|(_, value)| *value).collect()
}

fn apart(ours: &WindowStats, theirs: &FunctionAnswers, std_floor: f64) -> Distance {
    let mine = answer(ours);
    std::array::from_fn(|i| number_apart(VERIFIED[i], ours, (mine[i], theirs[i]), (std_floor, 0.0)))
}

/// How far two values of a statistic are apart, for a row of which `a` is one: relative to what its agreement says. A
/// deviation counts as at least `std_floor` of the largest magnitude; `steps` is all that the values moved.
pub fn number_apart(
    statistic: &Statistic,
    row: &WindowStats,
    (a, b): (f64, f64),
    (std_floor, steps): (f64, f64),
) -> f64 {
    let magnitude = row.min.abs().max(row.max.abs());
    let (least, computed) = match statistic.agreement {
        Agreement::Exact | Agreement::Derived => (0.0, false),
        Agreement::OfMagnitude(_) => (magnitude, true),
        Agreement::OfMagnitudes(_) => (magnitude * f64::from(row.count), true),
        Agreement::OfItself(_) => (std_floor * magnitude, true),
        Agreement::OfSteps(_) => (steps, true),
    };
    // What was beyond the numbers is stored as nothing, and may be any of those for others.
    if a == b || !(a.is_finite() || b.is_finite()) || (computed && reference::near(a, b)) {
        return 0.0;
    }
    let apart = (a - b).abs() / a.abs().max(b.abs()).max(least);
    if apart.is_nan() { f64::INFINITY } else { apart }
}

/// Whether a row was made of the samples of another, as far as it tells.
fn is_of(exact: &WindowStats, ours: &WindowStats) -> bool {
    (ours.first, ours.last, ours.span_ms) == (exact.first, exact.last, exact.span_ms)
}

#[cfg(test)]
mod tests {
    use tidewatch_dataflows::sample::SeriesId;

    use super::*;

    const AT_MS: i64 = 1_767_225_600_000;

    fn samples(values: &[f64]) -> Vec<(i64, f64)> {
        let begin = AT_MS - 1_000 * (values.len() as i64 - 1);
        values.iter().zip(0..).map(|(value, i)| (begin + 1_000 * i, *value)).collect()
    }

    fn row(samples: &[(i64, f64)]) -> WindowStats {
        let row = exact(samples).row;
        WindowStats { series: SeriesId(1), window_ms: 60_000, at_ms: AT_MS, ..row }
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
            assert_eq!(
                answer(&truth.row)[..5],
                [2.0, offset + 2.0, offset + 6.0, offset + 4.0, 2.0],
                "{offset}"
            );
        }
        assert_eq!(answer(&exact(&samples(&[1.0, 1e100, 1.0, -1e100])).row)[3], 0.5);
        assert_eq!(answer(&exact(&samples(&[1e308, -1e308])).row)[..5], [2.0, -1e308, 1e308, 0.0, 1e308]);
        assert_eq!(answer(&exact(&samples(&[1e-200, 3e-200])).row)[3..5], [2e-200, 1e-200]);
        assert_eq!(answer(&exact(&samples(&[7.0])).row)[..5], [1.0, 7.0, 7.0, 7.0, 0.0]);
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
                &["count", "avg", "std", "first"],
            ),
            // One in the middle is missing.
            (row(&[all[0], all[2], all[3]]), raw(&all), &["count", "min", "avg", "std"]),
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
        let values: Vec<f64> =
            (0..50).map(|n| if n == 9 { 100.0 } else { f64::from(n * 37 % 101) }).collect();
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
}
