//! How late this machine is: what a bound on time may not count against the program.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often a thread has to be given a CPU while the program does one thing: the program's for its
/// timer, the other side's for the request, the program's for the answer, and once to spare; three
/// times that, because the lateness is only looked at now and then.
const TURNS: u32 = 12;
const STEP: Duration = Duration::from_millis(5);

/// Looks all the while how late the machine lets a thread go on that has slept.
#[derive(Debug)]
pub(crate) struct Machine {
    latest: watch::Receiver<Duration>,
    _watching: JoinSet<()>,
}

impl Machine {
    pub(crate) fn watch() -> Self {
        let (sender, latest) = watch::channel(Duration::ZERO);
        let mut watching = JoinSet::new();
        // A thread of its own: a runtime's would be late for what else the runtime does. It ends
        // with its reader.
        watching.spawn_blocking(move || {
            while !sender.is_closed() {
                let since = Instant::now();
                std::thread::sleep(STEP);
                let late = since.elapsed().saturating_sub(STEP);
                sender.send_modify(|latest| *latest = late.max(*latest));
            }
        });
        Self { latest, _watching: watching }
    }

    /// How late it was at worst so far.
    pub(crate) fn latest(&self) -> Duration {
        *self.latest.borrow()
    }

    /// This bound, stretched by what the machine's lateness may have added to one thing that the
    /// program does.
    pub(crate) fn stretch(&self, bound: Duration) -> Duration {
        bound + TURNS * self.latest()
    }
}
