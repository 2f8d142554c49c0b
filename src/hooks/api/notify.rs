//! `notify`: tells the user something.

use std::io::Write;

use rhai::{Engine, EvalAltResult};

use super::{deeds::Deeds, fail};
use crate::{
    error::printable,
    meta::datetime_now,
    root::{file, user::User},
};

/// The file in the user's directory that notices go to.
pub const INBOX: &str = "inbox.log";

/// `notify` in a script.
#[derive(Clone)]
pub struct Handle {
    user: User,
    deeds: Deeds,
}

impl Handle {
    pub(super) fn new(user: &User, deeds: &Deeds) -> Self {
        Self {
            user: user.clone(),
            deeds: deeds.clone(),
        }
    }

    fn inbox(&mut self, text: &str) -> Result<(), Box<EvalAltResult>> {
        let line = format!("{} {}\n", datetime_now(), printable(text, 1_000));
        // One write call of one line: appends of two hooks do not mix.
        let write = || file::append(self.user.dir(), INBOX)?.write_all(line.as_bytes());
        self.deeds
            .act(|| format!("notify.inbox({text:?})"), (), write)
            .map_err(|e| fail(format!("notify.inbox(): cannot write {INBOX}: {e}")))
    }
}

pub(super) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Handle>("Notify")
        // notify.inbox(text): a line with the time in the user's inbox.log
        .register_fn("inbox", Handle::inbox);
}
