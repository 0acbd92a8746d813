//! What kind of series each one is: what sources said of it, what its name says, and what is set for it.
//!
//! All of it may come before a series has a slot, and outlives the slot: whoever said it does not say it again while the labels are
//! known. A shard holds each set of options once, and of a series its place.

use std::collections::{BTreeMap, HashMap};

use super::class_sets::PlacedClass;
use super::state::Admit;
use crate::settings::{SeriesClass, SeriesOptions, Settings};
use crate::shard::{AdmittedBatch, ClassChange};

impl Admit {
    /// Takes note of what sources have said of series, of what others are by their names, and of what is set. With settings
    /// whose `select` is another one than `before`, nothing that was set counts any more but what is said now.
    pub(super) fn take_classes(&mut self, before: Option<&Settings>, out: &mut AdmittedBatch) {
        let mut changed: BTreeMap<u32, SeriesClass> = BTreeMap::new();
        if before.is_some_and(|before| before.select != self.settings.select) {
            self.set_anew(&mut changed, out);
        }
        for (series, kind) in &out.named_types {
            self.reclassify(series.0, &mut changed, |class| class.kind = class.kind.or(Some(*kind)));
        }
        for (series, kind) in &out.types {
            self.reclassify(series.0, &mut changed, |class| class.kind = Some(*kind));
        }
        for (series, options) in &out.options {
            let place = self.sets.place(options);
            self.reclassify(series.0, &mut changed, |class| class.options = place);
        }
        for (slot, was) in changed {
            let class = self.sets.class(self.heads[slot as usize].class);
            if class != was {
                out.classes.push(ClassChange { slot, series: self.slots.series(slot), class });
            }
        }
    }

    /// Changes what is known of a series, and notes what it was if it has a slot.
    fn reclassify(
        &mut self,
        series: u64,
        changed: &mut BTreeMap<u32, SeriesClass>,
        change: impl Fn(&mut PlacedClass),
    ) {
        match self.slots.get(series) {
            Some(slot) => {
                let class = &mut self.heads[slot as usize].class;
                changed.entry(slot).or_insert_with(|| self.sets.class(*class));
                change(class);
            }
            None => {
                let mut class = self.early.of.get(&series).copied().unwrap_or_default();
                change(&mut class);
                self.early.put(series, class);
            }
        }
    }

    /// Gives every series the options that this epoch names, or none.
    fn set_anew(&mut self, changed: &mut BTreeMap<u32, SeriesClass>, out: &AdmittedBatch) {
        let were = std::mem::take(&mut self.sets);
        let named: HashMap<u64, &SeriesOptions> =
            out.options.iter().map(|(series, options)| (series.0, options)).collect();
        for slot in self.slots.given() {
            let class = &mut self.heads[slot as usize].class;
            let was = were.class(*class);
            class.options =
                named.get(&self.slots.series(slot).0).map_or(0, |options| self.sets.place(options));
            if self.sets.class(*class) != was {
                changed.insert(slot, was);
            }
        }
        self.early.of.retain(|series, class| {
            class.options = named.get(series).map_or(0, |options| self.sets.place(options));
            *class != PlacedClass::default()
        });
    }
}
