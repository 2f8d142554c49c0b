//! What Tab offers: commands, the contact's names, local names.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustyline::{
    Context, Helper,
    completion::{Completer, Pair},
    highlight::Highlighter,
    hint::Hinter,
    validate::Validator,
};
use tokio::{runtime::Handle, time::timeout};

use super::{
    command::{self, Names},
    paths::{Directory, plain},
    words,
};
use crate::{client::peer::Peer, error::printable};

/// How long a person waits for names from the contact's server.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many names of one directory are looked at.
const NAMES: usize = 10_000;

/// A name, and whether it is that of a directory.
type Name = (String, bool);

/// What the shell lets the editor see between two commands.
#[derive(Default)]
pub struct Sight(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    peer: Option<Peer>,
    directory: Directory,
    /// Names in the contact's directories, until the next command.
    names: HashMap<String, Arc<Vec<Name>>>,
}

impl Sight {
    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the state after a command.
    pub fn set(&self, peer: Option<Peer>, directory: &Directory) {
        self.seen(|seen| {
            *seen = Seen {
                peer,
                directory: directory.clone(),
                names: HashMap::new(),
            }
        });
    }
}

/// Completes the words of a line.
pub struct Completion {
    sight: Arc<Sight>,
    runtime: Handle,
}

impl Completion {
    /// For use on a thread outside the runtime.
    pub fn new(sight: Arc<Sight>, runtime: Handle) -> Self {
        Self { sight, runtime }
    }

    fn there(&self, dir: &str) -> Arc<Vec<Name>> {
        let (peer, path, known) = self.sight.seen(|seen| {
            let path = seen.directory.resolve(dir).and_then(|path| plain(&path));
            let known = path.as_ref().ok().and_then(|path| seen.names.get(path));
            (
                seen.peer.clone(),
                path.as_ref().ok().cloned(),
                known.cloned(),
            )
        });
        if let Some(known) = known {
            return known;
        }
        let (Some(peer), Some(path)) = (peer, path) else {
            return Arc::default();
        };
        let mut names = Vec::new();
        let asked = async {
            let mut listing = peer.list(&path, false)?;
            while let Some(entries) = listing.next().await {
                names.extend(entries?.into_iter().map(|entry| (entry.path, entry.is_dir)));
                if names.len() > NAMES {
                    break;
                }
            }
            Ok::<_, crate::error::Error>(())
        };
        // If it takes too long, what has arrived is offered.
        let _ = self
            .runtime
            .block_on(async { timeout(PATIENCE, asked).await });
        let names = Arc::new(names);
        self.sight
            .seen(|seen| seen.names.insert(path, names.clone()));
        names
    }

    fn here(dir: &str) -> Arc<Vec<Name>> {
        let dir = if dir.is_empty() { "." } else { dir };
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.take(NAMES).filter_map(|entry| {
            let is_dir = fs::metadata(entry.path()).is_ok_and(|about| about.is_dir());
            Some((entry.file_name().into_string().ok()?, is_dir))
        });
        Arc::new(names.collect())
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let line = line.get(..pos).unwrap_or(line);
        let (before, at, word) = words::unfinished(line);
        let names = before
            .first()
            .map_or(Names::Commands, |c| command::names(c));
        let (dir, name) = match word.rfind('/') {
            Some(slash) => word.split_at(slash + 1),
            None => ("", word.as_str()),
        };
        let found = match names {
            Names::Commands => {
                let names = command::all().into_iter().map(|name| (name, false));
                Arc::new(names.collect())
            }
            Names::Remote => self.there(dir),
            Names::Local => Self::here(dir),
            Names::None => Arc::default(),
        };
        let fits = |(found, _): &&Name| {
            let hidden = found.starts_with('.') && !name.starts_with('.');
            // A name that could control the terminal is not offered.
            found.starts_with(name) && !hidden && printable(found, usize::MAX) == *found
        };
        let mut pairs: Vec<Pair> = found
            .iter()
            .filter(fits)
            .map(|(found, is_dir)| {
                let slash = if *is_dir { "/" } else { "" };
                let whole = format!("{dir}{found}{slash}");
                let end = if *is_dir { "" } else { " " };
                Pair {
                    display: format!("{found}{slash}"),
                    replacement: format!("{}{end}", shell_words::quote(&whole)),
                }
            })
            .collect();
        pairs.sort_by(|a, b| a.display.cmp(&b.display));
        Ok((at, pairs))
    }
}

impl Hinter for Completion {
    type Hint = String;
}
impl Highlighter for Completion {}
impl Validator for Completion {}
impl Helper for Completion {}
