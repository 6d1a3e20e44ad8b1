//! Floor 2, the control socket: how commands talk to the running daemon. A question and its answer
//! are one line of JSON each, over a Unix socket that only its owner can open.

mod client;
mod protocol;
mod server;

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

pub use client::{AskError, ask};
pub use protocol::{Answer, Forgotten, Question, Report, Retried};
pub use server::{ControlError, ControlSocket};

const SOCKET_FILE: &str = "control.sock";
/// The longest question is a list of exports. Linux allows a command 6 MiB of arguments at most.
const MAX_QUESTION_BYTES: u64 = 8 << 20;
/// The longest answer is the status document: about 250 bytes for each export.
const MAX_ANSWER_BYTES: u64 = 128 << 20;
/// The limit of the system, without the final NUL (unix(7)).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The path of the socket for the system. If it is too long, it goes through the open folder.
fn address(directory: &File, path: &Path) -> PathBuf {
    if path.as_os_str().len() <= MAX_SOCKET_PATH_BYTES {
        path.to_owned()
    } else {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_FILE}", directory.as_raw_fd()))
    }
}
