//! The letters that a relay keeps for members who are away: where they are, whose they are, how many
//! there may be.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::Connection;
use tokio::task;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::hub::Hub;
use crate::{
    clock,
    error::{Code, Error},
    journal::{
        Journal, JournalError,
        mailbox::{self, Id, Letter, State},
    },
    root::{
        Root, RootError,
        contact::Card,
        introductions,
        name::{Name, NameHash},
        user::User,
    },
    store::{BadName, ContentPath, Contents, PartialName, Store},
    wire::{
        letter::{MAX_RECEIPT, Prekey, PrekeyKind, box_hash},
        post::{DeliveryStatus, PREKEYS},
        session::Share,
    },
};

/// Letters or members that are listed at once.
const LISTED: u32 = 256;

/// How long an invitation can be used, in milliseconds.
const INVITED: u64 = 14 * 86_400_000;

/// Documents that may wait for one member.
const INTRODUCTIONS: u32 = 64;

/// How often what is too old is removed: a few times in the time that it is kept, and not all the time.
const MIN_SWEEP: Duration = Duration::from_secs(1);
const MAX_SWEEP: Duration = Duration::from_secs(600);

/// The letters of a relay. Clones are the same one.
#[derive(Clone)]
pub struct Letters(pub(super) Arc<Inner>);

pub(super) struct Inner {
    user: User,
    pub(super) journal: Journal,
    reader: Mutex<Connection>,
    pub(super) store: Arc<dyn Store>,
    key: Zeroizing<[u8; 32]>,
    pub(super) hub: Hub,
}

/// What a member is told of its mailbox.
pub struct Stock {
    /// Prekeys for one letter each that are left.
    pub once: u64,
    /// Whether there is one for all letters of a day.
    pub daily: bool,
}

/// Presence, for somebody who may see it.
pub enum Seen {
    /// The member is there.
    Now,
    /// It was there then, in milliseconds since 1970.
    At(u64),
    /// Nothing is said.
    Nothing,
}

pub(super) fn failed(error: impl std::fmt::Display) -> Error {
    warn!("letters: {error}");
    Error::new(Code::Later, "the relay cannot keep letters now, try later")
}

impl From<BadName> for Error {
    fn from(error: BadName) -> Self {
        Self::new(Code::Failed, error.to_string())
    }
}

/// Records that whoever has this token may become a member by this name; the relay may be running.
pub async fn invite(root: &Root, token: &[u8; 32], name: &Name) -> Result<(), Error> {
    let unusable = |e: JournalError| Error::new(Code::Failed, e.to_string());
    let (hash, name) = (box_hash(token), name.to_string());
    let until = clock::millis().saturating_add(INVITED);
    let opened = {
        let root = root.clone();
        task::spawn_blocking(move || Journal::open(&root)).await
    };
    let journal = opened.map_err(failed)?.map_err(unusable)?;
    let invited = journal.quietly(true, move |db| mailbox::invite(db, &hash, &name, until));
    invited.committed().await.map_err(unusable)
}

impl Letters {
    /// The letters that a relay keeps in a store; what was coming in when it stopped is removed.
    pub fn open(
        user: &User,
        journal: &Journal,
        store: Arc<dyn Store>,
        hub: &Hub,
    ) -> Result<Self, Error> {
        let unusable = |e: JournalError| Error::new(Code::Failed, e.to_string());
        let letters = Self(Arc::new(Inner {
            key: user.root().relay_key()?,
            reader: Mutex::new(journal.reader().map_err(unusable)?),
            user: user.clone(),
            journal: journal.clone(),
            store,
            hub: hub.clone(),
        }));
        letters.mend()?;
        Ok(letters)
    }

    /// Removes what was coming in when the relay stopped: before anything else may come in.
    fn mend(&self) -> Result<(), Error> {
        for letter in self.write(false, mailbox::broken)? {
            let partial = PartialName::new(&hex::encode(letter))?;
            self.0.store.discard(&partial);
        }
        self.remove_strays()
    }

