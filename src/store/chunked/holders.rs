//! Who holds the objects of a folder: one member, or the four of a stripe.
//!
//! Which members have their part is a set of bits, that of member 0 the lowest.

use std::{io, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::join_all};
use hyper::body::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use crate::store::{
    buffers,
    member::{Existing, Member, MemberError, MemberResult, Object, ObjectKey, refuses_to_replace},
    stripe::{ChunkAt, Digest, Stripe, StripeError, code::MEMBERS},
};

/// How long one member may take for a document, or for a page of a listing: less than a lease lasts.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A set of members, as bits.
pub type Members = u8;

/// A chunk as it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The digest of what each member holds.
    pub digests: Vec<Digest>,
    /// The members that lack their part.
    pub missing: Members,
}

/// A chunk that was read.
pub struct Got {
    /// Its sealed bytes.
    pub bytes: Vec<u8>,
    /// The tags behind them.
    pub tags: Vec<u8>,
    /// The members whose part is wrong or missing.
    pub wrong: Members,
}

/// The members of a folder.
pub enum Holders {
    /// One.
    One {
        /// Its name in m2y.ini.
        name: String,
        /// The member.
        member: Arc<dyn Member>,
    },
    /// Four, any two of which rebuild what they hold.
    Stripe(Box<Stripe>),
}

