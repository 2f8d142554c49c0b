//! One round of the watch: the check, the tests, and the last events.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, task};

use super::{Paint, Target};
use crate::{
    cli::{
        hook::{check, report, test},
        output,
    },
    client, clock,
    delivery::Client,
    error::{Code, Error, printable},
    hooks::{
        Hooks,
        check::Checker,
        recent::{Recent, recent},
        script_state::ReadOnlyState,
        services::Services,
        test_host::{Suite, Tester},
        web::OnRuntime,
    },
    json::{Map, Value},
    root::{Root, folder::Folder, settings::Settings},
};

/// How many events are tried.
const EVENTS: usize = 3;

/// The most lines that are shown of each part of an event, however many its scripts write.
const MOST: usize = 20;

/// A round that has begun: the scripts are checked.
pub struct Round {
    root: Root,
    folder: Folder,
    settings: Settings,
    /// In milliseconds since 1970.
    at: u64,
    checker: Checker,
}

/// The tests beside the scripts.
struct Tests {
    reports: Vec<test::Report>,
    count: test::Count,
    took: Duration,
}

/// One of the last events, and how the hooks decide it now.
struct Seen {
    at: u64,
    title: String,
    note: Option<String>,
    reports: Vec<(&'static str, report::Report)>,
}

/// A part of a round, or the reason why it is missing.
type Part<T> = Result<T, String>;

impl Round {
    /// Reopens everything, so that nothing is left over from before, and checks the scripts.
    pub async fn begin(target: &Target<'_>) -> Result<Self, Error> {
        let root = target.root.open()?;
        let folder = root.folder(&target.user, &target.folder)?;
        let settings = root.settings()?;
        let checking = task::spawn_blocking(move || {
            let mut checker = Checker::default();
            checker.folder(&root, &folder, &settings.executables);
            Self {
                root,
                folder,
                settings,
                at: clock::millis(),
                checker,
            }
        });
        let stopped = |_| Error::new(Code::Failed, "the check ended the thread that it ran on");
        checking.await.map_err(stopped)
    }

    /// Does the rest, and reports each part as soon as it is known; with `json`, everything as one
    /// object at the end.
    pub async fn finish(
        self,
        json: bool,
        paint: Paint,
        tell: impl Fn(&[String]) -> io::Result<()>,
    ) -> io::Result<()> {
        if !json {
            tell(&self.check_lines(paint))?;
        }
        let tests = self.tests().await;
        if !json {
            tell(&test_lines(&tests, paint))?;
        }
        let events = self.events().await;
        match json {
            true => tell(&[self.object(&tests, &events)]),
            false => tell(&event_lines(&events, paint)),
        }
    }

    async fn tests(&self) -> Part<Tests> {
        let suite = Suite {
            dir: self.folder.path().to_owned(),
            shared: test::shared(&self.root),
            programs: false,
        };
        let runtime = Handle::current();
        // Tests wait for their hooks, which a network thread must not do.
        let testing = task::spawn_blocking(move || {
            let begun = Instant::now();
            let tester = Tester::new(runtime);
            let (mut reports, mut count) = (Vec::new(), test::Count::default());
            test::test_suite(&tester, &suite, &mut |report| {
                count.add(&report);
                reports.push(report);
            })?;
            Ok(Tests {
                reports,
                count,
                took: begun.elapsed(),
            })
        });
        match testing.await {
            Ok(Ok(tests)) => Ok(tests),
            Ok(Err(error)) => Err(Error::to_string(&error)),
            Err(_) => Err("a test ended the thread that it ran on".to_owned()),
        }
    }

    async fn events(&self) -> Part<Vec<Seen>> {
        let (root, folder) = (self.root.clone(), self.folder.clone());
        let finding = task::spawn_blocking(move || {
            let config = folder.read_config().map_err(|e| e.to_string())?;
            recent(&root, &folder, &Arc::new(config), &client::stores(), EVENTS)
                .map_err(|e| e.to_string())
        });
        let stopped = |_| "the search for events ended the thread that it ran on".to_owned();
        let recent = finding.await.map_err(stopped)??;
        // Opened in each round: a server may have started or stopped since.
        let state = ReadOnlyState::new(&self.root).map_err(|e| e.to_string())?;
        let client = Client::new(&self.settings.webhook, self.root.path());
        let client = client.map_err(|e| e.to_string())?;
        let services = Services::new(Arc::new(state)).with_web(OnRuntime::only_get(&client));
        let hooks = Hooks::new(&self.root, &self.settings, &services);
        let mut seen = Vec::new();
        for one in recent {
            seen.push(Seen::of(one, &hooks).await);
        }
        Ok(seen)
    }

