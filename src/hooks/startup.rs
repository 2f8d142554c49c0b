//! `[OnStartup]`: a folder whose hooks fail then accepts no traffic until they succeed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Pinned, dispatch::Dispatcher};
use crate::{
    error::{Code, Error},
    event::{Event, Kind, Verdict},
    root::{config::Config, folder::Folder, name::Name},
};

/// How long a folder stays closed before its hooks are tried again for the next request.
const PAUSE: Duration = Duration::from_secs(5);

/// Folders that are closed, why, and since when.
type Closed = HashMap<(Name, Name), (String, Instant)>;

/// Starts folders, and remembers those that did not start.
#[derive(Clone)]
pub struct Startup {
    dispatcher: Dispatcher,
    closed: Arc<Mutex<Closed>>,
}

impl Startup {
    /// Nothing is closed yet.
    pub fn new(dispatcher: &Dispatcher) -> Self {
        Self {
            dispatcher: dispatcher.clone(),
            closed: Arc::default(),
        }
    }

    /// Runs `[OnStartup]` of a folder, and closes or opens it.
    pub async fn start(&self, folder: &Folder, config: &Arc<Config>) -> Result<Verdict, Error> {
        let event = Event::of_folder(Kind::Startup, folder.clone(), config.clone());
        let event = event.map_err(|e| Error::new(Code::Failed, e.to_string()))?;
        let verdict = self.dispatcher.fire(event, &Pinned::default()).await;
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        match verdict.outcome.objection() {
            Some(why) => {
                tracing::error!(
                    "{}/{} takes no files: [OnStartup] {why}",
                    folder.user().name(),
                    folder.name()
                );
                closed.insert(key(folder), (why.to_owned(), Instant::now()));
            }
            None => {
                closed.remove(&key(folder));
            }
        }
        Ok(verdict)
    }

    /// Fails for a folder that is closed; after a while its hooks are tried again first.
    pub async fn check(&self, folder: &Folder, config: &Arc<Config>) -> Result<(), Error> {
        let closed = || {
            let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
            closed.get(&key(folder)).cloned()
        };
        let Some((_, since)) = closed() else {
            return Ok(());
        };
        if since.elapsed() > PAUSE {
            // Rare, and larger than everything else that a transfer keeps while it waits.
            Box::pin(self.start(folder, config)).await?;
        }
        match closed() {
            Some((why, _)) => Err(Error::new(
                Code::Later,
                format!("the folder takes no files now, try later: {why}"),
            )),
            None => Ok(()),
        }
    }
}

fn key(folder: &Folder) -> (Name, Name) {
    (folder.user().name().clone(), folder.name().clone())
}