impl Holders {
    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::One { .. } => 1,
            Self::Stripe(_) => MEMBERS,
        }
    }

    /// All of them.
    pub fn all(&self) -> Members {
        match self {
            Self::One { .. } => 1,
            Self::Stripe(_) => 0b1111,
        }
    }

    /// How many must have their part for a write to count.
    pub fn needed(&self) -> usize {
        match self {
            Self::One { .. } => 1,
            Self::Stripe(stripe) => stripe.quorum(),
        }
    }

    /// Whether enough have theirs.
    pub fn is_enough(&self, missing: Members) -> bool {
        self.count() >= self.needed() + missing.count_ones() as usize
    }

    /// Each with its name.
    pub fn members(&self) -> Vec<(&str, &Arc<dyn Member>)> {
        match self {
            Self::One { name, member } => vec![(name.as_str(), member)],
            Self::Stripe(stripe) => stripe.members().collect(),
        }
    }

    /// Writes a chunk and the tags behind it.
    pub async fn put_chunk(
        &self,
        key: &ObjectKey,
        mut chunk: Vec<u8>,
        tags: &[u8],
    ) -> io::Result<Held> {
        match self {
            Self::One { name, member } => {
                // The caller left room for that.
                chunk.extend_from_slice(tags);
                let digests = vec![Sha256::digest(&chunk).into()];
                let put = member.put(key, buffers::shared(chunk), Existing::Replace);
                put.await.map_err(|error| of(name, error))?;
                let missing = 0;
                Ok(Held { digests, missing })
            }
            Self::Stripe(stripe) => {
                let written = stripe.put_chunk(key, chunk, tags).await.map_err(failed)?;
                Ok(Held {
                    digests: written.digests.to_vec(),
                    missing: bits(&written.missing),
                })
            }
        }
    }

    /// Reads a chunk of so many bytes, with `tags` bytes behind it, and verifies what it reads.
    pub async fn get_chunk(
        &self,
        key: &ObjectKey,
        len: usize,
        tags: usize,
        digests: &[Digest],
    ) -> io::Result<Got> {
        match self {
            Self::One { name, member } => {
                let expected = len + tags;
                // One byte more tells a chunk that is too long.
                let got = member.get(key, Some(0..expected as u64 + 1)).await;
                let mut bytes = got.map_err(|error| of(name, error))?;
                // What is in it the seal tells, whose key belongs to this chunk.
                if bytes.len() != expected {
                    return Err(damaged(&format!(
                        "{name}: the object {key} is not the one that was written"
                    )));
                }
                let tags = bytes.split_off(len);
                let wrong = 0;
                Ok(Got { bytes, tags, wrong })
            }
            Self::Stripe(stripe) => {
                let at = chunk_at(key, len, tags, digests)?;
                let read = stripe.get_chunk(&at).await.map_err(failed)?;
                Ok(Got {
                    bytes: read.chunk,
                    tags: read.trailer,
                    wrong: bits(&read.wrong),
                })
            }
        }
    }

    /// Reads a range of a chunk, unverified, if that costs less than the whole chunk: the seal of
    /// its blocks has to tell. `None` on a stripe.
    pub async fn get_range(
        &self,
        key: &ObjectKey,
        range: std::ops::Range<u64>,
    ) -> Option<io::Result<Vec<u8>>> {
        match self {
            Self::One { name, member } => {
                let got = member.get(key, Some(range)).await;
                Some(got.map_err(|error| of(name, error)))
            }
            Self::Stripe(_) => None,
        }
    }

    /// Writes a chunk's part to members that lack it; returns those that still do.
    pub async fn mend_chunk(
        &self,
        key: &ObjectKey,
        len: usize,
        tags: usize,
        digests: &[Digest],
        missing: Members,
    ) -> io::Result<Members> {
        match self {
            // There is nothing to rebuild it from.
            Self::One { .. } => Ok(missing),
            Self::Stripe(stripe) => {
                let at = chunk_at(key, len, tags, digests)?;
                let left = stripe.repair_chunk(&at, &numbers(missing)).await;
                left.map(|left| bits(&left)).map_err(failed)
            }
        }
    }

    /// Writes a document to all members, or to the quorum at least; returns those that lack it.
    pub async fn put_document(&self, key: &ObjectKey, document: Bytes) -> io::Result<Members> {
        match self {
            Self::One { name, member } => {
                let put = member.put(key, document, Existing::Replace).await;
                put.map(|()| 0).map_err(|error| of(name, error))
            }
            Self::Stripe(stripe) => {
                let put = stripe.put_document(key, document, Existing::Replace).await;
                put.map(|missing| bits(&missing)).map_err(failed)
            }
        }
    }

    /// Writes a document that none of them may have yet; fails with `AlreadyExists` if too many
    /// have one.
    pub async fn create_document(&self, key: &ObjectKey, document: Bytes) -> io::Result<()> {
        match self {
            Self::One { name, member } => {
                let put = member.put(key, document, Existing::Keep).await;
                put.map_err(|error| of(name, error))
            }
            Self::Stripe(stripe) => {
                let put = stripe.put_document(key, document, Existing::Keep).await;
                put.map(drop).map_err(failed)
            }
        }
    }

    /// Whether enough members can refuse to replace an object that at most one of two writers makes
    /// it. `key` is one that none of them has an object for.
    pub async fn can_refuse(&self, key: &ObjectKey) -> io::Result<bool> {
        let asking = self.members().into_iter().map(|(name, member)| async move {
            let asking = async {
                let first = Bytes::from_static(b"first");
                member.put(key, first, Existing::Replace).await?;
                let refuses = refuses_to_replace(&**member, key).await;
                member.remove(key).await?;
                refuses
            };
            let asked = timeout(PATIENCE, asking).await;
            asked
                .unwrap_or_else(|_| Err(silent()))
                .map_err(|error| of(name, error))
        });
        let answers = join_all(asking).await;
        let known = answers.iter().flatten().count();
        if known < self.needed() {
            let reason = answers.into_iter().find_map(Result::err);
            return Err(reason.unwrap_or_else(|| io::ErrorKind::HostUnreachable.into()));
        }
        // Each of two writers needs three of four, so they have two in common at least. One that
        // does not refuse may be among these.
        let refusing = answers.iter().flatten().filter(|refuses| **refuses).count();
        Ok(refusing >= self.count().min(MEMBERS - 1))
    }

    /// Does something with each of these members at once; returns those that failed, and why.
    async fn each<'a, F>(
        &'a self,
        these: Members,
        work: impl Fn(&'a dyn Member) -> F,
    ) -> (Members, Vec<String>)
    where
        F: Future<Output = MemberResult<()>> + 'a,
    {
        let members = self.members().into_iter().enumerate();
        let these = members.filter(|(number, _)| these & bit(*number) != 0);
        let working = these.map(|(number, (name, member))| {
            let working = work(&**member);
            async move {
                match timeout(PATIENCE, working).await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some((number, format!("{name}: {error}"))),
                    Err(_) => Some((number, format!("{name}: {}", silent()))),
                }
            }
        });
        let failed: Vec<(usize, String)> = join_all(working).await.into_iter().flatten().collect();
        let missing = failed.iter().map(|(number, _)| bit(*number)).sum();
        (missing, failed.into_iter().map(|(_, why)| why).collect())
    }

    /// Writes a document to members that lack it; returns those that still do, and why.
    pub async fn mend_document(
        &self,
        key: &ObjectKey,
        document: Bytes,
        missing: Members,
    ) -> (Members, Vec<String>) {
        self.each(missing, |member| {
            member.put(key, document.clone(), Existing::Replace)
        })
        .await
    }

    /// Removes an object from these members; returns those that may still have it, and why.
    pub async fn remove(&self, key: &ObjectKey, these: Members) -> (Members, Vec<String>) {
        self.each(these, |member| member.remove(key)).await
    }

    /// What each member has under a key.
    pub async fn documents(&self, key: &ObjectKey) -> Vec<MemberResult<Bytes>> {
        join_all((0..self.count()).map(|number| self.document(number, key))).await
    }

    /// What one member has under a key.
    pub async fn document(&self, number: usize, key: &ObjectKey) -> MemberResult<Bytes> {
        let members = self.members();
        let Some((_, member)) = members.get(number) else {
            return Err(MemberError::Missing(key.to_string()));
        };
        let got = timeout(PATIENCE, member.get(key, None)).await;
        got.map_or_else(|_| Err(silent()), |got| got.map(Bytes::from))
    }

    /// Calls `each` with every object of a member below a directory; the error is why the list
    /// is not whole.
    pub async fn list(
        &self,
        number: usize,
        directory: &ObjectKey,
        mut each: impl FnMut(Object) -> io::Result<()>,
    ) -> io::Result<()> {
        let members = self.members();
        let Some((name, member)) = members.get(number) else {
            return Ok(());
        };
        let mut objects = member.list(Some(directory));
        loop {
            let next = timeout(PATIENCE, objects.next()).await;
            let Some(object) = next.map_err(|_| of(name, silent()))? else {
                return Ok(());
            };
            each(object.map_err(|error| of(name, error))?)?;
        }
    }

    /// Bytes of files that still fit; `None` if the members do not know.
    pub async fn room(&self) -> io::Result<Option<u64>> {
        let members = self.members();
        let asking = members
            .iter()
            .map(|(_, member)| async { timeout(PATIENCE, member.room()).await.ok() });
        let rooms = join_all(asking).await;
        match self {
            Self::One { name, .. } => match rooms.into_iter().next().flatten() {
                Some(room) => room.map_err(|error| of(name, error)),
                None => Err(of(name, MemberError::Unreachable("no answer".to_owned()))),
            },
            Self::Stripe(_) => {
                // Three members need their half; those that do not know, or do not answer, are
                // not in the way.
                let known = rooms.into_iter().map(|room| match room {
                    Some(Ok(room)) => room,
                    _ => Some(0),
                });
                let mut rooms: Vec<u64> = known.map(|room| room.unwrap_or(u64::MAX)).collect();
                rooms.sort_unstable_by(|a, b| b.cmp(a));
                let third = rooms.get(MEMBERS - 2).copied().unwrap_or(0);
                Ok(Some(third.saturating_mul(2)).filter(|_| third != u64::MAX))
            }
        }
    }
}

