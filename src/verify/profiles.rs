//! Stored profiles against the samples that Prometheus has: steps are made of these, and the slow twins compute the profile.
//!
//! There is no function in PromQL to ask for, so each costs the samples of a day; `--profiles` says of how many. A profile is
//! not revised: where a sample came late after its evaluation it may differ, and the next one has it.

use tidewatch_dataflows::rows::SeriesProfile;
use tidewatch_dataflows::settings::STEP_MS;
use tidewatch_dataflows::stages::profile::check::{compare, step_of};

use super::judge::ServerSamples;
use super::report::{ProfileDifference, ProfileReport};

/// Steps that a profile is of, if it is full.
const STEPS_MAX: usize = 1_440;
/// Samples are asked for over a whole profile.
pub const SPAN_MS: i64 = STEPS_MAX as i64 * STEP_MS;

/// Judges a profile by the samples of its day.
pub fn judge(
    name: &str,
    labels: &str,
    row: &SeriesProfile,
    server: &ServerSamples,
    report: &mut ProfileReport,
) {
    if server.finite.is_empty() {
        report.absent += 1;
        return;
    }
    // As many steps as the profile is of, absent ones included.
    let held = (f64::from(row.steps) / (1.0 - row.gap_ratio)).round();
    let steps = if held.is_finite() { (held as usize).min(STEPS_MAX) } else { 0 };
    let start_ms = row.at_ms - steps as i64 * STEP_MS;
    let (before, inside) =
        server.finite.split_at(server.finite.partition_point(|(at_ms, _)| *at_ms <= start_ms));
    let is_older = server.older || !before.is_empty();
    // The first sample of a counter makes no rate, so its step is none of the profile.
    let is_first = row.is_rate && before.len() == 1 && !server.older;
    if steps < STEPS_MAX && is_older && !is_first {
        // What its first step and its gaps began with is not known here.
        report.not_full += 1;
        return;
    }
    if steps == STEPS_MAX && !is_older {
        report.absent += 1;
        return;
    }
    let values = steps_of(row.is_rate, before.last().copied(), inside, start_ms, steps);
    let mut what = Vec::new();
    compare(row, &values, |field, ours, theirs| what.push((field, ours, theirs)));
    if what.is_empty() {
        report.equal += 1;
        return;
    }
    report.different += 1;
    let (name, labels) = (name.to_owned(), labels.to_owned());
    report.keep(ProfileDifference { series: row.series, name, labels, at_ms: row.at_ms, what });
}

/// The values of so many steps after `start_ms`; NaN where there is none.
fn steps_of(
    is_rate: bool,
    mut before: Option<(i64, f64)>,
    samples: &[(i64, f64)],
    start_ms: i64,
    steps: usize,
) -> Vec<f64> {
    let (at_ms, values): (Vec<i64>, Vec<f64>) = samples.iter().copied().unzip();
    let mut from = 0;
    let step = |step: i64| {
        let upto = at_ms.partition_point(|at| *at <= start_ms + step * STEP_MS);
        let value = step_of(is_rate, before, &at_ms[from..upto], &values[from..upto]);
        before = if upto > from { Some((at_ms[upto - 1], values[upto - 1])) } else { before };
        from = upto;
        value
    };
    (1..=steps as i64).map(step).collect()
}

#[cfg(test)]
mod tests {
    use tidewatch_dataflows::rows::verdicts::{AdfStatus, ProfileStatus};

    use super::*;

    const AT_MS: i64 = 1_767_225_600_000;

    /// A sample every half minute, of a day and an hour.
    fn server(hours: i64) -> ServerSamples {
        let samples: Vec<(i64, f64)> =
            (0..hours * 120).rev().map(|i| (AT_MS - i * 30_000, (i % 7) as f64)).collect();
        ServerSamples::new(&samples, 0, AT_MS - SPAN_MS, AT_MS)
    }

    /// What is computed of them, as far as it is said here.
    fn row(steps: u32) -> SeriesProfile {
        SeriesProfile {
            at_ms: AT_MS,
            steps,
            mean: 3.0,
            status: ProfileStatus::TooShort,
            adf_status: AdfStatus::TooShort,
            ..SeriesProfile::default()
        }
    }

    fn judged(row: &SeriesProfile, server: &ServerSamples) -> ProfileReport {
        let mut report = ProfileReport::default();
        judge("up", "{}", row, server, &mut report);
        report
    }

    #[test]
    fn a_profile_is_compared_only_where_its_whole_day_is_known() {
        assert_eq!(judged(&row(1_440), &ServerSamples::default()).absent, 1);
        assert_eq!(judged(&row(600), &server(25)).not_full, 1, "the server knows more");
        assert_eq!(judged(&row(1_440), &server(10)).absent, 1, "the server knows less");
        let young = judged(&row(600), &server(10));
        assert_eq!(young.different, 1, "both began then");
        let found = judged(&row(1_440), &server(25));
        assert_eq!((found.different, found.equal), (1, 0));
        let what = &found.differences[0].what;
        let variance = what.iter().find(|(field, ..)| *field == "variance").unwrap();
        assert!(variance.1 == 0.0 && variance.2 > 1.0, "{what:?}");
        assert!(what.iter().all(|(field, ..)| *field != "steps" && *field != "gap_ratio"), "{what:?}");
    }

    #[test]
    fn steps_are_made_of_the_samples_in_them() {
        let samples = [(1_000, 1.0), (60_000, 3.0), (130_000, 5.0), (170_000, 2.0)];
        let means = steps_of(false, None, &samples, 0, 3);
        assert_eq!((means[0], means[1].is_nan(), means[2]), (2.0, true, 3.5));
        let rates = steps_of(true, Some((0, 0.0)), &samples, 0, 3);
        assert_eq!((rates[0], rates[1].is_nan()), (3.0 / 60.0, true));
        assert_eq!(rates[2], (2.0 + 2.0) / 110.0);
    }
}
