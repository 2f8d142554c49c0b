//! What a contact offers, checked as far as possible without a disk.

use super::receiver::Parties;
use crate::{
    error::{Code, Error},
    meta::{Meta, TransferId, Wire, is_extra},
    root::{conflict::Conflict, destination::Destination, tree::TreePath},
};

/// What a contact wants to send.
pub struct Offer {
    /// What the contact says of it.
    pub asked: Wire,
    /// The path that it is to get, if its sender wants one.
    pub destination: Option<Destination>,
}

/// An offer with nothing wrong in itself.
pub enum Checked {
    /// A file.
    File(Box<FileOffer>),
    /// A message.
    Message(Box<MessageOffer>),
    /// A stream.
    Stream(Box<FileOffer>),
    /// No file: requests come in records. The answer to it.
    Session(Box<Wire>),
}

/// An offered message.
pub struct MessageOffer {
    /// What is known of it, with the text.
    pub meta: Meta,
    /// Its transfer.
    pub id: TransferId,
}

/// An offered file.
pub struct FileOffer {
    /// What is known of it.
    pub meta: Meta,
    /// The path that no other file may take meanwhile.
    pub path: Option<TreePath>,
    /// Bytes of the file; `None` if its sender does not know yet.
    pub size: Option<u64>,
    /// The most bytes of it that are taken.
    pub most: u64,
    /// Its transfer.
    pub id: TransferId,
    /// Whether it is a stream.
    pub is_stream: bool,
    /// Whether its sender can resume.
    pub resumes: bool,
}

impl Offer {
    /// Checks an offer of a file of at most `max_filesize` bytes.
    pub fn check(self, parties: &Parties, max_filesize: u64) -> Result<Checked, Error> {
        let Self { asked, destination } = self;
        let Wire {
            mut meta,
            features,
            session,
            ..
        } = asked;
        let refuse = |sentence: &str| Error::new(Code::Refused, sentence);
        let Parties { user, from, .. } = parties;
        if meta.from != from.as_str() || meta.to != user.name().as_str() {
            return Err(refuse(
                "from and to must be the names that the header stands for",
            ));
        }
        if session {
            let meta = Meta::new(&meta.from, &meta.to, "", "");
            return Ok(Checked::Session(Box::new(Wire::request(meta))));
        }
        if destination.is_none()
            && let Some(message) = meta.message()
        {
            if let Err(wrong) = message {
                return Err(refuse(&wrong.to_string()));
            }
            let id = meta.id.ok_or_else(|| refuse("id is missing"))?;
            meta.error.clear();
            meta.extra.retain(|field, _| is_extra(field));
            return Ok(Checked::Message(Box::new(MessageOffer { meta, id })));
        }
        let size = meta.filesize;
        let is_stream = destination.is_none() && meta.is_stream();
        if size.is_none() && destination.is_some() {
            return Err(refuse("filesize is missing"));
        }
        let id = meta.id.ok_or_else(|| refuse("id is missing"))?;
        if meta.datetime.is_empty() {
            return Err(refuse("datetime is missing"));
        }
        if size.is_some_and(|size| size > max_filesize) {
            let sentence =
                format!("the file is too large, the receiver takes {max_filesize} bytes");
            return Err(refuse(&sentence));
        }
        meta.error.clear();
        meta.extra.retain(|field, _| is_extra(field));
        if let Some(destination) = &destination {
            destination.note(&mut meta);
        }
        // If two want one path, the second finds something there already.
        let path = destination
            .filter(|destination| destination.conflict == Conflict::Refuse)
            .map(|destination| destination.path);
        if is_stream && size.is_some() {
            return Err(refuse("a stream has no filesize: leave it out"));
        }
        let offer = Box::new(FileOffer {
            meta,
            path,
            size,
            most: max_filesize,
            id,
            is_stream,
            // What came of a file of unknown size cannot be sent again.
            resumes: features.resume && size.is_some(),
        });
        Ok(match is_stream {
            true => Checked::Stream(offer),
            false => Checked::File(offer),
        })
    }
}
