//! Settings that change: what is carried over equals the slow model row for row, for windows that stay nothing changes,
//! and one that is added is full once it reaches back no further than what was kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use tidewatch_dataflows::rows::WindowStats;
use tidewatch_dataflows::sample::Control;
use tidewatch_dataflows::settings::{Settings, Window};

use crate::oracle::feed::{self, Arrival, Told};
use crate::oracle::{Epoch, Model, same_row};
use crate::rules::{Tactics, same_epoch};
use crate::support::process::Tidewatch;
use crate::support::remote_write::WriteRequest;
use crate::support::stored;

/// A live feed of a few series, at times with bootstraps and a server that was away.
fn feed(rng: &mut fastrand::Rng, settings: &Settings, bootstraps: bool) -> Vec<Epoch> {
    let (mut arrivals, mut history, mut told): (Vec<Arrival>, Vec<_>, Vec<Told>) = Default::default();
    for id in feed::series(rng, 5) {
        let truth = feed::truth(rng);
        let live = if bootstraps { rng.usize(0..truth.len() / 2) } else { 0 };
        arrivals.extend(feed::arrivals(rng, id.0, &truth[live..]));
        history.push((id.0, truth));
    }
    let first = arrivals.iter().map(|a| a.when_ms).min().expect("there are arrivals");
    if bootstraps {
        for bootstrap in 1..=rng.u64(1..3) {
            let begins_ms = first + rng.i64(0..1_500_000);
            let publish_from_ms = [begins_ms, i64::MIN][rng.usize(0..2)];
            let more = feed::bootstrap(rng, bootstrap, begins_ms, &history, publish_from_ms);
            arrivals.extend(more.0);
            told.extend(more.1);
        }
        told.sort_by_key(|(when_ms, _)| *when_ms);
    }
    let away = first + rng.i64(0..4_000_000);
    let down = if rng.bool() { vec![(away, away + rng.i64(20_000..9_000_000))] } else { Vec::new() };
    let step_ms = [1_000, 7_000, 17_000][rng.usize(0..3)];
    feed::live_with_bootstraps(
        settings,
        arrivals,
        &told,
        step_ms,
        &down,
        [100_000, 15_000_000][rng.usize(0..2)],
    )
}

#[test]
fn every_row_and_revision_equals_the_slow_model() {
    let (mut partial, mut full, mut other_base) = (0, 0, 0);
    for seed in 0..crate::rounds(40) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5E77);
        let first = feed::settings(&mut rng);
        let bootstraps = rng.u8(0..3) == 0;
        let mut epochs = feed(&mut rng, &first, bootstraps);
        let all = feed::change_settings(&mut rng, &first, &mut epochs);
        other_base += all.windows(2).filter(|pair| pair[0].base_ms() != pair[1].base_ms()).count();
        let was: BTreeSet<i64> = first.windows.iter().map(|w| w.length_ms).collect();
        let (mut tactics, mut model) = (Tactics::new(&first), Model::new(&first));
        for (n, epoch) in epochs.iter().enumerate() {
            let place = || format!("seed {seed}, epoch {n} of {}, {:?}\n{all:#?}", epochs.len(), epoch.end);
            for row in same_epoch(&mut tactics, &mut model, epoch, &place).lists.windows {
                partial += u64::from(row.partial);
                full += u64::from(!row.partial && !was.contains(&row.window_ms));
            }
        }
    }
    assert!(
        partial > 0 && full > 0 && other_base > 0,
        "{partial} partial, {full} full, {other_base} other base panes"
    );
}

/// What a run of the tactics gives.
fn run(settings: &Settings, epochs: &[Epoch]) -> Vec<WindowStats> {
    let mut tactics = Tactics::new(settings);
    epochs.iter().flat_map(|epoch| tactics.epoch(epoch).lists.windows).collect()
}

/// Bits, and the time when they came: a row twice would be two.
fn bits(row: &WindowStats) -> ([i64; 3], [u32; 3], [u64; 7]) {
    let floats = [row.min, row.max, row.avg, row.std, row.first, row.last, row.increase].map(f64::to_bits);
    ([row.series.0 as i64, row.window_ms, row.at_ms], [row.revision, row.count, row.span_ms], floats)
}

#[test]
fn windows_that_stay_are_the_same_bits_as_if_nothing_had_changed() {
    let mut changed = 0;
    for seed in 0..crate::rounds(20) {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x57A1);
        let first = feed::settings(&mut rng);
        let epochs = feed(&mut rng, &first, seed % 3 == 0);
        let mut others = epochs.clone();
        // Windows come and go, but not the base pane, nor how long a slot is kept.
        let mut now = first.clone();
        for _ in 0..rng.usize(1..4) {
            let hop_ms = first.base_ms() * rng.i64(1..10);
            let added = Window { length_ms: hop_ms * rng.i64(1..20), hop_ms };
            now.windows.retain(|w| first.windows.contains(w) || rng.bool());
            if added.length_ms < first.longest_ms() {
                now.windows.retain(|w| w.length_ms != added.length_ms || first.windows.contains(w));
                now.windows.push(added);
            }
            let Ok(next) = now.clone().validated() else { continue };
            now = next;
            let at = rng.usize(0..others.len());
            others[at].controls.push(Arc::new(Control::Settings(Arc::new(now.clone()))));
        }
        let rows = |rows: Vec<WindowStats>| -> Vec<_> {
            let stays = |row: &WindowStats| first.windows.iter().any(|w| w.length_ms == row.window_ms);
            rows.iter().filter(|row| stays(row)).map(bits).collect()
        };
        let (want, got) = (rows(run(&first, &epochs)), run(&first, &others));
        changed += u64::from(got.len() > want.len());
        assert!(want == rows(got), "seed {seed}: {first:?} {now:?}");
    }
    assert!(changed > 0, "some feeds must have rows of added windows");
}

