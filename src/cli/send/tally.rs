//! What became of the files: `.done` and `.failed`, a line for each, and a summary.

use std::{
    env,
    fmt::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    Send,
    producer::{QueuedPath, Report},
    quoted,
};
use crate::{
    cli::{
        Failure,
        output::{self, files},
        progress::Progress,
    },
    error::{Code, Error, printable},
    json::Value,
    meta::Meta,
    root::Root,
    session::asker::Sent,
    transfer::send::send_job::SendJob,
};

/// Outcomes whose lines are printed together.
const TOGETHER: usize = 64;

/// `1 identical file`, `3,000 identical files`.
fn identical(n: u64) -> String {
    match n {
        1 => "1 identical file".to_owned(),
        n => format!("{} identical files", output::count(n)),
    }
}

/// What is not sent along from directories.
fn special(n: u64) -> String {
    match n {
        1 => "1 link or special file".to_owned(),
        n => format!("{} links and special files", output::count(n)),
    }
}

/// Counts and reports.
pub struct Tally {
    send: Arc<Send>,
    progress: Arc<Progress>,
    json: bool,
    /// Whether there may be more than one file.
    several: bool,
    /// Whether it only reports what would be sent.
    is_dry: bool,
    begun: Instant,
    sent: u64,
    failed: u64,
    left: u64,
    skipped: u64,
    /// Of those that were sent, the ones that wait at a relay.
    letters: u64,
    bytes: u64,
    /// The receiver, as long as it is the same for all.
    to: Option<Option<String>>,
    /// The first error, and whether all others are of its kind.
    error: Option<(Error, bool)>,
    is_interrupted: bool,
    /// Lines to be printed.
    out: String,
    err: String,
}

impl Tally {
    /// A tally before anything has happened.
    pub fn new(send: Arc<Send>, progress: Arc<Progress>, json: bool, several: bool) -> Self {
        Self {
            progress,
            json,
            several,
            is_dry: send.dry_run,
            send,
            begun: Instant::now(),
            sent: 0,
            failed: 0,
            left: 0,
            skipped: 0,
            letters: 0,
            bytes: 0,
            to: None,
            error: None,
            is_interrupted: false,
            out: String::new(),
            err: String::new(),
        }
    }

    /// Takes all outcomes. It waits for disks.
    pub fn run(mut self, mut outcomes: mpsc::UnboundedReceiver<Report>) -> Self {
        while let Some(outcome) = outcomes.blocking_recv() {
            self.take(outcome);
            for _ in 1..TOGETHER {
                match outcomes.try_recv() {
                    Ok(outcome) => self.take(outcome),
                    Err(_) => break,
                }
            }
            self.print();
        }
        self
    }

    fn print(&mut self) {
        let (mut out, err) = (std::mem::take(&mut self.out), std::mem::take(&mut self.err));
        if self.send.quiet && !self.json {
            out.clear();
        }
        if !out.is_empty() || !err.is_empty() {
            self.progress.apart(|| {
                output::text(&out);
                eprint!("{err}");
            });
        }
    }

    /// Counts an outcome, and does what is left to do.
    pub fn take(&mut self, outcome: Report) {
        match outcome {
            Report::Over(sent) => self.over(*sent),
            Report::Failed(path, error) => {
                self.progress.over();
                self.failure(&path, error);
            }
            Report::Left(path, job, error) => {
                self.progress.over();
                if let Some(Err(error)) = job.map(|job| job.out.leave(&error)) {
                    return self.failure(&path, error);
                }
                if self.several {
                    self.not_sent(&path, error);
                } else {
                    self.left += 1;
                    self.count(&error);
                }
            }
            Report::Skipped(path, before) => {
                self.skipped += 1;
                self.progress.held(before.bytes);
                self.progress.over();
                self.object(&[
                    ("status", "skipped".into()),
                    ("file", path.display().to_string().into()),
                    ("to", before.what.recipient.as_str().into()),
                    ("id", before.id.to_string().into()),
                    ("sent", before.at.into()),
                ]);
                if !self.several && !self.json {
                    let (path, at) = (path.display(), output::moment(before.at));
                    let to = &before.what.recipient;
                    let _ = writeln!(
                        self.out,
                        "skipped {path}: sent to {to} on {at} UTC and unchanged since (--again sends it again)"
                    );
                }
            }
        }
    }

