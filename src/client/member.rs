//! A folder of a contact, on that contact's server, as a member of a store.
//!
//! Each object is a file at the path of its key. One session carries all requests and all objects
//! at the same time; it opens when it is first needed, and opens again after it broke. The server
//! says the same of what is missing and of what the user may not do, so after such an answer the
//! member looks at what can be seen, and never takes the second for the first.

mod line;

use std::{
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
};

use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use hyper::body::Bytes;

use super::peer::{Listing, Peer};
use crate::{
    error::{Code, Error},
    root::{
        Root,
        conflict::Conflict,
        settings::store::ContactFolder,
        tree::{TreePath, is_own},
    },
    store::member::{Existing, MAX_OBJECT, Member, MemberError, MemberResult, Object, ObjectKey},
    transfer::send::put_bytes::PutBytes,
    wire::request::Entry,
};
use line::Line;

/// What a contact has to allow.
const RIGHTS: &str = "list get put mkdir rm";

/// Ends a name that m2y's own files would have otherwise. No key has that letter.
const ESCAPE: char = '=';

/// A folder of a contact that holds each object as a file of its key.
pub struct ContactMember {
    line: Line,
    folder: ContactFolder,
}

/// Directories that are still to be listed, and the one that is being listed.
struct Walk {
    left: Vec<Option<ObjectKey>>,
    open: Option<(Option<ObjectKey>, Listing)>,
}

impl ContactMember {
    /// A folder that a contact shares with a user of this root. No connection is made before
    /// one is needed.
    ///
    /// # Errors
    ///
    /// If the root has no such user, or the user no such contact with an address.
    pub fn open(root: &Root, folder: &ContactFolder) -> MemberResult<Self> {
        Ok(Self {
            line: Line::new(root, folder)?,
            folder: folder.clone(),
        })
    }

    /// The folder itself, as a path.
    fn top(&self) -> &str {
        self.folder.folder.as_str()
    }

    /// The path of a directory, or of the folder.
    fn directory(&self, key: Option<&ObjectKey>) -> String {
        let names = key.into_iter().flat_map(|key| key.as_str().split('/'));
        names.fold(self.top().to_owned(), |mut path, name| {
            path.push('/');
            path.push_str(name);
            if is_own(name) {
                path.push(ESCAPE);
            }
            path
        })
    }

    /// The path of an object.
    fn path(&self, key: &ObjectKey) -> MemberResult<String> {
        let path = self.directory(Some(key));
        match TreePath::parse(&path) {
            Some(_) => Ok(path),
            None => Err(MemberError::Failed(format!(
                "no file of a contact can have the path {path}"
            ))),
        }
    }

    /// What the contact does not let this user do.
    fn forbidden(&self, what: &str) -> MemberError {
        let (contact, folder) = (&self.folder.contact, &self.folder.folder);
        MemberError::Denied(format!(
            "{contact} does not let you {what} {folder}: ask {contact} for {RIGHTS} ([share] in m2y.config)"
        ))
    }

    /// The error of an answer for which there is no better word.
    fn error(&self, error: Error) -> MemberError {
        self.line.error(error)
    }

    /// Why the server said that there is nothing at the path of a key: [`MemberError::Missing`]
    /// if the folder can be seen, and the object cannot.
    async fn absent(&self, key: &ObjectKey, path: &str, what: &str) -> MemberError {
        let looked = self.line.ask(|peer| async move { peer.stat(path).await });
        match looked.await {
            Err(error) => error,
            Ok(Ok(entry)) if !entry.is_dir => self.forbidden(what),
            Ok(Ok(_)) => MemberError::Missing(key.to_string()),
            Ok(Err(error)) if error.code == Code::NotFound => match self.look().await {
                Ok(()) => MemberError::Missing(key.to_string()),
                Err(error) => error,
            },
            Ok(Err(error)) => self.error(error),
        }
    }

    /// Whether the folder can be seen.
    async fn look(&self) -> MemberResult<()> {
        let top = self.top();
        let looked = self.line.ask(|peer| async move { peer.stat(top).await });
        match looked.await? {
            Ok(_) => Ok(()),
            Err(error) if error.code == Code::NotFound => Err(self.forbidden("see the folder")),
            Err(error) => Err(self.error(error)),
        }
    }

