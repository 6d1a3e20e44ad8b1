//! Where the program is killed: the points of the durable order, and moments drawn at random.

use std::collections::BTreeSet;
use std::fmt;

use fastrand::Rng;

/// Every point, in the order in which they are passed, with that at which an earlier run has to be
/// killed so that it is.
const TABLE: &[(&str, Option<&str>)] = &[
    // The state and the download directory.
    ("folder.open", None),
    ("folder.mkdir", None),
    ("folder.dirsync", None),
    ("state.open", None),
    ("state.create", None),
    ("probe.create", None),
    ("probe.rename", None),
    ("probe.unlink", None),
    ("marker.open", None),
    ("marker.unlink", None),
    ("marker.create", None),
    ("marker.write", None),
    ("marker.sync", None),
    ("marker.rename", None),
    ("marker.dirsync", None),
    ("marker.record", None),
    ("recovered.record", None),
    ("status.record", None),
    // The notice of a failure.
    ("notice.unlink", None),
    ("notice.create", None),
    ("notice.write", None),
    ("notice.sync", None),
    ("notice.rename", None),
    ("notice.open", Some("after:notice.rename")),
    ("notice.dirsync", None),
    ("failed.record", None),
    // A part.
    ("folder.statvfs", None),
    ("probe.link", None),
    ("part.unlink", None),
    ("part.create", None),
    ("part.allocate", None),
    ("part.write", None),
    ("part.datasync", None),
    ("partial.record", None),
    ("part.open", Some("after:partial.record")),
    ("part.truncate", Some("after:partial.record")),
    ("part.verify", None),
    ("part.sync", None),
    ("part.link", None),
    ("part.rename", None),
    ("part.dirsync", None),
    ("part.adopt", Some("part.record")),
    ("part.record", None),
    // The manifest.
    ("sealing.record", None),
    ("manifest.unlink", None),
    ("manifest.create", None),
    ("manifest.write", None),
    ("manifest.sync", None),
    ("manifest.rename", None),
    ("manifest.open", Some("after:manifest.rename")),
    ("manifest.dirsync", None),
    ("completed.record", None),
];

/// Points that are one moment, and no operation with a before and an after.
const MOMENTS: &[&str] = &["part.verify", "part.adopt"];

/// Before and after each point of the table, each with what has to come before.
pub(super) fn crashes() -> Vec<Vec<String>> {
    let mut crashes = Vec::new();
    for (point, prelude) in TABLE {
        let prelude = prelude.iter().map(|prelude| (*prelude).to_owned());
        crashes.push(prelude.clone().chain([(*point).to_owned()]).collect());
        if !MOMENTS.contains(point) {
            crashes.push(prelude.chain([format!("after:{point}")]).collect());
        }
    }
    crashes
}

/// Every point of the table, before and after.
pub(super) fn all() -> BTreeSet<String> {
    crashes().into_iter().filter_map(|mut points| points.pop()).collect()
}

/// What a crash is called that came by a point and not at it.
pub(super) const BY_A_POINT: &str = "any byte on the way to a point";

/// When a run is killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Crash {
    Never,
    /// At the n-th passing of a point, or when it was sent so many bytes before.
    Point {
        point: String,
        passing: u64,
        or_bytes: u64,
    },
    /// When the program has sent so many requests.
    Requests(u64),
    /// When it was sent so many bytes.
    Bytes(u64),
}

impl Crash {
    pub(super) fn never() -> Self {
        Self::Never
    }

    pub(super) fn at(point: &str) -> Self {
        Self::Point { point: point.to_owned(), passing: 1, or_bytes: u64::MAX }
    }

    /// What the program is told.
    pub(super) fn faults(&self) -> String {
        match self {
            Self::Point { point, passing, .. } => format!("{point}=kill@{passing}"),
            _ => String::new(),
        }
    }

    /// Whether it is to be killed from outside when it has asked so often and was sent so much.
    pub(super) fn is_due(&self, requests: u64, bytes: u64) -> bool {
        match self {
            Self::Requests(wanted) => requests >= *wanted,
            Self::Bytes(wanted) | Self::Point { or_bytes: wanted, .. } => bytes >= *wanted,
            Self::Never => false,
        }
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => write!(f, "nowhere"),
            Self::Point { point, .. } => write!(f, "{point}"),
            Self::Requests(_) => write!(f, "any request"),
            Self::Bytes(_) => write!(f, "any byte"),
        }
    }
}

/// Draws crashes from a seed.
#[derive(Debug)]
pub(super) struct Draw {
    rng: Rng,
    points: Vec<String>,
}

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), points: all().into_iter().collect() }
    }

    /// A seed for something else.
    pub(super) fn seed(&mut self) -> u64 {
        self.rng.u64(..)
    }

    /// Half of them at points, the others at any moment. A run whose point is not passed must not
    /// bring everything.
    pub(super) fn crash(&mut self) -> Crash {
        match self.rng.u8(..8) {
            0..5 => {
                let point = self.points[self.rng.usize(..self.points.len())].clone();
                let (passing, or_bytes) =
                    (self.rng.u64(1..=3), self.rng.u64(4_000_000..=50_000_000));
                Crash::Point { point, passing, or_bytes }
            }
            5 => Crash::Requests(self.rng.u64(1..=30)),
            6 => Crash::Bytes(self.rng.u64(1..=100_000)),
            _ => Crash::Bytes(self.rng.u64(1..=15_000_000)),
        }
    }
}
