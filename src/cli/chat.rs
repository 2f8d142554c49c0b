//! Conversations with contacts.

mod emoji;
mod history;
mod lines;
mod notification;
mod screen;
mod streams;
mod telling;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{IsTerminal, stdin},
    path::PathBuf,
    process::Stdio,
};

use clap::Args;
use clap_complete::ArgValueCompleter;
use tokio::{
    process::Command,
    sync::{mpsc, watch},
    time::timeout,
};

use self::{
    emoji::with_emoji,
    lines::{Lines, Words, of_person, of_program},
    screen::Screen,
    streams::{Choice, Streams},
    telling::{Alarm, advise, tell},
};
use super::{
    Failure,
    completion::contacts,
    folder_name,
    host::{ENDING, host},
    output,
    remote::Asker,
    user_name,
    watch::sink::{Sink, free},
};
use crate::{
    client::{
        Route,
        chat::{Chat, Outcome, Sending, Talk},
        presence::{self, Presence},
    },
    error::{Code, Error, printable},
    json::{self, Value},
    meta::{Meta, TransferId},
    root::{
        RootError,
        folder::{CHAT, Folder},
        message_log::Follower,
        name::Name,
        user::User,
    },
};

/// Talk to a contact
///
/// Shows a prompt; what you type goes to the contact, and what comes stands above it. ✓✓ says
/// that a message was delivered, ✓ that it waits at the contact's relay. Without PEER, it shows
/// what everybody says to you; start each line with the recipient:
///
///   m2y chat roland-frei
///   m2y chat                            then: roland-frei:hello?
///   m2y chat roland-frei -m "hello?"    one message
///   m2y chat roland-frei --history --since 7d
///
/// /help lists the commands. :tada: becomes an emoji, and so do (L) (K) :) (8) :[
/// where they stand alone.
///
/// Messages are in messages.ndjson of your folder chat, which is made if it is missing. While
/// no `m2y serve` runs for the root, the chat itself receives messages and files.
///
/// If standard input is not a terminal, each line is a message. With --json, each line is an
/// object with text and, without PEER, to; objects come out for what is said to you, and for
/// what became of what you said.
///
/// Exit codes: 0 delivered or left at the relay, 1 error, 2 usage, 3 some of several failed,
/// 4 not found, 5 try later, 10 rejected by the other side, 12 key or identity.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct ChatArgs {
    #[command(flatten)]
    asker: Asker,
    /// The folder for the messages, yours and the contact's
    #[arg(long, value_name = "NAME", default_value = CHAT)]
    folder: String,
    /// Send this message, and say what became of it
    #[arg(long, short, value_name = "TEXT", requires = "peer")]
    message: Option<String>,
    /// Show what was said before
    #[arg(long, conflicts_with = "message")]
    history: bool,
    /// With --history, only from then on: 2026-11-27, or 7d or 12h for so long ago
    #[arg(long, value_name = "WHEN", requires = "history", value_parser = history::since)]
    since: Option<u64>,
    /// Show messages on the desktop, too
    #[arg(long)]
    notify: bool,
    /// Do not ring the bell of the terminal when a message comes
    #[arg(long)]
    no_bell: bool,
    /// Shell command that gets the streams you accept with /y
    #[arg(long, value_name = "COMMAND", default_value = "mpv -")]
    exec: String,
    /// Send :names: and short codes as they are
    #[arg(long)]
    no_emoji: bool,
    /// The contact
    #[arg(value_name = "PEER", add = ArgValueCompleter::new(contacts))]
    peer: Option<String>,
}

/// A running chat.
struct Session {
    user: User,
    here: Folder,
    there: Name,
    server: Option<String>,
    emoji: bool,
    json: bool,
    /// Whether lines come from a person, who may write commands.
    is_person: bool,
    peer: Option<Name>,
    /// What streams go to that are watched.
    exec: String,
    streams: Option<Streams>,
    alarm: Alarm,
    screen: Screen,
    chats: BTreeMap<Name, Chat>,
    sending: Vec<Sending>,
    outcomes: mpsc::UnboundedSender<Outcome>,
}

impl ChatArgs {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let user = self.asker.user()?;
        let there = folder_name(&self.folder)?;
        let peer = self.peer.as_deref().map(user_name).transpose()?;
        if self.history {
            let here = user.folder(&there).map_err(Error::from)?;
            let screen = Screen::new(json, None);
            let peer = peer.as_ref().map(Name::as_str);
            let since = self.since.unwrap_or_default();
            return Ok(history::show(&here, peer, since, &screen)?);
        }
        let here = own_folder(&user, &there)?;
        let (outcomes, became) = mpsc::unbounded_channel();
        let mut session = Session {
            screen: Screen::new(json, None),
            user,
            here,
            there,
            server: self.asker.server().map(str::to_owned),
            emoji: !self.no_emoji && !json,
            json,
            is_person: stdin().is_terminal() && !json,
            chats: BTreeMap::new(),
            sending: Vec::new(),
            outcomes,
            peer,
            exec: self.exec,
            streams: None,
            alarm: Alarm {
                bell: !self.no_bell,
                desktop: self.notify,
            },
        };
        match self.message {
            Some(text) => session.one(&text).await,
            None => session.talk(became).await,
        }
    }
}

