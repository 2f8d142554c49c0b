//! `[OnStore]`: tells the hooks of a folder what happens to its store.

use std::{io, sync::Arc};

use tokio::{sync::mpsc, task};
use tracing::{error, warn};

use crate::{
    event::{Event, Kind, StoreChange, StoreNews},
    hooks::{Pinned, dispatch::Dispatcher},
    root::folder::Folder,
    store::chunked::{
        ChunkedStore,
        holders::{Members, bit},
        scrub::Scrubbed,
        status::Answered,
    },
};

/// News that wait for the hooks before them.
const WAITING: usize = 64;

/// Something that the hooks of a folder are to hear.
pub struct News {
    folder: Folder,
    store: Arc<ChunkedStore>,
    what: StoreNews,
    /// Once they have heard it, these members count as lost.
    lost: Option<Members>,
}

impl News {
    /// What a scrub found, if it found anything that is not as it was written.
    pub fn damage(folder: &Folder, store: &Arc<ChunkedStore>, found: &Scrubbed) -> Option<Self> {
        let names = store.members();
        let counts = names.iter().zip(found.wrong.iter().zip(&found.missing));
        let hurt = counts.filter(|(_, (wrong, missing))| **wrong + **missing > 0);
        let hurt: Vec<(&String, String)> = hurt
            .map(|(name, (wrong, missing))| {
                (name, format!("{name}: {wrong} wrong, {missing} missing"))
            })
            .collect();
        // What a member that was away may hold is not lost.
        let all_answered = found.unknown.iter().all(|unknown| *unknown == 0);
        let lost = if all_answered { found.lost } else { 0 };
        if hurt.is_empty() && lost == 0 {
            return None;
        }
        let parts: Vec<&str> = hurt.iter().map(|(_, said)| said.as_str()).collect();
        let lost = match lost {
            0 => String::new(),
            1 => "; 1 chunk cannot be rebuilt".to_owned(),
            lost => format!("; {lost} chunks cannot be rebuilt"),
        };
        Some(Self {
            folder: folder.clone(),
            store: store.clone(),
            what: StoreNews {
                store: store.name().to_owned(),
                member: match hurt.as_slice() {
                    [(name, _)] => (*name).clone(),
                    _ => String::new(),
                },
                change: StoreChange::Damage,
                text: format!("a scrub found damage: {}{lost}", parts.join("; ")),
            },
            lost: None,
        })
    }
}

/// What was seen of a store's members.
#[derive(Default)]
pub struct Seen {
    /// Those that are lost, as the hooks know or are about to hear.
    lost: Option<Members>,
    /// Those that did not answer when they were last asked: one silence is no loss yet.
    silent: Members,
}

impl Seen {
    /// Takes over which members answered just now, and reports those that are lost or back. Returns
    /// those that did not answer.
    pub fn look(
        &mut self,
        folder: &Folder,
        store: &Arc<ChunkedStore>,
        answers: &[(String, Answered)],
        news: &mpsc::Sender<News>,
    ) -> io::Result<Members> {
        let lost = match self.lost {
            Some(lost) => lost,
            None => store.told_lost()?,
        };
        self.lost = Some(lost);
        for (number, change) in self.changes(answers) {
            let Some((name, answered)) = answers.get(number) else {
                continue;
            };
            let text = match answered {
                Ok(_) => format!("{name} answers again"),
                Err(error) => format!("{name}: {error}"),
            };
            let what = StoreNews {
                store: store.name().to_owned(),
                member: name.clone(),
                change,
                text,
            };
            let news_of = News {
                folder: folder.clone(),
                store: store.clone(),
                what,
                lost: self.lost,
            };
            // If nobody hears it any more, the server is going down.
            let _ = news.blocking_send(news_of);
        }
        Ok(self.silent)
    }

    /// Takes over what the members answered; returns which of them are lost or back.
    fn changes(&mut self, answers: &[(String, Answered)]) -> Vec<(usize, StoreChange)> {
        let was_silent = self.silent;
        let mut lost = self.lost.unwrap_or(0);
        let mut changes = Vec::new();
        self.silent = 0;
        for (number, (_, answered)) in answers.iter().enumerate() {
            let this = bit(number);
            if answered.is_err() {
                self.silent |= this;
            }
            if answered.is_ok() && lost & this != 0 {
                changes.push((number, StoreChange::Back));
            } else if self.silent & was_silent & !lost & this != 0 {
                changes.push((number, StoreChange::Lost));
            } else {
                continue;
            }
            lost ^= this;
        }
        self.lost = Some(lost);
        changes
    }
}

/// Where news go: the hooks hear one after the other, until every sender is gone.
pub fn tell(hooks: Dispatcher) -> mpsc::Sender<News> {
    let (sender, mut waiting) = mpsc::channel::<News>(WAITING);
    tokio::spawn(async move {
        while let Some(news) = waiting.recv().await {
            tell_one(&hooks, news).await;
        }
    });
    sender
}

async fn tell_one(hooks: &Dispatcher, news: News) {
    let (user, name) = (news.folder.user().name(), news.folder.name());
    let StoreNews {
        store,
        text,
        change,
        ..
    } = &news.what;
    match change {
        StoreChange::Back => tracing::info!("{user}/{name}: store {store}: {text}"),
        _ => warn!("{user}/{name}: store {store}: {text}"),
    }
    let event = match news.folder.config() {
        Ok(config) => Event::of_folder(Kind::Store, news.folder.clone(), config),
        Err(error) => return error!("{user}/{name} [OnStore]: {error}"),
    };
    let event = match event {
        Ok(event) => Event {
            store: Some(news.what.clone()),
            ..event
        },
        Err(error) => return error!("{user}/{name} [OnStore]: {error}"),
    };
    hooks.fire(event, &Pinned::default()).await;
    if let Some(lost) = news.lost {
        let store = news.store.clone();
        let noted = task::spawn_blocking(move || store.set_told_lost(lost)).await;
        if let Ok(Err(error)) = noted {
            warn!("{user}/{name}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::member::MemberError;

    #[test]
    fn a_member_is_lost_at_the_second_silence_and_back_at_the_first_answer() {
        let answers = |answers: [bool; 2]| {
            answers.map(|answers| {
                let silent = || MemberError::Unreachable("no answer".to_owned());
                let answered = answers.then_some(Duration::ZERO).ok_or_else(silent);
                ("disk".to_owned(), answered)
            })
        };
        let mut seen = Seen::default();
        for (now, expected) in [
            ([true, true], vec![]),
            ([true, false], vec![]),
            ([true, true], vec![]),
            ([true, false], vec![]),
            ([true, false], vec![(1, StoreChange::Lost)]),
            ([true, false], vec![]),
            ([false, true], vec![(1, StoreChange::Back)]),
            ([false, true], vec![(0, StoreChange::Lost)]),
        ] {
            assert_eq!(seen.changes(&answers(now)), expected, "{now:?}");
        }
        // A server that starts anew knows what was told.
        let mut again = Seen {
            lost: Some(0b01),
            silent: 0,
        };
        assert_eq!(
            again.changes(&answers([true, true])),
            [(0, StoreChange::Back)]
        );
    }
}
