//! Two hundred interruptions drawn at random, and no difference between the files and the store's
//! in the end.
//!
//! Several daemons at once work through exports whose every transfer is cut short: by the store, by
//! the network, or by the end of the program itself. `BATCH_EXPORT_WATCHER_TEST_SEED` draws others;
//! the account is printed on success.

mod account;
mod lane;
mod pairs;
mod plan;

use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use account::Account;
use lane::Lane;

/// The seed where nobody names another one.
const SEED: u64 = 20_260_105;
/// Names another seed.
const SEED_VARIABLE: &str = "BATCH_EXPORT_WATCHER_TEST_SEED";
/// Far longer than the few seconds that it takes, even if others use the processor: whoever is
/// not done is stuck.
const LIMIT: Duration = Duration::from_secs(600);
/// Fewer starts of the program than this would not try much; it is about twice as many.
const LEAST_RUNS: usize = 30;

/// Tells how to see a failure again.
struct SeedOfFailure(u64);

impl Drop for SeedOfFailure {
    #[expect(clippy::print_stderr, reason = "a test's own words")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("these interruptions are drawn again with {SEED_VARIABLE}={}", self.0);
        }
    }
}

fn seed() -> u64 {
    match std::env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE}={text} is no number")),
        Err(_) => SEED,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn two_hundred_random_interruptions_leave_no_difference() {
    let seed = seed();
    let _told = SeedOfFailure(seed);
    let through = async |plan| {
        let mut lane = Lane::new(plan).await;
        match timeout(LIMIT, lane.run()).await {
            Ok(account) => account,
            Err(_) => panic!("not done within {LIMIT:?}: {lane}"),
        }
    };
    let mut total = Account::default();
    for account in join_all(plan::draw(seed).into_iter().map(|plan| Box::pin(through(plan)))).await
    {
        total.add(account);
    }
    eprintln!("seed {seed}: {total}");
    assert_eq!(total.interruptions(), plan::INTERRUPTIONS);
    assert!(total.runs >= LEAST_RUNS, "the program was ended {} times only", total.runs);
}
