//! Files below a directory that somebody else may reach: by paths that a peer wrote, and
//! never out of it.
//!
//! Each component is opened by the handle of the one before it, and none is followed where
//! it is a symbolic link. What is hidden, what m2y itself reads or writes (m2y.config,
//! scripts, `.meta` and what becomes of them), and whatever is neither a file nor a
//! directory is not there for anybody.

use std::{collections::HashSet, fs::File, io, sync::Arc};

use cap_std::fs::{Dir, Metadata, MetadataExt, ReadDir};
use rustix::fs::{AtFlags, Mode, OFlags};

use super::{
    config::{Config, EVENT_SECTIONS},
    file::{self, MAX_NAME},
    folder::CONFIG,
};

/// The longest path, in bytes.
const MAX_PATH: usize = 4_096;

/// Directories within each other.
const MAX_DEPTH: usize = 64;

/// What the names of m2y's own files end with. The documents tell who sent what and where it
/// lies, and one that a peer could write would have anything sent.
const OWN: [&str; 4] = [".rhai", ".meta", ".done", ".failed"];

/// What the name of a file that arrived ends with, and that of what is known of it.
const ARRIVED: (&str, &str) = (".data", ".meta");

/// Whether a file of that name is m2y's own, and nothing that others see or make.
pub fn is_own(name: &str) -> bool {
    // A file system may take other letters for the same.
    let lower = name.to_ascii_lowercase();
    lower == CONFIG || OWN.iter().any(|ending| lower.ends_with(ending))
}

/// A path below a directory, from a peer: components that each are a plain name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TreePath(Vec<String>);

impl TreePath {
    /// Reads a path with `/` between its components; a first and a last one do not matter.
    /// `None` for one that could lead elsewhere or that nobody can have.
    pub fn parse(path: &str) -> Option<Self> {
        if path.len() > MAX_PATH {
            return None;
        }
        let path = path.strip_prefix('/').unwrap_or(path);
        if path.is_empty() {
            return Some(Self::default());
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        let components: Vec<String> = path.split('/').map(str::to_owned).collect();
        let plain = components.len() <= MAX_DEPTH
            && components.iter().all(|name| file::check_name(name).is_ok());
        plain.then_some(Self(components))
    }

    /// The components.
    pub fn components(&self) -> &[String] {
        &self.0
    }

    /// The first component and those behind it; `None` for the directory itself.
    pub fn split_first(&self) -> Option<(&str, Self)> {
        let (first, rest) = self.0.split_first()?;
        Some((first, Self(rest.to_vec())))
    }

    /// The last component and those before it; `None` for the directory itself.
    pub fn split_last(&self) -> Option<(Self, &str)> {
        let (last, rest) = self.0.split_last()?;
        Some((Self(rest.to_vec()), last))
    }

    /// As text, with `/` between the components.
    pub fn join(&self) -> String {
        self.0.join("/")
    }
}

/// Opens a directory below another one, component by component. None may be a symbolic link.
pub fn open_below<'a>(dir: &Dir, names: impl Iterator<Item = &'a str>) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut opened = dir.open_dir(".")?;
    for name in names {
        let below = rustix::fs::openat(&opened, name, flags, Mode::empty())?;
        opened = Dir::from_std_file(below.into());
    }
    Ok(opened)
}

/// What is known of a file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes of a file; 0 for a directory.
    pub size: u64,
    /// When it changed last, in nanoseconds since 1970.
    pub modified: i64,
}

impl About {
    /// Whether it may be a file of that size and time: times are compared as exactly as file
    /// systems keep them.
    pub fn is_file_of(&self, size: Option<u64>, modified: i64) -> bool {
        !self.is_dir && Some(self.size) == size && self.modified.abs_diff(modified) < 1_000
    }

    fn of(about: &Metadata) -> Option<Self> {
        if !about.is_file() && !about.is_dir() {
            return None;
        }
        Some(Self {
            is_dir: about.is_dir(),
            size: if about.is_dir() { 0 } else { about.len() },
            modified: file::nanos(about.mtime(), about.mtime_nsec()),
        })
    }
}

/// A directory with what lies below it, as others may see it.
#[derive(Clone)]
pub struct Tree {
    dir: Arc<Dir>,
    /// Names of scripts, in lower case.
    scripts: Arc<HashSet<String>>,
    /// Says of a name whether somebody wants it hidden.
    hides: Arc<Hides>,
}

/// Whether a name is hidden for a reason of its own.
pub type Hides = dyn Fn(&str) -> bool + Send + Sync;

