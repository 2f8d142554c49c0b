//! Places that hold objects: a directory, a bucket, [a contact's folder](crate::client::member). A
//! store of chunks and manifests is built from one of them, a stripe from four.
//!
//! An object is written whole, and readers see all of it or nothing. Members know keys, sizes and
//! times, and nothing of what the objects mean.

pub mod directory;
mod http;
pub mod later;
mod profile;
pub mod s3;

use std::{fmt, io, ops::Range};

use futures_util::{future::BoxFuture, stream::BoxStream};
use hyper::body::Bytes;

/// The slowest that an object may come from a server or go to one, in bytes a second.
pub const SLOWEST: u64 = 256 << 10;

/// The longest key, in bytes.
const MAX_KEY: usize = 512;

/// The largest object, in bytes. A member that has a larger one did not get it from m2y.
pub const MAX_OBJECT: u64 = 256 << 20;

/// The name of an object: lower-case letters, digits, `-`, `_` and `.` in components with `/`
/// between them. No component begins with a dot. Every kind of member can hold it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks a key; `None` if it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        let is_component = |component: &str| {
            !component.is_empty() && !component.starts_with('.') && component.chars().all(is_plain)
        };
        (text.len() <= MAX_KEY && text.split('/').all(is_component)).then(|| Self(text.to_owned()))
    }

    /// A key that was made, not read.
    pub(super) fn trusted(text: String) -> Self {
        debug_assert!(Self::parse(&text).is_some(), "{text}");
        Self(text)
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: ObjectKey,
    /// Its bytes.
    pub size: u64,
    /// When it was written, in nanoseconds since 1970, by the clock of the member.
    pub modified: i64,
}

/// What happens to an object that has the key already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is replaced.
    Replace,
    /// It stays, and the new one fails with [`MemberError::Exists`].
    Keep,
}

/// Why a member did not do something. The sentences tell an administrator what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// There is no object of this key.
    #[error("no object {0}")]
    Missing(String),
    /// There is one already.
    #[error("the object {0} exists already")]
    Exists(String),
    /// The member answered that it will not: wrong credentials, no permission, no such bucket.
    #[error("{0}")]
    Denied(String),
    /// The member did not answer, or answered that it cannot now. This says nothing about what it
    /// holds.
    #[error("{0}")]
    Unreachable(String),
    /// No room is left.
    #[error("{0}")]
    Full(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl From<MemberError> for io::Error {
    fn from(error: MemberError) -> Self {
        let kind = match error {
            MemberError::Missing(_) => io::ErrorKind::NotFound,
            MemberError::Exists(_) => io::ErrorKind::AlreadyExists,
            MemberError::Denied(_) => io::ErrorKind::PermissionDenied,
            MemberError::Unreachable(_) => io::ErrorKind::HostUnreachable,
            MemberError::Full(_) => io::ErrorKind::StorageFull,
            MemberError::Failed(_) => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// The result of what a member is asked for.
pub type MemberResult<T> = Result<T, MemberError>;

/// A place that holds objects.
pub trait Member: Send + Sync {
    /// Writes an object. When this returns without an error, it survives a loss of power. After
    /// an error it is there whole, or not at all.
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Bytes,
        existing: Existing,
    ) -> BoxFuture<'a, MemberResult<()>>;

    /// Reads an object, or this range of its bytes. A range that ends behind the object yields
    /// what there is. Never returns more than was asked for, or than [`MAX_OBJECT`].
    fn get<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Option<Range<u64>>,
    ) -> BoxFuture<'a, MemberResult<Vec<u8>>>;

    /// What is known of an object.
    fn stat<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<Object>>;

    /// Removes an object. One that is not there is no error.
    fn remove<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<()>>;

    /// The objects whose keys begin with this directory, or all of them, in no order, a page at a
    /// time. Objects that are not m2y's are left out. After an error the list ends.
    fn list<'a>(&'a self, directory: Option<&'a ObjectKey>) -> BoxStream<'a, MemberResult<Object>>;

    /// Bytes that still fit, if the member knows.
    fn room(&self) -> BoxFuture<'_, MemberResult<Option<u64>>>;
}

/// Whether a member can refuse to replace an object: some servers do not know the header for it,
/// and some ignore it. `key` is one that the member has an object for, which this may replace.
///
/// # Errors
///
/// If the member does not say.
pub async fn refuses_to_replace(member: &dyn Member, key: &ObjectKey) -> MemberResult<bool> {
    let second = Bytes::from_static(b"second");
    match member.put(key, second, Existing::Keep).await {
        Err(MemberError::Exists(_)) => Ok(true),
        Ok(()) | Err(MemberError::Failed(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_that_every_member_can_hold() {
        for good in ["a", "a/b.c", "0-9_z/x"] {
            assert!(ObjectKey::parse(good).is_some(), "{good}");
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", ".a", "a/..", "A", "a b", "a\\b", "ä",
        ] {
            assert!(ObjectKey::parse(bad).is_none(), "{bad}");
        }
        assert!(ObjectKey::parse(&"a".repeat(513)).is_none());
    }
}
