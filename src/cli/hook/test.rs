use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use tokio::{runtime::Handle, task};

use super::{RootArg, Where, told};
use crate::{
    cli::{Failure, output},
    error::{Code, Error, printable},
    hooks::{
        report::HookError,
        test_host::{Suite, Tester},
    },
    json::Value,
    root::{Root, folder::CONFIG},
};

/// Run the tests of hooks: every *_test.rhai beside them
///
/// Each function test_...() without parameters is a test. It runs in a temporary root, with
/// the user roland-frei, the contact zhenqiang, and a folder `photo` that holds copies of the
/// m2y.config, the scripts and the programs beside the test. It fires events there and checks
/// what happened:
///
///   fn test_strangers_are_refused() {
///       config("permission", "zhenqiang", "no");
///       let result = run("OnMeta", meta(#{ filename: "a.jpg" }));
///       assert_eq(result.outcome, "refused");
///       assert_eq(result.words, "no permission");
///   }
///
/// Files, state and inbox.log really change there; e-mails, webhooks and files for others
/// are listed in `effects` of the result and never sent. `m2y hook api test` shows everything
/// that a test can call; `state` and `folder` are those of the temporary folder.
///
/// Without DIR it tests every folder of the root, and ROOT/scripts. Programs do not run and
/// count as accepting, unless you add --programs.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Test {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    only: Where,
    /// Run programs too; nothing holds them back
    #[arg(long)]
    programs: bool,
    /// Directories with scripts, in a root or not
    #[arg(value_name = "DIR", conflicts_with_all = ["user", "folder"])]
    dirs: Vec<PathBuf>,
}

/// How many tests passed, and how many did not.
#[derive(Default)]
pub(super) struct Count {
    pub(super) passed: usize,
    pub(super) failed: usize,
}

impl Count {
    pub(super) fn add(&mut self, report: &Report) {
        match report.failed() {
            false => self.passed += 1,
            true => self.failed += 1,
        }
    }
}

impl Test {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let suites = self.suites()?;
        let runtime = Handle::current();
        let begun = Instant::now();
        let all = move || {
            let tester = Tester::new(runtime);
            let mut count = Count::default();
            for suite in &suites {
                test_suite(&tester, suite, &mut |report| {
                    count.add(&report);
                    match json {
                        true => output::object(&report.facts()),
                        false => report.lines().iter().for_each(output::line),
                    }
                })?;
            }
            Ok::<_, Error>(count)
        };
        // Tests wait for their hooks, which a network thread must not do.
        let count = task::spawn_blocking(all)
            .await
            .map_err(|_| Error::new(Code::Failed, "a test ended the thread that it ran on"))??;
        close(&count, begun.elapsed(), json);
        match count.failed {
            0 => Ok(()),
            n => {
                let all = count.passed + n;
                let sentence = format!("{n} of {all} tests failed");
                Err(told(json, Code::Failed, sentence))
            }
        }
    }

    fn suites(&self) -> Result<Vec<Suite>, Error> {
        let programs = self.programs;
        if !self.dirs.is_empty() {
            let suite = |dir: &PathBuf| {
                let is_dir = dir.metadata().map(|about| about.is_dir());
                match is_dir {
                    Ok(true) => {}
                    Ok(false) => {
                        let sentence = format!("{} is not a directory", dir.display());
                        return Err(Error::new(Code::Usage, sentence));
                    }
                    Err(e) => return Err(Error::io("open", dir, &e)),
                }
                // A folder of a root has the scripts of that root.
                let root = Root::around(&dir.join(CONFIG));
                Ok(Suite {
                    dir: dir.clone(),
                    shared: root.map(|root| root.join("scripts")).filter(|s| s.is_dir()),
                    programs,
                })
            };
            return self.dirs.iter().map(suite).collect();
        }
        let root = self.root.open()?;
        let shared = shared(&root);
        let mut suites = Vec::new();
        if let (Some(dir), true) = (&shared, self.only.is_everywhere()) {
            suites.push(Suite {
                dir: dir.clone(),
                shared: shared.clone(),
                programs,
            });
        }
        for folder in self.only.folders(&root)? {
            suites.push(Suite {
                dir: folder.path().to_owned(),
                shared: shared.clone(),
                programs,
            });
        }
        Ok(suites)
    }
}

