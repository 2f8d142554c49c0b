//! Commands about a contact's files.

use clap::{ArgAction, Args};

use super::{
    CommandResult, Fault, LISTED, Shell, full,
    paths::{Directory, Match, last, plain},
};
use crate::{
    cli::{
        ls, output, pattern,
        remote::{denied, exact_time, rename, time},
    },
    error::{Code, printable},
    json::Value,
    wire::request::Entry,
};

/// An object for a program.
pub fn to_object(fields: &[(&str, Value)]) -> Value {
    let field = |(name, value): &(&str, Value)| ((*name).to_owned(), value.clone());
    Value::Object(fields.iter().map(field).collect())
}

/// Print the remote directory
#[derive(Debug, Args)]
pub struct Pwd {}

/// Change the remote directory; without a path, to the top
#[derive(Debug, Args)]
pub struct Cd {
    /// Where to
    #[arg(value_name = "PATH", default_value = "/")]
    path: String,
}

/// List remote files and directories
///
/// Directories end with a slash. If you give a pattern, the matching names are listed.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Ls {
    /// Show size and time (UTC) too
    #[arg(short, long)]
    long: bool,
    /// With -l: show sizes as 1.2 MB
    #[arg(short = 'h', long)]
    human: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// For people who are used to it: hidden files are never shared
    #[arg(short, long, hide = true)]
    all: bool,
    /// List directories with everything in them
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Directories or files [default: the directory where you are]
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
}

/// Create remote directories
#[derive(Debug, Args)]
pub struct Mkdir {
    /// The directories; their parent directories must exist
    #[arg(required = true, value_name = "DIR")]
    paths: Vec<String>,
}

/// Remove remote files or empty directories
#[derive(Debug, Args)]
pub struct Rm {
    /// The files and directories
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
}

/// Rename or move remote files and directories
///
/// If the last path is a directory, they go into it. Nothing is overwritten.
#[derive(Debug, Args)]
pub struct Mv {
    /// The files or directories
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    /// The new path, in the same folder
    #[arg(value_name = "NEW-PATH")]
    to: String,
}

/// Remove empty remote directories
#[derive(Debug, Args)]
pub struct Rmdir {
    /// The directories
    #[arg(required = true, value_name = "DIR")]
    paths: Vec<String>,
}

/// Show the type, size and time (UTC) of paths
#[derive(Debug, Args)]
pub struct Stat {
    /// The paths
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
}

/// Find remote files by name
#[derive(Debug, Args)]
pub struct Find {
    /// Where [default: the directory where you are], and the pattern, like *.jpg
    #[arg(required = true, num_args = 1..=2, value_name = "[PATH] PATTERN")]
    words: Vec<String>,
}

/// Show how many bytes still fit into the contact's folder
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Df {
    /// For people who are used to it: sizes are always shown as 1.2 GB
    #[arg(short, hide = true)]
    human: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Where [default: the directory where you are]
    #[arg(value_name = "PATH")]
    path: Option<String>,
}

/// Count the bytes of all files below a directory
#[derive(Debug, Args)]
pub struct Du {
    /// Where [default: the directory where you are]
    #[arg(value_name = "PATH")]
    path: Option<String>,
}

/// Draw a remote directory as a tree
#[derive(Debug, Args)]
pub struct Tree {
    /// Where [default: the directory where you are]
    #[arg(value_name = "PATH")]
    path: Option<String>,
}

impl Pwd {
    pub(super) fn run(&self, shell: &Shell) -> CommandResult {
        let here = format!("/{}", shell.directory.path());
        shell.say(printable(&here, 8_192));
        Ok(here.into())
    }
}

impl Cd {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let components = shell.directory.resolve(&pattern::literal(&self.path))?;
        let path = plain(&components)?;
        let found = Match { path, entry: None };
        let peer = shell.link.peer().await?;
        if !found.about(peer.stat(&found.path).await)?.is_dir {
            let shown = printable(&found.path, 300);
            return Err(Fault::usage(format!(
                "/{shown} is a file: cd goes to directories"
            )));
        }
        shell.directory = Directory::at(components);
        Ok(Value::Null)
    }
}

