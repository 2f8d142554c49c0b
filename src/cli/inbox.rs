//! What has arrived, for the owner of the folders.

mod entry;

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use clap::{Args, Subcommand};
use tokio::{signal, time::sleep};

use self::entry::{Entry, Inbox as Arrivals, State};
use super::{
    default_root, folder_name, output,
    user_arg::{said, user_of},
};
use crate::{
    error::{Code, Error, printable},
    root::{Root, conflict, file::check_name, name::Name},
    store::Reader,
};

/// How often the journal is checked for news.
const EVERY: Duration = Duration::from_millis(500);

/// List what arrived, the latest last; open it, or copy it out
///
/// Each line has a number, when the file came, who sent it, its name as the sender calls it,
/// its size, its folder and what became of it:
///
///   arrived     it is there
///   waiting     hooks have not accepted it yet
///   quarantine  a hook put it aside: `m2y folder quarantine` shows why
///   refused     a hook refused it
///   moved       a hook or a person moved or removed it, or `m2y put` gave it a path
///
/// m2y remembers what arrived for 90 days.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Inbox {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    whose: Whose,
    /// Only this folder
    #[arg(value_name = "FOLDER")]
    folder: Option<String>,
    /// Keep running and show new arrivals
    #[arg(long)]
    watch: bool,
    /// List at most N, the latest
    #[arg(long, short = 'n', default_value_t = 100, value_name = "N")]
    limit: u32,
}

#[derive(Debug, Subcommand)]
enum Action {
    Open(Open),
    Export(Export),
}

/// Open a file in its default program
///
/// m2y first copies a file with a dated name to a private temporary directory, under its
/// original name. M2Y_OPEN names the program that opens files [default: xdg-open].
#[derive(Debug, Args)]
struct Open {
    /// The number that `m2y inbox` shows
    #[arg(value_name = "N")]
    number: i64,
}

/// Copy files out under their own names
#[derive(Debug, Args)]
struct Export {
    /// The numbers that `m2y inbox` shows
    #[arg(value_name = "N", required = true)]
    numbers: Vec<i64>,
    /// The target directory, created if missing
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    output: PathBuf,
}

/// Whose inbox it is.
#[derive(Debug, Args)]
struct Whose {
    /// The root directory with all users, keys and folders [default: ~/m2y; /m2y if
    /// it exists or you are root]
    #[arg(long, env = "M2Y_ROOT", value_name = "DIR", global = true)]
    root: Option<PathBuf>,
    /// A user of the root [default: the user in m2y.ini, else the only one of the root]
    #[arg(long, env = "M2Y_USER", value_name = "USER", global = true)]
    user: Option<String>,
}

impl Whose {
    fn arrivals(&self, folder: Option<&Name>) -> Result<Arrivals, Error> {
        let root = Root::open(&self.root.clone().unwrap_or_else(default_root))?;
        let user = user_of(&root, said(self.user.clone()).as_deref())?;
        if let Some(name) = folder {
            user.folder(name)?;
        }
        Ok(Arrivals::new(&root, &user))
    }
}

impl Inbox {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        if self.action.is_some() && (self.folder.is_some() || self.watch) {
            let sentence = "open and export take numbers: leave FOLDER and --watch out";
            return Err(Error::new(Code::Usage, sentence));
        }
        match self.action {
            Some(Action::Open(open)) => open.run(&self.whose, json),
            Some(Action::Export(export)) => export.run(&self.whose, json),
            None => {
                let folder = self.folder.as_deref().map(folder_name).transpose()?;
                let arrivals = self.whose.arrivals(folder.as_ref())?;
                // Before the list, so that nothing is missed in between.
                let last = arrivals.last()?;
                let mut latest = arrivals.latest(folder.as_ref(), self.limit)?;
                latest.retain(|entry| !self.watch || entry.number <= last);
                show(&latest, json, !self.watch);
                if !json && !self.watch && latest.len() as u64 == u64::from(self.limit) {
                    output::aside(format_args!("the latest {}: -n N shows more", self.limit));
                }
                let waiting = latest.iter().filter(|entry| entry.state == State::Waiting);
                let waiting = waiting.map(|entry| entry.number).collect();
                match self.watch {
                    true => watch(&arrivals, folder.as_ref(), (last, waiting), json).await,
                    false => Ok(()),
                }
            }
        }
    }
}

fn show(entries: &[Entry], json: bool, says_nothing: bool) {
    if json {
        entries
            .iter()
            .for_each(|entry| output::object(&entry.facts()));
    } else if entries.is_empty() {
        if says_nothing {
            output::line("nothing has arrived");
        }
    } else {
        let mut rows = vec![Entry::COLUMNS.map(str::to_owned)];
        rows.extend(entries.iter().map(Entry::columns));
        output::table(&rows, &[0, 4])
            .into_iter()
            .for_each(output::line);
    }
}

/// Shows what arrives until the person interrupts; a file that hooks are still looking at, once
/// they have decided.
async fn watch(
    arrivals: &Arrivals,
    folder: Option<&Name>,
    (mut last, mut waiting): (i64, BTreeSet<i64>),
    json: bool,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            _ = signal::ctrl_c() => return Err(Error::new(Code::Interrupted, "interrupted")),
            () = sleep(EVERY) => {}
        }
        let mut news = Vec::new();
        for number in &waiting {
            // One that was forgotten in the meantime is not news.
            news.extend(arrivals.find(*number).ok());
        }
        news.extend(arrivals.after(folder, last)?);
        for entry in news {
            last = last.max(entry.number);
            if entry.state == State::Waiting {
                waiting.insert(entry.number);
                continue;
            }
            waiting.remove(&entry.number);
            match json {
                true => output::object(&entry.facts()),
                false => output::line(entry.columns().join("  ")),
            }
        }
    }
}

