//! What there is to send: the named files, and those in directories.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, FileType},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    vec,
};

use crate::{error::Error, journal::outgoing::Outgoing};

/// What kind of files they are.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `.meta` and `.failed`.
    Metas,
    /// Any files; this directory is the one that may hold `.meta` files of m2y's own.
    Files(PathBuf),
}

/// One file.
#[derive(Debug)]
pub struct Item {
    /// Where it is.
    pub path: PathBuf,
    /// Its path within the named directory, whose own name comes first.
    pub within: Option<PathBuf>,
    /// The user whose outbox it was found in, if any.
    pub owner: Option<Arc<str>>,
    /// The failed attempt, if that is why it is sent.
    pub failed: Option<Box<Outgoing>>,
}

/// All files in order, found one after the other: only the directories that lead to the current
/// file are in memory.
pub struct Plan {
    named: vec::IntoIter<PathBuf>,
    failed: vec::IntoIter<Outgoing>,
    kind: Kind,
    recursive: bool,
    levels: Vec<Level>,
    /// Links, pipes and the like that were found in directories.
    pub passed_over: u64,
}

/// A directory that is being read.
struct Level {
    path: PathBuf,
    within: PathBuf,
    entries: vec::IntoIter<(OsString, FileType)>,
    /// The names of all its entries.
    names: HashSet<OsString>,
    /// Whether m2y has documents of its own there.
    is_own: bool,
    owner: Option<Arc<str>>,
}

impl Plan {
    /// The files that the command line names.
    pub fn new(named: &[PathBuf], kind: Kind, recursive: bool) -> Self {
        Self {
            named: Vec::from(named).into_iter(),
            failed: Vec::new().into_iter(),
            kind,
            recursive,
            levels: Vec::new(),
            passed_over: 0,
        }
    }

    /// The files of failed attempts.
    pub fn of_failed(failed: Vec<Outgoing>) -> Self {
        Self {
            failed: failed.into_iter(),
            ..Self::new(&[], Kind::Metas, false)
        }
    }

    /// Whether this is a directory that stands for its files.
    pub fn is_directory(path: &Path, kind: &Kind, recursive: bool) -> bool {
        let document = |path: &Path| path.extension().is_some_and(is_to_be_sent);
        let may_be = recursive || matches!(kind, Kind::Metas) && !document(path);
        may_be && fs::metadata(path).is_ok_and(|about| about.is_dir())
    }

    fn enter(&mut self, path: PathBuf, within: PathBuf) -> Result<(), (PathBuf, Error)> {
        let read = || -> io::Result<Vec<(OsString, FileType)>> {
            fs::read_dir(&path)?
                .map(|entry| {
                    let entry = entry?;
                    Ok((entry.file_name(), entry.file_type()?))
                })
                .collect()
        };
        let mut entries = match read() {
            Ok(entries) => entries,
            Err(e) => {
                let error = Error::io("read", &path, &e);
                return Err((path, error));
            }
        };
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        let full = path.canonicalize().ok();
        let (names, is_own, owner) = match &self.kind {
            Kind::Metas => {
                let names = entries.iter().map(|(name, _)| name.clone()).collect();
                (names, true, full.as_deref().and_then(owner))
            }
            Kind::Files(outbox) => {
                let is_folder = entries.iter().any(|(name, _)| name == "m2y.config");
                let is_outbox = full.is_some() && full == outbox.canonicalize().ok();
                (HashSet::new(), is_folder || is_outbox, None)
            }
        };
        self.levels.push(Level {
            path,
            within,
            entries: entries.into_iter(),
            names,
            is_own,
            owner,
        });
        Ok(())
    }

    /// What becomes of an entry of the current directory.
    fn entry(&mut self, name: &OsString, kind: FileType) -> Option<Result<Item, (PathBuf, Error)>> {
        let level = self.levels.last()?;
        let (path, within) = (level.path.join(name), level.within.join(name));
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        let ending = path.extension();
        let is_metas = matches!(self.kind, Kind::Metas);
        if kind.is_dir() {
            let wanted = self.recursive && !(level.is_own && is_hidden);
            return match wanted {
                true => self.enter(path, within).err().map(Err),
                false => None,
            };
        }
        if !kind.is_file() {
            self.passed_over += u64::from(!is_metas);
            return None;
        }
        let is_wanted = match is_metas {
            // One with a .data file beside it came from somebody else.
            true => {
                let data = Path::new(name).with_extension("data");
                ending.is_some_and(|ending| ending == "meta")
                    && !is_hidden
                    && !level.names.contains(data.as_os_str())
            }
            false => {
                let document = ending.is_some_and(|e| is_to_be_sent(e) || e == "done");
                !(level.is_own && (is_hidden || document))
            }
        };
        is_wanted.then(|| {
            Ok(Item {
                path,
                within: (!is_metas).then_some(within),
                owner: level.owner.clone(),
                failed: None,
            })
        })
    }
}

impl Iterator for Plan {
    type Item = Result<Item, (PathBuf, Error)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(level) = self.levels.last_mut() {
                match level.entries.next() {
                    Some((name, kind)) => match self.entry(&name, kind) {
                        Some(found) => return Some(found),
                        None => continue,
                    },
                    None => {
                        self.levels.pop();
                        continue;
                    }
                }
            }
            if let Some(failed) = self.failed.next() {
                let path = &failed.what.path;
                return Some(Ok(Item {
                    path: failed.what.source.clone().into(),
                    within: (!path.is_empty()).then(|| path.into()),
                    owner: None,
                    failed: Some(Box::new(failed)),
                }));
            }
            let path = self.named.next()?;
            if !Self::is_directory(&path, &self.kind, self.recursive) {
                return Some(Ok(Item {
                    path,
                    within: None,
                    owner: None,
                    failed: None,
                }));
            }
            // `.` and `..` have no name of their own that could come first.
            let within = path.file_name().map(PathBuf::from).unwrap_or_default();
            if let Err(error) = self.enter(path, within) {
                return Some(Err(error));
            }
        }
    }
}

fn is_to_be_sent(ending: &std::ffi::OsStr) -> bool {
    ending == "meta" || ending == "failed"
}

/// The user whose outbox a directory is: `ROOT/user/NAME/FOLDER`.
fn owner(full: &Path) -> Option<Arc<str>> {
    let user = full.parent()?;
    let is_user = user.parent()?.file_name()? == "user";
    is_user.then(|| user.file_name()?.to_str().map(Arc::from))?
}
