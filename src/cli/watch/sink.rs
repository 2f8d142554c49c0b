//! Where a stream goes that is watched.

use std::{
    fs::File,
    io::{self, Write, stdout},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use futures_util::FutureExt;
use tokio::{sync::mpsc, task};

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

/// How watching a stream ended.
enum Watched {
    /// To its end.
    Whole,
    /// It was cut off.
    Cut(String),
    /// The program or file that was to receive it takes no more.
    Left,
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

/// Pieces that wait to be written.
const WAITING: usize = 8;

/// Where the bytes go, and the program that they go to.
type Open = (Box<dyn Write + Send>, Option<Child>);

impl Sink {
    fn open(&self) -> Result<Open, Error> {
        match self {
            Self::Stdout => {
                let own = stdout().as_fd().try_clone_to_owned();
                let own = own.map_err(|e| Error::io("write", Path::new("standard output"), &e))?;
                widen(&own);
                Ok((Box::new(File::from(own)), None))
            }
            Self::File(path) => {
                let file = File::create_new(path).map_err(|e| Error::io("create", path, &e))?;
                Ok((Box::new(file), None))
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
                widen(&stdin);
                Ok((Box::new(stdin), Some(child)))
            }
        }
    }
}

/// Writes pieces, each at once: somebody watches. Gives their buffers back.
fn write(
    mut to: Box<dyn Write + Send>,
    mut pieces: mpsc::Receiver<Vec<u8>>,
    spare: mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    while let Some(piece) = pieces.blocking_recv() {
        to.write_all(&piece)?;
        to.flush()?;
        let _ = spare.try_send(piece);
    }
    Ok(())
}

/// Gives a stream of this contact to where it goes. Returns how many bytes came, and how it ended.
pub async fn give(
    mut stream: Stream,
    sink: &Sink,
    from: &str,
) -> Result<(u64, Result<(), Error>), Error> {
    let (to, child) = sink.open()?;
    let (pieces, waiting) = mpsc::channel(WAITING);
    let (give, mut spare) = mpsc::channel(WAITING);
    let writing = task::spawn_blocking(move || write(to, waiting, give));
    let mut bytes = 0_u64;
    let watched = loop {
        let buffer = spare.recv().now_or_never().flatten();
        let mut piece = buffer.unwrap_or_default();
        match stream.next(&mut piece).await {
            Ok(Ok(())) => {
                bytes += piece.len() as u64;
                if pieces.send(piece).await.is_err() {
                    break Watched::Left;
                }
            }
            Ok(Err(End::Whole)) => break Watched::Whole,
            Ok(Err(End::Cut(why))) => break Watched::Cut(why),
            Err(error) => break Watched::Cut(error.sentence),
        }
    };
    drop((pieces, stream));
    let ending = task::spawn_blocking(move || child.map(|mut child| child.wait()));
    let (written, exit) = tokio::join!(writing, ending);
    let exit = exit.ok().flatten().and_then(Result::ok);
    let watched = match (watched, written) {
        (Watched::Whole, Ok(Ok(()))) => Watched::Whole,
        (Watched::Whole, _) => Watched::Left,
        (watched, _) => watched,
    };
    Ok((bytes, ended(watched, exit, &printable(from, 64))))
}

fn ended(watched: Watched, exit: Option<ExitStatus>, from: &str) -> Result<(), Error> {
    let failed = exit.filter(|exit| !exit.success());
    match (watched, failed) {
        (Watched::Cut(why), _) => {
            let why = printable(&why, 500);
            let sentence = format!("the stream of {from} was cut off: {why}");
            Err(Error::new(Code::Later, sentence))
        }
        (_, Some(exit)) => {
            let sentence = format!("the command that watched the stream failed: {exit}");
            Err(Error::new(Code::Failed, sentence))
        }
        (Watched::Left, None) if exit.is_none() => {
            let sentence = "cannot write the stream: nobody reads it any more, or there is no room";
            Err(Error::new(Code::Failed, sentence))
        }
        _ => Ok(()),
    }
}
