//! Bootstraps: history applied before the live samples of its series, whichever comes first. The tactics equal the slow
//! model row for row; and what is published is what all samples together give, never a window that lacks some.

use std::collections::BTreeMap;

use tidewatch_dataflows::rows::{ResultRow, WindowStats};
use tidewatch_dataflows::sample::{Reason, Samples};
use tidewatch_dataflows::settings::Settings;

use crate::oracle::feed::{self, Arrival, Told};
use crate::oracle::{Epoch, Model, from_scratch, same_row};
use crate::rules::{Tactics, same_epoch};

type Series = Vec<(u64, Vec<(i64, f64)>)>;

fn run(what: &str, settings: &Settings, epochs: &[Epoch]) -> (Vec<(i64, WindowStats)>, [u64; 6]) {
    let (mut tactics, mut model) = (Tactics::new(settings), Model::new(settings));
    let (mut rows, mut rejected) = (Vec::new(), [0; 6]);
    for (n, epoch) in epochs.iter().enumerate() {
        let place = || format!("{what}, epoch {n} of {}, {:?} {:?}", epochs.len(), epoch.end, epoch.controls);
        let out = same_epoch(&mut tactics, &mut model, epoch, &place);
        rows.extend(out.lists.windows.into_iter().map(|row| (epoch.end.processing_ms, row)));
        rejected.iter_mut().zip(out.counts.rejected).for_each(|(all, n)| *all += n);
    }
    (rows, rejected)
}

/// Series with their true samples, and from which of them on they are live.
fn truths(rng: &mut fastrand::Rng, n: usize) -> (Series, Series, i64) {
    let (mut history, mut live) = (Vec::new(), Vec::new());
    let begins_ms = feed::START_MS + 3_600_000 + rng.i64(0..3_600_000);
    for id in feed::series(rng, n) {
        let all: Vec<_> = feed::truth(rng).into_iter().take(150).collect();
        // Live from a while before to a while after the bootstrap begins, or never.
        let from_ms =
            begins_ms + [rng.i64(-400_000..400_000), rng.i64(-4_000_000..0), i64::MAX / 2][rng.usize(0..3)];
        let upto_ms = begins_ms + rng.i64(-100_000..3_600_000);
        let part =
            |keep: &dyn Fn(i64) -> bool| all.iter().copied().filter(|(at, _)| keep(*at)).collect::<Vec<_>>();
        for (to, part) in [(&mut history, part(&|at| at < upto_ms)), (&mut live, part(&|at| at >= from_ms))] {
            if !part.is_empty() {
                to.push((id.0, part));
            }
        }
    }
    (history, live, begins_ms)
}

#[test]
fn every_row_and_revision_equals_the_slow_model() {
    let (mut late, mut taken) = (0, 0);
    for seed in 0..crate::rounds(80) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0xF111);
        let settings = feed::settings(&mut rng);
        let (history, live, begins_ms) = truths(&mut rng, 5);
        let mut arrivals: Vec<Arrival> = Vec::new();
        for (id, samples) in &live {
            arrivals.extend(feed::arrivals(&mut rng, *id, samples));
        }
        let mut told: Vec<Told> = Vec::new();
        for bootstrap in 1..=rng.u64(1..3) {
            let begins_ms = begins_ms + rng.i64(0..900_000) * (bootstrap as i64 - 1);
            let publish_from_ms = [begins_ms, begins_ms - 3_000_000, i64::MIN][rng.usize(0..3)];
            let mut more = feed::bootstrap(&mut rng, bootstrap, begins_ms, &history, publish_from_ms);
            // Some are seen only after newer ones, as a server that takes samples out of order shows them.
            let seen_late = more.0.iter_mut().filter(|_| rng.u8(0..50) == 0);
            seen_late.for_each(|arrival| arrival.when_ms += 100_000);
            arrivals.extend(more.0);
            told.extend(more.1);
        }
        told.sort_by_key(|(when_ms, _)| *when_ms);
        let step_ms = [1_000, 7_000, 17_000, 40_000][rng.usize(0..3)];
        let down = if rng.bool() {
            vec![(begins_ms + 60_000, begins_ms + rng.i64(61_000..4_000_000))]
        } else {
            Vec::new()
        };
        let after_ms = [100_000, 5_000_000][rng.usize(0..2)];
        let epochs = feed::live_with_bootstraps(&settings, arrivals, &told, step_ms, &down, after_ms);
        let (rows, rejected) = run(&format!("seed {seed}"), &settings, &epochs);
        late += u64::from(rejected[Reason::BootstrapTooLate as usize] > 0);
        taken += u64::from(!rows.is_empty());
    }
    assert!(late > 0 && taken > 0, "{late} feeds with a bootstrap too late, {taken} with rows");
}

