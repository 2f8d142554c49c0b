//! The command line: one file for each command; its doc comments are the help.

mod broadcast;
mod change;
mod chat;
mod completion;
mod conflict;
mod contact;
mod demo;
mod doctor;
mod events;
mod folder;
mod get;
mod guide;
mod hook;
mod host;
mod inbox;
mod init;
mod input;
mod limit;
pub mod log;
mod ls;
mod man;
mod output;
mod pair;
mod passphrase;
mod pattern;
mod progress;
mod put;
mod relay;
mod reload;
mod remote;
mod send;
mod sent;
mod serve;
mod shell;
mod status;
mod stop;
mod store;
mod stream;
mod tally;
mod user;
mod user_arg;
mod watch;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, error::ErrorKind};
use tracing::{Level, enabled, error};

use crate::{
    client::peer::wait_for_ends,
    error::{Code, Error, printable},
    root::{name::Name, passphrases, settings::LogFormat},
};

/// Files that arrive, and something happens.
///
/// m2y sends files between people, end-to-end encrypted, and runs the receiver's
/// own small scripts at every step: they may refuse a file before a byte of it is
/// taken, and act on it when it is safe.
///
/// Try `m2y demo` first: it needs nothing. Then read `m2y guide first-steps`.
#[derive(Debug, Parser)]
#[command(name = "m2y", version, max_term_width = 100, after_long_help = VARIABLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print one JSON object a line on standard output
    #[arg(long, global = true)]
    json: bool,
}

const VARIABLES: &str = "\
Environment variables (flags take precedence):
  M2Y_ROOT    The root directory, like --root
  M2Y_USER    The user, like --user, and like --from of `m2y send`
  M2Y_SERVER  The receiver's server, like --server of `m2y send`
  M2Y_LISTEN  Where to listen, like --listen of `m2y serve`
  M2Y_OPEN    What opens a file for `m2y inbox open` [default: xdg-open]
  M2Y_METRICS Where metrics are read, like --metrics of `m2y serve`
  M2Y_LOG     What is logged on standard error: off, error, warn, info, debug or trace,
              or a filter like m2y=debug [default: info for `m2y serve`, else warn]
  M2Y_LOG_FORMAT
              text or json, like --log-format of `m2y serve`
  M2Y_PASSPHRASE_FILE
              A file of mode 0600 with the passphrase of the private key, see `m2y user passwd`
  NO_COLOR    No colours, if it is set";

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Guide(guide::Guide),
    Init(init::Init),
    Pair(pair::Pair),
    Doctor(doctor::Doctor),
    #[command(subcommand)]
    User(user::User),
    #[command(subcommand)]
    Folder(folder::Folder),
    #[command(subcommand)]
    Contact(contact::Contact),
    #[command(subcommand)]
    Events(events::Events),
    #[command(subcommand)]
    Hook(hook::Hook),
    #[command(subcommand)]
    Store(store::Store),
    #[command(subcommand)]
    Relay(relay::Relay),
    Serve(serve::Serve),
    Status(status::Status),
    Reload(reload::Reload),
    Stop(stop::Stop),
    Send(send::Send),
    Chat(chat::ChatArgs),
    Stream(stream::Stream),
    Watch(watch::Watch),
    Sent(sent::Sent),
    Inbox(inbox::Inbox),
    Ls(ls::Ls),
    Get(get::Get),
    Put(put::Put),
    Mkdir(change::Mkdir),
    Rm(change::Rm),
    Mv(change::Mv),
    Shell(shell::ShellArgs),
    Completions(completion::Completions),
    Man(man::Man),
}

/// Where the root is.
#[derive(Debug, Args)]
pub struct RootArg {
    /// The root directory with all users, keys and folders [default: ~/m2y; /m2y if
    /// it exists or you are root]
    #[arg(long, env = "M2Y_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
}

/// The root if none is named.
fn default_root() -> PathBuf {
    let of_all = PathBuf::from("/m2y");
    let is_administrator = rustix::process::geteuid().is_root();
    match env::home_dir() {
        Some(home) if !is_administrator && !of_all.exists() => home.join("m2y"),
        _ => of_all,
    }
}

impl RootArg {
    fn path(&self) -> PathBuf {
        self.root.clone().unwrap_or_else(default_root)
    }

    fn open(&self) -> Result<crate::root::Root, Error> {
        Ok(crate::root::Root::open(&self.path())?)
    }
}

/// Stack of every thread. Scripts run on these threads, and the deepest recursion that their limits
/// allow needs part of it.
const STACK: usize = 8 << 20;

/// Parses the command line. Help and usage errors are printed here; then all that is left is to
/// exit with a code.
pub fn parse() -> Result<Cli, ExitCode> {
    completion::answer();
    Cli::try_parse().map_err(|error| {
        let _ = error.print();
        let helped = matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        );
        if helped {
            return ExitCode::SUCCESS;
        }
        // The words after `--` are not flags.
        let json = env::args_os()
            .take_while(|word| word != "--")
            .any(|word| word == "--json");
        if json {
            error_object(&Error::new(Code::Usage, sentence(&error)), None);
        }
        ExitCode::from(Code::Usage.exit_code())
    })
}

/// What `clap` says, without the usage and the hints after it.
fn sentence(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing: see `m2y --help`".to_owned();
    }
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|l| !l.is_empty());
    let first = lines.collect::<Vec<_>>().join(" ");
    first.strip_prefix("error: ").unwrap_or(&first).to_owned()
}

/// An error that ends the program.
struct Failure {
    error: Error,
    /// Whether an object on standard output has reported it already.
    told: bool,
    /// The file that it is about, for programs.
    file: Option<String>,
}

