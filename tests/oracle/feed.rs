//! Random feeds: what senders and workers with outages, delays and duplicates put into a journal.

use std::sync::Arc;

use tidewatch_dataflows::sample::{Bootstrap, Control, EpochEnd, STALE_NAN_BITS, Samples, SeriesId};
use tidewatch_dataflows::settings::{
    Model, ProfileSettings, QuantileSet, SelectEntry, SeriesOptions, Settings, Transform, Window,
};

use super::Epoch;

/// 2020-09-13T12:00:00Z, a multiple of every hop used.
pub const START_MS: i64 = 1_600_000_000_000 - 1_600_000_000_000 % 43_200_000;

/// A sample that reaches the server at `when`.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub when_ms: i64,
    pub series: u64,
    pub at_ms: i64,
    pub value: f64,
    /// The bootstrap it belongs to; 0 if it is live.
    pub bootstrap: u64,
}

/// Small settings whose windows bootstrap and empty within a short feed.
pub fn settings(rng: &mut fastrand::Rng) -> Settings {
    let second = |length: i64, hop: i64| Window { length_ms: length * 1_000, hop_ms: hop * 1_000 };
    let windows = match rng.u8(0..4) {
        0 => vec![second(300, 60), second(420, 7), second(1_200, 1_200)],
        1 => vec![second(3_600, 60), second(10_800, 180)],
        2 => vec![second(1_200, 30), second(1_800, 90), second(2_400, 120)],
        _ => vec![second(120, 60), second(600, 120)],
    };
    Settings { windows, series_max: 512, profile: any_profile(rng), ..Settings::default() }
        .validated()
        .expect("these windows are within bounds")
}

/// Settings of any shape: hops far above lateness and a base pane, small rings, long and short waits.
pub fn any_settings(rng: &mut fastrand::Rng) -> Settings {
    loop {
        let mut settings = Settings::default();
        settings.windows.clear();
        for _ in 0..rng.usize(1..5) {
            let window = any_window(rng);
            settings.windows.retain(|held| held.length_ms != window.length_ms);
            settings.windows.push(window);
        }
        settings.allowed_lateness_ms =
            [0, 10_000, 60_000, 300_000, 600_000, 1_500_000, 3_600_000][rng.usize(0..7)];
        settings.idle_timeout_ms = [1_000, 5_000, 30_000, 200_000][rng.usize(0..4)];
        settings.catch_up_ms = settings.idle_timeout_ms.max([0, 40_000, 300_000, 1_000_000][rng.usize(0..4)]);
        settings.late_samples_max = [16, 40, 1_024, 1_024][rng.usize(0..4)];
        settings.series_max = [256, 512, 4_096][rng.usize(0..3)];
        settings.profile = any_profile(rng);
        if let Ok(settings) = settings.validated() {
            return settings;
        }
    }
}

/// Mostly off: profiles keep slots for half a day of silence, and feeds are shorter.
fn any_profile(rng: &mut fastrand::Rng) -> ProfileSettings {
    ProfileSettings { enabled: rng.u8(0..4) == 0, ..OFTEN }
}

/// Profiles so often that feeds of hours have many. Not each evaluation goes out, so that it shows which one did.
pub const OFTEN: ProfileSettings =
    ProfileSettings { enabled: true, every_ms: 60_000, publish_every_ms: 180_000, season_days: 4 };

/// A window of any hop from seconds to two hours.
fn any_window(rng: &mut fastrand::Rng) -> Window {
    const HOPS: [i64; 16] = [7, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900, 1_200, 1_800, 3_600, 7_200];
    // None of these divides another.
    const APART: [i64; 10] = [200, 300, 400, 450, 500, 700, 900, 1_000, 1_200, 2_100];
    let hops: &[i64] = if rng.u8(0..3) == 0 { &APART } else { &HOPS };
    let hop_ms = 1_000 * hops[rng.usize(0..hops.len())];
    Window { length_ms: hop_ms * rng.i64(1..=(43_200_000 / hop_ms).min(40)), hop_ms }
}