    pub(super) fn db(&self) -> MutexGuard<'_, Connection> {
        self.0.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write<T: Send + 'static>(
        &self,
        durable: bool,
        work: impl Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let written = self.0.journal.quietly(durable, work);
        written.wait().map_err(failed)
    }

    pub(super) fn is_member(&self, member: &NameHash) -> bool {
        matches!(self.0.user.contact_of(member), Ok(Some(_)))
    }

    /// The lasting key, by which those who leave letters know the relay.
    pub fn key(&self) -> Share {
        Share::from_secret(&self.0.key)
    }

    /// What became of letters.
    pub fn statuses(&self, letters: &[Id]) -> Result<Vec<DeliveryStatus>, Error> {
        let db = self.db();
        let of = |letter| {
            Ok(match mailbox::find(&db, letter).map_err(failed)? {
                Some(Letter {
                    state: State::Settled,
                    receipt,
                    ..
                }) => DeliveryStatus::Settled(receipt),
                Some(Letter {
                    state: State::Arriving | State::Waiting,
                    ..
                }) => DeliveryStatus::Waiting,
                Some(Letter {
                    state: State::Expired,
                    ..
                }) => DeliveryStatus::Expired,
                None => DeliveryStatus::Unknown,
            })
        };
        letters.iter().map(of).collect()
    }

    /// Its sender has the receipt of a letter.
    pub fn forget(&self, letter: Id) -> Result<(), Error> {
        self.write(false, move |db| {
            mailbox::remove(db, &letter, State::Settled)?;
            mailbox::remove(db, &letter, State::Expired)
        })
        .map(drop)
    }

    /// Takes a letter back; `false` if its receiver is done with it, or it is not there.
    pub fn take_back(&self, letter: Id) -> Result<bool, Error> {
        let taken = self.write(true, move |db| mailbox::take_back(db, &letter))?;
        if taken {
            self.discard(&letter);
        }
        Ok(taken)
    }

    /// Makes somebody a member who has the token of an invitation by that name.
    pub fn join(&self, token: &[u8; 32], card: &str) -> Result<(), Error> {
        let card = Card::parse("the card", card.as_bytes())?;
        let user = &self.0.user;
        let refused = || {
            let sentence =
                "there is no such invitation: it was used, or is too old, or for another name";
            Error::new(Code::Refused, sentence)
        };
        // A user of the root is not a member, or it could take the user's calls.
        if user.root().user(&card.name).is_ok() || card.name == *user.name() {
            return Err(refused());
        }
        user.check_contact(&card.name, &card.key, false)?;
        let (hash, name) = (box_hash(token), card.name.to_string());
        let now = clock::millis();
        let used = self.write(true, move |db| {
            mailbox::use_invitation(db, &hash, &name, now)
        })?;
        if !used {
            return Err(refused());
        }
        user.add_contact(&card.name, &card.key, false)?;
        info!(member = %card.name, "joined by an invitation");
        Ok(())
    }

    /// Whether the owner of a box is there.
    pub fn seen(&self, hash: &Id) -> Result<Seen, Error> {
        let found = mailbox::find_box(&self.db(), hash).map_err(failed)?;
        let member = match found {
            Some((member, true)) if self.is_member(&member) => member,
            _ => return Ok(Seen::Nothing),
        };
        if self.0.hub.present(&member).is_some() {
            return Ok(Seen::Now);
        }
        let seen = mailbox::seen(&self.db(), &member).map_err(failed)?;
        Ok(seen.map_or(Seen::Nothing, Seen::At))
    }

    /// Replaces the boxes of a member.
    pub fn set_boxes(&self, member: NameHash, boxes: Vec<(Id, bool)>) -> Result<Stock, Error> {
        let gone = self.write(true, move |db| mailbox::set_boxes(db, &member, &boxes))?;
        for letter in gone {
            self.discard(&letter);
        }
        self.stock(&member)
    }

    fn stock(&self, member: &NameHash) -> Result<Stock, Error> {
        let db = self.db();
        let of = |kind| mailbox::prekeys(&db, member, kind as u8).map_err(failed);
        Ok(Stock {
            once: of(PrekeyKind::Once)?,
            daily: of(PrekeyKind::Daily)? > 0,
        })
    }

    /// Adds prekeys of a member.
    pub fn add_prekeys(
        &self,
        member: NameHash,
        prekeys: &[Prekey],
        replace: bool,
    ) -> Result<Stock, Error> {
        let document = |prekey: &Prekey| crate::json::canonical(&prekey.to_document());
        let each = prekeys
            .iter()
            .map(|prekey| (prekey.kind as u8, prekey.number, document(prekey)));
        let each: Vec<_> = each.collect();
        let limits = (
            PrekeyKind::Daily as u8,
            u32::try_from(PREKEYS).unwrap_or(u32::MAX),
        );
        self.write(true, move |db| {
            if replace {
                mailbox::remove_prekeys(db, &member)?;
            }
            mailbox::add_prekeys(db, &member, &each, limits)
        })?;
        self.stock(&member)
    }

    /// The letters that wait for a member, some of them, without the first `skip`.
    pub fn waiting(&self, member: &NameHash, skip: u64) -> Result<Vec<Letter>, Error> {
        mailbox::waiting(&self.db(), member, skip, LISTED).map_err(failed)
    }

    /// Opens a letter for its member, who wants it from this place on.
    pub fn read(
        &self,
        member: &NameHash,
        letter: &Id,
        offset: u64,
    ) -> Result<Box<dyn Contents>, Error> {
        let found = mailbox::find(&self.db(), letter).map_err(failed)?;
        let is_theirs = |found: &Letter| found.member == *member && found.state == State::Waiting;
        let found = found.filter(is_theirs);
        let found =
            found.ok_or_else(|| Error::new(Code::NotFound, "the relay has no such letter"))?;
        let contents = self.0.store.open(&path(letter)?).map_err(failed)?;
        if offset > 0 && !found.is_fetched {
            // From here on its receiver may have it.
            let letter = *letter;
            self.write(false, move |db| mailbox::fetched(db, &letter))?;
        }
        Ok(contents)
    }

    /// A member is done with a letter, whose sender gets this receipt.
    pub fn settle(&self, member: NameHash, letter: Id, receipt: Vec<u8>) -> Result<(), Error> {
        if receipt.len() > MAX_RECEIPT {
            return Err(Error::new(Code::Failed, "the receipt is too long"));
        }
        let now = clock::millis();
        let settled = self.write(true, move |db| {
            let found = mailbox::find(db, &letter)?;
            match found.is_some_and(|found| found.member == member) {
                true => {
                    // It may have expired while its hooks ran.
                    let step = |from| {
                        let step = (from, State::Settled);
                        mailbox::proceed(db, &letter, step, &receipt, now)
                    };
                    Ok(step(State::Waiting)? || step(State::Expired)?)
                }
                false => Ok(false),
            }
        })?;
        if settled {
            self.discard(&letter);
        }
        Ok(())
    }

    /// Keeps a document of one member for another. Nobody is told whether there is such a member.
    pub fn introduce(&self, from: &Name, to: &str, document: String) -> Result<(), Error> {
        if document.len() > introductions::MAX_LEN {
            return Err(Error::new(Code::Failed, "the document is too long"));
        }
        let receiver = Name::user(to).map_err(RootError::from)?.hash();
        if !self.is_member(&receiver) {
            return Ok(());
        }
        let (sender, now) = (from.to_string(), clock::millis());
        self.write(true, move |db| {
            mailbox::introduce(db, &receiver, (&sender, &document), INTRODUCTIONS, now)
        })?;
        self.0.hub.letters_came(&receiver);
        Ok(())
    }

    /// The documents that wait for a member, some of them, and who they are from.
    pub fn introductions(&self, member: &NameHash) -> Result<Vec<(String, String)>, Error> {
        mailbox::introductions(&self.db(), member).map_err(failed)
    }

    /// A member has the document of another.
    pub fn introduced(&self, member: NameHash, from: String) -> Result<(), Error> {
        self.write(false, move |db| mailbox::introduced(db, &member, &from))
    }

    /// A member is there, and wants to be found or not.
    pub fn saw(&self, member: NameHash, listed: Option<bool>) -> Result<(), Error> {
        let now = clock::millis();
        self.write(false, move |db| mailbox::saw(db, &member, listed, now))
    }

    /// The names of members who want to be found, some of them, without the first `skip`; and how many to
    /// leave out to hear of the others, if there may be others.
    pub fn listed(&self, skip: u64) -> Result<(Vec<Name>, Option<u64>), Error> {
        let listed = mailbox::listed(&self.db(), skip, LISTED).map_err(failed)?;
        let more = listed.len() == LISTED as usize;
        let next = more.then(|| skip.saturating_add(u64::from(LISTED)));
        let known = listed.iter().map(|hash| self.0.user.contact_of(hash));
        let names = known.filter_map(|contact| Some(contact.ok()??.name));
        Ok((names.collect(), next))
    }

    /// Removes the contents of a letter that nobody needs any longer.
    pub(super) fn discard(&self, letter: &Id) {
        let removed = path(letter).map(|path| self.0.store.remove(&path));
        if let Ok(Err(error)) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            debug!("a letter stays for the next sweep: {error}");
        }
    }

    /// Removes what is too old, and what belongs to those who are no members any longer, again and
    /// again.
    pub async fn keep(self) {
        loop {
            let letters = self.clone();
            let swept = task::spawn_blocking(move || letters.sweep()).await;
            if let Ok(Err(error)) = swept {
                warn!("{error}");
            }
            let often = (self.keeps_for() / 4).clamp(MIN_SWEEP, MAX_SWEEP);
            tokio::time::sleep(often).await;
        }
    }

    fn keeps_for(&self) -> Duration {
        self.0.hub.settings.now().relay.keep
    }

    /// Removes contents that no letter has: they were left by a relay that was killed.
    fn remove_strays(&self) -> Result<(), Error> {
        let all = self
            .0
            .store
            .names(&ContentPath::default())
            .map_err(failed)?;
        for (name, _) in all.flatten() {
            let mut letter = [0; 32];
            if hex::decode_to_slice(&name, &mut letter).is_err() {
                continue;
            }
            let found = mailbox::find(&self.db(), &letter).map_err(failed)?;
            if !found.is_some_and(|found| found.state == State::Waiting) {
                self.discard(&letter);
            }
        }
        Ok(())
    }

    fn sweep(&self) -> Result<(), Error> {
        let now = clock::millis();
        let keep = u64::try_from(self.keeps_for().as_millis()).unwrap_or(u64::MAX);
        let before = now.saturating_sub(keep);
        let older = |state| mailbox::older(&self.db(), state, before).map_err(failed);
        loop {
            let expired = older(State::Waiting)?;
            if expired.is_empty() {
                break;
            }
            for id in expired {
                let step = (State::Waiting, State::Expired);
                if self.write(true, move |db| mailbox::proceed(db, &id, step, &[], now))? {
                    self.discard(&id);
                }
            }
        }
        for state in [State::Settled, State::Expired] {
            loop {
                let old = older(state)?;
                if old.is_empty() {
                    break;
                }
                self.write(false, move |db| {
                    for id in &old {
                        mailbox::remove(db, id, state)?;
                    }
                    Ok(())
                })?;
            }
        }
        self.write(false, move |db| mailbox::forget_introductions(db, before))?;
        let known = mailbox::members(&self.db()).map_err(failed)?;
        let contacts = self.0.user.contacts()?;
        // One key file that cannot be read is no reason to forget anybody.
        if contacts.iter().any(Result::is_err) {
            return Ok(());
        }
        let hashes: Vec<_> = contacts
            .iter()
            .flatten()
            .map(|contact| contact.name.hash())
            .collect();
        for member in known.into_iter().filter(|member| !hashes.contains(member)) {
            for letter in self.write(true, move |db| mailbox::remove_member(db, &member))? {
                self.discard(&letter);
            }
        }
        Ok(())
    }
}

/// Where a letter lies in the store.
pub(super) fn path(letter: &Id) -> Result<ContentPath, Error> {
    Ok(ContentPath::parse(&hex::encode(letter))?)
}
