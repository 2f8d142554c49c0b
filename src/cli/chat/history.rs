//! What was said before.

use std::collections::{HashMap, HashSet};

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::screen::Screen;
use crate::{
    error::{Code, Error},
    root::{
        folder::Folder,
        message_log::{self, Entry, Reader},
    },
};

/// A point in time, as the command line says it: `2026-11-27`, a moment of RFC 3339, or `7d`.
pub fn since(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "{text:?} is not a time: write 2026-11-27, 2026-11-27T18:00:00Z, or 7d or 12h for so long ago"
        )
    };
    let ago = |text: &str, seconds: i64| {
        let count: i64 = text.parse().ok().filter(|n| *n >= 0)?;
        Some(
            Timestamp::now()
                .as_second()
                .saturating_sub(count.saturating_mul(seconds)),
        )
    };
    let seconds = if let Some(days) = text.strip_suffix('d') {
        ago(days, 86_400)
    } else if let Some(hours) = text.strip_suffix('h') {
        ago(hours, 3_600)
    } else if let Ok(date) = text.parse::<Date>() {
        let begin = date.to_zoned(TimeZone::system()).ok();
        begin.map(|begin| begin.timestamp().as_second())
    } else {
        text.parse::<Timestamp>().ok().map(Timestamp::as_second)
    };
    let seconds = seconds.ok_or_else(wrong)?;
    Ok(u64::try_from(seconds)
        .unwrap_or_default()
        .saturating_mul(1_000))
}

/// Shows the messages of a folder with a contact, or with all, from a time on.
pub fn show(folder: &Folder, peer: Option<&str>, since: u64, screen: &Screen) -> Result<(), Error> {
    let at = |e: std::io::Error| Error::io("read", &folder.path_of(message_log::FILE), &e);
    let me = folder.user().name().as_str();
    let open = || Reader::open(folder.dir()).map_err(at);
    let mut reader = open()?.ok_or_else(|| {
        let sentence = format!("there are no messages in {me}'s folder {}", folder.name());
        Error::new(Code::NotFound, sentence)
    })?;
    // What became of a message comes after it.
    let mut states = HashMap::new();
    while let Some(entry) = reader.next_entry().map_err(at)? {
        if let Entry::State(id, state) = entry {
            states.insert(id, state);
        }
    }
    let Some(mut reader) = open()? else {
        return Ok(());
    };
    let mut seen = HashSet::new();
    while let Some(entry) = reader.next_entry().map_err(at)? {
        let Entry::Message(message) = entry else {
            continue;
        };
        let is_meant = peer.is_none_or(|peer| message.from == peer || message.to == peer);
        // What was sent again after a crash is there twice.
        let is_new = seen.insert((message.from.clone(), message.id));
        if is_meant && is_new && message.at >= since && message.quarantine.is_none() {
            let state = states.get(&message.id).filter(|_| message.from == me);
            screen.message(&message, me, state);
        }
    }
    Ok(())
}
