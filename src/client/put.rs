//! Files that are put at paths of a contact's, in as many sessions as it takes.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{BROKEN, Opened, Route, open_asking};
use crate::{
    error::{Code, Error},
    observer::Observer,
    session::asker::{Asker, Asks, Begin, Ended, Jobs, Sent},
    transfer::send::put::Put,
};

/// Puts all that come as `jobs`, and reports what became of each. If a session breaks, what was
/// under way continues in another.
///
/// It ends early, with the reason, if no session can be opened, if three in a row broke and nothing
/// had moved, and when `stop` is ready. What was under way has had no last word then: putting it
/// again resumes it.
pub async fn put_all(
    route: &Route,
    jobs: &mut Jobs<Put>,
    results: &mpsc::UnboundedSender<Sent<Put>>,
    observer: &Arc<dyn Observer>,
    stop: impl Future<Output = Error> + Send,
) -> Result<(), Error> {
    tokio::pin!(stop);
    let mut again: Vec<Put> = Vec::new();
    let (mut broken, mut was_cut) = (0, false);
    loop {
        if again.is_empty() {
            match jobs.recv().await {
                Some(job) => again.push(job),
                None => return Ok(()),
            }
        }
        let before = held(&again);
        let opened = tokio::select! {
            opened = open_asking(route, &**observer) => opened,
            error = &mut stop => Err(error),
        };
        let Opened {
            connection,
            keys,
            reply,
            ..
        } = match opened {
            Ok(opened) => opened,
            Err(error) if was_cut => {
                let what = "the connection was cut, what is there so far is kept";
                return Err(error.within(what));
            }
            Err(error) => return Err(error),
        };
        let files = reply.features.files;
        let asks = Asks::Jobs(jobs);
        let asker = Asker::new(keys, &**observer, files, asks, stop.as_mut());
        let begin = Begin {
            answered: None,
            first: std::mem::take(&mut again),
        };
        let Ended {
            concluded,
            error,
            left,
        } = asker
            .telling(results.clone())
            .run(connection, route.idle(), begin)
            .await;
        again = left.into_iter().map(|(job, _)| job).collect();
        let Some(error) = error else {
            continue;
        };
        was_cut = true;
        let came = concluded > 0 || held(&again) > before;
        broken = if came { 0 } else { broken + 1 };
        let is_final = matches!(error.code, Code::Interrupted | Code::Integrity);
        if is_final || broken == BROKEN {
            return Err(error);
        }
    }
}

/// Bytes of files that the contact has.
fn held(jobs: &[Put]) -> u64 {
    jobs.iter().map(Put::resumed).sum()
}
