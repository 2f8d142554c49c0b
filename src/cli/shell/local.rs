//! Commands about local files.

use std::{env, fs, io, path::Path, path::PathBuf, process::Stdio};

use clap::Args;
use jiff::Timestamp;
use tokio::process::Command;

use super::{CommandResult, Fault, LISTED, Shell, full, remote::to_object};
use crate::{
    cli::{
        ls,
        pattern::{is_pattern, literal, no_match},
    },
    error::{Code, Error, printable},
    json::{Map, Value},
    wire::request::Entry,
};

/// How much of a command's output is kept for a program, in bytes.
const KEPT: usize = 1 << 20;

/// Print the local directory
#[derive(Debug, Args)]
pub struct Lpwd {}

/// Change the local directory; without a path, to your home
#[derive(Debug, Args)]
pub struct Lcd {
    /// Where to
    #[arg(value_name = "DIR")]
    dir: Option<String>,
}

/// List local files and directories
#[derive(Debug, Args)]
pub struct Lls {
    /// Show size and time (UTC) too
    #[arg(short, long)]
    long: bool,
    /// The directories and files
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
}

/// Create local directories
#[derive(Debug, Args)]
pub struct Lmkdir {
    /// The directories
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<String>,
}

/// The fault for an error from the system.
fn failed(action: &str, path: &Path, error: &io::Error) -> Fault {
    let fault = Fault::from(Error::io(action, path, error));
    match error.kind() {
        io::ErrorKind::AlreadyExists => fault.with(409),
        io::ErrorKind::PermissionDenied => fault.with(403),
        _ => fault,
    }
}

impl Lpwd {
    pub(super) fn run(&self, shell: &Shell) -> CommandResult {
        let here = env::current_dir();
        let here = here.map_err(|e| failed("see", Path::new("the directory"), &e))?;
        let here = here.display().to_string();
        shell.say(printable(&here, 8_192));
        Ok(here.into())
    }
}

impl Lcd {
    pub(super) fn run(&self) -> CommandResult {
        let home = || env::var("HOME").map_err(|_| Fault::usage("say where to: lcd DIR"));
        let dir = match &self.dir {
            Some(dir) => literal(dir),
            None => home()?,
        };
        env::set_current_dir(&dir).map_err(|e| failed("go to", Path::new(&dir), &e))?;
        Ok(Value::Null)
    }
}

fn entry(path: &Path, shown: String) -> io::Result<Entry> {
    // A link that leads nowhere exists all the same.
    let about = fs::metadata(path).or_else(|_| fs::symlink_metadata(path))?;
    let modified = about.modified().ok();
    let modified = modified.and_then(|time| Timestamp::try_from(time).ok());
    let nanos = modified.and_then(|time| i64::try_from(time.as_nanosecond()).ok());
    Ok(Entry {
        path: shown,
        is_dir: about.is_dir(),
        size: if about.is_dir() { 0 } else { about.len() },
        modified: nanos.unwrap_or_default(),
    })
}

impl Lls {
    pub(super) fn run(&self, shell: &Shell) -> CommandResult {
        let mut found: Vec<Entry> = Vec::new();
        let here = [".".to_owned()];
        let paths = if self.paths.is_empty() {
            &here[..]
        } else {
            &self.paths
        };
        for word in paths {
            let text = literal(word);
            let path = Path::new(&text);
            let whole: Vec<(PathBuf, String)> = if is_pattern(word) {
                let shown = |path: PathBuf| (path.clone(), path.display().to_string());
                expand(word)?.into_iter().map(shown).collect()
            } else if fs::metadata(path)
                .map_err(|e| failed("list", path, &e))?
                .is_dir()
            {
                let entries = fs::read_dir(path).map_err(|e| failed("list", path, &e))?;
                let shown = |entry: fs::DirEntry| {
                    (
                        entry.path(),
                        entry.file_name().to_string_lossy().into_owned(),
                    )
                };
                let mut all: Vec<_> = entries.flatten().map(shown).collect();
                all.retain(|(_, name)| !name.starts_with('.'));
                all
            } else {
                vec![(path.to_owned(), text.clone())]
            };
            if found.len() + whole.len() > LISTED {
                return Err(full());
            }
            // What vanishes meanwhile is skipped.
            let entries = whole
                .into_iter()
                .flat_map(|(path, shown)| entry(&path, shown));
            let begun = found.len();
            found.extend(entries);
            if let Some(new) = found.get_mut(begun..) {
                new.sort_by(|a, b| a.path.cmp(&b.path));
            }
        }
        for entry in &found {
            shell.say(ls::line(entry, ls::Columns::new(self.long, false)));
        }
        let objects = found.iter().map(|entry| to_object(&ls::fields(entry)));
        Ok(Value::Array(objects.collect()))
    }
}

/// The local paths that a word stands for: itself, or what its pattern matches.
pub fn expand(word: &str) -> Result<Vec<PathBuf>, Fault> {
    let text = literal(word);
    if !is_pattern(word) {
        return Ok(vec![text.into()]);
    }
    let all = glob::glob(word)
        .map_err(|e| Fault::usage(format!("the pattern cannot be read: {}", e.msg)))?;
    let all: Vec<PathBuf> = all.flatten().collect();
    match all.is_empty() {
        true => Err(no_match(&text).into()),
        false => Ok(all),
    }
}

impl Lmkdir {
    pub(super) fn run(&self, shell: &Shell) -> CommandResult {
        for dir in &self.dirs {
            let dir = literal(dir);
            fs::create_dir(&dir).map_err(|e| failed("make", Path::new(&dir), &e))?;
            shell.say(format_args!("made {}", printable(&dir, 8_192)));
        }
        Ok(Value::Null)
    }
}

/// Runs a local command of the system.
pub async fn run(text: &str, shell: &Shell) -> CommandResult {
    if text.trim().is_empty() {
        return Err(Fault::usage("a command is missing: write it behind the !"));
    }
    let program = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut command = Command::new(&program);
    command.arg("-c").arg(text);
    if !shell.person {
        // The lines of a batch are not the command's input.
        command.stdin(Stdio::null());
    }
    let at = |e: io::Error| failed("run", Path::new(&program), &e);
    let (status, content) = if shell.json {
        let done = command.output().await.map_err(at)?;
        let text = |bytes: &[u8]| {
            let kept = bytes.get(..KEPT).unwrap_or(bytes);
            Value::from(String::from_utf8_lossy(kept).into_owned())
        };
        let mut map = Map::new();
        map.insert("exit".to_owned(), done.status.code().into());
        map.insert("stdout".to_owned(), text(&done.stdout));
        map.insert("stderr".to_owned(), text(&done.stderr));
        (done.status, Value::Object(map))
    } else {
        (command.status().await.map_err(at)?, Value::Null)
    };
    match status.success() {
        true => Ok(content),
        false => {
            let sentence = format!("the command ended with {status}");
            Err(Error::new(Code::Failed, sentence).into())
        }
    }
}
