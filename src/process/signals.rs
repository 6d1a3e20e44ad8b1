//! SIGTERM and SIGINT: the first drains, the second ends the process. SIGHUP reloads. Other signals
//! whose default action ends a process are never delivered.

use std::io;

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit;

/// Signals that get a handler, or keep their default action in a command that ends by itself.
const OBEYED: [Number; 4] = [Number::SIGHUP, Number::SIGINT, Number::SIGTERM, Number::SIGXCPU];
/// Signals that mean nothing to this program, and would end it. SIGXFSZ is one of them: a write
/// that is too large fails with EFBIG, which is a fault of the one file.
const IGNORED: [Number; 9] = [
    Number::SIGALRM,
    Number::SIGIO,
    Number::SIGPROF,
    Number::SIGPWR,
    Number::SIGSTKFLT,
    Number::SIGUSR1,
    Number::SIGUSR2,
    Number::SIGVTALRM,
    Number::SIGXFSZ,
];

/// Blocks all these signals. Call it before anything else: every later thread inherits it. A signal
/// that comes before its handler then waits for it.
pub fn hold() -> io::Result<()> {
    Ok(OBEYED.into_iter().chain(IGNORED).collect::<SigSet>().thread_block()?)
}

/// Lets this thread receive the signals that are obeyed, whatever mask the process inherited.
pub fn release() -> io::Result<()> {
    Ok(OBEYED.into_iter().collect::<SigSet>().thread_unblock()?)
}

/// Catches the signals from its creation on, so that none is lost before somebody waits.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// RLIMIT_CPU: comes every second from the soft limit on, until SIGKILL at the hard one.
    cpu_time: Signal,
}

impl StopSignals {
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            cpu_time: signal(SignalKind::from_raw(Number::SIGXCPU as i32))?,
        })
    }

    /// Cancels `stop` at the first signal and ends the process at the second. Never returns.
    pub async fn watch(mut self, stop: CancellationToken) {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.cpu_time.recv() => "SIGXCPU",
        };
        tracing::info!(event = "stop_requested", signal = name, "stopping");
        stop.cancel();
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        };
        tracing::warn!(event = "stop_forced", signal = name, "second signal: exiting at once");
        #[expect(
            clippy::disallowed_methods,
            reason = "the second signal ends the process at once, by contract"
        )]
        std::process::exit(exit::UNFINISHED.into());
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
