//! The side of the command: one question, one answer, with a time limit.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::protocol::{Answer, Question};
use super::{MAX_ANSWER_BYTES, SOCKET_FILE, address};

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(
        "no daemon answers at {}: is it running, and with this state directory?",
        path.display()
    )]
    NoDaemon { path: PathBuf },
    #[error(
        "cannot open {}: {cause}; run this command as the daemon's user or as root",
        path.display()
    )]
    Forbidden { path: PathBuf, cause: io::Error },
    #[error("the daemon at {} did not answer within {} s", path.display(), patience.as_secs())]
    Silent { path: PathBuf, patience: Duration },
    #[error(
        "the answer of the daemon at {} is larger than {} MiB and was not read: \
         it has too many exports for this command",
        path.display(), MAX_ANSWER_BYTES >> 20
    )]
    TooLarge { path: PathBuf },
    #[error("the connection to the daemon at {} broke: {cause}", path.display())]
    Broken { path: PathBuf, cause: io::Error },
}

/// Asks the daemon that uses this state directory.
pub async fn ask(
    state_directory: &Path,
    question: &Question,
    patience: Duration,
) -> Result<Answer, AskError> {
    let path = state_directory.join(SOCKET_FILE);
    let answer = tokio::time::timeout(patience, talk(state_directory, &path, question)).await;
    answer.unwrap_or(Err(AskError::Silent { path, patience }))
}

async fn talk(directory: &Path, path: &Path, question: &Question) -> Result<Answer, AskError> {
    let place = || path.to_owned();
    let unreachable = |cause: io::Error| match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AskError::NoDaemon { path: place() }
        }
        io::ErrorKind::PermissionDenied => AskError::Forbidden { path: place(), cause },
        _ => AskError::Broken { path: place(), cause },
    };
    let broken = |cause: io::Error| AskError::Broken { path: place(), cause };
    let directory = File::open(directory).map_err(unreachable)?;
    let stream = UnixStream::connect(address(&directory, path)).await.map_err(unreachable)?;
    let (from, mut to) = stream.into_split();
    let mut text = serde_json::to_vec(question).map_err(|error| broken(error.into()))?;
    text.push(b'\n');
    to.write_all(&text).await.map_err(broken)?;
    let (mut line, mut from) = (Vec::new(), BufReader::new(from.take(MAX_ANSWER_BYTES)));
    from.read_until(b'\n', &mut line).await.map_err(broken)?;
    if !line.ends_with(b"\n") {
        let is_large = line.len() as u64 >= MAX_ANSWER_BYTES;
        let cut = || broken(io::ErrorKind::UnexpectedEof.into());
        return Err(if is_large { AskError::TooLarge { path: place() } } else { cut() });
    }
    // A newer daemon may give an answer that this version does not know.
    Ok(serde_json::from_slice(&line).unwrap_or(Answer::NotUnderstood))
}
