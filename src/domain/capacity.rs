//! Capacity: how much may be under way at once under the operating system's limit of open files.

use std::num::NonZeroUsize;

/// Most parts that have all their bytes and wait for their names. They need no slot, so a disk that
/// is slow to sync does not leave the network idle. The bound limits their open files.
const MAX_COMMITS: usize = 192;
/// Open files of a part in flight: a connection to the API, one to the store, and the file itself.
const PER_PART: usize = 3;
/// Files that are open besides parts: the state, locks, sockets of the service manager and the
/// command line, connections of the status page, polls. An idle daemon has about 25.
const OTHERS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// In flight: the slots.
    pub parts: NonZeroUsize,
    /// With all their bytes, and waiting for their names.
    pub commits: NonZeroUsize,
}

impl Capacity {
    /// What is wanted, cut to the limit of open files. With more, API calls could hold every
    /// descriptor, and no part would ever get its connection to the store.
    pub fn new(max_parts: NonZeroUsize, open_files: Option<u64>) -> Self {
        let at_least_one = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        let whole = Self { parts: max_parts, commits: at_least_one(MAX_COMMITS) };
        let Some(limit) = open_files.filter(|limit| *limit < Self::open_files(max_parts)) else {
            return whole;
        };
        let left = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(OTHERS);
        let parts = at_least_one(left / (PER_PART + 1)).min(max_parts);
        let commits = left.saturating_sub(PER_PART.saturating_mul(parts.get()));
        Self { parts, commits: at_least_one(commits).min(whole.commits) }
    }

    /// Most open files with this many parts in flight.
    pub fn open_files(max_parts: NonZeroUsize) -> u64 {
        let files = max_parts.get().saturating_mul(PER_PART).saturating_add(MAX_COMMITS + OTHERS);
        u64::try_from(files).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn capacity(max_parts: usize, open_files: Option<u64>) -> (usize, usize) {
        let capacity = Capacity::new(NonZeroUsize::new(max_parts).unwrap(), open_files);
        (capacity.parts.get(), capacity.commits.get())
    }

    #[test]
    fn few_files_cut_what_waits_for_names_first_and_then_the_slots() {
        let cases = [
            (8, None, (8, 192)),
            (8, Some(1024), (8, 192)),
            (8, Some(280), (8, 192)),
            (8, Some(279), (8, 191)),
            (8, Some(256), (8, 168)),
            (8, Some(96), (8, 8)),
            (8, Some(80), (4, 4)),
            (48, Some(48), (1, 1)),
            (1, Some(0), (1, 1)),
            (1024, Some(1024), (240, 192)),
            (1024, Some(4096), (1024, 192)),
        ];
        for (max_parts, open_files, expected) in cases {
            let found = capacity(max_parts, open_files);
            assert_eq!(found, expected, "{max_parts} parts, {open_files:?} files");
        }
    }

    proptest! {
        #[test]
        fn what_is_granted_fits_and_never_exceeds_what_is_wanted(max_parts in 1..2000_usize, limit in 0..10_000_u64) {
            let (parts, commits) = capacity(max_parts, Some(limit));
            prop_assert!(parts <= max_parts && commits <= MAX_COMMITS);
            let open = (parts * PER_PART + commits + OTHERS) as u64;
            prop_assert!(open <= limit.max((OTHERS + PER_PART + 1) as u64));
        }
    }
}
