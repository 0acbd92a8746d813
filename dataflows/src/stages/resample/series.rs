//! The open step of one series, and its bytes in a snapshot.

use crate::kernels::steps::{StepMean, StepRate};
use crate::sample::{AT_MS_MAX, SeriesId};
use crate::settings::{STEP_MS, SeriesClass};
use crate::shard::{LateStep, StepEvent, pane_of};
use crate::snapshot::{StateError, StateReader, StateWriter};

/// Version of the part.
pub(super) const VERSION: u8 = 1;

/// No time, and no step, yet.
pub(super) const NEVER: i64 = i64::MIN;
/// The steps of one series.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeriesSteps {
    pub(super) series: SeriesId,
    /// The open step.
    pub(super) step: i64,
    /// Its newest sample.
    pub(super) newest_ms: i64,
    pub(super) newest: f64,
    pub(super) sum: StepSum,
    /// Whether it takes a bootstrap.
    pub(super) bootstraps: bool,
}

/// What the samples of a step come to.
#[derive(Clone, Copy, Debug)]
pub(super) enum StepSum {
    Mean(StepMean),
    Rate(StepRate),
}

impl StepSum {
    /// Of no samples of such a series.
    pub(super) fn of(class: SeriesClass) -> StepSum {
        match class.is_rate() {
            true => StepSum::Rate(StepRate::default()),
            false => StepSum::Mean(StepMean::default()),
        }
    }

    /// Of no samples of the same series.
    pub(super) fn emptied(&self) -> StepSum {
        match self {
            StepSum::Mean(_) => StepSum::Mean(StepMean::default()),
            StepSum::Rate(_) => StepSum::Rate(StepRate::default()),
        }
    }

    #[inline]
    pub(super) fn push(&mut self, before: Option<(i64, f64)>, sample: (i64, f64)) {
        match self {
            StepSum::Mean(mean) => mean.push(sample.1),
            StepSum::Rate(rate) => before.into_iter().for_each(|before| rate.push(before, sample)),
        }
    }

    pub(super) fn value(&self) -> f64 {
        match self {
            StepSum::Mean(mean) => mean.value(),
            StepSum::Rate(rate) => rate.value(),
        }
    }
}

impl SeriesSteps {
    pub(super) fn new(series: SeriesId, class: SeriesClass) -> SeriesSteps {
        let sum = StepSum::of(class);
        SeriesSteps { series, step: NEVER, newest_ms: NEVER, newest: 0.0, sum, bootstraps: false }
    }

    /// The newest sample.
    pub(super) fn before(&self) -> Option<(i64, f64)> {
        (self.newest_ms != NEVER).then_some((self.newest_ms, self.newest))
    }

    /// Takes a sample that is newer than all others. The step that it closes, and its value.
    #[inline]
    pub(super) fn push(&mut self, at_ms: i64, value: f64) -> Option<StepEvent> {
        let mut closed = None;
        if at_ms > self.step.saturating_mul(STEP_MS) {
            closed = self.close();
            self.step = pane_of(at_ms, STEP_MS);
            self.sum = self.sum.emptied();
        }
        self.sum.push(self.before(), (at_ms, value));
        (self.newest_ms, self.newest) = (at_ms, value);
        closed
    }

    /// The value of the open step, if it has one: the first sample of a counter makes no rate.
    pub(super) fn close(&self) -> Option<StepEvent> {
        let value = self.sum.value();
        (self.step != NEVER && !value.is_nan()).then_some(StepEvent::Value { step: self.step, value })
    }

    /// Takes a step that late samples touched. Its value, if it is closed and has one.
    pub(super) fn correct(&mut self, late: &LateStep, (at_ms, value): (&[i64], &[f64])) -> Option<StepEvent> {
        let (mut sum, mut before) = (self.sum.emptied(), late.before);
        for sample in at_ms.iter().copied().zip(value.iter().copied()) {
            sum.push(before, sample);
            before = Some(sample);
        }
        if late.step == self.step {
            self.sum = sum;
            return None;
        }
        let value = sum.value();
        (late.step < self.step && !value.is_nan()).then_some(StepEvent::Value { step: late.step, value })
    }
}

impl SeriesSteps {
    pub(super) fn save(&self, put: &mut StateWriter) {
        put.i64(self.newest_ms);
        put.u64(self.newest.to_bits());
        put.u8(u8::from(self.step != NEVER) | u8::from(self.bootstraps) << 1);
        match self.sum {
            StepSum::Mean(StepMean { hi, lo, count, large }) => {
                put.u8(u8::from(large));
                put.u64(hi.to_bits());
                put.u64(lo.to_bits());
                put.u64(count.into());
            }
            StepSum::Rate(StepRate { hi, lo, span_ms }) => {
                put.u8(2);
                put.u64(hi.to_bits());
                put.u64(lo.to_bits());
                put.i64(span_ms);
            }
        }
    }

    pub(super) fn load(series: SeriesId, take: &mut StateReader) -> Result<SeriesSteps, StateError> {
        let (newest_ms, newest, flags) = (take.i64()?, f64::from_bits(take.u64()?), take.u8()?);
        if flags > 3 || (newest_ms != NEVER && newest_ms.unsigned_abs() > AT_MS_MAX.unsigned_abs()) {
            return Err(StateError("an open step is not of a time that is taken"));
        }
        let sum_of = take.u8()?;
        let (hi, lo, rest) = (f64::from_bits(take.u64()?), f64::from_bits(take.u64()?), take.u64()?);
        let sum = match sum_of {
            0 | 1 => StepSum::Mean(StepMean { hi, lo, count: rest as u32, large: sum_of == 1 }),
            2 => StepSum::Rate(StepRate { hi, lo, span_ms: rest as i64 }),
            _ => return Err(StateError("an open step is of a kind that is not known")),
        };
        // Its step is that of its newest sample.
        let is_open = flags & 1 == 1 && newest_ms != NEVER;
        let step = if is_open { pane_of(newest_ms, STEP_MS) } else { NEVER };
        Ok(SeriesSteps { series, step, newest_ms, newest, sum, bootstraps: flags & 2 == 2 })
    }
}
