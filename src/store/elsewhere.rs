//! A store of a folder that is not the folder's own directory.

use std::{io, sync::Arc};

use super::{Store, chunked::ChunkedStore, plain::PlainStore};

/// One of the kinds of stores that m2y.ini can name.
#[derive(Clone)]
pub enum Elsewhere {
    /// Sealed, in chunks, on one member or four.
    Chunked(Arc<ChunkedStore>),
    /// In a bucket, each file as it is.
    Plain(Arc<PlainStore>),
}

impl Elsewhere {
    /// As m2y.ini calls it.
    pub fn name(&self) -> &str {
        match self {
            Self::Chunked(store) => store.name(),
            Self::Plain(store) => store.name(),
        }
    }

    /// The contents.
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Chunked(store) => store.clone(),
            Self::Plain(store) => store.clone(),
        }
    }

    /// The store, if it has chunks: only those keep versions, and can be scrubbed and repaired.
    pub fn chunked(&self) -> Option<&Arc<ChunkedStore>> {
        match self {
            Self::Chunked(store) => Some(store),
            Self::Plain(_) => None,
        }
    }

    /// Removes what is left of the folder there: it is in another store now. Returns why
    /// something is left.
    ///
    /// # Errors
    ///
    /// If it could not even be tried.
    pub fn purge(&self) -> io::Result<Vec<String>> {
        match self {
            Self::Chunked(store) => store.purge(),
            Self::Plain(store) => Ok(store
                .purge()
                .err()
                .map(|e| e.to_string())
                .into_iter()
                .collect()),
        }
    }
}
