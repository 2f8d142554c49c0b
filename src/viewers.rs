//! Who watches streams.
//!
//! A program that wants to watch waits here as a [`Viewer`]. A stream that comes is offered to all
//! that wait for one of its user ([`Viewers::offer`]); the first who answers decides. From then on its
//! bytes go through a [`View`], in which no more of them wait than a sender may send ahead.

mod view;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

pub use self::view::{End, MAX_PIECE, Piece, View, Watching};
use crate::{meta::TransferId, root::name::Name, stream::NOBODY};

/// Streams of one contact that wait for an answer, at most: each is a question to a person.
const WAITING: usize = 4;

/// Programs that wait for streams, at most.
const VIEWERS: usize = 64;

/// Who is asked about streams. Clones are the same ones.
#[derive(Clone, Default)]
pub struct Viewers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    next: AtomicU64,
}

#[derive(Default)]
struct State {
    viewers: Vec<Waiting>,
    offers: Vec<Arc<Pending>>,
}

/// A viewer that waits.
struct Waiting {
    number: u64,
    user: Name,
    from: Option<Name>,
    tell: mpsc::UnboundedSender<Offered>,
}

/// A stream that somebody wants to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Whose it would be.
    pub user: Name,
    /// Who sends it.
    pub from: Name,
    /// The folder that it is for.
    pub folder: String,
    /// Its name, as its sender calls it.
    pub filename: String,
    /// Its transfer.
    pub id: TransferId,
    /// Whether the hooks of the folder have accepted it: nobody need be asked.
    pub is_accepted: bool,
}

/// Why nobody watches a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwatched {
    /// Somebody said no.
    #[error("{0}")]
    Refused(String),
    /// Nobody answered in time.
    #[error("{NOBODY}")]
    Nobody,
    /// The sender has asked too often.
    #[error("{WAITING} of your streams wait for an answer already: try later")]
    TooMany,
}

struct Pending {
    number: u64,
    stream: Announced,
    answer: Mutex<Option<oneshot::Sender<Result<View, String>>>>,
    /// Turns true when it was answered, or is not offered any longer.
    over: watch::Sender<bool>,
}

/// A stream that is offered to a viewer.
#[derive(Clone)]
pub struct Offered(Arc<Pending>);

/// A viewer that waits for streams.
pub struct Viewer {
    number: u64,
    viewers: Viewers,
    offers: mpsc::UnboundedReceiver<Offered>,
}

impl Viewers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        self.0.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits for streams for a user, from anybody or from one contact; hears first of those that
    /// are offered already. `None` if too many wait.
    pub fn wait(&self, user: &Name, from: Option<&Name>) -> Option<Viewer> {
        let (tell, offers) = mpsc::unbounded_channel();
        let waiting = Waiting {
            number: self.number(),
            user: user.clone(),
            from: from.cloned(),
            tell,
        };
        let mut state = self.lock();
        if state.viewers.len() >= VIEWERS {
            return None;
        }
        for offer in &state.offers {
            waiting.hear(offer);
        }
        let number = waiting.number;
        state.viewers.push(waiting);
        Some(Viewer {
            number,
            viewers: self.clone(),
            offers,
        })
    }

    /// Offers a stream to those who wait for one, and to those who come within this time.
    pub async fn offer(&self, stream: Announced, patience: Duration) -> Result<View, Unwatched> {
        let (answer, answered) = oneshot::channel();
        let pending = Arc::new(Pending {
            number: self.number(),
            answer: Mutex::new(Some(answer)),
            over: watch::Sender::new(false),
            stream,
        });
        {
            let mut state = self.lock();
            let of_same = |other: &&Arc<Pending>| {
                let (other, this) = (&other.stream, &pending.stream);
                other.user == this.user && other.from == this.from
            };
            if state.offers.iter().filter(of_same).count() >= WAITING {
                return Err(Unwatched::TooMany);
            }
            for viewer in &state.viewers {
                viewer.hear(&pending);
            }
            state.offers.push(pending.clone());
        }
        let _withdrawn = Withdraw(self, &pending);
        match timeout(patience, answered).await {
            Ok(Ok(answer)) => answer.map_err(Unwatched::Refused),
            _ => Err(Unwatched::Nobody),
        }
    }
}

/// Takes an offer back, also if nobody waits for the answer any more.
struct Withdraw<'a>(&'a Viewers, &'a Arc<Pending>);

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        let Self(viewers, pending) = self;
        viewers
            .lock()
            .offers
            .retain(|other| other.number != pending.number);
        drop(pending.take_answer());
        pending.over.send_replace(true);
    }
}

