//! What only tests of hooks have: a made-up folder, and events that happen there. The
//! functions themselves are in `hooks/test_host`.

use super::function::Function;

pub(super) const FUNCTIONS: &[Function] = &[
    Function::new(
        "test",
        "meta()",
        "A made-up meta: from zhenqiang to roland-frei, filename file.txt, filesize 4, sent now. Available only in tests of hooks.",
        r#"
assert_eq(meta().from, "zhenqiang");
"#,
    ),
    Function::new(
        "test",
        "meta(#{field: value})",
        "A made-up meta with these fields, and those of meta() for the rest. Available only in tests of hooks.",
        r#"
let sent = meta(#{ filename: "a.jpg", album: "sea" });
assert_eq(sent.filename, "a.jpg");
assert_eq(sent.filesize, 4);
"#,
    ),
    Function::new(
        "test",
        "file(name, text)",
        "Puts a file into the made-up folder. Available only in tests of hooks.",
        r#"
file("a.txt", "abc");
assert_eq(text("a.txt"), "abc");
"#,
    ),
    Function::new(
        "test",
        "bytes(name, numbers)",
        "Puts a file with these bytes into the made-up folder. Available only in tests of hooks.",
        r#"
bytes("a.png", [0x89, 0x50, 0x4e, 0x47]);
assert(has("a.png"));
"#,
    ),
    Function::new(
        "test",
        "answer(url, status, body)",
        "Sets what http.get() and http.post() get from a server from now on: a text, or a map or an array as JSON. Available only in tests of hooks.",
        r#"
answer("https://example.org/scan", 200, #{ clean: true });
assert_eq(http.get("https://example.org/scan").json().clean, true);
"#,
    ),
    Function::new(
        "test",
        "sent(contact, bytes, days)",
        "Records a file of that many bytes that a contact sent that many days ago, for sender.count() and the like. Available only in tests of hooks.",
        r#"
sent("zhenqiang", 1_000, 3);
"#,
    ),
    Function::new(
        "test",
        "has(name)",
        "Whether there is such a file in the made-up folder; has(\"archive/a.txt\") looks into a directory of it, or into a different folder of that name. Available only in tests of hooks.",
        r#"
file("a.txt", "abc");
assert(has("a.txt"));
assert(!has("b.txt"));
"#,
    ),
    Function::new(
        "test",
        "text(name)",
        "The text of a file in the made-up folder, of at most 1 MiB; text(\"archive/a.txt\") looks into a directory of it, or into a different folder of that name. Available only in tests of hooks.",
        r#"
file("a.txt", "abc");
assert_eq(text("a.txt"), "abc");
"#,
    ),
    Function::new(
        "test",
        "make_folder(name)",
        "Creates a second m2y-folder of the same user, for folder.move_to. Available only in tests of hooks.",
        r#"
make_folder("archive");
assert(!has("archive/a.txt"));
"#,
    ),
    Function::new(
        "test",
        "config(section, key, value)",
        "Sets a value in the made-up m2y.config; an empty value makes it a line without =, which names a script if it is under an event. Available only in tests of hooks.",
        r#"
config("permission", "zhenqiang", "no");
assert_eq(run("OnMeta", meta()).outcome, "refused");
"#,
    ),
    Function::new(
        "test",
        "run(event)",
        "Fires an event for the folder itself, like OnStartup, OnSchedule or OnStore, with all scripts of its section. Returns a map: outcome (accepted, refused, quarantined, failed or put off), words, error, meta, file, effects, log and inbox. Available only in tests of hooks.",
        r#"
assert_eq(run("OnStartup").outcome, "accepted");
"#,
    ),
    Function::new(
        "test",
        "run(event, what)",
        "Fires an event for a file: what is the meta of one that was sent, or the name of one in the folder; at OnStore it is lost, back or damage. At OnMeta only the .meta is there, otherwise also the .data, of 4 bytes. Available only in tests of hooks.",
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
        "Fires an event for a file that was sent and has this content, a text or an array of bytes; filesize is set to its length. Available only in tests of hooks.",
        r#"
let result = run("OnReceived", meta(), "what was sent");
assert_eq(text(result.file), "what was sent");
assert_eq(result.meta.filesize, 13);
"#,
    ),
    Function::new(
        "test",
        "run_script(script, event)",
        "Like run(event), but with this script alone, whether or not m2y.config names it. Available only in tests of hooks.",
        r#"
assert_eq(run_script("resetAllFiles.rhai", "OnStartup").outcome, "accepted");
"#,
    ),
    Function::new(
        "test",
        "run_script(script, event, what)",
        "Like run(event, what), but with this script alone. Available only in tests of hooks.",
        r#"
let sent = meta(#{ from: "peter-norton" });
let result = run_script("checkPermission.rhai", "OnMeta", sent);
assert_eq(result.words, "no permission");
"#,
    ),
    Function::new(
        "test",
        "run_script(script, event, meta, content)",
        "Like run(event, meta, content), but with this script alone. Available only in tests of hooks.",
        r#"
let result = run_script("notifyUser.rhai", "OnReceived", meta(), [1, 2, 3]);
assert(result.log[0].contains("3 bytes"));
"#,
    ),
];