impl Ls {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let here = [".".to_owned()];
        let words = if self.paths.is_empty() {
            &here[..]
        } else {
            &self.paths
        };
        let mut objects = Vec::new();
        for word in words {
            let pattern = pattern::is_pattern(word);
            for found in shell.several(word).await? {
                let peer = shell.link.peer().await?;
                let before = match pattern {
                    true => shell.relative(&found.path),
                    false => String::new(),
                };
                let mut too_many = false;
                let columns = ls::Columns::new(self.long, self.human);
                let json = shell.json;
                let mut show = |entry: Entry| {
                    match json {
                        true if objects.len() < LISTED => {
                            objects.push(to_object(&ls::fields(&entry)));
                        }
                        true => {
                            too_many = true;
                            return Err(full().error);
                        }
                        false => output::line(ls::line(&entry, columns)),
                    }
                    Ok(())
                };
                let is_dir = found.entry.as_ref().is_none_or(|entry| entry.is_dir);
                let mut listed = Ok(());
                if let Some(entry) = &found.entry {
                    listed = show(Entry {
                        path: before.clone(),
                        ..entry.clone()
                    });
                }
                if listed.is_ok() && is_dir && (!pattern || self.recursive) {
                    let listing = found.about(peer.list(&found.path, self.recursive))?;
                    let all = ls::sorted(listing, |mut entry| {
                        if entry.path.is_empty() {
                            // A file itself has only the path that was asked for.
                            entry.path = pattern::literal(word);
                        } else if pattern {
                            entry.path = format!("{before}/{}", entry.path);
                        }
                        show(entry)
                    });
                    listed = all.await;
                }
                if too_many {
                    return Err(full());
                }
                found.about(listed)?;
            }
        }
        Ok(match shell.json {
            true => Value::Array(objects),
            false => Value::Null,
        })
    }
}

impl Shell {
    /// A path as seen from the current directory, if it is below that.
    fn relative(&self, path: &str) -> String {
        let here = match self.directory.path() {
            here if here.is_empty() => here,
            here => format!("{here}/"),
        };
        match path.strip_prefix(&here) {
            Some(below) => below.to_owned(),
            None => format!("/{path}"),
        }
    }

    fn did(&self, what: &str, found: &Match) {
        self.say(format_args!("{what} /{}", printable(&found.path, 8_192)));
    }
}

impl Mkdir {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let peer = shell.link.peer().await?;
        for word in &self.paths {
            let found = shell.one(word)?;
            found.about(peer.make_dir(&found.path).await)?;
            shell.did("made", &found);
        }
        Ok(Value::Null)
    }
}

impl Rm {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let all = shell.all(&self.paths).await?;
        let peer = shell.link.peer().await?;
        for found in all {
            if let Err(error) = peer.remove(&found.path).await {
                let error = denied(&peer, &found.path, "remove", error).await;
                let about = peer.stat(&found.path).await;
                let filled = error.code == Code::Failed && about.is_ok_and(|e| e.is_dir);
                return found
                    .about(Err(error))
                    .map_err(|fault| if filled { fault.with(409) } else { fault });
            }
            shell.did("removed", &found);
        }
        Ok(Value::Null)
    }
}

impl Rmdir {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let all = shell.all(&self.paths).await?;
        let peer = shell.link.peer().await?;
        for found in &all {
            if !found.about(peer.stat(&found.path).await)?.is_dir {
                let shown = printable(&found.path, 300);
                let sentence = format!("/{shown} is a file: remove it with rm");
                return Err(Fault::usage(sentence));
            }
        }
        let paths = self.paths.clone();
        Rm { paths }.run(shell).await
    }
}

impl Mv {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let all = shell.all(&self.paths).await?;
        let peer = shell.link.peer().await?;
        let to = shell.one(&self.to)?;
        let into = match peer.stat(&to.path).await {
            Ok(entry) => entry.is_dir,
            Err(error) if error.code == Code::NotFound => false,
            Err(error) => return to.about(Err(error)),
        };
        if !into && all.len() > 1 {
            let shown = printable(&to.path, 300);
            return Err(Fault::usage(format!(
                "several files need a directory, and /{shown} is not one"
            )));
        }
        for found in all {
            let path = match into {
                true => format!("{}/{}", to.path, last(&found.path)),
                false => to.path.clone(),
            };
            if let Err((is_target, error)) = rename(&peer, &found.path, &path).await {
                let wrong = Match { path, entry: None };
                return if is_target { &wrong } else { &found }.about(Err(error));
            }
            shell.say(format_args!(
                "moved /{} to /{}",
                printable(&found.path, 8_192),
                printable(&path, 8_192)
            ));
        }
        Ok(Value::Null)
    }
}

