//! Files that are sent in as few sessions as it takes, or left as letters.

use std::{borrow::Borrow, collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    BROKEN, Opened, Route,
    letters::{Leave, Letters},
    no_box, open_with,
    opening::Opening,
    private_key, request,
};
use crate::{
    crypto::keys::PrivateKey,
    error::{Code, Error},
    meta::Meta,
    observer::Observer,
    root::boxes::Grant,
    session::asker::{Asker, Asks, Begin, Ended, Jobs, Sent},
    transfer::send::send_job::SendJob,
};

/// The pauses before each attempt to go on after a session broke: a server or a relay that is started
/// anew is there again after a moment.
const PAUSES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// How long letters are left before the receiver is called again, if nothing more comes.
const QUIET: Duration = Duration::from_secs(5);

/// How many were left as letters.
enum Left {
    /// All: no more come.
    All,
    /// Those that came within a moment.
    SoFar,
}

/// Sends one file, all fifteen steps; returns the meta as it was delivered.
pub async fn deliver(route: &Route, out: &SendJob, observer: &dyn Observer) -> Result<Meta, Error> {
    let (give, mut jobs) = mpsc::channel(1);
    let (results, mut result) = mpsc::unbounded_channel();
    let _ = give.try_send(out);
    drop(give);
    let _ = deliver_all(route, &mut jobs, &results, observer, std::future::pending()).await;
    let lost = || Error::new(Code::Failed, "the file has no result");
    result.try_recv().map_err(|_| lost())?.1
}

/// Sends all that come as `jobs`, through as few sessions as it takes, and reports what became of
/// each. If a session breaks, what was under way goes on in another if the route is
/// [persistent](Route::persistent), and fails otherwise.
///
/// It ends early, with the reason, if no session can be opened, if three in a row broke and nothing
/// had moved, and when `stop` is ready. What was under way has failed then, and what is still among
/// the jobs was not begun.
pub async fn deliver_all<J: Borrow<SendJob> + Send>(
    route: &Route,
    jobs: &mut Jobs<J>,
    results: &mpsc::UnboundedSender<Sent<J>>,
    observer: &dyn Observer,
    stop: impl Future<Output = Error> + Send,
) -> Result<(), Error> {
    tokio::pin!(stop);
    let mut key = None;
    let (mut broken, mut was_cut) = (0, false);
    let mut ready = VecDeque::new();
    loop {
        let job = match ready.pop_front() {
            Some(job) => job,
            None => match jobs.recv().await {
                Some(job) => job,
                None => return Ok(()),
            },
        };
        let begun = Instant::now();
        let private = match &key {
            Some(private) => Ok(private),
            None => private_key(&route.user)
                .await
                .map(|private| &*key.insert(Arc::new(private))),
        };
        let private = match private {
            Ok(private) => private,
            Err(error) => return Err(fail(results, job, ready, error)),
        };
        let fits = |asked| Opening::fits(route, private, &asked).map(|()| asked);
        let asked = match job.borrow().request().and_then(fits) {
            Ok(asked) => asked,
            Err(error) => {
                let _ = results.send((job, Err(error), begun.elapsed()));
                continue;
            }
        };
        observer.step(1, format_args!("read {}", job.borrow().path().display()));
        let opening = open(route, private, &asked, observer, was_cut);
        let opened = tokio::select! {
            opened = opening => opened,
            error = &mut stop => Err(error),
        };
        let Opened {
            connection,
            keys,
            asked,
            reply,
            ..
        } = match opened {
            Ok(opened) => opened,
            Err(error) => match route.letters_after(&error) {
                Some(grant) => {
                    ready.push_front(job);
                    let away = (route, private.clone(), grant);
                    let ready = std::mem::take(&mut ready);
                    let leaving = leave_all(away, ready, jobs, results, error, stop.as_mut());
                    match leaving.await? {
                        Left::All => return Ok(()),
                        // The receiver may be back when the next one comes.
                        Left::SoFar => continue,
                    }
                }
                None => return Err(fail(results, job, ready, error)),
            },
        };
        let before = held(ready.iter().chain([&job]));
        let files = reply.features.files;
        let asks = Asks::Jobs(jobs);
        let asker = Asker::new(keys, observer, files, asks, stop.as_mut());
        let begin = Begin {
            answered: Some((job, asked, reply)),
            first: std::mem::take(&mut ready).into(),
        };
        let Ended {
            concluded,
            error,
            left,
        } = asker
            .telling(results.clone())
            .run(connection, route.idle, begin)
            .await;
        let Some(error) = error else {
            was_cut = false;
            continue;
        };
        let came = concluded > 0 || held(left.iter().map(|(job, _)| job)) > before;
        broken = if came { 0 } else { broken + 1 };
        let is_over = error.code == Code::Interrupted || broken == BROKEN;
        if route.is_persistent && error.code == Code::Later && !is_over {
            was_cut = true;
            ready = left.into_iter().map(|(job, _)| job).collect();
            continue;
        }
        for (job, took) in left {
            let _ = results.send((job, Err(error.clone()), took));
        }
        if is_over {
            return Err(error);
        }
    }
}