    fn check_lines(&self, paint: Paint) -> Vec<String> {
        let (user, folder) = (self.folder.user().name(), self.folder.name());
        let heading = format!("{} UTC  {user}/{folder}", output::moment(self.at));
        let mut lines = vec![String::new(), paint.heading(&heading)];
        let findings = self.checker.findings.iter();
        lines.extend(findings.flat_map(check::lines));
        let is_ok = check::errors(&self.checker) == 0;
        lines.push(paint.result(is_ok, &check::summary(&self.checker)));
        lines
    }

    fn object(&self, tests: &Part<Tests>, events: &Part<Vec<Seen>>) -> String {
        let found = check::errors(&self.checker);
        let findings = self
            .checker
            .findings
            .iter()
            .map(|f| object(check::facts(f)));
        let check = object([
            ("files", self.checker.files.into()),
            ("found", found.into()),
            ("findings", findings.collect()),
        ]);
        let failed = match tests {
            Ok(tests) => tests.count.failed > 0,
            Err(_) => true,
        };
        let tests = match tests {
            Ok(Tests {
                reports,
                count,
                took,
            }) => object([
                ("passed", count.passed.into()),
                ("failed", count.failed.into()),
                ("seconds", took.as_secs_f64().into()),
                (
                    "tests",
                    reports.iter().map(|one| object(one.facts())).collect(),
                ),
            ]),
            Err(error) => object([("error", error.as_str().into())]),
        };
        let (events, error) = match events {
            Ok(events) => (events.iter().map(Seen::object).collect(), None),
            Err(error) => (Value::Array(Vec::new()), Some(error.as_str())),
        };
        let is_ok = found == 0 && !failed && error.is_none();
        output::to_object(&[
            ("status", if is_ok { "ok" } else { "failed" }.into()),
            ("user", self.folder.user().name().as_str().into()),
            ("folder", self.folder.name().as_str().into()),
            ("at", self.at.into()),
            ("check", check),
            ("test", tests),
            ("events", events),
            ("error", error.into()),
        ])
    }
}

fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    let fields = fields.into_iter();
    let fields = fields.map(|(field, value)| (field.to_owned(), value));
    Value::Object(fields.collect::<Map<String, Value>>())
}

fn test_lines(tests: &Part<Tests>, paint: Paint) -> Vec<String> {
    let tests = match tests {
        Ok(tests) => tests,
        Err(error) => return vec![paint.result(false, &format!("no tests: {error}"))],
    };
    let failed = tests.reports.iter().filter(|report| report.failed());
    let mut lines: Vec<String> = failed.flat_map(test::Report::lines).collect();
    lines.push(match tests.reports.is_empty() {
        true => "no tests (*_test.rhai)".to_owned(),
        false => {
            let summary = test::summary(&tests.count, tests.took);
            paint.result(tests.count.failed == 0, &summary)
        }
    });
    lines
}

fn event_lines(events: &Part<Vec<Seen>>, paint: Paint) -> Vec<String> {
    match events {
        Ok(events) if events.is_empty() => vec!["no events yet in this folder".to_owned()],
        Ok(events) => events.iter().flat_map(|seen| seen.lines(paint)).collect(),
        Err(error) => {
            let error = printable(error, 1_000);
            vec![paint.result(false, &format!("no events: {error}"))]
        }
    }
}

impl Seen {
    async fn of(recent: Recent, hooks: &Hooks) -> Self {
        let (at, title, note) = (recent.at, recent.title.clone(), recent.note.clone());
        let rehearsed = recent.rehearse(hooks).await.into_iter();
        let reports = rehearsed.map(|one| {
            let report = report::Report::new(one.before.as_ref(), one.verdict, one.written, false);
            (one.event.section(), report)
        });
        Self {
            at,
            title,
            note,
            reports: reports.collect(),
        }
    }

    fn lines(&self, paint: Paint) -> Vec<String> {
        let mut lines = vec![format!("{}  {}", output::moment(self.at), self.title)];
        for (event, report) in &self.reports {
            let (word, words) = report.words();
            let colon = if words.is_empty() { "" } else { ": " };
            let verdict = format!("  {event} {word}{colon}{}", printable(words, 400));
            lines.push(match report.is_cut_short() {
                // Neither right nor wrong.
                true => verdict,
                // A refusal is not a mistake.
                false => paint.result(report.verdict.outcome.failure().is_none(), &verdict),
            });
            let shown = report.lines(MOST).into_iter();
            lines.extend(shown.map(|line| format!("    {line}")));
        }
        lines.extend(self.note.iter().map(|note| format!("  {note}")));
        lines
    }

    fn object(&self) -> Value {
        let reports = self.reports.iter().map(|(event, report)| {
            let facts = report.facts(MOST).into_iter();
            object(facts.chain([("event", (*event).into())]))
        });
        object([
            ("at", self.at.into()),
            ("title", self.title.as_str().into()),
            ("note", self.note.clone().into()),
            ("runs", reports.collect()),
        ])
    }
}
