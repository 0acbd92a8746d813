//! `GET /api/v1/profiles/{series}/decomposition`: a series taken apart into trend, season and what is left.
//!
//! Seasons up to six hours are seen in the minutes of the last day, longer ones in means of quarters of an hour over as many days
//! as are held. Steps without a value are interpolated: dropping them would move the phases behind them.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde_json::{Value, json};
use tidewatch_dataflows::kernels::decompose::{
    DecompositionError, Extrapolation, SeasonalModel, Strengths, decompose, strengths,
};
use tidewatch_dataflows::kernels::gaps;
use tidewatch_dataflows::rows::inspect::StepsView;
use tidewatch_dataflows::settings::{duration, parse_duration};

use super::{ANALYSIS, MINUTE_MS, QUARTER_MS, Subject, answer};
use crate::api::operation::{AnswerKind, Operation, Param};
use crate::api::params::{Params, SERIES, duration_schema};
use crate::api::series::SeriesPath;
use crate::api::{Api, Problem};
use crate::store::record::Rfc3339;

/// The longest season that is seen in minutes: a quarter of the day that they reach back.
const MINUTES_PERIOD_MS_MAX: i64 = 6 * 3_600_000;

/// How a series is taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Classical,
    Stl,
}

const METHODS: [(&str, Method); 2] = [("classical", Method::Classical), ("stl", Method::Stl)];
const MODELS: [(&str, SeasonalModel); 2] =
    [("additive", SeasonalModel::Additive), ("multiplicative", SeasonalModel::Multiplicative)];

const METHOD: Param = Param::query(
    "method",
    "stl",
    "`classical` takes a moving average and the means of phases, as statsmodels' `seasonal_decompose`; `stl` smooths locally, as \
     its `STL` with the seasonal length 7.",
    || json!({"type": "string", "enum": METHODS.map(|(name, _)| name), "default": "classical"}),
);
const MODEL: Param = Param::query(
    "model",
    "multiplicative",
    "Whether the parts add up to a value or multiply to it; STL is additive.",
    || json!({"type": "string", "enum": MODELS.map(|(name, _)| name), "default": "additive"}),
);
const PERIOD: Param = Param::query(
    "period",
    "1h",
    "Length of the season: whole minutes up to 6h, beyond that multiples of 15m, at most half of what is held. The one \
     that was found if absent.",
    duration_schema,
);

pub const DECOMPOSITION: Operation = Operation {
    id: "decomposition",
    path: "/api/v1/profiles/{series}/decomposition",
    summary: "A series taken apart",
    about: "Trend, season and residual of each step: of minutes over the last 24 hours where the season is at most six hours, else \
            of quarters of an hour over `profile.season_days`.",
    params: &[SERIES, METHOD, MODEL, PERIOD],
    answer: AnswerKind::Json("Decomposition"),
    ..ANALYSIS
};

/// Answers with the decomposition of a series.
pub async fn show(
    State(api): State<Api>,
    uri: Uri,
    SeriesPath(series): SeriesPath,
) -> Result<Response, Problem> {
    answer((api, uri, series), &DECOMPOSITION, Wanted::read, parts).await
}

