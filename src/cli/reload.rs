use clap::Args;

use super::{RootArg, output, status::not_running};
use crate::{control::question, error::Error, json::Value, root::settings::Change};

/// Have the running server read m2y.ini again, without losing a connection
///
/// Like SIGHUP. Limits, deadlines, hooks, webhooks, e-mail and the limits of a relay take effect at
/// once, for what begins from then on; addresses, certificates, stores that are in use and what the
/// server is (a relay, or none) need a restart. A broken m2y.ini changes nothing.
#[derive(Debug, Args)]
pub struct Reload {
    #[command(flatten)]
    root: RootArg,
}

impl Reload {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        let root = self.root.open()?;
        let changes = question::reload(&root).await?;
        let changes = changes.ok_or_else(|| not_running(&root))?;
        let keys = |needs_restart: bool| -> Vec<&str> {
            let some = changes
                .iter()
                .filter(|change: &&Change| change.needs_restart == needs_restart);
            some.map(|change| change.key.as_str()).collect()
        };
        let (changed, fixed) = (keys(false), keys(true));
        if json {
            let list = |keys: Vec<&str>| Value::from(keys);
            output::object(&[
                ("status", "done".into()),
                ("changed", list(changed)),
                ("needs_restart", list(fixed)),
            ]);
            return Ok(());
        }
        if changes.is_empty() {
            output::line("m2y.ini has not changed");
        }
        if !changed.is_empty() {
            output::line(format_args!("changed: {}", changed.join(", ")));
        }
        if !fixed.is_empty() {
            output::line(format_args!("needs a restart: {}", fixed.join(", ")));
        }
        Ok(())
    }
}
