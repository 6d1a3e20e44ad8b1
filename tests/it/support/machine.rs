//! How late this machine is: what a bound on time may not count against the program.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::look;

/// How often a thread has to be given a CPU while the program does one thing: the program's for its
/// timer, the other side's for the request, the program's for the answer, and once to spare; twice
/// that, because the lateness is only looked at now and then.
const TURNS: u32 = 8;
const STEP: Duration = Duration::from_millis(5);
/// Steps between two looks at how long threads have waited for a CPU.
const STEPS: u32 = 50;
/// Threads that one thing goes through: the program's, and the other side's.
const THREADS: u32 = 2;

/// What the machine withheld at worst so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lateness {
    /// How late a thread went on that has slept.
    wakes: Duration,
    /// How long a thread that had work waited for a CPU, within two looks.
    starves: Duration,
}

impl Lateness {
    /// This bound, stretched by what the machine's lateness may have added to one thing that the
    /// program does.
    pub(crate) fn stretch(self, bound: Duration) -> Duration {
        bound + TURNS * self.wakes + THREADS * self.starves
    }
}

#[derive(Debug, Default)]
struct Seen {
    worst: Lateness,
    /// How long each thread has waited at the last look, and the worst one between that and the
    /// look before.
    waited: HashMap<PathBuf, Duration>,
    lately: Duration,
}

impl Seen {
    fn look(&mut self) {
        let waited = waits();
        let starved = waited
            .iter()
            .filter_map(|(thread, waits)| Some(waits.saturating_sub(*self.waited.get(thread)?)));
        let starved = starved.max().unwrap_or_default();
        self.worst.starves = self.worst.starves.max(self.lately + starved);
        (self.waited, self.lately) = (waited, starved);
    }
}

/// Looks all the while how late the machine lets threads go on: one of its own that sleeps, and
/// those of this process and its children, as the kernel counts it.
#[derive(Debug)]
pub(crate) struct Machine {
    seen: watch::Sender<Seen>,
    _alive: watch::Receiver<Seen>,
    _watching: JoinSet<()>,
}

impl Machine {
    pub(crate) fn watch() -> Self {
        let (seen, alive) = watch::channel(Seen { waited: waits(), ..Seen::default() });
        let (mut watching, sender) = (JoinSet::new(), seen.clone());
        // A thread of its own: a runtime's would be late for what else the runtime does. It ends
        // with its reader.
        watching.spawn_blocking(move || {
            for step in 1_u32.. {
                let since = Instant::now();
                std::thread::sleep(STEP);
                let late = since.elapsed().saturating_sub(STEP);
                if sender.is_closed() {
                    return;
                }
                sender.send_modify(|seen| seen.worst.wakes = seen.worst.wakes.max(late));
                if step.is_multiple_of(STEPS) {
                    sender.send_modify(Seen::look);
                }
            }
        });
        Self { seen, _alive: alive, _watching: watching }
    }

    /// How late it was at worst so far. It looks at every thread: who checks many bounds asks once.
    pub(crate) fn worst(&self) -> Lateness {
        self.seen.send_modify(Seen::look);
        self.seen.borrow().worst
    }

    /// As [`Lateness::stretch`], for what was seen so far.
    pub(crate) fn stretch(&self, bound: Duration) -> Duration {
        self.worst().stretch(bound)
    }
}

/// How long each thread of this process and of its children has waited for a CPU while it had work,
/// since it began.
fn waits() -> HashMap<PathBuf, Duration> {
    let mut found = HashMap::new();
    let parents: Vec<_> =
        look::entries(Path::new("/proc")).iter().filter_map(|entry| parent(entry)).collect();
    let mut processes = vec![std::process::id()];
    while let Some(process) = processes.pop() {
        processes.extend(parents.iter().filter(|(_, of)| *of == process).map(|(child, _)| child));
        for thread in look::entries(&Path::new("/proc").join(process.to_string()).join("task")) {
            let counts = look::text(&thread.join("schedstat")).unwrap_or_default();
            let waited = counts.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
            found.extend(waited.map(|nanos| (thread, Duration::from_nanos(nanos))));
        }
    }
    found
}

/// A process and its parent.
fn parent(process: &Path) -> Option<(u32, u32)> {
    let id = process.file_name()?.to_str()?.parse().ok()?;
    let stat = look::text(&process.join("stat"))?;
    // Its name, in parentheses, may hold anything.
    let (_, after) = stat.rsplit_once(')')?;
    Some((id, after.split_whitespace().nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_of_a_thread_between_two_looks_counts() {
        let mut seen = Seen { waited: waits(), ..Seen::default() };
        let known = seen.waited.len();
        assert!(known > 0, "no thread is found");
        for waited in seen.waited.values_mut() {
            *waited = waited.saturating_sub(Duration::from_millis(10));
        }
        seen.look();
        assert!(seen.worst.starves >= Duration::from_millis(10), "{:?}", seen.worst);
    }
}