impl Stat {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let mut objects = Vec::new();
        for found in shell.all(&self.paths).await? {
            let peer = shell.link.peer().await?;
            let mut entry = found.about(peer.stat(&found.path).await)?;
            entry.path = format!("/{}", found.path);
            let path = printable(&entry.path, 8_192);
            match entry.is_dir {
                true => shell.say(format_args!("{path}: directory, changed {}", time(&entry))),
                false => shell.say(format_args!(
                    "{path}: file, {} bytes, changed {}",
                    output::count(entry.size),
                    time(&entry)
                )),
            }
            objects.push(to_object(&[
                ("path", entry.path.as_str().into()),
                ("type", if entry.is_dir { "dir" } else { "file" }.into()),
                ("size", entry.size.into()),
                ("modified", exact_time(&entry).into()),
            ]));
        }
        Ok(Value::Array(objects))
    }
}

impl Find {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let (path, pattern) = match self.words.as_slice() {
            [path, pattern] => (Some(path.clone()), pattern),
            [pattern] => (None, pattern),
            _ => return Err(Fault::usage("a pattern is missing: find [PATH] PATTERN")),
        };
        // People quote the pattern, as they must in other shells.
        let pattern = pattern::pattern(&pattern::literal(pattern))?;
        let mut all = shell.below(&path).await?;
        all.retain(|entry| pattern::matches(&pattern, last(&entry.path)));
        for entry in &all {
            shell.say(ls::line(entry, ls::Columns::Path));
        }
        let objects = all.iter().map(|entry| to_object(&ls::fields(entry)));
        Ok(Value::Array(objects.collect()))
    }
}

impl Df {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let found = shell.one(self.path.as_deref().unwrap_or("."))?;
        if found.path.is_empty() {
            let sentence = "name a folder, or go to one with cd: each may lie on another disk";
            return Err(Fault::usage(sentence));
        }
        let peer = shell.link.peer().await?;
        let room = found.about(peer.room(&found.path).await)?;
        shell.say(format_args!("{} free", output::bytes(room)));
        Ok(to_object(&[("free", room.into())]))
    }
}

impl Du {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let all = shell.below(&self.path).await?;
        let dirs = all.iter().filter(|entry| entry.is_dir).count() as u64;
        let files = all.len() as u64 - dirs;
        let sizes = all.iter().map(|entry| entry.size);
        let bytes = sizes.fold(0_u64, u64::saturating_add);
        shell.say(format_args!(
            "{} bytes, files: {}, directories: {}",
            output::count(bytes),
            output::count(files),
            output::count(dirs)
        ));
        Ok(to_object(&[
            ("bytes", bytes.into()),
            ("files", files.into()),
            ("dirs", dirs.into()),
        ]))
    }
}

impl Tree {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let all = shell.below(&self.path).await?;
        if !shell.json {
            draw(shell, &all);
        }
        let objects = all.iter().map(|entry| to_object(&ls::fields(entry)));
        Ok(Value::Array(objects.collect()))
    }
}

fn depth(entry: &Entry) -> usize {
    entry.path.matches('/').count()
}

/// Draws sorted entries, each directory before what is in it.
fn draw(shell: &Shell, all: &[Entry]) {
    // Going backwards, it is known whether another entry follows on a level.
    let mut more: Vec<bool> = Vec::new();
    let mut lines = Vec::new();
    for entry in all.iter().rev() {
        let deep = depth(entry);
        more.resize(deep + 1, false);
        let (here, above) = more
            .split_last_mut()
            .map_or((false, &[][..]), |(h, a)| (std::mem::replace(h, true), &*a));
        let mut line = String::new();
        for more in above {
            line.push_str(if *more { "│   " } else { "    " });
        }
        line.push_str(if here { "├── " } else { "└── " });
        line.push_str(&printable(last(&entry.path), 8_192));
        if entry.is_dir {
            line.push('/');
        }
        lines.push(line);
    }
    lines.iter().rev().for_each(|line| shell.say(line));
}
