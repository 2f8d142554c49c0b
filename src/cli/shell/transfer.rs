//! Commands that transfer files, in both directions.

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{CommandResult, Fault, Shell, local};
use crate::{
    cli::{
        get::{self, fetch::Fetch},
        output, pattern,
        progress::Progress,
        put::{
            self,
            upload::{Target, Upload},
        },
        remote::RemotePath,
        tally::Voice,
    },
    crypto::random,
    error::{Code, Error, printable},
    json::Value,
};

/// Fetch a file, or all that a pattern matches
///
/// A broken download resumes when you fetch the file again. Identical files are skipped.
/// `mget` fetches several files.
#[derive(Debug, Args)]
pub struct Get {
    #[command(flatten)]
    options: get::Options,
    /// The file or pattern
    #[arg(value_name = "FILE")]
    path: String,
    /// The local name or directory [default: the same name, in the local directory]
    #[arg(value_name = "LOCAL")]
    local: Option<String>,
}

/// Fetch several files into the local directory
#[derive(Debug, Args)]
pub struct Mget {
    #[command(flatten)]
    options: get::Options,
    /// The files
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<String>,
}

/// Print remote files
#[derive(Debug, Args)]
pub struct Cat {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<String>,
}

/// Upload local files into the remote directory
///
/// The contact's hooks examine each file and may reject it. A broken upload resumes when you
/// put the file again. Identical files are skipped.
#[derive(Debug, Args)]
pub struct Put {
    #[command(flatten)]
    options: put::Options,
    /// A different directory, or the path of a single file
    #[arg(long, value_name = "PATH")]
    to: Option<String>,
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
}

impl Get {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let paths = shell.all_paths(std::slice::from_ref(&self.path)).await?;
        let options = self.options.clone();
        let Some(local) = &self.local else {
            return fetch(shell, paths, options, Path::new(".")).await;
        };
        let local = pattern::literal(local);
        let path = Path::new(&local);
        if local.ends_with('/') || path.is_dir() {
            return fetch(shell, paths, options, path).await;
        }
        if paths.len() > 1 {
            let sentence = format!("several files need a directory, and {local} is not one");
            return Err(Fault::usage(sentence));
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Fault::usage(format!("{local} cannot be a file name")))?;
        let options = options.under(name.to_owned());
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        fetch(shell, paths, options, parent.unwrap_or(Path::new("."))).await
    }
}

impl Mget {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let paths = shell.all_paths(&self.paths).await?;
        fetch(shell, paths, self.options.clone(), Path::new(".")).await
    }
}

/// Makes text from a contact safe to print: control characters are replaced, so that they cannot
/// move the cursor or set colours. It always ends with a newline, because the next prompt clears
/// its line.
fn for_terminal(bytes: &[u8]) -> String {
    let shown = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    let text = String::from_utf8_lossy(bytes);
    let mut text: String = text.chars().map(shown).collect();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// The largest file that `cat` shows, in bytes.
const SHOWN: u64 = 16 << 20;

impl Cat {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let paths = shell.all_paths(&self.paths).await?;
        let failed = |e: io::Error| Fault::from(Error::io("use", &env::temp_dir(), &e));
        let mut texts = Vec::new();
        for path in paths {
            let shown = format!("/{}", printable(&path, 300));
            let entry = shell.link.peer().await?.stat(&path).await;
            let entry = entry.map_err(|error| Fault::from(error.within(&shown)))?;
            if entry.is_dir {
                return Err(Fault::usage(format!("{shown} is a directory")));
            }
            if entry.size > SHOWN {
                let sentence = format!("{shown} has more than 16 MiB: fetch it with get");
                return Err(Fault::usage(sentence));
            }
            let dir = Temporary::new().map_err(failed)?;
            let options = get::Options::default().under("contents".to_owned());
            let mut fetch = Fetch::new(
                options,
                &dir.0,
                shell.progress.clone(),
                Voice::Kept(Vec::new()),
            )?;
            let place = RemotePath {
                peer: shell.name.clone(),
                path,
            };
            let fetched = fetch.places(&mut shell.link, &[&place], true).await;
            outcome(shell, true, fetched, fetch.end())?;
            let bytes = fs::read(dir.0.join("contents")).map_err(failed)?;
            match shell.json {
                true => texts.push(String::from_utf8_lossy(&bytes).into_owned().into()),
                false if shell.person => output::text(&for_terminal(&bytes)),
                false => output::bytes_of_file(&bytes),
            }
        }
        Ok(Value::Array(texts))
    }
}

/// A directory that is removed when this is dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> io::Result<Self> {
        let number: [u8; 8] = random().map_err(io::Error::other)?;
        let path = env::temp_dir().join(format!("m2y-cat-{}", hex::encode(number)));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Fetches files into a local directory.
async fn fetch(
    shell: &mut Shell,
    paths: Vec<String>,
    options: get::Options,
    output: &Path,
) -> CommandResult {
    let place = |path: String| RemotePath {
        peer: shell.name.clone(),
        path,
    };
    let places: Vec<RemotePath> = paths.into_iter().map(place).collect();
    let only = places.len() == 1;
    let progress = shell.progress.clone();
    let several = options.is_several(places.len());
    let mut fetch = Fetch::new(options, output, progress.clone(), voice(shell))?;
    begin(shell, several);
    let places: Vec<&RemotePath> = places.iter().collect();
    let fetched = fetch.places(&mut shell.link, &places, only).await;
    progress.end();
    outcome(shell, only, fetched, fetch.end())
}

impl Put {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let mut files = Vec::new();
        for word in &self.files {
            files.extend(local::expand(word)?);
        }
        let to = self.to.as_deref().unwrap_or(".");
        let path = shell.path(to)?;
        if path.is_empty() {
            let sentence = "files lie in folders: go to one with cd first, or name one with --to";
            return Err(Fault::usage(sentence));
        }
        let is_dir = self.to.is_none() || pattern::literal(to).ends_with('/');
        let several = self.options.is_several(files.len());
        let (progress, only) = (shell.progress.clone(), !several);
        let upload = Upload::new(self.options.clone(), progress.clone(), voice(shell));
        begin(shell, several);
        let put = upload.run(&mut shell.link, &files, Target::new(&path, is_dir));
        let put = put.await;
        progress.end();
        outcome(shell, only, put, upload.end())
    }
}

/// Who is told what becomes of files.
fn voice(shell: &Shell) -> Voice {
    match shell.json {
        true => Voice::Kept(Vec::new()),
        false => Voice::Lines,
    }
}

/// From now on, shows a person the progress.
fn begin(shell: &Shell, several: bool) {
    if shell.person && !shell.json {
        Progress::begin(&shell.progress, several);
    }
}

/// The result of it all.
fn outcome(
    shell: &Shell,
    only: bool,
    done: Result<(), Error>,
    (ended, kept): (Result<(), Error>, Vec<Value>),
) -> CommandResult {
    done?;
    let reason = kept.iter().find_map(|object| {
        let reason = object.get("error").and_then(Value::as_str);
        reason.map(str::to_owned)
    });
    let content = match shell.json {
        true => Value::Array(kept),
        false => Value::Null,
    };
    let Err(error) = ended else {
        return Ok(content);
    };
    let fault = Fault::from(match reason {
        // Programs look at the status first.
        Some(reason) if only && error.code != Code::Partly => Error::new(error.code, reason),
        _ => error,
    });
    Err(fault.holding(content))
}