/// A sender on time and a bootstrap that brings all there was before it: from the bootstrap's end on every published window is
/// what all samples give, those that were published half-empty before are corrected, and cutting the same samples
/// into other epochs gives the same bytes.
#[test]
#[expect(clippy::too_many_lines, reason = "cases of one kind, one after the other")]
fn no_window_that_lacks_samples_is_left_and_the_same_samples_give_the_same_bytes() {
    let (mut corrected, mut before, mut with, mut after) = (0, 0, 0, 0);
    for seed in 0..crate::rounds(60) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5A3E);
        let settings = feed::settings(&mut rng);
        let begins_ms = feed::START_MS + 7_200_000 + rng.i64(0..60_000);
        let (mut history, mut live, mut all) = (Series::new(), Series::new(), Samples::default());
        for id in feed::series(&mut rng, 4) {
            let step = [5_000, 15_000, 30_000][rng.usize(0..3)];
            let from_ms = begins_ms - rng.i64(600_000..7_000_000);
            let truth: Vec<(i64, f64)> = (0..)
                .map(|i| (from_ms + i * step + rng.i64(0..step), rng.f64() * 100.0))
                .take_while(|(at, _)| *at < begins_ms + 2_400_000)
                .collect();
            // Within the raw ring's span before the bootstrap begins, in its second, or while it goes on.
            let lead_ms = [rng.i64(1_000..540_000), 0, -rng.i64(1_000..300_000)][rng.usize(0..3)];
            before += u64::from(lead_ms > 0);
            with += u64::from(lead_ms == 0);
            after += u64::from(lead_ms < 0);
            let first = truth.partition_point(|(at, _)| *at < begins_ms - lead_ms);
            // Keys that a bootstrap has overtaken by more than lateness are not published.
            let reach = truth.partition_point(|(at, _)| *at < begins_ms + 540_000).max(first);
            let overlap = (first + rng.usize(0..20)).min(reach);
            truth.iter().for_each(|(at, value)| all.push(id.0, *at, *value));
            history.push((id.0, truth[..overlap].to_vec()));
            live.push((id.0, truth[first..].to_vec()));
        }
        let want = from_scratch(&settings, &all);
        let mut finals: Vec<BTreeMap<_, _>> = Vec::new();
        for step_ms in [1_000, 5_000, 13_000] {
            let mut arrivals = Vec::new();
            for (id, samples) in &live {
                let one = |(at, value): &(i64, f64)| Arrival {
                    when_ms: *at,
                    series: *id,
                    at_ms: *at,
                    value: *value,
                    bootstrap: 0,
                };
                arrivals.extend(samples.iter().map(one));
            }
            let (bootstrapped, mut told) = feed::bootstrap(&mut rng, 9, begins_ms, &history, begins_ms);
            let ends_ms = told.last().expect("it ends").0.max(begins_ms + 400_000) + 14_000;
            told.last_mut().expect("it ends").0 = ends_ms;
            arrivals.extend(bootstrapped);
            let epochs = feed::live_with_bootstraps(&settings, arrivals, &told, step_ms, &[], 500_000);
            let what = format!("seed {seed}, every {step_ms} ms");
            let (rows, rejected) = run(&what, &settings, &epochs);
            assert_eq!(rejected[Reason::BootstrapTooLate as usize], 0, "{what}");
            let mut last = BTreeMap::new();
            for (processing_ms, row) in rows {
                if let Some(want) = want.get(&row.key()).filter(|_| processing_ms > ends_ms + step_ms) {
                    let want = WindowStats { revision: row.revision, ..*want };
                    assert!(same_row(&row, &want), "{what}:\n got {row:?}\nwant {want:?}");
                }
                corrected += u64::from(row.revision > 0);
                last.insert(row.key(), row);
            }
            let newest: BTreeMap<u64, i64> =
                live.iter().map(|(id, samples)| (*id, samples[samples.len() - 1].0)).collect();
            for (key, want) in want.iter().filter(|((id, _, at), _)| *at >= begins_ms && *at < newest[&id.0])
            {
                let got = last.get(key).unwrap_or_else(|| panic!("{what}: {key:?} was not published"));
                let want = WindowStats { revision: got.revision, ..*want };
                assert!(same_row(got, &want), "{what}:\n got {got:?}\nwant {want:?}");
            }
            let bits =
                |row: WindowStats| (row.count, row.avg.to_bits(), row.std.to_bits(), row.increase.to_bits());
            last.retain(|(id, _, at), _| *at >= begins_ms && *at < newest[&id.0]);
            finals.push(last.into_iter().map(|(key, row)| (key, bits(row))).collect());
        }
        assert!(finals.windows(2).all(|two| two[0] == two[1]), "seed {seed}: other epochs gave other bytes");
    }
    assert!(corrected > 0 && before > 0 && with > 0 && after > 0, "{corrected} {before} {with} {after}");
}

