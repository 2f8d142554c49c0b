//! The server of a program that talks or watches: it receives for the root as long as no other does.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

use super::serve::Prepared;
use crate::{
    control::question,
    error::Error,
    hooks::dispatch::stopped,
    root::{Root, settings::Settings},
};

/// How long such a program lets arrive what is arriving, when it ends.
pub const ENDING: Duration = Duration::from_secs(3);

/// How often it looks whether there is a server.
const WATCH: Duration = Duration::from_secs(2);

/// Receives for a root, as long as no server does, until `going_down` turns true. Says once why it
/// cannot.
pub async fn host(
    root: Root,
    mut going_down: watch::Receiver<bool>,
    wrong: impl Fn(&Error) + Send,
) {
    let (mut tries, mut was_told) = (0, false);
    loop {
        if let Ok(None) = question::addresses(&root).await {
            match prepare(&root).await {
                Ok(prepared) => {
                    tries = 0;
                    prepared.run(going_down.clone()).await;
                }
                // One that is just starting does not answer yet.
                Err(_) if tries == 0 => tries = 1,
                Err(error) if !was_told => {
                    was_told = true;
                    wrong(&error.within("nothing is received"));
                }
                Err(_) => {}
            }
        }
        if timeout(WATCH, stopped(&mut going_down)).await.is_ok() {
            return;
        }
    }
}

async fn prepare(root: &Root) -> Result<Prepared, Error> {
    let read = root.settings()?;
    let prepared = match Prepared::new(root, read.clone(), read.clone(), None).await {
        Ok(prepared) => prepared,
        Err(_) => {
            // Another program has the port: callers at a relay are taken all the same.
            let settings = Settings {
                listen: vec!["127.0.0.1:0".to_owned()],
                ..read.clone()
            };
            Prepared::new(root, read, settings, None).await?
        }
    };
    prepared.start_folders().await
}
