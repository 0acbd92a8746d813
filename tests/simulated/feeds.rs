//! What a sender sends, packet by packet: late, shuffled, some of it twice, with new series, bootstraps and types.

use std::collections::HashMap;

use tidewatch::labels::series_id;
use tidewatch_dataflows::sample::{Control, MetricType, Samples, SeriesId};
use tidewatch_dataflows::settings::{Settings, Window};

use crate::oracle::feed::{self, START_MS};

/// What is sent together, and the clock at that moment.
pub struct Packet {
    pub now_ms: i64,
    pub watermark_ms: i64,
    pub controls: Vec<Control>,
    pub samples: Vec<Samples>,
}

/// All that is sent.
pub struct Feed {
    pub settings: Settings,
    pub packets: Vec<Packet>,
    /// The number of each series: its labels follow from it.
    pub numbers: HashMap<u64, usize>,
}

/// The labels of a series but for its number.
pub const NAME: (&str, &str) = ("__name__", "simulated");

fn id_of(number: usize) -> u64 {
    series_id(&[NAME, ("n", &number.to_string())]).0
}

/// So many series in the first shards, so that snapshots of them come early.
fn series(n: usize) -> HashMap<u64, usize> {
    let all = (0..).map(|number| (id_of(number), number));
    all.filter(|(id, _)| SeriesId(*id).shard() < 8).take(n).collect()
}

/// Small and always the same: an hour and a half of five series, two of which come later; windows close, samples come late and
/// twice, types are told, and in the end there are profiles.
pub fn short(packets: usize) -> Feed {
    of(packets, vec![Window { length_ms: 600_000, hop_ms: 300_000 }], 600_000)
}

/// The same with windows and lateness of any shape.
pub fn short_of_any(rng: &mut fastrand::Rng, packets: usize) -> Feed {
    const HOPS: [i64; 9] = [70, 100, 200, 250, 300, 450, 600, 900, 1_500];
    let mut windows: Vec<Window> = Vec::new();
    for _ in 0..rng.usize(1..4) {
        let hop_ms = 1_000 * HOPS[rng.usize(0..HOPS.len())];
        let window = Window { length_ms: hop_ms * rng.i64(1..9), hop_ms };
        windows.retain(|held| held.length_ms != window.length_ms);
        windows.push(window);
    }
    of(packets, windows, [60_000, 600_000, 1_200_000][rng.usize(0..3)])
}

/// A packet has seven minutes of samples.
const PACKET_MS: i64 = 420_000;
/// Below a minute, so that each step has a value.
const SAMPLE_MS: i64 = PACKET_MS / 8;

fn of(packets: usize, windows: Vec<Window>, allowed_lateness_ms: i64) -> Feed {
    let settings = Settings {
        windows,
        idle_timeout_ms: 1_000,
        allowed_lateness_ms,
        catch_up_ms: 1_000,
        late_samples_max: 64,
        series_max: 256,
        profile: feed::OFTEN,
        select: Vec::new(),
    };
    let settings = settings.validated().expect("these windows are within bounds");
    let numbers = series(6);
    let mut ids: Vec<u64> = numbers.keys().copied().collect();
    ids.sort_unstable();
    let mut rng = fastrand::Rng::with_seed(1);
    let packet = |n: usize| {
        let now_ms = START_MS + n as i64 * PACKET_MS;
        let mut samples = Samples::default();
        for (number, id) in ids.iter().enumerate().filter(|(number, _)| n >= [0, 0, 0, 3, 7, 1][*number]) {
            // The last never has a sample that counts.
            let value = if number == 5 { f64::NAN } else { rng.f64() + number as f64 };
            let earlier = if number < 5 { 7 } else { 0 };
            for i in (1..=earlier).rev() {
                samples.push(*id, now_ms - 10_000 - i * SAMPLE_MS, rng.f64() + number as f64);
            }
            samples.push(*id, now_ms - 10_000, value);
            if n.is_multiple_of(2) && number < 5 {
                // Of a packet ago.
                samples.push(*id, now_ms - 10_000 - PACKET_MS - n as i64, rng.f64());
            }
        }
        let mut all = vec![samples.clone()];
        if n.is_multiple_of(3) {
            all.push(samples);
        }
        let types = vec![(ids[n % 3], MetricType::Counter)];
        let controls = if n % 4 == 1 { vec![Control::Types(types)] } else { Vec::new() };
        Packet { now_ms, watermark_ms: now_ms, controls, samples: all }
    };
    let packets = (0..packets).map(packet).collect();
    Feed { settings, packets, numbers }
}

/// Hours of some series as the oracle's feed makes them, cut into packets.
pub fn random(rng: &mut fastrand::Rng) -> Feed {
    let mut settings = if rng.bool() { feed::settings(rng) } else { feed::any_settings(rng) };
    if rng.bool() {
        settings.profile = feed::OFTEN;
    }
    let n = rng.usize(2..8);
    let numbers = series(n);
    let mut ids: Vec<u64> = numbers.keys().copied().collect();
    ids.sort_unstable();
    let truths: Vec<(u64, Vec<(i64, f64)>)> = ids.iter().map(|id| (*id, feed::truth(rng))).collect();
    let mut arrivals = Vec::new();
    for (id, truth) in &truths {
        arrivals.extend(feed::arrivals(rng, *id, truth));
    }
    let mut told = Vec::new();
    if rng.bool() {
        let begins_ms = truths[0].1[0].0 + rng.i64(0..3_600_000);
        let (more, controls) = feed::bootstrap(rng, 7, begins_ms, &truths[..n.div_ceil(2)], 0);
        arrivals.extend(more);
        told.extend(controls);
    }
    for (id, truth) in &truths {
        if rng.bool() {
            let when_ms = truth[rng.usize(0..truth.len())].0;
            told.push((when_ms, Control::Types(vec![(*id, MetricType::Counter)])));
        }
    }
    told.sort_by_key(|(when_ms, _)| *when_ms);
    let (first, last) = arrivals
        .iter()
        .fold((i64::MAX, i64::MIN), |(low, high), a| (low.min(a.when_ms), high.max(a.when_ms)));
    // So many packets that all are seen and the run is short.
    let step_ms = ((last - first) / rng.i64(40..160)).max(1_000);
    let epochs =
        feed::live_with_bootstraps(&settings, arrivals, &told, step_ms, &[], 2 * settings.idle_timeout_ms);
    let packets = epochs.into_iter().map(|epoch| {
        let mut samples = epoch.bootstraps;
        let mut live = epoch.live;
        while live.len() > 1 && rng.bool() {
            let rest = live.split_off(rng.usize(1..live.len()));
            samples.push(std::mem::replace(&mut live, rest));
        }
        samples.push(live);
        samples.retain(|samples| !samples.is_empty());
        Packet {
            now_ms: epoch.end.processing_ms,
            watermark_ms: epoch.end.watermark_ms,
            controls: epoch.controls.iter().map(|control| (**control).clone()).collect(),
            samples,
        }
    });
    let packets = packets.collect();
    Feed { settings, packets, numbers }
}
