//! Laws of the generator: the same bytes from the same options, the same samples from any delivery.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use super::*;

const START_MS: i64 = 1_767_225_600_000;

fn hours(hours: i64) -> GenerateOptions {
    GenerateOptions { series: 200, ..GenerateOptions::over(START_MS, START_MS + hours * HOUR_MS) }
}

fn points(options: &GenerateOptions) -> Vec<GeneratedSample> {
    Generator::new(options.clone()).unwrap().collect()
}

fn text(options: &GenerateOptions, format: TextFormat) -> String {
    let mut out = Vec::new();
    let mut generator = Generator::new(options.clone()).unwrap();
    let written = write(&mut generator, format, &mut out).unwrap();
    assert_eq!(written.bytes, out.len() as u64);
    String::from_utf8(out).unwrap()
}

/// What is in the series, whatever the delivery.
fn first_deliveries(points: &[GeneratedSample]) -> BTreeSet<(u64, i64, i64)> {
    let first = points.iter().filter(|p| matches!(p.delivery, Delivery::InTime | Delivery::Late));
    first.map(|p| (p.series, p.at_ms, p.digits)).collect()
}

#[test]
fn same_options_same_bytes_other_seed_other_bytes() {
    let options =
        GenerateOptions { late_ratio: 0.05, duplicate_ratio: 0.02, conflict_ratio: 0.01, ..hours(2) };
    for format in [TextFormat::Prometheus, TextFormat::Csv] {
        let once = text(&options, format);
        assert_eq!(once, text(&options, format));
        assert_ne!(once, text(&GenerateOptions { seed: 2, ..options.clone() }, format));
    }
}

#[test]
fn the_bytes_of_a_seed_are_fixed_for_ever() {
    // Scenarios and reported numbers name a seed: whoever changes these bytes has to know it.
    let options = GenerateOptions { late_ratio: 0.05, duplicate_ratio: 0.02, ..hours(1) };
    let all = text(&options, TextFormat::Prometheus);
    let hash = xxhash_rust::xxh3::xxh3_64(all.as_bytes());
    assert_eq!(format!("{hash:016x}"), "416c024d0953537f", "first line: {}", all.lines().next().unwrap());
}

#[test]
fn any_delivery_holds_the_same_samples() {
    let plain = points(&hours(3));
    let samples = first_deliveries(&plain);
    assert_eq!(samples.len(), plain.len(), "twice in a plain run");
    for order in [Order::TimeMajor, Order::SeriesMajor] {
        for ratio in [0.0, 0.1, 1.0] {
            let other = GenerateOptions {
                order,
                late_ratio: ratio,
                duplicate_ratio: ratio,
                conflict_ratio: ratio,
                ..hours(3)
            };
            let delivered = points(&other);
            assert_eq!(first_deliveries(&delivered), samples, "{order:?} {ratio}");
            let again = |kind| delivered.iter().filter(|p| p.delivery == kind).count();
            let expected = samples.len() as f64 * ratio;
            for kind in [Delivery::Duplicate, Delivery::Conflict] {
                let count = again(kind) as f64;
                assert!((count - expected).abs() <= 0.1 * expected, "{kind:?}: {count} of {expected}");
            }
        }
    }
}

#[test]
fn parts_make_up_the_whole() {
    let options = GenerateOptions { late_ratio: 0.1, ..hours(1) };
    let mut whole = points(&options);
    let mut parts = Vec::new();
    for part in [0..1, 1..77, 77..200] {
        let generator = Generator::part(options.clone(), part.clone()).unwrap();
        assert_eq!(generator.series(), part);
        parts.extend(generator);
    }
    whole.sort_unstable();
    parts.sort_unstable();
    assert_eq!(whole, parts);
    for bad in [5..5, 100..201] {
        assert_eq!(Generator::part(options.clone(), bad).unwrap_err().option, "part");
    }
}

#[test]
fn orders_are_what_they_say() {
    let by_time = points(&hours(2));
    assert!(by_time.windows(2).all(|pair| pair[0].at_ms <= pair[1].at_ms));
    let by_series = points(&GenerateOptions { order: Order::SeriesMajor, ..hours(2) });
    assert!(
        by_series.windows(2).all(|pair| (pair[0].series, pair[0].at_ms) < (pair[1].series, pair[1].at_ms))
    );
}