/// How a series is to be taken apart.
struct Wanted {
    method: (&'static str, Method),
    model: (&'static str, SeasonalModel),
    period_ms: Option<i64>,
}

impl Wanted {
    fn read(params: &Params) -> Result<Wanted, Problem> {
        let method = params.choice("method", &METHODS)?.unwrap_or(METHODS[0]);
        let model = params.choice("model", &MODELS)?.unwrap_or(MODELS[0]);
        if method.1 == Method::Stl && model.1 == SeasonalModel::Multiplicative {
            return Err(Problem::parameter("model", "additive where method is stl", model.0));
        }
        Ok(Wanted { method, model, period_ms: params.one("period").map(period).transpose()? })
    }
}

fn parts(wanted: Wanted, subject: &Subject) -> Result<Value, Problem> {
    let grid = Grid::of(&subject.steps, wanted.period_ms)?;
    let mut filled = Vec::new();
    gaps::interpolate(grid.values, &mut filled);
    let parts = match wanted.method.1 {
        Method::Classical => classical(&filled, grid.period, wanted.model.1)?,
        Method::Stl => stl(&filled, grid.period)?,
    };
    let n = grid.values.len() as i64;
    let rows = (0..n).zip(grid.values).zip(&parts.rows).map(|((i, value), [trend, seasonal, residual])| {
        let at_ms = grid.end_ms - (n - 1 - i) * grid.step_ms;
        json!({
            "at": Rfc3339::from_ms(at_ms).map(|at| at.to_string()),
            "at_ms": at_ms,
            "value": value,
            "trend": trend,
            "seasonal": seasonal,
            "residual": residual,
        })
    });
    Ok(json!({
        "method": wanted.method.0,
        "model": wanted.model.0,
        "period_seconds": grid.period as i64 * grid.step_ms / 1_000,
        "step_seconds": grid.step_ms / 1_000,
        "period_steps": grid.period,
        "seasonal_strength": parts.strengths.seasonal,
        "trend_strength": parts.strengths.trend,
        "data": rows.collect::<Vec<_>>(),
    }))
}

/// `period` in milliseconds.
fn period(text: &str) -> Result<i64, Problem> {
    let bound = "a duration of whole minutes from 2m to 6h, or of quarters of an hour up to 183d, such as 1h";
    let ms = parse_duration(text).filter(|ms| {
        let step_ms = if *ms <= MINUTES_PERIOD_MS_MAX { MINUTE_MS } else { QUARTER_MS };
        (2 * MINUTE_MS..=183 * 86_400_000).contains(ms) && ms % step_ms == 0
    });
    ms.ok_or_else(|| Problem::parameter("period", bound, text))
}

/// The steps that show a season, and its length in them.
struct Grid<'a> {
    values: &'a [f64],
    end_ms: i64,
    step_ms: i64,
    period: usize,
}

impl Grid<'_> {
    fn of(steps: &StepsView, asked_ms: Option<i64>) -> Result<Grid<'_>, Problem> {
        let found_ms = Some(i64::from(steps.period_minutes) * MINUTE_MS).filter(|ms| *ms > 0);
        let Some(period_ms) = asked_ms.or(found_ms) else {
            return Err(Problem::bad_request(
                "period must be given: no season was found of this series".to_owned(),
            ));
        };
        let (values, end_ms, step_ms) = if period_ms <= MINUTES_PERIOD_MS_MAX {
            (&steps.minutes, steps.minutes_end_ms, MINUTE_MS)
        } else {
            (&steps.quarters, steps.quarters_end_ms, QUARTER_MS)
        };
        let held_ms = values.len() as i64 * step_ms;
        if period_ms * 2 > held_ms {
            let bound =
                format!("at most half of the {} of {} that are held", duration(held_ms), duration(step_ms));
            return Err(Problem::parameter("period", &bound, &duration(period_ms)));
        }
        Ok(Grid { values, end_ms, step_ms, period: (period_ms / step_ms) as usize })
    }
}

/// Trend, season and residual by step; NaN where there is none.
struct DecomposedSteps {
    rows: Vec<[f64; 3]>,
    strengths: Strengths,
}

fn classical(values: &[f64], period: usize, model: SeasonalModel) -> Result<DecomposedSteps, Problem> {
    let parts = decompose(values, period, model, Extrapolation::None).map_err(|error| match error {
        DecompositionError::NotPositive => {
            Problem::parameter("model", "additive for a series with values of 0 or below", "multiplicative")
        }
        DecompositionError::OutOfRange | DecompositionError::TooShort => {
            Problem::bad_request("values from 2^960 on cannot be taken apart".to_owned())
        }
    })?;
    let rows = (0..values.len())
        .map(|step| [parts.trend_at(step), parts.seasonal[step % period], parts.residual[step]])
        .collect();
    Ok(DecomposedSteps { rows, strengths: parts.strengths() })
}

/// As statsmodels' `STL(values, period=period, seasonal=7).fit()`.
fn stl(values: &[f64], period: usize) -> Result<DecomposedSteps, Problem> {
    // What is large and varies little keeps its digits.
    let anchor = values[0];
    let offsets: Vec<f64> = values.iter().map(|value| value - anchor).collect();
    let odd = |length: usize| length + usize::from(length.is_multiple_of(2));
    const SEASONAL: usize = 7;
    let trend_length = (1.5 * period as f64 / (1.0 - 1.5 / SEASONAL as f64)).ceil() as usize;
    let parts = stlrs::params()
        .seasonal_length(SEASONAL)
        .trend_length(odd(trend_length))
        .low_pass_length(odd(period + 1))
        .seasonal_degree(1)
        .trend_degree(1)
        .low_pass_degree(1)
        .seasonal_jump(1)
        .trend_jump(1)
        .low_pass_jump(1)
        .inner_loops(5)
        .outer_loops(0)
        .fit(&offsets, period)
        .map_err(|error| Problem::bad_request(format!("the steps cannot be taken apart: {error}")))?;
    let (trend, seasonal, residual) = (parts.trend(), parts.seasonal(), parts.remainder());
    let rows = (0..values.len()).map(|i| [anchor + trend[i], seasonal[i], residual[i]]).collect();
    Ok(DecomposedSteps { rows, strengths: strengths(residual, trend, seasonal) })
}
