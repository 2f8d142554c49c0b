//! Commands about the shell itself.

use clap::Args;

use super::{CommandResult, Shell, command};
use crate::{
    cli::{output, pattern},
    error::printable,
    json::{Map, Value},
};

/// Show earlier commands
#[derive(Debug, Args)]
pub struct History {}

/// List all commands, or explain one
#[derive(Debug, Args)]
pub struct Help {
    /// The command
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// End the shell, as Ctrl-D does
#[derive(Debug, Args)]
pub struct Exit {}

impl History {
    pub(super) fn run(&self, shell: &Shell) -> CommandResult {
        for (n, line) in (1..).zip(&shell.history) {
            shell.say(format_args!("{n:>5}  {}", printable(line, 8_192)));
        }
        let lines = shell.history.iter().map(|line| line.as_str().into());
        Ok(Value::Array(lines.collect()))
    }
}

impl Help {
    pub(super) fn run(&self, shell: &Shell) -> CommandResult {
        if let Some(name) = &self.command {
            let help = command::help(&pattern::literal(name))?;
            shell.say(help.as_str().unwrap_or_default().trim_end());
            return Ok(help);
        }
        let mut all = command::table();
        all.push(("! COMMAND".to_owned(), "Run a local command".to_owned()));
        for (name, about) in &all {
            shell.say(format_args!("{name:<16} {about}"));
        }
        shell.say(
            "Quote names with blanks: \"a b\", 'a b' or a\\ b. *, ? and [ab] match names.\n\
             In a batch, - before a command continues after its failure.\n\
             `help COMMAND` explains a command.",
        );
        let object = |(name, about): (String, String)| {
            let mut map = Map::new();
            map.insert("command".to_owned(), name.into());
            map.insert("about".to_owned(), about.into());
            Value::Object(map)
        };
        Ok(Value::Array(all.into_iter().map(object).collect()))
    }
}

impl Exit {
    pub(super) fn run(&self, shell: &mut Shell) -> CommandResult {
        shell.over = true;
        Ok(Value::Null)
    }
}

/// Prints text that already contains its line ends, for people.
pub fn show(shell: &Shell, text: &str) {
    if !shell.json {
        output::text(text);
    }
}