#[test]
fn the_time_of_delivery_ascends_and_is_that_of_the_sample_unless_it_was_held_back() {
    let options =
        GenerateOptions { late_ratio: 0.1, duplicate_ratio: 0.05, conflict_ratio: 0.05, ..hours(3) };
    let mut generator = Generator::new(options.clone()).unwrap();
    let (mut before, mut later) = (i64::MIN, 0);
    while let Some(point) = generator.next() {
        let at_ms = generator.delivered_ms();
        assert!(before <= at_ms && at_ms <= options.end_ms, "{point:?}: {at_ms} after {before}");
        match point.delivery {
            Delivery::InTime => assert_eq!(at_ms, point.at_ms),
            _ => assert!(
                (0..=options.allowed_lateness_ms).contains(&(at_ms - point.at_ms)),
                "{point:?}: {at_ms}"
            ),
        }
        later += u64::from(at_ms > point.at_ms);
        before = at_ms;
    }
    assert!(later > 1_000, "{later}");
}

#[test]
fn late_and_repeated_samples_stay_within_lateness() {
    for order in [Order::TimeMajor, Order::SeriesMajor] {
        let options =
            GenerateOptions { late_ratio: 0.2, duplicate_ratio: 0.2, conflict_ratio: 0.1, order, ..hours(2) };
        let mut newest: BTreeMap<u64, i64> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let (mut behind, mut worst_ms) = (0, 0);
        for point in points(&options) {
            let first = matches!(point.delivery, Delivery::InTime | Delivery::Late);
            assert_eq!(
                seen.insert((point.series, point.at_ms)),
                first,
                "a copy before its sample: {point:?}"
            );
            let newest = newest.entry(point.series).or_insert(point.at_ms);
            worst_ms = worst_ms.max(*newest - point.at_ms);
            behind += usize::from(point.at_ms < *newest && point.delivery == Delivery::Late);
            assert!(point.delivery != Delivery::InTime || point.at_ms >= *newest, "{point:?}");
            *newest = point.at_ms.max(*newest);
        }
        assert!((ALLOWED_LATENESS_MS / 2..=ALLOWED_LATENESS_MS).contains(&worst_ms), "{worst_ms}");
        assert!(behind > 1_000, "{behind}");
    }
}

#[test]
fn a_step_longer_than_lateness_leaves_nothing_to_delay() {
    let options = GenerateOptions {
        step_ms: 2 * ALLOWED_LATENESS_MS,
        late_ratio: 1.0,
        duplicate_ratio: 1.0,
        ..hours(4)
    };
    let all = points(&options);
    assert!(all.iter().all(|p| p.delivery != Delivery::Late));
    assert_eq!(all.len(), 2 * first_deliveries(&all).len());
}

#[test]
fn text_and_csv_say_exactly_the_points() {
    let options = GenerateOptions { late_ratio: 0.1, duplicate_ratio: 0.1, ..hours(1) };
    let generator = Generator::new(options.clone()).unwrap();
    let lines = text(&options, TextFormat::Prometheus);
    let csv = text(&options, TextFormat::Csv);
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let header = reader.headers().unwrap().clone();
    let mut rows = reader.records();
    let mut lines = lines.lines();
    for point in points(&options) {
        let labels = generator.labels(point.series);
        let name = &labels.iter().find(|(name, _)| name == "__name__").unwrap().1;
        let others: Vec<_> = labels.iter().filter(|(name, _)| name != "__name__").collect();
        let pairs: Vec<_> = others.iter().map(|(n, v)| format!("{n}=\"{v}\"")).collect();
        let line = lines.next().unwrap();
        let rest = line.strip_prefix(&format!("{name}{{{}}} ", pairs.join(","))).expect("labels of the line");
        let (value, at_ms) = rest.split_once(' ').unwrap();
        assert_eq!(value.parse::<f64>().unwrap().to_bits(), point.value().to_bits(), "{line}");
        assert_eq!(at_ms.parse::<i64>().unwrap(), point.at_ms);

        let row = rows.next().unwrap().unwrap();
        let cell =
            |column: &str| row.get(header.iter().position(|c| c == column).unwrap()).unwrap().to_owned();
        assert_eq!(&cell("name"), name);
        assert_eq!(cell("value"), value);
        assert_eq!(cell("timestamp_ms"), at_ms);
        let filled = header.iter().zip(row.iter()).filter(|(_, cell)| !cell.is_empty()).count();
        assert_eq!(filled, 3 + others.len());
        assert!(others.iter().all(|(name, value)| &cell(name) == value));
    }
    assert_eq!((lines.next(), rows.next().is_none()), (None, true));
}

