use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output;
use crate::{
    client::{self, Route},
    error::{Code, Error, printable},
    json::Value,
    meta::Meta,
    root::{Root, RootError, contact::check_address, name::Name},
    transfer::outgoing::{self, Outgoing},
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
/// the reason in its field "error".
///
/// Exit codes: 0 sent, 3 some of several failed, 4 not found, 5 try later,
/// 10 refused by the other side, 12 key or identity, 13 integrity.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Send {
    /// The root directory [default: the one that the .meta lies in, else /m2y]
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
    /// .meta files, or with --from, --to and --folder any files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Send {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        if let Some(server) = &self.server {
            check_address(server).map_err(|e| Error::new(Code::Usage, e))?;
        }
        let mut interrupt = signal(SignalKind::interrupt())
            .map_err(|e| Error::new(Code::Failed, format!("cannot wait for signals: {e}")))?;
        let several = self.files.len() > 1;
        let mut errors = Vec::new();
        for file in &self.files {
            match self.one(file, json, &mut interrupt).await {
                Ok(()) => {}
                Err(error) if error.code == Code::Interrupted => return Err(error),
                Err(error) => {
                    if json {
                        output::object(&[
                            ("status", "failed".into()),
                            ("file", file.display().to_string().into()),
                            ("code", error.code.word().into()),
                            ("error", error.sentence.as_str().into()),
                        ]);
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
            Some(error) if !several => Err(error),
            // Where all failed for one kind of reason, that reason is the result.
            Some(error) if sent == 0 && errors.iter().all(|e| e.code == error.code) => Err(
                Error::new(error.code, format!("none of {failed} files was sent")),
            ),
            Some(_) => Err(Error::new(
                Code::Partly,
                format!("{failed} of {} files were not sent", sent + failed),
            )),
        }
    }

    async fn one(&self, file: &Path, json: bool, interrupt: &mut Signal) -> Result<(), Error> {
        let path = match (&self.from, &self.to, &self.folder) {
            (Some(from), Some(to), Some(folder)) => self.write_meta(file, from, to, folder)?,
            _ => file.to_owned(),
        };
        let out = Outgoing::open(&path).map_err(|e| {
            // A person may send a file by its name and mean its .meta.
            let is_meta = path.extension().is_some_and(|ending| ending == "meta");
            match is_meta {
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
        // A wrong --root or an unknown contact is no attempt: the .meta stays as it is.
        let route = Route::find(self.root.as_deref(), self.server.as_deref(), &out)?;
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
                let failed = out
                    .failed(&error)
                    .map_err(|e| error.clone().within(format!("{} ({e})", path.display())))?;
                let who = match error.code {
                    Code::Refused => format!("{}: refused by {}", failed.display(), out.meta().to),
                    _ => failed.display().to_string(),
                };
                Err(error.within(who))
            }
        }
    }

    fn write_meta(
        &self,
        file: &Path,
        from: &str,
        to: &str,
        folder: &str,
    ) -> Result<PathBuf, Error> {
        let path = self.root.clone().unwrap_or_else(|| "/m2y".into());
        let name = |text: &str| Name::user(text).map_err(RootError::from);
        let (sender, receiver) = (name(from)?, name(to)?);
        let in_folder = Name::folder(folder).map_err(RootError::from)?;
        let user = Root::open(&path)?.user(&sender)?;
        user.contact(&receiver)?;
        let dir = user.outbox(&in_folder)?;
        let meta = Meta::new(from, to, folder, "");
        outgoing::write(&dir, file, meta)
    }
}

fn report(done: &Path, meta: &Meta, bytes: u64, took: Duration, json: bool) {
    if json {
        output::object(&[
            ("status", "sent".into()),
            ("file", done.display().to_string().into()),
            ("id", meta.id.map(|id| id.to_string()).into()),
            ("bytes", bytes.into()),
            ("seconds", Value::from(took.as_secs_f64())),
            ("crc", meta.file_crc.into()),
        ]);
    } else {
        output::line(format_args!(
            "sent {}: {} in {:.2} s ({})",
            printable(&meta.filename, 200),
            output::bytes(bytes),
            took.as_secs_f64(),
            output::rate(bytes, took),
        ));
    }
}