/// A live feed of a few series: outages of senders and of the server, late samples and doubles, at times with bootstraps.
///
/// A dense one is short, and always has a bootstrap.
pub fn mixed(rng: &mut fastrand::Rng, settings: &Settings, dense: bool) -> (Vec<SeriesId>, Vec<Epoch>) {
    let (mut arrivals, mut history, mut controls) = (Vec::new(), Vec::new(), Vec::<Told>::new());
    let bootstraps = dense || rng.bool();
    let ids = series(rng, 4);
    for id in &ids {
        let mut truth = truth(rng);
        if dense {
            truth.truncate(80);
        }
        let live = if bootstraps { rng.usize(0..truth.len() / 2) } else { 0 };
        arrivals.extend(self::arrivals(rng, id.0, &truth[live..]));
        // Now and then it has no more than what is live.
        let from = if rng.u8(0..3) == 0 { rng.usize(live..truth.len().min(live + 10)) } else { 0 };
        history.push((id.0, truth[from..].to_vec()));
    }
    let mut ids = ids;
    if rng.u8(0..3) == 0 {
        let brief = series(rng, 1)[0];
        let begins_ms = arrivals.iter().map(|a| a.when_ms).min().expect("there are arrivals");
        let begins_ms = begins_ms + rng.i64(0..4_000_000);
        arrivals.extend(self::brief(rng, brief, begins_ms));
        ids.push(brief);
    }
    let first = arrivals.iter().map(|a| a.when_ms).min().expect("there are arrivals");
    let last = arrivals.iter().map(|a| a.when_ms).max().expect("there are arrivals");
    for bootstrap in 1..=if bootstraps { rng.u64(1..3) } else { 0 } {
        let begins_ms = first + rng.i64(0..1_500_000);
        let publish_from_ms = [begins_ms, i64::MIN][rng.usize(0..2)];
        let more = self::bootstrap(rng, bootstrap, begins_ms, &history, publish_from_ms);
        arrivals.extend(more.0);
        controls.extend(more.1);
    }
    controls.sort_by_key(|(when_ms, _)| *when_ms);
    let down = (0..rng.usize(0..3)).map(|_| {
        let away = first + rng.i64(0..8_000_000);
        (away, away + rng.i64(20_000..9_000_000))
    });
    let down: Vec<(i64, i64)> = down.collect();
    let after_ms = if dense { 100_000 } else { [100_000, 15_000_000][rng.usize(0..2)] };
    // Few enough epochs that many feeds can be tried.
    let epochs_max = if dense { 400 } else { 4_000 };
    let step_ms = [1_000, 7_000, 17_000, 60_000][rng.usize(0..4)].max((last + after_ms - first) / epochs_max);
    (ids, live_with_bootstraps(settings, arrivals, &controls, step_ms, &down, after_ms))
}

/// A series that shows itself by no number, and brings a few old samples then; perhaps it comes back much later.
fn brief(rng: &mut fastrand::Rng, series: SeriesId, begins_ms: i64) -> Vec<Arrival> {
    let arrival = |when_ms, at_ms, value| Arrival { when_ms, series: series.0, at_ms, value, bootstrap: 0 };
    let mut all = vec![arrival(begins_ms, begins_ms, f64::NAN)];
    for n in 1..=rng.i64(1..4) {
        all.push(arrival(begins_ms + n * 20_000, begins_ms - rng.i64(1..3_000_000), rng.f64()));
    }
    if rng.bool() {
        let back_ms = begins_ms + rng.i64(100_000..12_000_000);
        all.push(arrival(back_ms, back_ms, rng.f64()));
    }
    all
}

/// Quarantines some series, and lets some of them in again.
pub fn quarantine(rng: &mut fastrand::Rng, series: &[SeriesId], epochs: &mut [Epoch]) {
    for _ in 0..rng.usize(1..4) {
        let (at, series) = (rng.usize(0..epochs.len()), series[rng.usize(0..series.len())].0);
        let epoch = epochs[at].end.epoch;
        epochs[at].controls.push(Arc::new(Control::Quarantine { series, epoch }));
        if rng.bool() {
            let later = rng.usize(at..epochs.len());
            epochs[later].controls.push(Arc::new(Control::Lift { series }));
        }
    }
}

