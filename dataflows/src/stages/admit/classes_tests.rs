//! What stages hear of the classes of series, against plain maps: with slots that come and go, other selectors, and restarts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Admit;
use crate::driver::EpochBatch;
use crate::kernels::shapes::Random;
use crate::sample::{Control, EpochEnd, MetricType, Samples, SeriesId};
use crate::settings::{Model, QuantileSet, SelectEntry, SeriesClass, SeriesOptions, Settings, Transform};
use crate::shard::AdmittedBatch;
use crate::snapshot::{StateReader, StateWriter};
use crate::stage::{PartReader, Stage};

const START_MS: i64 = 1_700_000_000_000;

fn settings(entries: usize) -> Arc<Settings> {
    let select = vec![SelectEntry::default(); entries];
    let settings = Settings { series_max: 25_600, allowed_lateness_ms: 0, select, ..Settings::default() };
    Arc::new(settings.validated().unwrap())
}

fn options(random: &mut Random) -> SeriesOptions {
    SeriesOptions {
        transform: [Transform::Auto, Transform::Raw, Transform::Rate][random.below(3)],
        period_ms: [0, 3_600_000, 86_400_000][random.below(3)],
        model: [Model::Additive, Model::Multiplicative][random.below(2)],
        quantiles: QuantileSet::from_code([0, 0, 5, 255][random.below(4)]),
    }
}

fn restart(admit: &Admit) -> Admit {
    let mut put = StateWriter::default();
    admit.save(&mut put);
    let part = PartReader { shard: 0, slots: 0, live: &[], state: StateReader(&put.0), sealed: Vec::new() };
    let mut loaded = Admit::load(Arc::clone(&admit.settings), part).unwrap();
    loaded.keep_slots_for(|settings| settings.allowed_lateness_ms + settings.idle_timeout_ms);
    loaded
}

#[test]
fn stages_hear_of_every_class_whatever_comes_when() {
    let (mut changes, mut freed) = (0, 0);
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut admit = Admit::new(settings(0));
        // What is known of each series, and what a stage that hears everything holds by slot.
        let mut known: BTreeMap<u64, SeriesClass> = BTreeMap::new();
        let mut heard: BTreeMap<u32, SeriesClass> = BTreeMap::new();
        let mut now_ms = START_MS;
        for epoch in 1..120 {
            now_ms += if random.below(8) == 0 { 400_000 } else { 1_000 };
            let end = EpochEnd { epoch, processing_ms: now_ms, watermark_ms: now_ms, last_of_input: false };
            let mut batch = AdmittedBatch::new(end);
            let mut live = Samples::default();
            let any = |random: &mut Random| 256 * random.below(6) as u64;
            (0..random.below(4)).for_each(|_| live.push(any(&mut random), now_ms, 1.0));
            let mut controls = Vec::new();
            if random.below(10) == 0 {
                let new = settings(random.below(3));
                if new.select != admit.settings.select {
                    known.values_mut().for_each(|class| class.options = SeriesOptions::default());
                }
                controls.push(Arc::new(Control::Settings(new)));
            }
            for _ in 0..random.below(3) {
                let (series, kind) =
                    (any(&mut random), [MetricType::Counter, MetricType::Gauge][random.below(2)]);
                batch.named_types.push((SeriesId(series), kind));
                let class = known.entry(series).or_default();
                class.kind = class.kind.or(Some(kind));
            }
            for _ in 0..random.below(10) / 8 {
                let (series, kind) =
                    (any(&mut random), [MetricType::Counter, MetricType::Gauge][random.below(2)]);
                batch.types.push((SeriesId(series), kind));
                known.entry(series).or_default().kind = Some(kind);
            }
            for _ in 0..random.below(3) {
                let (series, options) = (any(&mut random), options(&mut random));
                batch.options.push((SeriesId(series), options));
                known.entry(series).or_default().options = options;
            }
            let input =
                EpochBatch { shard: 0, end, controls: &controls, bootstraps: &[], live: &live, save: None };
            admit.retire(&input, &mut batch);
            heard.extend(batch.given.iter().map(|given| (given.slot, given.class)));
            for change in &batch.classes {
                changes += 1;
                let was = heard.insert(change.slot, change.class);
                assert!(was.is_some_and(|was| was != change.class), "seed {seed}: {change:?}");
            }
            for (slot, class) in &heard {
                let series = admit.slots().unwrap().series(*slot).0;
                let want = known.get(&series).copied().unwrap_or_default();
                assert_eq!(*class, want, "seed {seed}, epoch {epoch}: series {series}");
            }
            admit.end(&mut batch, &|_| false);
            heard.retain(|slot, _| !batch.freed.contains(slot));
            freed += batch.freed.len();
            if random.below(10) == 0 {
                admit = restart(&admit);
            }
        }
    }
    assert!(changes > 1_000 && freed > 1_000, "{changes} changes, {freed} freed");
}

#[test]
fn more_options_than_a_shard_holds_are_none() {
    let mut admit = Admit::new(settings(1));
    let mut batch = AdmittedBatch::default();
    for n in 0..400 {
        let options = SeriesOptions { period_ms: (n + 2) * 60_000, ..SeriesOptions::default() };
        batch.options.push((SeriesId(256 * n as u64), options));
    }
    admit.early.max = 1_000;
    admit.take_classes(None, &mut batch);
    assert_eq!(admit.early.of.len(), 255);
}
