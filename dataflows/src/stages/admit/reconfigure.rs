//! A change of settings: what the gate keeps of its state, and what it tells `window` of each series.
//!
//! Slots, tombstones, rejects and bootstraps go on. Of the raw ring it stays known how far back its panes are whole: a late
//! sample that the settings before would have refused, or whose new base pane is not wholly held, is `late_ring_full`.

use std::sync::Arc;

use super::ring::NEVER;
use super::state::Admit;
use crate::sample::Control;
use crate::settings::Settings;
use crate::shard::{AdmittedBatch, Timers};

impl Admit {
    /// Takes over the settings that the epoch begins with, if they differ; gives those before.
    pub(super) fn apply_settings(
        &mut self,
        controls: &[Arc<Control>],
        out: &mut AdmittedBatch,
    ) -> Option<Arc<Settings>> {
        let told = controls.iter().rev().find_map(|control| match &**control {
            Control::Settings(settings) => Some(settings),
            _ => None,
        });
        let settings = told.filter(|settings| ***settings != *self.settings)?;
        out.settings = Some(Arc::clone(settings));
        Some(self.reconfigure(settings, out))
    }

    /// Goes on under `new` settings; gives those before.
    fn reconfigure(&mut self, new: &Arc<Settings>, out: &mut AdmittedBatch) -> Arc<Settings> {
        let (old, old_base_ms) = (std::mem::replace(&mut self.settings, Arc::clone(new)), self.base_ms);
        self.base_ms = new.base_ms();
        self.tombstones.shrink((new.series_max / 256) as usize);
        self.early.shrink((new.series_max / 256) as usize);
        // How long a slot is kept has changed: all are looked at once, at the end of this epoch.
        self.timers = Timers::default();
        let given: Vec<u32> = self.slots.given().filter(|slot| !out.quarantined.contains(slot)).collect();
        for slot in given {
            self.position.on(self.slots.series(slot));
            self.heads[slot as usize].armed = i64::MAX;
            self.arm(slot, NEVER);
            let mut carried = self.carried(slot, old.raw_kept_ms(), old_base_ms);
            let head = &mut self.heads[slot as usize];
            if head.newest != NEVER {
                if self.base_ms != old_base_ms {
                    carried.raw = head.copy_raw(carried.raw_from_ms, out);
                    head.raw.lose(carried.raw_from_ms);
                }
                if new.allowed_lateness_ms > old.allowed_lateness_ms {
                    head.raw.lose(head.newest - old.allowed_lateness_ms);
                }
                head.raw.forget(head.newest, head.newest - new.raw_kept_ms());
                head.raw.shrink(head.newest, new.late_samples_max as usize);
            }
            out.carried.push(carried);
        }
        old
    }
}
