//! `m2y shell`: a contact's files, as in sftp.
//!
//! [`lines`] reads lines, [`words`] splits one into words, and [`command`] turns those into a
//! command; [`paths`] finds the files that words stand for; [`remote`], [`transfer`], [`local`] and
//! [`own`] hold the commands. The outcome of a command is reported here, for people or as one
//! object a line; its status is one of [`fault::STATUSES`].

mod command;
mod complete;
mod fault;
mod lines;
mod local;
mod own;
mod paths;
mod remote;
mod transfer;
mod words;

use std::{
    fmt,
    io::{IsTerminal, stdin},
    path::PathBuf,
    sync::Arc,
};

use clap::Args;
use clap_complete::ArgValueCompleter;
use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
};

use self::{
    command::{Asked, Command},
    complete::{Completion, Sight},
    fault::{Fault, STATUSES},
    lines::LineSource,
    paths::Directory,
};
use super::{
    Failure,
    completion::places,
    output,
    progress::Progress,
    remote::{Asker, Link, RemotePath},
};
use crate::{
    error::{Code, Error, printable},
    json::Value,
};

/// The most entries that one answer holds.
const LISTED: usize = 100_000;

/// The most lines of a batch that `history` shows.
const REMEMBERED: usize = 10_000;

/// The file with the lines that a person entered, in the directory of the user.
const HISTORY: &str = ".shell_history";

/// The result of a command: the content of its answer.
type CommandResult = Result<Value, Fault>;

/// Browse, fetch and change a contact's files, as in sftp
///
/// Shows a prompt with history and completion; `help` lists the commands. With -b, or if
/// standard input is not a terminal, it runs a batch, one command a line, and stops at the
/// first error, unless a - stands before the command. Lines that begin with # are comments.
///
///   m2y shell roland-frei
///   echo 'get -r photo/2026' | m2y shell roland-frei
///   m2y shell --json -b commands.txt roland-frei:photo
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, after_long_help = STATUSES)]
pub struct ShellArgs {
    #[command(flatten)]
    asker: Asker,
    /// Read commands from a file; - is standard input
    #[arg(short, long, value_name = "FILE")]
    batch: Option<PathBuf>,
    /// The contact, and the directory to begin in
    #[arg(value_name = "PEER[:PATH]", value_parser = RemotePath::parse, add = ArgValueCompleter::new(places))]
    place: RemotePath,
}

/// A running shell.
pub struct Shell {
    /// The contact.
    name: String,
    link: Link,
    directory: Directory,
    progress: Arc<Progress>,
    history: Vec<String>,
    json: bool,
    /// Whether a person sits at a terminal.
    person: bool,
    /// The line of the batch that is being run, counted from 1.
    line: u64,
    /// Whether it was told to exit.
    over: bool,
}

/// The fault for a list that is longer than an answer may be.
fn full() -> Fault {
    let sentence = "there are more than 100,000: name a directory below, or use `m2y ls -R`";
    Fault::from(Error::new(Code::Failed, sentence)).with(413)
}

fn interrupted() -> Fault {
    Error::new(Code::Interrupted, "interrupted").into()
}

impl ShellArgs {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        // From here on, Ctrl-C ends commands and not the program.
        let mut interrupts = interrupts()?;
        let history = self.asker.user()?.path().join(HISTORY);
        let progress = Arc::new(Progress::default());
        let owner = self.asker.owner(&self.place.peer)?;
        let mut link = Link::new(owner, progress.clone(), true);
        tokio::select! {
            peer = link.peer() => drop(peer?),
            _ = interrupts.recv() => return Err(interrupted().error.into()),
        }
        let sight = Arc::new(Sight::default());
        let source = match &self.batch {
            Some(file) => LineSource::batch(file)?,
            None if !stdin().is_terminal() => LineSource::stdin(),
            None => {
                let completion = Completion::new(sight.clone(), Handle::current());
                LineSource::person(completion, &history, json)?
            }
        };
        let mut shell = Shell {
            name: self.place.peer,
            link,
            directory: Directory::default(),
            progress,
            history: source.history(),
            json,
            person: source.is_person(),
            line: 0,
            over: false,
        };
        if !self.place.path.is_empty() {
            let path = shell_words::quote(&self.place.path).into_owned();
            let gone = shell.command(&format!("cd -- {path}")).await;
            gone.map_err(|fault| fault.error)?;
        }
        shell.run(source, &sight, &mut interrupts).await
    }
}

