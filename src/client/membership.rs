//! What a user and a relay that the user has joined have to do with each other, besides letters and
//! calls.

use std::time::Duration;

use tokio::task;

use super::{Opened, attendance, lost, post::Post};
use crate::{
    error::{Code, Error},
    json::{self, Map, Value},
    meta::Attend,
    relay::conversation::Conversation,
    root::{name::Name, user::User},
    transport::Addresses,
    wire::post::Ask,
};

/// How long a relay may take for an answer.
const ANSWER: Duration = Duration::from_secs(120);

/// Names that a relay may list.
const MOST_NAMES: usize = 100_000;

/// The error for an answer that makes no sense.
pub(super) fn unreadable() -> Error {
    Error::new(Code::Failed, "the relay's answer cannot be read")
}

/// Who is listed at a relay that a user has joined. The key of the relay is recorded, so that boxes for
/// letters can be given from now on.
pub async fn who(user: &User, relay: &Name) -> Result<Vec<Name>, Error> {
    let mut conversation = converse(user, relay).await?;
    let (mut all, mut skip) = (Vec::new(), 0);
    loop {
        let answer = conversation.ask(&Ask::Who { skip }).await?;
        if skip == 0 {
            record_key(user, relay, &answer).await?;
        }
        let names = answer.get("members").and_then(Value::as_array);
        let names = names.ok_or_else(unreadable)?.iter();
        all.extend(names.filter_map(|name| Name::user(name.as_str()?).ok()));
        match answer.get("next").and_then(Value::as_u64) {
            Some(next) if next > skip && all.len() < MOST_NAMES => skip = next,
            _ => break,
        }
    }
    conversation.close().await;
    Ok(all)
}

/// Becomes a member of the relay at these addresses, by the token of an invitation.
pub async fn join(
    user: &User,
    relay: &Addresses,
    key: &[u8; 32],
    token: [u8; 32],
) -> Result<(), Error> {
    let gso = user.root().settings()?.quic_gso;
    let card = user.card(None, None)?.to_document()?;
    let card = json::canonical(&card);
    let mut post = Post::open(relay, key, gso).await?;
    post.conversation.ask(&Ask::Join { token, card }).await?;
    post.close().await;
    Ok(())
}

/// Sends a document to another member of a relay, who may become a contact.
pub async fn introduce(
    user: &User,
    relay: &Name,
    to: &Name,
    document: String,
) -> Result<(), Error> {
    let mut conversation = converse(user, relay).await?;
    let to = to.to_string();
    conversation.ask(&Ask::Introduce { to, document }).await?;
    conversation.close().await;
    Ok(())
}

/// Takes all boxes at a relay away, and with them the letters that wait there.
pub async fn leave(user: &User, relay: &Name) -> Result<(), Error> {
    let mut conversation = converse(user, relay).await?;
    let ask = Ask::Boxes {
        boxes: Vec::new(),
        more: false,
    };
    conversation.ask(&ask).await?;
    conversation.close().await;
    Ok(())
}

/// Records the key that a relay says it has.
pub(super) async fn record_key(
    user: &User,
    relay: &Name,
    answer: &Map<String, Value>,
) -> Result<(), Error> {
    let key = answer.get("key").and_then(Value::as_str);
    let key = key.and_then(json::from_hex::<32>).ok_or_else(unreadable)?;
    let (user, relay) = (user.clone(), relay.clone());
    let keeping = task::spawn_blocking(move || user.set_relay_key(&relay, Some(&key)));
    Ok(keeping.await.map_err(lost)??)
}

/// A connection by which a member asks the relay.
pub(super) async fn converse(user: &User, relay: &Name) -> Result<Conversation, Error> {
    let (_, opened) = attendance::open(user, relay, Attend::Letters).await?;
    let Opened {
        connection, keys, ..
    } = opened;
    let (reader, writer) = (connection.reader, connection.writer);
    let mut conversation = Conversation::new(reader, writer, [&keys.client, &keys.server])?;
    conversation.reader.set_idle(ANSWER);
    Ok(conversation)
}
