//! The feeder: reads the journal and deals it out to the workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidewatch_dataflows::driver::BATCH_SAMPLES;
use tidewatch_dataflows::sample::{Control, Mark, MetricType, Samples};

use super::workers::{Feed, Guards, Message};
use super::{PATIENCE, Progress};
use crate::journal::{JournalError, Reader, Record};

/// Reads the journal and deals its batches out to the workers in turn; every worker gets every epoch's marks.
///
/// Ends when the journal is read to its end, or when a worker is gone: that one has told why, and the rest of the
/// journal is for the next start.
pub(super) fn feed(
    mut reader: Reader,
    feeds: &[Feed],
    progress: &Progress,
    quit: &AtomicBool,
    mut types: impl FnMut(&[(u64, MetricType)]),
) -> Result<(), JournalError> {
    let (mut turn, mut all_there) = (0, true);
    let put = |to: usize, message: Message| {
        let sent = feeds[to].queue.send(message).is_ok();
        sent && feeds[to].activator.activate().is_ok()
    };
    let tell = |mark: Mark| (0..feeds.len()).all(|to| put(to, Message::Mark(mark.clone())));
    while all_there && !quit.load(Ordering::Relaxed) {
        match reader.next(PATIENCE)? {
            Some(Record::Samples(samples)) => {
                progress.samples.fetch_add(samples.len() as u64, Ordering::Relaxed);
                all_there = parts(samples).all(|part| {
                    turn = (turn + 1) % feeds.len();
                    put(turn, Message::Batch(part))
                });
            }
            Some(Record::EpochEnd(end)) => all_there = tell(Mark::End(end)),
            Some(Record::Control(control)) => {
                if let Control::Types(told) = &control {
                    types(told);
                }
                all_there = tell(Mark::Control(Arc::new(control)));
            }
            // Checked when the journal was opened: they are the settings this process runs with.
            Some(Record::Settings(_) | Record::Fills(_)) => {}
            None if reader.finished() => return Ok(()),
            None => {}
        }
    }
    Ok(())
}

/// Splits what is too large for one batch.
fn parts(samples: Samples) -> impl Iterator<Item = Samples> {
    let mut rest = Some(samples);
    std::iter::from_fn(move || {
        let mut all = rest.take().filter(|all| !all.is_empty())?;
        if all.len() > BATCH_SAMPLES {
            rest = Some(all.split_off(BATCH_SAMPLES));
        }
        Some(all)
    })
}

/// Ends the sources, so that the dataflows drain, and waits for the workers.
pub(super) fn finish((feeds, guards): (Vec<Feed>, Guards)) {
    for Feed { queue, activator, .. } in feeds {
        drop(queue);
        // An activator fails only if its worker is gone, which is what is wanted.
        let _ = activator.activate();
    }
    guards.join().into_iter().for_each(drop);
}