fn chunk_at<'a>(
    key: &'a ObjectKey,
    len: usize,
    trailer: usize,
    digests: &'a [Digest],
) -> io::Result<ChunkAt<'a>> {
    let digests = digests
        .try_into()
        .map_err(|_| damaged("the chunk is not one of a stripe"))?;
    Ok(ChunkAt {
        key,
        len,
        trailer,
        digests,
    })
}

/// The bit of a member.
pub fn bit(number: usize) -> Members {
    1 << number.min(7)
}

fn bits(numbers: &[usize]) -> Members {
    numbers.iter().fold(0, |all, number| all | bit(*number))
}

/// The numbers of a set, the lowest first.
pub fn numbers(members: Members) -> Vec<usize> {
    (0..MEMBERS)
        .filter(|number| members & bit(*number) != 0)
        .collect()
}

/// Why there is no answer within [`PATIENCE`].
pub fn silent() -> MemberError {
    let seconds = PATIENCE.as_secs();
    MemberError::Unreachable(format!("no answer within {seconds} s"))
}

fn of(name: &str, error: MemberError) -> io::Error {
    let said = format!("{name}: {error}");
    io::Error::new(io::Error::from(error).kind(), said)
}

fn failed(error: StripeError) -> io::Error {
    match error {
        StripeError::Code(_) => damaged(&error.to_string()),
        StripeError::Write { .. } | StripeError::Read { .. } => {
            io::Error::new(io::ErrorKind::HostUnreachable, error)
        }
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}