/// A server's settings: lines of windows, and the rest.
fn config(windows: &str, rest: &str) -> String {
    format!("windows: [{windows}]\n{rest}\nallowed_lateness: 30s\n")
}

/// Sends a sample a second, `from..to` seconds after `start_ms`.
fn send(tidewatch: &Tidewatch, start_ms: i64, from: i64, to: i64) {
    for name in ["one", "two_total"] {
        let samples: Vec<(i64, f64)> =
            (from..to).map(|i| (start_ms + i * 1_000, (i * i % 37) as f64)).collect();
        let request = WriteRequest::default().series(&[("__name__", name), ("job", "changes")], &samples);
        let answer = request.send(&tidewatch.url("/api/v1/write")).unwrap();
        assert!((200..300).contains(&answer.status), "{answer:?}");
    }
}

/// The rows of one window that are partial, and those that are not.
fn count(rows: &[Value], window: &str) -> (usize, usize) {
    let of_window = || rows.iter().filter(|row| row["window"] == window);
    let partial = of_window().filter(|row| row["partial"] == true).count();
    assert!(of_window().all(|row| row["partial"] == true || row.get("partial").is_none()));
    (partial, of_window().count() - partial)
}

#[test]
fn a_server_starts_with_other_settings_and_goes_on() {
    let kept = "{length: 10s, hop: 5s}";
    let first = config(&format!("{kept}, {{length: 1m, hop: 10s}}"), "idle_timeout: 5s");
    let mut tidewatch = Tidewatch::start(&first);
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let start_ms = (now_ms - 200_000).div_euclid(60_000) * 60_000;
    // What is sent after a change is a little ahead of the clock, and so beyond what was past then.
    send(&tidewatch, start_ms, 0, 180);
    assert_eq!(tidewatch.process().terminate().code(), Some(0));

    // One window goes; of those that come, one can be made of what is held, the other not wholly.
    tidewatch.configure(&config(
        &format!("{kept}, {{length: 20s, hop: 10s}}, {{length: 3m, hop: 10s}}"),
        "idle_timeout: 7s",
    ));
    tidewatch.start_again();
    let log = tidewatch.process().log();
    assert!(log.contains("settings changed: idle_timeout_ms is 5000 in the journal and 7000 now"), "{log}");
    send(&tidewatch, start_ms, 180, 420);
    tidewatch.process().kill();

    // And again, with another base pane, after kill -9.
    tidewatch.configure(&config(
        &format!("{kept}, {{length: 3m, hop: 10s}}, {{length: 16s, hop: 4s}}"),
        "catch_up: 6m",
    ));
    tidewatch.start_again();
    send(&tidewatch, start_ms, 420, 700);
    tidewatch.process().kill();
    tidewatch.start_again();
    let (from, to) = (start_ms / 1_000 - 60, start_ms / 1_000 + 900);
    let range = [("start", from.to_string()), ("end", to.to_string())];
    let range: Vec<(&str, &str)> = range.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let rows = tidewatch.rows("/api/v1/windows", &range);
    assert_eq!(count(&rows, "10s").0, 0);
    assert!(count(&rows, "1m").1 > 0 && count(&rows, "20s").1 > 0, "{rows:?}");
    let (partial, full) = count(&rows, "3m");
    assert!(partial > 0 && full > 0, "3m: {partial} partial, {full} full");
    assert!(count(&rows, "16s").1 > 0);
    assert_eq!(tidewatch.process().terminate().code(), Some(0));

    // Every epoch is what the slow model makes of that journal.
    let data = tidewatch.folder().join("data");
    let (epochs, _) = stored::epochs(&data);
    let held = stored::outbox(&data);
    let told =
        |epoch: &&Epoch| epoch.controls.iter().any(|control| matches!(**control, Control::Settings(_)));
    assert_eq!(epochs.iter().filter(told).count(), 3);
    let window = |length: i64, hop: i64| Window { length_ms: length * 1_000, hop_ms: hop * 1_000 };
    let windows = vec![window(10, 5), window(60, 10)];
    let mut model = Model::new(&Settings { windows, ..Settings::default() });
    assert_eq!(epochs.len(), held.len());
    for (epoch, batch) in epochs.iter().zip(&held) {
        let want = model.epoch(epoch).lists.windows;
        assert_eq!(batch.windows.len(), want.len(), "{:?}", epoch.end);
        for (got, want) in batch.windows.iter().zip(&want) {
            assert!(same_row(got, want), "{:?}:\n got {got:?}\nwant {want:?}", epoch.end);
        }
    }
    let log = tidewatch.process().log();
    assert!(!log.contains("panicked"), "{log}");
}
