//! Streams in a chat: those that are offered to its person, and those that the person sends.

use std::{collections::BTreeMap, fs::File, path::Path, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::screen::Screen;
use crate::{
    cli::{
        output,
        watch::sink::{Sink, give},
    },
    client::{
        Route,
        broadcast::{Broadcast, News as Sent},
    },
    control::viewer::{self, News, Offer, Viewer},
    error::{Code, Error, printable},
    hooks::dispatch::stopped,
    meta::Meta,
    observer::Unobserved,
    root::{name::Name, user::User},
    transfer::send::feed::Overflow,
};

/// How often it is looked whether a server runs.
const LOOK: Duration = Duration::from_millis(100);

/// What a person reads who chooses in vain.
const NONE: &str = "  no stream is offered";

/// What a person says to a stream that is offered.
pub enum Choice {
    /// To watch it there; that of this contact, if several are offered.
    Yes(Option<Name>, Sink),
    /// Not to.
    No(Option<Name>),
}

/// Streams that are offered.
pub struct Streams {
    choices: mpsc::UnboundedSender<Choice>,
}

impl Streams {
    /// Tells of streams for a user, from anybody or from one contact, until `going_down` turns
    /// true.
    pub fn begin(
        (user, from): (User, Option<Name>),
        screen: Screen,
        mut going_down: watch::Receiver<bool>,
    ) -> Self {
        let (choices, mut chosen) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let waiting = async {
                loop {
                    let viewer = viewer::wait(user.root(), user.name(), from.as_ref()).await;
                    if let Ok(Some(viewer)) = viewer {
                        offered(viewer, &screen, &mut chosen).await;
                        continue;
                    }
                    // The chat itself begins to receive, or says why it cannot.
                    tokio::select! {
                        () = sleep(LOOK) => {}
                        Some(_) = chosen.recv() => screen.say(NONE),
                    }
                }
            };
            tokio::select! {
                () = waiting => {}
                () = stopped(&mut going_down) => {}
            }
        });
        Self { choices }
    }

    /// Answers the stream that is offered.
    pub fn choose(&self, choice: Choice) -> Result<(), Error> {
        let ended = |_| Error::new(Code::Failed, "nothing is received any more");
        self.choices.send(choice).map_err(ended)
    }
}

/// Tells of what is offered, until a stream begins or the server stops.
async fn offered(
    mut viewer: Viewer,
    screen: &Screen,
    chosen: &mut mpsc::UnboundedReceiver<Choice>,
) {
    let mut offers: BTreeMap<u64, (Offer, Option<Sink>)> = BTreeMap::new();
    loop {
        tokio::select! {
            news = viewer.next() => match news {
                Ok(Some(News::Offer(offer))) => {
                    let (from, name) = shown(&offer);
                    screen.say(&format!(
                        "  {from} wants to stream {name}: /y to watch it, /n to refuse"
                    ));
                    offers.insert(offer.number, (offer, None));
                }
                Ok(Some(News::Over(number))) => {
                    if let Some((offer, _)) = offers.remove(&number) {
                        let (from, name) = shown(&offer);
                        screen.say(&format!("  {from} no longer offers {name}"));
                    }
                }
                Ok(Some(News::Begins(number))) => {
                    let Some((offer, Some(sink))) = offers.remove(&number) else {
                        return;
                    };
                    let screen = screen.clone();
                    tokio::spawn(show(offer, viewer, sink, screen));
                    return;
                }
                Ok(None) | Err(_) => return,
            },
            Some(choice) = chosen.recv() => {
                let from = match &choice {
                    Choice::Yes(from, _) | Choice::No(from) => from.as_ref().map(Name::as_str),
                };
                let mut open = offers.iter_mut().filter(|(_, (offer, sink))| {
                    sink.is_none() && from.is_none_or(|from| offer.from == from)
                });
                let (Some((number, (_, sink))), other) = (open.next(), open.next()) else {
                    screen.say(NONE);
                    continue;
                };
                if other.is_some() && from.is_none() {
                    screen.say("  several streams are offered: /y NAME or /n NAME");
                    continue;
                }
                let (number, watch) = (*number, matches!(choice, Choice::Yes(..)));
                match choice {
                    Choice::Yes(_, to) => *sink = Some(to),
                    Choice::No(_) => drop(offers.remove(&number)),
                }
                if viewer.answer(number, watch).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn shown(offer: &Offer) -> (String, String) {
    (printable(&offer.from, 64), printable(&offer.name, 200))
}

async fn show(offer: Offer, viewer: Viewer, sink: Sink, screen: Screen) {
    let (from, name) = shown(&offer);
    screen.say(&format!("  watching {name} of {from}"));
    let watched = match viewer.watch() {
        Ok(stream) => give(stream, &sink, &offer.from).await,
        Err(error) => Err(error),
    };
    match watched {
        Ok((bytes, Ok(()))) => {
            let bytes = output::bytes(bytes);
            screen.say(&format!("  {name} of {from} has ended: {bytes}"));
        }
        Ok((_, Err(error))) | Err(error) => screen.wrong(&error),
    }
}

/// Streams a file, while the conversation goes on.
pub fn send(route: Route, meta: Meta, file: &Path, screen: Screen) -> Result<(), Error> {
    let input = File::open(file).map_err(|e| Error::io("open", file, &e))?;
    let (to, name) = (meta.to.clone(), printable(&meta.filename, 200));
    screen.say(&format!("  asking {to} to watch {name}"));
    tokio::spawn(async move {
        let tell = |news: Sent<'_>| match news {
            Sent::Begun(meta) => screen.say(&format!("  {} watches {name}", meta.to)),
            Sent::Again(_, error) => screen.wrong(error),
            Sent::Over(outcome) => match outcome.result {
                Ok(()) => {
                    let sent = output::bytes(outcome.sent);
                    screen.say(&format!("  {to} has watched {name} to its end: {sent}"));
                }
                Err(error) => screen.wrong(&error.within(format_args!("{name} to {to}"))),
            },
        };
        let broadcast = Broadcast::new(vec![(route, meta)], Overflow::Wait);
        if let Err(error) = broadcast.send(input, &Unobserved, tell).await {
            screen.wrong(&error);
        }
    });
    Ok(())
}
