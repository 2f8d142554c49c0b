//! The server as a relay.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, watch},
    task,
    time::{Instant, timeout},
};
use tracing::{debug, info};

use crate::{
    error::{Code, Error},
    pairing::slots::{MAX_SLOTS, Slots},
    relay::{
        attendance, carrying,
        hub::{Back, Hub, Room},
    },
    root::{
        Root, RootError,
        contact::Contact,
        name::Name,
        settings::{RelaySettings, Settings},
        user::User,
    },
    session::{
        channel::{Reader, Writer},
        pace::Pace,
    },
    transport::{Link, Peer, admission::Admission},
    wire::{
        envelope::{self, Part},
        header::{self, Header},
        relay::{MAX_OPENING, Token},
        session::SessionKeys,
    },
};

/// The user of a relay, unless m2y.ini names one.
pub const USER: &str = "relay";

/// Codes of one member at the same time.
const CODES: usize = 2;

/// The relay of a server.
#[derive(Clone)]
pub struct Relay {
    user: User,
    hub: Hub,
    /// The codes of each member.
    codes: Admission,
}

/// The user whose contacts are the members.
pub fn user_name(settings: &RelaySettings) -> Result<Name, RootError> {
    match &settings.user {
        Some(name) => Ok(name.clone()),
        None => Ok(Name::user(USER)?),
    }
}

/// The link of a connection whose first bytes were read.
pub fn link(reader: Reader, writer: Writer, peer: Peer) -> Link {
    let (half, read) = reader.into_inner();
    Link {
        reader: Box::new(std::io::Cursor::new(read).chain(half)),
        writer: writer.into_inner(),
        peer,
    }
}

impl Relay {
    /// The relay that the settings ask for, if they do.
    pub fn of(root: &Root, settings: &Settings) -> Result<Option<Self>, Error> {
        let settings = &settings.relay;
        if !settings.enabled {
            return Ok(None);
        }
        let name = user_name(settings)?;
        let user = root.user(&name).map_err(|e| {
            let sentence = format!(
                "m2y.ini enables a relay, which needs the user {name}: create it with `m2y init --user {name}` ({e})"
            );
            Error::new(Code::Failed, sentence)
        })?;
        Ok(Some(Self {
            user,
            hub: Hub::new(settings.clone()),
            codes: Admission::new(MAX_SLOTS, CODES),
        }))
    }

    /// The hub, for those who want to know who is there.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Whether this is the user whose contacts are the members.
    pub fn is_of(&self, user: &Name) -> bool {
        self.user.name() == user
    }

    /// Whether an opening is for a member who attends.
    pub fn serves(&self, header: &Header) -> bool {
        self.hub.present(&header.to).is_some()
    }

    /// Calls the member that an opening is for. `None` if it does not come.
    pub async fn call(
        &self,
        from: &Peer,
        (head, header, envelope): &(Header, [u8; header::LEN], Vec<u8>),
        until: Instant,
    ) -> Option<((Back, Room), Arc<Vec<u8>>)> {
        let opening = Arc::new([header.as_slice(), envelope].concat());
        if opening.len() > MAX_OPENING {
            return None;
        }
        let pair = self
            .hub
            .call(&head.to, from, opening.clone(), until)
            .await?;
        Some((pair, opening))
    }

    /// Whether guests may call, or this is a member. A signature that has to be checked waits for its
    /// turn, like all others.
    pub async fn may_call(
        &self,
        checking: &Semaphore,
        (head, header, envelope): &(Header, [u8; header::LEN], Vec<u8>),
    ) -> bool {
        if self.hub.settings.guests {
            return true;
        }
        let Ok(_turn) = checking.acquire().await else {
            return false;
        };
        let (user, from) = (self.user.clone(), head.from);
        let (header, envelope) = (*header, envelope.clone());
        let checked = task::spawn_blocking(move || {
            let contact = user.contact_of(&from).ok().flatten()?;
            envelope::verify(Part::Opening, &header, &envelope, &contact.key).ok()?;
            Some(())
        });
        checked.await.is_ok_and(|member| member.is_some())
    }

    /// Serves a member who attends, until it ends.
    pub async fn attend(
        &self,
        contact: &Contact,
        (reader, writer): (&mut Reader, &mut Writer),
        keys: &SessionKeys,
        shutdown: watch::Receiver<bool>,
    ) {
        let member = &contact.name;
        info!(%member, "attends");
        let is_member = || {
            let (user, contact) = (self.user.clone(), contact.clone());
            let looking = task::spawn_blocking(move || {
                // A user of the root is not a member, or it could take the user's calls.
                let is_user = user.root().user(&contact.name).is_ok();
                let known = user.contact(&contact.name);
                known.is_ok_and(|known| known.key == contact.key) && !is_user
            });
            async move { looking.await.unwrap_or(false) }
        };
        let hash = member.hash();
        let served = attendance::serve(&self.hub, hash, reader, writer, keys, shutdown, is_member);
        match served.await {
            Ok(()) => info!(%member, "attends no longer"),
            Err(error) => info!(%member, "attends no longer: {error}"),
        }
    }

    /// Keeps a slot open for a member who makes a code, until it ends.
    pub async fn keep_slot(
        &self,
        member: &Contact,
        slots: &Slots,
        (reader, writer): (&mut Reader, &mut Writer),
        keys: &SessionKeys,
        shutdown: watch::Receiver<bool>,
    ) {
        let admitted = self.codes.admit(&Peer::Named(member.name.to_string()));
        let (Some(_admitted), Ok(Some(slot))) = (admitted, slots.open()) else {
            return;
        };
        if let Err(error) = attendance::keep_slot(slot, reader, writer, keys, shutdown).await {
            debug!("a code ended: {error}");
        }
    }

    /// Carries what a caller and a member say to each other; the member gets the opening first.
    pub async fn pair(
        &self,
        (back, room): (Back, Room),
        caller: Link,
        opening: &[u8],
        idle: Duration,
    ) {
        let Back { mut link, done } = back;
        debug!(caller = %caller.peer, member = %link.peer, "joined");
        let opened = async {
            link.writer.write_all(opening).await?;
            link.writer.flush().await
        };
        let said = timeout(idle, opened).await;
        if matches!(said, Ok(Ok(()))) {
            let pace = self.hub.settings.rate.map(|rate| Arc::new(Pace::new(rate)));
            carrying::carry(caller, link, idle, pace).await;
        }
        let _ = done.send(());
        drop(room);
    }

    /// Hands the connection of a member over to the call that it answers, and holds its place until
    /// the pair is over.
    pub async fn back(&self, token: &Token, link: Link) {
        if let Some(over) = self.hub.arrive(token, link) {
            let _ = over.await;
        }
    }
}
