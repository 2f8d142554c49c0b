pub mod sink;

use std::{
    io::{IsTerminal, stderr, stdin},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use clap_complete::ArgValueCompleter;
use futures_util::FutureExt;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use self::sink::{Sink, free, give};
use super::{
    Failure, RootArg,
    chat::own_folder,
    completion::contacts,
    folder_name,
    host::{ENDING, host},
    output,
    user_arg::UserArg,
    user_name,
};
use crate::{
    control::viewer::{self, News, Offer, Stream, Viewer},
    error::{Code, Error, printable},
    root::{Root, folder::CHAT, name::Name, user::User},
};

/// How often it is looked whether a server runs.
const LOOK: Duration = Duration::from_millis(50);

/// How long a server may take until it answers.
const STARTING: Duration = Duration::from_secs(60);

/// Watch a stream that a contact sends with `m2y stream`
///
/// Waits for a stream, asks you about it, and writes it to standard output, to a file, or into a
/// program:
///
///   m2y watch > film.ts                              asks about each stream
///   m2y watch zhenqiang --yes --exec 'mpv -'         watches whatever zhenqiang streams
///   m2y watch garden-camera --yes -o garden.ts
///
/// It ends with the stream; with --repeat it waits for the next one. While no `m2y serve` runs
/// for the root, it receives by itself. A stream that was cut off is an error, so that what came
/// is not taken for all of it.
///
/// Exit codes: 0 the stream has ended, 1 error, 2 usage, 4 not found, 5 cut off,
/// 130 interrupted.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Watch {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    user: UserArg,
    /// Do not ask: watch what this contact streams
    #[arg(long, requires = "peer")]
    yes: bool,
    /// Write the stream to this file
    #[arg(long, short, value_name = "FILE", conflicts_with = "exec")]
    output: Option<PathBuf>,
    /// Give the stream to this command of the shell, on its standard input
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Wait for the next stream after each
    #[arg(long, conflicts_with = "output")]
    repeat: bool,
    /// Watch only streams of this contact
    #[arg(value_name = "PEER", add = ArgValueCompleter::new(contacts))]
    peer: Option<String>,
}

impl Watch {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let root = self.root.open()?;
        let user = self.user.of(&root)?;
        let peer = self.peer.as_deref().map(user_name).transpose()?;
        if let Some(peer) = &peer {
            user.contact(peer).map_err(Error::from)?;
        }
        if !self.yes && !stdin().is_terminal() {
            let sentence =
                "nobody can be asked without a terminal: name the contact, and add --yes";
            return Err(Error::new(Code::Usage, sentence).into());
        }
        let sink = match (&self.output, &self.exec) {
            (Some(file), _) => Sink::File(file.clone()),
            (None, Some(command)) => Sink::Program(command.clone()),
            (None, None) => Sink::Stdout,
        };
        if json && matches!(sink, Sink::Stdout) {
            let sentence =
                "--json and the stream would share standard output: add --output or --exec";
            return Err(Error::new(Code::Usage, sentence).into());
        }
        if matches!(sink, Sink::Stdout) && std::io::stdout().is_terminal() {
            let sentence = "a terminal cannot show a stream: add --output FILE or --exec COMMAND, or redirect standard output";
            return Err(Error::new(Code::Usage, sentence).into());
        }
        if let Sink::File(path) = &sink {
            free(path)?;
        }
        // So that streams have a folder to go to.
        let name = folder_name(CHAT)?;
        own_folder(&user, &name)?;
        let (shutdown, going_down) = watch::channel(false);
        let (mut hosting, mut person) = (None, Person { lines: None });
        let watching = async {
            loop {
                let waiting = wait(&root, &user, peer.as_ref(), &mut hosting, &going_down);
                let viewer = waiting.await?;
                let chosen = self.choose(viewer, &mut person).await?;
                let Some((offer, stream)) = chosen else {
                    continue;
                };
                let watched = show(&offer, stream, &sink, json).await?;
                if !self.repeat {
                    return watched;
                }
                if let Err(error) = watched {
                    output::aside(format_args!("m2y: {error}"));
                }
            }
        };
        let watched = tokio::select! {
            watched = watching => watched,
            _ = tokio::signal::ctrl_c() => Err(Error::new(Code::Interrupted, "interrupted")),
        };
        let _ = shutdown.send(true);
        if let Some(hosting) = hosting {
            let _ = timeout(ENDING, hosting).await;
        }
        Ok(watched?)
    }

    /// Waits for a stream that is to be watched; `None` if the server has stopped.
    async fn choose(
        &self,
        mut viewer: Viewer,
        person: &mut Person,
    ) -> Result<Option<(Offer, Stream)>, Error> {
        let mut offers: Vec<Offer> = Vec::new();
        let (mut asked, mut chosen): (Option<u64>, Option<u64>) = (None, None);
        loop {
            let needs_nobody = |offer: &&Offer| self.yes || offer.is_accepted;
            if chosen.is_none()
                && let Some(offer) = offers.iter().find(needs_nobody)
            {
                chosen = Some(offer.number);
                viewer.answer(offer.number, true).await?;
            }
            if chosen.is_none()
                && asked.is_none()
                && let Some(offer) = offers.first()
            {
                asked = Some(offer.number);
                person.ask(offer);
            }
            tokio::select! {
                news = viewer.next() => match news? {
                    None => return Ok(None),
                    Some(News::Offer(offer)) => offers.push(offer),
                    Some(News::Over(number)) => {
                        if let Some(at) = offers.iter().position(|offer| offer.number == number) {
                            let offer = offers.remove(at);
                            let (from, name) = shown(&offer);
                            if asked == Some(number) {
                                eprintln!();
                            }
                            output::aside(format_args!("{from} no longer offers {name}"));
                        }
                        asked = asked.filter(|asked| *asked != number);
                        chosen = chosen.filter(|chosen| *chosen != number);
                    }
                    Some(News::Begins(number)) => {
                        let at = offers.iter().position(|offer| offer.number == number);
                        let offer = at.map(|at| offers.swap_remove(at));
                        let Some(offer) = offer else {
                            return Ok(None);
                        };
                        return Ok(Some((offer, viewer.watch()?)));
                    }
                },
                answer = person.answers(), if asked.is_some() => {
                    let Some(number) = asked.take() else {
                        continue;
                    };
                    // Without an answer it is asked again.
                    if let Some(yes) = answer {
                        viewer.answer(number, yes).await?;
                        match yes {
                            true => chosen = Some(number),
                            false => offers.retain(|offer| offer.number != number),
                        }
                    }
                }
            }
        }
    }
}