/// The true samples of one series: jittered, with gaps, sometimes a counter, sometimes at a large offset.
pub fn truth(rng: &mut fastrand::Rng) -> Vec<(i64, f64)> {
    let step = [5_000, 15_000, 60_000][rng.usize(0..3)];
    let offset = [0.0, 4e10, -7.5, 1e12][rng.usize(0..4)];
    let counter = rng.bool();
    let mut at = START_MS + rng.i64(0..3_600_000);
    let mut level = offset;
    (0..rng.usize(30..400))
        .map(|_| {
            at += 1 + rng.i64(0..2 * step);
            if rng.u8(0..60) == 0 {
                at += rng.i64(0..5_400_000); // a gap, at times longer than the longest window
            }
            level = if counter && rng.u8(0..40) == 0 { 0.0 } else { level + rng.f64() };
            (at, if counter { level } else { offset + (rng.f64() - 0.5) * 9.0 })
        })
        .collect()
}

/// When each sample arrives: at once, late, after an outage of the sender that then drains its backlog; some twice.
pub fn arrivals(rng: &mut fastrand::Rng, series: u64, samples: &[(i64, f64)]) -> Vec<Arrival> {
    let (from, to) = (samples[0].0, samples[samples.len() - 1].0);
    let away = from + rng.i64(0..(to - from).max(1));
    let back = away + rng.i64(60_000..9_000_000);
    let speed = [1.5, 5.0, 50.0][rng.usize(0..3)];
    let (late, outage, twice) = (rng.bool(), rng.bool(), rng.bool());
    let mut all = Vec::new();
    for (at_ms, value) in samples.iter().copied() {
        let mut when_ms = at_ms;
        if late && rng.u8(0..10) < 3 {
            when_ms += rng.i64(0..900_000);
        }
        if outage && at_ms >= away {
            when_ms = when_ms.max(back + ((at_ms - away) as f64 / speed) as i64);
        }
        let value = match rng.u8(0..200) {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => f64::from_bits(STALE_NAN_BITS),
            _ => value,
        };
        all.push(Arrival { when_ms, series, at_ms, value, bootstrap: 0 });
        if twice && rng.u8(0..5) == 0 {
            let value = if rng.bool() { value } else { value + 1.0 };
            all.push(Arrival { when_ms: when_ms + rng.i64(0..700_000), series, at_ms, value, bootstrap: 0 });
        }
    }
    all
}

/// Something that is no sample and reaches the server at a time.
pub type Told = (i64, Control);

/// Cuts arrivals into epochs as a live server does that is away during `down`: arrivals wait for it.
pub fn live(
    settings: &Settings,
    arrivals: Vec<Arrival>,
    step_ms: i64,
    down: &[(i64, i64)],
    after_ms: i64,
) -> Vec<Epoch> {
    live_with_bootstraps(settings, arrivals, &[], step_ms, down, after_ms)
}

/// [`live`] with controls, in order of time.
pub fn live_with_bootstraps(
    settings: &Settings,
    mut arrivals: Vec<Arrival>,
    told: &[Told],
    step_ms: i64,
    down: &[(i64, i64)],
    after_ms: i64,
) -> Vec<Epoch> {
    arrivals.sort_by_key(|a| a.when_ms);
    let mut told = told.iter().peekable();
    let (Some(first), Some(last)) = (arrivals.first(), arrivals.last()) else { return Vec::new() };
    let (mut now, until) = (first.when_ms, last.when_ms + after_ms);
    let (mut before, mut close, mut hold, mut gaps) = (now, now, None, [0, 0]);
    let (mut epochs, mut next) = (Vec::new(), 0);
    while now <= until {
        if let Some((_, back)) = down.iter().find(|(away, back)| (*away..*back).contains(&now)) {
            now = *back;
            continue;
        }
        // As the journal cuts epochs: a jump is more than idle timeout, ten epochs, and thrice the shorter of two gaps before.
        if now - before > settings.idle_timeout_ms.max(10_000).max(3 * gaps[0].min(gaps[1])) {
            hold = Some(now + settings.catch_up_ms);
        }
        if hold.is_none_or(|hold| now >= hold) {
            (close, hold) = (now, None);
        }
        let end =
            EpochEnd { epoch: now as u64, processing_ms: now, watermark_ms: close, last_of_input: false };
        let mut epoch = Epoch { end, ..Epoch::default() };
        while next < arrivals.len() && arrivals[next].when_ms <= now {
            let a = arrivals[next];
            epoch.of_bootstrap(a.bootstrap).push(a.series, a.at_ms, a.value);
            next += 1;
        }
        while let Some((_, control)) = told.next_if(|(when_ms, _)| *when_ms <= now) {
            epoch.controls.push(Arc::new(control.clone()));
        }
        epochs.push(epoch);
        gaps = [gaps[1], now - before];
        before = now;
        now += step_ms;
    }
    epochs
}

