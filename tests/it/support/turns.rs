//! Tests that start dozens of daemons take turns with tests that hold the program to a time.
//!
//! The tests run beside each other because most of them wait. A few would keep every processor busy
//! for a minute. What another test has to see within some hundred milliseconds would then come late
//! through nobody's fault.

use tokio::sync::{Semaphore, SemaphorePermit};

/// All turns. Those who wait get them in order.
static TURNS: Semaphore = Semaphore::const_new(6);
/// As many.
const ALL: u32 = 6;
/// What a test takes that holds the program to a time: three of these at once, or two and two
/// daemons of a crowd.
const PUNCTUAL: u32 = 2;
/// What a browser takes, which is busy all the while.
const BROWSER: u32 = 3;

/// Some turns, until it is dropped.
pub(crate) type Turn = SemaphorePermit<'static>;

/// For one run of a daemon of many.
pub(crate) async fn in_a_crowd() -> Turn {
    TURNS.acquire().await.expect("turns are never closed")
}

/// For a test that fails if the program is a tenth of a second late.
pub(crate) async fn alone() -> Turn {
    TURNS.acquire_many(ALL).await.expect("turns are never closed")
}

/// For a test that looks at the program through a browser.
pub(crate) async fn in_a_browser() -> Turn {
    TURNS.acquire_many(BROWSER).await.expect("turns are never closed")
}

/// For a test that fails if the program is late.
pub(crate) async fn punctual() -> Turn {
    TURNS.acquire_many(PUNCTUAL).await.expect("turns are never closed")
}
