//! The chunks of a partial file are sealed, written, and noted in the index.

use std::{io, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::task::spawn_blocking;

use super::{
    Core, crypto_error,
    index::{Id, files::IndexedChunk},
};
use crate::store::{
    PartialName,
    growing::{ChunkWriter, Filled},
    sealed::{
        FileSecret,
        chunk::{ChunkId, ChunkSeal},
    },
};

/// Writes the chunks of one partial file.
pub struct SealingWriter {
    core: Arc<Core>,
    name: String,
    file: Id,
    secret: FileSecret,
}

impl SealingWriter {
    /// A writer for this attempt at a file.
    pub fn new(core: &Arc<Core>, partial: &PartialName, file: Id, secret: FileSecret) -> Self {
        Self {
            core: core.clone(),
            name: partial.as_str().to_owned(),
            file,
            secret,
        }
    }
}

impl ChunkWriter for SealingWriter {
    fn write(&self, chunk: Filled) -> BoxFuture<'static, io::Result<()>> {
        let (core, name, secret) = (self.core.clone(), self.name.clone(), self.secret.clone());
        write(core, name, (self.file, secret), chunk).boxed()
    }

    fn settle(&self) -> io::Result<()> {
        self.core.index.settle()
    }

    fn copies(&self) -> usize {
        // On a stripe a chunk takes its bytes twice.
        self.core.holders.count().min(2)
    }

    fn has_empty(&self) -> bool {
        false
    }
}

/// Seals and writes a chunk, and notes that it was written.
async fn write(
    core: Arc<Core>,
    name: String,
    (file, secret): (Id, FileSecret),
    chunk: Filled,
) -> io::Result<()> {
    let id = ChunkId::new().map_err(crypto_error)?;
    let (place, mut bytes) = (chunk.place, chunk.bytes);
    let crc = crc32fast::hash(&bytes);
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let seal = ChunkSeal::new(&secret, &id, place).map_err(crypto_error)?;
    let tags = seal.seal(&mut bytes).map_err(crypto_error)?;
    let key = core.folder.chunk_key(&id);
    let held = core.holders.put_chunk(&key, bytes, &tags).await;
    let noting = spawn_blocking(move || match held {
        Ok(held) => {
            let chunk = IndexedChunk::new(id, len, crc, held);
            core.index.add_chunk(&name, file, place, chunk)
        }
        Err(error) => {
            // It may have been written all the same.
            let _ = core.index.drop_chunk(id);
            Err(error)
        }
    });
    noting.await.map_err(io::Error::other)?
}