    async fn put_object(
        &self,
        key: &ObjectKey,
        body: Bytes,
        existing: Existing,
    ) -> MemberResult<()> {
        let path = self.path(key)?;
        let room = body.len() as u64;
        let conflict = match existing {
            Existing::Replace => Conflict::Overwrite,
            Existing::Keep => Conflict::Refuse,
        };
        let ContactFolder { user, contact, .. } = &self.folder;
        let put = PutBytes::new(user, (contact, &path), body, conflict);
        let put = put.map_err(|e| self.error(e))?;
        let (put, path) = (&put, path.as_str());
        let mut made = false;
        loop {
            let attempts = AtomicU32::new(0);
            let attempt = |peer: Peer| {
                attempts.fetch_add(1, Ordering::Relaxed);
                async move { peer.put(put.clone()).await }
            };
            let error = match self.line.ask(attempt).await? {
                Ok(put) => return self.placed(key, &put, existing, attempts.into_inner() > 1),
                Err(error) => error,
            };
            return Err(match error.code {
                Code::NotFound if !made && key.as_str().contains('/') => {
                    self.make_parents(path).await?;
                    made = true;
                    continue;
                }
                Code::NotFound => self.forbidden("put files into"),
                Code::Exists if existing == Existing::Keep => MemberError::Exists(key.to_string()),
                Code::Exists => self.in_the_way(path).await,
                Code::Later if self.is_full(room).await => {
                    let contact = &self.folder.contact;
                    MemberError::Full(format!("{contact} has no room for {room} more bytes"))
                }
                _ => self.error(error),
            });
        }
    }

    /// Whether an object that the server has now is where it belongs.
    fn placed(
        &self,
        key: &ObjectKey,
        put: &PutBytes,
        existing: Existing,
        is_again: bool,
    ) -> MemberResult<()> {
        let contact = &self.folder.contact;
        match put.place() {
            // After a retry it may be ours: the answer to the first attempt was lost.
            Some((_, true)) if existing == Existing::Keep && !is_again => {
                Err(MemberError::Exists(key.to_string()))
            }
            Some(_) => Ok(()),
            None => Err(MemberError::Denied(format!(
                "a hook of {contact} moved the object or has not accepted it yet: ask {contact} for a folder without such hooks"
            ))),
        }
    }

    /// Why an object cannot be replaced.
    async fn in_the_way(&self, path: &str) -> MemberError {
        let looked = self.line.ask(|peer| async move { peer.stat(path).await });
        let contact = &self.folder.contact;
        match looked.await {
            Ok(Ok(Entry { is_dir: true, .. })) => {
                MemberError::Failed(format!("{contact} has a directory at {path}: remove it"))
            }
            Err(error) => error,
            _ => MemberError::Unreachable(format!(
                "somebody else is writing {path} at the same time: try later"
            )),
        }
    }

    /// Whether the server said *later* for lack of room.
    async fn is_full(&self, wanted: u64) -> bool {
        let room = self.free().await;
        matches!(room, Ok(Some(room)) if room < wanted)
    }

    /// Makes the directories of a path that are not there yet.
    async fn make_parents(&self, path: &str) -> MemberResult<()> {
        // The first one is the folder, which only its owner can make.
        for (end, _) in path.match_indices('/').skip(1) {
            let directory = path.get(..end).unwrap_or(path);
            let making = self
                .line
                .ask(|peer| async move { peer.make_dir(directory).await });
            let error = match making.await? {
                Ok(()) => continue,
                Err(error) => error,
            };
            match error.code {
                Code::Exists => {}
                // A user who may not make directories may have been given this one.
                Code::NotFound => {
                    let looking = self
                        .line
                        .ask(|peer| async move { peer.stat(directory).await });
                    if !looking.await?.is_ok_and(|entry| entry.is_dir) {
                        return Err(self.forbidden("make directories in"));
                    }
                }
                _ => return Err(self.error(error)),
            }
        }
        Ok(())
    }

    async fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> MemberResult<Vec<u8>> {
        let path = &*self.path(key)?;
        let reading = self.line.ask(|peer| {
            let range = range.clone();
            async move { peer.read(path, range, MAX_OBJECT).await }
        });
        match reading.await? {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.code == Code::NotFound => {
                Err(self.absent(key, path, "get files from").await)
            }
            Err(error) => Err(self.error(error)),
        }
    }

    async fn about(&self, key: &ObjectKey) -> MemberResult<Object> {
        let path = &*self.path(key)?;
        let looking = self.line.ask(|peer| async move { peer.stat(path).await });
        let missing = MemberError::Missing(key.to_string());
        match looking.await? {
            Ok(entry) if entry.is_dir => Err(missing),
            Ok(entry) => Ok(object(key.clone(), &entry)),
            Err(error) if error.code == Code::NotFound => {
                Err(self.look().await.err().unwrap_or(missing))
            }
            Err(error) => Err(self.error(error)),
        }
    }

