use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, folder_name, output, user_name};
use crate::{
    client::{self, Route},
    error::{Code, Error, printable},
    meta::Meta,
    root::{Root, contact::check_address, name::Name},
    store::outbox,
    transfer::outgoing::Outgoing,
};

/// Send files
///
/// Either name .meta files, each of which says what it is about:
///
///   m2y send /m2y/user/zhenqiang/photo/myfoto.meta
///
/// or name the files themselves, and m2y writes the .meta into the sender's folder:
///
///   m2y send --from zhenqiang --to roland-frei --folder photo myfoto.jpg
///
/// A .meta becomes .done when the receiver has the file safely, else .failed with
/// the reason in its field "error". Name the .failed to send the same again:
///
///   m2y send /m2y/user/zhenqiang/photo/myfoto.failed
///
/// Exit codes: 0 sent, 1 error, 2 usage, 3 some of several failed, 4 not found,
/// 5 try later, 10 refused by the other side, 12 key or identity, 13 integrity,
/// 130 interrupted.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Send {
    /// The root directory [default: the one that the .meta lies in; with --from, /m2y]
    #[arg(long, env = "M2Y_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// The receiver's server [default: the contact's address]
    #[arg(long, env = "M2Y_SERVER", value_name = "HOST:PORT")]
    server: Option<String>,
    /// Who sends
    #[arg(long, value_name = "USER", requires = "to", requires = "folder")]
    from: Option<String>,
    /// Who receives
    #[arg(long, value_name = "USER", requires = "from")]
    to: Option<String>,
    /// The receiver's folder
    #[arg(long, value_name = "NAME", requires = "from")]
    folder: Option<String>,
    /// Show no progress bar
    #[arg(long)]
    no_progress: bool,
    /// .meta or .failed files, or with --from, --to and --folder any files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Who sends what to whom, as the command line says it.
struct Parties {
    from: Name,
    to: Name,
    folder: Name,
}

impl Send {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        if let Some(server) = &self.server {
            check_address(server).map_err(|e| Error::new(Code::Usage, e))?;
        }
        let parties = match (&self.from, &self.to, &self.folder) {
            (Some(from), Some(to), Some(folder)) => Some(Parties {
                from: user_name(from)?,
                to: user_name(to)?,
                folder: folder_name(folder)?,
            }),
            _ => None,
        };
        let mut interrupt = signal(SignalKind::interrupt())
            .map_err(|e| Error::new(Code::Failed, format!("cannot wait for signals: {e}")))?;
        let several = self.files.len() > 1;
        let mut errors = Vec::new();
        for file in &self.files {
            match self.one(file, parties.as_ref(), json, &mut interrupt).await {
                Ok(()) => {}
                Err(error) if error.code == Code::Interrupted => return Err(error.into()),
                Err(error) => {
                    if json {
                        output::object(&output::failed(file, &error));
                    }
                    if several {
                        eprintln!("m2y: {}", printable(&error.sentence, 8_192));
                    }
                    errors.push(error);
                }
            }
        }
        let (sent, failed) = (self.files.len() - errors.len(), errors.len());
        if json && several {
            output::object(&[
                ("status", "summary".into()),
                ("sent", sent.into()),
                ("failed", failed.into()),
            ]);
        }
        match errors.pop() {
            None => Ok(()),
            // The object of the only file has said it.
            Some(error) if !several => Err(Failure::told(error)),
            // Where all failed for one kind of reason, that reason is the result.
            Some(error) if sent == 0 && errors.iter().all(|e| e.code == error.code) => {
                Err(Error::new(error.code, format!("none of {failed} files was sent")).into())
            }
            Some(_) => {
                let sentence = format!("{failed} of {} files were not sent", sent + failed);
                Err(Error::new(Code::Partly, sentence).into())
            }
        }
    }

    async fn one(
        &self,
        file: &Path,
        parties: Option<&Parties>,
        json: bool,
        interrupt: &mut Signal,
    ) -> Result<(), Error> {
        let path = match parties {
            Some(parties) => self.write_meta(file, parties)?,
            None => file.to_owned(),
        };
        let ends = |ending| path.extension().is_some_and(|e| e == ending);
        let again = ends("failed");
        let out = Outgoing::open(&path).map_err(|e| {
            // A person may send a file by its name and mean its .meta.
            match again || ends("meta") {
                true => e,
                false => Error::new(
                    e.code,
                    format!("{e} (to send the file itself, use --from, --to and --folder)"),
                ),
            }
        })?;
        let bar = output::Bar::new(
            &printable(&out.meta().filename, 40),
            out.len(),
            !json && !self.no_progress,
        );
        let begun = Instant::now();
        let route = match Route::find(self.root.as_deref(), self.server.as_deref(), &out) {
            Ok(route) => route,
            // A wrong --root or an unknown contact is no attempt: what was a .meta stays
            // one, and what was a .failed is one again.
            Err(error) => {
                if again {
                    out.failed(&error)?;
                }
                return Err(error);
            }
        };
        let result = tokio::select! {
            result = client::deliver(&route, &out, &bar) => result,
            _ = interrupt.recv() => Err(Error::new(Code::Interrupted, "interrupted")),
        };
        bar.finish();
        match result {
            Ok(meta) => {
                let done = out.done(&meta)?;
                report(&done, &meta, out.len(), begun.elapsed(), json);
                Ok(())
            }
            Err(error) => {
                let failed = out.failed(&error).map_err(|e| {
                    let sentence = format!("{error} ({}: {e})", out.path().display());
                    Error::new(error.code, sentence)
                })?;
                Err(self.explain(error, &failed, &out.meta().to))
            }
        }
    }

    /// The reason first, which is what a person looks for; then the file, and what
    /// can be done with it.
    fn explain(&self, error: Error, failed: &Path, to: &str) -> Error {
        let error = match error.code {
            Code::Refused => error.within(format_args!("refused by {to}")),
            _ => error,
        };
        let sentence = match error.code {
            Code::Later => format!("{error}; send it again with: {}", self.again(failed)),
            _ => format!("{error} ({})", failed.display()),
        };
        Error::new(error.code, sentence)
    }

    /// The command that sends a `.failed` again.
    fn again(&self, failed: &Path) -> String {
        let mut command = format!("m2y send {}", quoted(&failed.display().to_string()));
        if let Some(root) = &self.root
            && Root::around(failed).is_none()
        {
            command += &format!(" --root {}", quoted(&root.display().to_string()));
        }
        if let Some(server) = &self.server {
            command += &format!(" --server {}", quoted(server));
        }
        command
    }

    fn write_meta(&self, file: &Path, parties: &Parties) -> Result<PathBuf, Error> {
        let Parties { from, to, folder } = parties;
        let path = self.root.clone().unwrap_or_else(|| "/m2y".into());
        let user = Root::open(&path)?.user(from)?;
        user.contact(to)?;
        let dir = user.outbox(folder)?;
        let meta = Meta::new(from.as_str(), to.as_str(), folder.as_str(), "");
        outbox::write(&dir, file, meta)
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-:[]%@+,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn report(done: &Path, meta: &Meta, bytes: u64, took: Duration, json: bool) {
    if json {
        output::object(&output::sent(done, meta, bytes, took));
    } else {
        output::line(format_args!(
            "sent {} to {}: {}",
            printable(&meta.filename, 200),
            printable(&meta.to, 64),
            output::speed(bytes, took),
        ));
    }
}
