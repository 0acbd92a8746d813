//! What late samples touched, handed on whole: base panes for windows, steps for what looks at a series as one value a step.

use super::state::GateSeries;
use crate::settings::STEP_MS;
use crate::shard::{AdmittedBatch, LatePane, LateStep, pane_of};

/// The start of the base pane that holds `at`; its samples are strictly newer.
pub(super) fn pane_start(at_ms: i64, base_ms: i64) -> i64 {
    (pane_of(at_ms, base_ms) - 1) * base_ms
}

/// Hands on the panes that the late samples from `late_from` on touched, whole.
pub(super) fn close_late(
    head: &GateSeries,
    slot: u32,
    base_ms: i64,
    late_from: usize,
    out: &mut AdmittedBatch,
) {
    let done =
        out.late.last().filter(|pane| pane.slot == slot).map_or(late_from, |pane| pane.late.1 as usize);
    let mut from = done;
    while from < out.late_at_ms.len() {
        let pane = pane_of(out.late_at_ms[from], base_ms);
        let to = from + out.late_at_ms[from..].iter().take_while(|at| pane_of(**at, base_ms) == pane).count();
        let raw_from = out.raw_at_ms.len() as u32;
        head.raw.copy_pane(
            head.newest,
            (pane - 1) * base_ms,
            pane * base_ms,
            &mut out.raw_at_ms,
            &mut out.raw_value,
        );
        let raw = (raw_from, out.raw_at_ms.len() as u32);
        out.late.push(LatePane { slot, pane, raw, late: (from as u32, to as u32) });
        from = to;
    }
}

/// Hands on the steps that the late samples from `late_from` on touched, and of each the next one that has samples, for its
/// first sample has another one before it now. Once for all late samples of a series, which come before its new ones.
pub(super) fn close_late_steps(head: &GateSeries, slot: u32, late_from: usize, out: &mut AdmittedBatch) {
    if late_from == out.late_at_ms.len() || out.late_steps.last().is_some_and(|step| step.slot == slot) {
        return;
    }
    let mut done = i64::MIN;
    for late in late_from..out.late_at_ms.len() {
        let step = pane_of(out.late_at_ms[late], STEP_MS);
        let next = head.raw.first_after(head.newest, step * STEP_MS).map(|at_ms| pane_of(at_ms, STEP_MS));
        for step in std::iter::once(step).chain(next) {
            if step <= done {
                continue;
            }
            done = step;
            let span = ((step - 1) * STEP_MS, step * STEP_MS);
            let raw_from = out.raw_at_ms.len();
            let (is_whole, before) =
                head.raw.copy_step(head.newest, span, &mut out.raw_at_ms, &mut out.raw_value);
            if is_whole {
                let raw = (raw_from as u32, out.raw_at_ms.len() as u32);
                out.late_steps.push(LateStep { slot, step, before, raw });
            } else {
                out.raw_at_ms.truncate(raw_from);
                out.raw_value.truncate(raw_from);
            }
        }
    }
}
