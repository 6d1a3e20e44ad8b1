//! The files that are served: lines of JSON, made once, kept under `target/`, the same in every
//! run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;

use aws_lc_rs::digest;
use batch_export_watcher::domain::part::Sha256;
use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::trouble::{Doing as _, Trouble};

/// Counts changes of what is generated: files of another edition are made again.
const EDITION: u32 = 1;
/// Bytes read at a time.
const BLOCK_BYTES: usize = 1 << 20;
const TAGS: [&str; 8] =
    ["news", "vip", "churn_risk", "cart", "mobile", "web", "loyalty_gold", "loyalty_silver"];

/// The parts of one export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set {
    /// Its export ID, and how the IDs of its files begin.
    pub(crate) name: &'static str,
    /// How many parts it has.
    pub(crate) parts: usize,
    /// The length of each, in bytes.
    pub(crate) part_bytes: usize,
    /// How many of them differ; the others are hard links, to save disk.
    distinct: usize,
}

/// 1.2 GB in a few large parts.
pub(crate) const BIG: Set = Set { name: "big", parts: 12, part_bytes: 100_000_000, distinct: 12 };
/// 100 MB in many small parts.
pub(crate) const SMALL: Set =
    Set { name: "small", parts: 2000, part_bytes: 50_000, distinct: 2000 };
/// As many parts as are in flight at once, each large enough that all of them are.
pub(crate) const WIDE: Set = Set { name: "wide", parts: 64, part_bytes: 20_000_000, distinct: 4 };
/// Parts of 1 MB, four for each of 64 places, so that a place is taken again.
pub(crate) const SHORT: Set =
    Set { name: "short", parts: 256, part_bytes: 1_000_000, distinct: 16 };

pub(crate) const ALL: [Set; 4] = [BIG, SMALL, WIDE, SHORT];

impl Set {
    /// The file IDs, in part order.
    pub(crate) fn ids(self) -> impl Iterator<Item = String> {
        (0..self.parts).map(move |number| format!("{}_{number}", self.name))
    }

    /// Number and length of the parts, such as `12 × 100 MB`.
    pub(crate) fn size(self) -> String {
        let Self { parts, part_bytes, .. } = self;
        match part_bytes {
            1_000_000.. => format!("{parts} × {} MB", part_bytes / 1_000_000),
            _ => format!("{parts} × {} KB", part_bytes / 1000),
        }
    }

    /// Length of all parts together, in bytes.
    pub(crate) fn total_bytes(self) -> u64 {
        self.parts as u64 * self.part_bytes as u64
    }

    /// Length of those that differ, in bytes.
    pub(crate) fn distinct_bytes(self) -> u64 {
        self.distinct as u64 * self.part_bytes as u64
    }
}

/// What is known of a generated set; written last, so that what it names is there.
#[derive(Serialize, Deserialize)]
struct Index {
    edition: u32,
    part_bytes: usize,
    sums: BTreeMap<String, Sha256>,
}

/// A folder of generated sets.
#[derive(Debug)]
pub(crate) struct Data {
    folder: PathBuf,
    sums: BTreeMap<String, Sha256>,
}

impl Data {
    /// Makes the sets that are not there yet.
    pub(crate) fn prepare(folder: &Path, sets: &[Set]) -> Result<Self, Trouble> {
        let mut data = Self { folder: folder.to_owned(), sums: BTreeMap::new() };
        fs::create_dir_all(data.blobs()).doing(|| "cannot create the data folder".to_owned())?;
        for &set in sets {
            let sums = match data.known(set) {
                Some(sums) => sums,
                None => data.generate(set)?,
            };
            data.sums.extend(sums);
        }
        Ok(data)
    }

