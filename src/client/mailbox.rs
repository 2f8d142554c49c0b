//! The mailbox of a user at a relay: the boxes and prekeys that are published there, and the letters
//! that are fetched (`receiving`).

mod letter_file;
mod prekey_stock;
mod receiving;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    task,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use self::prekey_stock::{KEPT, Replenished, replenish};
use super::{
    lost,
    membership::{converse, record_key, unreadable},
    private_key,
};
use crate::{
    clock,
    crypto::keys::PrivateKey,
    error::{Code, Error},
    journal::letters,
    json::{Map, Value, from_hex},
    relay::conversation::Conversation,
    root::{RootError, name::Name, prekeys::Prekeys, user::User},
    transfer::receive::receiver::Receiver,
    wire::{
        letter::{BoxId, LEN, box_hash},
        post::{Ask, BOXES_AT_ONCE, PREKEYS_AT_ONCE},
    },
};

/// Letters and documents that are fetched in one go: a relay that always has more does not keep us busy.
const MOST: u64 = 10_000;

/// How often is looked whether boxes were given or taken away.
const LOOK: Duration = Duration::from_secs(2);

/// How often the relay is asked although nothing happened.
const EVERY: Duration = Duration::from_secs(6 * 3_600);

/// The pause after an attempt that failed, or that left letters for later: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(1_800)];

/// How long receipts are remembered, in milliseconds: as long as a letter could be opened again.
const REMEMBERED: u64 = KEPT + 86_400_000;

/// How old prekeys are at least, in milliseconds, when they are replaced because some may be lost.
const RENEWAL: u64 = 3_600_000;

/// Looks after the mailbox of a user at one relay, for as long as the user is a member there. `letters`
/// is notified when some have come.
pub(super) async fn keep(user: &User, relay: &Name, receiver: &Arc<Receiver>, letters: &Notify) {
    let [first, longest] = PAUSES;
    // It begins when the relay is there.
    let (mut pause, mut due) = (first, None);
    let mut known = {
        let user = user.clone();
        let looking = task::spawn_blocking(move || user.boxes_stamp());
        looking.await.ok().flatten()
    };
    let mut was_said = false;
    loop {
        // Before the boxes are read: one that is given meanwhile is published the next time.
        let (is_joined, stamp) = {
            let (user, relay) = (user.clone(), relay.clone());
            let looking = move || {
                let joined = user.relays().is_ok_and(|all| all.contains(&relay));
                (joined, user.boxes_stamp())
            };
            task::spawn_blocking(looking).await.unwrap_or_default()
        };
        let is_due = due.is_some_and(|due: Instant| due <= Instant::now());
        if is_joined && (is_due || stamp != known) {
            let synced = match Mailbox::open(user, relay, receiver).await {
                Ok(mailbox) => mailbox.sync().await,
                Err(error) => Err(error),
            };
            known = stamp;
            match synced {
                Ok(true) => {
                    due = Some(Instant::now() + EVERY);
                    (pause, was_said) = (first, false);
                }
                Ok(false) => {
                    due = Some(Instant::now() + pause);
                    pause = (pause * 2).min(longest);
                }
                // A relay without letters: only those who call are heard of.
                Err(error) if error.code == Code::Refused => due = Some(Instant::now() + EVERY),
                Err(error) => {
                    // While the relay is away, that is said already.
                    if !was_said && error.code != Code::Later {
                        warn!(user = %user.name(), %relay, "no letters come: {error}");
                        was_said = true;
                    }
                    due = Some(Instant::now() + pause);
                    pause = (pause * 2).min(longest);
                }
            }
        }
        tokio::select! {
            () = letters.notified() => {
                due = Some(Instant::now());
                pause = first;
            }
            () = sleep(LOOK) => {}
        }
    }
}

/// The connection by which a user looks after the mailbox.
struct Mailbox<'a> {
    user: &'a User,
    relay: &'a Name,
    receiver: &'a Arc<Receiver>,
    private: Arc<PrivateKey>,
    conversation: Conversation,
    boxes: Vec<(Name, BoxId)>,
    prekeys: Prekeys,
    /// Whether a letter was for a prekey that is not among them: used up, or lost.
    has_lost_some: bool,
}

/// A letter that waits.
struct Waiting {
    letter: [u8; LEN],
    hash: [u8; LEN],
    bytes: u64,
}

impl<'a> Mailbox<'a> {
    async fn open(
        user: &'a User,
        relay: &'a Name,
        receiver: &'a Arc<Receiver>,
    ) -> Result<Self, Error> {
        let reading = {
            let user = user.clone();
            task::spawn_blocking(move || user.given_boxes())
        };
        let boxes = reading.await.map_err(lost)??;
        let conversation = converse(user, relay).await?;
        Ok(Self {
            private: Arc::new(private_key(user).await?),
            user,
            relay,
            receiver,
            conversation,
            boxes,
            prekeys: Prekeys::default(),
            has_lost_some: false,
        })
    }

