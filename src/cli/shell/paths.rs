//! Which of a contact's files words stand for.

use super::{Fault, LISTED, Shell, full};
use crate::{
    cli::{
        ls,
        pattern::{is_pattern, literal, matching},
    },
    error::{Code, Error, printable},
    root::tree::TreePath,
    wire::request::Entry,
};

/// A directory on the contact's server: its path from the top, component by component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory(Vec<String>);

impl Directory {
    /// The directory with these components.
    pub fn at(components: Vec<String>) -> Self {
        Self(components)
    }

    /// Its path, without a slash before it.
    pub fn path(&self) -> String {
        self.0.join("/")
    }

    /// As it is shown, with a slash before it.
    pub fn shown(&self) -> String {
        printable(&format!("/{}", self.0.join("/")), 4_096)
    }

    /// The components of a path relative to this directory or, if it begins with a slash, to the
    /// top. It cannot lead above the top.
    pub fn resolve(&self, path: &str) -> Result<Vec<String>, Error> {
        let mut components = match path.starts_with('/') {
            true => Vec::new(),
            false => self.0.clone(),
        };
        for component in path.split('/') {
            match component {
                "" | "." => {}
                ".." => drop(components.pop()),
                name => components.push(name.to_owned()),
            }
        }
        Ok(components)
    }
}

/// A path that can be requested.
pub fn plain(components: &[String]) -> Result<String, Error> {
    let path = components.join("/");
    match TreePath::parse(&path) {
        Some(_) => Ok(path),
        None => {
            let path = printable(&path, 300);
            let sentence = format!("no file of a contact can have the path {path:?}");
            Err(Error::new(Code::NotFound, sentence))
        }
    }
}

/// A path that a word stands for.
pub struct Match {
    /// The path.
    pub path: String,
    /// The entry, if a pattern matched it.
    pub entry: Option<Entry>,
}

impl Match {
    /// Adds the path that an error is about in front of it.
    pub fn about<T>(&self, result: Result<T, Error>) -> Result<T, Fault> {
        let shown = || format!("/{}", printable(&self.path, 300));
        result.map_err(|error| Fault::from(error.within(shown())))
    }
}

impl Shell {
    /// The one path that a word stands for.
    pub(super) fn one(&self, word: &str) -> Result<Match, Fault> {
        let path = plain(&self.directory.resolve(&literal(word))?)?;
        Ok(Match { path, entry: None })
    }

    /// The paths that a word stands for: itself, or what its pattern matches.
    pub(super) async fn several(&mut self, word: &str) -> Result<Vec<Match>, Fault> {
        if !is_pattern(word) {
            return Ok(vec![self.one(word)?]);
        }
        let peer = self.link.peer().await?;
        let found = matching(&peer, &self.directory.resolve(word)?).await?;
        let at = |(path, entry)| Match {
            path,
            entry: Some(entry),
        };
        Ok(found.into_iter().map(at).collect())
    }

    /// The one path that a word stands for.
    pub(super) fn path(&self, word: &str) -> Result<String, Fault> {
        Ok(self.one(word)?.path)
    }

    /// The paths of everything that several words stand for.
    pub(super) async fn all_paths(&mut self, words: &[String]) -> Result<Vec<String>, Fault> {
        let all = self.all(words).await?;
        Ok(all.into_iter().map(|found| found.path).collect())
    }

    /// Everything that several words stand for.
    pub(super) async fn all(&mut self, words: &[String]) -> Result<Vec<Match>, Fault> {
        let mut all = Vec::new();
        for word in words {
            all.extend(self.several(word).await?);
        }
        Ok(all)
    }

    /// What is below a directory, sorted.
    pub(super) async fn below(&mut self, path: &Option<String>) -> Result<Vec<Entry>, Fault> {
        let found = self.one(path.as_deref().unwrap_or("."))?;
        let peer = self.link.peer().await?;
        let mut all = Vec::new();
        let listing = found.about(peer.list(&found.path, true))?;
        let mut too_many = false;
        let listed = ls::sorted(listing, |mut entry| {
            if entry.path.is_empty() {
                entry.path = last(&found.path).to_owned();
            }
            all.push(entry);
            too_many = all.len() > LISTED;
            if too_many { Err(full().error) } else { Ok(()) }
        });
        let listed = listed.await;
        if too_many {
            return Err(full());
        }
        found.about(listed)?;
        // Each directory comes before its contents, even if another name continues with a character
        // that sorts before the slash.
        all.sort_by(|a: &Entry, b: &Entry| a.path.split('/').cmp(b.path.split('/')));
        Ok(all)
    }
}

/// The last component of a path.
pub fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_resolved_here_and_never_leads_above_the_top() {
        let here = Directory(vec!["photo".to_owned(), "2026".to_owned()]);
        let of = |path: &str| here.resolve(path).unwrap().join("/");
        assert_eq!(of("a"), "photo/2026/a");
        assert_eq!(of("../b/./c//d/"), "photo/b/c/d");
        assert_eq!(of("/x/../y"), "y");
        assert_eq!(of("../../../.."), "");
        assert_eq!(here.shown(), "/photo/2026");
    }
}
