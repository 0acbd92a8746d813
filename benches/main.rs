//! The one bench binary. Without arguments it prints the canonical two numbers: samples per second with the
//! default windows on 10,000 node-exporter-like series made by the workers themselves, and bytes of state per
//! series. With names it prints those sections, with `all` everything; figures that are compared are taken in
//! one run. Every section counts and checks its results.
//!
//! `cargo bench`, `cargo bench -- all`, `cargo bench -- core late million bytes journal write labels store replay churn snapshots asked kernels`
#![allow(clippy::unwrap_used)]

mod asked;
mod churn;
mod core;
mod kernels;
mod late;
mod rim;
mod seasonality;
mod snapshots;
#[allow(dead_code, reason = "what is measured here is reading it")]
#[path = "../tests/support/protobuf.rs"]
mod wire;

use core::{Figures, Load, median, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DEFAULT: [(i64, i64); 3] = [(60, 1), (180, 3), (720, 12)];

fn canonical() -> Load {
    let windows = DEFAULT.to_vec();
    Load {
        workers: 2,
        series: 10_000,
        windows,
        fill: 240,
        ticks: 480,
        bare: false,
        profiles: true,
        value: core::value,
    }
}

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if asked.is_empty() {
        let figures = run(&canonical());
        println!("{:.0} samples/s", figures.samples_per_second);
        println!("{:.0} bytes/series", figures.bytes_per_series);
        return;
    }
    let sections: [(&str, fn()); 14] = [
        ("core", core_section),
        ("late", late::late),
        ("million", million_section),
        ("bytes", bytes_section),
        ("journal", rim::journal),
        ("write", rim::remote_write),
        ("labels", rim::labels),
        ("store", rim::store),
        ("replay", rim::replay),
        ("snapshots", snapshots::snapshots),
        ("churn", churn::churn),
        ("asked", asked::asked),
        ("kernels", kernels::kernels),
        ("seasonality", seasonality::seasonality),
    ];
    for name in &asked {
        assert!(
            name == "all" || sections.iter().any(|(known, _)| known == name),
            "there is no section {name:?}; there are all, {}",
            sections.map(|(known, _)| known).join(", ")
        );
    }
    for (name, section) in sections {
        if asked.iter().any(|ask| ask == name || ask == "all") {
            println!("== {name}");
            section();
        }
    }
}

fn show(what: &str, f: &Figures) {
    println!(
        "{what:<34} {:>7.2} M samples/s {:>6.0} ns cpu/sample {:>6.2} M rows/s {:>7.0} bytes/series",
        f.samples_per_second / 1e6,
        f.cpu_ns_per_sample,
        f.rows_per_second / 1e6,
        f.bytes_per_series
    );
}

/// The canonical load beside its yardsticks: each ratio is the median of three pairs, run in turn.
fn core_section() {
    let load = Load { profiles: false, ..canonical() };
    let only = |windows: &[(i64, i64)]| Load { windows: windows.to_vec(), ..load.clone() };
    let two = ("1h/1m 3h/3m 12h/12m, 2 workers", load.clone());
    let one = ("1h/1m 3h/3m 12h/12m, 1 worker", Load { workers: 1, ..load.clone() });
    let bare = ("bare exchange, 2 workers", Load { bare: true, ..load.clone() });
    let (short, long, dense) =
        (("1h/1m", only(&[(60, 1)])), ("12h/12m", only(&[(720, 12)])), ("12h/1m", only(&[(720, 1)])));
    ratio("windows / bare exchange, rate", &two, &bare);
    ratio("2 workers / 1 worker, rate", &two, &one);
    ratio("1h/1m / 12h/12m, rate", &short, &long);
    ratio("1h/1m / 12h/1m, rate", &short, &dense);
    // An evaluation looks at a day: it costs most once that has passed.
    let day = Load { series: 1_000, fill: 5_760, ..load };
    let with = ("windows and profiles, after a day", Load { profiles: true, ..day.clone() });
    ratio("with profiles / windows alone", &with, &("windows alone, after a day", day));
}

fn ratio(what: &str, a: &(&str, Load), b: &(&str, Load)) {
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let (first, second) = (run(&a.1), run(&b.1));
        show(a.0, &first);
        show(b.0, &second);
        ratios.push(first.samples_per_second / second.samples_per_second);
    }
    println!("{what:<34} {:.2}", median(&mut ratios));
}

/// What a series takes once its rings are full, by the kind of its values.
fn bytes_section() {
    for (kind, value) in core::KINDS {
        let figures = run(&Load { series: 1_000, fill: 2_880, ticks: 240, value, ..canonical() });
        println!("{kind:<34} {:>7.0} bytes/series", figures.bytes_per_series);
    }
}

/// What a hundred times the series cost: memory is no longer cached. Windows alone, for which 24 GiB are enough.
fn million_section() {
    let windows = Load { profiles: false, ..canonical() };
    let few = run(&windows);
    show("10 k series", &few);
    let many = run(&Load { series: 1_000_000, fill: 240, ticks: 48, ..windows });
    show("1 M series", &many);
    println!("resident bytes/series at 1 M   {:.0} after one hour", many.resident_per_series);
    println!("1 M / 10 k, cost per sample    {:.2}", few.samples_per_second / many.samples_per_second);
}
