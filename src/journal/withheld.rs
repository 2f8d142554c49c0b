//! Files that hooks have decided about, while that is not carried out yet: they are to be removed
//! or moved, and until then nobody may see them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// A user, a folder, and the name of a file in it.
pub type File = (String, String, String);

/// Files that nobody may see. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct WithheldFiles(Arc<Mutex<HashMap<File, usize>>>);

impl WithheldFiles {
    /// Hides files until what this returns is dropped.
    pub(super) fn add(&self, files: Vec<File>) -> Withheld {
        if !files.is_empty() {
            let mut hidden = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for file in &files {
                *hidden.entry(file.clone()).or_default() += 1;
            }
        }
        Withheld {
            of: self.clone(),
            files,
        }
    }

    /// Whether a file is hidden.
    pub(super) fn has(&self, (user, folder): (&str, &str), file: &str) -> bool {
        let hidden = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !hidden.is_empty()
            && hidden.contains_key(&(user.to_owned(), folder.to_owned(), file.to_owned()))
    }
}

/// Files that are hidden as long as this is kept.
#[must_use]
pub struct Withheld {
    of: WithheldFiles,
    files: Vec<File>,
}

impl Drop for Withheld {
    fn drop(&mut self) {
        if self.files.is_empty() {
            return;
        }
        let mut hidden = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        for file in &self.files {
            if let Some(times) = hidden.get_mut(file) {
                *times -= 1;
                if *times == 0 {
                    hidden.remove(file);
                }
            }
        }
    }
}