fn interrupts() -> Result<Signal, Error> {
    signal(SignalKind::interrupt())
        .map_err(|e| Error::new(Code::Failed, format!("cannot take signals: {e}")))
}

impl Shell {
    /// Prints a line for people.
    fn say(&self, line: impl fmt::Display) {
        if !self.json {
            output::line(line);
        }
    }

    async fn run(
        mut self,
        source: LineSource,
        sight: &Sight,
        interrupts: &mut Signal,
    ) -> Result<(), Failure> {
        let mut lines = source.start();
        let mut passed_over = 0_u64;
        while !self.over {
            let peer = if self.link.is_cut() {
                None
            } else {
                self.link.peer().await.ok()
            };
            sight.set(peer, &self.directory);
            let prompt = format!("{}:{}> ", self.name, self.directory.shown());
            let line = tokio::select! {
                line = lines.next(prompt) => line?,
                // A person's Ctrl-C goes to the editor, which reads it as a key.
                _ = interrupts.recv(), if !self.person => return Err(interrupted().error.into()),
            };
            let Some(line) = line else {
                break;
            };
            self.line += 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if self.history.len() < REMEMBERED {
                self.history.push(line.to_owned());
            }
            let (goes_on, line) = match line.strip_prefix('-') {
                Some(line) => (true, line.trim_start()),
                None => (false, line),
            };
            let outcome = self.command(line).await;
            let (goes_on, tried) = (goes_on || self.person, goes_on);
            match &outcome {
                Err(Fault { error, .. }) if !goes_on || self.ends(error) => {
                    if self.json {
                        self.answer(&outcome);
                    }
                    // The program says it to people when it ends.
                    return Err(Failure::told(self.located(error)));
                }
                Err(_) if tried => passed_over += 1,
                _ => {}
            }
            self.answer(&outcome);
        }
        match passed_over {
            0 => Ok(()),
            _ if self.person => Ok(()),
            n => {
                let sentence = match n {
                    1 => "1 command failed".to_owned(),
                    n => format!("{n} commands failed"),
                };
                Err(Failure::told(Error::new(Code::Partly, sentence)))
            }
        }
    }

    /// Whether no further command is tried.
    fn ends(&self, error: &Error) -> bool {
        !self.person && error.code == Code::Interrupted
    }

    /// The error, with the line of the batch where it occurred.
    fn located(&self, error: &Error) -> Error {
        match self.person {
            true => error.clone(),
            false => error.clone().within(format_args!("line {}", self.line)),
        }
    }

    /// Reports the outcome of a command.
    fn answer(&self, outcome: &CommandResult) {
        let (status, message, content) = match outcome {
            Ok(content) => (200, "OK", content.clone()),
            Err(fault) => (
                fault.status,
                fault.error.sentence.as_str(),
                fault.content.clone(),
            ),
        };
        if self.json {
            output::object(&[
                ("status_code", status.into()),
                ("status_message", message.into()),
                ("content", content),
            ]);
        } else if status != 200 {
            let place = match self.person {
                true => String::new(),
                false => format!("line {}: ", self.line),
            };
            output::aside(format_args!("m2y: {place}{}", printable(message, 8_192)));
        }
    }

    /// Runs a line.
    async fn command(&mut self, line: &str) -> CommandResult {
        if let Some(text) = line.strip_prefix('!') {
            // Ctrl-C belongs to the program, which has the terminal.
            return local::run(text, self).await;
        }
        let command = match Command::parse_words(words::split(line)?)? {
            Asked::Command(command) => command,
            Asked::Help(text) => {
                own::show(self, &text);
                return Ok(text.into());
            }
        };
        let mut interrupts = interrupts()?;
        let mut again = false;
        loop {
            let had_session = !self.link.is_cut();
            let outcome = tokio::select! {
                outcome = command.run(self) => outcome,
                _ = interrupts.recv() => Err(interrupted()),
            };
            let Err(fault) = outcome else {
                return outcome;
            };
            if fault.status == 499 {
                self.progress.end();
                self.link.hang_up();
                return Err(fault);
            }
            if fault.error.code != Code::Later || !self.link.is_cut() {
                return Err(fault);
            }
            if !had_session || again {
                return Err(fault.with(502));
            }
            if command.changes() {
                let what =
                    "connection lost before the answer: check whether the command took effect";
                return Err(fault.within(what).with(502));
            }
            again = true;
        }
    }
}
