//! What a late sample costs: it must follow from the rows it corrects, not from how far back late samples are taken.

use std::sync::Arc;
use std::time::Instant;

use tidewatch_dataflows::driver::EpochBatch;
use tidewatch_dataflows::pipeline::ShardState;
use tidewatch_dataflows::sample::{EpochEnd, Samples};
use tidewatch_dataflows::settings::Settings;
use tidewatch_dataflows::shard::AdmittedBatch;

use crate::core::{START_MS, median};

const STEP_MS: i64 = 15_000;
const MINUTE_MS: i64 = 60_000;
/// Ticks before the clock starts: half an hour more than the longest lateness.
const TICKS_BEFORE: i64 = 24 * 240 + 120;
const LATE: i64 = 2_000;

/// One series under some lateness.
struct Series {
    shard: ShardState,
    batch: AdmittedBatch,
    epoch: u64,
}

impl Series {
    fn new(allowed_lateness_ms: i64) -> Series {
        let settings = Settings { allowed_lateness_ms, late_samples_max: 1 << 20, ..Settings::default() };
        let settings = Arc::new(settings.validated().expect("they are within bounds"));
        Series { shard: ShardState::new(&settings), batch: AdmittedBatch::default(), epoch: 0 }
    }

    /// One epoch of these times; how many rows it corrected.
    fn retire(&mut self, at_ms: &[i64]) -> u64 {
        self.epoch += 1;
        let mut live = Samples::default();
        at_ms.iter().for_each(|at| live.push(0, *at, (*at % 997) as f64));
        let newest_ms = at_ms.iter().copied().max().expect("there is one");
        let end = EpochEnd {
            epoch: self.epoch,
            processing_ms: newest_ms,
            watermark_ms: newest_ms,
            last_of_input: false,
        };
        let epoch = EpochBatch { shard: 0, end, controls: &[], bootstraps: &[], live: &live, save: None };
        self.shard.retire_whole(&epoch, &mut self.batch, u64::MAX).counts.corrections
    }
}

/// Nanoseconds for each late sample, and the rows it corrected, of samples that come so much too late.
fn run(allowed_lateness_ms: i64, behind_ms: i64) -> (f64, f64) {
    let mut series = Series::new(allowed_lateness_ms);
    let before: Vec<i64> = (0..TICKS_BEFORE).map(|tick| START_MS + tick * STEP_MS).collect();
    series.retire(&before);
    let (mut spent, mut rows) = (0.0, 0);
    for tick in 0..LATE {
        let newest_ms = START_MS + (TICKS_BEFORE + tick) * STEP_MS;
        series.retire(&[newest_ms]);
        let begun = Instant::now();
        rows += series.retire(&[newest_ms - behind_ms - 7_000]);
        spent += begun.elapsed().as_secs_f64();
    }
    (spent * 1e9 / LATE as f64, rows as f64 / LATE as f64)
}

pub fn late() {
    let cases = [("10m", 10, 5), ("1d", 1_440, 5), ("1d", 1_440, 1_200)];
    let mut figures = vec![Vec::new(); cases.len()];
    for _ in 0..5 {
        for ((_, lateness, behind), figures) in cases.iter().zip(&mut figures) {
            let (ns, rows) = run(lateness * MINUTE_MS, behind * MINUTE_MS);
            assert!(rows > 3.0, "late samples correct rows");
            figures.push((ns, rows));
        }
    }
    let mut ns = Vec::new();
    for ((lateness, _, behind), figures) in cases.iter().zip(&figures) {
        let middle = median(&mut figures.iter().map(|(ns, _)| *ns).collect::<Vec<_>>());
        let rows = figures[0].1;
        println!(
            "lateness {lateness:>3}, {behind:>4} m late: {middle:>7.0} ns a late sample, {rows:>5.1} rows, {:>5.0} ns a row",
            middle / rows
        );
        ns.push(middle);
    }
    println!("1d against 10m at the same delay: {:.2}", ns[1] / ns[0]);
}
