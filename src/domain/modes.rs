//! Permission bits: the owner works with files and folders, a group may read them, others may not.

use std::fmt;

const OWNER_OF_FILE: u32 = 0o600;
const OWNER_OF_DIRECTORY: u32 = 0o700;
/// Setuid, setgid and sticky.
const SPECIAL: u32 = !0o777;
const OTHERS: u32 = 0o007;
const GROUP_WRITE: u32 = 0o020;
const EXECUTE: u32 = 0o111;

/// Modes of the files and folders of exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modes {
    /// Of parts, finished or not, and of `manifest.json` and `failed.json`.
    pub file: FileMode,
    pub directory: DirectoryMode,
}

/// The mode of a file: the owner reads and writes, the group reads at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(u32);

/// The mode of a folder: the owner has all rights, the group lists and enters at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryMode(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    #[error(
        "must not have the setuid, setgid or sticky bit, which a service may not be allowed to set; \
         make download.directory setgid instead: files made in it inherit its group"
    )]
    Special,
    #[error("must give nothing to others, because exports are personal data: the last digit is 0")]
    Others,
    #[error("must let the owner read and write: the owner's digit is 6")]
    FileOwner,
    #[error("must let the owner list, change and enter: the owner's digit is 7")]
    DirectoryOwner,
    #[error("must not make files executable: the owner's digit is 6, the group's 4 or 0")]
    Executable,
    #[error(
        "must not let the group write, because the files are verified once: the group may read them"
    )]
    GroupWrites,
}

impl FileMode {
    pub const PRIVATE: Self = Self(OWNER_OF_FILE);

    pub fn try_new(bits: u32) -> Result<Self, ModeError> {
        refuse_for_everything(bits)?;
        if bits & OWNER_OF_FILE != OWNER_OF_FILE {
            return Err(ModeError::FileOwner);
        }
        if bits & EXECUTE != 0 { Err(ModeError::Executable) } else { Ok(Self(bits)) }
    }
}

impl DirectoryMode {
    pub const PRIVATE: Self = Self(OWNER_OF_DIRECTORY);

    pub fn try_new(bits: u32) -> Result<Self, ModeError> {
        refuse_for_everything(bits)?;
        let works = bits & OWNER_OF_DIRECTORY == OWNER_OF_DIRECTORY;
        works.then_some(Self(bits)).ok_or(ModeError::DirectoryOwner)
    }
}

impl Modes {
    pub const PRIVATE: Self = Self { file: FileMode::PRIVATE, directory: DirectoryMode::PRIVATE };

    /// Whether the group may read files in folders that it may not enter.
    pub fn shut_readers_out(self) -> bool {
        self.file.bits() & 0o040 != 0 && self.directory.bits() & 0o010 == 0
    }
}

fn refuse_for_everything(bits: u32) -> Result<(), ModeError> {
    if bits & SPECIAL != 0 {
        Err(ModeError::Special)
    } else if bits & OTHERS != 0 {
        Err(ModeError::Others)
    } else if bits & GROUP_WRITE != 0 {
        Err(ModeError::GroupWrites)
    } else {
        Ok(())
    }
}

macro_rules! mode {
    ($name:ident) => {
        impl $name {
            pub fn bits(self) -> u32 {
                self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::PRIVATE
            }
        }

        /// Four octal digits, as a configuration has them.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:04o}", self.0)
            }
        }
    };
}
mode!(FileMode);
mode!(DirectoryMode);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_these_modes_are_accepted() {
        let all = || 0..=0o17777;
        let files: Vec<u32> = all().filter(|bits| FileMode::try_new(*bits).is_ok()).collect();
        assert_eq!(files, [0o600, 0o640]);
        let directories: Vec<u32> =
            all().filter(|bits| DirectoryMode::try_new(*bits).is_ok()).collect();
        assert_eq!(directories, [0o700, 0o710, 0o740, 0o750]);
    }

    #[test]
    fn each_refused_mode_says_what_is_wrong_with_it() {
        for (bits, error) in [
            (0o4600, ModeError::Special),
            (0o2640, ModeError::Special),
            (0o1600, ModeError::Special),
            (0o644, ModeError::Others),
            (0o604, ModeError::Others),
            (0o660, ModeError::GroupWrites),
            (0o620, ModeError::GroupWrites),
            (0o000, ModeError::FileOwner),
            (0o440, ModeError::FileOwner),
            (0o240, ModeError::FileOwner),
            (0o740, ModeError::Executable),
            (0o650, ModeError::Executable),
        ] {
            assert_eq!(FileMode::try_new(bits), Err(error), "{bits:o}");
        }
        for (bits, error) in [
            (0o2750, ModeError::Special),
            (0o755, ModeError::Others),
            (0o770, ModeError::GroupWrites),
            (0o650, ModeError::DirectoryOwner),
            (0o550, ModeError::DirectoryOwner),
            (0o350, ModeError::DirectoryOwner),
        ] {
            assert_eq!(DirectoryMode::try_new(bits), Err(error), "{bits:o}");
        }
    }

    #[test]
    fn a_mode_is_shown_with_four_digits() {
        assert_eq!(FileMode::try_new(0o640).unwrap().to_string(), "0640");
        assert_eq!(DirectoryMode::try_new(0o750).unwrap().to_string(), "0750");
        assert_eq!(Modes::default(), Modes::PRIVATE);
        assert_eq!(FileMode::PRIVATE.to_string(), "0600");
        assert_eq!(DirectoryMode::PRIVATE.to_string(), "0700");
    }

    #[test]
    fn readers_need_a_way_in() {
        for (file, directory, shut_out) in [
            (0o600, 0o700, false),
            (0o640, 0o700, true),
            (0o640, 0o740, true),
            (0o640, 0o710, false),
            (0o640, 0o750, false),
        ] {
            let modes = Modes {
                file: FileMode::try_new(file).unwrap(),
                directory: DirectoryMode::try_new(directory).unwrap(),
            };
            assert_eq!(modes.shut_readers_out(), shut_out, "{file:o} {directory:o}");
        }
    }
}