/// The user's own folder of messages; made if it is missing.
pub(super) fn own_folder(user: &User, name: &Name) -> Result<Folder, Error> {
    match user.folder(name) {
        Err(RootError::NoFolder { .. }) => Ok(user.create_folder(name)?),
        folder => Ok(folder?),
    }
}

impl Session {
    /// The conversation with a contact.
    async fn chat(&mut self, with: &Name) -> Result<Chat, Error> {
        if let Some(chat) = self.chats.get(with) {
            return Ok(chat.clone());
        }
        let talk = Talk {
            route: Route::to(&self.user, with.as_str(), self.server.as_deref())?.persistent(),
            here: self.here.clone(),
            there: self.there.clone(),
        };
        let (chat, sending) = Chat::begin(talk, self.outcomes.clone()).await?;
        self.chats.insert(with.clone(), chat.clone());
        self.sending.push(sending);
        Ok(chat)
    }

    fn meant(&self, text: &str) -> String {
        match self.emoji {
            true => with_emoji(text),
            false => text.to_owned(),
        }
    }

    /// Sends one message, and says what became of it.
    async fn one(&mut self, text: &str) -> Result<(), Failure> {
        let peer = self.peer.clone();
        let peer = peer.ok_or_else(|| Error::new(Code::Usage, "name the contact"))?;
        let (text, chat) = (self.meant(text), self.chat(&peer).await?);
        let Outcome { message, state } = chat.say_and_wait(&text).await?;
        let state = state.map_err(|error| advise(error, &peer, &self.there));
        match state {
            Err(error) if self.json => {
                self.screen.became(&message, &Err(error.clone()));
                Err(Failure::told(error))
            }
            Err(error) => Err(error.into()),
            state => {
                self.screen.became(&message, &state);
                Ok(())
            }
        }
    }

    /// Talks until the input ends.
    async fn talk(&mut self, became: mpsc::UnboundedReceiver<Outcome>) -> Result<(), Failure> {
        let mut problem = None;
        if let Some(peer) = self.peer.clone() {
            // An unknown contact is an error at once; one without an address may still be heard.
            problem = match self.chat(&peer).await {
                Err(error) if error.code != Code::Usage => return Err(error.into()),
                begun => begun.err(),
            };
        }
        let mut lines = self.lines()?;
        let (shutdown, going_down) = watch::channel(false);
        let root = self.user.root().clone();
        let screen = self.screen.clone();
        let hosting = host(root, going_down.clone(), move |error| screen.wrong(error));
        let hosting = tokio::spawn(hosting);
        self.streams = self.is_person.then(|| {
            let me = (self.user.clone(), self.peer.clone());
            Streams::begin(me, self.screen.clone(), going_down)
        });
        let follower = Follower::new(self.here.dir());
        let follower = follower.map_err(|e| Error::io("read", self.here.path(), &e))?;
        let telling = tokio::spawn(tell(
            follower,
            (
                self.user.name().clone(),
                self.peer.clone(),
                self.there.clone(),
            ),
            (self.screen.clone(), self.alarm),
            became,
        ));
        if self.is_person {
            self.greet().await;
            if let Some(error) = problem {
                self.screen.wrong(&error);
            }
        }
        let mut wrong = None;
        while let Some(line) = lines.next().await {
            let done = match line {
                Ok(line) => self.line(&line).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if self.is_person => self.screen.wrong(&error),
                Err(error) => {
                    wrong = Some(error);
                    break;
                }
            }
        }
        // What was said has its outcome before this ends.
        self.chats.clear();
        for sending in self.sending.drain(..) {
            sending.is_over().await;
        }
        let (outcomes, _) = mpsc::unbounded_channel();
        drop(std::mem::replace(&mut self.outcomes, outcomes));
        let failed = telling.await.unwrap_or_default();
        let _ = shutdown.send(true);
        let _ = timeout(ENDING, hosting).await;
        match (wrong, failed.last) {
            (Some(error), _) => Err(error.into()),
            (None, Some(error)) if !self.is_person => Err(Failure::told(match failed.count {
                1 if failed.of == 1 => error,
                1 => Error::new(Code::Partly, "1 message was not delivered"),
                n => Error::new(Code::Partly, format!("{n} messages were not delivered")),
            })),
            _ => Ok(()),
        }
    }

