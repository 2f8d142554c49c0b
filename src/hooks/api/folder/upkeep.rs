//! What is asked of and done to a folder as a whole.

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Handle, rules::whole};
use crate::{
    hooks::{
        api::function::{Made, fail},
        call,
        change::Change,
    },
    root::meta_file,
    store::{received, sweep},
};

/// Files whose sizes are added up.
const MAX_SIZES: usize = 50_000;

/// `.meta` files that are read to find a sender's.
const MAX_METAS: usize = 5_000;

impl Handle {
    pub(super) fn bytes(&mut self) -> Made<i64> {
        let call = "folder.bytes()";
        let (mut count, mut bytes) = (0_usize, 0_u64);
        self.each(call, "", |name| {
            count += 1;
            if count > MAX_SIZES {
                return Err(fail(format!(
                    "{call}: there are more than {MAX_SIZES} files: keep the sum with state.add()"
                )));
            }
            // One that has vanished meanwhile has no bytes.
            if let Ok(Some(stat)) = self.glance(name) {
                bytes = bytes.saturating_add(stat.size);
            }
            Ok(())
        })?;
        Ok(whole(bytes))
    }

    pub(super) fn bytes_from(&mut self, sender: &str) -> Made<i64> {
        let call = "folder.bytes_from()";
        let mut stems = Vec::new();
        let too_many = || {
            fail(format!(
                "{call}: there are more than {MAX_METAS} files: keep the sum with state.add()"
            ))
        };
        self.each(call, "", |name| {
            if let Some(stem) = name.strip_suffix(".data") {
                if stems.len() >= MAX_METAS {
                    return Err(too_many());
                }
                stems.push(stem.to_owned());
            }
            Ok(())
        })?;
        let hidden = received::stems(&self.folder, MAX_METAS + 1);
        let hidden = hidden.map_err(|e| fail(format!("{call}: {e}")))?;
        if stems.len() + hidden.len() > MAX_METAS {
            return Err(too_many());
        }
        let mut bytes = 0_u64;
        let store = self.actions.stores().of(&self.folder);
        for stem in hidden {
            call::go_on()?;
            let meta = received::find(&self.folder, &stem);
            if let Some(meta) = meta.filter(|meta| meta.from == sender)
                && received::place(&*store, &meta).is_some()
            {
                bytes = bytes.saturating_add(meta.filesize.unwrap_or_default());
            }
        }
        for stem in stems {
            call::go_on()?;
            let meta = self.read_meta(&format!("{stem}.meta"));
            if meta.is_some_and(|meta| meta.from == sender)
                && let Ok(Some(stat)) = self.glance(&format!("{stem}.data"))
            {
                bytes = bytes.saturating_add(stat.size);
            }
        }
        Ok(whole(bytes))
    }

    pub(super) fn reset(&mut self) -> Made<i64> {
        let own = self.folder.user().name().as_str();
        let count = meta_file::failed(self.folder.dir(), own).map(|failed| failed.len() as u64);
        let count = count.map_err(|e| fail(format!("folder.reset(): {e}")))?;
        let reset = Change::Reset(self.folder.name().clone());
        self.actions.transaction().keep_up(reset);
        self.actions.note(|| "folder.reset()".to_owned());
        Ok(whole(count))
    }

    pub(super) fn sweep(&mut self, days: i64) -> Made<i64> {
        let days = u64::try_from(days)
            .ok()
            .filter(|days| *days > 0)
            .ok_or_else(|| fail("folder.sweep(days): days must be above 0"))?;
        let age = Duration::from_secs(days.saturating_mul(86_400));
        let before = SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH);
        let store = self.actions.stores().of(&self.folder);
        let count = || {
            let partials = sweep::partials(&*store, &self.folder, before, false)?;
            Ok(partials + sweep::refused(&*store, &self.folder, before, false)?)
        };
        let count = count().map_err(|e: io::Error| fail(format!("folder.sweep(): {e}")))?;
        let since = before.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.actions.transaction().keep_up(Change::Sweep {
            folder: self.folder.name().clone(),
            before: since.as_secs(),
        });
        self.actions.note(|| format!("folder.sweep({days})"));
        Ok(whole(count as u64))
    }
}
