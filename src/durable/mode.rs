//! Gives new files and folders exactly the mode that was asked for.

use std::os::fd::OwnedFd;

use rustix::fs::{self, Mode};
use rustix::io::Errno;

/// A umask may have removed bits, or a default ACL added some. A change costs an inode update.
pub(super) fn settle_file_mode(file: &OwnedFd, mode: Mode) -> rustix::io::Result<()> {
    let found = Mode::from_raw_mode(fs::fstat(file)?.st_mode);
    if found == mode { Ok(()) } else { fs::fchmod(file, mode) }
}

/// Changes the mode of a new folder if its permission bits are wrong. In a setgid folder the kernel
/// has set that bit too, so that files get the same group. A change without the bit clears it, and
/// a change with it may be forbidden (EPERM under systemd's `RestrictSUIDSGID=`).
pub(super) fn correct(
    found: Mode,
    wanted: Mode,
    chmod: impl Fn(Mode) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    if found & (Mode::RWXU | Mode::RWXG | Mode::RWXO) == wanted {
        return Ok(());
    }
    let setgid = found & Mode::SGID;
    match chmod(wanted | setgid) {
        Err(Errno::PERM) if !setgid.is_empty() => chmod(wanted),
        changed => changed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_mode_is_changed_and_the_setgid_bit_dropped_only_if_it_is_forbidden() {
        let bits = |bits| Mode::from_raw_mode(bits);
        let changes = |found, refused: &[u32], says| {
            let asked = std::cell::RefCell::new(Vec::new());
            let outcome = correct(bits(found), bits(0o750), |mode| {
                asked.borrow_mut().push(mode.as_raw_mode());
                if refused.contains(&mode.as_raw_mode()) { Err(says) } else { Ok(()) }
            });
            (asked.into_inner(), outcome)
        };
        assert_eq!(changes(0o40750, &[], Errno::PERM), (vec![], Ok(())));
        assert_eq!(changes(0o42750, &[], Errno::PERM), (vec![], Ok(())));
        assert_eq!(changes(0o40700, &[], Errno::PERM), (vec![0o750], Ok(())));
        assert_eq!(changes(0o42700, &[], Errno::PERM), (vec![0o2750], Ok(())));
        assert_eq!(changes(0o42700, &[0o2750], Errno::PERM), (vec![0o2750, 0o750], Ok(())));
        assert_eq!(changes(0o42700, &[0o2750], Errno::IO), (vec![0o2750], Err(Errno::IO)));
        assert_eq!(changes(0o40700, &[0o750], Errno::PERM), (vec![0o750], Err(Errno::PERM)));
    }
}
