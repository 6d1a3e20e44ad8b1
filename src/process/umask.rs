//! The umask of the process, so that only the configuration limits the modes of new files.

use rustix::fs::Mode;

use crate::domain::modes::Modes;

/// Allows only these modes for the whole process. `durable` corrects a mode that the umask
/// reduced, but a folder that inherits the setgid bit may lose it then. So call this before the
/// first folder is created, and again when the modes change.
pub fn permit(modes: Modes) {
    rustix::process::umask(Mode::from_raw_mode(mask_for(modes)));
}

fn mask_for(modes: Modes) -> u32 {
    !(modes.file.bits() | modes.directory.bits()) & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::modes::{DirectoryMode, FileMode};

    #[test]
    fn only_the_configured_modes_are_allowed() {
        assert_eq!(mask_for(Modes::PRIVATE), 0o077);
        let file = FileMode::try_new(0o640).unwrap();
        assert_eq!(mask_for(Modes { file, ..Modes::PRIVATE }), 0o037);
        let directory = DirectoryMode::try_new(0o750).unwrap();
        assert_eq!(mask_for(Modes { file, directory }), 0o027);
    }
}
