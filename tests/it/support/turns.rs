//! Tests that start dozens of daemons take turns with tests that hold the program to a time.
//!
//! The tests run beside each other because most of them wait. A few would keep every processor busy
//! for a minute. What another test has to see within some hundred milliseconds would then come late
//! through nobody's fault.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{MutexGuard, Semaphore, SemaphorePermit};

/// All turns. Those who wait get them in order.
static TURNS: Semaphore = Semaphore::const_new(6);
/// As many.
const ALL: u32 = 6;
/// What a test takes that holds the program to a time: three of these at once, or two and two
/// daemons of a crowd.
const PUNCTUAL: u32 = 2;
/// What a browser takes, which is busy all the while.
const BROWSER: u32 = 3;

/// Those who run alone follow each other: else everybody would fall idle before each of them.
static LINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// How many stand in that line.
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// All turns, on their way from one to the next.
static HANDED_OVER: Mutex<Option<SemaphorePermit<'static>>> = Mutex::new(None);

/// Some turns, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    permit: Option<SemaphorePermit<'static>>,
    alone: Option<MutexGuard<'static, ()>>,
}

impl Turn {
    async fn of(turns: u32) -> Self {
        let permit = TURNS.acquire_many(turns).await.expect("turns are never closed");
        Self { permit: Some(permit), alone: None }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.alone.is_some() && WAITING.load(Ordering::SeqCst) > 0 {
            *handed_over() = self.permit.take();
        }
    }
}

fn handed_over() -> std::sync::MutexGuard<'static, Option<SemaphorePermit<'static>>> {
    HANDED_OVER.lock().expect("nobody panics with it")
}

/// For one run of a daemon of many.
pub(crate) async fn in_a_crowd() -> Turn {
    Turn::of(1).await
}

/// For a test that fails if the program is a tenth of a second late.
pub(crate) async fn alone() -> Turn {
    WAITING.fetch_add(1, Ordering::SeqCst);
    let alone = LINE.lock().await;
    WAITING.fetch_sub(1, Ordering::SeqCst);
    let handed = handed_over().take();
    let mut turn = match handed {
        Some(permit) => Turn { permit: Some(permit), alone: None },
        None => Turn::of(ALL).await,
    };
    turn.alone = Some(alone);
    turn
}

/// For a test that looks at the program through a browser.
pub(crate) async fn in_a_browser() -> Turn {
    Turn::of(BROWSER).await
}

/// For a test that fails if the program is late.
pub(crate) async fn punctual() -> Turn {
    Turn::of(PUNCTUAL).await
}
