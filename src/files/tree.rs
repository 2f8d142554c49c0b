//! Files of a store that others may reach, by paths that a peer wrote.
//!
//! What others may not see, whatever is neither a file nor a directory, and a file that
//! `[OnReceived]` has not accepted yet do not exist for anybody.

use std::{io, sync::Arc};

use crate::{
    root::{
        folder::Folder,
        tree::{MAX_DEPTH, MAX_PATH, Shown, TreePath},
    },
    store::{ContentPath, Contents, Kind, Listing, Stat, Store, Target, placement::is_promised},
};

/// Whether `[OnReceived]` still has to accept the file of this name in the folder.
pub type IsPending = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What is in a store, as others may see it.
#[derive(Clone)]
pub struct Tree {
    store: Arc<dyn Store>,
    /// The folder whose documents speak of it, and which of its files nobody may have yet.
    folder: Option<(Folder, IsPending)>,
    shown: Shown,
}

impl Tree {
    /// What is in a store.
    pub fn new(store: Arc<dyn Store>, shown: Shown) -> Self {
        Self {
            store,
            folder: None,
            shown,
        }
    }

    /// What is in the store of a folder: `.meta` in it may promise names to files that are on their
    /// way.
    pub fn of_folder(
        folder: &Folder,
        store: Arc<dyn Store>,
        shown: Shown,
        is_pending: IsPending,
    ) -> Self {
        Self {
            folder: Some((folder.clone(), is_pending)),
            ..Self::new(store, shown)
        }
    }

    /// Whether `[OnReceived]` still has to accept a file of the folder itself: until then it has
    /// the name with which it arrived.
    fn is_pending(&self, name: &str) -> bool {
        let folder = self.folder.as_ref();
        name.ends_with(".data") && folder.is_some_and(|(_, is_pending)| is_pending(name))
    }

    fn is_pending_at(&self, path: &TreePath) -> bool {
        matches!(path.components(), [name] if self.is_pending(name))
    }

    /// The path in the store, if others may see it.
    fn at(&self, path: &TreePath) -> io::Result<ContentPath> {
        match self.shown.admits(path) && !self.is_pending_at(path) {
            true => ContentPath::try_from(path.clone()).map_err(|_| hidden()),
            false => Err(hidden()),
        }
    }

    /// What is at a path.
    pub fn stat(&self, path: &TreePath) -> io::Result<Stat> {
        let stat = self.store.stat(&self.at(path)?)?;
        stat.filter(|stat| stat.kind != Kind::Other)
            .ok_or_else(hidden)
    }

    /// Bytes that still fit.
    pub fn room(&self) -> io::Result<u64> {
        self.store.room()
    }

