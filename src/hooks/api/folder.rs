//! `folder`: the m2y-folder that the event is about.

use std::{
    io,
    time::{Duration, SystemTime},
};

use rhai::{Engine, EvalAltResult};

use super::{deeds::Deeds, fail};
use crate::{
    root::folder::Folder,
    store::{delivered, local},
};

/// `folder` in a script.
#[derive(Clone)]
pub struct Handle {
    folder: Folder,
    deeds: Deeds,
}

impl Handle {
    pub(super) fn new(folder: &Folder, deeds: &Deeds) -> Self {
        Self {
            folder: folder.clone(),
            deeds: deeds.clone(),
        }
    }

    fn reset(&mut self) -> Result<i64, Box<EvalAltResult>> {
        let own = self.folder.user().name().as_str();
        self.deeds
            .act(
                || "folder.reset()".to_owned(),
                0,
                || local::reset_failed(self.folder.dir(), own),
            )
            .map(count)
            .map_err(|e| fail(format!("folder.reset(): {e}")))
    }

    fn sweep(&mut self, days: i64) -> Result<i64, Box<EvalAltResult>> {
        let days = u64::try_from(days)
            .ok()
            .filter(|days| *days > 0)
            .ok_or_else(|| fail("folder.sweep(days): days must be above 0"))?;
        let age = Duration::from_secs(days.saturating_mul(86_400));
        let before = SystemTime::now()
            .checked_sub(age)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let (dir, own) = (self.folder.dir(), self.folder.user().name().as_str());
        let swept = || {
            delivered::forget(dir)?;
            Ok(local::sweep_partials(dir, before)? + local::sweep_refused(dir, own, before)?)
        };
        self.deeds
            .act(|| format!("folder.sweep({days})"), 0, swept)
            .map(count)
            .map_err(|e: io::Error| fail(format!("folder.sweep(): {e}")))
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Handle>("Folder")
        // folder.reset(): every .failed of the user's own becomes .meta again, its
        // error cleared; how many
        .register_fn("reset", Handle::reset)
        // folder.sweep(days): removes partial files untouched for so long, and the .meta
        // of files that were refused that long ago; how many. What was delivered more
        // than 90 days ago is forgotten too: no sender tries again for so long.
        .register_fn("sweep", Handle::sweep);
}