impl Tree {
    /// The tree below a directory, without what the m2y.config names as a script.
    pub fn new(dir: &Arc<Dir>, config: Option<&Config>) -> Self {
        let scripts = config.into_iter().flat_map(|config| {
            let sections = EVENT_SECTIONS.iter();
            sections.flat_map(|section| config.scripts(section))
        });
        Self {
            dir: dir.clone(),
            scripts: Arc::new(scripts.map(|name| name.to_ascii_lowercase()).collect()),
            hides: Arc::new(|_| false),
        }
    }

    /// Whether others may know of a file of that name.
    pub fn shows(&self, name: &str) -> bool {
        name.len() <= MAX_NAME
            && !name.starts_with('.')
            && !is_own(name)
            && !self.scripts.contains(&name.to_ascii_lowercase())
            && !(self.hides)(name)
    }

    fn hidden() -> io::Error {
        io::ErrorKind::NotFound.into()
    }

    /// Opens a directory.
    fn dir(&self, path: &TreePath) -> io::Result<Dir> {
        if !self.admits(path) {
            return Err(Self::hidden());
        }
        open_below(&self.dir, path.components().iter().map(String::as_str))
    }

    /// Whether others may know of a file at that path, as far as its names tell.
    pub fn admits(&self, path: &TreePath) -> bool {
        path.components().iter().all(|name| self.shows(name))
    }

