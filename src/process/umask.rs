//! The process's umask: what it would take from new files and folders is asked for by nobody but
//! the configuration.

use rustix::fs::Mode;

use crate::domain::modes::Modes;

/// Lets these modes through for the whole process, and nothing beyond them. `durable` puts a mode
/// right where the umask was in its way, but not without loss: a folder that inherits the setgid
/// bit may lose it when its mode is changed. So this comes before the first folder is made, and
/// again when the modes change.
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
    fn what_is_configured_passes_and_nothing_else() {
        assert_eq!(mask_for(Modes::PRIVATE), 0o077);
        let file = FileMode::try_new(0o640).unwrap();
        assert_eq!(mask_for(Modes { file, ..Modes::PRIVATE }), 0o037);
        let directory = DirectoryMode::try_new(0o750).unwrap();
        assert_eq!(mask_for(Modes { file, directory }), 0o027);
    }
}
