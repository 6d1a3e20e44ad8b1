//! SIGTERM and SIGINT: the first drains, the second ends the process. SIGHUP reloads.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit;

/// Catches both signals from its creation on, so that none is lost before somebody waits.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Cancels `stop` at the first signal and ends the process at the second. Never returns.
    pub async fn watch(mut self, stop: CancellationToken) {
        let name = self.next().await;
        tracing::info!(event = "stop_requested", signal = name, "stopping");
        stop.cancel();
        let name = self.next().await;
        tracing::warn!(event = "stop_forced", signal = name, "second signal: exiting at once");
        #[expect(
            clippy::disallowed_methods,
            reason = "the second signal ends the process at once, by contract"
        )]
        std::process::exit(exit::UNFINISHED.into());
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Catches SIGHUP from its creation on. Before, the signal would end the process.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    pub fn install() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for the next signal, or returns at once if some came since the last call. Cancel-safe.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // The runtime is ending: no signal will come.
            std::future::pending::<()>().await;
        }
    }
}
