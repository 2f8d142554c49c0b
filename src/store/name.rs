//! Names by which a store is asked for files. Each was checked when it was made, so a store trusts
//! it.

use std::{fmt, io};

use crate::root::{
    file::{self, MAX_NAME},
    tree::{self, TreePath},
};

/// What the name of a partial file ends with.
const PARTIAL: &str = ".partial";

/// The directory of files that a hook put out of sight.
const QUARANTINE: &str = ".quarantine";

/// Why a text cannot be a name in a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be the name of a file in a store")]
pub struct BadName(String);

impl From<BadName> for io::Error {
    fn from(error: BadName) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// A path below a folder at which contents may be: plain names, none hidden and none reserved for
/// m2y's own documents. The default is the folder itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ContentPath {
    quarantined: bool,
    path: TreePath,
}

impl ContentPath {
    /// Reads a path with `/` between its components.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let path = TreePath::parse(text).ok_or_else(|| BadName(text.to_owned()))?;
        Self::try_from(path)
    }

    /// The path of a file that is in quarantine under this name.
    pub fn quarantined(name: &str) -> Result<Self, BadName> {
        let inside = Self::parse(name)?;
        match inside.path.components() {
            [_] => Ok(Self {
                quarantined: true,
                ..inside
            }),
            _ => Err(BadName(name.to_owned())),
        }
    }

    /// The quarantine itself, to list it.
    pub fn quarantine() -> Self {
        Self {
            quarantined: true,
            path: TreePath::default(),
        }
    }

    /// The components, from the folder down. The first one is hidden for a file in
    /// quarantine.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        let hidden = self.quarantined.then_some(QUARANTINE);
        let plain = self.path.components().iter().map(String::as_str);
        hidden.into_iter().chain(plain)
    }

    /// Whether it is the folder itself.
    pub fn is_root(&self) -> bool {
        self.components().next().is_none()
    }

    /// Whether it is in quarantine, or is the quarantine.
    pub fn is_quarantined(&self) -> bool {
        self.quarantined
    }

    /// The last component; `None` for the folder itself and for the quarantine.
    pub fn file_name(&self) -> Option<&str> {
        self.path.components().last().map(String::as_str)
    }

    /// The directory that contains it; for the folder itself, its own.
    #[must_use]
    pub fn parent(&self) -> Self {
        match self.path.split_last() {
            Some((path, _)) => Self { path, ..*self },
            None => Self::default(),
        }
    }

    /// A path of that name beside this one.
    pub fn sibling(&self, name: &str) -> Result<Self, BadName> {
        self.parent().join(name)
    }

    /// A path of that name in this directory.
    pub fn join(&self, name: &str) -> Result<Self, BadName> {
        let bad = || BadName(name.to_owned());
        let components = self.path.components().iter().map(String::as_str);
        let components: Vec<&str> = components.chain([name]).collect();
        let path = TreePath::parse(&components.join("/")).filter(|_| !name.contains('/'));
        let path = Self::try_from(path.ok_or_else(bad)?)?;
        Ok(Self {
            quarantined: self.quarantined,
            ..path
        })
    }

    /// As a path that a peer may see; `None` in quarantine.
    pub fn tree_path(&self) -> Option<&TreePath> {
        (!self.quarantined).then_some(&self.path)
    }
}

impl TryFrom<TreePath> for ContentPath {
    type Error = BadName;

    fn try_from(path: TreePath) -> Result<Self, BadName> {
        match path.components().iter().any(|name| tree::is_own(name)) {
            true => Err(BadName(path.join())),
            false => Ok(Self {
                quarantined: false,
                path,
            }),
        }
    }
}

impl fmt::Display for ContentPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.components().enumerate() {
            let slash = if at == 0 { "" } else { "/" };
            write!(f, "{slash}{name}")?;
        }
        Ok(())
    }
}

/// The name of a partial file: hidden in the folder until it is published.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartialName(String);

impl PartialName {
    /// The name made of a stem, which is a plain name that nobody else uses.
    pub fn new(stem: &str) -> Result<Self, BadName> {
        let name = format!(".{stem}{PARTIAL}");
        match file::check_name(stem).is_ok() && name.len() <= MAX_NAME {
            true => Ok(Self(name)),
            false => Err(BadName(stem.to_owned())),
        }
    }

    /// Whether a file of that name is a partial file.
    pub fn is_one(name: &str) -> bool {
        name.starts_with('.') && name.ends_with(PARTIAL)
    }

    /// As it stands in the directory of a local store.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_out_of_no_folder_and_to_no_document() {
        for good in ["", "a", "a/b.data", "\u{e9} x"] {
            assert!(ContentPath::parse(good).is_ok(), "{good:?}");
        }
        for bad in ["..", ".hidden", "a/.b", "x.meta", "M2Y.config", "s.rhai/x"] {
            assert!(ContentPath::parse(bad).is_err(), "{bad:?}");
        }
        let there = ContentPath::quarantined("x.data").unwrap();
        assert_eq!(there.to_string(), ".quarantine/x.data");
        assert_eq!(there.parent(), ContentPath::quarantine());
        assert_eq!(there.tree_path(), None);
        assert!(ContentPath::quarantined("a/b").is_err());
        let below = ContentPath::parse("a/b").unwrap();
        assert_eq!(below.sibling("c").unwrap().to_string(), "a/c");
        assert!(below.sibling("c/d").is_err() && below.sibling("..").is_err());
    }

    #[test]
    fn a_partial_file_is_hidden_and_has_one_component() {
        assert_eq!(PartialName::new("a-1").unwrap().as_str(), ".a-1.partial");
        for bad in ["", ".a", "a/b", &"x".repeat(250)] {
            assert!(PartialName::new(bad).is_err(), "{bad:?}");
        }
        assert!(PartialName::is_one(".a.partial") && !PartialName::is_one("a.partial"));
    }
}
