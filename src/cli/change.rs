//! `m2y mkdir`, `m2y rm`, `m2y mv`: changes to the files of a contact, or to one's own.

use std::collections::HashMap;

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::{
    Failure,
    completion::places,
    output,
    pattern::{expand, is_pattern, itself},
    remote::{Asker, RemotePath, about, denied, rename},
};
use crate::{
    client::peer::Peer,
    error::{Code, Error, printable},
    json::Value,
};

/// The most files and directories that are removed along with the directory that they are in: their
/// paths are held in memory.
const MAX_INSIDE: usize = 100_000;

/// Create directories in a folder that a contact shares with you
///
/// ME:FOLDER, with your own name, is your own folder.
#[derive(Debug, Args)]
pub struct Mkdir {
    #[command(flatten)]
    asker: Asker,
    /// Create missing parent directories too, and accept a directory that exists
    #[arg(short, long)]
    parents: bool,
    /// The directories
    #[arg(required = true, value_name = "PEER:PATH", value_parser = RemotePath::parse, add = ArgValueCompleter::new(places))]
    places: Vec<RemotePath>,
}

/// Remove files or empty directories in a folder that a contact shares with you
///
/// ME:FOLDER, with your own name, is your own folder.
#[derive(Debug, Args)]
pub struct Rm {
    #[command(flatten)]
    asker: Asker,
    /// Remove directories with everything in them
    #[arg(short, long)]
    recursive: bool,
    /// The files and directories, or patterns with * or ? in quotes, like
    /// 'roland-frei:photo/*.tmp'
    #[arg(required = true, value_name = "PEER:PATH", value_parser = RemotePath::parse, add = ArgValueCompleter::new(places))]
    places: Vec<RemotePath>,
}

/// Rename or move a file or directory within a folder that a contact shares with you
///
/// Nothing is overwritten: the new path must be free. ME:FOLDER, with your own name, is your own
/// folder.
#[derive(Debug, Args)]
pub struct Mv {
    #[command(flatten)]
    asker: Asker,
    /// The file or directory
    #[arg(value_name = "PEER:PATH", value_parser = RemotePath::parse, add = ArgValueCompleter::new(places))]
    place: RemotePath,
    /// The new path, or a directory, in the same folder: like the old path, it begins with the
    /// name of the folder
    #[arg(value_name = "NEW-PATH")]
    to: String,
}

fn done(what: &str, place: &RemotePath, json: bool) {
    let path = place.shown();
    match json {
        true => output::object(&[("status", what.into()), ("path", Value::from(path))]),
        false => output::line(format_args!("{what} {}", printable(&path, 8_192))),
    }
}

/// Changes one place after the other; a failure at one does not keep the others from being changed.
struct Changes<'a> {
    asker: &'a Asker,
    /// The sessions, by contact name.
    peers: HashMap<String, Peer>,
    json: bool,
    is_only: bool,
    done: u64,
    failed: Vec<(Error, String)>,
}

impl<'a> Changes<'a> {
    fn new(asker: &'a Asker, places: &[RemotePath], json: bool) -> Self {
        Self {
            asker,
            peers: HashMap::new(),
            json,
            is_only: places.len() == 1,
            done: 0,
            failed: Vec::new(),
        }
    }

    async fn peer(&mut self, name: &str) -> Result<Peer, Error> {
        if let Some(peer) = self.peers.get(name)
            && !peer.is_over()
        {
            return Ok(peer.clone());
        }
        let peer = self.asker.connect(name).await?;
        self.peers.insert(name.to_owned(), peer.clone());
        Ok(peer)
    }

    /// The places that a pattern matches.
    async fn matching(&mut self, place: &RemotePath) -> Result<Vec<RemotePath>, Error> {
        let peer = self.peer(&place.peer).await?;
        expand(&peer, place).await
    }

    /// Records the outcome at a place.
    fn took(&mut self, what: &str, place: &RemotePath, result: Result<(), Error>) {
        match result {
            Ok(()) => {
                self.done += 1;
                done(what, place, self.json);
            }
            Err(error) => {
                let error = about(place, error);
                if !self.is_only {
                    failed(&error, place, self.json);
                }
                self.failed.push((error, place.shown()));
            }
        }
    }

    fn end(self) -> Result<(), Failure> {
        let count = self.failed.len();
        let Some(first) = self.failed.into_iter().next() else {
            return Ok(());
        };
        if self.is_only {
            let (error, place) = first;
            return Err(Failure::from(error).about(place));
        }
        let code = match self.done {
            0 => first.0.code,
            _ => Code::Partly,
        };
        let sentence = format!("{count} of {} failed", self.done + count as u64);
        Err(Failure::told(Error::new(code, sentence)))
    }
}

fn failed(error: &Error, place: &RemotePath, json: bool) {
    match json {
        true => output::object(&[
            ("status", "error".into()),
            ("path", place.shown().into()),
            ("file", place.shown().into()),
            ("code", error.code.word().into()),
            ("error", error.sentence.as_str().into()),
        ]),
        false => eprintln!("m2y: {}", printable(&error.sentence, 8_192)),
    }
}

