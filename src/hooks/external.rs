//! Executables as hooks: the fallback for what no script can do.
//!
//! A program gets the path of the `.meta` file as its only argument, facts in
//! `M2Y_*` variables, the folder as working directory, nothing on its standard
//! input, and a process group of its own, which is killed at the deadline and when
//! the program has ended. Then the `.meta` is read again. A program that makes a session of its own
//! (`setsid`) leaves that group, and what it leaves running that way stays.
//!
//! Where the contents of the folder are in a store elsewhere, the program reads a copy of the file;
//! what it changes there goes with the copy.
//!
//! What it writes is in the log at debug; if it fails, its last lines are in the error.

mod output;
mod spool;

use std::{
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout, timeout_at},
};

use self::{output::Output, spool::Spooled};
use super::report::HookError;
use crate::{
    event::{Event, Subject},
    meta::{self, Meta},
    root::{file, passphrases, settings::live::Live},
    store::Stores,
};

/// The time to read what a program left, if it has used up its own.
const SHORT: Duration = Duration::from_secs(1);

/// Variables of the server that a program sees; it sees no others.
const PASSED_ON: [&str; 5] = ["PATH", "HOME", "LANG", "LC_ALL", "TMPDIR"];

/// Runs executables.
#[derive(Clone)]
pub struct Host {
    deadline: Live<Duration>,
}

impl Host {
    /// A host that lets a program run for at most `deadline`.
    pub fn new(deadline: Duration) -> Self {
        Self {
            deadline: Live::new(deadline),
        }
    }

    /// Changes how long a program that is started from now on may run.
    pub fn set_deadline(&self, deadline: Duration) {
        self.deadline.replace(deadline);
    }

    /// Runs a program for an event and returns the meta as the program left it.
    pub async fn run(
        &self,
        program: &Path,
        event: &Event,
        stores: &Stores,
    ) -> Result<Option<Meta>, HookError> {
        let script = program
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let cannot_start = |source| HookError::Start {
            script: script.clone(),
            source,
        };
        let spooled = spool::spool(event, stores).await.map_err(cannot_start)?;
        let deadline = *self.deadline.now();
        let until = Instant::now() + deadline;
        let started = start(program, event, spooled.as_ref()).await;
        let mut child = started.map_err(cannot_start)?;
        let group = Group::of(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut said = Output::new(event, &script);
        let status = {
            let output = said.read(stdout, stderr);
            tokio::pin!(output);
            let mut open = true;
            let ended = async {
                let wait = child.wait();
                tokio::pin!(wait);
                loop {
                    tokio::select! {
                        status = &mut wait => return status,
                        // Closing its output does not end a program.
                        () = &mut output, if open => open = false,
                    }
                }
            };
            let status = timeout_at(until, ended).await;
            // Whatever the program left running goes with it.
            drop(group);
            // Its last words may still be in the pipe, which nobody holds open any more.
            if open {
                let _ = timeout(SHORT, output).await;
            }
            status
        };
        let said = said.last_lines();
        let status = match status {
            Ok(status) => status.map_err(|source| HookError::Start {
                script: script.clone(),
                source,
            })?,
            Err(_) => {
                let _ = child.wait().await;
                return Err(HookError::Hung {
                    script,
                    deadline,
                    said,
                });
            }
        };
        let meta = match &event.subject {
            Some(subject) => {
                // The program may have put anything in place of the .meta.
                let read = read_again(&script, event, subject);
                let read = timeout_at(until.max(Instant::now() + SHORT), read).await;
                Some(read.unwrap_or(Err(HookError::Hung {
                    script: script.clone(),
                    deadline,
                    said: said.clone(),
                }))?)
            }
            None => None,
        };
        // A program that wrote an error refuses in its own words, whatever its status.
        let spoke = meta.as_ref().is_some_and(|meta| !meta.error.is_empty());
        if !status.success() && !spoke {
            return Err(HookError::Exit {
                script,
                status: describe(status),
                said,
            });
        }
        Ok(meta)
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    }
}

async fn start(program: &Path, event: &Event, spooled: Option<&Spooled>) -> io::Result<Child> {
    let folder = &event.folder;
    let path_of = |file: &str| match spooled {
        Some(spooled) if spooled.name == file => spooled.path.clone(),
        _ => folder.path_of(file),
    };
    let mut command = Command::new(program);
    command
        .current_dir(folder.path())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    for name in PASSED_ON {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        // Hooks need no private key.
        .env_remove(passphrases::FILE)
        .env_remove(passphrases::CREDENTIALS)
        .env("M2Y_EVENT", event.kind.section())
        .env("M2Y_EVENT_ID", event.id.to_string())
        .env("M2Y_ROOT", folder.user().root().path())
        .env("M2Y_USER", folder.user().name().as_str())
        .env("M2Y_FOLDER", folder.name().as_str());
    if let Some(asked) = &event.asked {
        command
            .env("M2Y_CONTACT", &asked.contact)
            .env("M2Y_PATH", asked.path.replace('\0', ""));
    }
    if let Some(news) = &event.store {
        command
            .env("M2Y_STORE", &news.store)
            .env("M2Y_MEMBER", &news.member)
            .env("M2Y_CHANGE", news.change.word())
            .env("M2Y_TEXT", news.text.replace('\0', ""));
    }
    if let Some(file) = &event.file {
        command.env("M2Y_FILE", path_of(file));
    }
    if let Some(subject) = &event.subject {
        let meta = &subject.meta;
        // A variable cannot hold NUL, and a sender's text may.
        let text = |text: &str| text.replace('\0', "\u{fffd}");
        match meta.message() {
            Some(said) => command.env("M2Y_TEXT", text(said.unwrap_or_default())),
            None => command.env("M2Y_DATA", path_of(&subject.data_file())),
        };
        command
            .arg(folder.path_of(&subject.meta_file()))
            .env("M2Y_META", folder.path_of(&subject.meta_file()))
            .env("M2Y_FROM", text(&meta.from))
            .env("M2Y_TO", text(&meta.to))
            .env("M2Y_FILENAME", text(&meta.filename))
            .env("M2Y_FILESIZE", meta.size_for_hooks().to_string())
            .env(
                "M2Y_ID",
                meta.id.map(|id| id.to_string()).unwrap_or_default(),
            );
    }
    // A program that was saved a moment ago may still be open for writing in a
    // process that is just being started beside this one.
    let mut tries = 0;
    loop {
        match command.spawn() {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && tries < 10 => {
                tries += 1;
                sleep(Duration::from_millis(20)).await;
            }
            spawned => return spawned,
        }
    }
}

async fn read_again(script: &str, event: &Event, subject: &Subject) -> Result<Meta, HookError> {
    let gone = |source: io::Error| HookError::Gone {
        script: script.to_owned(),
        file: subject.meta_file(),
        source,
    };
    let (dir, name) = (event.folder.dir().clone(), subject.meta_file());
    let text = tokio::task::spawn_blocking(move || file::read(&dir, name, meta::MAX_LEN))
        .await
        .map_err(|_| HookError::Panic)?
        .map_err(gone)?;
    let left = Meta::from_file(&text).map_err(|source| HookError::Meta {
        script: script.to_owned(),
        source,
    })?;
    // A program may write `error` and further fields; the rest is the sender's.
    let mut meta = subject.meta.clone();
    meta.error = left.error;
    meta.extra.retain(|field, _| !meta::is_extra(field));
    let further = left.extra.into_iter();
    meta.extra
        .extend(further.filter(|(field, _)| meta::is_extra(field)));
    Ok(meta)
}

/// A process group that is killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Self(pid.and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may be gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
