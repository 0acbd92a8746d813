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
use tidewatch_dataflows::statistics::{Agreement, STATISTICS, Shown, Statistic};

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

/// Those of them that some of these rows have.
pub fn verified_of<'a>(rows: impl Iterator<Item = &'a WindowStats> + Clone) -> Vec<&'static Statistic> {
    let is_shown = |statistic: &Statistic| {
        statistic.shown != Shown::Selected || rows.clone().any(|row| (statistic.value)(row).is_some())
    };
    VERIFIED.into_iter().filter(|statistic| is_shown(statistic)).collect()
}

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
    std::array::from_fn(|i| match VERIFIED[i].shown == Shown::Selected && mine[i].is_nan() {
        // It is not set for the series.
        true => 0.0,
        false => number_apart(VERIFIED[i], ours, (mine[i], theirs[i]), (std_floor, 0.0)),
    })
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
        Agreement::OfQuantile(_) if row.min < 0.0 && row.max > 0.0 => (magnitude, true),
        Agreement::OfQuantile(_) => (0.0, true),
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
#[path = "judge_tests.rs"]
mod tests;
