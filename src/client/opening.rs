//! The first message of a session, and the answer to it.

use std::time::Duration;

use tokio::task;
use zeroize::Zeroizing;

use super::{Opened, Route, announcing, request};
use crate::{
    clock,
    crypto::{SysRng, keys::PrivateKey},
    error::{Code, Error},
    meta::{Meta, Wire},
    observer::Observer,
    root::{contact::Contact, name::Name},
    session::{
        channel::{Reader, Writer},
        pump::Connection,
    },
    transport::Link,
    wire::{
        WireError,
        envelope::{self, Contents, Part, SECRET_LEN},
        header::{self, AnswerHeader, Header, Turned},
        session::{self, SessionKeys, Share},
    },
};

/// How long the receiver's hooks may take before the answer.
const ANSWER: Duration = Duration::from_secs(300);

/// Where nothing came from, for an error.
fn unanswered(route: &Route) -> String {
    format!("no answer from {} (is it an m2y server?)", route.addresses)
}

/// Opens a session over a link.
pub(super) async fn open_link(
    link: Link,
    route: &Route,
    private: &PrivateKey,
    asked: Wire,
    observer: &dyn Observer,
) -> Result<Opened, Error> {
    let asked = announcing(route, asked);
    let mut reader = Reader::new(link.reader, ANSWER);
    let mut writer = Writer::new(link.writer, route.idle);
    writer.set_pace(route.pace.clone());

    let share = Share::new(&mut SysRng).map_err(WireError::from)?;
    let opening = Opening::seal(route, private, &asked, &share)?;
    let to = &route.contact.name;
    observer.step(2, format_args!("sealed the meta for {to}, signed it"));
    observer.step(3, format_args!("send the header, 24 bytes"));
    let len = opening.envelope.len();
    observer.step(4, format_args!("send the sealed meta, {len} bytes"));
    let sent = async {
        writer.bytes(&opening.header).await?;
        writer.bytes(&opening.envelope).await
    };
    let sent = sent.await;
    // A server that is full may answer and hang up before it has read everything.
    let head = match (reader.exact().await, sent) {
        (Ok(head), _) => AnswerHeader::decode(&head)?,
        (Err(error), Ok(())) | (Err(_), Err(error)) => {
            return Err(Error::from(error).within(unanswered(route)));
        }
    };
    let len = match head {
        AnswerHeader::Envelope(len) => len,
        AnswerHeader::Turned(turned) => return Err(turned_away(turned, to)),
    };
    let answer = reader
        .bytes(len)
        .await
        .map_err(|e| Error::from(e).within(unanswered(route)))?;
    let digest = session::opening_digest(&opening.header, &opening.envelope);
    let opened = open_answer(&answer, &digest, head, private, &route.contact)?;
    let reply = Wire::from_json(&opened.contents.json)
        .map_err(|e| Error::new(Code::Failed, format!("the answer cannot be read: {e}")))?;
    observer.step(12, format_args!("opened the answer with its own key"));
    let transcript = session::transcript(&digest, &[&head.encode(), &answer]);
    let keys = SessionKeys::derive(
        share,
        &opened.contents.share,
        &opening.secret,
        &opened.secret,
        &transcript,
    )?;
    reader.set_idle(route.idle);
    if let Some(announced) = reply.announced.clone() {
        let (user, contact) = (route.user.clone(), route.contact.name.clone());
        // A session does not fail because of it.
        let recording = move || user.set_announced(&contact, &announced);
        let _ = task::spawn_blocking(recording).await;
    }
    Ok(Opened {
        connection: Connection { reader, writer },
        keys,
        asked: asked.meta,
        reply,
        time: opened.contents.time,
    })
}

/// The first message of a session.
pub(super) struct Opening {
    header: [u8; header::LEN],
    envelope: Vec<u8>,
    secret: Zeroizing<[u8; SECRET_LEN]>,
}

impl Opening {
    /// Fails if the meta is too large.
    pub(super) fn fits(route: &Route, private: &PrivateKey, meta: &Meta) -> Result<(), Error> {
        let len = announcing(route, request(meta.clone())).to_json().len();
        envelope::sealed_len(len, private.public(), &route.contact.key)?;
        Ok(())
    }

    fn seal(
        route: &Route,
        private: &PrivateKey,
        asked: &Wire,
        share: &Share,
    ) -> Result<Self, WireError> {
        let contact = &route.contact;
        let json = asked.to_json();
        let header = Header {
            envelope_len: envelope::sealed_len(json.len(), private.public(), &contact.key)?,
            from: route.user.name().hash(),
            to: contact.name.hash(),
        }
        .encode();
        let contents = Contents {
            time: clock::millis(),
            share: share.public,
            json: Zeroizing::new(json.as_bytes().to_vec()),
        };
        let sealed = envelope::seal(
            Part::Opening,
            &header,
            &contents,
            private,
            &contact.key,
            &mut SysRng,
        )?;
        Ok(Self {
            header,
            envelope: sealed.bytes,
            secret: sealed.secret,
        })
    }
}

fn open_answer(
    answer: &[u8],
    digest: &[u8; 32],
    head: AnswerHeader,
    private: &PrivateKey,
    contact: &Contact,
) -> Result<envelope::Opened, Error> {
    let bound = [digest.as_slice(), &head.encode()].concat();
    envelope::verify(Part::Answer, &bound, answer, &contact.key)
        .and_then(|verified| verified.open(private))
        .map_err(|e| {
            Error::new(
                Code::Identity,
                format!("the answer does not come from {}: {e}", contact.name),
            )
        })
}

fn turned_away(turned: Turned, to: &Name) -> Error {
    match turned {
        Turned::Stranger => Error::new(
            Code::Identity,
            format!(
                "the server refused the connection: it has no user {to}, or one of you does not have the other's current key (compare fingerprints with `m2y contact show`)"
            ),
        ),
        Turned::Stale => Error::new(
            Code::Later,
            format!(
                "rejected because of its time, which is too far from the clock of {to}'s server or older than your last sessions with {to}: check this machine's clock"
            ),
        ),
        Turned::Busy => Error::new(
            Code::Later,
            "the server cannot receive now (busy, or a problem in its log): try later",
        ),
        Turned::Unreadable => Error::new(
            Code::Failed,
            "the server speaks a different version of the protocol",
        ),
    }
}
