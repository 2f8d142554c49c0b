//! The folders whose contents are in a store.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    client,
    error::{Code, Error, did_you_mean},
    root::{
        Root,
        folder::Folder,
        folder_store::{FolderStore, Source},
    },
    store::{chunked::ChunkedStore, elsewhere::Elsewhere, stores::not_in_chunks},
};

/// A folder in the store.
pub struct InStore {
    /// The folder.
    pub folder: Folder,
    /// Its contents.
    pub store: Elsewhere,
}

impl InStore {
    /// As it is called on the command line.
    pub fn shown(&self) -> String {
        format!("{}:{}", self.folder.user().name(), self.folder.name())
    }

    /// Its contents, which have to be in chunks.
    pub fn chunked(&self) -> Result<&Arc<ChunkedStore>, Error> {
        let store = self.store.chunked();
        store.ok_or_else(|| self.failed(&not_in_chunks()))
    }

    /// An error about it.
    pub fn failed(&self, error: &std::io::Error) -> Error {
        failed(error).within(self.shown())
    }
}

/// All folders of the root that are in this store.
pub fn in_store(root: &Root, name: &str) -> Result<Vec<InStore>, Error> {
    known(root, name)?;
    let mut found = Vec::new();
    for folder in root.folders()? {
        let folder = folder?;
        let config = folder.config()?;
        let wanted = FolderStore::of(&config);
        let from = Some(Source::Store(name.to_owned()));
        if wanted.name.as_deref() != Some(name) && wanted.from != from {
            continue;
        }
        let store = client::stores().named(&folder, name, &wanted);
        let shown = format!("{}:{}", folder.user().name(), folder.name());
        let store = store.map_err(|error| failed(&error).within(shown))?;
        found.push(InStore { folder, store });
    }
    if found.is_empty() {
        let sentence = format!("no folder of this root is in the store {name}");
        return Err(Error::new(Code::NotFound, sentence));
    }
    Ok(found)
}

/// Fails if m2y.ini does not name the store.
pub fn known(root: &Root, name: &str) -> Result<(), Error> {
    let stores = root.settings()?.stores;
    match stores.contains_key(name) {
        true => Ok(()),
        false => {
            let near = did_you_mean(name, stores.keys().map(String::as_str));
            let sentence = format!("m2y.ini has no section [store {name}]{near}");
            Err(Error::new(Code::NotFound, sentence))
        }
    }
}

/// Why a store did not do something.
pub fn failed(error: &std::io::Error) -> Error {
    use std::io::ErrorKind;
    let code = match error.kind() {
        ErrorKind::HostUnreachable | ErrorKind::ResourceBusy | ErrorKind::StorageFull => {
            Code::Later
        }
        ErrorKind::PermissionDenied => Code::Identity,
        ErrorKind::InvalidData => Code::Integrity,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Unsupported => Code::Usage,
        _ => Code::Failed,
    };
    Error::new(code, error.to_string())
}

/// A bar for work on so many things, on a terminal.
pub fn bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg}  {bar:20}  {pos} of {len}  {eta}");
    let bar = ProgressBar::new(0).with_message(what.to_owned());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
