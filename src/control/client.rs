//! The command's side: one question, one answer, within a time.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::protocol::{Answer, Question};
use super::{MAX_ANSWER_BYTES, SOCKET_FILE, address};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("no daemon answers at {}: is it running, and with this state directory?", path.display())]
    NoDaemon {
        /// The socket.
        path: PathBuf,
    },
    /// This user may not ask.
    #[error("{} cannot be opened: {cause}; ask as the user that the daemon runs as, or as root", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The daemon hangs.
    #[error("the daemon at {} gave no answer within {} s", path.display(), patience.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The daemon broke off.
    #[error("the daemon at {} broke off: {cause}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// Asks the daemon that works in this state directory.
///
/// # Errors
/// [`AskError`].
pub async fn ask(
    state_directory: &Path,
    question: &Question,
    patience: Duration,
) -> Result<Answer, AskError> {
    let path = state_directory.join(SOCKET_FILE);
    match tokio::time::timeout(patience, talk(state_directory, &path, question)).await {
        Ok(answer) => answer,
        Err(_) => Err(AskError::Silent { path, patience }),
    }
}

async fn talk(
    state_directory: &Path,
    path: &Path,
    question: &Question,
) -> Result<Answer, AskError> {
    let place = || path.to_owned();
    let unreachable = |cause: io::Error| match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AskError::NoDaemon { path: place() }
        }
        io::ErrorKind::PermissionDenied => AskError::Forbidden { path: place(), cause },
        _ => AskError::Broken { path: place(), cause },
    };
    let broken = |cause: io::Error| AskError::Broken { path: place(), cause };
    let directory = File::open(state_directory).map_err(unreachable)?;
    let stream = UnixStream::connect(address(&directory, path)).await.map_err(unreachable)?;
    let (from, mut to) = stream.into_split();
    let mut text = serde_json::to_vec(question).map_err(|error| broken(error.into()))?;
    text.push(b'\n');
    to.write_all(&text).await.map_err(broken)?;
    let mut line = Vec::new();
    BufReader::new(from.take(MAX_ANSWER_BYTES))
        .read_until(b'\n', &mut line)
        .await
        .map_err(broken)?;
    if line.is_empty() {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    // A newer daemon may answer in words that are not known here.
    Ok(serde_json::from_slice(&line).unwrap_or(Answer::NotUnderstood))
}