fn shown(offer: &Offer) -> (String, String) {
    (printable(&offer.from, 64), printable(&offer.name, 200))
}

/// Who answers at the terminal.
struct Person {
    lines: Option<mpsc::UnboundedReceiver<String>>,
}

impl Person {
    /// Asks whether to watch a stream.
    fn ask(&mut self, offer: &Offer) {
        let (from, name) = shown(offer);
        eprint!("{from} wants to stream {name} to you. Watch it? [y/n] ");
        let lines = self.lines.get_or_insert_with(|| {
            let (give, lines) = mpsc::unbounded_channel();
            // It waits for as long as the person does, whatever becomes of the stream.
            thread::spawn(move || {
                let typed = stdin().lines().map_while(Result::ok);
                for line in typed {
                    if give.send(line).is_err() {
                        return;
                    }
                }
            });
            lines
        });
        // What was typed before the question is no answer.
        while lines.recv().now_or_never().flatten().is_some() {}
    }

    /// What the person says, if that is yes or no. At the end of the input, it is no.
    async fn answers(&mut self) -> Option<bool> {
        let Some(lines) = &mut self.lines else {
            return std::future::pending().await;
        };
        let Some(line) = lines.recv().await else {
            return Some(false);
        };
        match line.trim() {
            "y" | "yes" | "/y" => Some(true),
            "n" | "no" | "/n" => Some(false),
            _ => None,
        }
    }
}

/// Waits for streams, at the server of the root, or at one of this process.
async fn wait(
    root: &Root,
    user: &User,
    peer: Option<&Name>,
    hosting: &mut Option<JoinHandle<()>>,
    going_down: &watch::Receiver<bool>,
) -> Result<Viewer, Error> {
    let begun = Instant::now();
    loop {
        match viewer::wait(root, user.name(), peer).await {
            Ok(Some(viewer)) => return Ok(viewer),
            Ok(None) => {}
            // One that starts or stops just now may not answer.
            Err(error) if error.code == Code::Refused || begun.elapsed() > STARTING => {
                return Err(error);
            }
            Err(_) => {}
        }
        if hosting.is_none() {
            let wrong = |error: &Error| output::aside(format_args!("m2y: {error}"));
            let host = host(root.clone(), going_down.clone(), wrong);
            *hosting = Some(tokio::spawn(host));
        }
        sleep(LOOK).await;
    }
}

/// Gives a stream to where it goes, and says how it ended.
async fn show(
    offer: &Offer,
    stream: Stream,
    sink: &Sink,
    json: bool,
) -> Result<Result<(), Error>, Error> {
    let (from, name) = shown(offer);
    let about = |status: &'static str| {
        vec![
            ("status", status.into()),
            ("from", offer.from.as_str().into()),
            ("name", offer.name.as_str().into()),
        ]
    };
    if json {
        output::object(&about("begun"));
    } else if stderr().is_terminal() {
        output::aside(format_args!("watching {name} from {from}"));
    }
    let begun = Instant::now();
    let (bytes, result) = give(stream, sink, &offer.from).await?;
    if json {
        let status = if result.is_ok() { "ended" } else { "failed" };
        let mut object = about(status);
        object.push(("bytes", bytes.into()));
        object.push(("seconds", begun.elapsed().as_secs_f64().into()));
        if let Err(error) = &result {
            object.push(("code", error.code.word().into()));
            object.push(("error", error.sentence.as_str().into()));
        }
        output::object(&object);
    } else if result.is_ok() {
        let speed = output::speed(bytes, begun.elapsed());
        output::aside(format_args!("{name} from {from} has ended: {speed}"));
    }
    Ok(result)
}
