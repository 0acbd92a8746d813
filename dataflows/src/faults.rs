//! Faults that tests put into the computation; only there with the feature `faults`.
//!
//! Not here: who asks for them (the worker's `faults` reads the environment).

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};

/// Most faults at once.
pub const FAULTS_MAX: usize = 8;

/// What happens when the series is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// A panic each time.
    Panic = 1,
    /// A panic the first time.
    PanicOnce = 2,
    /// It goes on for ever.
    Hang = 3,
    /// A panic each time its state is carried over to other settings.
    PanicOnSettings = 4,
    /// No panic: a start loses the base pane of that time, and says nothing.
    Lose = 5,
}

struct Armed {
    series: AtomicU64,
    from_ms: AtomicI64,
    fault: AtomicU8,
}

static ARMED: [Armed; FAULTS_MAX] =
    [const { Armed { series: AtomicU64::new(0), from_ms: AtomicI64::new(0), fault: AtomicU8::new(0) } };
        FAULTS_MAX];

/// From now on, as fault number `n`: samples of this series from `from_ms` on.
pub fn arm(n: usize, fault: Fault, series: u64, from_ms: i64) {
    ARMED[n].series.store(series, Ordering::Relaxed);
    ARMED[n].from_ms.store(from_ms, Ordering::Relaxed);
    ARMED[n].fault.store(fault as u8, Ordering::Release);
}

/// The state of this series is carried over to other settings.
pub fn check_settings(series: u64) {
    for armed in &ARMED {
        let here = armed.fault.load(Ordering::Acquire) == Fault::PanicOnSettings as u8;
        if here && armed.series.load(Ordering::Relaxed) == series {
            panic!("a fault was put into the settings of series {series:016x}");
        }
    }
}

/// Samples up to `at_ms` of this series are applied.
pub fn check(series: u64, at_ms: i64) {
    for armed in &ARMED {
        let fault = armed.fault.load(Ordering::Acquire);
        let hit = [Fault::Panic, Fault::PanicOnce, Fault::Hang].iter().any(|known| *known as u8 == fault)
            && armed.series.load(Ordering::Relaxed) == series
            && at_ms >= armed.from_ms.load(Ordering::Relaxed);
        if !hit {
            continue;
        }
        if fault == Fault::Hang as u8 {
            loop {
                std::hint::spin_loop();
            }
        }
        if fault == Fault::PanicOnce as u8 && armed.fault.swap(0, Ordering::AcqRel) == 0 {
            continue;
        }
        panic!("a fault was put into series {series:016x}");
    }
}

/// The time whose base pane a start is to lose of this series.
pub fn lost(series: u64) -> Option<i64> {
    let lost = |armed: &&Armed| {
        armed.fault.load(Ordering::Acquire) == Fault::Lose as u8
            && armed.series.load(Ordering::Relaxed) == series
    };
    ARMED.iter().find(lost).map(|armed| armed.from_ms.load(Ordering::Relaxed))
}