impl Failure {
    /// The same error, about this file.
    fn about(self, file: String) -> Self {
        Self {
            file: Some(file),
            ..self
        }
    }

    fn told(error: Error) -> Self {
        Self {
            error,
            told: true,
            file: None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            told: false,
            file: None,
        }
    }
}

fn error_object(error: &Error, file: Option<String>) {
    let mut fields = vec![
        ("status", "error".into()),
        ("code", error.code.word().into()),
        ("error", error.sentence.as_str().into()),
    ];
    fields.extend(file.map(|file| ("file", file.into())));
    output::object(&fields);
}

/// The most file descriptors that we take. Hooks that are programs inherit the limit, and some
/// close every possible one.
const DESCRIPTORS: u64 = 65_536;

/// Raises the usual soft limit of 1,024 file descriptors, which is there for programs that use
/// select(2): a session with many files under way holds several for each.
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX).min(DESCRIPTORS);
    if limit.current.is_none_or(|now| now >= most) {
        return;
    }
    // Fewer work too, if not as many at once.
    let more = Rlimit {
        current: Some(most),
        ..limit
    };
    let _ = setrlimit(Resource::Nofile, more);
}

/// Runs the command and reports what went wrong.
pub fn run(cli: Cli) -> ExitCode {
    let json = cli.json;
    allow_descriptors();
    passphrases::ask_with(|file| passphrase::ask(&format!("Passphrase of {file}")));
    let log = cli.log_format();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK)
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(async {
                let result = execute(cli).await;
                // A person who interrupts does not want to wait.
                if !matches!(&result, Err(failure) if failure.error.code == Code::Interrupted) {
                    wait_for_ends().await;
                }
                result
            });
            // Tasks end here, and with them the programs that they started as hooks; a thread that
            // waits for a disk does not delay the exit.
            runtime.shutdown_timeout(Duration::from_millis(200));
            result
        }
        Err(e) => Err(Error::new(Code::Failed, format!("cannot start threads: {e}")).into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { error, told, file }) => {
            if json && !told {
                error_object(&error, file);
            }
            let sentence = printable(&error.sentence, 8_192);
            if log == LogFormat::Json && enabled!(Level::ERROR) {
                // A log collector reads only objects.
                error!(code = error.code.word(), "{sentence}");
            } else {
                eprintln!("m2y: {sentence}");
            }
            ExitCode::from(error.code.exit_code())
        }
    }
}

async fn execute(cli: Cli) -> Result<(), Failure> {
    let json = cli.json;
    match cli.command {
        Command::Demo(demo) => demo.run(json).await?,
        Command::Guide(guide) => guide.run(json)?,
        Command::Init(init) => init.run(json)?,
        Command::Pair(pair) => pair.run(json).await?,
        Command::Doctor(doctor) => doctor.run(json).await?,
        Command::User(user) => user.run(json)?,
        Command::Folder(folder) => folder.run(json)?,
        Command::Contact(contact) => contact.run(json).await?,
        Command::Events(events) => events.run(json).await?,
        Command::Hook(hook) => hook.run(json).await?,
        Command::Store(store) => store.run(json).await?,
        Command::Relay(relay) => relay.run(json).await?,
        Command::Serve(serve) => serve.run(json).await?,
        Command::Status(status) => status.run(json).await?,
        Command::Reload(reload) => reload.run(json).await?,
        Command::Stop(stop) => stop.run(json).await?,
        Command::Send(send) => send.run(json).await?,
        Command::Chat(chat) => chat.run(json).await?,
        Command::Stream(stream) => stream.run(json).await?,
        Command::Watch(watch) => watch.run(json).await?,
        Command::Sent(sent) => sent.run(json).await?,
        Command::Inbox(inbox) => inbox.run(json).await?,
        Command::Ls(ls) => ls.run(json).await?,
        Command::Get(get) => get.run(json).await?,
        Command::Put(put) => put.run(json).await?,
        Command::Mkdir(mkdir) => mkdir.run(json).await?,
        Command::Rm(rm) => rm.run(json).await?,
        Command::Mv(mv) => mv.run(json).await?,
        Command::Shell(shell) => shell.run(json).await?,
        Command::Completions(completions) => completions.run()?,
        Command::Man(man) => man.run(json)?,
    }
    Ok(())
}

impl Cli {
    /// Whether the command runs for a long time and people read its log.
    fn is_server(&self) -> bool {
        match &self.command {
            Command::Serve(_) => true,
            Command::Relay(relay) => relay.serve().is_some(),
            _ => false,
        }
    }

    /// The format of the log.
    fn log_format(&self) -> LogFormat {
        match &self.command {
            Command::Serve(serve) => serve.log_format(),
            Command::Relay(relay) => {
                let serve = relay.serve();
                serve.map(serve::Serve::log_format).unwrap_or_default()
            }
            _ => LogFormat::Text,
        }
    }
}

/// The name of a user, from the command line.
fn user_name(text: &str) -> Result<Name, Error> {
    Name::user(&Name::composed(text)).map_err(|e| Error::new(Code::Usage, e.to_string()))
}

/// The name of a folder, from the command line.
fn folder_name(text: &str) -> Result<Name, Error> {
    Name::folder(&Name::composed(text)).map_err(|e| Error::new(Code::Usage, e.to_string()))
}

/// Reads a file that a person named.
fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read;
    const LIMIT: u64 = 1 << 20;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LIMIT).read_to_end(&mut bytes))
        .map_err(|e| {
            let code = match e.kind() {
                std::io::ErrorKind::NotFound => Code::NotFound,
                _ => Code::Failed,
            };
            Error::new(code, format!("cannot open {}: {e}", path.display()))
        })?;
    Ok(bytes)
}
