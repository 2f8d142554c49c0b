//! What only tests of hooks have: a made-up folder, and events that happen there. The
//! functions themselves are in `hooks/test_host`.

use super::function::Function;

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
        "answer(url, status, body)",
        "What http.get() and http.post() get from a server from now on: a text, or a map or an array as JSON. Only tests of hooks have it.",
        r#"
answer("https://example.org/scan", 200, #{ clean: true });
assert_eq(http.get("https://example.org/scan").json().clean, true);
"#,
    ),
    Function::new(
        "test",
        "sent(contact, bytes, days)",
        "A file of so many bytes that a contact sent so many days ago, for sender.count() and the like. Only tests of hooks have it.",
        r#"
sent("zhenqiang", 1_000, 3);
"#,
    ),
    Function::new(
        "test",
        "has(name)",
        "Whether there is such a file in the made-up folder; has(\"archive/a.txt\") looks into a directory of it, or into a different folder of that name. Only tests of hooks have it.",
        r#"
file("a.txt", "abc");
assert(has("a.txt"));
assert(!has("b.txt"));
"#,
    ),
    Function::new(
        "test",
        "text(name)",
        "The text of a file in the made-up folder, of at most 1 MiB; text(\"archive/a.txt\") looks into a directory of it, or into a different folder of that name. Only tests of hooks have it.",
        r#"
file("a.txt", "abc");
assert_eq(text("a.txt"), "abc");
"#,
    ),
    Function::new(
        "test",
        "make_folder(name)",
        "Creates a second m2y-folder of the same user, for folder.move_to. Only tests of hooks have it.",
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