    /// The folder above [`Data::blobs`].
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the files are, by their IDs.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.folder.join("blob")
    }

    /// SHA-256 of a file of a prepared set.
    pub(crate) fn sum(&self, id: &str) -> Option<Sha256> {
        self.sums.get(id).copied()
    }

    /// Reads a set once, so that the server finds it in memory; tells a cache that was damaged.
    pub(crate) async fn warm(&self, set: Set) -> Result<(), Trouble> {
        for id in set.ids() {
            // A signal is heard between two files.
            tokio::task::yield_now().await;
            let path = self.blobs().join(&id);
            if Some(sum_of(&path)?) != self.sum(&id) {
                let folder = self.folder.display();
                return Err(Trouble::Wrong(format!(
                    "the generated data is damaged: remove {folder}"
                )));
            }
        }
        Ok(())
    }

    fn index_path(&self, set: Set) -> PathBuf {
        self.folder.join(format!("{}.json", set.name))
    }

    /// The sums of a set that lies there as it would be generated now.
    fn known(&self, set: Set) -> Option<BTreeMap<String, Sha256>> {
        let index: Index = serde_json::from_slice(&fs::read(self.index_path(set)).ok()?).ok()?;
        let length =
            |id: &String| fs::metadata(self.blobs().join(id)).map(|metadata| metadata.len()).ok();
        let whole = index.edition == EDITION
            && index.part_bytes == set.part_bytes
            && index.sums.len() == set.parts
            && set.ids().all(|id| index.sums.contains_key(&id))
            && index.sums.keys().all(|id| length(id) == Some(set.part_bytes as u64));
        whole.then_some(index.sums)
    }

    fn generate(&self, set: Set) -> Result<BTreeMap<String, Sha256>, Trouble> {
        eprintln!("generating {} parts of {} bytes", set.parts, set.part_bytes);
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let work = |worker: usize| {
            let mine = (worker..set.distinct).step_by(workers);
            mine.map(|number| self.generate_part(set, number)).collect::<Result<Vec<_>, _>>()
        };
        let sums = thread::scope(|scope| {
            let workers: Vec<_> =
                (0..workers).map(|worker| scope.spawn(move || work(worker))).collect();
            let joined = workers.into_iter().map(|worker| {
                worker.join().unwrap_or_else(|_| {
                    Err(Trouble::Wrong("a generating thread panicked".to_owned()))
                })
            });
            joined.collect::<Result<Vec<_>, _>>()
        })?;
        let mut sums: BTreeMap<_, _> = sums.into_iter().flatten().collect();
        for (number, id) in set.ids().enumerate().skip(set.distinct) {
            let original = format!("{}_{}", set.name, number % set.distinct);
            let (from, to) = (self.blobs().join(&original), self.blobs().join(&id));
            remove_if_there(&to)?;
            fs::hard_link(from, to).doing(|| format!("{id} cannot be linked"))?;
            sums.extend(sums.get(&original).copied().map(|sum| (id, sum)));
        }
        let index = Index { edition: EDITION, part_bytes: set.part_bytes, sums };
        let text = serde_json::to_vec(&index).doing(|| "cannot create the index".to_owned())?;
        write(&self.index_path(set), &text)?;
        Ok(index.sums)
    }

    fn generate_part(&self, set: Set, number: usize) -> Result<(String, Sha256), Trouble> {
        let id = format!("{}_{number}", set.name);
        let content = lines(number as u64, set.part_bytes);
        let path = self.blobs().join(&id);
        // Other names of an older file keep their content.
        remove_if_there(&path)?;
        write(&path, &content)?;
        Ok((id, sha256(digest::digest(&digest::SHA256, &content))))
    }
}

/// So many bytes of lines, each a profile; the last one is filled up with blanks.
fn lines(seed: u64, bytes: usize) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed);
    let mut text = Vec::with_capacity(bytes);
    for number in 0_u64.. {
        let line = format!(
            "{{\"profile_id\":\"{:032x}\",\"custom_id\":\"user-{:09}\",\"email_sha256\":\"{:032x}{:032x}\",\
             \"birth_year\":{},\"spent\":{}.{:02},\"last_seen\":\"2026-{:02}-{:02}T{:02}:{:02}:{:02}Z\",\
             \"consent\":{{\"email\":{},\"sms\":{}}},\"segments\":[\"{}\",\"{}\"],\"row\":{number}}}\n",
            rng.u128(..),
            rng.u32(..1_000_000_000),
            rng.u128(..),
            rng.u128(..),
            rng.u32(1940..2008),
            rng.u32(..5000),
            rng.u32(..100),
            rng.u32(1..13),
            rng.u32(1..29),
            rng.u32(..24),
            rng.u32(..60),
            rng.u32(..60),
            rng.bool(),
            rng.bool(),
            TAGS[rng.usize(..TAGS.len())],
            TAGS[rng.usize(..TAGS.len())],
        );
        if text.len() + line.len() > bytes {
            break;
        }
        text.extend_from_slice(line.as_bytes());
    }
    text.resize(bytes, b' ');
    text
}

/// SHA-256 of a file, read from the disk or its cache.
pub(crate) fn sum_of(path: &Path) -> Result<Sha256, Trouble> {
    let words = || format!("{} cannot be read", path.display());
    let mut file = File::open(path).doing(words)?;
    let mut hasher = digest::Context::new(&digest::SHA256);
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block).doing(words)? {
            0 => return Ok(sha256(hasher.finish())),
            read => hasher.update(&block[..read]),
        }
    }
}

fn sha256(digest: digest::Digest) -> Sha256 {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    Sha256::new(bytes)
}

fn remove_if_there(path: &Path) -> Result<(), Trouble> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("{} cannot be removed", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a file, over one that is there.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), Trouble> {
    let written = File::create(path).and_then(|mut file| file.write_all(content));
    written.doing(|| format!("{} cannot be written", path.display()))
}