/// The same samples as Prometheus text, family by family and in order, with one end.
#[test]
fn openmetrics_holds_the_same_samples_by_family() {
    for order in [Order::TimeMajor, Order::SeriesMajor] {
        let options = GenerateOptions { order, ..hours(1) };
        let mut want: Vec<(String, i64, String)> = Vec::new();
        for line in text(&options, TextFormat::Prometheus).lines() {
            let (rest, at_ms) = line.rsplit_once(' ').unwrap();
            let (key, value) = rest.rsplit_once(' ').unwrap();
            want.push((key.to_owned(), at_ms.parse().unwrap(), value.to_owned()));
        }
        let lines = text(&options, TextFormat::OpenMetrics);
        let (mut got, mut family, mut families) = (Vec::new(), "", BTreeSet::new());
        for line in lines.strip_suffix("# EOF\n").unwrap().lines() {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                family = declared.split_once(' ').unwrap().0;
                assert!(families.insert(family), "{family} twice");
                continue;
            }
            let (rest, seconds) = line.rsplit_once(' ').unwrap();
            let (key, value) = rest.rsplit_once(' ').unwrap();
            let name = key.split_once('{').unwrap().0;
            assert_eq!(name.strip_suffix("_total").unwrap_or(name), family, "{line}");
            let at_ms = (seconds.parse::<f64>().unwrap() * 1_000.0).round() as i64;
            got.push((key.to_owned(), at_ms, value.to_owned()));
        }
        let in_order = |pair: &[(String, i64, String)]| pair[0].0 != pair[1].0 || pair[0].1 < pair[1].1;
        assert!(got.windows(2).all(in_order), "{order:?}");
        let series = got.chunk_by(|a, b| a.0 == b.0).count();
        assert_eq!(series, got.iter().map(|sample| &sample.0).collect::<BTreeSet<_>>().len());
        got.sort();
        want.sort();
        assert!(got == want, "{order:?}");
    }
    let late = GenerateOptions { late_ratio: 0.1, ..hours(1) };
    let error =
        write(&mut Generator::new(late).unwrap(), TextFormat::OpenMetrics, &mut Vec::new()).unwrap_err();
    let want = "late_ratio must be 0 in openmetrics, which holds every sample once and in order; got 0.1";
    assert_eq!(error.to_string(), want);
}

#[test]
fn a_name_promises_a_format() {
    for (name, format) in [
        ("a.csv", TextFormat::Csv),
        ("a.CSV.gz", TextFormat::Csv),
        ("a.om", TextFormat::OpenMetrics),
        ("a.openmetrics.gz", TextFormat::OpenMetrics),
        ("om", TextFormat::Prometheus),
        ("a.prom.gz", TextFormat::Prometheus),
    ] {
        assert_eq!(TextFormat::of(std::path::Path::new(name)), format, "{name}");
    }
    let error = Output::create(std::path::Path::new("a.om.zst")).unwrap_err();
    assert_eq!(error.to_string(), "what is compressed is written as .gz only");
}

