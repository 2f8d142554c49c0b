//! The names of an incoming file, before hooks decide about it.

use std::{collections::HashMap, io};

use super::{
    decision::logged,
    error::store_error,
    inbox::Inbox,
    offer::FileOffer,
    partial::{Partial, Reserved},
    receiver::{Parties, Receiver},
    under_way::Claim,
};
use crate::{
    error::{Code, Error},
    files::exists,
    journal::delivered::Transfer,
    root::{destination::Destination, folder_rules::Names},
};

/// A file whose transfer no other session has in hand.
pub(super) struct Claimed {
    offer: Box<FileOffer>,
    inbox: Inbox,
    pub(super) claim: Claim,
}

/// How large a file is, as far as that is known.
#[derive(Clone, Copy)]
pub(super) struct Size {
    /// Its bytes, if its sender knows.
    pub(super) known: Option<u64>,
    /// The most bytes of it that are taken.
    pub(super) most: u64,
}

impl Receiver {
    /// Claims a transfer for this session.
    pub(super) fn claim(
        &self,
        parties: &Parties,
        inboxes: &mut HashMap<String, Result<Inbox, Error>>,
        offer: Box<FileOffer>,
    ) -> Result<Claimed, Error> {
        let inbox = inboxes
            .entry(offer.meta.folder.clone())
            .or_insert_with_key(|folder| self.inbox(&parties.user, folder))
            .clone()?;
        if !inbox.rules.takes_files && !offer.is_stream {
            let sentence = "this folder takes messages only: choose a different one for files";
            return Err(Error::new(Code::Refused, sentence));
        }
        let Parties { from, holder, .. } = parties;
        let claim = self.under_way.claim(&inbox.folder, from, offer.id, holder);
        let claim = claim.ok_or_else(|| {
            Error::new(Code::Later, "this transfer is under way already, try later")
        })?;
        Ok(Claimed {
            offer,
            inbox,
            claim,
        })
    }

    /// Names a file, on a disk thread. `known` is what the journal has of its transfer; it was read
    /// after the transfer was claimed, so it is the latest.
    pub(super) fn reserve(
        &self,
        claimed: Claimed,
        known: Option<Transfer>,
    ) -> Result<(Reserved, Inbox, Size, u64), Error> {
        let Claimed {
            mut offer,
            inbox,
            mut claim,
        } = claimed;
        if inbox.rules.names == Names::Original
            && Destination::of(&offer.meta).is_none()
            && let Some(destination) = Destination::original(&offer.meta, &inbox.config)
        {
            destination.note(&mut offer.meta);
        }
        if let Some(path) = &offer.path
            && known.is_none()
            && !claim.take_path(path)
        {
            return Err(exists());
        }
        let store = inbox.store.clone();
        let reserved = Partial::reserve(&inbox.folder, store, offer.meta, claim, known);
        let mut reserved = reserved.map_err(|e| logged(&e))?;
        let mut held = 0;
        let mut size = Size {
            known: offer.size,
            most: offer.most,
        };
        if let Reserved::New(partial) = &mut reserved {
            match size.known.filter(|_| offer.resumes) {
                Some(size) => held = partial.held(size).map_err(|e| logged(&e))?,
                None => partial.discard(),
            }
            if offer.is_stream && !inbox.rules.records {
                // Nothing of it is stored.
                size.most = u64::MAX;
            } else if let Some(room) = inbox.room {
                size.most = size.most.min(room);
                if room < size.known.map_or(1, |size| size - held) {
                    return Err(store_error(&io::ErrorKind::StorageFull.into()));
                }
            }
            if inbox.shows_meta {
                partial.write_meta().map_err(|e| logged(&e))?;
            }
        }
        Ok((reserved, inbox, size, held))
    }
}
