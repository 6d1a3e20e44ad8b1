//! Reads the small files that the configuration names, and never waits.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Why a file was not read, as what follows its name in a sentence.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A directory, a pipe or a device: reading it might never end.
    #[error("is not a regular file")]
    NotRegular,
    #[error("is larger than {max_bytes} bytes")]
    TooLarge { max_bytes: u64 },
}

/// A file's bytes, and its metadata after the last byte was read.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) metadata: Metadata,
}

pub(super) fn read(path: &Path, max_bytes: u64) -> Result<Content, ReadError> {
    // Without O_NONBLOCK, opening a named pipe waits for a writer that may never come.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(ReadError::NotRegular);
    }
    let mut bytes = Vec::new();
    (&file).take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > max_bytes) {
        return Err(ReadError::TooLarge { max_bytes });
    }
    Ok(Content { bytes, metadata: file.metadata()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create(&path).and_then(|mut file| io::Write::write_all(&mut file, b"12345")).unwrap();
        assert_eq!(read(&path, 5).unwrap().bytes, b"12345");
        assert!(matches!(read(&path, 4), Err(ReadError::TooLarge { max_bytes: 4 })));
        assert!(matches!(read(folder.path(), 5), Err(ReadError::NotRegular)));
        assert!(matches!(read(Path::new("/dev/zero"), 5), Err(ReadError::NotRegular)));
        assert!(matches!(read(&folder.path().join("none"), 5), Err(ReadError::Io(_))));
    }

    #[test]
    fn a_pipe_without_a_writer_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        assert!(matches!(read(&path, 5), Err(ReadError::NotRegular)));
    }
}
