//! A profile of the steps that are held. Everything here follows from the slices alone.

use super::ring::{DAY_QUARTERS, QUARTER_STEPS, StepRing, WINDOW_STEPS};
use super::sliding::{SlidingSums, WindowEnds};
use crate::kernels::adf::{self, Adf, Regression, Status};
use crate::kernels::decompose::{DecompositionError, Extrapolation, SeasonalModel, decompose};
use crate::kernels::grid::{GRID_ENDS, Grid, GridSums, largest_exponent};
use crate::kernels::lag_sums::{LagSums, Shape};
use crate::kernels::spectrum::{PeriodSearch, SeasonalPeriod, SpectrumWorkspace, detect_periods};
use crate::kernels::{acf, gaps, ljung_box, order};
use crate::rows::columns::Floats;
use crate::rows::profiles::{LAGS_MAX, SeriesProfile};
use crate::rows::verdicts::{AdfStatus, ProfileStatus, SIGNIFICANCE, Verdict};
use crate::settings::{MINUTES_PERIOD_MAX_MS, Model, SEASON_CYCLES_MIN, STEP_MS, SeriesOptions};

/// Fewer steps say nothing.
const STEPS_MIN: usize = 60;
/// With more gaps no verdict is given: a test of what is left would be one of another series.
const GAP_RATIO_MAX: f64 = 0.2;
/// A season of this strength counts (the rule of `nsdiffs`).
const STRENGTH_MIN: f64 = 0.64;
/// Periods that are tried in any case: minutes of the hour, and quarters of the day and the week.
const MINUTE_PRIORS: [usize; 6] = [5, 10, 15, 30, 60, 120];
const QUARTER_PRIORS: [usize; 2] = [DAY_QUARTERS, 7 * DAY_QUARTERS];
/// Periods that are set are looked at in minutes up to this one.
const MINUTES_PERIOD_MAX: u32 = (MINUTES_PERIOD_MAX_MS / STEP_MS) as u32;
/// Shorter seasons are found among the minutes.
const QUARTERS_MIN: usize = 24;

/// The season of a series, as the last search found it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Season {
    /// Steps of one minute; 0 if there is none.
    pub(super) period: u32,
    pub(super) strength: f64,
    pub(super) trend: f64,
}

impl Season {
    pub(super) const NONE: Season = Season { period: 0, strength: 0.0, trend: f64::NAN };
}

/// What is set about the season of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WantedSeason {
    /// Steps of one minute; 0 if it is looked for.
    pub(super) period: u32,
    pub(super) model: Model,
}

impl WantedSeason {
    pub(super) fn of(options: &SeriesOptions) -> WantedSeason {
        let period = u32::try_from(options.period_ms / STEP_MS).unwrap_or_default();
        WantedSeason { period, model: options.model }
    }
}

/// How strong a season of so many `steps` is, each of which is `scale` minutes; nothing of fewer than two of it.
fn measure(
    steps: &[f64],
    filled: &mut Vec<f64>,
    period: usize,
    scale: usize,
    model: Model,
) -> Option<Season> {
    gaps::interpolate(steps, filled);
    let parts = |model| decompose(filled, period, model, Extrapolation::None);
    let parts = match model {
        Model::Additive => parts(SeasonalModel::Additive),
        // A product says nothing of what may be 0 or below.
        Model::Multiplicative => match parts(SeasonalModel::Multiplicative) {
            Err(DecompositionError::NotPositive) => parts(SeasonalModel::Additive),
            parts => parts,
        },
    };
    let strengths = parts.ok()?.strengths();
    Some(Season { period: (period * scale) as u32, strength: strengths.seasonal, trend: strengths.trend })
}

/// What the tests say of a window. The rest of a row is computed where one is published.
pub(super) struct Judgement {
    status: ProfileStatus,
    gap_ratio: f64,
    adf: Adf,
    /// Lags of the Ljung-Box test, and what it found.
    tested: usize,
    statistic: f64,
    p_value: f64,
    pub(super) stationary: Verdict,
    pub(super) seasonal: Verdict,
    pub(super) autocorrelated: Verdict,
}

impl Judgement {
    /// Fewer steps say nothing.
    pub(super) fn is_too_short(&self) -> bool {
        self.status == ProfileStatus::TooShort
    }
}

/// Room for evaluations; what one gives does not depend on those before it.
#[derive(Default)]
pub(super) struct Evaluator {
    /// The steps at hand, the newest last; NaN is absent.
    pub(super) steps: Vec<f64>,
    /// The means of quarters at hand.
    pub(super) quarters: Vec<f64>,
    present: Vec<f64>,
    numbers: Vec<i64>,
    filled: Vec<f64>,
    ends: WindowEnds,
    /// Steps of the window that the sums are of.
    length: usize,
    sums: LagSums,
    /// Of a window whose products do not say enough.
    columns: LagSums,
    adf: adf::Workspace,
    /// Each has tables for the lengths that it is asked for.
    of_minutes: SpectrumWorkspace,
    of_quarters: SpectrumWorkspace,
}

