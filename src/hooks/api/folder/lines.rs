//! The lines of a file of any length, one after the other.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rhai::{Engine, EvalAltResult};

use crate::{
    hooks::{
        api::function::{Made, fail},
        call,
        engine::MAX_STRING,
    },
    store::Contents,
};

/// Bytes that are read at a time; between two of them the script can be stopped.
const BUFFER: usize = 65_536;

/// Files that the scripts of one run may go through at the same time: the process keeps each of
/// them open.
const MAX_OPEN: usize = 16;

/// How many files a script has open. Clones share one number.
#[derive(Clone, Default)]
pub struct OpenFiles(Arc<AtomicUsize>);

/// One of them, until it is dropped.
struct Opened {
    contents: Box<dyn Contents>,
    of: OpenFiles,
}

impl OpenFiles {
    fn add(&self, call: &str, contents: Box<dyn Contents>) -> Made<Opened> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let opened = Opened {
            contents,
            of: self.clone(),
        };
        match before < MAX_OPEN {
            true => Ok(opened),
            false => Err(fail(format!(
                "{call}: a script can go through {MAX_OPEN} files at the same time"
            ))),
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.of.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The lines of a file, for a `for` loop. Clones begin at the same line and then are independent.
#[derive(Clone)]
pub struct Lines {
    name: Arc<str>,
    opened: Arc<Opened>,
    /// Where the next bytes are read.
    offset: u64,
    /// Bytes that were read and not looked at, from `at` on.
    buffer: Vec<u8>,
    at: usize,
    is_over: bool,
}

impl Lines {
    /// The lines of what a call opened.
    pub fn new(
        call: &str,
        name: &str,
        contents: Box<dyn Contents>,
        open: &OpenFiles,
    ) -> Made<Self> {
        Ok(Self {
            name: name.into(),
            opened: Arc::new(open.add(call, contents)?),
            offset: 0,
            buffer: Vec::new(),
            at: 0,
            is_over: false,
        })
    }

    /// Reads more bytes after those that were not looked at; returns whether there were any.
    fn more(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let len = self.buffer.len();
        self.buffer.resize(len + BUFFER, 0);
        let room = self.buffer.get_mut(len..).unwrap_or_default();
        let read = self.opened.contents.read_at(room, self.offset)?;
        self.buffer.truncate(len + read);
        self.offset = self.offset.saturating_add(read as u64);
        Ok(read > 0)
    }

    /// The next line without its line ending; `None` after the last one. At most `most` bytes of it
    /// are kept: `Err` tells that it has more.
    fn next_line(&mut self, most: usize) -> Made<Option<Result<Vec<u8>, ()>>> {
        let failed = |name: &str, e: io::Error| fail(format!("cannot read {name}: {e}"));
        let (mut line, mut is_long, mut has_any) = (Vec::new(), false, false);
        loop {
            let rest = self.buffer.get(self.at..).unwrap_or_default();
            let end = rest.iter().position(|byte| *byte == b'\n');
            let part = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
            has_any |= end.is_some() || !part.is_empty();
            is_long |= line.len() + part.len() > most;
            if !is_long {
                line.extend_from_slice(part);
            }
            self.at += part.len() + usize::from(end.is_some());
            if end.is_none() {
                call::go_on()?;
                if self.more().map_err(|e| failed(&self.name, e))? {
                    continue;
                }
                self.is_over = true;
            }
            if !has_any {
                return Ok(None);
            }
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(Some(match is_long {
                true => Err(()),
                false => Ok(line),
            }));
        }
    }

    /// Whether one of the lines is this text.
    pub fn contain(&mut self, text: &str) -> Made<bool> {
        while !self.is_over {
            // With room for its line ending.
            match self.next_line(text.len() + 1)? {
                Some(Ok(line)) if line == text.as_bytes() => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            }
        }
        Ok(false)
    }
}

impl Iterator for Lines {
    type Item = Result<String, Box<EvalAltResult>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let name = self.name.clone();
        let line = match self.next_line(MAX_STRING).transpose()? {
            Ok(Ok(line)) => String::from_utf8(line)
                .map_err(|_| fail(format!("folder.lines(): {name} is not UTF-8 text"))),
            Ok(Err(())) => Err(fail(format!(
                "folder.lines(): a line of {name} has more than {MAX_STRING} bytes"
            ))),
            Err(error) => Err(error),
        };
        self.is_over |= line.is_err();
        Some(line)
    }
}

pub fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Lines>("Lines")
        .register_iterator_result::<Lines, String>();
}
