//! Notifications on the desktop of a person who talks.

use std::{
    sync::{
        LazyLock,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use notify_rust::Notification;

use super::screen::Screen;
use crate::error::{Code, Error, printable};

/// Characters of a message that are shown.
const SHOWN: usize = 200;

/// Notifications that wait for a slow desktop; further ones are left out.
const WAITING: usize = 8;

struct Shown {
    title: String,
    text: String,
    screen: Screen,
}

/// One thread shows them all: a desktop that does not answer holds up nothing else.
static DESKTOP: LazyLock<SyncSender<Shown>> = LazyLock::new(|| {
    let (give, take) = sync_channel(WAITING);
    let showing = thread::Builder::new().name("notify".to_owned());
    // If it cannot start, nothing is shown.
    let _ = showing.spawn(move || show(&take));
    give
});

fn show(waiting: &Receiver<Shown>) {
    for Shown {
        title,
        text,
        screen,
    } in waiting
    {
        let mut notification = Notification::new();
        let notification = notification.appname("m2y").summary(&title).body(&text);
        if let Err(error) = notification.show() {
            let sentence = format!("cannot notify you: {error} (leave out --notify)");
            screen.once(&Error::new(Code::Failed, sentence));
        }
    }
}

/// Shows that somebody said something. If there is no desktop, the chat says so once.
pub fn notify(from: &str, text: &str, screen: &Screen) {
    // Desktops take the text for HTML.
    let text = printable(text, SHOWN)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = DESKTOP.try_send(Shown {
        title: printable(from, 64),
        text,
        screen: screen.clone(),
    });
}