/// More live samples than may wait: the bootstrap is thrown out and the series is what its live samples make of it.
#[test]
fn a_full_ring_throws_the_bootstrap_out() {
    let mut thrown_out = 0;
    for seed in 0..crate::rounds(40) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0xF011);
        let settings = Settings { late_samples_max: rng.u32(16..40), ..feed::settings(&mut rng) };
        let begins_ms = feed::START_MS + 3_600_000;
        let (mut history, mut arrivals) = (Series::new(), Vec::new());
        for id in feed::series(&mut rng, 4) {
            let step = rng.i64(2_000..60_000);
            let first = begins_ms - rng.i64(-300_000..300_000);
            let samples = (0..200).map(|i| (first + (i - 100) * step, rng.f64())).collect::<Vec<_>>();
            history.push((id.0, samples[..100 + rng.usize(0..30)].to_vec()));
            arrivals.extend(samples[100..].iter().map(|(at_ms, value)| Arrival {
                when_ms: *at_ms,
                series: id.0,
                at_ms: *at_ms,
                value: *value,
                bootstrap: 0,
            }));
        }
        let (bootstrapped, told) = feed::bootstrap(&mut rng, 9, begins_ms, &history, begins_ms);
        arrivals.extend(bootstrapped);
        let epochs = feed::live_with_bootstraps(&settings, arrivals, &told, 5_000, &[], 100_000);
        thrown_out += run(&format!("seed {seed}"), &settings, &epochs).1[Reason::BootstrapTooLate as usize];
    }
    assert!(thrown_out > 0);
}

/// Bootstraps of parts of the same series that begin and end in any order, also in one epoch, under any lateness, up to and
/// after the series are forgotten; nothing is published of some of them.
#[test]
fn bootstraps_of_the_same_series_equal_the_slow_model() {
    for seed in 0..crate::rounds(40) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0xABCD_F111);
        let allowed_lateness_ms = [0, 1_000, 61_500, 600_000, 1_234_567][rng.usize(0..5)];
        let settings =
            Settings { allowed_lateness_ms, ..feed::settings(&mut rng) }.validated().expect("within bounds");
        let (history, live, begins_ms) = truths(&mut rng, 5);
        let (mut arrivals, mut told): (Vec<Arrival>, Vec<Told>) = (Vec::new(), Vec::new());
        for (id, samples) in &live {
            arrivals.extend(feed::arrivals(&mut rng, *id, samples));
        }
        for bootstrap in 1..=rng.u64(1..5) {
            let begins_ms = begins_ms + rng.i64(-9_000_000..9_000_000) * (bootstrap as i64 - 1);
            let publish_from_ms = [begins_ms, begins_ms + 500_000, i64::MIN, i64::MAX][rng.usize(0..4)];
            let mut part = |(id, all): &(u64, Vec<(i64, f64)>)| {
                let from = rng.usize(0..all.len()) * usize::from(rng.bool());
                let to = if rng.bool() { all.len() } else { rng.usize(from..all.len()) + 1 };
                (rng.u8(0..4) > 0).then(|| (*id, all[from..to].to_vec()))
            };
            let parts: Series = history.iter().filter_map(&mut part).collect();
            let (bootstrapped, more) =
                feed::bootstrap(&mut rng, bootstrap, begins_ms, &parts, publish_from_ms);
            arrivals.extend(bootstrapped);
            told.extend(more);
        }
        told.sort_by_key(|(when_ms, _)| *when_ms);
        let step_ms = [1_000, 17_000, 40_000, 700_000][rng.usize(0..4)];
        let after_ms = [100_000, 5_000_000, 30_000_000][rng.usize(0..3)];
        let epochs = feed::live_with_bootstraps(&settings, arrivals, &told, step_ms, &[], after_ms);
        run(&format!("seed {seed}"), &settings, &epochs);
    }
}