    /// Where lines come from. For a person, it prepares the screen too.
    fn lines(&mut self) -> Result<Lines, Error> {
        if !self.is_person {
            return Ok(of_program());
        }
        let mut words: Vec<String> = COMMANDS.map(|(word, ..)| format!("{word} ")).to_vec();
        let contacts = self.user.contacts()?.into_iter().flatten();
        words.extend(contacts.map(|contact| format!("{}:", contact.name)));
        let prompt = match &self.peer {
            Some(peer) => format!("{peer}> "),
            None => "> ".to_owned(),
        };
        let (lines, above) = of_person(prompt, Words(words))?;
        self.screen = Screen::new(false, Some(above));
        Ok(lines)
    }

    /// Says how to begin.
    async fn greet(&self) {
        let to = match &self.peer {
            Some(peer) => format!("You are talking to {peer}."),
            None => "Write NAME:message.".to_owned(),
        };
        self.screen
            .say(&format!("{to} /help lists the commands; Ctrl-D ends."));
        if let Err(error) = self.who().await {
            self.screen.wrong(&error);
        }
    }

    /// Does what a line says; returns whether to go on.
    async fn line(&mut self, line: &str) -> Result<bool, Error> {
        if self.json {
            return self.object(line).await.map(|()| true);
        }
        let line = line.trim();
        if line.is_empty() {
            return Ok(true);
        }
        let (peer, text) = self.addressed(line)?;
        let Some(rest) = text.strip_prefix('/').filter(|_| self.is_person) else {
            self.say(peer, text).await?;
            return Ok(true);
        };
        let (command, argument) = rest.split_once(' ').unwrap_or((rest, ""));
        let argument = argument.trim();
        match command {
            "quit" | "q" => return Ok(false),
            "help" => {
                for (word, takes, does) in COMMANDS {
                    self.screen
                        .say(&format!("  {:<18} {does}", format!("{word} {takes}")));
                }
            }
            "who" => self.who().await?,
            "ls" => {
                for (number, name) in files()?.iter().enumerate() {
                    self.screen
                        .say(&format!("  {number}  {}", printable(name, 255)));
                }
            }
            "send" => self.send(peer, argument).await?,
            "stream" => self.stream(peer, argument)?,
            "y" => {
                let (from, file) = self.of_contact(argument);
                let sink = self.sink(file)?;
                self.choose(Choice::Yes(from, sink))?;
            }
            "n" => self.choose(Choice::No(self.of_contact(argument).0))?,
            // A line may begin with a slash, or talk about a path.
            _ if command.contains('/') => self.say(peer, text).await?,
            _ => {
                let sentence = format!("there is no /{command}: /help lists what there is");
                return Err(Error::new(Code::Usage, sentence));
            }
        }
        Ok(true)
    }

