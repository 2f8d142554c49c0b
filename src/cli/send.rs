//! Sends files: one after the other from a plan, through the sessions of their routes.

mod dry;
mod input;
mod letters;
mod plan;
mod producer;
mod receivers;
mod tally;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use clap_complete::ArgValueCompleter;
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task,
};

use self::{
    dry::Dry,
    plan::{Kind, Plan},
    producer::{Named, Produced, Producer, Routes, Tools},
    receivers::Parties,
    tally::Tally,
};
use super::{
    Failure,
    completion::{contacts, files_and_targets},
    default_root,
    limit::Limit,
    output,
    progress::Progress,
    remote::full_addresses,
    stream::is_stdin,
};
use crate::{
    client::{self, Route},
    error::{Code, Error},
    journal::outgoing::{Outgoing, What},
    meta::Meta,
    root::Root,
    transfer::send::{
        job_file::{JobFile, LastDir},
        outgoing::{OutgoingLog, OutgoingView},
    },
};

/// Send files
///
/// Either name .meta files, each of which says what it is about:
///
///   m2y send /m2y/user/zhenqiang/photo/myfoto.meta
///
/// or name the files themselves:
///
///   m2y send myfoto.jpg roland-frei:photo
///
/// which is short for --to roland-frei --folder photo. Leave the folder out (roland-frei)
/// if the contact has told you one. --from says which user of the root sends, if there are
/// several.
///
/// m2y remembers the files that you name. The same command again skips identical files,
/// continues an interrupted one where it stopped, and sends what failed or has changed.
/// --again sends everything. `m2y sent` lists what was sent, and `m2y send --failed` retries
/// what failed.
///
/// A .meta becomes .done when the receiver has the file safely, else .failed with the
/// reason in its field "error". To retry it, name the .failed:
///
///   m2y send /m2y/user/zhenqiang/photo/myfoto.failed
///
/// If the receiver cannot be reached, and has joined a relay that keeps letters, the file is
/// left there, sealed (--leave): the .meta becomes .left, and .done or .failed once the
/// receiver has said which. `m2y serve` hears of that by itself; without it, name the .left.
/// --take-back takes a letter back that was not fetched yet.
///
/// Name - to send standard input, whose size need not be known: it is stored like a file once it
/// has come whole, and cannot be resumed. Several receivers after the files get all of them; each
/// file is read once, and sealed for each:
///
///   tar c . | m2y send - roland-frei:backup --name home.tar
///   m2y send film.mp4 roland-frei peter-norton:video
///
/// Many files to one receiver share one connection. A directory stands for every .meta in
/// it. With NAME:FOLDER and --recursive it stands for every file below it, hidden ones too;
/// links are skipped, and so are hidden files and m2y's own documents in an m2y folder. The
/// field "path" tells the receiver where in the directory a file was.
///
/// If a connection breaks, m2y connects again for some seconds and continues where it was.
/// If no connection succeeds, or three in a row break before anything arrives, what was under
/// way fails and the rest is not tried. Ctrl-C stops in the same way.
///
/// Exit codes: 0 sent, 1 error, 2 usage, 3 some of several failed, 4 not found,
/// 5 try later, 10 rejected by the other side, 12 key or identity, 13 integrity,
/// 130 interrupted.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Send {
    /// The root directory [default: the one that the .meta lies in; with NAME:FOLDER,
    /// /m2y or ~/m2y]
    #[arg(long, env = "M2Y_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// The receiver's server, port 5000 unless given [default: the contact's address]
    #[arg(long, env = "M2Y_SERVER", value_name = "ADDRESS", value_parser = full_addresses)]
    server: Option<String>,
    /// The user who sends [default: M2Y_USER, or the user in m2y.ini, else the only one of
    /// the root]
    #[arg(long, alias = "user", value_name = "USER")]
    from: Option<String>,
    /// The contact who receives, like NAME:FOLDER behind the files
    #[arg(long, value_name = "USER", add = ArgValueCompleter::new(contacts))]
    to: Option<String>,
    /// The receiver's folder [default: the one that the contact told you]
    #[arg(long, value_name = "NAME")]
    folder: Option<String>,
    /// Send what is in directories, and in those below
    #[arg(long, short)]
    recursive: bool,
    /// The name of what comes from standard input [default: stdin]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Send files even if they were sent before and have not changed
    #[arg(long)]
    again: bool,
    /// What to do with files that were sent before and have not changed since
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value = "skip",
        hide = true
    )]
    conflict: Conflict,
    /// Retry what failed: everything, or with NAME: or NAME:FOLDER what was to go there
    #[arg(long)]
    failed: bool,
    /// When to leave a file at the receiver's relay, sealed, as a letter
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        conflicts_with = "server"
    )]
    leave: Leave,
    /// Take back letters that were not fetched yet
    #[arg(long, conflicts_with_all = ["failed", "again", "dry_run", "recursive"])]
    take_back: bool,
    #[command(flatten)]
    limit: Limit,
    /// Only say what would be sent where: connects to nobody, writes nothing
    #[arg(long)]
    dry_run: bool,
    /// Show no progress: no bars on a terminal, no line every ten seconds elsewhere
    #[arg(long)]
    no_progress: bool,
    /// Print errors only
    #[arg(long, short)]
    quiet: bool,
    /// Receivers besides the first one, and their folders.
    #[arg(skip)]
    also: Vec<(String, String)>,
    /// Files or directories, then NAME:FOLDER; or .meta and .failed files; or - for standard input
    #[arg(required_unless_present = "failed", value_name = "FILE", add = ArgValueCompleter::new(files_and_targets))]
    files: Vec<PathBuf>,
}