#[test]
fn values_print_as_plain_decimals() {
    for (digits, scale, expected) in [
        (0, 0, "0"),
        (0, 3, "0"),
        (5, 3, "0.005"),
        (50, 3, "0.05"),
        (1_000, 3, "1"),
        (12_340, 2, "123.4"),
        (100, 0, "100"),
    ] {
        let mut out = Vec::new();
        text::decimal(&mut out, digits, scale);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn counters_reset_only_at_restarts_and_instances_fall_silent_as_a_whole() {
    let never = GenerateOptions { outage_ratio: 0.0, restart_ratio: 0.0, ..hours(12) };
    let often = GenerateOptions { outage_ratio: 0.5, restart_ratio: 0.5, ..hours(12) };
    let generator = Generator::new(never.clone()).unwrap();
    let is_counter = |series| {
        let labels = generator.labels(series);
        labels.iter().any(|(n, v)| n == "__name__" && (v.ends_with("_total") || v.ends_with("_sum")))
    };
    let resets = |options: &GenerateOptions| {
        let mut last = BTreeMap::new();
        let drops = points(options).into_iter().filter(|p| is_counter(p.series)).filter(|p| {
            let before = last.insert(p.series, p.digits);
            before.is_some_and(|before| p.digits < before)
        });
        drops.count()
    };
    assert_eq!(resets(&never), 0);
    assert!(resets(&often) > 100);

    let dense = |options: &GenerateOptions| {
        let sparse = |series| generator.place(series).1.family.name;
        let kept = |p: &GeneratedSample| {
            !["node_backup_last_duration_seconds", "node_procs_blocked"].contains(&sparse(p.series))
        };
        points(options).into_iter().filter(kept).collect::<Vec<_>>()
    };
    let ticks = 12 * HOUR_MS / never.step_ms;
    let series = dense(&never).iter().map(|p| p.series).collect::<BTreeSet<_>>().len();
    assert!(dense(&never).len() >= series * ticks as usize);
    let mut times: BTreeMap<u64, BTreeMap<u64, BTreeSet<i64>>> = BTreeMap::new();
    for p in dense(&often) {
        times.entry(generator.place(p.series).0).or_default().entry(p.series).or_default().insert(p.at_ms);
    }
    let mut silent = 0;
    for series in times.values() {
        let first = series.values().next().unwrap();
        assert!(series.values().all(|times| times == first), "an outage takes all series of an instance");
        silent += ticks - first.len() as i64;
    }
    assert!(silent > ticks / 20, "{silent} of {ticks}");
}

#[test]
fn labels_are_unique_and_sorted() {
    let generator = Generator::new(GenerateOptions { series: 1_000, ..hours(1) }).unwrap();
    let mut seen = BTreeSet::new();
    for series in 0..1_000 {
        let labels = generator.labels(series);
        assert!(labels.windows(2).all(|pair| pair[0].0 < pair[1].0), "{labels:?}");
        assert!(seen.insert(labels));
    }
}

#[test]
fn gauges_have_their_daily_season() {
    // The mean of an afternoon of node_load1 is well above that of a night, for a series of any seed.
    for seed in 0..5 {
        let options = GenerateOptions { seed, series: 2, outage_ratio: 0.0, ..hours(24) };
        let mean = |from: i64, to: i64| {
            let inside =
                |p: &GeneratedSample| p.series == 1 && (from..to).contains(&((p.at_ms - START_MS) / HOUR_MS));
            let values: Vec<f64> =
                points(&options).iter().filter(|p| inside(p)).map(GeneratedSample::value).collect();
            values.iter().sum::<f64>() / values.len() as f64
        };
        assert!(mean(13, 17) > 1.5 * mean(1, 5), "seed {seed}");
    }
}

#[test]
fn the_wave_is_a_sine() {
    for i in -100..200 {
        let turns = f64::from(i) / 77.0;
        let exact = (turns * std::f64::consts::TAU).sin();
        assert!((wave(turns) - exact).abs() < 0.0015, "{turns}: {} {exact}", wave(turns));
    }
}

#[test]
fn a_name_in_gz_gives_the_same_bytes_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("samples.csv.gz");
    assert_eq!(TextFormat::of(&path), TextFormat::Csv);
    let mut out = Output::create(&path).unwrap();
    write(&mut Generator::new(hours(1)).unwrap(), TextFormat::of(&path), &mut out).unwrap();
    out.finish().unwrap();
    let mut read = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap()).read_to_string(&mut read).unwrap();
    assert_eq!(read, text(&hours(1), TextFormat::Csv));
}