    /// What is at a path that a file may get; `None` if nothing is. Fails if no file may have it,
    /// with `AlreadyExists` if something is there that nobody sees.
    pub fn there(&self, path: &TreePath) -> io::Result<Option<Stat>> {
        if path.split_last().is_none() {
            return Err(hidden());
        }
        if self.shown.admits(path) && self.is_pending_at(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let path = self.at(path)?;
        self.store.takes(&path)?;
        match self.store.stat(&path)? {
            Some(stat) if stat.kind == Kind::Other => Err(io::ErrorKind::AlreadyExists.into()),
            stat => Ok(stat),
        }
    }

    /// Opens a file for reading.
    pub fn open(&self, path: &TreePath) -> io::Result<Box<dyn Contents>> {
        self.store.open(&self.at(path)?)
    }

    /// What is in a directory, and in its directories if `recursive`; each directory before what is
    /// in it.
    pub fn walk(&self, path: &TreePath, recursive: bool) -> io::Result<Walk> {
        let path = self.at(path)?;
        let level = Level {
            entries: self.store.list(&path)?,
            path,
            shown: String::new(),
        };
        Ok(Walk {
            tree: self.clone(),
            recursive,
            levels: vec![level],
        })
    }

    /// Makes a directory; fails with `AlreadyExists` if there is anything.
    pub fn make_dir(&self, path: &TreePath) -> io::Result<()> {
        let path = self.at(path)?;
        self.store.make_dir(&path)?;
        self.store.settle_names(&[path])
    }

    /// Removes a file or an empty directory.
    pub fn remove(&self, path: &TreePath) -> io::Result<()> {
        let path = self.at(path)?;
        self.store.remove(&path)?;
        self.store.settle_names(&[path])
    }

    /// Moves a file or directory; fails with `AlreadyExists` if the new path is taken.
    pub fn rename(&self, path: &TreePath, to: &TreePath) -> io::Result<()> {
        let (path, to) = (self.at(path)?, self.at(to)?);
        if let Some((folder, _)) = &self.folder
            && is_promised(folder, &to)?
        {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.store.rename(&path, &Target::free(&to))?;
        self.store.settle_names(&[to, path])
    }
}

fn hidden() -> io::Error {
    io::ErrorKind::NotFound.into()
}

struct Level {
    entries: Listing,
    path: ContentPath,
    /// Where it is, below the beginning; ends with `/` unless empty.
    shown: String,
}

/// A walk through a tree that can be taken in pieces. It holds a directory open for each level of
/// its depth.
pub struct Walk {
    tree: Tree,
    recursive: bool,
    levels: Vec<Level>,
}

impl Walk {
    /// The next file or directory, with its path below the beginning. What vanishes
    /// meanwhile, or cannot be read, is skipped.
    pub fn advance(&mut self) -> Option<(String, Stat)> {
        loop {
            let deep = self.levels.len();
            let level = self.levels.last_mut()?;
            let (name, stat) = match level.entries.next() {
                Some(Ok(entry)) => entry,
                Some(Err(_)) => continue,
                None => {
                    self.levels.pop();
                    continue;
                }
            };
            let path = format!("{}{name}", level.shown);
            if !self.tree.shown.shows(&name) || path.len() > MAX_PATH {
                continue;
            }
            if level.path.is_root() && self.tree.is_pending(&name) {
                continue;
            }
            if self.recursive
                && stat.kind == Kind::Directory
                && deep < MAX_DEPTH
                && let Ok(below) = level.path.join(&name)
                && let Ok(entries) = self.tree.store.list(&below)
            {
                self.levels.push(Level {
                    entries,
                    path: below,
                    shown: format!("{path}/"),
                });
            }
            return Some((path, stat));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use cap_std::{ambient_authority, fs::Dir};
    use rustix::fs::Mode;

    use super::*;
    use crate::{root::config::Config, store::local::LocalStore};

    fn tree(at: &std::path::Path) -> Tree {
        let dir = Arc::new(Dir::open_ambient_dir(at, ambient_authority()).unwrap());
        let config = Config::parse("[OnMeta]\ncheck.py\n").unwrap();
        Tree::new(Arc::new(LocalStore::new(&dir)), Shown::new(Some(&config)))
    }

    fn names(mut walk: Walk) -> Vec<String> {
        let mut names: Vec<String> =
            std::iter::from_fn(|| walk.advance().map(|(path, _)| path)).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_that_is_hidden_linked_or_of_m2y_is_there() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path();
        std::fs::create_dir_all(path.join("sub/deep")).unwrap();
        std::fs::create_dir(path.join(".quarantine")).unwrap();
        for name in [
            "a.jpg",
            "sub/b",
            "sub/deep/c",
            ".x",
            "m2y.config",
            "s.rhai",
            "check.py",
            "z.meta",
            "z.data",
            ".quarantine/q",
            "sub/.y",
            "sub/o.failed",
        ] {
            std::fs::write(path.join(name), "12").unwrap();
        }
        symlink("/etc/passwd", path.join("out")).unwrap();
        symlink("a.jpg", path.join("in")).unwrap();
        symlink("sub", path.join("way")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path.join("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        let tree = tree(path);
        let all = ["a.jpg", "sub", "sub/b", "sub/deep", "sub/deep/c", "z.data"];
        assert_eq!(names(tree.walk(&TreePath::default(), true).unwrap()), all);
        let flat = names(tree.walk(&TreePath::default(), false).unwrap());
        assert_eq!(flat, ["a.jpg", "sub", "z.data"]);
        let at = |path: &str| TreePath::parse(path).unwrap();
        for name in [
            "out",
            "in",
            "way/b",
            "pipe",
            "m2y.config",
            "s.rhai",
            "check.py",
            "z.meta",
            "no",
        ] {
            assert!(tree.stat(&at(name)).is_err(), "{name}");
            assert!(tree.open(&at(name)).is_err(), "{name}");
            assert!(tree.remove(&at(name)).is_err(), "{name}");
            assert!(
                tree.rename(&at("a.jpg"), &at(name)).is_err() || name == "no",
                "{name}"
            );
            if name == "no" {
                tree.rename(&at("no"), &at("a.jpg")).unwrap();
            }
        }
        assert_eq!(tree.stat(&at("sub/deep/c")).unwrap().size, 2);
        assert_eq!(
            tree.stat(&TreePath::default()).unwrap().kind,
            Kind::Directory
        );
    }

    #[test]
    fn directories_come_and_go_and_nothing_is_written_over() {
        let at = tempfile::tempdir().unwrap();
        let tree = tree(at.path());
        let path = |path: &str| TreePath::parse(path).unwrap();
        tree.make_dir(&path("a")).unwrap();
        tree.make_dir(&path("a/b")).unwrap();
        let kind = |result: io::Result<()>| result.unwrap_err().kind();
        assert_eq!(
            kind(tree.make_dir(&path("a"))),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(kind(tree.make_dir(&path("c/d"))), io::ErrorKind::NotFound);
        assert_eq!(
            kind(tree.make_dir(&path("x.meta"))),
            io::ErrorKind::NotFound
        );
        assert_eq!(
            kind(tree.remove(&path("a"))),
            io::ErrorKind::DirectoryNotEmpty
        );
        std::fs::write(at.path().join("f"), "1").unwrap();
        std::fs::write(at.path().join("g"), "2").unwrap();
        assert_eq!(
            kind(tree.rename(&path("f"), &path("g"))),
            io::ErrorKind::AlreadyExists
        );
        tree.rename(&path("f"), &path("a/b/f")).unwrap();
        tree.remove(&path("a/b/f")).unwrap();
        tree.remove(&path("a/b")).unwrap();
        assert_eq!(
            names(tree.walk(&TreePath::default(), true).unwrap()),
            ["a", "g"]
        );
    }
}
