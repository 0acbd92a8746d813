//! What a burst leaves resident beside the state of its series: bounded, as the README says.

use std::time::Duration;

use crate::support::eventually;
use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;

const README: &str = include_str!("../README.md");
/// What the README promises a minute after any burst, in megabytes.
pub const BESIDE_MAX_MB: f64 = 120.0;
/// Samples of one request.
const REQUEST_SAMPLES: usize = 10_000;
const STEP_MS: i64 = 15_000;
const START_MS: i64 = 1_767_225_600_000;

/// Sends so many samples of each of some series, all series at one time after the other, as a Prometheus does.
fn burst(tidewatch: &Tidewatch, series: usize, samples: i64) {
    let url = tidewatch.url("/api/v1/write");
    let all: Vec<usize> = (0..series).collect();
    for n in 0..samples {
        for part in all.chunks(REQUEST_SAMPLES) {
            let request = part.iter().fold(WriteRequest::default(), |request, i| {
                let labels =
                    [("__name__", format!("metric_{}", i % 100)), ("instance", format!("host-{}", i / 100))];
                let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
                request.series(&labels, &[(START_MS + n * STEP_MS, (i + n as usize) as f64)])
            });
            eventually("the samples are taken", Duration::from_secs(60), || {
                let answer = request.send(&url)?;
                if answer.status == 204 { Ok(()) } else { Err(format!("{answer:?}")) }
            });
        }
    }
    let sent = series as f64 * samples as f64;
    eventually("all are applied", Duration::from_secs(60), || {
        match tidewatch.metric("tidewatch_samples_applied_total") {
            applied if applied == sent => Ok(()),
            applied => Err(format!("{applied} of {sent}")),
        }
    });
}

#[test]
fn a_burst_leaves_little_behind_beside_the_state_of_its_series() {
    let readme = README.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(readme.contains(&format!("at most {BESIDE_MAX_MB} MB beside that a minute after any burst")));
    // Few series as well: they are spread over as many shards.
    for (series, samples) in [(20_000, 60), (200, 200)] {
        let tidewatch = Tidewatch::start("");
        burst(&tidewatch, series, samples);
        let figures = eventually("little is left", Duration::from_secs(60), || {
            let state = tidewatch.state_megabytes();
            let beside = tidewatch.resident_megabytes() - state;
            let figures = format!("{beside:.0} MB beside {state:.0} MB of state");
            // State is measured shard by shard, so not all of it is told at once.
            let all_told = state > series as f64 * 0.003;
            if all_told && beside <= BESIDE_MAX_MB { Ok(figures) } else { Err(figures) }
        });
        println!("{series} series, {samples} samples each: {figures}");
    }
}
