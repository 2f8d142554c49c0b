//! A bucket of an S3-compatible server as a member.
//!
//! Requests, signatures, retries and credentials are those of the crate `object_store`; the
//! connections are ours.

pub mod connection;
mod digests;

use std::ops::Range;

use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use hyper::body::Bytes;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path,
};
use tokio::time::timeout;

pub use self::connection::Credentials;
use self::connection::{Connection, DEADLINE};
use super::{Existing, MAX_OBJECT, Member, MemberError, MemberResult, Object, ObjectKey};
use crate::root::settings::store::Bucket;

/// A bucket, and a prefix in it.
pub struct S3Member {
    bucket: Connection,
    prefix: Path,
}

impl S3Member {
    /// Prepares a bucket; nothing is asked yet. Credentials as for [`Connection::new`].
    ///
    /// # Errors
    ///
    /// If the settings do not fit each other, or TLS cannot be set up.
    pub fn new(bucket: &Bucket, credentials: Option<&Credentials>) -> MemberResult<Self> {
        Ok(Self {
            bucket: Connection::new(bucket, credentials)?,
            prefix: Path::from(bucket.prefix.as_str()),
        })
    }

    fn path(&self, key: &ObjectKey) -> Path {
        self.prefix
            .parts()
            .chain(key.as_str().split('/').map(Into::into))
            .collect()
    }

    /// The key of a path of the bucket, if it is one of ours.
    fn key(&self, path: &Path) -> Option<ObjectKey> {
        let parts: Vec<_> = path.prefix_match(&self.prefix)?.collect();
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        ObjectKey::parse(&parts.join("/"))
    }
}

impl Member for S3Member {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Bytes,
        existing: Existing,
    ) -> BoxFuture<'a, MemberResult<()>> {
        async move {
            let len = body.len() as u64;
            let options = PutOptions::from(match existing {
                Existing::Replace => PutMode::Overwrite,
                Existing::Keep => PutMode::Create,
            });
            let path = self.path(key);
            let putting = self.bucket.store.put_opts(&path, body.into(), options);
            self.bucket
                .within(Some(key.as_str()), len, putting)
                .await
                .map(drop)
        }
        .boxed()
    }

    fn get<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Option<Range<u64>>,
    ) -> BoxFuture<'a, MemberResult<Vec<u8>>> {
        async move {
            if range.as_ref().is_some_and(Range::is_empty) {
                return self.stat(key).await.map(|_| Vec::new());
            }
            let path = self.path(key);
            let options = GetOptions {
                range: range.clone().map(GetRange::Bounded),
                ..GetOptions::default()
            };
            let wanted = range
                .as_ref()
                .map_or(MAX_OBJECT, |range| range.end - range.start);
            let most = usize::try_from(wanted.min(MAX_OBJECT)).unwrap_or(usize::MAX);
            let getting = self.bucket.read(&path, options, most);
            let got = self
                .bucket
                .within(Some(key.as_str()), wanted, getting)
                .await;
            let long = || {
                let sentence = format!(
                    "{} returned more than was asked for of {key}",
                    self.bucket.name
                );
                MemberError::Failed(sentence)
            };
            let got = got.and_then(|bytes| bytes.ok_or_else(long));
            match (got, range) {
                (Err(error @ MemberError::Failed(_)), Some(range)) => {
                    // A range behind the end is an error of most servers.
                    let object = self.stat(key).await?;
                    match range.start >= object.size {
                        true => Ok(Vec::new()),
                        false => Err(error),
                    }
                }
                (got, _) => got,
            }
        }
        .boxed()
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<Object>> {
        async move {
            let path = self.path(key);
            let about = match self
                .bucket
                .within(Some(key.as_str()), 0, self.bucket.store.head(&path))
                .await
            {
                // The answer has no body, and so does not say what is missing: the bucket, or all
                // that was ever there.
                Err(MemberError::Missing(_)) => {
                    let options = GetOptions {
                        range: Some(GetRange::Bounded(0..1)),
                        ..GetOptions::default()
                    };
                    let asking = self.bucket.store.get_opts(&path, options);
                    return match self.bucket.within(Some(key.as_str()), 0, asking).await {
                        Ok(_) => Err(MemberError::Failed(format!(
                            "{}: contradicts itself about {key}",
                            self.bucket.name
                        ))),
                        Err(error) => Err(error),
                    };
                }
                about => about?,
            };
            Ok(Object {
                key: key.clone(),
                size: about.size,
                modified: about.last_modified.timestamp_nanos_opt().unwrap_or(0),
            })
        }
        .boxed()
    }

    fn remove<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<()>> {
        async move {
            let path = self.path(key);
            match self
                .bucket
                .within(Some(key.as_str()), 0, self.bucket.store.delete(&path))
                .await
            {
                Err(MemberError::Missing(_)) => Ok(()),
                removed => removed,
            }
        }
        .boxed()
    }

    fn list<'a>(&'a self, directory: Option<&'a ObjectKey>) -> BoxStream<'a, MemberResult<Object>> {
        let prefix = directory.map_or_else(|| self.prefix.clone(), |key| self.path(key));
        let listing = self.bucket.store.list(Some(&prefix));
        let listing = listing.map_err(|error| self.bucket.error(None, error));
        // A server that stops in the middle of a page is waited for no longer than for an object.
        let waiting = stream::try_unfold(Some(listing), move |listing| async move {
            let Some(mut listing) = listing else {
                return Ok(None);
            };
            match timeout(DEADLINE, listing.next()).await {
                Ok(Some(found)) => found.map(|found| Some((found, Some(listing)))),
                Ok(None) => Ok(None),
                Err(_) => Err(MemberError::Unreachable(format!(
                    "{} is too slow: a listing stopped for {} s",
                    self.bucket.name,
                    DEADLINE.as_secs()
                ))),
            }
        });
        waiting
            .try_filter_map(move |about| async move {
                let key = self.key(&about.location);
                Ok(key.map(|key| Object {
                    key,
                    size: about.size,
                    modified: about.last_modified.timestamp_nanos_opt().unwrap_or(0),
                }))
            })
            .boxed()
    }

    fn room(&self) -> BoxFuture<'_, MemberResult<Option<u64>>> {
        async { Ok(None) }.boxed()
    }
}
