//! Paths below a directory, as a peer wrote them, and the names that others may see there.
//!
//! Hidden files, and files that m2y itself reads or writes (m2y.config, scripts, messages, `.meta` and
//! what becomes of them), do not exist for others.

use std::{collections::HashSet, io, sync::Arc};

use cap_std::fs::Dir;
use rustix::fs::{Mode, OFlags};

use super::{
    config::{Config, EVENT_SECTIONS},
    file::{self, MAX_NAME},
    folder::CONFIG,
    message_log,
};

/// The longest path, in bytes.
pub const MAX_PATH: usize = 4_096;

/// The deepest nesting of directories.
pub const MAX_DEPTH: usize = 64;

/// What the names of m2y's own files end with. The documents tell who sent what and where it is,
/// and a peer who could write one could have anything sent.
const OWN: [&str; 5] = [".rhai", ".meta", ".left", ".done", ".failed"];

/// The endings of a file that arrived, and of the document about it.
const ARRIVED: (&str, &str) = (".data", ".meta");

/// Whether a file of that name is m2y's own, which others can neither see nor create.
pub fn is_own(name: &str) -> bool {
    // A file system may ignore the case of letters.
    let lower = name.to_ascii_lowercase();
    lower == CONFIG
        || lower.starts_with(message_log::FILE)
        || OWN.iter().any(|ending| lower.ends_with(ending))
}

/// A path below a directory, from a peer: components that are each a plain name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TreePath(Vec<String>);

impl TreePath {
    /// Reads a path with `/` between its components; a leading and a trailing one are ignored.
    /// `None` for one that could lead elsewhere or that no file can have.
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

    /// The first component and those after it; `None` for the directory itself.
    pub fn split_first(&self) -> Option<(&str, Self)> {
        let (first, rest) = self.0.split_first()?;
        Some((first, Self(rest.to_vec())))
    }

    /// The last component and those before it; `None` for the directory itself.
    pub fn split_last(&self) -> Option<(Self, &str)> {
        let (last, rest) = self.0.split_last()?;
        Some((Self(rest.to_vec()), last))
    }

    /// The path of a name in this directory. The name is not checked.
    pub fn below(&self, name: &str) -> Self {
        let mut components = self.0.clone();
        components.push(name.to_owned());
        Self(components)
    }

    /// As text, with `/` between the components.
    pub fn join(&self) -> String {
        self.0.join("/")
    }
}

/// Opens a directory below a given one, component by component. None may be a symbolic link.
pub fn open_below<'a>(dir: &Dir, names: impl Iterator<Item = &'a str>) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut opened = dir.open_dir(".")?;
    for name in names {
        let below = rustix::fs::openat(&opened, name, flags, Mode::empty())?;
        opened = Dir::from_std_file(below.into());
    }
    Ok(opened)
}

/// Which names others may see.
#[derive(Clone)]
pub struct Shown {
    /// Names of scripts, in lower case.
    scripts: Arc<HashSet<String>>,
    /// Says whether a name is to be hidden.
    hides: Arc<Hides>,
}

/// Whether a name is hidden for a reason of its own.
pub type Hides = dyn Fn(&str) -> bool + Send + Sync;

impl Shown {
    /// All names but hidden ones, m2y's own, and those that the m2y.config names as scripts.
    pub fn new(config: Option<&Config>) -> Self {
        let scripts = config.into_iter().flat_map(|config| {
            let sections = EVENT_SECTIONS.iter();
            sections.flat_map(|section| config.scripts(section))
        });
        Self {
            scripts: Arc::new(scripts.map(|name| name.to_ascii_lowercase()).collect()),
            hides: Arc::new(|_| false),
        }
    }

    /// The same without the names for which `hides` returns true.
    #[must_use]
    pub fn without(self, hides: Arc<Hides>) -> Self {
        Self { hides, ..self }
    }

    /// Whether others may see a file of that name.
    pub fn shows(&self, name: &str) -> bool {
        name.len() <= MAX_NAME
            && !name.starts_with('.')
            && !is_own(name)
            && !self.scripts.contains(&name.to_ascii_lowercase())
            && !(self.hides)(name)
    }

    /// Whether others may see a file at that path, as far as its names tell.
    pub fn admits(&self, path: &TreePath) -> bool {
        path.components().iter().all(|name| self.shows(name))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
