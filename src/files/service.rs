//! What a server shows a contact, and does for one: requests and their answers.
//!
//! A contact sees one tree. Its top directory holds the m2y-folders whose `[share]` names the
//! contact, and whatever is in `outgoing/NAME` of the user. No answer, and no timing, tells apart
//! what may not be seen, what is hidden and what is missing.

use std::{sync::Arc, time::Duration};

use tokio::{
    task,
    time::{Instant, sleep_until},
};
use tracing::{error, info};

use super::{
    Answer,
    disk_queue::DiskQueue,
    view::{OUTGOING, Said, View, events_of},
};
use crate::{
    error::{Code, Error, printable},
    event::{self, Event, EventId, Kind, Outcome},
    hooks::{
        Pinned,
        api::text::matches,
        dispatch::{Dispatcher, task_of},
    },
    journal::{
        JournalError,
        decided::Decided,
        delivered::{DeliveredBefore, Key, Transfer},
    },
    observer::Observer,
    root::{
        config::Config,
        folder::Folder,
        name::Name,
        share::Rights,
        tree::{Hides, TreePath},
        user::User,
    },
    wire::request::{Reply, Request},
};

/// A contact who is told that something is not there is told so at a multiple of this after the
/// question, so that the time does not reveal what was found on the way: with it no difference is
/// left in `ten_thousand_answers_*` of tests/fetch.rs.
const GRID: Duration = Duration::from_millis(10);

/// How long before such a moment a thread takes over the wait. A timer of tokio's ends whole
/// milliseconds after the wait for it began, and so reveals when the work before it was done.
const EXACTLY: Duration = Duration::from_millis(2);

/// Answers the requests of contacts. Clones are the same one.
#[derive(Clone)]
pub struct FileService {
    hooks: Dispatcher,
    delivered: DeliveredBefore,
    /// The observer.
    pub observer: Arc<dyn Observer>,
}

impl FileService {
    /// A service that asks these hooks, and looks into their journal.
    pub fn new(hooks: &Dispatcher, observer: Arc<dyn Observer>) -> Result<Self, JournalError> {
        Ok(Self {
            hooks: hooks.clone(),
            delivered: DeliveredBefore::new(hooks.journal())?,
            observer,
        })
    }

