//! Commands that move files, both ways.

use std::path::Path;

use clap::Args;

use super::{CommandResult, Fault, Shell, local, words};
use crate::{
    cli::{
        get::{self, fetch::Fetch},
        progress::Progress,
        put::{
            self,
            upload::{Target, Upload},
        },
        remote::RemotePath,
        tally::Voice,
    },
    error::{Code, Error},
    json::Value,
};

/// Fetch files to the directory here
///
/// What breaks off goes on where it was when you fetch it again. A file that is here
/// already and is the same is not fetched.
#[derive(Debug, Args)]
pub struct Get {
    #[command(flatten)]
    options: get::Options,
    /// What is fetched
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<String>,
}

/// Put files from here into the directory at the contact's
///
/// The contact's hooks look at each, and may refuse it. What breaks off goes on where it
/// was when you put it again. A file that is there already and is the same is not sent.
#[derive(Debug, Args)]
pub struct Put {
    #[command(flatten)]
    options: put::Options,
    /// Another directory, or the path of the one file
    #[arg(long, value_name = "PATH")]
    to: Option<String>,
    /// What is put
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
}

impl Get {
    pub(super) async fn run(&self, shell: &mut Shell) -> CommandResult {
        let paths = shell.all_paths(&self.paths).await?;
        let place = |path: String| RemotePath {
            peer: shell.name.clone(),
            path,
        };
        let places: Vec<RemotePath> = paths.into_iter().map(place).collect();
        let only = places.len() == 1;
        let (options, progress) = (self.options.clone(), shell.progress.clone());
        let several = options.is_several(places.len());
        let mut fetch = Fetch::new(options, Path::new("."), progress.clone(), voice(shell))?;
        begin(shell, several);
        let places: Vec<&RemotePath> = places.iter().collect();
        let fetched = fetch.places(&mut shell.link, &places, only).await;
        progress.end();
        outcome(shell, only, fetched, fetch.end())
    }
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
        let is_dir = self.to.is_none() || words::literal(to).ends_with('/');
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

/// To whom it is said what becomes of files.
fn voice(shell: &Shell) -> Voice {
    match shell.json {
        true => Voice::Kept(Vec::new()),
        false => Voice::Lines,
    }
}

/// Shows a person how far it is from now on.
fn begin(shell: &Shell, several: bool) {
    if shell.person && !shell.json {
        Progress::begin(&shell.progress, several);
    }
}

/// What it all came to.
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
        // It is the status that programs look at first.
        Some(reason) if only && error.code != Code::Partly => Error::new(error.code, reason),
        _ => error,
    });
    Err(fault.holding(content))
}