/// Opens a session with the first file; after one that was cut, more than once.
async fn open(
    route: &Route,
    private: &PrivateKey,
    asked: &Meta,
    observer: &dyn Observer,
    was_cut: bool,
) -> Result<Opened, Error> {
    if route.leave == Leave::Always {
        return Err(no_box(route));
    }
    let pauses = match was_cut {
        true => PAUSES.as_slice(),
        false => &[Duration::ZERO],
    };
    let mut failed = None;
    for pause in pauses {
        sleep(*pause).await;
        match open_with(route, private, request(asked.clone()), observer).await {
            Err(error) if error.code == Code::Later => failed = Some(error),
            // A member of a relay that was away is refused like a stranger, see `at`.
            opened => return opened,
        }
    }
    Err(failed.unwrap_or_else(|| Error::new(Code::Later, "no session was opened")))
}

/// Nothing of a route can be sent, for this reason.
fn fail<J>(
    results: &mpsc::UnboundedSender<Sent<J>>,
    job: J,
    others: VecDeque<J>,
    error: Error,
) -> Error {
    for job in [job].into_iter().chain(others) {
        let _ = results.send((job, Err(error.clone()), Duration::ZERO));
    }
    error
}

/// Bytes of files that the receiver had from before.
fn held<'a, J: Borrow<SendJob> + 'a>(jobs: impl IntoIterator<Item = &'a J>) -> u64 {
    jobs.into_iter().map(|job| job.borrow().resumed()).sum()
}

/// Leaves files and all that follow as letters, because no session could be opened.
async fn leave_all<J: Borrow<SendJob> + Send>(
    (route, private, grant): (&Route, Arc<PrivateKey>, &Grant),
    mut ready: VecDeque<J>,
    jobs: &mut Jobs<J>,
    results: &mpsc::UnboundedSender<Sent<J>>,
    away: Error,
    mut stop: impl Future<Output = Error> + Send + Unpin,
) -> Result<Left, Error> {
    // Why neither was possible, if nobody asked for a letter.
    let instead = |error: Error| match route.leave {
        Leave::Auto if matches!(error.code, Code::Later | Code::NotFound) => {
            let sentence = format!("{away}; and no letter can be left: {error}");
            Error::new(away.code, sentence)
        }
        _ => error,
    };
    let mut letters = match Letters::open(route, private, grant).await {
        Ok(letters) => letters,
        Err(error) => {
            let error = instead(error);
            return match ready.pop_front() {
                Some(first) => Err(fail(results, first, ready, error)),
                None => Err(error),
            };
        }
    };
    let left = loop {
        let job = match ready.pop_front() {
            Some(job) => job,
            None => match timeout(QUIET, jobs.recv()).await {
                Ok(Some(job)) => job,
                Ok(None) => break Left::All,
                Err(_) => break Left::SoFar,
            },
        };
        let begun = Instant::now();
        let left = tokio::select! {
            left = letters.leave(job.borrow()) => left.map_err(&instead),
            error = &mut stop => Err(error),
        };
        let broke = match &left {
            // The connection may be of no more use.
            Err(error) if matches!(error.code, Code::Later | Code::Interrupted) => {
                Some(error.clone())
            }
            _ => None,
        };
        let _ = results.send((job, left, begun.elapsed()));
        if let Some(error) = broke {
            if let Some(next) = ready.pop_front() {
                return Err(fail(results, next, ready, error));
            }
            return Err(error);
        }
    };
    letters.close().await;
    Ok(left)
}
