//! The command line: one file for each command, whose doc comments are the help.

mod contact;
mod demo;
mod folder;
mod init;
pub mod log;
mod output;
mod send;
mod serve;
mod user;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::error::{Code, Error, printable};

/// Files that arrive, and something happens.
///
/// m2y sends files between people, end-to-end encrypted, and runs the receiver's
/// own small scripts at every step: they may refuse a file before a byte of it is
/// taken, and act on it when it is safe.
///
/// Try `m2y demo` first: it needs nothing.
#[derive(Debug, Parser)]
#[command(name = "m2y", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Print one JSON object a line on standard output
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Init(init::Init),
    #[command(subcommand)]
    User(user::User),
    #[command(subcommand)]
    Folder(folder::Folder),
    #[command(subcommand)]
    Contact(contact::Contact),
    Serve(serve::Serve),
    Send(send::Send),
}

/// Where the root is.
#[derive(Debug, Args)]
pub struct RootArg {
    /// The root directory with all users, keys and folders
    #[arg(long, env = "M2Y_ROOT", default_value = "/m2y", value_name = "DIR")]
    root: PathBuf,
}

impl RootArg {
    fn path(&self) -> &Path {
        &self.root
    }

    fn open(&self) -> Result<crate::root::Root, Error> {
        Ok(crate::root::Root::open(&self.root)?)
    }
}

/// Stack of every thread. Scripts run on these threads, and the deepest recursion
/// that their limits allow needs a part of this.
const STACK: usize = 8 << 20;

/// Runs the command and reports what went wrong.
pub fn run(cli: Cli) -> ExitCode {
    let json = cli.json;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK)
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(execute(cli));
            // Tasks end here, and with them the programs that they started as hooks;
            // a thread that waits for a disk does not hold up the end.
            runtime.shutdown_timeout(Duration::from_millis(200));
            result
        }
        Err(e) => Err(Error::new(
            Code::Failed,
            format!("cannot start threads: {e}"),
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if json {
                output::object(&[
                    ("status", "error".into()),
                    ("code", error.code.word().into()),
                    ("error", error.sentence.as_str().into()),
                ]);
            }
            eprintln!("m2y: {}", printable(&error.sentence, 8_192));
            ExitCode::from(error.code.exit_code())
        }
    }
}

async fn execute(cli: Cli) -> Result<(), Error> {
    let json = cli.json;
    match cli.command {
        Command::Demo(demo) => demo.run().await,
        Command::Init(init) => init.run(json),
        Command::User(user) => user.run(json),
        Command::Folder(folder) => folder.run(json),
        Command::Contact(contact) => contact.run(json),
        Command::Serve(serve) => serve.run(json).await,
        Command::Send(send) => send.run(json).await,
    }
}

impl Cli {
    /// Whether the command runs for long and its log is what people read.
    fn is_server(&self) -> bool {
        matches!(self.command, Command::Serve(_))
    }
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
