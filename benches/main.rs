//! The one bench binary. Without arguments it prints the canonical two numbers.
mod core;

use core::{Load, run};

fn main() {
    let windows = vec![(60, 1), (180, 3), (720, 12)];
    let load =
        Load { workers: 2, series: 10_000, windows: windows.clone(), fill: 240, ticks: 480, bare: false };
    let bare = run(&Load { bare: true, ..load.clone() });
    println!("bare {:.2} M/s", bare.samples_per_second / 1e6);
    for (name, l) in [
        ("canonical", load.clone()),
        ("1 worker", Load { workers: 1, ..load.clone() }),
        ("1h/1m", Load { windows: vec![(60, 1)], ..load.clone() }),
        ("12h/12m", Load { windows: vec![(720, 12)], ..load.clone() }),
        ("12h/1m", Load { windows: vec![(720, 1)], ..load.clone() }),
    ] {
        let f = run(&l);
        println!(
            "{name} {:.2} M/s {:.2} M rows/s {:.0} B/series {:.0} resident",
            f.samples_per_second / 1e6,
            f.rows_per_second / 1e6,
            f.bytes_per_series,
            f.resident_per_series
        );
    }
}