/// What to do with a file that was sent before and has not changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Conflict {
    /// Skip it
    Skip,
    /// Send it as a new file, like --again
    Rename,
}

/// When a file is left as a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Leave {
    /// If the receiver cannot be reached
    Auto,
    /// Not at all
    Never,
    /// Without calling the receiver first
    Always,
}

impl From<Leave> for client::letters::Leave {
    fn from(leave: Leave) -> Self {
        match leave {
            Leave::Auto => Self::Auto,
            Leave::Never => Self::Never,
            Leave::Always => Self::Always,
        }
    }
}

/// The most attempts that are retried at once.
const MAX_FAILED: u32 = 100_000;

impl Send {
    /// The root, if it is known before any `.meta` is.
    fn root(&self) -> Option<PathBuf> {
        let default = || self.from.is_some().then(default_root);
        self.root.clone().or_else(default)
    }

    /// Whether files that were sent before are sent again.
    fn is_again(&self) -> bool {
        self.again || self.conflict == Conflict::Rename
    }

    /// What to do when some files were not sent.
    fn how_to_go_on(&self) -> &'static str {
        match self.from.is_some() {
            true => "; run the same command again to continue",
            false => "",
        }
    }

    /// The attempts to retry.
    fn failed(
        &self,
        found: impl FnOnce(&str) -> Result<Vec<Outgoing>, Error>,
    ) -> Result<Plan, Error> {
        let failed = found(self.from.as_deref().unwrap_or_default())?;
        let is_meant = |what: &What| {
            self.to.as_ref().is_none_or(|to| *to == what.recipient)
                && self
                    .folder
                    .as_ref()
                    .is_none_or(|folder| *folder == what.folder)
        };
        let meant = failed
            .into_iter()
            .filter(|one| is_meant(&one.what))
            .collect();
        Ok(Plan::of_failed(meant))
    }

    /// The folder of the sender, if the files themselves were named.
    fn kind(&self, parties: Option<&Parties>) -> Kind {
        match (parties, self.root()) {
            (Some(Parties { from, folder, .. }), Some(root)) => {
                Kind::Files(root.join(format!("user/{from}/{folder}")))
            }
            _ => Kind::Metas,
        }
    }

    /// Whether there may be more than one file.
    fn is_several(&self, kind: &Kind) -> bool {
        match self.files.as_slice() {
            _ if self.failed => true,
            [_] if !self.also.is_empty() => true,
            [one] => Plan::is_directory(one, kind, self.recursive),
            _ => true,
        }
    }

    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let send = Arc::new(self.complete()?);
        if send.take_back {
            return letters::take_back(&send, json).await;
        }
        if send.from.is_none() && !send.files.is_empty() {
            match send
                .files
                .iter()
                .filter(|file| letters::is_left(file))
                .count()
            {
                0 => {}
                n if n == send.files.len() => return letters::ask(&send, json).await,
                _ => {
                    let sentence =
                        "name either .left files, to hear what became of them, or others";
                    return Err(Error::new(Code::Usage, sentence).into());
                }
            }
        }
        if send.files.iter().any(|file| is_stdin(file)) {
            if send.files.len() > 1 {
                let sentence = "- stands for standard input, and is sent alone";
                return Err(Error::new(Code::Usage, sentence).into());
            }
            return input::send(&send, json).await;
        }
        if send.name.is_some() {
            let sentence = "--name is for what comes from standard input: name - as the file";
            return Err(Error::new(Code::Usage, sentence).into());
        }
        let kind = send.kind(send.parties()?.as_ref());
        let several = send.is_several(&kind);
        let wanted = !json && !send.no_progress && !send.quiet && !send.dry_run;
        let progress = Arc::new(Progress::default());
        if wanted {
            progress.begin(several);
        }
        let tally = Tally::new(send.clone(), progress.clone(), json, several);
        let plan = Plan::new(&send.files, kind.clone(), send.recursive);
        if send.dry_run {
            return task::spawn_blocking(move || send.dry(plan, tally))
                .await
                .map_err(lost)?;
        }
        let mut interrupt = signal(SignalKind::interrupt())
            .map_err(|e| Error::new(Code::Failed, format!("cannot wait for signals: {e}")))?;
        let (outcomes, told) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let tools = Tools {
            handle: Handle::current(),
            outcomes,
            observer: progress.clone(),
            stop: stopped,
            pace: send.limit.pace(),
            leave: send.server.is_none().then(|| send.leave.into()),
        };
        let producing = {
            let send = send.clone();
            task::spawn_blocking(move || send.producer(plan, tools).map(Producer::run))
        };
        let mut telling = task::spawn_blocking(move || tally.run(told));
        let weigh = || {
            let plan = Plan::new(&send.files, kind.clone(), send.recursive);
            let progress = progress.clone();
            // It is not waited for: the program may end first.
            drop(task::spawn_blocking(move || weigh(plan, &progress)));
        };
        if progress.has_bars() && !send.failed {
            weigh();
        }
        let mut ticks = Progress::ticks();
        let mut is_weighed = false;
        let tally = loop {
            tokio::select! {
                tally = &mut telling => break tally.map_err(lost)?,
                Some(()) = interrupt.recv() => {
                    if stop.send_replace(true) {
                        // A person who interrupts twice does not want to wait for what is left to
                        // do.
                        return Err(Error::new(Code::Interrupted, "interrupted").into());
                    }
                }
                _ = ticks.tick(), if progress.has_lines() => {
                    if !is_weighed && !send.failed {
                        weigh();
                        is_weighed = true;
                    }
                    progress.tell();
                }
            }
        };
        progress.end();
        let Produced {
            passed_over,
            ended,
            log,
        } = producing.await.map_err(lost)??;
        if let Some(log) = log {
            let settled = task::spawn_blocking(move || log.settle());
            if let Err(error) = settled.await.map_err(lost)? {
                output::aside(format_args!(
                    "m2y: {error}: m2y could not record these files; the same command will send them again"
                ));
            }
        }
        tally.finish(passed_over, ended)
    }

    /// The producer, which opens the files. Mistakes that concern all of them are found here.
    fn producer(&self, mut plan: Plan, tools: Tools) -> Result<Producer, Error> {
        let mut routes = Routes::new(self.root(), self.server.clone());
        let mut templates = Vec::new();
        for parties in self.all_parties()? {
            let template = parties.template();
            if !self.failed {
                routes.find(Path::new(""), &template, |route| tools.queue(route))?;
            }
            templates.push(template);
        }
        let named = match self.failed || !templates.is_empty() {
            true => {
                let root = Root::open(&self.root().unwrap_or_default())?;
                let log = OutgoingLog::open(&root)?;
                if self.failed {
                    plan = self.failed(|user| log.failed(user, MAX_FAILED))?;
                }
                Some(Named {
                    log,
                    templates,
                    again: self.is_again(),
                })
            }
            false => None,
        };
        Ok(Producer::new(plan, named, routes, tools))
    }

    fn dry(&self, mut plan: Plan, tally: Tally) -> Result<(), Failure> {
        let mut routes = Routes::new(self.root(), self.server.clone());
        let templates: Vec<Meta> = self.all_parties()?.iter().map(Parties::template).collect();
        let view = match templates.is_empty() && !self.failed {
            true => None,
            false => {
                let root = Root::open(&self.root().unwrap_or_default());
                let root = root.map_err(Error::from)?;
                Some(OutgoingView::open(&root)?)
            }
        };
        for template in templates.iter().filter(|_| !self.failed) {
            let address = |route: Route| route.addresses().to_string();
            routes.find(Path::new(""), template, address)?;
        }
        if let Some(view) = &view
            && self.failed
        {
            plan = self.failed(|user| view.latest(Some(user), true, MAX_FAILED))?;
        }
        let dry = Dry {
            routes,
            templates,
            sent: view.filter(|_| !self.is_again()),
            tally,
        };
        dry.run(plan)
    }
}

fn lost(_: task::JoinError) -> Error {
    Error::new(Code::Failed, "internal error: a task stopped")
}

/// Determines how much there is to send.
fn weigh(plan: Plan, progress: &Progress) {
    let (mut files, mut bytes) = (0, 0);
    let mut last_dir = LastDir::default();
    for item in plan.flatten() {
        files += 1;
        let is_document = item
            .path
            .extension()
            .is_some_and(|e| e == "meta" || e == "failed");
        let file = match item.within.is_none() && is_document {
            true => JobFile::read_unlocked(&item.path, &mut last_dir)
                .and_then(|job_file| job_file.source()),
            false => Ok(Some(item.path)),
        };
        let file = file.ok().flatten();
        let about = file.and_then(|file| file.metadata().ok());
        bytes += about.map_or(0, |about| about.len());
    }
    progress.set_total(files, bytes);
}

/// A word quoted for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-:[]%@+,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
