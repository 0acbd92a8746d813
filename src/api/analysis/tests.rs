//! What is computed of a series on request, over a loopback port, of steps that are made up.

use std::f64::consts::TAU;

use serde_json::Value;
use tidewatch_dataflows::rows::inspect::StepsView;

use crate::api::tests::{Served, filled, serve};
use crate::store::testing::{T0, TempDir, series};

const MINUTES: i64 = 1_440;
/// Without a value.
const GAP: i64 = 700;

/// An hour's season upon a slope and something like noise, on a large level, that ends five minutes after a full day.
pub fn hourly() -> StepsView {
    let value = |minute: i64| {
        let season = 5.0 * (TAU * (minute - 1).rem_euclid(60) as f64 / 60.0).sin();
        let noise = ((minute * 7_919) % 1_009) as f64 / 1_009.0;
        4e10 + 0.01 * minute as f64 + season + noise
    };
    let minutes = (6..=MINUTES + 5).map(|minute| if minute == GAP { f64::NAN } else { value(minute) });
    StepsView {
        bootstrapping: false,
        is_rate: true,
        minutes: minutes.collect(),
        minutes_end_ms: T0 + (MINUTES + 5) * 60_000,
        quarters: (0..384).map(|quarter| f64::from(quarter % 96)).collect(),
        quarters_end_ms: T0 + MINUTES * 60_000,
        period_minutes: 60,
    }
}

fn served() -> (TempDir, Served) {
    let dir = TempDir::new();
    let served = serve(filled(&dir), Ok(()));
    (dir, served)
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|one| one.as_f64().unwrap_or(f64::NAN)).collect()
}

fn path(i: u64, of: &str) -> String {
    format!("/api/v1/profiles/{}/{of}", series(i))
}

#[test]
fn the_autocorrelation_reaches_up_to_the_lag_that_is_asked_for() {
    let (_dir, served) = served();
    let answer = served.get(&path(0, "acf")).json();
    assert_eq!(
        (&answer["steps"], &answer["lags"], &answer["transform"]),
        (&1_439.into(), &31.into(), &"rate".into())
    );
    assert_eq!(answer["at_ms"], T0 + (MINUTES + 5) * 60_000);
    let far = served.get(&path(0, "acf?lags=1439")).json();
    let (acf, band) = (floats(&far["acf"]), floats(&far["band"]));
    assert_eq!((&far["lags"], acf.len(), band.len()), (&1_438.into(), 1_439, 1_439));
    assert_eq!((acf[0], band[0]), (1.0, 0.0));
    let few = floats(&answer["acf"]);
    assert!(few.iter().zip(&acf).all(|(few, far)| (few - far).abs() < 1e-12));
    assert!(acf[60] > acf[30] + 0.5 && acf[60] > band[60], "{} {}", acf[60], acf[30]);
    assert_eq!(floats(&far["ljung_box_p_value"])[9], 0.0);
    // The lags of a series add up to -1/2 with that of lag 0 left out, whatever the series.
    let sum: f64 = acf[1..].iter().sum();
    assert!((sum + 0.5).abs() < 1e-9, "{sum}");
}

#[test]
fn the_unit_root_test_takes_other_terms() {
    let (_dir, served) = served();
    let of = |query: &str| served.get(&path(0, &format!("adf{query}"))).json();
    let (constant, trend, none) = (of(""), of("?regression=ct"), of("?regression=n"));
    assert_eq!(constant, of("?regression=c"));
    for (answer, name, critical) in
        [(&constant, "c", -2.8635), (&trend, "ct", -3.4130), (&none, "n", -1.9412)]
    {
        assert_eq!((&answer["regression"], &answer["status"]), (&name.into(), &"ok".into()), "{answer}");
        assert!((answer["critical_5"].as_f64().unwrap() - critical).abs() < 2e-3, "{answer}");
    }
    assert_eq!((&trend["stationary"], &none["stationary"]), (&true.into(), &false.into()), "{trend} {none}");
}

