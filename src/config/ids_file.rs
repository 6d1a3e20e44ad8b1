//! `exports_file`: one export ID per line. Another job can append IDs while this program runs.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::domain::ids::ExportId;

use super::checker::shortened;
use super::fault::Fault;
use super::file::{self, Content, ReadError};

/// Room for a hundred thousand of the longest IDs.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// If a file has not changed for this long, a last line without a newline is complete.
const REST: Duration = Duration::from_secs(1);
/// Bad lines that are reported one by one. The rest is counted: a wrong file may have a million.
const SHOWN_FAULTS: usize = 20;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// The IDs with their lines, including repetitions.
    pub(super) ids: Vec<(usize, ExportId)>,
    /// The last line, if it was left out because somebody may still be writing it.
    pub(super) unfinished_line: Option<usize>,
    pub(super) faults: Vec<Fault>,
}

/// Reads an exports file. If somebody may still be writing the last line, it waits a second and
/// reads again, so that an ID written just before the start is not missed until the next read. If
/// the file is the same then, it has rested, whatever its modification time says.
pub(super) fn read(path: &Path) -> Result<Listed, ReadError> {
    // Metadata from after the last read: a line that was appended meanwhile counts as new.
    let Content { bytes, metadata } = file::read(path, MAX_FILE_BYTES)?;
    let listed = parse(&bytes, path, has_rested(metadata.modified()?, SystemTime::now()));
    if listed.unfinished_line.is_none() {
        return Ok(listed);
    }
    std::thread::sleep(REST);
    let again = file::read(path, MAX_FILE_BYTES)?.bytes;
    Ok(parse(&again, path, again == bytes))
}

/// A modification time in the future proves nothing: such a file has not rested.
fn has_rested(modified: SystemTime, now: SystemTime) -> bool {
    now.duration_since(modified).is_ok_and(|age| age >= REST)
}

fn parse(bytes: &[u8], path: &Path, rested: bool) -> Listed {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut listed = Listed::default();
    let mut bad_lines = 0;
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        if !line.ends_with(b"\n") && !rested {
            listed.unfinished_line = Some(number);
            break;
        }
        match parse_line(line) {
            Ok(None) => {}
            Ok(Some(id)) => listed.ids.push((number, id)),
            Err(message) => {
                bad_lines += 1;
                if bad_lines <= SHOWN_FAULTS {
                    listed.faults.push(Fault::new(path, Some(number), message));
                }
            }
        }
    }
    if bad_lines > SHOWN_FAULTS {
        let message = format!("{} more lines are not export IDs", bad_lines - SHOWN_FAULTS);
        listed.faults.push(Fault::new(path, None, message));
    }
    listed
}

/// An error shows only the beginning of the line: the file may be the wrong one and hold secrets.
fn parse_line(line: &[u8]) -> Result<Option<ExportId>, String> {
    let text = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8 text".to_owned())?;
    // A comment would swallow every line after it.
    if text.trim_end_matches(['\r', '\n']).contains('\r') {
        return Err("the lines end in CR alone: end each with LF or CRLF".to_owned());
    }
    let id = text.split('#').next().unwrap_or_default().trim();
    if id.is_empty() {
        return Ok(None);
    }
    id.parse().map(Some).map_err(|error| format!("the export ID `{}` {error}", shortened(id, 4)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(listed: &Listed) -> Vec<(usize, &str)> {
        listed.ids.iter().map(|(line, id)| (*line, id.as_str())).collect()
    }

    fn parsed(text: &str, rested: bool) -> Listed {
        parse(text.as_bytes(), Path::new("ids.txt"), rested)
    }

    #[test]
    fn comments_blank_lines_and_crlf_are_tolerated() {
        let listed =
            parsed("\u{feff}# head\r\nexport_1\r\n\r\n  export_2 # why\n#\nexport_1\n", false);
        assert_eq!(ids(&listed), [(2, "export_1"), (4, "export_2"), (6, "export_1")]);
        assert_eq!((listed.unfinished_line, listed.faults), (None, vec![]));
    }

    #[test]
    fn a_last_line_written_just_before_is_read_after_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.txt");
        let mut file = std::fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut file, b"export_1\nexport_2").unwrap();
        assert_eq!(ids(&read(&path).unwrap()), [(1, "export_1"), (2, "export_2")]);
    }

    #[test]
    fn the_last_line_counts_when_it_ends_or_the_file_is_old_enough() {
        assert_eq!(ids(&parsed("export_1\nexport_2\n", false)).len(), 2);
        assert_eq!(ids(&parsed("export_1\nexport_2", true)).len(), 2);
        let young = parsed("export_1\nexpo", false);
        assert_eq!((ids(&young), young.unfinished_line), (vec![(1, "export_1")], Some(2)));
        let torn = parse(b"export_1\n\xc3", Path::new("ids.txt"), false);
        assert_eq!((torn.ids.len(), torn.faults.len()), (1, 0), "half a line is not judged either");
    }

    #[test]
    fn a_file_is_old_enough_after_a_second_even_if_the_clock_is_wrong() {
        let now = SystemTime::now();
        assert!(has_rested(now - REST, now));
        assert!(!has_rested(now - Duration::from_millis(999), now));
        assert!(!has_rested(now + Duration::from_secs(9), now));
    }

    #[test]
    fn the_age_of_a_real_file_decides() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.txt");
        let mut file = std::fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut file, b"export_1").unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(2)).unwrap();
        assert_eq!(ids(&read(&path).unwrap()), [(1, "export_1")]);
        // As on a share whose clock is ahead.
        file.set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
        assert_eq!(ids(&read(&path).unwrap()), [(1, "export_1")]);
    }

    #[test]
    fn bad_lines_are_named_but_not_shown_whole_and_the_rest_is_counted() {
        let listed = parsed("export_1\n../etc\ns3cret key\n", true);
        let faults: Vec<_> = listed.faults.iter().map(ToString::to_string).collect();
        assert_eq!(faults.len(), 2);
        assert!(faults[0].starts_with("ids.txt:2: the export ID `..…` "), "{faults:?}");
        assert!(!faults[1].contains("s3cret"), "{faults:?}");
        let flood = parsed(&"not an id\n".repeat(1_000), true);
        assert_eq!(flood.faults.len(), SHOWN_FAULTS + 1);
        let rest = flood.faults[SHOWN_FAULTS].to_string();
        assert_eq!(rest, "ids.txt: 980 more lines are not export IDs");
        let mac = parsed("# all\rexport_1\rexport_2\r", true);
        assert_eq!((mac.ids.len(), mac.faults.len()), (0, 1), "a comment hides nothing");
        assert_eq!(ids(&parsed("export_1\r\r\nexport_2\r", true)).len(), 2);
        let binary = parse(b"\xff\xfe\n", Path::new("ids.txt"), true);
        assert_eq!(binary.faults[0].to_string(), "ids.txt:1: the line is not UTF-8 text");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), rested: bool) {
            parse(&bytes, Path::new("ids.txt"), rested);
        }
    }
}
