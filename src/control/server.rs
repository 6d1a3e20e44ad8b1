//! The side of the daemon: a socket that only its owner can open, with few connections at a time,
//! each with a time limit.

use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::protocol::{Answer, Question};
use super::{MAX_QUESTION_BYTES, SOCKET_FILE, address};

/// Connections at the same time; more wait in the backlog.
const MAX_CONNECTIONS: usize = 8;
const BACKLOG: i32 = 16;
/// For a question to arrive.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// For an answer to be sent, which may be long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after a failed accept: without descriptors the next one fails too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct ControlError {
    path: String,
    cause: io::Error,
}

/// Dropping it removes the socket's file.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens in the state directory. The caller must hold the directory's lock: then a socket
    /// that is already there is left over from a process that has ended.
    pub fn listen(state_directory: &Path) -> Result<Self, ControlError> {
        let path = state_directory.join(SOCKET_FILE);
        let failed = |cause: io::Error| ControlError { path: path.display().to_string(), cause };
        let listener = make(state_directory, &path).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self { listener, path })
    }

    pub async fn serve<F, A>(self, answer: F)
    where
        F: Fn(Question) -> A + Clone + Send + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let mut talks = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = talks.join_next() => {}
                accepted = self.listener.accept(), if talks.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        talks.spawn(talk(stream, answer.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(
                            event = "control_connection_refused", cause = %error,
                            "the control socket cannot accept a connection: {error}"
                        );
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // If this fails, the next start replaces the file.
        let _ = fs::remove_file(&self.path);
    }
}

/// A listening socket that nobody else can open from the moment it has a name.
fn make(state_directory: &Path, path: &Path) -> io::Result<StdListener> {
    let directory = File::open(state_directory)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // On Linux the file gets the mode that the socket has before it is bound.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(address(&directory, path))?)?;
    listen(&socket, BACKLOG)?;
    Ok(StdListener::from(socket))
}

async fn talk<F, A>(stream: UnixStream, answer: F)
where
    F: Fn(Question) -> A,
    A: Future<Output = Answer>,
{
    let (from, mut to) = stream.into_split();
    let mut line = Vec::new();
    let mut from = BufReader::new(from.take(MAX_QUESTION_BYTES));
    let read = tokio::time::timeout(QUESTION_TIMEOUT, from.read_until(b'\n', &mut line)).await;
    let is_whole = line.ends_with(b"\n");
    let is_large = line.len() as u64 >= MAX_QUESTION_BYTES;
    if !matches!(read, Ok(Ok(_))) || !(is_whole || is_large) {
        return;
    }
    let answer = match serde_json::from_slice(&line) {
        _ if !is_whole => {
            let mib = MAX_QUESTION_BYTES >> 20;
            Answer::Unavailable { cause: format!("the question is larger than {mib} MiB") }
        }
        Ok(question) => answer(question).await,
        Err(_) => Answer::NotUnderstood,
    };
    let Ok(mut text) = serde_json::to_vec(&answer) else { return };
    text.push(b'\n');
    // The command may have ended.
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, to.write_all(&text)).await;
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::{AskError, ask};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn answer(question: Question) -> Answer {
        match question {
            Question::Reload => Answer::Refused { faults: "c.toml:1: wrong".to_owned() },
            _ => Answer::Unavailable { cause: "this is a test".to_owned() },
        }
    }

    async fn asked(directory: &Path, question: &Question) -> Answer {
        ask(directory, question, PATIENCE).await.unwrap()
    }

    #[tokio::test]
    async fn a_question_is_answered_over_a_private_socket() {
        let root = tempfile::tempdir().unwrap();
        // The second path is too long for a socket.
        for directory in [root.path().join("state"), root.path().join("x".repeat(200))] {
            fs::create_dir(&directory).unwrap();
            File::create(directory.join(SOCKET_FILE)).unwrap();
            let socket = ControlSocket::listen(&directory).unwrap();
            let mode = fs::metadata(directory.join(SOCKET_FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
            let mut serving = JoinSet::new();
            serving.spawn(socket.serve(answer));
            let said = asked(&directory, &Question::Reload).await;
            assert_eq!(said, Answer::Refused { faults: "c.toml:1: wrong".to_owned() });
            serving.shutdown().await;
            assert!(!directory.join(SOCKET_FILE).exists());
            let error = ask(&directory, &Question::Status, PATIENCE).await.unwrap_err();
            assert!(matches!(error, AskError::NoDaemon { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn an_answer_may_be_much_longer_than_a_question() {
        let root = tempfile::tempdir().unwrap();
        let socket = ControlSocket::listen(root.path()).unwrap();
        let document = serde_json::Value::from("x".repeat(40_000_000));
        let long = Answer::Document { document };
        let mut serving = JoinSet::new();
        let answer = long.clone();
        serving.spawn(socket.serve(move |_| std::future::ready(answer.clone())));
        assert!(asked(root.path(), &Question::Document).await == long);
    }

    #[tokio::test]
    async fn what_is_too_large_or_cut_is_told_from_another_version() {
        let root = tempfile::tempdir().unwrap();
        let socket = ControlSocket::listen(root.path()).unwrap();
        let mut stream = UnixStream::connect(&socket.path).await.unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(socket.serve(answer));
        let question = vec![b' '; usize::try_from(MAX_QUESTION_BYTES).unwrap()];
        stream.write_all(&question).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        let cause = "the question is larger than 8 MiB";
        assert_eq!(said, format!("{{\"answer\":\"unavailable\",\"cause\":\"{cause}\"}}\n"));
        serving.shutdown().await;

        let listener = UnixListener::bind(root.path().join(SOCKET_FILE)).unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let (mut cut, _) = listener.accept().await.unwrap();
            cut.read_u8().await.unwrap();
            cut.write_all(b"{\"answer\":").await.unwrap();
            drop(cut);
            let (mut endless, _) = listener.accept().await.unwrap();
            let mebibyte = vec![b' '; 1 << 20];
            while endless.write_all(&mebibyte).await.is_ok() {}
        });
        let error = ask(root.path(), &Question::Status, PATIENCE).await.unwrap_err();
        assert!(matches!(error, AskError::Broken { .. }), "{error}");
        let error = ask(root.path(), &Question::Document, PATIENCE).await.unwrap_err();
        assert!(matches!(error, AskError::TooLarge { .. }), "{error}");
    }

    #[tokio::test]
    async fn an_unknown_question_is_not_understood_and_silent_clients_block_nobody() {
        let root = tempfile::tempdir().unwrap();
        let socket = ControlSocket::listen(root.path()).unwrap();
        let path = socket.path.clone();
        let mut serving = JoinSet::new();
        serving.spawn(socket.serve(answer));
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS - 1 {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"{\"question\":\"what\"}\n").await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "{\"answer\":\"not_understood\"}\n");
        assert!(matches!(asked(root.path(), &Question::Status).await, Answer::Unavailable { .. }));
    }
}