impl Evaluator {
    /// Looks for the season in minutes and in quarters of an hour, or measures the one that is set. Nothing is known where the
    /// steps have too many gaps, or are fewer than three of it.
    pub(super) fn search(&mut self, wanted: WantedSeason) -> Option<Season> {
        let minutes = PeriodSearch { priors: &MINUTE_PRIORS, periods_max: 1, ..PeriodSearch::default() };
        let quarters =
            PeriodSearch { period_min: QUARTERS_MIN, cycles_min: 3, priors: &QUARTER_PRIORS, ..minutes };
        let is_enough = |steps: &[f64]| {
            let gaps = steps.iter().filter(|step| step.is_nan()).count() as f64;
            steps.len() >= STEPS_MIN && gaps <= GAP_RATIO_MAX * steps.len() as f64
        };
        if wanted.period > 0 {
            let scale = if wanted.period <= MINUTES_PERIOD_MAX { 1 } else { QUARTER_STEPS as usize };
            let steps = if scale == 1 { &self.steps } else { &self.quarters };
            let period = wanted.period as usize / scale;
            if !is_enough(steps) || steps.len() < SEASON_CYCLES_MIN as usize * period {
                return None;
            }
            return measure(steps, &mut self.filled, period, scale, wanted.model);
        }
        let enough = (is_enough(&self.steps), is_enough(&self.quarters));
        if enough == (false, false) {
            return None;
        }
        let found = |enough: bool, steps: &[f64], search: &PeriodSearch, room: &mut SpectrumWorkspace| {
            enough.then(|| detect_periods(steps, search, room).first().copied()).flatten()
        };
        let of_minutes = found(enough.0, &self.steps, &minutes, &mut self.of_minutes);
        let of_quarters = found(enough.1, &self.quarters, &quarters, &mut self.of_quarters);
        let strength = |period: &Option<SeasonalPeriod>| period.map_or(0.0, |period| period.strength);
        let (steps, period, scale) = match (of_minutes, of_quarters) {
            (None, None) => return Some(Season::NONE),
            (Some(period), _) if strength(&of_minutes) >= strength(&of_quarters) => (&self.steps, period, 1),
            (_, Some(period)) => (&self.quarters, period, QUARTER_STEPS as usize),
            (Some(period), None) => (&self.steps, period, 1),
        };
        let season = measure(steps, &mut self.filled, period.steps, scale, wanted.model);
        Some(season.unwrap_or(Season::NONE))
    }

    /// Sums the window of a ring. What was kept of it moves along, or is made anew.
    pub(super) fn sum(&mut self, ring: &StepRing, kept: &mut Option<Box<SlidingSums>>) {
        if let Some(sliding) = kept
            && sliding.slide(ring, &mut self.ends).is_some()
        {
            self.length = (ring.newest - ring.from() + 1) as usize;
            self.sums.compute_from(&sliding.sums, self.ends.oldest(), self.ends.newest());
            return;
        }
        ring.window(&mut self.steps);
        let (from, upto) = (ring.from(), ring.newest);
        *kept = self.sum_steps().map(|sums| Box::new(SlidingSums { from, upto, sums }));
    }

    /// Moves what was kept of a ring to its window; whether that could be done.
    pub(super) fn slide(&mut self, ring: &StepRing, sliding: &mut SlidingSums) -> bool {
        sliding.slide(ring, &mut self.ends).is_some()
    }

    /// Sums the steps at hand; gives the sums that can be kept, if there are any.
    pub(super) fn sum_steps(&mut self) -> Option<GridSums> {
        self.length = self.steps.len();
        if let Some(grid) = Grid::of(largest_exponent(&self.steps)) {
            self.numbers.clear();
            grid.numbers(&self.steps, &mut self.numbers);
            let (numbers, n) = (&self.numbers, self.numbers.len());
            let sums = GridSums::new(grid, numbers);
            let ends = if n <= 2 * GRID_ENDS { n } else { GRID_ENDS };
            self.sums.compute_from(&sums, &numbers[..ends], &numbers[n - ends..]);
            return Some(sums);
        }
        self.drop_absent();
        self.sums.compute(&self.present, acf::default_lags(self.present.len()).min(LAGS_MAX - 1));
        None
    }

    fn drop_absent(&mut self) {
        self.present.clear();
        self.present.extend(self.steps.iter().copied().filter(|step| !step.is_nan()));
    }