impl Waiting {
    fn hear(&self, offer: &Arc<Pending>) {
        let stream = &offer.stream;
        let is_meant =
            self.user == stream.user && self.from.as_ref().is_none_or(|from| *from == stream.from);
        if is_meant {
            let _ = self.tell.send(Offered(offer.clone()));
        }
    }
}

impl Pending {
    fn take_answer(&self) -> Option<oneshot::Sender<Result<View, String>>> {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        answer.take()
    }
}

impl Viewer {
    /// The next stream that is offered.
    pub async fn next(&mut self) -> Option<Offered> {
        self.offers.recv().await
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut state = self.viewers.lock();
        state.viewers.retain(|viewer| viewer.number != self.number);
    }
}

impl Offered {
    /// What it is.
    pub fn stream(&self) -> &Announced {
        &self.0.stream
    }

    /// A number that no other offer has.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Watches it; `None` if somebody else has answered, or it is not offered any longer.
    pub fn accept(&self) -> Option<Watching> {
        let answer = self.0.take_answer()?;
        let (view, watching) = View::new();
        let taken = answer.send(Ok(view)).is_ok();
        self.0.over.send_replace(true);
        taken.then_some(watching)
    }

    /// Says no, in these words.
    pub fn refuse(&self, words: &str) {
        if let Some(answer) = self.0.take_answer() {
            let _ = answer.send(Err(words.to_owned()));
            self.0.over.send_replace(true);
        }
    }

    /// Waits until it was answered, or is not offered any longer.
    pub async fn over(&self) {
        let _ = self.0.over.subscribe().wait_for(|over| *over).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn stream(from: &str) -> Announced {
        Announced {
            user: Name::user("roland-frei").unwrap(),
            from: Name::user(from).unwrap(),
            folder: "chat".to_owned(),
            filename: "camera".to_owned(),
            id: TransferId([7; 16]),
            is_accepted: false,
        }
    }

    #[tokio::test]
    async fn the_first_who_answers_decides_and_the_others_hear_of_it() {
        let (viewers, user) = (Viewers::default(), Name::user("roland-frei").unwrap());
        let mut all = [(); 2].map(|()| viewers.wait(&user, None).unwrap());
        let mut other = viewers.wait(&Name::user("peter").unwrap(), None).unwrap();
        let offering = {
            let viewers = viewers.clone();
            tokio::spawn(async move { viewers.offer(stream("zhenqiang"), PATIENCE).await })
        };
        let [first, second] = &mut all;
        let (first, second) = (first.next().await.unwrap(), second.next().await.unwrap());
        assert_eq!(first.stream(), &stream("zhenqiang"));
        first.refuse("not now");
        second.over().await;
        assert!(second.accept().is_none());
        let refused = offering.await.unwrap().map(drop);
        assert_eq!(refused, Err(Unwatched::Refused("not now".to_owned())));
        assert!(other.offers.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_viewer_who_comes_in_time_is_asked_and_after_that_nobody_is() {
        let (viewers, user) = (Viewers::default(), Name::user("roland-frei").unwrap());
        let offering = {
            let viewers = viewers.clone();
            tokio::spawn(async move { viewers.offer(stream("zhenqiang"), PATIENCE).await })
        };
        tokio::time::sleep(PATIENCE / 2).await;
        let from = Name::user("zhenqiang").unwrap();
        let mut late = viewers.wait(&user, Some(&from)).unwrap();
        let offered = late.next().await.unwrap();
        let refused = offering.await.unwrap().map(drop);
        assert_eq!(refused, Err(Unwatched::Nobody));
        assert!(offered.accept().is_none());
        let mut later = viewers.wait(&user, None).unwrap();
        assert!(later.offers.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_contact_asks_four_questions_at_a_time() {
        let viewers = Viewers::default();
        let offers = (0..WAITING).map(|_| viewers.offer(stream("zhenqiang"), PATIENCE));
        let offers = futures_util::future::join_all(offers);
        let fifth = async {
            tokio::task::yield_now().await;
            let fifth = viewers.offer(stream("zhenqiang"), PATIENCE).await;
            let other = viewers.offer(stream("peter"), PATIENCE).await;
            (fifth.map(drop), other.map(drop))
        };
        let (_, (fifth, other)) = tokio::join!(offers, fifth);
        assert_eq!(fifth, Err(Unwatched::TooMany));
        assert_eq!(other, Err(Unwatched::Nobody));
    }
}
