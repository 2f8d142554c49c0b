//! The server as a relay.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, watch},
    task,
    time::{Instant, timeout},
};
use tracing::{debug, info};

use super::LINGER;
use crate::{
    error::{Code, Error},
    journal::Journal,
    meta::Attend,
    pairing::slots::{MAX_SLOTS, Slots},
    relay::{
        attendance, carrying,
        conversation::Conversation,
        hub::{Back, Hub, Room},
        letters::Letters,
        post,
    },
    root::{
        Root, RootError,
        contact::Contact,
        name::Name,
        settings::{RelaySettings, Settings, live::Live},
        user::User,
    },
    session::{
        channel::{ChannelError, Reader, Writer},
        pace::Pace,
    },
    store::Stores,
    transport::{Link, Peer, admission::Admission},
    wire::{
        envelope::{self, Part},
        header::{self, AnswerHeader, Header, Turned},
        relay::{MAX_OPENING, Token},
        session::SessionKeys,
    },
};

/// The user of a relay, unless m2y.ini names one.
pub const USER: &str = "relay";

/// The folder of a relay's user in whose store letters are kept.
const FOLDER: &str = "letters";

/// Connections of those who leave letters: in all, and of one host.
const POSTS: usize = 256;
const POSTS_PER_HOST: usize = 16;

/// Codes of one member at the same time.
const CODES: usize = 2;

/// The relay of a server.
#[derive(Clone)]
pub struct Relay {
    user: User,
    hub: Hub,
    /// The codes of each member.
    codes: Admission,
    /// The letters, if it keeps some.
    letters: Option<Letters>,
    /// Those who leave letters.
    posts: Admission,
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
    let (half, mut read) = reader.into_inner();
    // It stays for as long as the link is used.
    read.shrink_to_fit();
    Link {
        reader: Box::new(std::io::Cursor::new(read).chain(half)),
        writer: writer.into_inner(),
        peer,
    }
}

/// Says to somebody who wants to leave letters that none are kept here, or none now.
pub async fn turn_away(mut writer: Writer) {
    let answer = AnswerHeader::Turned(Turned::Stranger).encode();
    let _ = writer.bytes(&answer).await;
    writer.finish().await;
}

impl Relay {
    /// The relay that the settings ask for, if they do.
    pub fn of(
        root: &Root,
        live: &Live<Settings>,
        journal: &Journal,
        stores: &Stores,
    ) -> Result<Option<Self>, Error> {
        let settings = &live.now().relay;
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
        let hub = Hub::new(live);
        let letters = match settings.letters {
            true => {
                let name = Name::folder(FOLDER).map_err(RootError::from)?;
                let folder = user.folder(&name).or_else(|_| user.create_folder(&name))?;
                Some(Letters::open(&user, journal, stores.of(&folder), &hub)?)
            }
            false => None,
        };
        Ok(Some(Self {
            user,
            hub,
            codes: Admission::new(MAX_SLOTS, CODES),
            letters,
            posts: Admission::new(POSTS, POSTS_PER_HOST),
        }))
    }

    /// Whose contacts are the members.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// The letters, if it keeps some.
    pub fn letters(&self) -> Option<&Letters> {
        self.letters.as_ref()
    }

    /// Whether members may attend in this way.
    pub fn offers(&self, attend: Attend) -> bool {
        attend != Attend::Letters || self.letters.is_some()
    }

    /// Answers somebody who leaves letters, and has this long to begin.
    pub async fn post(
        &self,
        from: &Peer,
        (reader, writer): (Reader, Writer),
        deadline: Duration,
        shutdown: watch::Receiver<bool>,
    ) {
        let (Some(letters), Some(_admitted)) = (&self.letters, self.posts.admit(from)) else {
            return turn_away(writer).await;
        };
        let served = async {
            let accepting = timeout(deadline, post::accept(letters, reader, writer));
            let late = |_| ChannelError::Idle(deadline);
            let mut conversation = accepting.await.map_err(late)??;
            let served = post::serve_anybody(letters, &mut conversation, shutdown).await;
            conversation.writer.finish().await;
            conversation.reader.drain(LINGER).await;
            served
        };
        if let Err(error) = served.await {
            debug!(peer = %from, "a connection for letters ended: {error}");
        }
    }

    /// Answers a member who looks after its mailbox.
    pub async fn mailbox(
        &self,
        member: &Contact,
        (reader, writer): (Reader, Writer),
        keys: &SessionKeys,
        shutdown: watch::Receiver<bool>,
    ) {
        let Some(letters) = &self.letters else {
            return;
        };
        let served = async {
            let sides = [&keys.server, &keys.client];
            let mut conversation = Conversation::new(reader, writer, sides)?;
            let name = &member.name;
            let is_member = || self.is_member(member);
            let served =
                post::serve_member(letters, name, &mut conversation, shutdown, is_member).await;
            conversation.writer.finish().await;
            served
        };
        if let Err(error) = served.await {
            debug!(member = %member.name, "a connection for letters ended: {error}");
        }
    }

    /// Records that a member is there.
    async fn saw(&self, member: &Name) {
        if let Some(letters) = self.letters.clone() {
            let hash = member.hash();
            let _ = task::spawn_blocking(move || letters.saw(hash, None)).await;
        }
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
        if self.hub.settings.now().relay.guests {
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

    /// Whether a contact is a member still.
    fn is_member(&self, contact: &Contact) -> impl Future<Output = bool> + use<> {
        let (user, contact) = (self.user.clone(), contact.clone());
        let looking = task::spawn_blocking(move || {
            // A user of the root is not a member, or it could take the user's calls.
            let is_user = user.root().user(&contact.name).is_ok();
            let known = user.contact(&contact.name);
            known.is_ok_and(|known| known.key == contact.key) && !is_user
        });
        async move { looking.await.unwrap_or(false) }
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
        self.saw(member).await;
        let is_member = || self.is_member(contact);
        let hash = member.hash();
        let served = attendance::serve(&self.hub, hash, reader, writer, keys, shutdown, is_member);
        let served = served.await;
        self.saw(member).await;
        match served {
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
        opening: Arc<Vec<u8>>,
        idle: Duration,
    ) {
        let Back { mut link, done } = back;
        debug!(caller = %caller.peer, member = %link.peer, "joined");
        let opened = async {
            link.writer.write_all(&opening).await?;
            link.writer.flush().await
        };
        let said = timeout(idle, opened).await;
        drop(opening);
        if matches!(said, Ok(Ok(()))) {
            let rate = self.hub.settings.now().relay.rate;
            let pace = rate.map(|rate| Arc::new(Pace::new(rate)));
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
