use clap::Args;

use super::{RootArg, run::event};
use crate::{
    cli::{Failure, folder_name, output, user_arg::UserArg},
    error::{Code, Error},
    event::Kind,
    root::{file, name::Name},
};

/// Create a script and a test to begin with
///
/// NAME.rhai and NAME_test.rhai go into the folder, or without --folder into ROOT/scripts/,
/// where every folder finds them. Existing files are kept. The script runs once m2y.config
/// names it; the command prints the line to add.
#[derive(Debug, Args)]
pub struct New {
    #[command(flatten)]
    root: RootArg,
    /// The name of the script, with or without .rhai
    #[arg(value_name = "NAME")]
    name: String,
    /// The event: OnMeta, OnStartup, OnReceived, OnNew, OnChanged, OnDeleted, OnSchedule,
    /// OnList, OnGet, OnSent, OnStore, OnMessage
    #[arg(long, value_name = "EVENT", value_parser = event)]
    event: Kind,
    #[command(flatten)]
    user: UserArg,
    /// The folder
    #[arg(long, value_name = "NAME")]
    folder: Option<String>,
}

impl New {
    pub(super) fn run(self, json: bool) -> Result<(), Failure> {
        let stem = self.name.strip_suffix(".rhai").unwrap_or(&self.name);
        let usage = |sentence: String| Error::new(Code::Usage, sentence);
        let (script, test) = (format!("{stem}.rhai"), format!("{stem}_test.rhai"));
        for name in [stem, &script, &test] {
            Name::script(name).map_err(|e| usage(e.to_string()))?;
        }
        if stem == "lib" || stem.ends_with("_test") {
            let sentence = format!("{script} cannot be a hook: choose a different name");
            return Err(usage(sentence).into());
        }
        if self.user.is_given() && self.folder.is_none() {
            return Err(usage("--user needs --folder".to_owned()).into());
        }
        let root = self.root.open()?;
        let (dir, at) = match &self.folder {
            Some(folder) => {
                let folder = folder_name(folder)?;
                let folder = self.user.of(&root)?.folder(&folder).map_err(Error::from)?;
                let dir = folder.dir().try_clone();
                (dir, folder.path().to_owned())
            }
            None => (root.dir().open_dir("scripts"), root.path().join("scripts")),
        };
        let dir = dir.map_err(|e| Error::io("open", &at, &e))?;
        // Both or neither: a script alone would not show why its test is missing.
        for name in [&script, &test] {
            if dir.symlink_metadata(name).is_ok() {
                let sentence = format!("{} is there already", at.join(name).display());
                return Err(Error::new(Code::Failed, sentence).into());
            }
        }
        let (text, tests) = template(self.event, &script);
        for (name, text) in [(&script, &text), (&test, &tests)] {
            file::create(&dir, name, 0o644, text.as_bytes())
                .map_err(|e| Error::io("write", &at.join(name), &e))?;
        }
        let line = match self.event {
            Kind::Schedule => format!("30 2 * * * = {script}"),
            _ => script.clone(),
        };
        let (script, test) = (at.join(&script), at.join(&test));
        if json {
            output::object(&[
                ("status", "done".into()),
                ("script", script.display().to_string().into()),
                ("test", test.display().to_string().into()),
                ("section", self.event.section().into()),
                ("line", line.into()),
            ]);
            return Ok(());
        }
        output::line(format_args!("wrote {}", script.display()));
        output::line(format_args!("wrote {}", test.display()));
        output::line(format_args!(
            "to run it, write into m2y.config below [{}]:",
            self.event
        ));
        output::line(line);
        Ok(())
    }
}

