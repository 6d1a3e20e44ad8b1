//! The line that says what the numbers were measured on.

use std::fs;
use std::path::Path;
use std::thread;

use super::peers::{Tool, version_of};

/// Cores, memory, kernel, file system of the folder, how busy it all is, and the tools' versions.
pub(crate) async fn describe(folder: &Path, tools: &[Tool]) -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown CPU".to_owned());
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let mut versions = Vec::new();
    let nginx = version_of("nginx", &["-v"]).await;
    versions.extend(nginx.map(|version| version.trim_start_matches("nginx version: ").to_owned()));
    for tool in tools {
        versions.extend(tool.version().await.map(|version| shortened(&version)));
    }
    versions.dedup();
    format!(
        "Machine: {cores} cores ({cpu}), {} GiB of memory, Linux {kernel}, {}, load {load} at the start.\nTools: {}.",
        memory_kib.div_ceil(1 << 20),
        file_system(folder).unwrap_or_else(|| "unknown file system".to_owned()),
        versions.join(", ")
    )
}

/// The first value of a key in a file of `key: value` lines.
fn field(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned())
}

/// The type of the file system that a folder is on: of all mounts above it the nearest.
fn file_system(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((Path::new(fields.next()?), fields.next()?))
    });
    let above = mounts.filter(|(path, _)| folder.starts_with(path));
    above.max_by_key(|(path, _)| path.components().count()).map(|(_, kind)| kind.to_owned())
}

/// Up to the end of the first word with a digit in it: the name and the version.
fn shortened(version: &str) -> String {
    let words: Vec<_> = version.split_whitespace().collect();
    let end = words.iter().position(|word| word.contains('.')).map_or(words.len(), |at| at + 1);
    words[..end].join(" ")
}
