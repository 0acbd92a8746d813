//! Processing time goes back to the clock once enough senders agree with the clock (`clock`).

use std::sync::Weak;
use std::time::Duration;

use tidewatch_dataflows::settings::duration;

use super::clock::SENDERS_MIN;
use super::server::RunningServer;
use super::time::now_ms;
use crate::journal::CLOCK_BEHIND_MS_MAX;

/// How often the clock is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks at the clock once a second, for as long as the server is there.
pub(super) async fn watch(server: Weak<RunningServer>) {
    let (mut every, mut said) = (tokio::time::interval(LOOK_EVERY), false);
    loop {
        every.tick().await;
        let Some(server) = server.upgrade() else { return };
        let behind_ms = server.clock_behind_ms();
        if behind_ms <= CLOCK_BEHIND_MS_MAX {
            if std::mem::take(&mut said) {
                tracing::info!("the clock and the journal's processing time are together again");
                server.clock.forget();
            }
            continue;
        }
        if !std::mem::replace(&mut said, true) {
            tracing::error!(
                "the clock is {} behind the journal's processing time, so silence closes no window until it is there; if the \
                 clock is right, this ends when {SENDERS_MIN} senders agree with it, or with run --accept-clock",
                duration(behind_ms / 1_000 * 1_000)
            );
        }
        if let Some(senders) = server.clock.agree() {
            reset(&server, behind_ms, senders).await;
        }
    }
}

/// Takes processing time back to the clock.
async fn reset(server: &RunningServer, behind_ms: i64, senders: usize) {
    let synced = match server.stack.journal.reset_clock(now_ms()) {
        Ok(synced) => synced.await.unwrap_or_else(|_| Err("the journal's writer is gone".to_owned())),
        Err(refused) => Err(refused.to_string()),
    };
    match synced {
        Ok(()) => tracing::warn!(
            "{senders} senders agree with the clock, so the journal's processing time goes back by {} to it; series that are \
             further ahead begin anew",
            duration(behind_ms / 1_000 * 1_000)
        ),
        // Tried again at the next look.
        Err(why) => tracing::warn!("the journal's processing time cannot go back to the clock now: {why}"),
    }
}