    /// Whom a line is for, and what it says.
    fn addressed<'a>(&self, line: &'a str) -> Result<(Option<Name>, &'a str), Error> {
        if self.peer.is_some() || (self.is_person && line.starts_with('/')) {
            return Ok((self.peer.clone(), line));
        }
        let addressed = line.split_once(':');
        let addressed = addressed.and_then(|(name, text)| Some((user_name(name).ok()?, text)));
        let (name, text) = addressed.ok_or_else(nobody)?;
        Ok((Some(name), text.trim_start()))
    }

    async fn say(&mut self, to: Option<Name>, text: &str) -> Result<(), Error> {
        let to = to.ok_or_else(nobody)?;
        let text = self.meant(text);
        self.chat(&to).await?.say(&text).await
    }

    /// A line of a program.
    async fn object(&mut self, line: &str) -> Result<(), Error> {
        if line.trim().is_empty() {
            return Ok(());
        }
        let wrong = |why: String| Error::new(Code::Usage, format!("a line cannot be read: {why}"));
        let object = json::parse(line.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        let field = |name: &str| object.get(name).and_then(Value::as_str);
        let to = field("to").map(user_name).transpose()?;
        let text = field("text").ok_or_else(|| wrong("it has no text".to_owned()))?;
        let text = text.to_owned();
        self.say(to.or(self.peer.clone()), &text).await
    }

    /// Says who is there.
    async fn who(&self) -> Result<(), Error> {
        let names: Vec<Name> = match &self.peer {
            Some(peer) => vec![peer.clone()],
            None => {
                let contacts = self.user.contacts()?.into_iter().flatten();
                contacts.map(|contact| contact.name).collect()
            }
        };
        let there = presence::ask(&self.user, &names).await?;
        if there.iter().all(|presence| *presence == Presence::Unknown) && self.peer.is_none() {
            self.screen
                .say("  none of your contacts show whether they are there");
        }
        for (name, presence) in names.iter().zip(there) {
            let said = match presence {
                Presence::Now => "is there now".to_owned(),
                Presence::Last(time) => {
                    format!("was there last {} UTC", output::moment(time))
                }
                Presence::Unknown => continue,
            };
            self.screen.say(&format!("  {name} {said}"));
        }
        Ok(())
    }

    /// The contact that an argument begins with, if it does, and the rest.
    fn of_contact<'a>(&self, argument: &'a str) -> (Option<Name>, &'a str) {
        let (first, rest) = argument.split_once(' ').unwrap_or((argument, ""));
        let contact = user_name(first).ok();
        match contact.filter(|name| self.user.contact(name).is_ok()) {
            Some(contact) => (Some(contact), rest.trim_start()),
            None => (None, argument),
        }
    }

    /// Where a stream goes: into a new file, or into the program for that.
    fn sink(&self, file: &str) -> Result<Sink, Error> {
        if file.is_empty() {
            return Ok(Sink::QuietProgram(self.exec.clone()));
        }
        let file = PathBuf::from(file);
        free(&file)?;
        Ok(Sink::File(file))
    }

    /// Answers the stream that is offered.
    fn choose(&self, choice: Choice) -> Result<(), Error> {
        match &self.streams {
            Some(streams) => streams.choose(choice),
            None => Ok(()),
        }
    }

    /// Streams a file.
    fn stream(&self, to: Option<Name>, file: &str) -> Result<(), Error> {
        let to = to.ok_or_else(nobody)?;
        let file = PathBuf::from(chosen(file, "/stream film.mp4")?);
        let name = file.file_name().and_then(|name| name.to_str());
        let parties = (self.user.name().as_str(), to.as_str());
        let (name, folder) = (name.unwrap_or("stream"), self.there.as_str());
        let meta = Meta::of_stream(parties, folder, name, TransferId([0; 16]));
        let route = Route::to(&self.user, to.as_str(), self.server.as_deref())?;
        streams::send(route, meta, &file, self.screen.clone())
    }

    /// Sends a file, as `m2y send` does.
    async fn send(&self, to: Option<Name>, file: &str) -> Result<(), Error> {
        let to = to.ok_or_else(nobody)?;
        let file = chosen(file, "/send photo.jpg")?;
        let failed = |e: std::io::Error| Error::new(Code::Failed, format!("cannot send: {e}"));
        let program = env::current_exe().map_err(failed)?;
        let mut sending = Command::new(program);
        sending
            .stdin(Stdio::null())
            .args(["send", "--no-progress", "--root"])
            .arg(self.user.root().path())
            .args(["--from", self.user.name().as_str(), "--to", to.as_str()]);
        if let Some(server) = &self.server {
            sending.args(["--server", server]);
        }
        sending.arg("--").arg(PathBuf::from(&file));
        let screen = self.screen.clone();
        // The conversation goes on meanwhile.
        tokio::spawn(async move {
            match sending.output().await.map_err(failed) {
                Ok(output) => {
                    let said = [output.stdout, output.stderr].concat();
                    for line in String::from_utf8_lossy(&said).lines() {
                        screen.say(&format!("  {line}"));
                    }
                }
                Err(error) => screen.wrong(&error),
            }
        });
        Ok(())
    }
}

/// What a person can do besides talking.
const COMMANDS: [(&str, &str, &str); 8] = [
    (
        "/send",
        "FILE",
        "send a file, or the one with that number in /ls",
    ),
    (
        "/stream",
        "FILE",
        "stream a file, which the other side watches",
    ),
    (
        "/y",
        "[NAME] [FILE]",
        "watch the stream that is offered, or write it to a file",
    ),
    ("/n", "[NAME]", "refuse it"),
    ("/ls", "", "list the files here, with numbers"),
    ("/who", "", "say who is there"),
    ("/help", "", "list this"),
    ("/quit", "", "end"),
];

fn nobody() -> Error {
    Error::new(Code::Usage, "name the recipient: NAME:message")
}

/// A file that is named, or the one with that number.
fn chosen(file: &str, example: &str) -> Result<String, Error> {
    let file = match file.parse::<usize>() {
        Ok(number) => files()?.into_iter().nth(number).unwrap_or(file.to_owned()),
        Err(_) => file.to_owned(),
    };
    if file.is_empty() {
        let sentence = format!("name the file, or its number in /ls: {example}");
        return Err(Error::new(Code::Usage, sentence));
    }
    Ok(file)
}

/// The files of the directory in which the chat runs.
fn files() -> Result<Vec<String>, Error> {
    let failed = |e: std::io::Error| Error::new(Code::Failed, format!("cannot list files: {e}"));
    let mut names = Vec::new();
    for entry in fs::read_dir(".").map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let name = entry.file_name().to_str().map(str::to_owned);
        names.extend(name.filter(|name| is_file && !name.starts_with('.')));
    }
    names.sort();
    Ok(names)
}
