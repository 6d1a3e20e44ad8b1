//! Floor 2, the control socket: how the command line talks to the running daemon. A question and
//! its answer, one line of JSON each, over a Unix socket in the state directory that only its owner
//! can open.

mod client;
mod protocol;
mod server;

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

pub use client::{AskError, ask};
pub use protocol::{Answer, Forgotten, Question, Report, Retried};
pub use server::{ControlError, ControlSocket};

/// File name of the socket in the state directory.
const SOCKET_FILE: &str = "control.sock";
/// Longest question: a list of exports.
const MAX_QUESTION_BYTES: u64 = 1 << 20;
/// Longest answer: the status document of many thousand exports.
const MAX_ANSWER_BYTES: u64 = 16 << 20;
/// Longest path of a socket that the system takes, without its final NUL (unix(7)).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// How to name the socket to the system: a path that is too long for that is taken from the open
/// folder.
fn address(directory: &File, path: &Path) -> PathBuf {
    if path.as_os_str().len() <= MAX_SOCKET_PATH_BYTES {
        path.to_owned()
    } else {
        PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_FILE}", directory.as_raw_fd()))
    }
}
