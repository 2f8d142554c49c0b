use clap::Args;
use tokio::task;

use super::{RootArg, output, status::not_running};
use crate::{
    control::question,
    error::{Code, Error},
    root::{Root, file},
};

/// Stop the running server, and wait until it is gone
///
/// Like SIGTERM: transfers under way may finish, for as long as shutdown_deadline in m2y.ini says;
/// senders of the others resume later.
#[derive(Debug, Args)]
pub struct Stop {
    #[command(flatten)]
    root: RootArg,
    /// Stop at once, like a second SIGTERM; senders resume later
    #[arg(long)]
    now: bool,
}

impl Stop {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        let root = self.root.open()?;
        if !question::stop(&root, self.now).await? {
            return Err(not_running(&root));
        }
        let waiting = task::spawn_blocking(move || gone(&root)).await;
        waiting.map_err(|_| Error::new(Code::Failed, "a thread stopped"))??;
        match json {
            true => output::object(&[("status", "stopped".into())]),
            false => output::line("the server has stopped"),
        }
        Ok(())
    }
}

/// Returns when no server has the root any more.
fn gone(root: &Root) -> Result<(), Error> {
    let wait = || {
        let lock = file::append(root.dir(), ".serve.lock")?.into_std();
        // A server holds it alone.
        lock.lock_shared()
    };
    wait().map_err(|e| {
        let sentence = format!("the server is stopping, but cannot be waited for: {e}");
        Error::new(Code::Failed, sentence)
    })
}
