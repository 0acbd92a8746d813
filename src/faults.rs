//! Faults that tests put into a server; they are compiled in only with the feature `faults`.
//!
//! `TIDEWATCH_FAULT` is a list, separated by commas, of `panic:<series>`, `panic-once:<series>`, `hang:<series>` and
//! `panic-on-settings:<series>` (when its state is carried over to other settings), the series as 16 hex digits; `@<ms>`
//! behind one lets it wait for a sample of that time or later. With `lose:<series>@<ms>` a start loses the base pane of
//! that time. With `fail-sync:<what>@<n>` the sync number n (from 1 on) of the log `journal`, `outbox` or `series`, or of
//! `store`, fails without being made. `TIDEWATCH_CLOCK` names a file that says how far the clock is ahead, now. `MUTANT` is
//! the number of a bug that is put in on purpose, to see that the tests notice; each is one line that asks [`mutant`].
//!
//! | mutant | what is wrong |
//! |---|---|
//! | 1 | the outbox shows an epoch to sinks before it is synced |
//! | 2 | the engine is shown what is in the journal before it is synced |
//! | 3 | the journal answers before it has synced |
//! | 4 | the series log is not synced before the journal's commit |
//! | 5 | the folder is not synced after a new segment |
//! | 6 | a torn tail is not cut off |
//! | 7 | a snapshot enters the manifest before the outbox holds its epoch: the order of durability |
//! | 8 | the journal is trimmed behind the newer of two snapshots |
//! | 9 | states and manifest are renamed into place before they are synced |
//! | 10 | an epoch that the outbox holds is appended again |
//! | 11 | what is found at start is not synced |
//! | 12 | a step of processing time longer than `idle_timeout` may be a jump, however short |
//! | 13 | a slow cadence is taken for jumps |

/// Whether the bug with this number is in.
#[cfg(feature = "faults")]
pub fn mutant(n: u32) -> bool {
    static MUTANT: std::sync::OnceLock<Option<u32>> = std::sync::OnceLock::new();
    *MUTANT.get_or_init(|| std::env::var("MUTANT").ok()?.parse().ok()) == Some(n)
}

/// Whether the bug with this number is in: never.
#[cfg(not(feature = "faults"))]
#[inline]
pub const fn mutant(_: u32) -> bool {
    false
}

/// What can fail to be synced, and how many syncs are left until then.
#[cfg(feature = "faults")]
static SYNCS: [(&str, std::sync::atomic::AtomicU64); 4] = [
    ("journal", std::sync::atomic::AtomicU64::new(0)),
    ("outbox", std::sync::atomic::AtomicU64::new(0)),
    ("series", std::sync::atomic::AtomicU64::new(0)),
    ("store", std::sync::atomic::AtomicU64::new(0)),
];

/// Whether this sync is to fail without being made.
#[cfg(feature = "faults")]
pub fn sync_fails(what: &str) -> bool {
    use std::sync::atomic::Ordering::Relaxed;
    let Some((_, left)) = SYNCS.iter().find(|(name, _)| *name == what) else { return false };
    left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) == Ok(1)
}

/// Whether this sync is to fail without being made: never.
#[cfg(not(feature = "faults"))]
#[inline]
pub const fn sync_fails(_: &str) -> bool {
    false
}

/// How far the clock of this process is ahead, in milliseconds: what the file says that `TIDEWATCH_CLOCK` names.
#[cfg(feature = "faults")]
pub fn clock_ahead_ms() -> i64 {
    static FILE: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
    let Some(file) = FILE.get_or_init(|| std::env::var_os("TIDEWATCH_CLOCK")) else { return 0 };
    // While it is replaced it may be empty: as if it were not there.
    std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// How far the clock of this process is ahead: it is the machine's.
#[cfg(not(feature = "faults"))]
#[inline]
pub const fn clock_ahead_ms() -> i64 {
    0
}

/// Puts in what `TIDEWATCH_FAULT` says; once, when the process starts.
///
/// # Panics
/// If it cannot be read: a test would wait for a fault that is not there.
#[cfg(feature = "faults")]
pub fn arm() {
    use tidewatch_dataflows::faults::{self, FAULTS_MAX, Fault};
    use tidewatch_dataflows::sample::SeriesId;
    let Ok(text) = std::env::var("TIDEWATCH_FAULT") else { return };
    let all: Vec<&str> = text.split(',').collect();
    assert!(all.len() <= FAULTS_MAX, "TIDEWATCH_FAULT holds at most {FAULTS_MAX} faults; got {text:?}");
    for (n, one) in all.into_iter().enumerate() {
        let parse = || {
            let (fault, rest) = one.split_once(':')?;
            if fault == "fail-sync" {
                let (what, n) = rest.split_once('@')?;
                let (_, left) = SYNCS.iter().find(|(name, _)| *name == what)?;
                left.store(n.parse().ok()?, std::sync::atomic::Ordering::Relaxed);
                return Some(None);
            }
            let fault = match fault {
                "panic" => Fault::Panic,
                "panic-once" => Fault::PanicOnce,
                "hang" => Fault::Hang,
                "panic-on-settings" => Fault::PanicOnSettings,
                "lose" => Fault::Lose,
                _ => return None,
            };
            let (series, from_ms) = rest.split_once('@').unwrap_or((rest, "0"));
            Some(Some((fault, series.parse::<SeriesId>().ok()?, from_ms.parse().ok()?)))
        };
        let armed = parse().unwrap_or_else(|| panic!("TIDEWATCH_FAULT holds {one:?}"));
        if let Some((fault, series, from_ms)) = armed {
            faults::arm(n, fault, series.0, from_ms);
        }
    }
}
