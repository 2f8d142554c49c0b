//! Who attends, and which calls wait for an answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    crypto::{self, CryptoError},
    root::{
        name::NameHash,
        settings::{Settings, live::Live},
    },
    transport::{
        Link, Peer,
        admission::{Admission, Admitted},
    },
    wire::relay::{TOKEN_LEN, Token},
};

/// How long a member may take to dial back once it has said that it will.
const BACK: Duration = Duration::from_secs(10);

/// Calls that wait for a member at the same time: further ones are not put through.
const WAITING: usize = 64;

/// Calls of a member: so many at once, and so many a second from then on. More would be a burden to its
/// connection, whoever they are from.
const BURST: f64 = 100.0;
const RATE: f64 = 20.0;

/// Somebody who dials a member.
pub struct Call {
    /// Names the call.
    pub token: Token,
    /// The opening, header and envelope.
    pub opening: Arc<Vec<u8>>,
}

/// What a hub has to do with the connection of somebody who dialled back.
pub struct Back {
    /// The connection.
    pub link: Link,
    /// Held for as long as the connection is used.
    pub done: oneshot::Sender<()>,
}

#[derive(Default)]
struct Inner {
    present: HashMap<NameHash, Present>,
    pending: HashMap<[u8; TOKEN_LEN], Pending>,
}

struct Present {
    calls: mpsc::Sender<Call>,
    /// Tells this connection of a member from an older one.
    number: u64,
    since: Instant,
    /// Calls that may come, as of a moment: a token bucket.
    bucket: (f64, Instant),
    /// Told that letters have come.
    letters: Arc<Notify>,
}

impl Present {
    /// Takes a token for a call, if there is one.
    fn takes(&mut self) -> bool {
        let (tokens, then) = self.bucket;
        let now = Instant::now();
        let tokens = (tokens + (now - then).as_secs_f64() * RATE).min(BURST);
        let has_one = tokens >= 1.0;
        self.bucket = (if has_one { tokens - 1.0 } else { tokens }, now);
        has_one
    }
}

struct Pending {
    member: NameHash,
    decided: Option<oneshot::Sender<bool>>,
    back: Option<oneshot::Sender<Back>>,
}

/// The hub of a relay.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Mutex<Inner>>,
    /// What the administrator allows.
    pub settings: Live<Settings>,
    /// Pairs, in all and of the callers of one host; and those of each member.
    pairs: Admission,
    of_members: Admission,
}

/// A member who attends until this is dropped.
pub struct Attending {
    /// Those who dial.
    pub calls: mpsc::Receiver<Call>,
    /// Letters have come.
    pub letters: Arc<Notify>,
    hub: Hub,
    member: NameHash,
    number: u64,
}

impl Drop for Attending {
    fn drop(&mut self) {
        self.hub.with(|inner| {
            let is_this = |present: &Present| present.number == self.number;
            if inner.present.get(&self.member).is_some_and(is_this) {
                inner.present.remove(&self.member);
            }
        });
    }
}

/// Room for a pair, until this is dropped.
pub struct Room {
    _pair: Admitted,
    _of_member: Admitted,
}

impl Hub {
    /// A hub that nobody attends yet.
    pub fn new(settings: &Live<Settings>) -> Self {
        let relay = &settings.now().relay;
        Self {
            inner: Arc::default(),
            pairs: Admission::new(relay.max_pairs, relay.pairs_per_address),
            of_members: Admission::new(relay.max_pairs, relay.pairs_per_member),
            settings: settings.clone(),
        }
    }

