//! Where the lines of a shell come from: a person at a terminal, or a batch.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustyline::{
    Behavior, CompletionType, Config, Editor, error::ReadlineError, history::FileHistory,
};
use tokio::{sync::mpsc, task};

use super::complete::Completion;
use crate::error::{Code, Error};

/// The longest line, in bytes.
const LONGEST: u64 = 1 << 16;

/// How many lines are remembered.
const REMEMBERED: usize = 1_000;

/// Where lines come from. Each is read on request, on a separate thread.
pub enum LineSource {
    /// A person.
    Person(Box<Editing>),
    /// A file, or standard input.
    Batch(Box<dyn BufRead + Send>),
}

/// A person's editor, with what was entered before.
pub struct Editing {
    editor: Editor<Completion, FileHistory>,
    file: Option<PathBuf>,
}

/// A reader of lines.
pub struct Lines {
    prompts: mpsc::UnboundedSender<String>,
    lines: mpsc::UnboundedReceiver<Result<Option<String>, Error>>,
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::new(Code::Failed, format!("cannot read commands: {error}"))
}

impl LineSource {
    /// A file, or standard input for `-`.
    pub fn batch(path: &Path) -> Result<Self, Error> {
        if path.as_os_str() == "-" {
            return Ok(Self::stdin());
        }
        let file = File::open(path).map_err(|e| Error::io("open", path, &e))?;
        Ok(Self::Batch(Box::new(BufReader::new(file))))
    }

    /// Standard input.
    pub fn stdin() -> Self {
        Self::Batch(Box::new(BufReader::new(io::stdin())))
    }

    /// A person at a terminal. `history` is where lines are kept; without it, or if it cannot be
    /// written, they are forgotten at the end. `beside`: prompts must not go to standard output.
    pub fn person(completion: Completion, history: &Path, beside: bool) -> Result<Self, Error> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .history_ignore_space(true)
            .behavior(match beside {
                true => Behavior::PreferTerm,
                false => Behavior::Stdio,
            });
        let config = config.max_history_size(REMEMBERED).map_err(unreadable)?;
        let mut editor = Editor::with_config(config.build()).map_err(unreadable)?;
        editor.set_helper(Some(completion));
        // What a person types is private.
        let opened = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(history)
            .and_then(|file| file.set_permissions(Permissions::from_mode(0o600)));
        let file = opened.is_ok() && editor.load_history(history).is_ok();
        Ok(Self::Person(Box::new(Editing {
            editor,
            file: file.then(|| history.to_owned()),
        })))
    }

    /// Whether a person is there.
    pub fn is_person(&self) -> bool {
        matches!(self, Self::Person(_))
    }

    /// What was entered in earlier shells.
    pub fn history(&self) -> Vec<String> {
        match self {
            Self::Person(editing) => editing.editor.history().iter().cloned().collect(),
            Self::Batch(_) => Vec::new(),
        }
    }

    fn next(&mut self, prompt: &str) -> Result<Option<String>, Error> {
        match self {
            Self::Person(editing) => editing.next(prompt),
            Self::Batch(lines) => {
                let mut line = Vec::new();
                let read = lines.take(LONGEST).read_until(b'\n', &mut line);
                if read.map_err(unreadable)? == 0 {
                    return Ok(None);
                }
                if line.len() as u64 == LONGEST {
                    return Err(Error::new(Code::Usage, "a line of the batch is too long"));
                }
                let line = String::from_utf8(line);
                line.map(Some)
                    .map_err(|_| Error::new(Code::Usage, "the batch has a line that is not UTF-8"))
            }
        }
    }

    /// Starts reading.
    pub fn start(mut self) -> Lines {
        let (prompts, mut asked) = mpsc::unbounded_channel::<String>();
        let (read, lines) = mpsc::unbounded_channel();
        task::spawn_blocking(move || {
            while let Some(prompt) = asked.blocking_recv() {
                if read.send(self.next(&prompt)).is_err() {
                    return;
                }
            }
        });
        Lines { prompts, lines }
    }
}

impl Editing {
    fn next(&mut self, prompt: &str) -> Result<Option<String>, Error> {
        loop {
            match self.editor.readline(prompt) {
                Ok(line) => {
                    let added = self.editor.add_history_entry(&line);
                    if let (Ok(true), Some(file)) = (added, &self.file) {
                        // Without it, the line is merely forgotten.
                        let _ = self.editor.append_history(file);
                    }
                    return Ok(Some(line));
                }
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(unreadable(error)),
            }
        }
    }
}

impl Lines {
    /// The next line; `None` at the end.
    pub async fn next(&mut self, prompt: String) -> Result<Option<String>, Error> {
        let _ = self.prompts.send(prompt);
        self.lines.recv().await.unwrap_or(Ok(None))
    }
}
