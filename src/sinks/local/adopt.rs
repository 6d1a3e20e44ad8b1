//! What an export's folder contains besides its own files: leftovers, and finished files to adopt.

use std::collections::HashSet;

use rustix::fs::{Mode, fstat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::digest::Digests;
use super::directory::{LocalSink, working_name};
use super::{Mismatch, SinkError};
use crate::domain::checksum::Check;
use crate::domain::ids::ExportPath;
use crate::domain::manifest::{FAILED_FILE, MANIFEST_FILE};
use crate::domain::modes::FileMode;
use crate::domain::part::{CommittedPart, PartKey, Sha256};
use crate::domain::resume::ResumablePart;
use crate::domain::watch::PartOrder;
use crate::durable::{Dir, DurableError, Entry, ErrorClass, is_probe_name};
use crate::failpoint;
use crate::ports::Prepared;

impl LocalSink {
    /// Makes an export's folder and searches it. A partial stays if one of these parts has a resume
    /// point for it, or a [`super::PartWriter`] has it open; all others are removed. Files that are
    /// not ours stay untouched. It hashes what it adopts: slow.
    pub(super) fn prepare_export(
        &self,
        at: &ExportPath,
        unrecorded: &[PartOrder],
    ) -> Result<Prepared, SinkError> {
        let root = self.root()?;
        self.no_overwrite(&root)?;
        let dir = self.make_export_dir(&root, at)?;
        let names: HashSet<String> = dir.names()?.into_iter().collect();
        let mut prepared = Prepared::default();
        let mut kept = self.partials_in_flight(at);
        for part in unrecorded {
            let Some(point) = part.resume.clone() else { continue };
            let partial = working_name(&part.key.file_name());
            if matches!(dir.entry(&partial)?, Entry::Regular(_, length) if length >= point.bytes) {
                kept.insert(partial);
                prepared.resumable.push(ResumablePart { key: part.key.clone(), point });
            }
        }
        remove_leftovers(&dir, &names, &kept)?;
        for PartOrder { key, declared_bytes, .. } in
            unrecorded.iter().filter(|part| names.contains(&part.key.file_name()))
        {
            match adopt(&dir, key, *declared_bytes, self.settings().modes.file)? {
                Adoption::Ours(part) => prepared.adopted.push(part),
                Adoption::Foreign(found) => prepared.conflicts.push((key.clone(), found)),
                Adoption::Nothing => {}
            }
        }
        if !prepared.adopted.is_empty() {
            // A crash between `linkat` and `unlinkat` leaves one whole file under both names.
            let adopted = |key: &PartKey| prepared.adopted.iter().any(|part| part.key == *key);
            prepared.resumable.retain(|resumable| !adopted(&resumable.key));
            dir.sync()?;
        }
        Ok(prepared)
    }

    /// Removes every partial of a finished export that no [`super::PartWriter`] has open.
    pub(super) fn tidy(&self, dir: &Dir, at: &ExportPath) -> Result<(), DurableError> {
        let names = dir.names()?.into_iter().collect();
        remove_leftovers(dir, &names, &self.partials_in_flight(at))
    }
}

fn remove_leftovers(
    dir: &Dir,
    names: &HashSet<String>,
    kept: &HashSet<String>,
) -> Result<(), DurableError> {
    for name in names.iter().filter(|name| is_working_name(name) && !kept.contains(*name)) {
        match dir.remove(name) {
            // A folder with such a name is not ours. It is a conflict only if that part is fetched.
            Err(error) if error.class() != ErrorClass::WrongKind => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

enum Adoption {
    Ours(CommittedPart),
    Foreign(String),
    Nothing,
}

/// A file of ours gets its final name only after all checks, so a crash leaves one that is adopted
/// by its length; without a declared length by its first byte. A file that is not ours by owner and
/// mode proves nothing: the part is fetched, and the commit compares the contents.
fn adopt(
    dir: &Dir,
    key: &PartKey,
    declared_bytes: Option<u64>,
    mode: FileMode,
) -> Result<Adoption, DurableError> {
    let name = key.file_name();
    let (file, length) = match dir.entry(&name)? {
        Entry::Absent => return Ok(Adoption::Nothing),
        Entry::Other => return Ok(Adoption::Foreign(format!("{name} is not a regular file"))),
        Entry::Regular(file, length) => (file, length),
    };
    if let Some(declared) = declared_bytes.filter(|declared| *declared != length) {
        let found =
            format!("{name} already exists with {length} bytes, and the API declares {declared}");
        return Ok(Adoption::Foreign(found));
    }
    if !is_ours(&file, mode).map_err(|errno| dir.failed("look at", errno))? {
        return Ok(Adoption::Nothing);
    }
    let (sha256, first) = hash(dir, &name, &file, length)?;
    if declared_bytes.is_none() && !matches!(first, Some(b'{' | b'[')) {
        let found = format!("{name} already exists and does not begin like JSON");
        return Ok(Adoption::Foreign(found));
    }
    failpoint::pass("adopt", &name);
    // If another program put it there, nobody has synced it yet.
    dir.sync_entry(&name, &file)?;
    let check = if declared_bytes.is_some() { Check::Size } else { Check::Framing };
    Ok(Adoption::Ours(CommittedPart {
        key: key.clone(),
        bytes: length,
        declared_bytes,
        sha256,
        verified_by: vec![check],
    }))
}

/// Whether a file looks as this program makes them: owned by its user, and either with the
/// configured mode or closed to everybody else, as an earlier configuration may have had it. A file
/// with any other mode was made by another program of the same user, such as `cp`.
fn is_ours(file: &std::fs::File, mode: FileMode) -> Result<bool, Errno> {
    let stat = fstat(file)?;
    let found = Mode::from_raw_mode(stat.st_mode);
    let looks_ours =
        found == Mode::from_raw_mode(mode.bits()) || !found.intersects(Mode::RWXG | Mode::RWXO);
    Ok(stat.st_uid == geteuid().as_raw() && looks_ours)
}

pub(super) fn hash(
    dir: &Dir,
    name: &str,
    file: &std::fs::File,
    length: u64,
) -> Result<(Sha256, Option<u8>), DurableError> {
    let mut digests = Digests::new(&[]);
    let mut first = None;
    dir.read_entry(name, file, length, &mut |bytes| {
        first = first.or_else(|| bytes.first().copied());
        digests.update(bytes);
    })?;
    match digests.finish(&[]) {
        Ok((sha256, _)) => Ok((sha256, first)),
        Err(Mismatch { .. }) => unreachable!("nothing was promised, so nothing can differ"),
    }
}

/// Whether a file is a partial of ours, or the leftover of a probe, by its name.
pub(crate) fn is_working_name(name: &str) -> bool {
    if is_probe_name(name) || [MANIFEST_FILE, FAILED_FILE].iter().any(|of| name == working_name(of))
    {
        return true;
    }
    let inner = name.strip_prefix(".part-").and_then(|rest| rest.strip_suffix(".json.partial"));
    let Some((number, file_id)) = inner.and_then(|inner| inner.split_once('-')) else {
        return false;
    };
    let (Ok(number), Ok(file_id)) = (number.parse(), file_id.parse()) else { return false };
    // Exactly: a number with more zeros than we write is not ours.
    name == working_name(&PartKey { number, file_id }.file_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_give_are_working_names() {
        let key = PartKey { number: 7, file_id: "file-1_x".parse().unwrap() };
        for name in
            [working_name(&key.file_name()), working_name(MANIFEST_FILE), working_name(FAILED_FILE)]
        {
            assert!(is_working_name(&name), "{name}");
        }
        for name in [
            "part-00001-a.json",
            ".part-00001-a.json",
            ".part-1-a.json.partial",
            ".part-000001-a.json.partial",
            ".part-+0001-a.json.partial",
            ".part-99999999999-a.json.partial",
            ".part-0000x-a.json.partial",
            ".part-00001-.json.partial",
            ".part-00001-a b.json.partial",
            ".notes.partial",
        ] {
            assert!(!is_working_name(name), "{name}");
        }
    }
}
