//! The commands of a shell: which ones there are, and how a line becomes one.

use clap::{CommandFactory, Parser, error::ErrorKind};

use super::{CommandResult, Fault, Shell, local, own, remote, transfer};
use crate::{
    cli::{pattern, sentence},
    json::Value,
};

/// One file for each kind of command; each has its words, its help and its work together.
#[derive(Debug, Parser)]
#[command(multicall = true, disable_help_subcommand = true, max_term_width = 100)]
pub enum Command {
    Pwd(remote::Pwd),
    Cd(remote::Cd),
    #[command(visible_alias = "dir")]
    Ls(remote::Ls),
    Get(transfer::Get),
    Mget(transfer::Mget),
    Cat(transfer::Cat),
    Put(transfer::Put),
    Mkdir(remote::Mkdir),
    Rm(remote::Rm),
    Rmdir(remote::Rmdir),
    #[command(visible_alias = "rename")]
    Mv(remote::Mv),
    Stat(remote::Stat),
    Find(remote::Find),
    Df(remote::Df),
    Du(remote::Du),
    Tree(remote::Tree),
    Lpwd(local::Lpwd),
    Lcd(local::Lcd),
    Lls(local::Lls),
    Lmkdir(local::Lmkdir),
    History(own::History),
    #[command(visible_alias = "?")]
    Help(own::Help),
    #[command(visible_aliases = ["quit", "bye"])]
    Exit(own::Exit),
}

/// What the words after a command name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Commands.
    Commands,
    /// Files of the contact.
    Remote,
    /// Local files.
    Local,
    /// Nothing known.
    None,
}

/// The names of all commands.
pub fn all() -> Vec<String> {
    let command = Command::command();
    command
        .get_subcommands()
        .flat_map(|command| command.get_name_and_visible_aliases())
        .map(str::to_owned)
        .collect()
}

/// What people of other programs write, and what it is called here.
const ELSEWHERE: [(&str, &str); 25] = [
    ("delete", "rm"),
    ("del", "rm"),
    ("erase", "rm"),
    ("unlink", "rm"),
    ("copy", "get"),
    ("cp", "get"),
    ("download", "get"),
    ("fetch", "get"),
    ("upload", "put"),
    ("send", "put"),
    ("mput", "put"),
    ("move", "mv"),
    ("ren", "mv"),
    ("chdir", "cd"),
    ("md", "mkdir"),
    ("rd", "rmdir"),
    ("type", "cat"),
    ("less", "cat"),
    ("head", "cat"),
    ("tail", "cat"),
    ("more", "cat"),
    ("list", "ls"),
    ("ll", "ls -l"),
    ("logout", "exit"),
    ("man", "help"),
];

/// What comes after a command.
pub fn names(command: &str) -> Names {
    match command.trim_start_matches('-') {
        "cd" | "ls" | "dir" | "get" | "mget" | "cat" | "mkdir" | "rm" | "rmdir" | "mv"
        | "rename" | "stat" | "find" | "df" | "du" | "tree" => Names::Remote,
        "lcd" | "lls" | "lmkdir" | "put" => Names::Local,
        "help" => Names::Commands,
        _ => Names::None,
    }
}

/// One line for each command: its names, and what it does.
pub fn table() -> Vec<(String, String)> {
    let command = Command::command();
    let about = |command: &clap::Command| {
        let about = command.get_about().map(ToString::to_string);
        let names: Vec<_> = command.get_name_and_visible_aliases();
        (names.join(", "), about.unwrap_or_default())
    };
    command.get_subcommands().map(about).collect()
}

/// The error for an unknown name, with the nearest known one.
pub fn unknown(name: &str) -> Fault {
    let all = all();
    let elsewhere = ELSEWHERE.iter().find(|(other, _)| *other == name);
    if let Some((_, here)) = elsewhere {
        return Fault::usage(format!("unknown command {name:?}: did you mean {here}?"));
    }
    let near = all
        .iter()
        .map(|known| {
            let far = strsim::damerau_levenshtein(name, known);
            (far, !name.starts_with(known.as_str()), known)
        })
        .filter(|(far, _, known)| *far <= 2 && *far < known.len())
        .min();
    Fault::usage(match near {
        Some((_, _, near)) => format!("unknown command {name:?}: did you mean {near}?"),
        None => format!("unknown command {name:?}: `help` lists all"),
    })
}

/// What a line asks for.
pub enum Asked {
    /// A command.
    Command(Command),
    /// Its help.
    Help(String),
}

impl Command {
    /// Parses the words of a line.
    pub fn parse_words(words: Vec<String>) -> Result<Asked, Fault> {
        let name = words.first().map(String::as_str).unwrap_or_default();
        if !all().iter().any(|known| known == name) {
            return Err(unknown(&pattern::literal(name)));
        }
        let name = name.to_owned();
        match Self::try_parse_from(words) {
            Ok(command) => Ok(Asked::Command(command)),
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {
                Ok(Asked::Help(error.render().to_string()))
            }
            Err(error) => {
                let sentence = sentence(&error).trim_end_matches(':').to_owned();
                let sentence = format!("{sentence}; `help {name}` shows its usage");
                Err(Fault::usage(sentence))
            }
        }
    }

    /// Whether it must not be repeated.
    pub fn changes(&self) -> bool {
        matches!(
            self,
            Self::Put(_) | Self::Mkdir(_) | Self::Rm(_) | Self::Rmdir(_) | Self::Mv(_)
        )
    }

    /// Runs it.
    pub async fn run(&self, shell: &mut Shell) -> CommandResult {
        match self {
            Self::Pwd(pwd) => pwd.run(shell),
            Self::Cd(cd) => cd.run(shell).await,
            Self::Ls(ls) => ls.run(shell).await,
            Self::Get(get) => get.run(shell).await,
            Self::Mget(get) => get.run(shell).await,
            Self::Cat(cat) => cat.run(shell).await,
            Self::Put(put) => put.run(shell).await,
            Self::Mkdir(mkdir) => mkdir.run(shell).await,
            Self::Rm(rm) => rm.run(shell).await,
            Self::Rmdir(rmdir) => rmdir.run(shell).await,
            Self::Mv(mv) => mv.run(shell).await,
            Self::Stat(stat) => stat.run(shell).await,
            Self::Find(find) => find.run(shell).await,
            Self::Df(df) => df.run(shell).await,
            Self::Du(du) => du.run(shell).await,
            Self::Tree(tree) => tree.run(shell).await,
            Self::Lpwd(lpwd) => lpwd.run(shell),
            Self::Lcd(lcd) => lcd.run(),
            Self::Lls(lls) => lls.run(shell),
            Self::Lmkdir(lmkdir) => lmkdir.run(shell),
            Self::History(history) => history.run(shell),
            Self::Help(help) => help.run(shell),
            Self::Exit(exit) => exit.run(shell),
        }
    }
}

/// The help of one command.
pub fn help(name: &str) -> Result<Value, Fault> {
    match Command::parse_words(vec![name.to_owned(), "--help".to_owned()])? {
        Asked::Help(text) => Ok(text.into()),
        Asked::Command(_) => Err(unknown(name)),
    }
}