/// A bootstrap over these series: samples that rise, in the time it takes, perhaps brought again from the beginning by
/// one that was resumed. Begun before, with and after the first live sample of each.
pub fn bootstrap(
    rng: &mut fastrand::Rng,
    id: u64,
    begins_ms: i64,
    series: &[(u64, Vec<(i64, f64)>)],
    publish_from_ms: i64,
) -> (Vec<Arrival>, Vec<Told>) {
    let lasts_ms = [0, 5_000, 200_000, 3_000_000][rng.usize(0..4)];
    let mut arrivals = Vec::new();
    for (series, samples) in series {
        let tries = if rng.u8(0..3) == 0 { 2 } else { 1 };
        for _ in 0..tries {
            let (from, to) = (samples[0].0, samples[samples.len() - 1].0.max(samples[0].0 + 1));
            for (at_ms, value) in samples.iter().copied() {
                let share = (at_ms - from) as f64 / (to - from) as f64;
                let when_ms = begins_ms + (lasts_ms as f64 * share) as i64;
                arrivals.push(Arrival { when_ms, series: *series, at_ms, value, bootstrap: id });
            }
        }
    }
    let begin = Bootstrap { id, source: String::new(), from_ms: 0, publish_from_ms };
    // Now and then in the epoch of its last samples.
    let ends_ms = begins_ms + lasts_ms + rng.i64(0..400_000) * i64::from(rng.bool());
    let mut told =
        vec![(begins_ms, Control::BootstrapBegin(begin)), (ends_ms, Control::BootstrapEnd { bootstrap: id })];
    if rng.bool() {
        told.insert(1, (begins_ms + lasts_ms / 2, told[0].1.clone()));
    }
    (arrivals, told)
}

/// Puts one to four changes of settings into epochs; all settings there are then, the first included.
pub fn change_settings(rng: &mut fastrand::Rng, first: &Settings, epochs: &mut [Epoch]) -> Vec<Settings> {
    let mut all = vec![first.clone()];
    let of = |wanted: fn(&Control) -> bool| {
        epochs.iter().position(|epoch| epoch.controls.iter().any(|control| wanted(control)))
    };
    let begins = of(|control| matches!(control, Control::BootstrapBegin(_)));
    let open = begins.zip(of(|control| matches!(control, Control::BootstrapEnd { .. })));
    let place = |rng: &mut fastrand::Rng| match open {
        // While a bootstrap is open, as often as not.
        Some((begins, ends)) if begins < ends && rng.bool() => rng.usize(begins..=ends),
        _ => rng.usize(0..epochs.len()),
    };
    let mut places: Vec<usize> = (0..rng.usize(1..5)).map(|_| place(rng)).collect();
    places.sort_unstable();
    for place in places {
        let changed = change(rng, all.last().expect("there is the first"), first);
        epochs[place].controls.push(Arc::new(Control::Settings(Arc::new(changed.clone()))));
        all.push(changed);
    }
    all
}

