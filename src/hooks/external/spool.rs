//! Copies of files for programs, which read no store: where the contents of a folder are not in
//! its own directory, a program gets a copy for as long as it runs.

use std::{io, path::PathBuf};

use tempfile::{Builder, TempDir};
use tokio::task;

use crate::{
    event::Event,
    store::{ContentPath, Kind, Reader, Stores},
};

/// What the name of the directory of a copy begins with, in the folder.
const PREFIX: &str = ".spool-";

/// A copy, which goes when this is dropped.
pub struct Spooled {
    _dir: TempDir,
    /// Where it is.
    pub path: PathBuf,
    /// The name of the file in the folder.
    pub name: String,
}

/// Copies the file that an event is about, if the folder's directory does not have it.
pub async fn spool(event: &Event, stores: &Stores) -> io::Result<Option<Spooled>> {
    let store = stores.of(&event.folder);
    let name = match (&event.file, &event.subject) {
        (Some(file), _) => file.clone(),
        (None, Some(subject)) => subject.data_file(),
        (None, None) => return Ok(None),
    };
    let Ok(path) = ContentPath::parse(&name) else {
        return Ok(None);
    };
    if store.as_local().is_some() {
        return Ok(None);
    }
    let folder = event.folder.path().to_owned();
    let copying = task::spawn_blocking(move || {
        match store.stat(&path)? {
            Some(stat) if stat.kind == Kind::File => {}
            // At [OnMeta] there is none yet, and at [OnDeleted] no more.
            _ => return Ok(None),
        }
        let contents = store.open(&path)?;
        let dir = Builder::new().prefix(PREFIX).tempdir_in(folder)?;
        let to = dir.path().join(path.file_name().unwrap_or_default());
        let mut file = std::fs::File::create_new(&to)?;
        io::copy(&mut Reader::new(&*contents), &mut file)?;
        Ok(Some(Spooled {
            _dir: dir,
            path: to,
            name,
        }))
    });
    copying.await.map_err(io::Error::other)?
}