impl Mkdir {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let mut changes = Changes::new(&self.asker, &self.places, json);
        for place in &self.places {
            let made = self.make(&mut changes, place).await;
            changes.took("made", place, made);
        }
        changes.end()
    }

    async fn make(&self, changes: &mut Changes<'_>, place: &RemotePath) -> Result<(), Error> {
        let path = place.path()?;
        let peer = changes.peer(&place.peer).await?;
        if !self.parents {
            return peer.make_dir(path).await;
        }
        if !path.contains('/') {
            return match peer.stat(path).await?.is_dir {
                true => Ok(()),
                false => Err(Error::new(Code::Exists, "is a file")),
            };
        }
        // The first component is the folder, which only its owner can create.
        let ends = path.match_indices('/').map(|(end, _)| end).skip(1);
        for end in ends.chain([path.len()]) {
            let parent = path.get(..end).unwrap_or(path);
            match peer.make_dir(parent).await {
                Err(error) if error.code == Code::Exists => {
                    if !peer.stat(parent).await?.is_dir {
                        return Err(error);
                    }
                }
                made => made?,
            }
        }
        Ok(())
    }
}

impl Rm {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let mut changes = Changes::new(&self.asker, &self.places, json);
        for place in &self.places {
            let matching = match is_pattern(&place.path) {
                // Brackets alone may well be part of the name, and what is removed is gone.
                true if place.path.contains(['*', '?']) => changes.matching(place).await,
                true => Ok(vec![place.clone()]),
                false => Ok(vec![itself(place)]),
            };
            let places = match matching {
                Ok(places) => places,
                Err(error) => {
                    changes.took("removed", place, Err(error));
                    continue;
                }
            };
            changes.is_only &= places.len() == 1;
            for place in &places {
                let removed = self.remove(&mut changes, place).await;
                changes.took("removed", place, removed);
            }
        }
        changes.end()
    }

    async fn remove(&self, changes: &mut Changes<'_>, place: &RemotePath) -> Result<(), Error> {
        let path = place.path()?;
        let peer = changes.peer(&place.peer).await?;
        if self.recursive && peer.stat(path).await?.is_dir {
            if !path.contains('/') {
                let sentence = match peer.is_own() {
                    true => "a folder itself stays: name what is in it",
                    false => "only its owner removes a folder",
                };
                return Err(Error::new(Code::Refused, sentence));
            }
            let mut inside = Vec::new();
            let mut listing = peer.list(path, true)?;
            while let Some(entries) = listing.next().await {
                inside.extend(entries?.into_iter().map(|entry| entry.path));
                if inside.len() > MAX_INSIDE {
                    let sentence = format!(
                        "has more than {MAX_INSIDE} files and directories: remove its directories one by one"
                    );
                    return Err(Error::new(Code::Failed, sentence));
                }
            }
            // The contents of a directory come before the directory.
            inside.sort_unstable_by(|a, b| b.cmp(a));
            let mut first = None;
            for inside in inside {
                let inside = format!("{path}/{inside}");
                if let Err(error) = peer.remove(&inside).await
                    && first.is_none()
                {
                    first = Some(denied(&peer, &inside, "remove", error).await);
                }
            }
            if let Some(first) = first {
                return Err(first);
            }
        }
        match peer.remove(path).await {
            Err(error) => Err(denied(&peer, path, "remove", error).await),
            removed => removed,
        }
    }
}

impl Mv {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let file = self.place.shown();
        let moved = self.rename(json).await;
        moved.map_err(|error| Failure::from(error).about(file))
    }

    async fn rename(self, json: bool) -> Result<(), Error> {
        // People write the contact in front of the new path too.
        let to = match RemotePath::parse(&self.to) {
            Ok(to) if self.to.contains(':') && to.peer != self.place.peer => {
                let sentence = "both paths must be of the same contact";
                return Err(Error::new(Code::Usage, sentence));
            }
            Ok(to) if self.to.contains(':') => to.path,
            _ => self.to.clone(),
        };
        let peer = self.asker.connect(&self.place.peer).await?;
        let from = self.place.path()?;
        let to = self.in_directory(&peer, from, to).await?;
        if let Err((is_target, error)) = rename(&peer, from, &to).await {
            let place = match is_target {
                true => RemotePath {
                    path: to,
                    ..self.place
                },
                false => self.place,
            };
            return Err(about(&place, error));
        }
        let from = self.place.shown();
        match json {
            true => output::object(&[
                ("status", "moved".into()),
                ("path", from.into()),
                ("to", to.into()),
            ]),
            false => output::line(format_args!(
                "moved {} to {}",
                printable(&from, 8_192),
                printable(&to, 8_192)
            )),
        }
        Ok(())
    }

    /// The new path; where that is a directory, the path in it, as `mv` has it everywhere.
    async fn in_directory(&self, peer: &Peer, from: &str, to: String) -> Result<String, Error> {
        let is_dir = to.ends_with('/') || peer.stat(&to).await.is_ok_and(|entry| entry.is_dir);
        let to = to.trim_matches('/');
        Ok(match is_dir && to != from {
            true => format!("{to}/{}", from.rsplit('/').next().unwrap_or(from)),
            false => to.to_owned(),
        })
    }
}