/// Runs the tests of a suite, and reports each when it has ended. It waits for its hooks.
pub(super) fn test_suite(
    tester: &Tester,
    suite: &Suite,
    tell: &mut dyn FnMut(Report),
) -> Result<(), Error> {
    let files = suite
        .files()
        .map_err(|e| Error::io("read", &suite.dir, &e))?;
    for name in files {
        let shown = suite.dir.join(&name).display().to_string();
        let file = match tester.compile(suite, &name) {
            Ok(file) => file,
            Err(error) => {
                tell(Report {
                    file: shown,
                    test: String::new(),
                    took: Duration::ZERO,
                    failure: Some((error, None)),
                });
                continue;
            }
        };
        for test in &file.tests {
            let tested = tester.run(suite, &file, test).map_err(|e| {
                let sentence = format!("cannot make a root for the test {shown}: {test}: {e}");
                Error::new(Code::Failed, sentence)
            })?;
            let note = tested.note;
            tell(Report {
                file: shown.clone(),
                test: test.clone(),
                took: tested.took,
                failure: tested.failure.map(|error| (error, note)),
            });
        }
    }
    Ok(())
}

/// The outcome of one test; one without a name is a file that does not compile.
pub(super) struct Report {
    file: String,
    test: String,
    took: Duration,
    /// What failed, and the event of the last hook that ran.
    failure: Option<(HookError, Option<String>)>,
}

impl Report {
    pub(super) fn failed(&self) -> bool {
        self.failure.is_some()
    }

    /// For programs.
    pub(super) fn facts(&self) -> Vec<(&'static str, Value)> {
        let outcome = if self.failed() { "failed" } else { "ok" };
        let mut fields = vec![
            ("status", Value::from(outcome)),
            ("file", self.file.as_str().into()),
            ("test", self.test.as_str().into()),
            ("seconds", self.took.as_secs_f64().into()),
        ];
        if let Some((error, note)) = &self.failure {
            fields.push(("error", error.to_string().into()));
            if let HookError::Script(place) = error {
                let (_, message, line, column) = place.parts();
                fields.push(("message", message.into()));
                fields.push(("line", line.into()));
                fields.push(("column", column.into()));
            }
            fields.push(("last_event", note.clone().into()));
        }
        fields
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let word = if self.failed() { "FAILED" } else { "ok" };
        let test = match self.test.as_str() {
            "" => "(compiled)",
            test => test,
        };
        let mut lines = vec![format!("test {}: {test} ... {word}", self.file)];
        if let Some((error, note)) = &self.failure {
            let note = note
                .as_ref()
                .map(|note| format!("the last event was {note}"));
            for text in [Some(error.to_string()), note].iter().flatten() {
                let text = text.lines().map(|line| printable(line, 1_000));
                lines.extend(text.map(|line| format!("    {line}")));
            }
        }
        lines
    }
}

/// The scripts for all folders of a root, if there are any.
pub(super) fn shared(root: &Root) -> Option<PathBuf> {
    let scripts = root.path().join("scripts");
    scripts.is_dir().then_some(scripts)
}

fn close(count: &Count, took: Duration, json: bool) {
    let Count { passed, failed } = *count;
    let outcome = if failed == 0 { "ok" } else { "failed" };
    if json {
        output::object(&[
            ("status", "summary".into()),
            ("result", outcome.into()),
            ("passed", passed.into()),
            ("failed", failed.into()),
            ("seconds", took.as_secs_f64().into()),
        ]);
        return;
    }
    output::line(summary(count, took));
}

/// The last line, for people.
pub(super) fn summary(count: &Count, took: Duration) -> String {
    let Count { passed, failed } = *count;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let took = took.as_secs_f64();
    format!("test result: {word}. {passed} passed; {failed} failed; finished in {took:.2}s")
}
