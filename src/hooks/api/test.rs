//! What only tests of hooks have: a made-up folder, and events that happen there.

use std::sync::{Arc, Mutex, PoisonError};

use rhai::{Array, Dynamic, Engine, Map};

use super::{Function, Made, fail};
use crate::hooks::trial::{Bench, What};

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "test",
        "meta()",
        "A made-up meta: from zhenqiang to roland-frei, filename file.txt, filesize 4, sent now. Only tests of hooks have it.",
        r#"
assert_eq(meta().from, "zhenqiang");
"#,
    ),
    Function::new(
        "test",
        "meta(#{field: value})",
        "A made-up meta with these fields, and those of meta() for the rest. Only tests of hooks have it.",
        r#"
let sent = meta(#{ filename: "a.jpg", album: "sea" });
assert_eq(sent.filename, "a.jpg");
assert_eq(sent.filesize, 4);
"#,
    ),
    Function::new(
        "test",
        "file(name, text)",
        "Puts a file into the made-up folder. Only tests of hooks have it.",
        r#"
file("a.txt", "abc");
assert_eq(text("a.txt"), "abc");
"#,
    ),
    Function::new(
        "test",
        "bytes(name, numbers)",
        "Puts a file of these bytes into the made-up folder. Only tests of hooks have it.",
        r#"
bytes("a.png", [0x89, 0x50, 0x4e, 0x47]);
assert(has("a.png"));
"#,
    ),
    Function::new(
        "test",
        "has(name)",
        "Whether there is such a file in the made-up folder; has(\"archive/a.txt\") looks into another one. Only tests of hooks have it.",
        r#"
file("a.txt", "abc");
assert(has("a.txt"));
assert(!has("b.txt"));
"#,
    ),
    Function::new(
        "test",
        "text(name)",
        "The text of a file in the made-up folder, of at most 1 MiB; text(\"archive/a.txt\") looks into another one. Only tests of hooks have it.",
        r#"
file("a.txt", "abc");
assert_eq(text("a.txt"), "abc");
"#,
    ),
    Function::new(
        "test",
        "make_folder(name)",
        "Makes another m2y-folder of the same user, for folder.move_to. Only tests of hooks have it.",
        r#"
make_folder("archive");
assert(!has("archive/a.txt"));
"#,
    ),
    Function::new(
        "test",
        "config(section, key, value)",
        "Sets a value in the made-up m2y.config; with an empty value a line without =, which under an event names a script. Only tests of hooks have it.",
        r#"
config("permission", "zhenqiang", "no");
assert_eq(run("OnMeta", meta()).outcome, "refused");
"#,
    ),
    Function::new(
        "test",
        "run(event)",
        "Lets an event happen to the folder, with all scripts of its section, as OnStartup and OnSchedule do. Returns a map: outcome (accepted, refused, quarantined, failed or put off), words, error, meta, file, effects, log and inbox. Only tests of hooks have it.",
        r#"
assert_eq(run("OnStartup").outcome, "accepted");
"#,
    ),
    Function::new(
        "test",
        "run(event, what)",
        "Lets an event happen to a file: what is a meta of one that was sent, or the name of one in the folder. At OnMeta only the .meta is there, otherwise also the .data, of 4 bytes. Only tests of hooks have it.",
        r#"
let result = run("OnReceived", meta(#{ filename: "sea.jpg" }));
assert_eq(result.outcome, "accepted");
assert(result.inbox[0].contains("zhenqiang sent sea.jpg"));
file("a.txt", "abc");
assert_eq(run("OnNew", "a.txt").outcome, "accepted");
"#,
    ),
    Function::new(
        "test",
        "run(event, meta, content)",
        "Lets an event happen to a file that was sent and has this content, a text or an array of bytes; filesize is set to its length. Only tests of hooks have it.",
        r#"
let result = run("OnReceived", meta(), "what was sent");
assert_eq(text(result.file), "what was sent");
assert_eq(result.meta.filesize, 13);
"#,
    ),
    Function::new(
        "test",
        "run_script(script, event)",
        "Like run(event), with this script alone, named in m2y.config or not. Only tests of hooks have it.",
        r#"
assert_eq(run_script("resetAllFiles.rhai", "OnStartup").outcome, "accepted");
"#,
    ),
    Function::new(
        "test",
        "run_script(script, event, what)",
        "Like run(event, what), with this script alone. Only tests of hooks have it.",
        r#"
let sent = meta(#{ from: "peter-norton" });
let result = run_script("checkPermission.rhai", "OnMeta", sent);
assert_eq(result.words, "no permission");
"#,
    ),
    Function::new(
        "test",
        "run_script(script, event, meta, content)",
        "Like run(event, meta, content), with this script alone. Only tests of hooks have it.",
        r#"
let result = run_script("notifyUser.rhai", "OnReceived", meta(), [1, 2, 3]);
assert(result.log[0].contains("3 bytes"));
"#,
    ),
];

/// The made-up root of the test that runs; copies are the same place.
#[derive(Clone, Default)]
pub struct Stage(Arc<Mutex<Option<Arc<Bench>>>>);

impl Stage {
    /// Puts a made-up root there, or takes it away.
    pub fn set(&self, bench: Option<Arc<Bench>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bench;
    }

    fn bench(&self) -> Made<Arc<Bench>> {
        let bench = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bench
            .clone()
            .ok_or_else(|| fail("there is no test that runs"))
    }

    fn run(
        &self,
        script: Option<&str>,
        event: &str,
        what: Dynamic,
        content: Option<Dynamic>,
    ) -> Made<Map> {
        let call = match script {
            Some(_) => "run_script()",
            None => "run()",
        };
        let what = if what.is_unit() {
            What::Nothing
        } else if what.is_string() {
            What::File(what.into_string().unwrap_or_default())
        } else {
            let map = what.try_cast::<Map>();
            What::Sent(map.ok_or_else(|| {
                fail(format!(
                    "{call}: it takes a meta, as meta(#{{...}}) makes one, or the name of a file"
                ))
            })?)
        };
        let content = content.map(|c| content_of(call, c)).transpose()?;
        self.bench()?.run(call, script, event, what, content)
    }
}

fn content_of(call: &str, content: Dynamic) -> Made<Vec<u8>> {
    if content.is_string() {
        return Ok(content.into_string().unwrap_or_default().into_bytes());
    }
    let wrong = || {
        fail(format!(
            "{call}: the content must be text, or an array of numbers from 0 to 255"
        ))
    };
    let numbers = content.try_cast::<Array>().ok_or_else(wrong)?;
    let byte = |n: &Dynamic| n.as_int().ok().and_then(|n| u8::try_from(n).ok());
    numbers
        .iter()
        .map(byte)
        .collect::<Option<_>>()
        .ok_or_else(wrong)
}

/// Registers them: an ordinary hook does not have them.
pub fn register(engine: &mut Engine, stage: &Stage) {
    let at = || stage.clone();
    let (s, t, u, v, w) = (at(), at(), at(), at(), at());
    engine
        .register_fn("meta", move || s.bench()?.meta(Map::new()))
        .register_fn("meta", move |fields: Map| t.bench()?.meta(fields))
        .register_fn("file", move |name: &str, text: &str| {
            u.bench()?.write("file()", name, text.as_bytes())
        })
        .register_fn("bytes", move |name: &str, numbers: Array| {
            let content = content_of("bytes()", numbers.into())?;
            v.bench()?.write("bytes()", name, &content)
        })
        .register_fn("has", move |name: &str| w.bench()?.has(name));
    let (s, t, u) = (at(), at(), at());
    engine
        .register_fn("text", move |name: &str| s.bench()?.text(name))
        .register_fn("make_folder", move |name: &str| {
            t.bench()?.make_folder(name)
        })
        .register_fn("config", move |section: &str, key: &str, value: Dynamic| {
            u.bench()?.set_config(section, key, &value.to_string())
        });
    let (s, t, u) = (at(), at(), at());
    engine
        .register_fn("run", move |event: &str| {
            s.run(None, event, Dynamic::UNIT, None)
        })
        .register_fn("run", move |event: &str, what: Dynamic| {
            t.run(None, event, what, None)
        })
        .register_fn(
            "run",
            move |event: &str, what: Dynamic, content: Dynamic| {
                u.run(None, event, what, Some(content))
            },
        );
    let (s, t, u) = (at(), at(), at());
    engine
        .register_fn("run_script", move |script: &str, event: &str| {
            s.run(Some(script), event, Dynamic::UNIT, None)
        })
        .register_fn(
            "run_script",
            move |script: &str, event: &str, what: Dynamic| t.run(Some(script), event, what, None),
        )
        .register_fn(
            "run_script",
            move |script: &str, event: &str, what: Dynamic, content: Dynamic| {
                u.run(Some(script), event, what, Some(content))
            },
        );
}