#[test]
fn the_parts_of_a_series_make_up_its_values() {
    let (_dir, served) = served();
    for (query, joined) in [
        ("", "sum"),
        ("?method=stl", "sum"),
        ("?model=multiplicative", "product"),
        ("?method=stl&period=2h", "sum"),
        ("?period=1d", "sum"),
    ] {
        let answer = served.get(&path(0, &format!("decomposition{query}"))).json();
        let is_day = query == "?period=1d";
        let rows = answer["data"].as_array().unwrap();
        assert_eq!(rows.len() as i64, if is_day { 384 } else { MINUTES }, "{query}");
        let end_ms = if is_day { hourly().quarters_end_ms } else { hourly().minutes_end_ms };
        assert_eq!(rows.last().unwrap()["at_ms"], end_ms, "{query}");
        let mut whole = 0;
        for row in rows {
            let [value, trend, seasonal, residual] =
                ["value", "trend", "seasonal", "residual"].map(|name| row[name].as_f64());
            let (Some(value), Some(trend), Some(seasonal), Some(residual)) =
                (value, trend, seasonal, residual)
            else {
                continue;
            };
            whole += 1;
            let made =
                if joined == "sum" { trend + seasonal + residual } else { trend * seasonal * residual };
            assert!((made - value).abs() <= 1e-15 * value.abs() * 8.0 + 1e-9, "{query}: {row}");
        }
        let missing = rows.iter().filter(|row| row["value"].is_null()).count();
        assert_eq!(missing, usize::from(!is_day), "{query}");
        let ends = if query.contains("stl") { 0 } else { answer["period_steps"].as_u64().unwrap() as usize };
        assert_eq!(whole, rows.len() - ends - missing, "{query}");
        assert!(
            answer["seasonal_strength"].as_f64().unwrap() > 0.9,
            "{query}: {}",
            answer["seasonal_strength"]
        );
        if joined == "sum" && !is_day {
            // The season is 5 high where it is highest, but for the noise.
            let most = rows.iter().filter_map(|row| row["seasonal"].as_f64()).fold(0.0, f64::max);
            assert!((most - 5.0).abs() < 0.8, "{query}: {most}");
        }
    }
}

#[test]
fn phases_begin_with_the_hour_and_the_day() {
    let (_dir, served) = served();
    let answer = served.get(&path(0, "phases")).json();
    let hour = floats(&answer["hour"]["deviations"]);
    let highest = (0..60).max_by(|a, b| hour[*a].total_cmp(&hour[*b])).unwrap();
    assert!((11..=19).contains(&highest), "a sine is highest after a quarter: {highest} {hour:?}");
    let day = floats(&answer["day"]["deviations"]);
    assert_eq!((day.len(), day[0], day[95]), (96, -47.5, 47.5));
    assert_eq!(answer["day"]["cycles"][0], 4);
}

#[test]
fn what_cannot_be_computed_is_said() {
    let (_dir, served) = served();
    for (of, status, why) in [
        ("acf?lags=0", 400, "lags must be 1 to 1439; got \"0\""),
        ("acf?lags=many", 400, "lags must be 1 to 1439; got \"many\""),
        ("adf?regression=ctt", 400, "regression must be one of c, ct, n; got \"ctt\""),
        ("decomposition?method=x11", 400, "method must be one of classical, stl; got \"x11\""),
        ("decomposition?model=log", 400, "model must be one of additive, multiplicative"),
        ("decomposition?method=stl&model=multiplicative", 400, "model must be additive where method is stl"),
        ("decomposition?period=90s", 400, "period must be a duration of whole minutes"),
        ("decomposition?period=1m", 400, "period must be a duration of whole minutes"),
        ("decomposition?period=6h10m", 400, "period must be a duration of whole minutes"),
        (
            "decomposition?period=3d",
            400,
            "period must be at most half of the 4d of 15m that are held; got \"3d\"",
        ),
        (
            "decomposition?model=multiplicative&period=1d",
            400,
            "model must be additive for a series with values of 0",
        ),
        ("phases?lags=3", 400, "takes no parameters"),
    ] {
        let (found, detail) = served.problem(&path(0, of));
        assert_eq!(found, status, "{of}: {detail}");
        assert!(detail.contains(why), "{of}: {detail}");
    }
    for of in ["acf", "adf", "decomposition", "phases"] {
        assert_eq!(served.problem(&path(2, of)).0, 503, "{of}");
        assert_eq!(served.problem(&format!("/api/v1/profiles/nobody/{of}")).0, 404, "{of}");
    }
    let (status, detail) = served.problem(&path(1, "decomposition"));
    assert!(status == 400 && detail.contains("period must be given"), "{detail}");
    let acf = served.get(&path(1, "acf")).json();
    assert_eq!((&acf["steps"], &acf["at"], &acf["lags"]), (&0.into(), &Value::Null, &0.into()), "{acf}");
    assert_eq!(served.get(&path(1, "adf")).json()["status"], "too_short");
    assert_eq!(floats(&served.get(&path(1, "phases")).json()["hour"]["deviations"]).len(), 60);
}