    /// What is known of transfers that ended before, in order.
    pub fn known<'a>(
        &self,
        keys: impl Iterator<Item = &'a Key>,
    ) -> Result<Vec<Option<Transfer>>, Error> {
        self.delivered.find_all(keys).map_err(|error| {
            error!("{error}");
            Error::new(
                Code::Later,
                "the receiver cannot store the file now, try later",
            )
        })
    }

    /// Waits until the hooks of a file that was delivered have said their first word, and
    /// returns what is known of the transfer then. `None` if that takes longer than `patience`.
    pub async fn decided_after(&self, key: &Key, patience: Duration) -> Option<Transfer> {
        let until = Instant::now() + patience;
        let event = EventId::from(key).to_string();
        loop {
            let (delivered, key, event) = (self.delivered.clone(), key.clone(), event.clone());
            let known = task::spawn_blocking(move || {
                let is_over = !delivered.is_undecided(&key, &event)?;
                Ok::<_, JournalError>((is_over, delivered.find(&key)?))
            });
            if let Ok(Ok((true, known))) = known.await {
                return known;
            }
            if Instant::now() > until {
                return None;
            }
            // Rare: only if a server stopped while hooks ran, and the sender came back before they
            // ran again.
            sleep_until(Instant::now() + Duration::from_millis(20)).await;
        }
    }

    /// What `[OnMeta]` decided about a transfer whose file has not arrived, if that is remembered.
    pub fn decided(&self, key: &Key) -> Option<Decided> {
        if !self.hooks.journal().has_decisions() {
            return None;
        }
        let decided = self.delivered.decided(key);
        // Without it the hooks decide again.
        decided.unwrap_or_else(|error| {
            error!("{error}");
            None
        })
    }

    /// Answers a request of an authenticated contact.
    pub async fn answer(
        &self,
        queue: &DiskQueue,
        user: &User,
        from: &Name,
        request: Request,
    ) -> Result<Answer, Error> {
        let begun = Instant::now();
        let (word, path) = (request.word(), printable(request.path(), 200));
        let answer = self.answer_now(queue, user, from, request).await;
        match &answer {
            Err(error) => {
                info!(%from, to = %user.name(), %path, verdict = error.code.word(), "{word}: {error}");
                if error.code == Code::NotFound {
                    wait_until(on_grid(begun, Instant::now())).await;
                }
            }
            Ok(Answer::Reply(Reply::Done)) => {
                info!(%from, to = %user.name(), %path, verdict = "done", "{word}");
            }
            Ok(_) => {}
        }
        answer
    }

    async fn answer_now(
        &self,
        queue: &DiskQueue,
        user: &User,
        from: &Name,
        request: Request,
    ) -> Result<Answer, Error> {
        let people = (user.clone(), from.clone());
        // Most folders have no such hooks, and then it is one step.
        let first = {
            let (people, request) = (people.clone(), request.clone());
            let (delivered, stores) = (self.delivered.clone(), self.hooks.stores().clone());
            move || {
                let none = Said::new();
                let shared = View::new(&people, &none, &delivered, &stores);
                let to_ask = shared.to_ask(&request)?;
                match to_ask.is_empty() {
                    true => shared.answer(&request).map(Ok),
                    false => Ok(Err(to_ask)),
                }
            }
        };
        let is_long = matches!(&request, Request::Get { held: Some(_), .. });
        let to_ask = match blocking(queue, is_long, first).await? {
            Ok(answer) => return Ok(answer),
            Err(to_ask) => to_ask,
        };
        let mut asked = Said::new();
        for (folder, config, path) in to_ask {
            let name = folder.name().clone();
            let said = self
                .ask_hooks(folder, config, from, &path, &request)
                .await?;
            asked.insert(name, said);
        }
        let (delivered, stores) = (self.delivered.clone(), self.hooks.stores().clone());
        let second = move || {
            let shared = View::new(&people, &asked, &delivered, &stores);
            shared.answer(&request)
        };
        blocking(queue, is_long, second).await
    }

    /// What the hooks of a folder say: the names that they hide, or `None` if there is nothing to
    /// see.
    async fn ask_hooks(
        &self,
        folder: Folder,
        config: Arc<Config>,
        from: &Name,
        path: &TreePath,
        request: &Request,
    ) -> Result<Option<Arc<Hides>>, Error> {
        let mut hidden = Vec::new();
        for kind in events_of(request) {
            if config.scripts(kind.section()).is_empty() {
                continue;
            }
            let asks = asks(*kind, folder.clone(), config.clone(), from, path.join())?;
            let verdict = self.hooks.fire(asks, &Pinned::default()).await;
            verdict.runs.iter().for_each(|run| self.observer.hook(run));
            match verdict.outcome {
                Outcome::Accepted => hidden.extend(verdict.hidden),
                Outcome::Later => return Err(Error::new(Code::Later, Outcome::LATER)),
                Outcome::Refused(_) | Outcome::Quarantined(_) | Outcome::Failed => return Ok(None),
            }
        }
        Ok(Some(Arc::new(move |name: &str| {
            hidden.iter().any(|pattern| matches(name, pattern))
        })))
    }

    /// Runs `[OnSent]` of a folder for a file that a contact now has: at once or later, but for
    /// certain, once it is recorded.
    pub async fn sent(&self, user: &User, from: &Name, path: &str) {
        let (owner, contact, path) = (user.clone(), from.clone(), path.to_owned());
        let event = task::spawn_blocking(move || {
            let (first, rest) = TreePath::parse(&path)?
                .split_first()
                .map(|(first, rest)| (first.to_owned(), rest))?;
            let folder = owner.folder(&Name::folder(&first).ok()?).ok()?;
            let config = folder.config().ok()?;
            // Otherwise it came from what is ready for the contact.
            let is_shared = Rights::of(&config, &contact).get && first != OUTGOING;
            let waits = !config.scripts(Kind::Sent.section()).is_empty();
            (is_shared && waits)
                .then(|| asks(Kind::Sent, folder, config, &contact, rest.join()).ok())
                .flatten()
        });
        if let Ok(Some(event)) = event.await {
            let written = self.hooks.journal().add(true, vec![task_of(&event)]);
            if let Err(error) = written.committed().await {
                error!("[OnSent] will not run: {error}");
            }
        }
    }
}

/// Does work that waits for a disk; what takes long on a thread of its own.
async fn blocking<T: Send + 'static>(
    queue: &DiskQueue,
    is_long: bool,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match is_long {
        // Reading what was fetched before takes longer the more there is.
        true => queue.apart(work).await,
        false => queue.run(work).await,
    }
}

fn asks(
    kind: Kind,
    folder: Folder,
    config: Arc<Config>,
    from: &Name,
    path: String,
) -> Result<Event, Error> {
    let event = Event::of_folder(kind, folder, config);
    let event = event.map_err(|e| Error::new(Code::Later, e.to_string()))?;
    Ok(Event {
        asked: Some(event::Asked {
            contact: from.to_string(),
            path,
        }),
        ..event
    })
}

/// Waits until a moment, and not until one that depends on when this was called.
async fn wait_until(moment: Instant) {
    sleep_until(moment.checked_sub(EXACTLY).unwrap_or(moment)).await;
    let rest = move || std::thread::sleep(moment.saturating_duration_since(Instant::now()));
    let _ = task::spawn_blocking(rest).await;
}

/// The next multiple of [`GRID`] after the beginning that has not passed.
fn on_grid(begun: Instant, now: Instant) -> Instant {
    let over = now.saturating_duration_since(begun).as_nanos() / GRID.as_nanos();
    let steps = u32::try_from(over).unwrap_or(u32::MAX).saturating_add(1);
    begun + GRID.saturating_mul(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_answered_on_a_grid_of_time() {
        let begun = Instant::now();
        let at = |micros| begun + Duration::from_micros(micros);
        for (now, answer) in [
            (0, 10_000),
            (9_999, 10_000),
            (10_000, 20_000),
            (35_000, 40_000),
        ] {
            assert_eq!(on_grid(begun, at(now)), at(answer), "{now}");
        }
    }
}
