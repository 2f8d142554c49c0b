use std::{path::PathBuf, sync::Arc};

use clap::Args;

use super::{RootArg, report::Report, told};
use crate::{
    cli::{Failure, folder_name, output, read_file, user_arg::UserArg},
    client,
    crypto::random,
    delivery::Client,
    error::{Code, Error, printable},
    event::{Asked, Event, EventId, Kind, Outcome, StoreChange, StoreNews, Subject},
    hooks::{
        Hooks, Pinned,
        dispatch::Dispatcher,
        notes::{Mode, Notes},
        script_state::ReadOnlyState,
        services::Services,
        web::OnRuntime,
    },
    meta::{Meta, TransferId},
    root::{file, folder::Folder, meta_file},
};

/// Run the hooks of an event now, without a transfer, to see what they do
///
/// Nothing changes: scripts decide, and the command prints what they would do. Programs do
/// not run and count as accepting. http.get() does ask its server; http.post() is not
/// sent, and a script that reaches one stops there.
///
/// With --live everything happens: files change, programs run, requests are sent, and
/// e-mails, webhooks and files for others go into the journal, where a running server picks
/// them up at once.
///
/// OnMeta and OnReceived are about a file that a contact sent: --meta names its .meta, in
/// the folder or elsewhere. OnNew, OnChanged and OnDeleted are about --file, a file in the
/// folder. OnMessage is about --text, from --contact.
///
/// Exit code 0: accepted, quarantined, or not run further; 10: refused; 1: failed.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    root: RootArg,
    /// The event: OnMeta, OnStartup, OnReceived, OnNew, OnChanged, OnDeleted, OnSchedule,
    /// OnList, OnGet, OnSent, OnStore, OnMessage
    #[arg(value_name = "EVENT", value_parser = event)]
    event: Kind,
    #[command(flatten)]
    user: UserArg,
    /// The folder
    #[arg(long, value_name = "NAME")]
    folder: String,
    /// The .meta of the file that the event is about
    #[arg(long, value_name = "FILE")]
    meta: Option<PathBuf>,
    /// The file in the folder that the event is about
    #[arg(long, value_name = "NAME")]
    file: Option<String>,
    /// What the message says, at OnMessage; --contact sent it
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["meta", "file"])]
    text: Option<String>,
    /// The contact who asks, at OnList, OnGet and OnSent
    #[arg(long, value_name = "NAME")]
    contact: Option<String>,
    /// What happened to the store, at OnStore: lost, back or damage [default: lost]
    #[arg(long, value_name = "CHANGE", value_parser = change)]
    change: Option<StoreChange>,
    /// Only this script, whether or not m2y.config names it
    #[arg(long, value_name = "SCRIPT")]
    script: Option<String>,
    /// Do what the hooks ask for, and run programs
    #[arg(long)]
    live: bool,
}

/// Reads the name of an event.
pub fn event(text: &str) -> Result<Kind, String> {
    Kind::of_section(text).ok_or_else(|| {
        let events: Vec<_> = Kind::ALL.into_iter().map(Kind::section).collect();
        format!("the events are {}", events.join(", "))
    })
}

fn change(text: &str) -> Result<StoreChange, String> {
    StoreChange::of_word(text).ok_or_else(|| {
        let words = StoreChange::ALL.map(StoreChange::word);
        format!("the changes are {}", words.join(", "))
    })
}