/// A script and its test.
fn template(event: Kind, script: &str) -> (String, String) {
    let (when, body, test) = match event {
        Kind::Meta => (
            "before a byte of a file is taken",
            "// `meta` is what the sender says of the file. reject(\"why\") refuses it, and the\n// sender reads why; at the end of the script the file is accepted.\n\nif meta.filesize > 100_000_000 {\n    reject(\"larger than 100 MB\");\n}\n",
            "fn test_a_small_file_is_accepted() {\n    let result = run_script(\"SCRIPT\", \"OnMeta\", meta(#{ filesize: 1000 }));\n    assert_eq(result.outcome, \"accepted\");\n}\n\nfn test_a_large_file_is_refused() {\n    let result = run_script(\"SCRIPT\", \"OnMeta\", meta(#{ filesize: 100_000_001 }));\n    assert_eq(result.outcome, \"refused\");\n    assert_eq(result.words, \"larger than 100 MB\");\n}\n",
        ),
        Kind::Received => (
            "when a file is safe, before the sender hears of it",
            "// `event.data_file` is the file in the folder, `meta` what its sender said of it.\n// What fails here is run again later; the file stays.\n\nlog.info(`${meta.from} sent ${meta.filename}`);\nnotify.inbox(`${meta.from} sent ${meta.filename}`);\n",
            "fn test_the_user_is_told() {\n    let sent = meta(#{ filename: \"sea.jpg\" });\n    let result = run_script(\"SCRIPT\", \"OnReceived\", sent);\n    assert_eq(result.outcome, \"accepted\");\n    assert_eq(result.inbox, [\"zhenqiang sent sea.jpg\"]);\n}\n",
        ),
        Kind::Startup => (
            "when the server starts",
            "// Where it fails, the folder takes no files until it succeeds.\n\nlet count = folder.list().len();\nlog.info(`${event.folder} has ${count} files`);\n",
            "fn test_it_starts() {\n    let result = run_script(\"SCRIPT\", \"OnStartup\");\n    assert_eq(result.outcome, \"accepted\");\n}\n",
        ),
        Kind::Schedule => (
            "at the times that stand before it in m2y.config, in UTC",
            "// The times are as in cron: minute, hour, day of the month, month, day of the week.\n\nlet count = folder.list().len();\nlog.info(`${event.folder} has ${count} files`);\n",
            "fn test_it_runs() {\n    let result = run_script(\"SCRIPT\", \"OnSchedule\");\n    assert_eq(result.outcome, \"accepted\");\n}\n",
        ),
        Kind::List => (
            "before a contact sees what there is",
            "// `event.contact` is who looks, `event.path` where, below the folder. reject(\"why\") makes\n// it look as if nothing were there; hide(\"*.tmp\") leaves names out.\n\nhide([\"*.tmp\", \"draft*\"]);\n",
            "fn test_who_looks_is_let_in() {\n    let result = run_script(\"SCRIPT\", \"OnList\");\n    assert_eq(result.outcome, \"accepted\");\n}\n",
        ),
        Kind::Get => (
            "before a contact is given a file",
            "// `event.contact` is who fetches, `event.path` what, below the folder. After reject(\"why\")\n// it looks as if it were not there.\n\nif event.path.starts_with(\"draft\") {\n    reject(\"a draft\");\n}\n",
            "fn test_a_draft_is_refused() {\n    file(\"draft.txt\", \"abc\");\n    let result = run_script(\"SCRIPT\", \"OnGet\", \"draft.txt\");\n    assert_eq(result.outcome, \"refused\");\n}\n\nfn test_another_file_is_given() {\n    file(\"a.txt\", \"abc\");\n    let result = run_script(\"SCRIPT\", \"OnGet\", \"a.txt\");\n    assert_eq(result.outcome, \"accepted\");\n}\n",
        ),
        Kind::Sent => (
            "when a contact has fetched a file",
            "// `event.contact` has `event.path` now. What fails here is run again later.\n\nlog.info(`${event.contact} has ${event.path}`);\n",
            "fn test_it_says_who_has_what() {\n    file(\"a.txt\", \"abc\");\n    let result = run_script(\"SCRIPT\", \"OnSent\", \"a.txt\");\n    assert_eq(result.log, [\"INFO zhenqiang has a.txt\"]);\n}\n",
        ),
        Kind::Store => (
            "when a member of the folder's store is lost or back, or a scrub found damage",
            "// `event.change` is lost, back or damage; `event.member` is which, `event.text` says it in\n// a sentence.\n\nnotify.inbox(`${event.store}: ${event.text}`);\n",
            "fn test_the_user_is_told() {\n    let result = run_script(\"SCRIPT\", \"OnStore\", \"lost\");\n    assert_eq(result.inbox, [\"safe: disk: it does not answer\"]);\n}\n",
        ),
        Kind::Message => (
            "when a message came",
            "// `event.text` is what it says, `meta.from` who says it. reply(\"text\") answers.\n\nif event.text == \"status?\" {\n    reply(`${folder.list(\"*.jpg\").len()} pictures`);\n}\n",
            "fn test_a_question_is_answered() {\n    file(\"a.jpg\", \"abc\");\n    let result = run_script(\"SCRIPT\", \"OnMessage\", \"status?\");\n    assert_eq(result.effects.len(), 1);\n    assert_eq(result.effects[0].text, \"1 pictures\");\n}\n\nfn test_nothing_else_is() {\n    let result = run_script(\"SCRIPT\", \"OnMessage\", \"hello?\");\n    assert_eq(result.effects, []);\n}\n",
        ),
        Kind::New | Kind::Changed | Kind::Deleted => (
            match event {
                Kind::New => "when a file appears in the folder",
                Kind::Changed => "when a file of the folder changes",
                _ => "when a file of the folder is gone",
            },
            "// `event.file` is its name; `meta` is () unless somebody sent the file.\n\nlog.info(`EVENT: ${event.file}`);\n",
            "fn test_it_says_which_file() {\n    file(\"a.txt\", \"abc\");\n    let result = run_script(\"SCRIPT\", \"EVENT\", \"a.txt\");\n    assert_eq(result.outcome, \"accepted\");\n    assert_eq(result.log, [\"INFO EVENT: a.txt\"]);\n}\n",
        ),
    };
    let fill = |text: &str| {
        text.replace("SCRIPT", script)
            .replace("EVENT", event.section())
    };
    (
        format!(
            "// Runs {when}.\n//\n// `m2y hook api` shows all that a script can call; `m2y hook test` runs the test.\n{}",
            fill(body)
        ),
        format!(
            "// Tests of {script}, for `m2y hook test`.\n\n{}",
            fill(test)
        ),
    )
}
