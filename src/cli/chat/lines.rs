//! What a person types, or a program writes, line by line.

use std::io::{self, BufRead, BufReader, Read};

use rustyline::{
    CompletionType, Config, Context, Editor, ExternalPrinter, Helper,
    completion::{Completer, Pair},
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::MemHistory,
    validate::Validator,
};
use tokio::{sync::mpsc, task};

use crate::error::{Code, Error};

/// The longest line, in bytes: that of the longest message as JSON.
const LONGEST: u64 = 131_072;

/// What is printed above the line that is being typed.
pub type Above = Box<dyn FnMut(String) + Send>;

/// What Tab offers at the beginning of a line.
pub struct Words(pub Vec<String>);

impl Completer for Words {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = line.get(..at).unwrap_or_default();
        let fits = self.0.iter().filter(|word| word.starts_with(typed));
        let pairs = fits.map(|word| Pair {
            display: word.trim_end().to_owned(),
            replacement: word.clone(),
        });
        Ok((0, pairs.collect()))
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::new(Code::Failed, format!("cannot read lines: {error}"))
}

/// Lines, each read when it is asked for: until then a terminal is as its owner left it.
pub struct Lines {
    ask: mpsc::Sender<()>,
    lines: mpsc::Receiver<Result<String, Error>>,
}

impl Lines {
    /// Lines that a thread reads with this function, which returns `None` at their end.
    fn read_by(mut read: impl FnMut() -> Option<Result<String, Error>> + Send + 'static) -> Self {
        let (ask, mut asked) = mpsc::channel(1);
        let (give, lines) = mpsc::channel(1);
        task::spawn_blocking(move || {
            while asked.blocking_recv().is_some() {
                let Some(line) = read() else {
                    return;
                };
                if give.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self { ask, lines }
    }

    /// The next line; `None` at the end. Nothing is lost if the future is dropped before it is ready,
    /// but a line is being read.
    pub async fn next(&mut self) -> Option<Result<String, Error>> {
        let _ = self.ask.send(()).await;
        self.lines.recv().await
    }
}

/// Lines of a person at a terminal, and a way to print above the one that is being typed.
pub fn of_person(prompt: String, words: Words) -> Result<(Lines, Above), Error> {
    let config = Config::builder().completion_type(CompletionType::List);
    let config = config.history_ignore_space(true).build();
    let mut editor: Editor<Words, MemHistory> =
        Editor::with_history(config, MemHistory::new()).map_err(unreadable)?;
    editor.set_helper(Some(words));
    let mut printer = editor.create_external_printer().map_err(unreadable)?;
    let above = Box::new(move |line: String| {
        // Without a terminal nobody reads it.
        let _ = printer.print(line + "\n");
    });
    let lines = Lines::read_by(move || match editor.readline(&prompt) {
        Ok(line) => {
            let _ = editor.add_history_entry(&line);
            Some(Ok(line))
        }
        Err(ReadlineError::Interrupted | ReadlineError::Eof) => None,
        Err(error) => Some(Err(unreadable(error))),
    });
    Ok((lines, above))
}

/// Lines of standard input.
pub fn of_program() -> Lines {
    let mut stdin = BufReader::new(io::stdin());
    Lines::read_by(move || {
        let mut line = Vec::new();
        match (&mut stdin).take(LONGEST).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(n) if n as u64 == LONGEST => {
                let sentence = "a line is too long for a message";
                Some(Err(Error::new(Code::Usage, sentence)))
            }
            Ok(_) => {
                let line = String::from_utf8(line);
                let line = line.map(|line| line.trim_end_matches(['\n', '\r']).to_owned());
                Some(line.map_err(|_| Error::new(Code::Usage, "a line is not UTF-8")))
            }
            Err(error) => Some(Err(unreadable(error))),
        }
    })
}