    fn over(&mut self, (job, result, took): Sent<QueuedPath>) {
        self.progress.over();
        let QueuedPath { out, known, .. } = &job;
        match result {
            Ok(meta) => match out.done(&meta) {
                Ok(done) => self.success(&done, &meta, out, took),
                Err(error) => self.failure(known, error),
            },
            Err(error) if error.code == Code::Interrupted && !out.is_document() && self.several => {
                // The journal keeps it as interrupted; the same command continues it.
                if let Err(e) = out.failed(&error) {
                    return self.failure(known, e);
                }
                self.not_sent(known, error);
            }
            Err(error) => {
                let error = match out.failed(&error) {
                    Ok(failed) => self.explain(error, &failed, out),
                    Err(e) => {
                        let sentence = format!("{error} ({}: {e})", out.path().display());
                        Error::new(error.code, sentence)
                    }
                };
                self.failure(known, error);
            }
        }
    }

    /// A file was not tried, or an interrupt ended it.
    fn not_sent(&mut self, file: &Path, error: Error) {
        self.left += 1;
        self.count(&error);
        self.object(&[
            ("status", "left".into()),
            ("file", file.display().to_string().into()),
            ("code", error.code.word().into()),
            ("error", error.sentence.into()),
        ]);
    }

    fn success(&mut self, done: &Path, meta: &Meta, out: &SendJob, took: Duration) {
        let (bytes, resumed) = (out.len(), out.resumed());
        self.sent += 1;
        self.bytes += bytes.saturating_sub(resumed);
        self.is_to(meta);
        if out.is_left() {
            self.letters += 1;
            let to = printable(&meta.to, 64);
            if self.json {
                return self.object(&[
                    ("status", "letter".into()),
                    ("file", done.display().to_string().into()),
                    ("to", meta.to.as_str().into()),
                    ("id", meta.id.map(|id| id.to_string()).into()),
                    ("bytes", bytes.into()),
                ]);
            }
            let _ = writeln!(
                self.out,
                "left {} for {to} at a relay, as a letter: {}",
                printable(&meta.filename, 200),
                output::bytes(bytes),
            );
            return;
        }
        if self.json {
            return self.object(&output::sent(done, meta, (bytes, resumed), took));
        }
        let bytes = bytes.saturating_sub(resumed);
        let _ = writeln!(
            self.out,
            "sent {} to {}: {}",
            printable(&meta.filename, 200),
            printable(&meta.to, 64),
            output::speed(bytes, took),
        );
    }

    /// Reports a file that would be sent.
    pub fn would(&mut self, file: &Path, meta: &Meta, bytes: u64, address: &str) {
        self.sent += 1;
        self.bytes += bytes;
        self.is_to(meta);
        if self.json {
            self.object(&[
                ("status", "would-send".into()),
                ("file", file.display().to_string().into()),
                ("to", meta.to.as_str().into()),
                ("folder", meta.folder.as_str().into()),
                ("address", address.into()),
                ("bytes", bytes.into()),
            ]);
        } else {
            let _ = writeln!(
                self.out,
                "would send {} to {} at {address}, folder {}: {}",
                file.display(),
                printable(&meta.to, 64),
                printable(&meta.folder, 64),
                output::bytes(bytes),
            );
        }
        self.print();
    }

    fn is_to(&mut self, meta: &Meta) {
        match &mut self.to {
            None => self.to = Some(Some(meta.to.clone())),
            Some(to) if to.as_ref().is_some_and(|to| *to != meta.to) => *to = None,
            Some(_) => {}
        }
    }

    /// Reports a file that could not be started, or was not sent.
    pub fn failure(&mut self, file: &Path, error: Error) {
        self.failed += 1;
        self.object(&output::failed(file, &error));
        // The last line says it for all.
        if self.several && error.code != Code::Interrupted {
            let _ = writeln!(self.err, "m2y: {}", printable(&error.sentence, 8_192));
        }
        self.count(&error);
    }

    fn count(&mut self, error: &Error) {
        self.is_interrupted |= error.code == Code::Interrupted;
        match &mut self.error {
            None => self.error = Some((error.clone(), true)),
            Some((first, same)) => *same &= first.code == error.code,
        }
    }

    fn object(&mut self, fields: &[(&str, Value)]) {
        if self.json {
            let _ = writeln!(self.out, "{}", output::to_object(fields));
        }
    }

    /// The reason first, which is what a person looks for; then the file, and what can be done
    /// about it. `failed` is what its `.meta` became, or the file itself.
    fn explain(&self, error: Error, failed: &Path, out: &SendJob) -> Error {
        let error = match error.code {
            Code::Refused => error.within(format_args!("rejected by {}", out.meta().to)),
            _ => error,
        };
        let sentence = match (error.code, out.is_document()) {
            (Code::Later, true) => {
                format!("{error}; send it again with: {}", self.again(failed))
            }
            // For several files, the summary says it.
            (Code::Later, false) if !self.several => {
                format!("{error}; run the same command again to retry")
            }
            _ => format!("{error} ({})", self.shown(failed).display()),
        };
        Error::new(error.code, sentence)
    }