    /// What the tests say of the window that was summed. Few windows are needed step by step: `window` leaves them at hand.
    pub(super) fn judge(&mut self, season: Option<Season>, window: impl FnOnce(&mut Vec<f64>)) -> Judgement {
        let n = self.sums.len();
        let gap_ratio = if self.length == 0 { 0.0 } else { 1.0 - n as f64 / self.length as f64 };
        let status = match self.sums.shape() {
            _ if n < STEPS_MIN => ProfileStatus::TooShort,
            _ if gap_ratio > GAP_RATIO_MAX => ProfileStatus::Gaps,
            Shape::Constant => ProfileStatus::Constant,
            Shape::Varying | Shape::NonFinite => ProfileStatus::Ok,
        };
        let by_products = adf::test_by_products(&self.sums, Regression::Constant, &mut self.adf);
        let adf = by_products.unwrap_or_else(|| {
            window(&mut self.steps);
            self.drop_absent();
            self.columns.compute(&self.present, 0);
            adf::test(&self.columns, Regression::Constant, &mut self.adf)
        });
        let mut judgement = Judgement {
            status,
            gap_ratio,
            adf,
            tested: 0,
            statistic: f64::NAN,
            p_value: f64::NAN,
            stationary: Verdict::Unknown,
            seasonal: Verdict::Unknown,
            autocorrelated: Verdict::Unknown,
        };
        if status == ProfileStatus::Ok {
            if adf.status == Status::Ok {
                judgement.stationary = Verdict::of(adf.p_value < SIGNIFICANCE);
            }
            self.judge_autocorrelation(&mut judgement);
            let season = season.unwrap_or(Season::NONE);
            let is_seasonal = season.period > 0 && season.strength >= STRENGTH_MIN;
            // That there is none can be said of a whole day only: of less most seasons cannot be found.
            if is_seasonal || self.length == WINDOW_STEPS as usize {
                judgement.seasonal = Verdict::of(is_seasonal);
            }
        }
        judgement
    }

    fn judge_autocorrelation(&self, judgement: &mut Judgement) {
        let n = self.sums.len();
        let tested = ljung_box::verdict_lags(n).min(acf::default_lags(n));
        let mut by_lag = [0.0; LAGS_MAX];
        let by_lag = &mut by_lag[..=tested];
        acf::autocorrelation(&self.sums, by_lag);
        judgement.tested = tested;
        judgement.statistic = ljung_box::statistic(by_lag, n, tested);
        judgement.p_value = ljung_box::p_value(judgement.statistic, tested);
        if judgement.p_value.is_finite() {
            judgement.autocorrelated = Verdict::of(judgement.p_value < SIGNIFICANCE);
        }
    }

    /// The row of a judgement, as of the newest step, which has this number. The newest steps of its window are at hand, as many
    /// as the longest median is of or all there are. The season is the one found last, if it was looked for.
    pub(super) fn row(&mut self, newest: i64, season: Option<Season>, of: &Judgement) -> SeriesProfile {
        let trailing = order::trailing(&self.steps, &mut self.filled);
        let mut variance = [0.0];
        acf::autocovariance(&self.sums, &mut variance);
        let n = self.sums.len();
        let mut row = SeriesProfile {
            at_ms: newest.saturating_mul(STEP_MS),
            steps: n as u32,
            gap_ratio: of.gap_ratio,
            mean: acf::mean(&self.sums),
            variance: variance[0],
            ljung_box_lags: of.tested as u32,
            ljung_box_statistic: of.statistic,
            ljung_box_p_value: of.p_value,
            seasonal_strength: f64::NAN,
            trend_strength: f64::NAN,
            median_15: trailing[0].median,
            mad_15: trailing[0].mad,
            median_60: trailing[1].median,
            mad_60: trailing[1].mad,
            median_240: trailing[2].median,
            mad_240: trailing[2].mad,
            status: of.status,
            stationary: of.stationary,
            seasonal: of.seasonal,
            autocorrelated: of.autocorrelated,
            adf_statistic: of.adf.statistic,
            adf_p_value: of.adf.p_value,
            adf_used_lag: of.adf.used_lag as u32,
            adf_nobs: of.adf.nobs as u32,
            adf_status: match of.adf.status {
                Status::Ok => AdfStatus::Ok,
                Status::Constant => AdfStatus::Constant,
                Status::TooShort => AdfStatus::TooShort,
                Status::NonFinite => AdfStatus::NonFinite,
                Status::PerfectFit => AdfStatus::PerfectFit,
                Status::DegenerateLevel => AdfStatus::DegenerateLevel,
            },
            ..SeriesProfile::default()
        };
        [row.adf_critical_1, row.adf_critical_5, row.adf_critical_10] = of.adf.critical_values;
        if of.status == ProfileStatus::Ok {
            let mut by_lag = vec![0.0; acf::default_lags(n).min(LAGS_MAX - 1) + 1];
            acf::autocorrelation(&self.sums, &mut by_lag);
            row.acf = Floats::new(by_lag).unwrap_or_default();
            let season = season.unwrap_or(Season::NONE);
            if season.period > 0 {
                row.period_seconds = season.period * (STEP_MS / 1_000) as u32;
                (row.seasonal_strength, row.trend_strength) = (season.strength, season.trend);
            }
        }
        row
    }

    /// The profile of the steps at hand, of which the newest has this number, from scratch.
    pub(super) fn profile(&mut self, newest: i64, season: Option<Season>) -> SeriesProfile {
        self.sum_steps();
        let judgement = self.judge(season, |_| ());
        self.row(newest, season, &judgement)
    }
}
