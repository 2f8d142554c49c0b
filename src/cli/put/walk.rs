//! Local files to upload, and the directories that they are in.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    vec,
};

use crate::error::{Code, Error};

/// Something that was found.
pub enum PutItem {
    /// A directory: its path below the target directory.
    Dir(String),
    /// A local file, and its path below the target directory.
    File(PathBuf, String),
}

/// What cannot be uploaded: its path, and why.
pub type Wrong = (PathBuf, Error);

/// The directories and their contents, sorted, each directory before what is in it. Only the names
/// in directories that lead to the current one are in memory.
pub struct Walk {
    named: vec::IntoIter<PathBuf>,
    recursive: bool,
    levels: Vec<Level>,
    /// What was found but cannot be uploaded, and why.
    wrong: VecDeque<Wrong>,
    /// Things in directories that cannot be uploaded anywhere: links, pipes, hidden files.
    pub passed_over: u64,
}

struct Level {
    path: PathBuf,
    /// Below the target directory; ends with `/` unless empty.
    below: String,
    entries: vec::IntoIter<(String, fs::FileType)>,
}

impl Walk {
    /// A walk through what was named.
    pub fn new(named: &[PathBuf], recursive: bool) -> Self {
        Self {
            named: Vec::from(named).into_iter(),
            recursive,
            levels: Vec::new(),
            wrong: VecDeque::new(),
            passed_over: 0,
        }
    }

    fn enter(&mut self, path: PathBuf, below: String) -> Result<(), Wrong> {
        let at = |e: io::Error| (path.clone(), Error::io("read", &path, &e));
        let mut entries = Vec::new();
        for entry in fs::read_dir(&path).map_err(at)? {
            let entry = entry.map_err(at)?;
            let kind = entry.file_type().map_err(at)?;
            let name = entry.file_name().into_string();
            match name {
                Ok(name) if !name.starts_with('.') && !kind.is_symlink() => {
                    entries.push((name, kind));
                }
                Err(name) if !kind.is_symlink() => self.wrong.push_back(not_utf8(&path.join(name))),
                _ => self.passed_over += 1,
            }
        }
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.levels.push(Level {
            path,
            below,
            entries: entries.into_iter(),
        });
        Ok(())
    }

    /// What a path that was named stands for.
    fn named(&mut self, path: PathBuf) -> Option<Result<PutItem, Wrong>> {
        let about = match fs::metadata(&path) {
            Ok(about) => about,
            Err(e) => {
                let error = Error::io("open", &path, &e);
                return Some(Err((path, error)));
            }
        };
        let name = match path.file_name().map(|name| name.to_str()) {
            Some(Some(name)) => name.to_owned(),
            // `.` and `..`: the contents go directly into the target.
            None if about.is_dir() => String::new(),
            _ => return Some(Err(not_utf8(&path))),
        };
        if !about.is_dir() {
            return Some(Ok(PutItem::File(path, name)));
        }
        if !self.recursive {
            let sentence = format!("{} is a directory: add -r to upload it", path.display());
            return Some(Err((path, Error::new(Code::Usage, sentence))));
        }
        let below = match name.as_str() {
            "" => String::new(),
            name => format!("{name}/"),
        };
        match self.enter(path, below) {
            Err(error) => Some(Err(error)),
            Ok(()) => (!name.is_empty()).then_some(Ok(PutItem::Dir(name))),
        }
    }
}

fn not_utf8(path: &Path) -> Wrong {
    let sentence = format!("cannot upload {}: its name is not UTF-8", path.display());
    (path.to_owned(), Error::new(Code::Failed, sentence))
}

impl Iterator for Walk {
    type Item = Result<PutItem, Wrong>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(error) = self.wrong.pop_front() {
                return Some(Err(error));
            }
            let Some(level) = self.levels.last_mut() else {
                let path = self.named.next()?;
                match self.named(path) {
                    Some(found) => return Some(found),
                    None => continue,
                }
            };
            let Some((name, kind)) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            let (path, below) = (level.path.join(&name), format!("{}{name}", level.below));
            if kind.is_dir() {
                return Some(match self.enter(path, format!("{below}/")) {
                    Ok(()) => Ok(PutItem::Dir(below)),
                    Err(error) => Err(error),
                });
            }
            if kind.is_file() {
                return Some(Ok(PutItem::File(path, below)));
            }
            self.passed_over += 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_comes_before_what_is_in_it() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("photo");
        fs::create_dir_all(path.join("b/empty")).unwrap();
        for file in ["b/c", "a", ".hidden", "d"] {
            fs::write(path.join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("a", path.join("link")).unwrap();
        let of = |named: &Path| {
            let mut walk = Walk::new(&[named.to_owned()], true);
            let found: Vec<String> = walk
                .by_ref()
                .map(|found| match found.unwrap() {
                    PutItem::Dir(below) => format!("{below}/"),
                    PutItem::File(_, below) => below,
                })
                .collect();
            assert_eq!(walk.passed_over, 2);
            found.join(" ")
        };
        assert_eq!(
            of(&path),
            "photo/ photo/a photo/b/ photo/b/c photo/b/empty/ photo/d"
        );
        assert_eq!(of(&path.join("b/..")), "a b/ b/c b/empty/ d");
    }
}
