//! What a program writes to its standard output and its standard error.
//!
//! It goes to the log line by line, and the last lines are kept for the error if the program
//! fails. However much it writes, both are bounded: it is read to the end all the same, so
//! that no program waits for a full pipe.

use std::{collections::VecDeque, io, mem};

use tokio::io::{AsyncRead, AsyncReadExt};
use tracing::debug;

use crate::{error::printable, event::Event};

/// Bytes of a line; a longer one is cut into pieces of that length.
const MAX_LINE: usize = 400;

/// Lines of one run that go to the log.
const MAX_LOGGED: u32 = 1_000;

/// Lines that are kept for the error.
const KEPT: usize = 3;

/// The output of one run of a program.
pub struct Output {
    /// User, folder and program, for the log.
    from: String,
    logged: u32,
    last: VecDeque<String>,
    stdout: Line,
    stderr: Line,
}

/// The line that one stream is writing.
struct Line {
    stream: &'static str,
    bytes: Vec<u8>,
}

impl Line {
    fn of(stream: &'static str) -> Self {
        Self {
            stream,
            bytes: Vec::new(),
        }
    }

    /// Takes new bytes, and returns the lines that it completes.
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut complete = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.bytes.push(byte);
            }
            if byte == b'\n' || self.bytes.len() >= MAX_LINE {
                complete.extend(self.end());
            }
        }
        complete
    }

    /// What is there so far, as a line; `None` for one without text.
    fn end(&mut self) -> Option<String> {
        let bytes = mem::take(&mut self.bytes);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end();
        (!text.is_empty()).then(|| printable(text, MAX_LINE))
    }
}

impl Output {
    /// The output of a program that is about to run for an event.
    pub fn new(event: &Event, script: &str) -> Self {
        let folder = &event.folder;
        let from = format!("{}/{}/{script}", folder.user().name(), folder.name());
        Self {
            from: printable(&from, 200),
            logged: 0,
            last: VecDeque::new(),
            stdout: Line::of("stdout"),
            stderr: Line::of("stderr"),
        }
    }

    /// Reads until both streams are closed.
    pub async fn read(
        &mut self,
        stdout: Option<impl AsyncRead + Unpin>,
        stderr: Option<impl AsyncRead + Unpin>,
    ) {
        let (mut stdout, mut stderr) = (stdout, stderr);
        let (mut a, mut b) = ([0; 4_096], [0; 4_096]);
        while stdout.is_some() || stderr.is_some() {
            tokio::select! {
                read = next(&mut stdout, &mut a) => match came(&a, read) {
                    Some(bytes) => {
                        let lines = self.stdout.take(bytes);
                        self.keep(self.stdout.stream, lines);
                    }
                    None => stdout = None,
                },
                read = next(&mut stderr, &mut b) => match came(&b, read) {
                    Some(bytes) => {
                        let lines = self.stderr.take(bytes);
                        self.keep(self.stderr.stream, lines);
                    }
                    None => stderr = None,
                },
            }
        }
    }

    /// The last lines, one after the other; empty if the program wrote nothing.
    pub fn last_lines(mut self) -> String {
        // Text without a line end is a line, too.
        let (stdout, stderr) = (self.stdout.end(), self.stderr.end());
        self.keep(self.stdout.stream, stdout);
        self.keep(self.stderr.stream, stderr);
        Vec::from(self.last).join(" | ")
    }

    /// Logs lines, and keeps them if they turn out to be the last.
    fn keep(&mut self, stream: &'static str, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            match self.logged {
                n if n < MAX_LOGGED => debug!(script = %self.from, stream, "{line}"),
                MAX_LOGGED => debug!(script = %self.from, "(further output is left out)"),
                _ => {}
            }
            self.logged = self.logged.saturating_add(1);
            if self.last.len() >= KEPT {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
    }
}

/// The bytes that were read; `None` at the end.
fn came(buffer: &[u8], read: io::Result<usize>) -> Option<&[u8]> {
    buffer.get(..read.ok()?).filter(|bytes| !bytes.is_empty())
}

async fn next(from: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> io::Result<usize> {
    match from {
        Some(from) => from.read(buffer).await,
        None => std::future::pending().await,
    }
}
