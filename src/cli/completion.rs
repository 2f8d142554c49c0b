//! What a shell completes: commands and options, contacts, and paths on a contact's server.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::stdout,
    sync::Arc,
    time::Duration,
};

use clap::{Args, CommandFactory};
use clap_complete::{
    CompleteEnv,
    engine::{CompletionCandidate, PathCompleter, ValueCompleter},
    env::Shells,
};
use tokio::time::timeout;

use super::{
    Cli, default_root,
    remote::full_addresses,
    user_arg::{said, user_of},
};
use crate::{
    client::owner::Owner,
    error::{Code, Error},
    observer::Unobserved,
    root::{Root, name::Name, user::User},
};

/// The variable through which a shell asks for completions.
const VARIABLE: &str = "M2Y_COMPLETE";

/// How long a person waits for names from a contact's server.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most names that are offered.
const MAX_NAMES: usize = 1_000;

/// Print a completion script for a shell
///
/// It completes commands, options and files, and, when you press Tab, contacts and the paths
/// that they share with you. For bash, add this to ~/.bashrc:
///
///   source <(m2y completions bash)
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Completions {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_name = "SHELL")]
    shell: String,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Error> {
        let shells = Shells::builtins();
        let shell = shells.completer(&self.shell).ok_or_else(|| {
            let names: Vec<_> = shells.names().collect();
            let sentence = format!(
                "unknown shell {:?}: must be {}",
                self.shell,
                names.join(", ")
            );
            Error::new(Code::Usage, sentence)
        })?;
        if shell.name() == "bash" {
            // Left alone, bash ends a word at the colon of PEER:PATH.
            super::output::line("COMP_WORDBREAKS=${COMP_WORDBREAKS//:}");
        }
        shell
            .write_registration(VARIABLE, "m2y", "m2y", "m2y", &mut stdout().lock())
            .map_err(|e| Error::new(Code::Failed, format!("cannot write the script: {e}")))
    }
}

/// Answers a shell that asks for completions, and then ends the program.
pub(super) fn answer() {
    CompleteEnv::with_factory(Cli::command)
        .var(VARIABLE)
        .complete();
}

/// The value of a flag in the line that is being typed: `--user anna` or `--user=anna`.
fn flag(name: &str) -> Option<OsString> {
    let words: Vec<OsString> = env::args_os().collect();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let word = word.to_str().unwrap_or_default();
        match word.strip_prefix(name) {
            Some("") => return words.next().cloned(),
            Some(rest) => {
                if let Some(value) = rest.strip_prefix('=') {
                    return Some(value.into());
                }
            }
            None => {}
        }
    }
    None
}

/// The user that the line, the variables or m2y.ini names.
fn user() -> Option<User> {
    let root = flag("--root").or_else(|| env::var_os("M2Y_ROOT"));
    let root = root.map_or_else(default_root, Into::into);
    let named = flag("--user").or_else(|| flag("--from"));
    let named = named.and_then(|name| name.into_string().ok());
    let name = named.or_else(|| said(env::var("M2Y_USER").ok()));
    user_of(&Root::open(&root).ok()?, name.as_deref()).ok()
}

fn names() -> Vec<String> {
    let contacts = user().and_then(|user| user.contacts().ok());
    let contacts = contacts.unwrap_or_default().into_iter().flatten();
    contacts.map(|contact| contact.name.to_string()).collect()
}

fn beginning_with(
    current: &str,
    words: impl IntoIterator<Item = String>,
) -> Vec<CompletionCandidate> {
    // The shell interprets what it inserts: only names without a special meaning to it.
    let is_plain = |word: &String| {
        let plain = |c: char| c.is_alphanumeric() || "/._-:@+,=%".contains(c);
        word.chars().all(plain)
    };
    words
        .into_iter()
        .filter(|word| word.starts_with(current) && is_plain(word))
        .map(|word| CompletionCandidate::new(OsString::from(word)))
        .collect()
}

/// Contacts.
pub(super) fn contacts(current: &OsStr) -> Vec<CompletionCandidate> {
    beginning_with(current.to_str().unwrap_or_default(), names())
}

/// Local files, and contacts with the default folder that they have named.
pub(super) fn files_and_targets(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut found = PathCompleter::any().complete(current);
    let Some(user) = user() else {
        return found;
    };
    let targets = names().into_iter().map(|name| {
        let folder = Name::user(&name)
            .ok()
            .and_then(|name| user.folder_of(&name).ok()?);
        format!("{name}:{}", folder.as_ref().map_or("", Name::as_str))
    });
    found.extend(beginning_with(
        current.to_str().unwrap_or_default(),
        targets,
    ));
    found
}

/// Contacts and the user, and after a colon the folders.
pub(super) fn places(current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_str().unwrap_or_default();
    let Some((peer, path)) = current.split_once(':') else {
        let own = user().map(|user| user.name().to_string());
        let names = names().into_iter().chain(own);
        return beginning_with(current, names.map(|name| format!("{name}:")));
    };
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let entries = listed(peer, directory).unwrap_or_default();
    let words = entries.into_iter().map(|entry| match directory {
        "" => format!("{peer}:{entry}"),
        _ => format!("{peer}:{directory}/{entry}"),
    });
    beginning_with(current, words)
}

/// The names in a directory on a contact's server, those of directories with a slash.
fn listed(peer: &str, directory: &str) -> Option<Vec<String>> {
    let user = user()?;
    let server = flag("--server").and_then(|server| server.into_string().ok());
    let server = server.or_else(|| env::var("M2Y_SERVER").ok());
    let server = server.and_then(|server| full_addresses(&server).ok());
    let owner = Owner::find(&user, peer, server.as_deref()).ok()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let listing = async {
        let peer = owner.connect(Arc::new(Unobserved)).await?;
        let mut names = Vec::new();
        let mut listing = peer.list(directory, false)?;
        while let Some(entries) = listing.next().await {
            names.extend(entries?.into_iter().map(|entry| match entry.is_dir {
                true => format!("{}/", entry.path),
                false => entry.path,
            }));
            // Nobody reads more, and a server may have an endless list of them.
            if names.len() >= MAX_NAMES {
                break;
            }
        }
        Ok::<_, Error>(names)
    };
    // The timer belongs to the runtime, so it is created inside it.
    let in_time = async { timeout(PATIENCE, listing).await };
    let runtime = runtime.ok()?;
    let listed = runtime.block_on(in_time);
    // A name lookup that is still running is not waited for.
    runtime.shutdown_background();
    listed.ok()?.ok()
}
