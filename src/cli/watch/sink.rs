//! Where a stream goes that is watched.

use std::{
    fs::File,
    io::{self, stdout},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use tokio::task;

use crate::{
    cli::input::widen,
    control::viewer::Stream,
    error::{Code, Error, printable},
    viewers::End,
};

/// Where a stream goes.
pub enum Sink {
    /// To standard output.
    Stdout,
    /// Into a new file.
    File(PathBuf),
    /// Into a command of the shell, whose output is shown.
    Program(String),
    /// The same; its output is thrown away.
    QuietProgram(String),
}

/// Fails if a file is there already: a stream replaces none.
pub fn free(path: &Path) -> Result<(), Error> {
    match path.symlink_metadata() {
        Ok(_) => {
            let sentence = format!("{} exists already: name a different file", path.display());
            Err(Error::new(Code::Exists, sentence))
        }
        Err(_) => Ok(()),
    }
}

/// Where the bytes go, and the program that they go to.
type Open = (OwnedFd, Option<Child>);

impl Sink {
    fn open(&self) -> Result<Open, Error> {
        let (to, child) = match self {
            Self::Stdout => {
                let own = stdout().as_fd().try_clone_to_owned();
                let own = own.map_err(|e| Error::io("write", Path::new("standard output"), &e))?;
                (own, None)
            }
            Self::File(path) => {
                let file = File::create_new(path).map_err(|e| Error::io("create", path, &e))?;
                (file.into(), None)
            }
            Self::Program(command) | Self::QuietProgram(command) => {
                let failed = |e| Error::io("start", Path::new(command), &e);
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(command).stdin(Stdio::piped());
                if matches!(self, Self::QuietProgram(_)) {
                    shell.stdout(Stdio::null()).stderr(Stdio::null());
                }
                let mut child = shell.spawn().map_err(failed)?;
                let stdin = child.stdin.take();
                let stdin = stdin.ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
                (stdin.into(), Some(child))
            }
        };
        widen(&to);
        Ok((to, child))
    }
}

/// Gives a stream of this contact to where it goes. Returns how many bytes came, and how it ended.
pub async fn give(
    mut stream: Stream,
    sink: &Sink,
    from: &str,
) -> Result<(u64, Result<(), Error>), Error> {
    let (to, child) = sink.open()?;
    let leaving = stream.leaving();
    let copying = task::spawn_blocking(move || {
        let mut bytes = 0;
        (stream.copy(&to, &mut bytes), bytes)
    });
    let lost = |e| Error::new(Code::Failed, format!("the stream was not watched: {e}"));
    let (copied, bytes) = copying.await.map_err(lost)?;
    drop(leaving);
    let ending = task::spawn_blocking(move || child.map(|mut child| child.wait()));
    let exit = ending.await.ok().flatten().and_then(Result::ok);
    Ok((bytes, ended(copied, exit, &printable(from, 64))))
}

fn ended(copied: io::Result<End>, exit: Option<ExitStatus>, from: &str) -> Result<(), Error> {
    let failed = exit.filter(|exit| !exit.success());
    match (copied, failed) {
        (Ok(End::Cut(why)), _) => {
            let why = printable(&why, 500);
            let sentence = format!("the stream of {from} was cut off: {why}");
            Err(Error::new(Code::Later, sentence))
        }
        (_, Some(exit)) => {
            let sentence = format!("the command that watched the stream failed: {exit}");
            Err(Error::new(Code::Failed, sentence))
        }
        (Err(e), None) if exit.is_none() => {
            let sentence = format!("cannot write the stream: {e}");
            Err(Error::new(Code::Failed, sentence))
        }
        _ => Ok(()),
    }
}
