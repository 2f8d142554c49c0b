use clap::Args;

use super::{RootArg, Where, told};
use crate::{
    cli::{Failure, output},
    error::{Code, Error, printable},
    hooks::check::{Checker, Finding},
};

/// Find what is wrong with hooks before they run
///
/// Reads every m2y.config, compiles every script that one names or that lies in a folder
/// or in ROOT/scripts/, and looks for calls of functions and uses of fields that are not
/// there. What it finds would make files be refused, or a check never run. Exit code 1 if
/// it finds anything but notes.
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
            print(finding, json);
        }
        let found = checker.findings.iter().filter(|f| !f.note).count();
        let files = checker.files;
        if json {
            output::object(&[
                ("status", "summary".into()),
                ("files", files.into()),
                ("found", found.into()),
            ]);
        } else {
            let result = if found == 0 { "ok" } else { "FAILED" };
            output::line(format_args!(
                "check result: {result}. {files} files; {found} found"
            ));
        }
        match found {
            0 => Ok(()),
            1 => Err(told(
                json,
                Code::Failed,
                "a hook has to be mended".to_owned(),
            )),
            n => Err(told(
                json,
                Code::Failed,
                format!("{n} places have to be mended"),
            )),
        }
    }
}

fn print(finding: &Finding, json: bool) {
    let kind = if finding.note { "note" } else { "error" };
    if json {
        output::object(&[
            ("status", kind.into()),
            ("file", finding.file.as_str().into()),
            ("line", finding.line.into()),
            ("column", finding.column.into()),
            ("message", finding.message.as_str().into()),
        ]);
        return;
    }
    let mut lines = finding.shown.lines();
    let first = printable(lines.next().unwrap_or_default(), 1_000);
    let colon = if finding.line == 0 { ": " } else { ":" };
    output::line(format_args!("{kind}: {}{colon}{first}", finding.file));
    for line in lines {
        output::line(printable(line, 1_000));
    }
}