    /// A path as the person wrote it: relative to the current directory if theirs were.
    fn shown<'a>(&self, path: &'a Path) -> &'a Path {
        let is_relative = self.send.files.iter().all(|file| file.is_relative());
        let here = env::current_dir().ok().filter(|_| is_relative);
        let below = here.and_then(|here| path.strip_prefix(here).ok());
        below.unwrap_or(path)
    }

    /// The command that sends a `.failed` file again.
    fn again(&self, failed: &Path) -> String {
        let Send { root, server, .. } = &*self.send;
        let mut command = format!("m2y send {}", quoted(&failed.display().to_string()));
        if let Some(root) = root
            && Root::around(failed).is_none()
        {
            command += &format!(" --root {}", quoted(&root.display().to_string()));
        }
        if let Some(server) = server {
            command += &format!(" --server {}", quoted(server));
        }
        command
    }

    /// The summary, and the result of the program. `ended` says whether every file was reached, and
    /// `passed_over` how many were not regular files.
    pub fn finish(mut self, passed_over: u64, ended: bool) -> Result<(), Failure> {
        let took = self.begun.elapsed();
        let Self {
            sent,
            failed,
            left,
            skipped,
            letters,
            bytes,
            ..
        } = self;
        let is_interrupted = !ended || self.is_interrupted;
        if self.several {
            self.object(&[
                ("status", "summary".into()),
                (if self.is_dry { "would-send" } else { "sent" }, sent.into()),
                ("failed", failed.into()),
                ("left", left.into()),
                ("skipped", skipped.into()),
                ("letters", letters.into()),
                ("bytes", bytes.into()),
                ("seconds", took.as_secs_f64().into()),
            ]);
            let is_nothing = sent + failed + left + skipped == 0;
            if !self.json && is_nothing && !is_interrupted {
                self.out.push_str("nothing to send\n");
            } else if !self.json && sent == 0 && skipped > 0 {
                let _ = writeln!(
                    self.out,
                    "{} skipped (--again sends them again)",
                    identical(skipped)
                );
            } else if !self.json && sent > 0 {
                let to = match &self.to {
                    Some(Some(to)) => format!(" to {}", printable(to, 64)),
                    _ => String::new(),
                };
                let skipped = match skipped {
                    0 => String::new(),
                    n => format!("; {} skipped", identical(n)),
                };
                let (word, what) = match self.is_dry {
                    true => ("would send", output::bytes(bytes)),
                    false => ("sent", output::speed(bytes, took)),
                };
                let letters = match letters {
                    0 => String::new(),
                    n => format!("; {} of them as letters", output::count(n)),
                };
                let _ = writeln!(
                    self.out,
                    "{word} {}{to}: {what}{letters}{skipped}",
                    files(sent)
                );
            }
            if passed_over > 0 && !self.send.quiet {
                let _ = writeln!(self.err, "m2y: skipped {}", special(passed_over));
            }
        }
        self.print();
        let (total, not) = (sent + failed + left, failed + left);
        // To run the same command again does not help against a refusal.
        let is_final = matches!(&self.error, Some((error, true)) if error.code == Code::Refused);
        let how = match is_final && left == 0 {
            true => "",
            false => self.send.how_to_go_on(),
        };
        let left = match left {
            0 => String::new(),
            n => format!(", {} not tried", output::count(n)),
        };
        let said = format!(
            "{} of {} sent, {} failed{left}{how}",
            output::count(sent),
            files(total),
            output::count(failed)
        );
        match self.error {
            _ if self.several && is_interrupted => {
                let failed = match failed {
                    0 => String::new(),
                    n => format!("{} failed, ", output::count(n)),
                };
                let sentence = format!(
                    "interrupted: {} sent, {failed}the rest not sent{how}",
                    files(sent),
                );
                Err(Error::new(Code::Interrupted, sentence).into())
            }
            None if is_interrupted => Err(Error::new(Code::Interrupted, "interrupted").into()),
            None => Ok(()),
            // The object of the only file has reported it.
            Some((error, _)) if !self.several => Err(Failure::told(error)),
            // If all failed for the same kind of reason, that reason is the result.
            Some((error, true)) if sent == 0 => {
                let sentence = match self.is_dry {
                    true => format!("0 of {} can be sent", files(total)),
                    false => said,
                };
                Err(Error::new(error.code, sentence).into())
            }
            Some(_) => {
                let sentence = match self.is_dry {
                    true => format!("{} of {} cannot be sent", output::count(not), files(total)),
                    false => said,
                };
                Err(Error::new(Code::Partly, sentence).into())
            }
        }
    }
}