    /// Opens the directory that a path lies in.
    fn around<'a>(&self, path: &'a TreePath) -> io::Result<(Dir, &'a str)> {
        let (before, name) = path.split_last().ok_or_else(Self::hidden)?;
        if !self.shows(name) {
            return Err(Self::hidden());
        }
        Ok((self.dir(&before)?, name))
    }

    /// Opens the directory that a path lies in.
    pub fn above(&self, path: &TreePath) -> io::Result<Dir> {
        self.around(path).map(|(dir, _)| dir)
    }

    /// The same tree without what has such a name.
    #[must_use]
    pub fn without(self, hides: Arc<Hides>) -> Self {
        Self { hides, ..self }
    }

    /// The tree below a directory of it.
    pub fn below(&self, path: &TreePath) -> io::Result<Self> {
        Ok(Self {
            dir: Arc::new(self.dir(path)?),
            scripts: self.scripts.clone(),
            hides: self.hides.clone(),
        })
    }

    /// What lies at a path.
    pub fn about(&self, path: &TreePath) -> io::Result<About> {
        let about = match path.split_last() {
            None => self.dir.dir_metadata()?,
            Some(_) => {
                let (dir, name) = self.around(path)?;
                dir.symlink_metadata(name)?
            }
        };
        About::of(&about).ok_or_else(Self::hidden)
    }

    /// What lies at a path that a file may have; `None` if nothing does. Fails where no file
    /// may have it, with `AlreadyExists` where there is something that nobody sees, and with
    /// `CrossesDevices` where no file of this directory can get there by a change of names.
    pub fn there(&self, path: &TreePath) -> io::Result<Option<About>> {
        let (dir, name) = self.around(path)?;
        if dir.dir_metadata()?.dev() != self.dir.dir_metadata()?.dev() {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        match dir.symlink_metadata(name) {
            Ok(about) => About::of(&about)
                .map(Some)
                .ok_or_else(|| io::ErrorKind::AlreadyExists.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens a file to read it.
    pub fn open(&self, path: &TreePath) -> io::Result<(File, About)> {
        let (dir, name) = self.around(path)?;
        let (file, about) = file::open_itself(&dir, name)?;
        let about = About::of(&about).ok_or_else(Self::hidden)?;
        Ok((file.into_std(), about))
    }

    /// What lies in a directory, and in its directories if `recursive`; each directory
    /// before what is in it.
    pub fn walk(&self, path: &TreePath, recursive: bool) -> io::Result<Walk> {
        let dir = self.dir(path)?;
        let level = Level {
            entries: dir.entries()?,
            dir,
            path: String::new(),
        };
        Ok(Walk {
            tree: self.clone(),
            recursive,
            levels: vec![level],
        })
    }

    /// Makes a directory; fails with `AlreadyExists` if there is anything.
    pub fn make_dir(&self, path: &TreePath) -> io::Result<()> {
        let (dir, name) = self.around(path)?;
        dir.create_dir(name)?;
        file::sync(&dir)
    }

    /// Removes a file or an empty directory.
    pub fn remove(&self, path: &TreePath) -> io::Result<()> {
        let (dir, name) = self.around(path)?;
        let about = About::of(&dir.symlink_metadata(name)?).ok_or_else(Self::hidden)?;
        let flags = match about.is_dir {
            true => AtFlags::REMOVEDIR,
            false => AtFlags::empty(),
        };
        rustix::fs::unlinkat(&dir, name, flags)?;
        file::sync(&dir)
    }

    /// Gives a file or directory another path; fails with `AlreadyExists` if that is taken.
    pub fn rename(&self, path: &TreePath, to: &TreePath) -> io::Result<()> {
        let (dir, name) = self.around(path)?;
        let (new_dir, new) = self.around(to)?;
        About::of(&dir.symlink_metadata(name)?).ok_or_else(Self::hidden)?;
        to_free(&dir, name, &new_dir, new)?;
        file::sync(&dir)?;
        file::sync(&new_dir)
    }
}

/// Gives a file a name that is free and that no other file is to get.
fn to_free(from: &Dir, name: &str, to: &Dir, new: &str) -> io::Result<()> {
    if is_promised(to, new)? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    file::rename_to_free(from, name, to, new)
}

/// Whether a name belongs to a file that is on its way, or was refused: any other file of
/// that name would pass for the one that its `.meta` describes.
pub fn is_promised(dir: &Dir, name: &str) -> io::Result<bool> {
    let (data, meta) = ARRIVED;
    let at = name.len().checked_sub(data.len());
    match at.and_then(|at| name.split_at_checked(at)) {
        Some((stem, ending)) if ending.eq_ignore_ascii_case(data) => {
            file::exists(dir, &format!("{stem}{meta}"))
        }
        _ => Ok(false),
    }
}

struct Level {
    dir: Dir,
    entries: ReadDir,
    /// Where it is, below the beginning; ends with `/` unless empty.
    path: String,
}

/// A way through a tree that can be gone in pieces. It holds a directory open for each
/// level that it is deep.
pub struct Walk {
    tree: Tree,
    recursive: bool,
    levels: Vec<Level>,
}

impl Walk {
    /// The next file or directory, with its path below the beginning. What vanishes
    /// meanwhile, or cannot be read, is passed over.
    pub fn advance(&mut self) -> Option<(String, About)> {
        loop {
            let deep = self.levels.len();
            let level = self.levels.last_mut()?;
            let Some(entry) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            let Ok(name) = entry.map(|entry| entry.file_name()) else {
                // A directory that fails does so again.
                self.levels.pop();
                continue;
            };
            let Some(name) = name.to_str().filter(|name| self.tree.shows(name)) else {
                continue;
            };
            let Some(about) = level
                .dir
                .symlink_metadata(name)
                .ok()
                .as_ref()
                .and_then(About::of)
            else {
                continue;
            };
            let path = format!("{}{name}", level.path);
            if path.len() > MAX_PATH {
                continue;
            }
            if self.recursive && about.is_dir && deep < MAX_DEPTH {
                let inside = TreePath(vec![name.to_owned()]);
                let here = Tree {
                    dir: Arc::new(match level.dir.try_clone() {
                        Ok(dir) => dir,
                        Err(_) => continue,
                    }),
                    scripts: self.tree.scripts.clone(),
                    hides: self.tree.hides.clone(),
                };
                if let Ok(dir) = here.dir(&inside)
                    && let Ok(entries) = dir.entries()
                {
                    self.levels.push(Level {
                        dir,
                        entries,
                        path: format!("{path}/"),
                    });
                }
            }
            return Some((path, about));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use cap_std::ambient_authority;

    use super::*;

    fn tree(at: &std::path::Path) -> Tree {
        let dir = Arc::new(Dir::open_ambient_dir(at, ambient_authority()).unwrap());
        let config = Config::parse("[OnMeta]\ncheck.py\n").unwrap();
        Tree::new(&dir, Some(&config))
    }

    fn names(mut walk: Walk) -> Vec<String> {
        let mut names: Vec<String> =
            std::iter::from_fn(|| walk.advance().map(|(path, _)| path)).collect();
        names.sort();
        names
    }

    #[test]
    fn a_path_is_plain_names_or_nothing() {
        for good in ["", "/", "a", "/a/b", "a/b/", "\u{e9} x/y.tar.gz", "a\\b"] {
            assert!(TreePath::parse(good).is_some(), "{good:?}");
        }
        let (long, deep) = ("x".repeat(256), "a/".repeat(65));
        for bad in [
            "..", "a/..", "../a", "a/../b", ".", "a/./b", "a//b", ".hidden", "a/.b", "a\0b", &long,
            &deep,
        ] {
            assert!(TreePath::parse(bad).is_none(), "{bad:?}");
        }
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
            assert!(tree.about(&at(name)).is_err(), "{name}");
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
        assert_eq!(tree.about(&at("sub/deep/c")).unwrap().size, 2);
        assert!(tree.about(&TreePath::default()).unwrap().is_dir);
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
