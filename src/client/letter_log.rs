//! What the journal of a root knows of the letters that its users left.

use std::{
    os::unix::ffi::OsStringExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;
use tokio::task;

use super::lost;
use crate::{
    error::{Code, Error},
    journal::{Journal, JournalError, letters},
    root::Root,
};

fn unusable(error: impl std::fmt::Display) -> Error {
    Error::new(Code::Failed, error.to_string())
}

/// A path as the journal keeps it: whole, byte by byte.
pub(super) fn bytes_of(path: &Path) -> Vec<u8> {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    full.into_os_string().into_vec()
}

/// What the journal knows of letters.
#[derive(Clone)]
pub(super) struct LetterLog {
    pub(super) journal: Journal,
    reader: Arc<Mutex<Connection>>,
}

impl LetterLog {
    pub(super) async fn open(root: &Root) -> Result<Self, Error> {
        let root = root.clone();
        let opening = task::spawn_blocking(move || {
            let journal = Journal::open(&root)?;
            let reader = Arc::new(Mutex::new(journal.reader()?));
            Ok::<_, JournalError>(Self { journal, reader })
        });
        opening.await.map_err(lost)?.map_err(unusable)
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let reader = self.reader.clone();
        let reading = task::spawn_blocking(move || {
            read(&reader.lock().unwrap_or_else(PoisonError::into_inner))
        });
        reading.await.map_err(lost)?.map_err(unusable)
    }

    pub(super) async fn write(
        &self,
        work: impl Fn(&Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        let written = self.journal.quietly(true, work).committed().await;
        written.map_err(unusable)
    }

    pub(super) async fn remove(&self, letter: [u8; 32]) -> Result<(), Error> {
        self.write(move |db| letters::remove(db, &letter)).await
    }
}