    async fn remove_object(&self, key: &ObjectKey) -> MemberResult<()> {
        let path = &*self.path(key)?;
        let removing = self.line.ask(|peer| async move { peer.remove(path).await });
        match removing.await? {
            Ok(()) => Ok(()),
            Err(error) if error.code == Code::NotFound => {
                match self.absent(key, path, "remove files from").await {
                    MemberError::Missing(_) => Ok(()),
                    error => Err(error),
                }
            }
            Err(error) => Err(self.error(error)),
        }
    }

    async fn free(&self) -> MemberResult<Option<u64>> {
        let top = self.top();
        let asking = self.line.ask(|peer| async move { peer.room(top).await });
        match asking.await? {
            Ok(room) => Ok(Some(room)),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    /// The next objects of a walk; `None` after the last.
    async fn page(&self, walk: &mut Walk) -> MemberResult<Option<Vec<Object>>> {
        let (at, listing, page) = match walk.open.take() {
            Some((at, mut listing)) => {
                let page = listing.next().await.transpose();
                (at, listing, page.map_err(|e| self.error(e))?)
            }
            None => {
                let Some(at) = walk.left.pop() else {
                    return Ok(None);
                };
                match self.begin(at.as_ref()).await? {
                    Some((listing, page)) => (at, listing, page),
                    None => return Ok(Some(Vec::new())),
                }
            }
        };
        let Some(entries) = page else {
            return Ok(Some(Vec::new()));
        };
        let mut objects = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(key) = key_of(at.as_ref(), &entry.path) else {
                continue;
            };
            match entry.is_dir {
                true => walk.left.push(Some(key)),
                false => objects.push(object(key, &entry)),
            }
        }
        walk.open = Some((at, listing));
        Ok(Some(objects))
    }

    /// The first page of a directory; `None` if the directory does not exist.
    async fn begin(
        &self,
        at: Option<&ObjectKey>,
    ) -> MemberResult<Option<(Listing, Option<Vec<Entry>>)>> {
        let path = &*self.directory(at);
        let begun = self.line.ask(|peer| async move {
            let mut listing = peer.list(path, false)?;
            let page = listing.next().await.transpose()?;
            Ok((listing, page))
        });
        let error = match begun.await? {
            Ok(begun) => return Ok(Some(begun)),
            Err(error) => error,
        };
        if error.code != Code::NotFound {
            return Err(self.error(error));
        }
        let top = self.top();
        let listing = self.line.ask(|peer| async move {
            let mut listing = peer.list(top, false)?;
            listing.next().await.transpose()
        });
        match listing.await? {
            Ok(_) if at.is_some() => Ok(None),
            Ok(_) => Err(MemberError::Unreachable(error.sentence)),
            Err(error) if error.code == Code::NotFound => Err(self.forbidden("list")),
            Err(error) => Err(self.error(error)),
        }
    }
}

/// The key of something in a directory; `None` if it is not m2y's.
fn key_of(directory: Option<&ObjectKey>, name: &str) -> Option<ObjectKey> {
    let name = match name.strip_suffix(ESCAPE) {
        Some(name) => Some(name).filter(|name| is_own(name))?,
        None => name,
    };
    match directory {
        Some(directory) => ObjectKey::parse(&format!("{directory}/{name}")),
        None => ObjectKey::parse(name),
    }
}

fn object(key: ObjectKey, entry: &Entry) -> Object {
    Object {
        key,
        size: entry.size,
        modified: entry.modified,
    }
}

impl Member for ContactMember {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Bytes,
        existing: Existing,
    ) -> BoxFuture<'a, MemberResult<()>> {
        self.put_object(key, body, existing).boxed()
    }

    fn get<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Option<Range<u64>>,
    ) -> BoxFuture<'a, MemberResult<Vec<u8>>> {
        self.read(key, range).boxed()
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<Object>> {
        self.about(key).boxed()
    }

    fn remove<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<()>> {
        self.remove_object(key).boxed()
    }

    fn list<'a>(&'a self, directory: Option<&'a ObjectKey>) -> BoxStream<'a, MemberResult<Object>> {
        let walk = Walk {
            left: vec![directory.cloned()],
            open: None,
        };
        let pages = stream::try_unfold(walk, move |mut walk| async move {
            let page = self.page(&mut walk).await?;
            Ok(page.map(|objects| (stream::iter(objects.into_iter().map(Ok)), walk)))
        });
        pages.try_flatten().boxed()
    }

    fn room(&self) -> BoxFuture<'_, MemberResult<Option<u64>>> {
        self.free().boxed()
    }
}
