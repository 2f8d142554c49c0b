//! Uploads files to a contact: [`upload`] is what the command and the shell share.

pub mod upload;
mod walk;

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use clap_complete::ArgValueCompleter;

use self::upload::{Target, Upload};
use super::{
    Failure,
    completion::places,
    conflict::OnConflict,
    limit::Limit,
    progress::Progress,
    remote::{Asker, Link, RemotePath},
    tally::Voice,
};
use crate::error::{Code, Error};

/// Upload files into a folder that a contact shares with you
///
/// The hooks of that folder examine each file and may reject it. Identical files are
/// skipped, and a broken upload resumes when you put the file again. A different file of
/// the same name stays, unless --conflict says otherwise. Modification times are kept.
/// ME:FOLDER, with your own name, is your own folder: hooks are not asked about that.
///
///   m2y put a.jpg roland-frei:photo/2026
///   m2y put a.jpg roland-frei:photo/2026/b.jpg
///   m2y put -r 2026 roland-frei:photo
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Put {
    #[command(flatten)]
    asker: Asker,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    limit: Limit,
    /// Hide progress: the bars on a terminal, the line every ten seconds elsewhere
    #[arg(long)]
    no_progress: bool,
    /// Print errors only
    #[arg(long, short)]
    quiet: bool,
    /// The files and directories
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The contact, and a directory, or the path for a single file
    #[arg(value_name = "PEER:PATH", add = ArgValueCompleter::new(places))]
    to: String,
}

/// What is put, and what is done about files that are there.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Upload directories with everything in them
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    conflict: OnConflict,
}

impl Options {
    /// Whether there may be more than one file.
    pub fn is_several(&self, named: usize) -> bool {
        named > 1 || self.recursive
    }
}

impl Put {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let only = match self.files.as_slice() {
            [only] => Some(only.display().to_string()),
            _ => None,
        };
        self.put(json).await.map_err(|failure| match only {
            Some(file) => failure.about(file),
            None => failure,
        })
    }

    async fn put(self, json: bool) -> Result<(), Failure> {
        let place = RemotePath::parse(&self.to).map_err(|e| Error::new(Code::Usage, e))?;
        let owner = self.asker.owner(&place.peer)?.paced(self.limit.pace());
        let is_own = owner.is_own();
        let target = Target::new(place.path()?, self.to.ends_with('/'));
        let progress = Arc::new(Progress::default());
        if !self.no_progress && !self.quiet && !json {
            progress.begin(self.options.is_several(self.files.len()));
        }
        let voice = Voice::new(json, self.quiet);
        let mut link = Link::new(owner, progress.clone(), false);
        let upload = Upload::new(self.options, progress.clone(), voice);
        let all = upload.run(&mut link, &self.files, target);
        let advice = match is_own {
            true => "files that were stored so far are kept: run the command again for the rest",
            false => "what was uploaded so far is kept: run the command again to resume",
        };
        let result = progress.watch(all, advice).await;
        progress.end();
        let (ended, _) = upload.end();
        result?;
        Ok(ended?)
    }
}