impl Open {
    fn run(self, whose: &Whose, json: bool) -> Result<(), Error> {
        let entry = whose.arrivals(None)?.find(self.number)?;
        entry.check()?;
        let path = match entry.has_own_name() {
            true => entry.path()?,
            false => {
                let dir = temporary(entry.number)?;
                let path = dir.join(own_name(&entry));
                // An older copy is of the same file.
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::io("replace", &path, &e));
                    }
                    _ => {}
                }
                copy(&entry, &path)?;
                path
            }
        };
        let program = env::var_os("M2Y_OPEN").filter(|program| !program.is_empty());
        let program = program.unwrap_or_else(|| "xdg-open".into());
        let mut command = Command::new(&program);
        command.arg(&path).stdin(Stdio::null());
        let status = command.status().map_err(|e| {
            let program = program.display();
            let sentence = format!(
                "cannot start {program}: {e} (set M2Y_OPEN to a program that opens files, or use `m2y inbox export`)"
            );
            Error::new(Code::Failed, sentence)
        })?;
        if !status.success() {
            let program = program.display();
            let sentence = format!(
                "{program} failed with {status} (the file is {})",
                path.display()
            );
            return Err(Error::new(Code::Failed, sentence));
        }
        if json {
            output::object(&[
                ("status", "opened".into()),
                ("file", path.display().to_string().into()),
            ]);
        }
        Ok(())
    }
}

impl Export {
    fn run(self, whose: &Whose, json: bool) -> Result<(), Error> {
        let arrivals = whose.arrivals(None)?;
        let mut taken = BTreeSet::new();
        let at = |e: io::Error| Error::io("create", &self.output, &e);
        fs::create_dir_all(&self.output).map_err(at)?;
        let mut failed = Vec::new();
        for number in &self.numbers {
            let exported = self.export(&arrivals, *number, &mut taken, json);
            failed.extend(exported.err());
        }
        let count = failed.len();
        match (failed.into_iter().next(), self.numbers.len()) {
            (None, _) => Ok(()),
            (Some(error), 1) => Err(error),
            (Some(error), all) => {
                let code = if count == all {
                    error.code
                } else {
                    Code::Partly
                };
                let sentence = format!("{count} of {all} files not exported: {error}");
                Err(Error::new(code, sentence))
            }
        }
    }

    fn export(
        &self,
        arrivals: &Arrivals,
        number: i64,
        taken: &mut BTreeSet<String>,
        json: bool,
    ) -> Result<(), Error> {
        let entry = arrivals.find(number)?;
        // Two files of one name, exported together, are no mistake.
        let own = own_name(&entry);
        let mut free = conflict::names(&own).filter(|name| !taken.contains(name));
        let name = free.next().unwrap_or_default();
        let path = self.output.join(&name);
        copy(&entry, &path)?;
        taken.insert(name);
        if json {
            output::object(&[
                ("status", "exported".into()),
                ("number", entry.number.into()),
                ("file", path.display().to_string().into()),
            ]);
        } else {
            output::line(printable(&path.display().to_string(), 1_000));
        }
        Ok(())
    }
}

/// The name that the sender gave a file, if a file can have it.
fn own_name(entry: &Entry) -> String {
    match check_name(&entry.transfer.filename) {
        Ok(()) => entry.transfer.filename.clone(),
        Err(_) => format!("file-{}", entry.number),
    }
}

/// A directory that nobody else can read, for the copy of a file.
fn temporary(number: i64) -> Result<PathBuf, Error> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let owner = rustix::process::geteuid().as_raw();
    let base = env::temp_dir().join(format!("m2y-inbox-{owner}"));
    let at = |e: io::Error| Error::io("create", &base, &e);
    match fs::DirBuilder::new().mode(0o700).create(&base) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(at(e)),
        _ => {}
    }
    let about = fs::symlink_metadata(&base).map_err(at)?;
    if !about.is_dir() || about.uid() != owner || about.mode() & 0o077 != 0 {
        let sentence = format!(
            "cannot use {}: it must be a directory of yours with mode 0700 (remove it)",
            base.display()
        );
        return Err(Error::new(Code::Failed, sentence));
    }
    let dir = base.join(number.to_string());
    fs::create_dir_all(&dir).map_err(at)?;
    Ok(dir)
}

/// Copies a file to a free path.
fn copy(entry: &Entry, to: &Path) -> Result<(), Error> {
    let contents = entry.open()?;
    let at = |e: io::Error| match e.kind() {
        io::ErrorKind::AlreadyExists => {
            let sentence = format!(
                "{} exists: remove it, or choose another -o DIR",
                to.display()
            );
            Error::new(Code::Exists, sentence)
        }
        _ => Error::io("write", to, &e),
    };
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(to)
        .map_err(at)?;
    let copied = io::copy(&mut Reader::new(&*contents), &mut file);
    if let Err(error) = copied {
        // Half a file would pass for a whole one.
        let _ = fs::remove_file(to);
        return Err(at(error));
    }
    Ok(())
}
