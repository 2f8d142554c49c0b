//! Tests of hooks: a made-up root for each, in which events happen for real.
//!
//! What a hook does at once (files, `state`, the inbox) is done, in a folder that is
//! gone afterwards. What is done after the verdict (e-mail, webhooks, files for others) is only
//! recorded. So a test needs no server, no keys and no network.

mod answers;
mod functions;
mod message;
mod sandbox;

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rhai::{CallFnOptions, Dynamic, Engine, Scope};
use tokio::runtime::Handle;

use super::{
    api::{Handles, actions::Actions, assert, log::Log},
    call::{Call, Limits},
    engine,
    lookup::SHARED,
    notes::Notes,
    report::{HookError, run_error, with_place},
    script::{Compiled, Host, Part, Source},
    services::Services,
};
use crate::{
    event::Kind,
    json,
    root::file::{self, Stamp},
};
pub use functions::{Stage, register};
pub use sandbox::{ENDING, Suite};
use sandbox::{MAX_TEXT, Sandbox};

/// The beginning of the name of a test.
const TEST: &str = "test_";

/// The time that one test has.
const LIMITS: Limits = Limits {
    deadline: Duration::from_secs(60),
    patience: Duration::from_secs(60),
};

/// How a test ended.
pub struct Tested {
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did.
    pub failure: Option<HookError>,
    /// What the last event said, if it did not go through.
    pub note: Option<String>,
}

/// A file with tests, compiled.
pub struct TestFile {
    compiled: Arc<Compiled>,
    /// The names of its tests, in their order.
    pub tests: Vec<String>,
}

/// Runs tests of hooks.
pub struct Tester {
    engine: Engine,
    host: Host,
    stage: Stage,
    runtime: Handle,
}

impl Tester {
    /// A tester whose hooks run on that runtime.
    pub fn new(runtime: Handle) -> Self {
        let stage = Stage::default();
        Self {
            engine: engine_for(&stage),
            host: Host::with_engine(engine_for(&stage), LIMITS, Services::default()),
            stage,
            runtime,
        }
    }

    /// Compiles a file with tests; it can call the functions of the lib.rhai beside it.
    pub fn compile(&self, suite: &Suite, name: &str) -> Result<TestFile, HookError> {
        let mut parts = Vec::new();
        if let Some(shared) = suite.shared.as_ref().filter(|shared| **shared != suite.dir) {
            parts.extend(part(shared, SHARED, "scripts/lib.rhai")?);
        }
        parts.extend(part(&suite.dir, SHARED, SHARED)?);
        let own = part(&suite.dir, name, name)?;
        let text = fs::read_to_string(suite.dir.join(name)).unwrap_or_default();
        parts.extend(own);
        let compiled = self.host.compile(Source {
            name: name.to_owned(),
            key: suite.dir.join(name),
            parts,
        })?;
        let mut tests: Vec<(usize, String)> = compiled
            .ast()
            .iter_functions()
            .filter(|function| function.name.starts_with(TEST) && function.params.is_empty())
            .filter_map(|function| {
                let at = place_of(&text, function.name)?;
                Some((at, function.name.to_owned()))
            })
            .collect();
        tests.sort();
        Ok(TestFile {
            compiled,
            tests: tests.into_iter().map(|(_, name)| name).collect(),
        })
    }

    /// Runs one test in a made-up root of its own.
    ///
    /// Blocks, so it belongs on a thread that may block.
    pub fn run(&self, suite: &Suite, file: &TestFile, test: &str) -> io::Result<Tested> {
        let begun = Instant::now();
        let sandbox = Arc::new(Sandbox::new(suite, &self.runtime)?);
        self.stage.set(Some(sandbox.clone()));
        let event = sandbox.event(Kind::Startup, None, None)?;
        let log = Log::new(&event, test, Some(Notes::default()));
        let handles = Handles::new(
            &event,
            &json::Map::new(),
            &log,
            &Actions::new(&sandbox.transaction, false),
            &sandbox.services,
        );
        let mut scope = Scope::new();
        handles.enter_test(&mut scope);
        let options = CallFnOptions::new().rewind_scope(false);
        let print = log.clone();
        let print = Box::new(move |text: &str| print.info(text));
        let result = Call::watch(LIMITS, print, Box::new(|| true), || {
            let ast = file.compiled.ast();
            self.engine
                .call_fn_with_options::<Dynamic>(options, &mut scope, ast, test, ())
        });
        self.stage.set(None);
        let text_of = |function: Option<&str>| file.compiled.text_of(function);
        let late = |deadline| HookError::Deadline {
            script: test.to_owned(),
            deadline,
        };
        let failure = result.map_err(late).and_then(|result| {
            result.map_err(|e| run_error(test, text_of, LIMITS.deadline, with_place(*e)))
        });
        let failure = failure.err();
        Ok(Tested {
            took: begun.elapsed(),
            note: failure.as_ref().and_then(|_| sandbox.note()),
            failure,
        })
    }
}

/// Where a function is in a text.
fn place_of(text: &str, function: &str) -> Option<usize> {
    text.match_indices(function)
        .find(|(at, _)| {
            let before = text.get(..*at).unwrap_or_default().trim_end();
            before.ends_with("fn")
        })
        .map(|(at, _)| at)
}

/// A fence as for hooks, with more room: results of hooks are values of a test.
fn engine_for(stage: &Stage) -> Engine {
    let mut engine = engine::engine();
    engine
        .set_max_operations(10_000_000)
        .set_max_string_size(MAX_TEXT as usize)
        .set_max_array_size(65_536)
        .set_max_map_size(4_096);
    assert::register(&mut engine);
    register(&mut engine, stage);
    engine
}

/// A text of a test, if it exists.
fn part(dir: &Path, file: &str, name: &str) -> Result<Option<Part>, HookError> {
    let unreadable = |source| HookError::Unreadable {
        script: name.to_owned(),
        source,
    };
    let dir = cap_std::fs::Dir::open_ambient_dir(dir, cap_std::ambient_authority())
        .map_err(unreadable)?;
    let Some(stamp) = Stamp::of(&dir, file).map_err(unreadable)? else {
        return Ok(None);
    };
    let file = file.to_owned();
    Ok(Some(Part {
        name: name.to_owned(),
        stamp: Some(stamp),
        read: Box::new(move || file::read_text(&dir, file, engine::MAX_SOURCE)),
    }))
}
