//! A member in memory that fails on command.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicIsize, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use hyper::body::Bytes;
use m2y::store::member::{Existing, Member, MemberError, MemberResult, Object, ObjectKey};

/// What is wrong with a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// It is lost with all that it has, or cannot be reached.
    Down,
    /// It takes a request and never answers.
    Hangs,
    /// Each answer takes so long.
    Slow(Duration),
    /// A bit of what it returns is another one.
    Flips,
    /// What it returns ends early.
    Cuts,
    /// It has no room.
    Full,
    /// It takes what is written, and says that it failed.
    FailsAfter,
    /// It replaces what it was told to keep, as some S3 servers do.
    Replaces,
}

#[derive(Default)]
struct Inside {
    objects: BTreeMap<ObjectKey, Bytes>,
    fault: Fault,
    reads: usize,
    /// Writes and removals that still happen; all members of a switch share it.
    switch: Option<Switch>,
}

/// Lets so many writes and removals happen, and then no more, as if the server were killed.
pub type Switch = Arc<AtomicIsize>;

/// The member. Clones are the same one.
#[derive(Clone, Default)]
pub struct TestMember(Arc<Mutex<Inside>>);

impl TestMember {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap()
    }

    /// From here on this is wrong with it.
    pub fn set(&self, fault: Fault) {
        self.inside().fault = fault;
    }

    /// Writes and removals happen until the switch is used up.
    pub fn switch(&self, switch: Option<&Switch>) {
        self.inside().switch = switch.cloned();
    }

    /// Everything that it holds.
    pub fn objects(&self) -> BTreeMap<ObjectKey, Bytes> {
        self.inside().objects.clone()
    }

    /// It holds this, and nothing else.
    pub fn set_objects(&self, objects: BTreeMap<ObjectKey, Bytes>) {
        self.inside().objects = objects;
    }

    fn is_off(&self) -> bool {
        let inside = self.inside();
        let left = inside.switch.as_ref();
        left.is_some_and(|left| left.fetch_sub(1, Ordering::SeqCst) <= 0)
    }

    /// All its objects are gone.
    pub fn empty(&self) {
        self.inside().objects.clear();
    }

    pub fn has(&self, key: &ObjectKey) -> bool {
        self.inside().objects.contains_key(key)
    }

    /// Bytes of an object.
    pub fn len_of(&self, key: &ObjectKey) -> usize {
        self.inside().objects[key].len()
    }

    /// How many reads it was asked for.
    pub fn reads(&self) -> usize {
        self.inside().reads
    }

    /// Flips a bit of an object where it lies.
    pub fn flip(&self, key: &ObjectKey, at: usize) {
        let mut inside = self.inside();
        let object = inside.objects.get_mut(key).unwrap();
        let mut bytes = object.to_vec();
        bytes[at] ^= 1;
        *object = bytes.into();
    }

    async fn fail(&self) -> MemberResult<()> {
        let fault = self.inside().fault;
        match fault {
            Fault::Down => Err(MemberError::Unreachable("it is down".to_owned())),
            Fault::Hangs => std::future::pending().await,
            Fault::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Member for TestMember {
    fn put<'a>(
        &'a self,
        key: &'a ObjectKey,
        body: Bytes,
        existing: Existing,
    ) -> BoxFuture<'a, MemberResult<()>> {
        async move {
            self.fail().await?;
            if self.is_off() {
                return Err(MemberError::Unreachable("the server is gone".to_owned()));
            }
            let mut inside = self.inside();
            if inside.fault == Fault::Full {
                return Err(MemberError::Full("it is full".to_owned()));
            }
            let keeps = existing == Existing::Keep && inside.fault != Fault::Replaces;
            if keeps && inside.objects.contains_key(key) {
                return Err(MemberError::Exists(key.to_string()));
            }
            inside.objects.insert(key.clone(), body);
            match inside.fault {
                Fault::FailsAfter => Err(MemberError::Unreachable("it was cut".to_owned())),
                _ => Ok(()),
            }
        }
        .boxed()
    }

    fn get<'a>(
        &'a self,
        key: &'a ObjectKey,
        range: Option<Range<u64>>,
    ) -> BoxFuture<'a, MemberResult<Vec<u8>>> {
        async move {
            self.inside().reads += 1;
            self.fail().await?;
            let inside = self.inside();
            let object = inside.objects.get(key).cloned();
            let object = object.ok_or_else(|| MemberError::Missing(key.to_string()))?;
            let len = object.len();
            let range = range.map_or(0..len, |range| {
                (range.start as usize).min(len)..(range.end as usize).min(len)
            });
            let mut bytes = object.slice(range).to_vec();
            match inside.fault {
                Fault::Flips => bytes[0] ^= 0x80,
                Fault::Cuts => bytes.truncate(bytes.len() / 2),
                _ => {}
            }
            Ok(bytes)
        }
        .boxed()
    }

    fn stat<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<Object>> {
        async move {
            self.fail().await?;
            let inside = self.inside();
            let object = inside.objects.get(key);
            let object = object.ok_or_else(|| MemberError::Missing(key.to_string()))?;
            Ok(Object {
                key: key.clone(),
                size: object.len() as u64,
                modified: 0,
            })
        }
        .boxed()
    }

    fn remove<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, MemberResult<()>> {
        async move {
            self.fail().await?;
            if self.is_off() {
                return Err(MemberError::Unreachable("the server is gone".to_owned()));
            }
            self.inside().objects.remove(key);
            Ok(())
        }
        .boxed()
    }

    fn list<'a>(&'a self, directory: Option<&'a ObjectKey>) -> BoxStream<'a, MemberResult<Object>> {
        let under = directory.map(|directory| format!("{directory}/"));
        let listing = async move {
            if let Err(error) = self.fail().await {
                return vec![Err(error)];
            }
            let inside = self.inside();
            let fits = |key: &ObjectKey| {
                let under = under.as_ref();
                under.is_none_or(|under| key.as_str().starts_with(under.as_str()))
            };
            let objects = inside.objects.iter().filter(|(key, _)| fits(key));
            let object = |(key, bytes): (&ObjectKey, &Bytes)| {
                Ok(Object {
                    key: key.clone(),
                    size: bytes.len() as u64,
                    modified: 0,
                })
            };
            objects.map(object).collect::<Vec<_>>()
        };
        listing.map(stream::iter).flatten_stream().boxed()
    }

    fn room(&self) -> BoxFuture<'_, MemberResult<Option<u64>>> {
        async { Ok(None) }.boxed()
    }
}