    /// The settings have changed.
    pub fn reloaded(&self) {
        let relay = &self.settings.now().relay;
        self.pairs.limit(relay.max_pairs, relay.pairs_per_address);
        self.of_members
            .limit(relay.max_pairs, relay.pairs_per_member);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A member attends from now on, in place of an older connection of the same member.
    pub fn attend(&self, member: NameHash) -> Result<Attending, CryptoError> {
        let (give, calls) = mpsc::channel(1);
        let number = u64::from_be_bytes(crypto::random()?);
        let letters = Arc::new(Notify::new());
        let present = Present {
            calls: give,
            number,
            since: Instant::now(),
            bucket: (BURST, Instant::now()),
            letters: letters.clone(),
        };
        self.with(|inner| inner.present.insert(member, present));
        Ok(Attending {
            calls,
            letters,
            hub: self.clone(),
            member,
            number,
        })
    }

    /// Letters have come for a member, which hears of it if it attends.
    pub fn letters_came(&self, member: &NameHash) {
        self.with(|inner| {
            if let Some(present) = inner.present.get(member) {
                present.letters.notify_one();
            }
        });
    }

    /// For how long a member has attended, if it does.
    pub fn present(&self, member: &NameHash) -> Option<Duration> {
        self.with(|inner| Some(inner.present.get(member)?.since.elapsed()))
    }

    /// Who attends and for how long, and how many pairs there are.
    pub fn all(&self) -> (Vec<(NameHash, Duration)>, usize) {
        let since = |present: &Present| present.since.elapsed();
        let all = self.with(|inner| {
            let each = inner.present.iter();
            each.map(|(hash, present)| (*hash, since(present)))
                .collect()
        });
        (all, self.pairs.count())
    }

    /// Calls a member for somebody who sent this opening. `None` if the member does not come: it is
    /// away, or does not let them in, or has too much to do; which of them is not said before
    /// `until`.
    pub async fn call(
        &self,
        member: &NameHash,
        from: &Peer,
        opening: Arc<Vec<u8>>,
        until: Instant,
    ) -> Option<(Back, Room)> {
        let room = self.room(member, from)?;
        let calls = self.with(|inner| {
            let present = inner.present.get_mut(member)?;
            present.takes().then(|| present.calls.clone())
        })?;
        let token = Token(crypto::random().ok()?);
        let (decide, decided) = oneshot::channel();
        let (give, back) = oneshot::channel();
        self.with(|inner| {
            let waiting = inner.pending.values().filter(|one| one.member == *member);
            let pending = Pending {
                member: *member,
                decided: Some(decide),
                back: Some(give),
            };
            (waiting.count() < WAITING).then(|| inner.pending.insert(token.0, pending))
        })?;
        let _pending = Forgotten(self, token.0);
        let call = Call { token, opening };
        timeout_at(until, calls.send(call)).await.ok()?.ok()?;
        let comes = timeout_at(until, decided).await.ok()?.ok()?;
        let back = comes.then(|| timeout(BACK, back))?;
        Some((back.await.ok()?.ok()?, room))
    }

    /// Room for one more pair.
    fn room(&self, member: &NameHash, from: &Peer) -> Option<Room> {
        let member = Peer::Named(hex::encode(member));
        Some(Room {
            _pair: self.pairs.admit(from)?,
            _of_member: self.of_members.admit(&member)?,
        })
    }

    /// A member says whether it lets a caller in. Of other members' calls it can say nothing.
    pub fn decide(&self, member: &NameHash, token: &Token, lets_in: bool) {
        let decided = self.with(|inner| {
            let pending = inner.pending.get_mut(&token.0)?;
            (pending.member == *member).then(|| pending.decided.take())?
        });
        if let Some(decided) = decided {
            let _ = decided.send(lets_in);
        }
    }

    /// Somebody dials back: the link goes to the call that it names. `None` if there is none such.
    pub fn arrive(&self, token: &Token, link: Link) -> Option<oneshot::Receiver<()>> {
        let give = self.with(|inner| {
            let pending = inner.pending.get_mut(&token.0)?;
            // Who knows the token is the member, and has decided.
            if let Some(decided) = pending.decided.take() {
                let _ = decided.send(true);
            }
            pending.back.take()
        })?;
        let (done, over) = oneshot::channel();
        give.send(Back { link, done }).ok()?;
        Some(over)
    }
}

/// Forgets a call that waits, when this is dropped.
struct Forgotten<'a>(&'a Hub, [u8; TOKEN_LEN]);

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        self.0.with(|inner| inner.pending.remove(&self.1));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    use crate::root::settings::RelaySettings;

    const MEMBER: NameHash = *b"roland-f";

    fn hub_with(relay: RelaySettings) -> Hub {
        Hub::new(&Live::new(Settings {
            relay,
            ..Settings::default()
        }))
    }

    fn peer(text: &str) -> Peer {
        Peer::Ip(text.parse().unwrap())
    }

    fn link() -> Link {
        Link {
            reader: Box::new(tokio::io::empty()),
            writer: Box::new(tokio::io::sink()),
            peer: peer("192.0.2.5:1"),
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_the_member_and_a_token_opens_it_once() {
        let hub = hub_with(RelaySettings::default());
        let opening = Arc::new(vec![1, 2, 3]);
        let from = peer("192.0.2.1:1");
        // Nobody is there.
        let nobody = hub.call(&MEMBER, &from, opening.clone(), soon()).await;
        assert!(nobody.is_none());
        let mut attending = hub.attend(MEMBER).unwrap();
        let calling = {
            let (hub, opening) = (hub.clone(), opening.clone());
            tokio::spawn(async move { hub.call(&MEMBER, &from, opening, soon()).await.is_some() })
        };
        let call = attending.calls.recv().await.unwrap();
        assert_eq!(call.opening, opening);
        // Another member can say nothing about it.
        hub.decide(b"zhenqian", &call.token, false);
        assert!(hub.arrive(&Token([7; TOKEN_LEN]), link()).is_none());
        assert!(hub.arrive(&call.token, link()).is_some());
        assert!(hub.arrive(&call.token, link()).is_none());
        assert!(calling.await.unwrap());
        assert_eq!((hub.all().0.len(), hub.all().1), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_who_refuses_and_one_who_is_silent_cost_a_caller_the_same() {
        let hub = hub_with(RelaySettings::default());
        let mut attending = hub.attend(MEMBER).unwrap();
        let call = |hub: Hub| async move {
            let from = peer("192.0.2.1:1");
            hub.call(&MEMBER, &from, Arc::default(), soon())
                .await
                .is_none()
        };
        let refused = tokio::spawn(call(hub.clone()));
        let one = attending.calls.recv().await.unwrap();
        hub.decide(&MEMBER, &one.token, false);
        assert!(refused.await.unwrap());
        let silent = tokio::spawn(call(hub.clone()));
        let _one = attending.calls.recv().await.unwrap();
        assert!(silent.await.unwrap());
        // The place is free again, and a newer connection takes over.
        drop(hub.attend(MEMBER).unwrap());
        assert!(hub.present(&MEMBER).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_is_not_called_more_often_than_it_can_bear() {
        let hub = hub_with(RelaySettings::default());
        let _attending = hub.attend(MEMBER).unwrap();
        let take = || hub.with(|inner| inner.present.get_mut(&MEMBER).unwrap().takes());
        assert_eq!((0..1_000).filter(|_| take()).count(), 100);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..1_000).filter(|_| take()).count(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn pairs_are_limited_for_a_member_and_for_a_host() {
        let settings = RelaySettings {
            pairs_per_member: 3,
            pairs_per_address: 2,
            ..RelaySettings::default()
        };
        let hub = hub_with(settings);
        let (one, other) = (peer("192.0.2.1:1"), peer("192.0.2.2:1"));
        let first = hub.room(&MEMBER, &one).unwrap();
        let _second = hub.room(&MEMBER, &one).unwrap();
        assert!(hub.room(&MEMBER, &one).is_none(), "the host has two");
        let _third = hub.room(&MEMBER, &other).unwrap();
        assert!(hub.room(&MEMBER, &other).is_none(), "the member has three");
        assert!(hub.room(b"zhenqian", &other).is_some());
        drop(first);
        assert!(hub.room(&MEMBER, &other).is_some());
    }
}
