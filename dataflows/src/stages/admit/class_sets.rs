//! What is known of series, by the place of their options, with a slot and without.

use std::collections::BTreeMap;

use crate::sample::MetricType;
use crate::settings::{SeriesClass, SeriesOptions};

/// Most sets of options at once; a series whose options would be one more has none. Entries of `select` are fewer.
const SETS_MAX: usize = 255;

/// What is known of a series, in two bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PlacedClass {
    /// What kind of metric it is, if a source or its name has said so.
    pub(super) kind: Option<MetricType>,
    /// The place of its options.
    pub(super) options: u8,
}

/// The sets of options of a shard's series.
pub(super) struct OptionSets(Vec<SeriesOptions>);

impl Default for OptionSets {
    fn default() -> OptionSets {
        OptionSets(vec![SeriesOptions::default()])
    }
}

impl OptionSets {
    /// The place of these options, which they get if they have none.
    pub(super) fn place(&mut self, options: &SeriesOptions) -> u8 {
        if let Some(place) = self.0.iter().position(|held| held == options) {
            return place as u8;
        }
        if self.0.len() > SETS_MAX {
            return 0;
        }
        self.0.push(*options);
        (self.0.len() - 1) as u8
    }

    pub(super) fn class(&self, placed: PlacedClass) -> SeriesClass {
        SeriesClass { kind: placed.kind, options: self.0[usize::from(placed.options)] }
    }
}

/// What is known of series that have no slot, bounded: beyond that the lowest ids are forgotten.
#[derive(Default)]
pub(super) struct EarlyClasses {
    pub(super) of: BTreeMap<u64, PlacedClass>,
    pub(super) max: usize,
}

impl EarlyClasses {
    pub(super) fn put(&mut self, series: u64, class: PlacedClass) {
        if class == PlacedClass::default() {
            self.of.remove(&series);
            return;
        }
        self.of.insert(series, class);
        self.shrink(self.max);
    }

    /// Keeps at most `max` from now on.
    pub(super) fn shrink(&mut self, max: usize) {
        self.max = max;
        while self.of.len() > self.max {
            self.of.pop_first();
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.of.len() * 24
    }
}
