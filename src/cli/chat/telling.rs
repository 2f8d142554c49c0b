//! What a running chat tells: what comes, and what became of what was said.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{notification::notify, screen::Screen};
use crate::{
    cli::user_name,
    client::chat::Outcome,
    error::{Code, Error},
    meta::TransferId,
    root::{
        message_log::{Entry, Follower, LoggedMessage, SentState},
        name::Name,
    },
};

/// How often the log is looked at for what came.
const LOOK: Duration = Duration::from_millis(20);

/// How messages ended.
#[derive(Default)]
pub struct Failed {
    /// How many were said.
    pub of: u64,
    /// How many failed.
    pub count: u64,
    /// Why the last one did.
    pub last: Option<Error>,
}

/// What happens when a message comes, besides that it is shown.
#[derive(Clone, Copy)]
pub struct Alarm {
    /// The bell of the terminal rings.
    pub bell: bool,
    /// It is shown on the desktop.
    pub desktop: bool,
}

/// Shows what comes, and what becomes of what was said, until nothing more does.
pub async fn tell(
    mut follower: Follower,
    (me, peer, folder): (Name, Option<Name>, Name),
    (screen, alarm): (Screen, Alarm),
    mut became: mpsc::UnboundedReceiver<Outcome>,
) -> Failed {
    let mut failed = Failed::default();
    let mut waiting: BTreeMap<[u8; 16], LoggedMessage> = BTreeMap::new();
    let mut shown: HashSet<(String, TransferId)> = HashSet::new();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_over = tokio::select! {
            outcome = became.recv() => match outcome {
                Some(Outcome { message, state }) => {
                    let state = match (state, user_name(&message.to)) {
                        (Err(error), Ok(to)) => Err(advise(error, &to, &folder)),
                        (state, _) => state,
                    };
                    failed.of += 1;
                    if let Err(error) = &state {
                        failed.count += 1;
                        failed.last = Some(error.clone());
                    }
                    screen.became(&message, &state);
                    if matches!(state, Ok(SentState::Left)) {
                        waiting.insert(message.id.0, message);
                    }
                    continue;
                }
                None => true,
            },
            _ = look.tick() => false,
        };
        for entry in follower.news().unwrap_or_default() {
            match entry {
                Entry::Message(message) => {
                    let is_meant = message.from != me.as_str()
                        && message.quarantine.is_none()
                        && peer
                            .as_ref()
                            .is_none_or(|peer| message.from == peer.as_str());
                    if is_meant && shown.insert((message.from.clone(), message.id)) {
                        screen.message(&message, me.as_str(), None);
                        if alarm.bell {
                            screen.ring();
                        }
                        if alarm.desktop {
                            notify(&message.from, &message.text, &screen);
                        }
                    }
                }
                Entry::State(id, state) if state != SentState::Left => {
                    if let Some(message) = waiting.remove(&id.0) {
                        screen.became(&message, &Ok(state));
                    }
                }
                Entry::State(..) => {}
            }
        }
        if is_over {
            return failed;
        }
    }
}

/// What to do about an error, where that is known.
pub fn advise(error: Error, peer: &Name, folder: &Name) -> Error {
    if error.code == Code::Refused && error.sentence.starts_with("no folder ") {
        let sentence = format!(
            "{peer} has no folder {folder}: {peer} makes one with `m2y chat` or `m2y folder create {folder}`"
        );
        return Error::new(error.code, sentence);
    }
    error
}