/// Puts options of series into epochs, and other entries of `select` into their settings; nothing else changes.
pub fn set_options(rng: &mut fastrand::Rng, series: &[SeriesId], epochs: &mut [Epoch]) {
    let mut select = Vec::new();
    for epoch in epochs.iter_mut() {
        let mut is_set = rng.u8(0..100) == 0;
        for control in &mut epoch.controls {
            let Control::Settings(settings) = &**control else { continue };
            if rng.bool() {
                select = vec![SelectEntry::default(); rng.usize(0..3)];
                is_set = true;
            }
            let settings = Settings { select: select.clone(), ..Settings::clone(settings) };
            *control = Arc::new(Control::Settings(Arc::new(settings)));
        }
        if is_set {
            let options = SeriesOptions {
                transform: [Transform::Auto, Transform::Raw, Transform::Rate][rng.usize(0..3)],
                period_ms: 60_000 * [0, 5, 60, 720][rng.usize(0..4)],
                model: [Model::Additive, Model::Multiplicative][rng.usize(0..2)],
                quantiles: QuantileSet::from_code([0, 0, rng.u8(..), 255][rng.usize(0..4)]),
            };
            let series = series.iter().filter(|_| rng.bool()).map(|series| series.0).collect();
            epoch.controls.insert(0, Arc::new(Control::Options { options, series }));
        }
    }
}

/// Other settings: some of their windows added, removed or with another hop, some of the numbers changed, or all as
/// at first.
fn change(rng: &mut fastrand::Rng, from: &Settings, first: &Settings) -> Settings {
    if rng.u8(0..8) == 0 {
        return first.clone();
    }
    loop {
        let mut to = from.clone();
        for _ in 0..rng.usize(1..4) {
            match rng.u8(0..12) {
                0..=2 => {
                    let window = any_window(rng);
                    to.windows.retain(|held| held.length_ms != window.length_ms);
                    to.windows.push(window);
                }
                3 | 4 => {
                    let gone = rng.usize(0..to.windows.len());
                    if to.windows.len() > 1 {
                        to.windows.remove(gone);
                    }
                }
                5 => {
                    let at = rng.usize(0..to.windows.len());
                    to.windows[at].hop_ms *= [2, 3][rng.usize(0..2)];
                }
                6 => to.allowed_lateness_ms = [0, 20_000, 300_000, 600_000, 1_500_000][rng.usize(0..5)],
                7 => to.idle_timeout_ms = [1_000, 30_000, 200_000][rng.usize(0..3)],
                8 => to.catch_up_ms = [200_000, 300_000, 1_000_000][rng.usize(0..3)],
                11 => to.profile = any_profile(rng),
                9 => to.late_samples_max = [16, 40, 1_024][rng.usize(0..3)],
                _ => to.series_max = [256, 512, 1_024][rng.usize(0..3)],
            }
        }
        if let Ok(settings) = to.validated() {
            return settings;
        }
    }
}

/// Cuts samples into epochs as `replay` does with a file.
pub fn file(samples: &Samples, per_epoch: usize) -> Vec<Epoch> {
    let cut = |epoch: usize, processing_ms: i64, last: bool| EpochEnd {
        epoch: epoch as u64 + 1,
        processing_ms,
        watermark_ms: processing_ms,
        last_of_input: last,
    };
    let mut epochs: Vec<Epoch> = (0..samples.len())
        .step_by(per_epoch)
        .enumerate()
        .map(|(n, from)| {
            let mut part = Samples::default();
            (from..samples.len().min(from + per_epoch))
                .for_each(|i| part.push(samples.series[i], samples.at_ms[i], samples.value[i]));
            (cut(n, i64::MIN, false), part).into()
        })
        .collect();
    let top = samples.at_ms.iter().copied().max().unwrap_or(i64::MIN);
    epochs.push((cut(epochs.len(), top, true), Samples::default()).into());
    epochs
}

/// Ids that share few shards, so that slots, tombstones and floors of one shard meet.
pub fn series(rng: &mut fastrand::Rng, n: usize) -> Vec<SeriesId> {
    (0..n).map(|_| SeriesId(rng.u64(..) / 256 * 256 + rng.u64(0..3))).collect()
}
