//! Who is speaking: nothing is acted on before this is certain.

use std::{io, sync::Arc};

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::metrics::Metrics;
use crate::{
    clock,
    crypto::{SysRng, keys::PrivateKey},
    error::{Code, Error, printable},
    journal::openings::{Opening, Openings, Stamp, timely},
    meta::{Announcement, Meta, MetaError, Wire},
    root::{Root, RootError, contact::Contact, settings::Settings, user::User},
    wire::{
        WireError,
        envelope::{self, Contents, Opened, Part},
        header::{self, AnswerHeader, Header, Turned},
        session::{self, SessionKeys, Share},
    },
};

/// Who opened the session, authenticated by signature.
pub struct Caller {
    /// The receiver.
    pub user: User,
    /// The sender.
    pub contact: Contact,
    private: PrivateKey,
    opened: Opened,
    digest: [u8; 32],
    metrics: Arc<Metrics>,
    /// What the contact is told about where the user is reached.
    announced: Option<Announcement>,
    /// The meta, or what is wrong with it.
    pub request: Result<Wire, Error>,
}

/// Why a peer is turned away without an envelope.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    #[error("unknown receiver")]
    Receiver,
    #[error("the receiver has no such contact")]
    Sender,
    #[error("{0}")]
    Signature(WireError),
    #[error("the opening was had before")]
    Replay,
    #[error("the opening is older than those that were forgotten")]
    Stale,
    #[error("the opening is from {time}, our clock says {now}: one of the clocks is wrong, or it was held back", time = moment(*time), now = moment(*now))]
    Untimely { time: u64, now: u64 },
    #[error("the opening cannot be opened: {0}")]
    Envelope(WireError),
    #[error("{0}")]
    Root(RootError),
    #[error("cannot remember openings: {0}")]
    Memory(io::Error),
    #[error("the server failed")]
    Failed,
}

impl Unknown {
    /// One answer for all unknown peers; a different one if the server is at fault.
    pub fn answer(&self) -> Turned {
        match self {
            Self::Receiver
            | Self::Sender
            | Self::Signature(_)
            | Self::Replay
            | Self::Envelope(_) => Turned::Stranger,
            Self::Stale | Self::Untimely { .. } => Turned::Stale,
            Self::Root(_) | Self::Memory(_) | Self::Failed => Turned::Busy,
        }
    }
}

/// A time in milliseconds since 1970, for the log.
fn moment(millis: u64) -> String {
    let time = i64::try_from(millis).ok();
    let time = time.and_then(|millis| Timestamp::from_millisecond(millis).ok());
    time.map_or_else(|| millis.to_string(), |time| time.to_string())
}

/// Finds out who is speaking: both keys by the hashes, the signature, whether the opening is new,
/// then the seal.
pub fn identify(
    root: &Root,
    openings: &Openings,
    metrics: &Arc<Metrics>,
    settings: &Settings,
    opening: &(Header, [u8; header::LEN], Vec<u8>),
) -> Result<Caller, Unknown> {
    let (head, header, envelope) = opening;
    let name = root.name_of(&head.to).map_err(Unknown::Root)?;
    let name = name.ok_or(Unknown::Receiver)?;
    // A directory without a profile is nobody yet.
    let user = RootError::unless_shortage(root.finished(&name)).map_err(Unknown::Root)?;
    let user = user.flatten().ok_or(Unknown::Receiver)?;
    let contact = user.contact_of(&head.from).map_err(Unknown::Root)?;
    let contact = contact.ok_or(Unknown::Sender)?;
    let verified = envelope::verify(Part::Opening, header, envelope, &contact.key)
        .map_err(Unknown::Signature)?;
    let digest = session::opening_digest(header, envelope);
    let (time, now) = (verified.time(), clock::millis());
    let stamp = Stamp { digest, time };
    // Before the private key is used: of many copies at once one costs an operation. If that one
    // cannot be opened, it is of no use to anybody, and stays claimed.
    let found = openings.claim(
        &user,
        &contact.name,
        &stamp,
        &timely(now, settings.opening_max_age),
    );
    match found.map_err(Unknown::Memory)? {
        Opening::New => {}
        Opening::Seen => return Err(Unknown::Replay),
        Opening::Old => return Err(Unknown::Stale),
        Opening::Untimely => return Err(Unknown::Untimely { time, now }),
    }
    let private = user.private_key().map_err(Unknown::Root)?;
    metrics.private_key();
    let opened = verified.open(&private).map_err(Unknown::Envelope)?;
    let request = Wire::from_json(&opened.contents.json).map_err(|e: MetaError| {
        let why = printable(&e.to_string(), 300);
        Error::new(Code::Failed, format!("the metadata cannot be read: {why}"))
    });
    if let Ok(Wire {
        announced: Some(announced),
        ..
    }) = &request
    {
        // A session does not fail because of it.
        let _ = user.set_announced(&contact.name, announced);
    }
    let announced = user.announcement(settings, &contact.name);
    Ok(Caller {
        // If it cannot be read, the contact keeps what it knows.
        announced: announced.ok(),
        user,
        contact,
        private,
        opened,
        digest,
        metrics: metrics.clone(),
        request,
    })
}

impl Caller {
    /// Steps 9 to 11: seals the answer and derives the keys of the session.
    pub fn seal_answer(&self, reply: &Wire) -> Result<(SessionKeys, Vec<u8>), WireError> {
        let Self {
            private,
            contact,
            opened,
            digest,
            metrics,
            ..
        } = self;
        let share = Share::new(&mut SysRng)?;
        let reply = &Wire {
            announced: self.announced.clone(),
            ..reply.clone()
        };
        let mut json = reply.to_json();
        if envelope::sealed_len(json.len(), private.public(), &contact.key).is_err() {
            // What hooks added does not fit; the sender can do without it.
            let mut reply = reply.clone();
            reply.announced = None;
            reply.meta.extra.clear();
            json = reply.to_json();
        }
        let len = envelope::sealed_len(json.len(), private.public(), &contact.key)?;
        let head = AnswerHeader::Envelope(len).encode();
        let contents = Contents {
            time: clock::millis(),
            share: share.public,
            json: Zeroizing::new(json.as_bytes().to_vec()),
        };
        let bound = [digest.as_slice(), &head].concat();
        metrics.private_key();
        let sealed = envelope::seal(
            Part::Answer,
            &bound,
            &contents,
            private,
            &contact.key,
            &mut SysRng,
        )?;
        let transcript = session::transcript(digest, &[&head, &sealed.bytes]);
        let keys = SessionKeys::derive(
            share,
            &opened.contents.share,
            &opened.secret,
            &sealed.secret,
            &transcript,
        )?;
        Ok((keys, [head.as_slice(), &sealed.bytes].concat()))
    }

    /// A meta to answer with if none could be read.
    pub fn empty_meta(&self) -> Meta {
        Meta::new(
            self.contact.name.as_str(),
            self.user.name().as_str(),
            "",
            "",
        )
    }
}
