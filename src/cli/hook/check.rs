use clap::Args;

use super::{RootArg, Where, told};
use crate::{
    cli::{Failure, output},
    error::{Code, Error, printable},
    hooks::check::{Checker, Finding},
    json::Value,
};

/// Find mistakes in hooks before they run
///
/// Reads every m2y.config, compiles every script that one names or that is in a folder or in
/// ROOT/scripts/, and looks for unknown functions and fields. Such mistakes would keep files
/// from arriving, or a check from ever running. Exit code 1 if it finds more than notes.
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    root: RootArg,
    #[command(flatten)]
    only: Where,
}

impl Check {
    pub(super) fn run(self, json: bool) -> Result<(), Failure> {
        let root = self.root.open()?;
        let settings = root.settings().map_err(Error::from)?;
        let mut checker = Checker::default();
        if self.only.is_everywhere() {
            checker.shared(&root);
        }
        for folder in self.only.folders(&root)? {
            checker.folder(&root, &folder, &settings.executables);
        }
        for finding in &checker.findings {
            match json {
                true => output::object(&facts(finding)),
                false => lines(finding).iter().for_each(output::line),
            }
        }
        let found = errors(&checker);
        if json {
            output::object(&[
                ("status", "summary".into()),
                ("files", checker.files.into()),
                ("found", found.into()),
            ]);
        } else {
            output::line(summary(&checker));
        }
        match found {
            0 => Ok(()),
            1 => Err(told(json, Code::Failed, "1 problem found".to_owned())),
            n => Err(told(json, Code::Failed, format!("{n} problems found"))),
        }
    }
}

/// How many findings are errors, and not only worth a thought.
pub fn errors(checker: &Checker) -> usize {
    checker.findings.iter().filter(|f| !f.note).count()
}

/// The last line, for people.
pub(super) fn summary(checker: &Checker) -> String {
    let (files, found) = (checker.files, errors(checker));
    let files = output::files(files as u64);
    match found {
        0 => format!("check result: ok. {files}; no problems"),
        1 => format!("check result: FAILED. {files}; 1 problem"),
        n => format!("check result: FAILED. {files}; {n} problems"),
    }
}

fn kind(finding: &Finding) -> &'static str {
    if finding.note { "note" } else { "error" }
}

/// A finding for programs.
pub(super) fn facts(finding: &Finding) -> [(&'static str, Value); 5] {
    [
        ("status", kind(finding).into()),
        ("file", finding.file.as_str().into()),
        ("line", finding.line.into()),
        ("column", finding.column.into()),
        ("message", finding.message.as_str().into()),
    ]
}

/// A finding for people.
pub(super) fn lines(finding: &Finding) -> Vec<String> {
    let mut shown = finding.shown.lines();
    let first = printable(shown.next().unwrap_or_default(), 1_000);
    let colon = if finding.line == 0 { ": " } else { ":" };
    let mut lines = vec![format!("{}: {}{colon}{first}", kind(finding), finding.file)];
    lines.extend(shown.map(|line| printable(line, 1_000)));
    lines
}
