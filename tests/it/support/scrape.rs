//! A daemon that is scraped as Prometheus does it, and what the scrape says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::http::{Answer, get};
use super::process::Watcher;

/// What every metric's name begins with.
pub(crate) const PREFIX: &str = "batch_export_watcher_";
/// Lets the status server pick a port.
pub(crate) const LISTEN: &str = "[server]\nlisten = \"127.0.0.1:0\"";
/// Who wants the older text format.
pub(crate) const TEXT: (&str, &str) = ("accept", "text/plain;version=0.0.4");

/// Where a daemon that was configured with [`LISTEN`] serves, once it does.
pub(crate) async fn address(watcher: &Watcher) -> SocketAddr {
    let address = bound(watcher).await;
    watcher.wait_for_event(|event| event["message"] == "running").await;
    address
}

/// As [`address`], of a daemon whose start may still wait.
pub(crate) async fn bound(watcher: &Watcher) -> SocketAddr {
    let said = |message: &str| message.strip_prefix("status page at http://").map(str::to_owned);
    let event =
        watcher.wait_for_event(|event| event["message"].as_str().and_then(said).is_some()).await;
    event["message"].as_str().and_then(said).expect("an address").parse().expect("one")
}

/// The answer to a scrape.
pub(crate) async fn metrics(address: SocketAddr, headers: &[(&str, &str)]) -> Answer {
    get(&format!("http://{address}/metrics"), headers).await
}

/// The samples of one scrape, by their series without the prefix.
#[derive(Debug, Clone)]
pub(crate) struct Samples(BTreeMap<String, f64>);

impl Samples {
    /// Those of this text; both formats are fine.
    pub(crate) fn of(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) =
                line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            let series =
                series.strip_prefix(PREFIX).unwrap_or_else(|| panic!("a foreign name: {line}"));
            (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        });
        Self(samples.collect())
    }

    /// Those of a scrape now.
    pub(crate) async fn scraped(address: SocketAddr) -> Self {
        let answer = metrics(address, &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Self::of(&answer.text())
    }

    /// Those of the first scrape that is as wanted.
    pub(crate) async fn when(address: SocketAddr, wanted: impl Fn(&Self) -> bool) -> Self {
        let began = Instant::now();
        loop {
            let samples = Self::scraped(address).await;
            if wanted(&samples) {
                return samples;
            }
            assert!(began.elapsed() < PATIENCE, "{samples:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The value of a series.
    pub(crate) fn get(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// The value of a series that has to be there.
    #[track_caller]
    pub(crate) fn value(&self, series: &str) -> f64 {
        self.get(series).unwrap_or_else(|| panic!("{series} is not in {self:#?}"))
    }

    /// The sum of all series of a name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let of_name = |series: &&String| series.split('{').next() == Some(name);
        self.0.iter().filter(|(series, _)| of_name(series)).map(|(_, value)| value).sum()
    }

    /// Every series.
    pub(crate) fn series(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