    /// Publishes what changed, and fetches what waits; `false` if letters were left for later.
    async fn sync(mut self) -> Result<bool, Error> {
        let settings = self.user.root().settings()?;
        let stock = self.publish(settings.presence.show).await?;
        self.provide(&stock).await?;
        info!(user = %self.user.name(), relay = %self.relay, "the mailbox is in order");
        self.introductions().await?;
        let listed = Ask::Listed(settings.presence.listed);
        self.conversation.ask(&listed).await?;
        let before = clock::millis().saturating_sub(REMEMBERED);
        let journal = self.receiver.hooks.journal();
        drop(journal.quietly(false, move |db| letters::forget(db, before)));
        // Those that have to wait are not tried twice in one go.
        let (mut left, mut tried) = (0, 0);
        while tried < MOST {
            let waiting = self.list(left).await?;
            if waiting.is_empty() {
                break;
            }
            for letter in waiting {
                tried += 1;
                match self.take(&letter).await {
                    Ok(()) => {}
                    // It was taken back.
                    Err(error) if error.code == Code::NotFound => {}
                    // One letter is no reason not to fetch the others.
                    Err(error) => {
                        info!(user = %self.user.name(), relay = %self.relay, "a letter waits: {error}");
                        left += 1;
                    }
                }
            }
        }
        // If they are lost, all that the relay has are; one contact cannot make us make new ones all the
        // time.
        let age = clock::millis().saturating_sub(self.prekeys.renewed);
        if self.has_lost_some && age > RENEWAL {
            self.prekeys.renewed = 0;
            self.record_prekeys().await?;
            left += 1;
        }
        self.conversation.close().await;
        Ok(left == 0 && tried < MOST)
    }

    /// Fetches documents of people who want to become contacts, or have answered.
    async fn introductions(&mut self) -> Result<(), Error> {
        let mut had = 0;
        while had < MOST {
            let answer = self.conversation.ask(&Ask::Introductions).await?;
            let all = answer.get("documents").and_then(Value::as_array);
            let all = all.ok_or_else(unreadable)?;
            if all.is_empty() {
                return Ok(());
            }
            for one in all {
                let field = |field: &str| one.get(field).and_then(Value::as_str);
                let (Some(from), Some(document)) = (field("from"), field("document")) else {
                    return Err(unreadable());
                };
                let name = Name::user(from).map_err(RootError::from)?;
                let (user, document) = (self.user.clone(), document.to_owned());
                let keeping = task::spawn_blocking(move || {
                    user.keep_introduction(&name, document.as_bytes())
                });
                keeping.await.map_err(lost)??;
                info!(user = %self.user.name(), relay = %self.relay, "a contact request or its answer has come: `m2y contact list` shows it");
                let from = from.to_owned();
                self.conversation.ask(&Ask::Introduced { from }).await?;
                had += 1;
            }
        }
        Ok(())
    }

    /// Publishes the boxes; returns what the relay says of the prekeys.
    async fn publish(&mut self, shows: bool) -> Result<Map<String, Value>, Error> {
        let all: Vec<_> = self
            .boxes
            .iter()
            .map(|(_, id)| (box_hash(id), shows))
            .collect();
        let mut parts: Vec<_> = all.chunks(BOXES_AT_ONCE).map(<[_]>::to_vec).collect();
        let last = parts.pop().unwrap_or_default();
        for boxes in parts {
            let ask = Ask::Boxes { boxes, more: true };
            self.conversation.ask(&ask).await?;
        }
        let ask = Ask::Boxes {
            boxes: last,
            more: false,
        };
        let stock = self.conversation.ask(&ask).await?;
        record_key(self.user, self.relay, &stock).await?;
        Ok(stock)
    }

    /// Sees to it that there are enough prekeys at the relay.
    async fn provide(&mut self, stock: &Map<String, Value>) -> Result<(), Error> {
        let once = stock
            .get("once")
            .and_then(Value::as_u64)
            .ok_or_else(unreadable)?;
        let once = usize::try_from(once).unwrap_or(usize::MAX);
        let has_daily = stock.get("daily") == Some(&Value::Bool(true));
        let (user, relay) = (self.user.clone(), self.relay.clone());
        let (private, stock) = (self.private.clone(), (once, has_daily));
        let making = task::spawn_blocking(move || replenish((&user, &relay), &private, stock));
        let Replenished {
            prekeys,
            public,
            mut replace,
        } = making.await.map_err(lost)??;
        self.prekeys = prekeys;
        for some in public.chunks(PREKEYS_AT_ONCE) {
            let ask = Ask::Prekeys {
                prekeys: some.to_vec(),
                replace: std::mem::take(&mut replace),
            };
            self.conversation.ask(&ask).await?;
        }
        Ok(())
    }

    async fn list(&mut self, skip: u64) -> Result<Vec<Waiting>, Error> {
        let answer = self.conversation.ask(&Ask::List { skip }).await?;
        let all = answer.get("letters").and_then(Value::as_array);
        let each = all.ok_or_else(unreadable)?.iter().map(|one| {
            let field = |field| from_hex::<LEN>(one.get(field)?.as_str()?);
            Some(Waiting {
                letter: field("letter")?,
                hash: field("box")?,
                bytes: one.get("bytes")?.as_u64()?,
            })
        });
        each.collect::<Option<_>>().ok_or_else(unreadable)
    }
}