impl Run {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let root = self.root.open()?;
        let user = self.user.of(&root)?;
        let folder = folder_name(&self.folder)?;
        let folder = user.folder(&folder).map_err(Error::from)?;
        let event = self.to_event(&folder)?;
        let before = event.subject.as_ref().map(|subject| subject.meta.clone());
        let notes = Notes::default();
        let mode = Mode {
            live: self.live,
            programs: self.live,
            notes: Some(notes.clone()),
        };
        let settings = root.settings().map_err(Error::from)?;
        let verdict = if self.live {
            let dispatcher = Dispatcher::with_stores(&root, &settings, &client::stores())?;
            dispatcher.fire_by_hand(event, &mode).await
        } else {
            let state =
                ReadOnlyState::new(&root).map_err(|e| Error::new(Code::Failed, e.to_string()))?;
            let client = Client::new(&settings.webhook, root.path()).map_err(Error::from)?;
            let services = Services::new(Arc::new(state)).with_web(OnRuntime::only_get(&client));
            let hooks = Hooks::with_stores(&root, &settings, &services, &client::stores());
            hooks.fire_as(event, &Pinned::default(), &mode).await
        };
        let report = Report::new(before.as_ref(), verdict, notes.take(), self.live);
        if json {
            output::object(&report.facts(usize::MAX));
        } else {
            report.lines(usize::MAX).iter().for_each(output::line);
            match report.words() {
                (word, words) if report.is_cut_short() => {
                    output::line(format_args!("{word}: {words}"));
                }
                (word, _) => output::line(word),
            }
        }
        if report.is_cut_short() {
            return Ok(());
        }
        let (word, words) = report.words();
        let event = self.event;
        match &report.verdict.outcome {
            Outcome::Accepted | Outcome::Quarantined(_) => Ok(()),
            Outcome::Refused(_) => Err(told(
                json,
                Code::Refused,
                format!("[{event}] refused: {}", printable(words, 400)),
            )),
            Outcome::Failed | Outcome::Later => {
                Err(told(json, Code::Failed, format!("[{event}] {word}")))
            }
        }
    }

    fn to_event(&self, folder: &Folder) -> Result<Event, Error> {
        let usage = |sentence: String| Error::new(Code::Usage, sentence);
        let kind = self.event;
        let mut config = folder.read_config()?;
        if let Some(script) = &self.script {
            config.only(kind.section(), script);
        }
        let is_asked = matches!(kind, Kind::List | Kind::Get | Kind::Sent);
        let subject = match (&self.text, &self.contact) {
            (Some(text), Some(from)) => Some(made_up(folder, from, text)?),
            (Some(_), None) => return Err(usage("--text needs --contact, who sent it".to_owned())),
            (None, _) if kind == Kind::Message && self.meta.is_none() => {
                return Err(usage(format!(
                    "{kind} is about a message: say it with --text"
                )));
            }
            (None, _) => None,
        };
        if is_asked && self.contact.is_none() {
            return Err(usage(format!(
                "{kind} needs a contact: name one with --contact"
            )));
        }
        let mut file = self.file.clone();
        if let Some(name) = &file {
            file::check_name(name).map_err(|why| usage(format!("{name:?} {why}")))?;
            if kind != Kind::Deleted && !folder.path_of(name).is_file() {
                let sentence = format!("{name:?} is not in the folder");
                return Err(Error::new(Code::NotFound, sentence));
            }
        }
        let subject = match &self.meta {
            _ if subject.is_some() => subject,
            Some(path) => {
                let meta = Meta::from_file(&read_file(path)?).map_err(|e| {
                    Error::new(Code::Failed, format!("cannot read {}: {e}", path.display()))
                })?;
                let stem = path.file_stem().and_then(|stem| stem.to_str());
                let stem = stem.unwrap_or("file").to_owned();
                Some(Subject { meta, stem })
            }
            None => file.as_deref().and_then(|name| known(folder, name)),
        };
        match (kind, &subject, &file) {
            (Kind::Meta | Kind::Received, None, _) => {
                return Err(usage(format!(
                    "{kind} is about a file that was sent: name its .meta with --meta"
                )));
            }
            (Kind::New | Kind::Changed | Kind::Deleted | Kind::Get | Kind::Sent, None, None) => {
                return Err(usage(format!(
                    "{kind} is about a file: name it with --file"
                )));
            }
            _ => {}
        }
        if let (None, Some(subject)) = (&file, &subject)
            && !subject.meta.is_message()
        {
            file = Some(subject.data_file());
        }
        // Not the id of the meta: what hooks ask for now is not what they asked for when the file
        // arrived.
        let id = EventId::new().map_err(|e| Error::new(Code::Failed, e.to_string()))?;
        Ok(Event {
            id,
            kind,
            folder: folder.clone(),
            config: Arc::new(config),
            asked: is_asked.then(|| Asked {
                contact: self.contact.clone().unwrap_or_default(),
                path: file.clone().unwrap_or_default(),
            }),
            file: file.filter(|_| !is_asked),
            subject,
            store: (kind == Kind::Store).then(|| StoreNews::made_up(self.change)),
        })
    }
}

/// A message that somebody might have sent.
fn made_up(folder: &Folder, from: &str, text: &str) -> Result<Subject, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::new(Code::Usage, e.to_string());
    let id = TransferId(random().map_err(|e| failed(&e))?);
    let (to, folder) = (folder.user().name().as_str(), folder.name().as_str());
    let meta = Meta::of_message((from, to), folder, id, text);
    Ok(Subject::of_message(meta.map_err(|e| failed(&e))?, id))
}

/// What is known about a file of the folder that somebody sent.
fn known(folder: &Folder, name: &str) -> Option<Subject> {
    let (stem, _) = name.rsplit_once('.')?;
    Some(Subject {
        meta: meta_file::of_stem(folder.dir(), stem)?,
        stem: stem.to_owned(),
    })
}
