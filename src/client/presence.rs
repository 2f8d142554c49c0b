//! Whether contacts are at their relays.

use std::collections::HashMap;

use super::letters::Post;
use crate::{
    error::Error,
    json::Value,
    root::{boxes::Grant, name::Name, user::User},
    wire::{
        letter::box_hash,
        post::{Ask, MAX_ASKED},
    },
};

/// Whether a contact is there, as far as the contact lets the user see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Now.
    Now,
    /// Last at this time, in milliseconds since 1970.
    Last(u64),
    /// Nothing is known.
    Unknown,
}

/// Asks the relays of contacts who is there: one connection for each relay.
pub async fn ask(user: &User, contacts: &[Name]) -> Result<Vec<Presence>, Error> {
    let gso = user.root().settings()?.quic_gso;
    let mut all = vec![Presence::Unknown; contacts.len()];
    let mut by_relay: HashMap<(String, [u8; 32]), Vec<(usize, Grant)>> = HashMap::new();
    for (at, contact) in contacts.iter().enumerate() {
        if let Some(grant) = user.box_of(contact)? {
            let relay = (grant.relay.to_string(), grant.key);
            by_relay.entry(relay).or_default().push((at, grant));
        }
    }
    for ((_, key), grants) in by_relay {
        let Some((_, first)) = grants.first() else {
            continue;
        };
        // One relay that is away says nothing about the others.
        let Ok(mut post) = Post::open(&first.relay, &key, gso).await else {
            continue;
        };
        for some in grants.chunks(MAX_ASKED) {
            let hashes = some.iter().map(|(_, grant)| box_hash(&grant.id)).collect();
            let Ok(answer) = post.conversation.ask(&Ask::Presence(hashes)).await else {
                break;
            };
            let there = answer.get("there").and_then(Value::as_array);
            for ((at, _), seen) in some.iter().zip(there.into_iter().flatten()) {
                let presence = match (seen.get("now"), seen.get("seen").and_then(Value::as_u64)) {
                    (Some(Value::Bool(true)), _) => Presence::Now,
                    (_, Some(time)) => Presence::Last(time),
                    _ => Presence::Unknown,
                };
                if let Some(place) = all.get_mut(*at) {
                    *place = presence;
                }
            }
        }
        post.close().await;
    }
    Ok(all)
}

/// Where the relay is at which letters for a contact can be left, if it answers; `None` if the contact
/// takes none.
pub async fn letter_box(user: &User, contact: &Name) -> Result<Option<String>, Error> {
    let Some(grant) = user.box_of(contact)? else {
        return Ok(None);
    };
    let gso = user.root().settings()?.quic_gso;
    let post = Post::open(&grant.relay, &grant.key, gso).await?;
    post.close().await;
    Ok(Some(grant.relay.to_string()))
}