#[test]
fn spans_end_now_unless_a_time_is_given() {
    let now = START_MS;
    assert_eq!(span(None, None, None, now), Ok((now - HOUR_MS, now)));
    assert_eq!(span(None, None, Some(2.0), now), Ok((now - 2 * HOUR_MS, now)));
    assert_eq!(span(Some(5), None, Some(0.5), now), Ok((5, 5 + HOUR_MS / 2)));
    assert_eq!(span(None, Some(now + 7), Some(1.0), now), Ok((now + 7 - HOUR_MS, now + 7)));
    assert_eq!(span(Some(5), Some(9), None, now), Ok((5, 9)));
    assert_eq!(span(Some(5), Some(9), Some(1.0), now).unwrap_err().option, "hours");
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
        assert_eq!(span(None, None, Some(bad), now).unwrap_err().option, "hours");
    }
}

#[test]
fn options_outside_their_bounds_are_named() {
    let good = hours(1);
    let cases: [(&str, GenerateOptions); 9] = [
        ("series", GenerateOptions { series: 0, ..good.clone() }),
        ("series", GenerateOptions { series: SERIES_MAX + 1, ..good.clone() }),
        ("step", GenerateOptions { step_ms: 0, ..good.clone() }),
        ("start", GenerateOptions { start_ms: START_MS / 1_000, ..good.clone() }),
        ("end", GenerateOptions { end_ms: START_MS - 1, ..good.clone() }),
        ("end", GenerateOptions { end_ms: START_MS + SPAN_MS_MAX + 1, ..good.clone() }),
        ("allowed_lateness", GenerateOptions { allowed_lateness_ms: -1, ..good.clone() }),
        ("late_ratio", GenerateOptions { late_ratio: 1.5, ..good.clone() }),
        ("duplicate_ratio", GenerateOptions { duplicate_ratio: f64::NAN, ..good.clone() }),
    ];
    for (option, options) in cases {
        let error = options.validated().unwrap_err();
        assert_eq!(error.option, option);
        assert!(error.to_string().starts_with(&format!("{option} must be ")), "{error}");
    }
    assert_eq!(good.clone().validated(), Ok(good));
}

#[test]
fn a_series_costs_24_bytes() {
    assert_eq!(size_of::<SeriesGenerator>(), 24);
}

#[test]
fn churn_gives_new_series_their_lives_one_after_the_other() {
    let hour = START_MS + HOUR_MS;
    let options = GenerateOptions {
        series: 300,
        churn_ms: 600_000,
        outage_ratio: 0.0,
        ..GenerateOptions::over(START_MS, hour)
    };
    let generator = Generator::new(options.clone()).unwrap();
    let labels_of = Generator::new(options.clone()).unwrap();
    let mut lives: std::collections::BTreeMap<(u64, String), (i64, i64)> = Default::default();
    for point in generator {
        let labels = labels_of.labels_at(point.series, point.at_ms);
        let instance = labels.into_iter().find(|(name, _)| name == "instance").unwrap().1;
        let life = lives.entry((point.series, instance)).or_insert((point.at_ms, point.at_ms));
        life.1 = point.at_ms;
    }
    // Six or seven lives of ten minutes in an hour, none longer, and never two at once.
    assert!((6 * 290..=7 * 300).contains(&lives.len()), "{}", lives.len());
    assert!(lives.values().all(|(first, last)| last - first < 600_000));
    let mut of_one: Vec<_> =
        lives.iter().filter(|((series, _), _)| *series == 0).map(|(_, life)| *life).collect();
    of_one.sort_unstable();
    assert!(of_one.windows(2).all(|pair| pair[0].1 < pair[1].0), "{of_one:?}");
    // The text has these labels.
    let mut text = Vec::new();
    write(&mut Generator::new(options).unwrap(), TextFormat::Prometheus, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let instances: std::collections::BTreeSet<&str> =
        text.lines().filter_map(|line| line.split("instance=\"").nth(1)?.split('"').next()).collect();
    let named: std::collections::BTreeSet<&str> = lives.keys().map(|(_, name)| name.as_str()).collect();
    assert_eq!(instances, named);
    for churn_ms in [1, -5, options::SPAN_MS_MAX + 1] {
        let refused = Generator::new(GenerateOptions { churn_ms, ..GenerateOptions::over(START_MS, hour) })
            .unwrap_err();
        assert!(refused.to_string().starts_with("churn must be 0, or a step (15000 ms) to "), "{refused}");
    }
}
