//! Whether contacts are at their relays.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::post::Post;
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

/// How long a relay may take to say who is there.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the relays of contacts who is there: one connection for each relay, all at the same time.
pub async fn ask(user: &User, contacts: &[Name]) -> Result<Vec<Presence>, Error> {
    let gso = user.root().settings()?.quic_gso;
    let mut by_relay: HashMap<_, Vec<(usize, Grant)>> = HashMap::new();
    for (at, grant) in user.boxes_of(contacts)? {
        let relay = (grant.relay.to_string(), grant.key);
        by_relay.entry(relay).or_default().push((at, grant));
    }
    let asking = by_relay
        .into_values()
        .map(|grants| timeout(PATIENCE, ask_relay(grants, gso)));
    let mut all = vec![Presence::Unknown; contacts.len()];
    // A relay that does not answer says nothing about anybody.
    for (at, presence) in join_all(asking).await.into_iter().flatten().flatten() {
        if let Some(place) = all.get_mut(at) {
            *place = presence;
        }
    }
    Ok(all)
}

async fn ask_relay(grants: Vec<(usize, Grant)>, gso: bool) -> Vec<(usize, Presence)> {
    let mut all = Vec::new();
    let Some((_, Grant { relay, key, .. })) = grants.first() else {
        return all;
    };
    let Ok(mut post) = Post::open(relay, key, gso).await else {
        return all;
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
            all.push((*at, presence));
        }
    }
    post.close().await;
    all
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
