//! What scripts can call does what it says, and leads nowhere else.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use common::{OPEN, ROLAND, World, ZHENQIANG, samples};
use m2y::{
    delivery::http::{Answered, Asked},
    event::{Effect, Event, EventId, Kind, Subject},
    hooks::{
        Limits,
        api::{
            self,
            actions::{Touch, Touched},
            decision::Decision,
            http::Web,
            state::{MAX_KEYS, MemoryState, State},
        },
        decide::Unrecorded,
        inbox::Inboxes,
        notes::{Mode, Notes},
        redo::Changer,
        report::HookError,
        script::{Host, Part, Ran, Source},
        self_changes::SelfChanges,
        services::Services,
        transaction::Transaction,
    },
    journal::script_state::Edits,
    json::Map,
    meta::Meta,
    root::name::Name,
    store::Stores,
};

const STEM: &str = "zhenqiang_30-12-2018_23-59-59";

/// Long, because the machine that runs the tests may be busy.
const LONG: Duration = Duration::from_secs(20);

/// A folder with a file that has come, one to be sent and one of neither kind; and
/// another folder.
struct Desk {
    world: World,
    host: Host,
    services: Services,
    state: Arc<MemoryState>,
}

/// What a script did.
struct Done {
    ran: Ran,
    effects: Vec<Effect>,
    spared: Vec<String>,
}

impl std::ops::Deref for Done {
    type Target = Ran;

    fn deref(&self) -> &Ran {
        &self.ran
    }
}

fn limits(deadline: Duration) -> Limits {
    Limits {
        deadline,
        patience: deadline,
    }
}

/// The one server that there is answers everything in the same way.
struct Calendar;

impl Web for Calendar {
    fn ask(&self, asked: &Asked, _: Duration) -> Result<Answered, String> {
        match asked.url.starts_with("https://example.org/") {
            true => Ok(Answered {
                status: 200,
                media_type: "application/json".to_owned(),
                body: r#"{"closed": false, "days": ["2026-12-25", "2026-12-26"]}"#.into(),
            }),
            false => Err("there is no such server".to_owned()),
        }
    }
}

impl Desk {
    fn new() -> Self {
        Self::with_deadline(LONG)
    }

    fn with_deadline(deadline: Duration) -> Self {
        let world = World::new(&format!("{OPEN}[permission]\nzhenqiang = always\n"));
        world.folder("archive", OPEN);
        let at = world.photo();
        fs::write(at.join("abc.txt"), "abc").unwrap();
        fs::write(at.join("myfoto.jpg"), samples::photo()).unwrap();
        fs::write(at.join("papers.zip"), samples::papers()).unwrap();
        let mine = common::document(ROLAND, ZHENQIANG, "photo");
        fs::write(at.join("myfoto.meta"), mine.to_file()).unwrap();
        fs::write(at.join(format!("{STEM}.data")), "what was sent").unwrap();
        fs::write(at.join(format!("{STEM}.meta")), sent().to_file()).unwrap();
        let state = Arc::new(MemoryState::default());
        let services = Services::new(state.clone()).with_web(Arc::new(Calendar));
        Self {
            world,
            host: Host::for_tests(limits(deadline), services.clone()),
            services,
            state,
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.world.photo().join(file)
    }

    fn there(&self, file: &str) -> bool {
        self.path(file).symlink_metadata().is_ok()
    }

    fn archived(&self, file: &str) -> bool {
        self.world
            .receiver
            .path()
            .join("archive")
            .join(file)
            .exists()
    }

    fn event(&self) -> Event {
        let folder = self.world.receiver.folder(&Name::folder("photo").unwrap());
        let folder = folder.unwrap();
        Event {
            id: EventId([7; 16]),
            kind: Kind::Received,
            config: folder.config().unwrap(),
            folder,
            file: Some(format!("{STEM}.data")),
            subject: Some(Subject {
                meta: sent(),
                stem: STEM.to_owned(),
            }),
            asked: None,
            store: None,
        }
    }

    fn run_as(&self, text: &str, live: bool) -> Result<Done, HookError> {
        let text = text.to_owned();
        let source = Source {
            name: "hook.rhai".to_owned(),
            key: PathBuf::from(&text),
            parts: vec![Part {
                name: "hook.rhai".to_owned(),
                stamp: None,
                read: Box::new(|| Ok(text)),
            }],
        };
        let compiled = self.host.compiled(source)?;
        let mut profile = Map::new();
        profile.insert("email".to_owned(), "roland@example.org".into());
        let event = self.event();
        let (user, stores) = (event.folder.user(), Stores::default());
        let transaction = Transaction::new(user, &stores);
        let notes = Notes::default();
        let mode = Mode {
            live,
            notes: Some(notes.clone()),
            ..Mode::LIVE
        };
        let about = (&event, &profile);
        let ran = self
            .host
            .run("hook.rhai", &compiled, about, &transaction, &mode, || true)?;
        let changes = transaction.take().unwrap();
        if live {
            let self_changes = SelfChanges::new(Duration::ZERO, &Stores::default());
            let changer = Changer::new(&stores, &Inboxes::new(1 << 20), &self_changes);
            let state: Arc<dyn State> = self.state.clone();
            let unrecorded = Unrecorded::new(&state, &changer);
            unrecorded.make(user, &changes).unwrap();
        }
        Ok(Done {
            ran,
            effects: changes.effects,
            spared: notes.take().spared,
        })
    }

    #[track_caller]
    fn run(&self, text: &str) -> Done {
        match self.run_as(text, true) {
            Ok(ran) => ran,
            Err(error) => panic!("{error}\n{text}"),
        }
    }

    /// The script fails, and its error says so.
    #[track_caller]
    fn fails(&self, text: &str, words: &str) {
        match self.run_as(text, true) {
            Ok(_) => panic!("it went through: {text}"),
            Err(error) => assert!(error.to_string().contains(words), "{text}: {error}"),
        }
    }
}

fn sent() -> Meta {
    let mut meta = common::document(ZHENQIANG, ROLAND, "photo");
    meta.filename = "sea.jpg".to_owned();
    meta.datetime = "30-12-2018_23-59-59".to_owned();
    meta.filesize = Some(13);
    meta
}

fn pipe(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR).unwrap();
}

#[test]
fn every_example_of_the_api_runs() {
    let mut count = 0;
    // Those of tests of hooks run where those have their functions: see hook_command.rs.
    for function in api::functions().filter(|f| f.subject != "test") {
        let desk = Desk::new();
        if let Err(error) = desk.run_as(function.example, true) {
            panic!("{}: {error}\n{}", function.signature, function.example);
        }
        count += 1;
    }
    assert!(count > 40);
}

#[test]
fn every_example_runs_dry_too_unless_it_looks_at_what_it_did() {
    for function in api::functions() {
        let desk = Desk::new();
        let before = listing(&desk.world);
        let _ = desk.run_as(function.example, false);
        assert_eq!(listing(&desk.world), before, "{}", function.signature);
    }
}

fn listing(world: &World) -> Vec<(String, u64)> {
    fn walk(dir: &Path, all: &mut Vec<(String, u64)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let about = entry.metadata().unwrap();
            if about.is_dir() {
                walk(&entry.path(), all);
            } else {
                all.push((entry.path().display().to_string(), about.len()));
            }
        }
    }
    let mut all = Vec::new();
    walk(&world.receiver.path(), &mut all);
    all.sort();
    all
}

#[test]
fn an_assertion_that_does_not_hold_says_what_it_saw() {
    let desk = Desk::new();
    desk.fails(
        "assert(1 == 2);",
        "hook.rhai:1:1: assert(): it does not hold",
    );
    desk.fails("assert(false, \"too few\");", "assert(): too few");
    desk.fails("assert_eq(1, \"1\");", "assert_eq(): 1 is not \"1\"");
    desk.fails("assert_eq([1, #{a: 1}], [1, #{a: 2}]);", "is not");
    desk.fails("assert_eq(1, 1.0);", "is not");
    desk.run("assert_eq([1, #{a: ()}], [1, #{a: ()}]);");
}

#[test]
fn an_ordinary_hook_has_no_assert() {
    let mut desk = Desk::new();
    desk.host = Host::new(limits(LONG), desk.services.clone());
    desk.fails("assert(true);", "Function not found: assert");
}

#[test]
fn only_files_that_a_contact_sent_have_tags_and_few_and_small_ones() {
    let desk = Desk::new();
    desk.fails(
        "folder.set_tag(\"abc.txt\", \"a\", 1);",
        "only files that a contact sent",
    );
    desk.fails(
        "folder.set_tag(\"myfoto.jpg\", \"a\", 1);",
        "only files that a contact sent",
    );
    desk.fails("folder.set_tag(event.data_file, \"\", 1);", "1 to 64 bytes");
    desk.fails(
        "folder.set_tag(event.data_file, \"a\\nb\", 1);",
        "1 to 64 bytes",
    );
    desk.fails(
        "let s = \"\"; s.pad(1_100, 'x'); folder.set_tag(event.data_file, \"a\", s);",
        "may have 1024",
    );
    desk.fails(
        "for n in 0..40 { folder.set_tag(event.data_file, `t${n}`, n); }",
        "may have 32 tags",
    );
    desk.run(
        "folder.set_tag(event.data_file, \"a\", [1, #{ b: true }]);
         assert_eq(folder.tags(event.data_file), #{ a: [1, #{ b: true }] });
         folder.set_tag(event.data_file, \"a\", ());
         assert_eq(folder.tags(event.data_file), #{});
         assert_eq(meta.tags, ());",
    );
}

/// Every function that takes the name of a file, with `NAME` in its place.
const NAMED: &[&str] = &[
    "folder.exists(NAME)",
    "folder.size(NAME)",
    "folder.modified(NAME)",
    "folder.rename(NAME, \"new.jpg\")",
    "folder.rename(\"abc.txt\", NAME)",
    "folder.move_to(NAME, \"archive\")",
    "folder.remove(NAME)",
    "folder.head(NAME, 4)",
    "folder.starts_with(NAME, [1])",
    "folder.read(NAME)",
    "folder.write(NAME, \"x\")",
    "file.kind(NAME)",
    "file.image(NAME)",
    "file.zip(NAME)",
    "hash.sha256(NAME)",
    "hash.crc32(NAME)",
    "folder.tags(NAME)",
    "folder.set_tag(NAME, \"a\", 1)",
    "send(#{to: \"zhenqiang\", folder: \"photo\", file: NAME})",
];

#[test]
fn a_name_that_leads_elsewhere_is_refused_by_every_function() {
    let desk = Desk::new();
    let before = listing(&desk.world);
    let long = "x".repeat(300);
    for name in [
        "../user.json",
        "../privateKey/roland-frei.data",
        "a//b",
        "a/",
        "a/../b",
        "a/./b",
        "a/.hidden/b",
        "/etc/passwd",
        "",
        ".",
        "..",
        ".hidden",
        ".quarantine",
        "a\\x00b",
        &long,
    ] {
        for call in NAMED {
            let script = call.replace("NAME", &format!("\"{name}\"")) + ";";
            let is_bad = |part: &&str| part.is_empty() || part.starts_with('.');
            let words = match name.split('/').find(is_bad) {
                Some(part) if !["", ".", ".."].contains(&part) => "is hidden",
                _ => "cannot be a ",
            };
            desk.fails(&script, words);
        }
    }
    assert_eq!(listing(&desk.world), before);
}

#[test]
fn no_function_follows_a_link_or_waits_for_a_pipe() {
    let desk = Desk::new();
    let root = desk.world.there.path().to_owned();
    fs::write(root.join("outside.txt"), "outside").unwrap();
    for (name, target) in [
        ("out.txt", "../../../outside.txt"),
        ("passwd.txt", "/etc/passwd"),
        ("key.txt", "../privateKey/roland-frei.data"),
        ("other.txt", "abc.txt"),
        ("loop.txt", "loop.txt"),
    ] {
        symlink(target, desk.path(name)).unwrap();
    }
    pipe(&desk.path("pipe.txt"));
    fs::create_dir(desk.path("dir.txt")).unwrap();
    let begun = Instant::now();
    for name in [
        "out.txt",
        "passwd.txt",
        "key.txt",
        "other.txt",
        "loop.txt",
        "pipe.txt",
        "dir.txt",
    ] {
        for call in NAMED {
            let script = call.replace("NAME", &format!("\"{name}\""));
            if call.starts_with("folder.exists") {
                desk.run(&format!("assert(!{script});"));
                continue;
            }
            let words = match *call {
                "folder.rename(\"abc.txt\", NAME)" => "is there already",
                _ => "is not a regular file",
            };
            desk.fails(&(script + ";"), words);
        }
        desk.run(&format!("assert(folder.list(\"{name}\").is_empty());"));
    }
    assert!(begun.elapsed() < LONG);
    assert_eq!(
        fs::read_to_string(root.join("outside.txt")).unwrap(),
        "outside"
    );
    assert!(desk.there("abc.txt"));
}

#[test]
fn a_script_changes_no_script_no_program_and_no_config() {
    let desk = Desk::new();
    desk.world.script("other.rhai", "");
    desk.world.script("scan.sh", "#!/bin/sh\n");
    desk.world.script(
        "m2y.config",
        "[OnMeta]\nscan.sh\n[OnReceived]\nnotThere.py\n",
    );
    let before = listing(&desk.world);
    for name in [
        "m2y.config",
        "M2Y.CONFIG",
        "other.rhai",
        "new.RHAI",
        "scan.sh",
        "notThere.py",
    ] {
        for call in [
            "folder.rename(NAME, \"new.jpg\")",
            "folder.rename(\"abc.txt\", NAME)",
            "folder.move_to(NAME, \"archive\")",
            "folder.remove(NAME)",
            "folder.write(NAME, \"x\")",
        ] {
            let script = call.replace("NAME", &format!("\"{name}\"")) + ";";
            desk.fails(&script, "cannot be changed by a script");
        }
    }
    assert_eq!(listing(&desk.world), before);
    // Nor one of another folder.
    let archive = desk.world.receiver.path().join("archive/m2y.config");
    fs::write(archive, "[OnMeta]\nabc.txt\n").unwrap();
    desk.fails("folder.move_to(\"abc.txt\", \"archive\");", "is a hook");
    // What they are can be read.
    desk.run("assert(folder.read(\"m2y.config\").contains(\"scan.sh\"));");
}

#[test]
fn a_script_makes_no_meta_that_would_send_a_file() {
    let desk = Desk::new();
    for name in ["x.meta", "x.META", "x.failed", "x.done", "x.data"] {
        desk.fails(
            &format!("folder.write(\"{name}\", \"x\");"),
            "reserved by m2y",
        );
        desk.fails(
            &format!("folder.rename(\"abc.txt\", \"{name}\");"),
            "reserved by m2y",
        );
    }
    desk.fails(
        "folder.rename(\"abc.txt\", \"a\\nb\");",
        "control characters",
    );
    // With the ending that it has, a file may be renamed.
    desk.run("folder.rename(event.data_file, \"x.data\");");
    assert!(desk.there("x.data") && desk.there("x.meta"));
}

#[test]
fn a_rename_takes_the_meta_along_and_never_overwrites() {
    let desk = Desk::new();
    let (data, meta) = (format!("{STEM}.data"), format!("{STEM}.meta"));
    fs::write(desk.path("taken.meta"), "mine").unwrap();
    desk.fails(
        "folder.rename(event.data_file, \"abc.txt\");",
        "\"abc.txt\" is there already",
    );
    desk.fails(
        "folder.rename(event.data_file, \"taken.jpg\");",
        "\"taken.meta\" is there already",
    );
    desk.fails(
        "folder.rename(\"abc.txt\", \"abc.txt\");",
        "is there already",
    );
    desk.fails("folder.rename(\"none.txt\", \"b.txt\");", "is not there");
    assert!(desk.there(&data) && desk.there(&meta));
    assert_eq!(fs::read_to_string(desk.path("abc.txt")).unwrap(), "abc");
    assert_eq!(fs::read_to_string(desk.path("taken.meta")).unwrap(), "mine");

    let ran = desk.run("folder.rename(event.data_file, \"sea.jpg\");");
    assert!(desk.there("sea.jpg") && desk.there("sea.meta"));
    assert!(!desk.there(&data) && !desk.there(&meta));
    let renamed = |from: &str, to: &str| Touched {
        folder: common::name("photo"),
        name: from.to_owned(),
        how: Touch::Renamed {
            folder: common::name("photo"),
            name: to.to_owned(),
        },
    };
    assert_eq!(
        ran.touched,
        [renamed(&data, "sea.jpg"), renamed(&meta, "sea.meta")]
    );
    // It is still the .meta of a file that came.
    desk.run("folder.rename(\"sea.jpg\", \"lake.jpg\");");
    assert!(desk.there("lake.meta") && !desk.there("sea.meta"));
}

#[test]
fn the_meta_of_a_file_to_be_sent_stays_when_the_file_goes() {
    let desk = Desk::new();
    desk.run("folder.rename(\"myfoto.jpg\", \"b.jpg\");");
    assert!(desk.there("myfoto.meta") && !desk.there("b.meta"));
    fs::rename(desk.path("b.jpg"), desk.path("myfoto.jpg")).unwrap();
    desk.run("folder.remove(\"myfoto.jpg\");");
    assert!(desk.there("myfoto.meta"));
}

#[test]
fn a_file_moves_to_another_folder_of_the_user_with_its_meta() {
    let desk = Desk::new();
    let (data, meta) = (format!("{STEM}.data"), format!("{STEM}.meta"));
    for other in ["nowhere", "privateKey", "../archive", "photo/x", ""] {
        let script = format!("folder.move_to(event.data_file, \"{other}\");");
        desk.fails(&script, "folder.move_to(): ");
    }
    desk.fails(
        "folder.move_to(event.data_file, \"photo\");",
        "is there already",
    );
    let archive = desk.world.receiver.path().join("archive");
    fs::write(archive.join(&meta), "another").unwrap();
    desk.fails(
        "folder.move_to(event.data_file, \"archive\");",
        "is there already",
    );
    assert!(desk.there(&data) && desk.there(&meta) && !desk.archived(&data));
    fs::remove_file(archive.join(&meta)).unwrap();

    let ran = desk.run("folder.move_to(event.data_file, \"archive\");");
    assert!(desk.archived(&data) && desk.archived(&meta));
    assert!(!desk.there(&data) && !desk.there(&meta));
    assert_eq!(ran.touched.len(), 2);
    assert_eq!(
        ran.touched[0].how,
        Touch::Renamed {
            folder: common::name("archive"),
            name: data
        }
    );
}

#[test]
fn what_is_removed_or_written_is_told_to_the_host() {
    let desk = Desk::new();
    let ran = desk.run(
        "folder.write(\"a.txt\", \"1\"); folder.write(\"a.txt\", \"2\"); folder.remove(\"a.txt\");",
    );
    let how: Vec<_> = ran.touched.iter().map(|touched| &touched.how).collect();
    assert_eq!(how, [&Touch::Written, &Touch::Written, &Touch::Removed]);
    let ran = desk.run("folder.remove(event.data_file);");
    assert_eq!(ran.touched.len(), 2);
    assert!(!desk.there(&format!("{STEM}.meta")));
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_it_would_have_done() {
    let desk = Desk::new();
    let before = listing(&desk.world);
    let script = r#"
        folder.rename(event.data_file, "sea.jpg");
        folder.move_to("abc.txt", "archive");
        folder.write("new.txt", "x");
        folder.remove("new.txt");
        notify.inbox("x");
        state.set("k", 1);
        assert_eq!(state.add("n", 2), 2);
        assert(state.remove("k"));
    "#
    .replace("assert_eq!", "assert_eq");
    let ran = desk.run_as(&script, false).unwrap();
    assert_eq!(listing(&desk.world), before);
    assert_eq!(ran.spared.len(), 8, "{:?}", ran.spared);
    assert_eq!(ran.spared[1], "folder.move_to(\"abc.txt\", \"archive\")");
    let (user, folder) = (common::name(ROLAND), common::name("photo"));
    assert_eq!(desk.state.get(&user, &folder, "k").unwrap(), None);
    assert_eq!(desk.state.get(&user, &folder, "n").unwrap(), None);
}

#[test]
fn a_list_is_sorted_and_holds_only_what_a_person_sees() {
    let desk = Desk::new();
    fs::write(desk.path(".hidden"), "").unwrap();
    desk.run(&format!(
        "assert_eq(folder.list().to_array(), [\"abc.txt\", \"m2y.config\", \"myfoto.jpg\", \"myfoto.meta\", \
         \"papers.zip\", \"{STEM}.data\", \"{STEM}.meta\"]);"
    ));
    desk.run("assert_eq(folder.list(\"*.?p?\").to_array(), [\"myfoto.jpg\"]);");
}

#[test]
fn a_list_of_5000_files_says_how_many_and_a_pattern_helps() {
    let desk = Desk::new();
    for n in 0..5_000 {
        File::create(desk.path(&format!("{n:04}.long"))).unwrap();
    }
    desk.fails("folder.list();", "there are 5007 files, more than 1000");
    desk.run("assert_eq(folder.list(\"0*.long\").len(), 1000);");
    desk.run(
        "let n = 0; for name in folder.list(\"0*.long\") { n += name.len(); } assert_eq(n, 9000);",
    );
    desk.run(
        "let l = folder.list(\"0*.long\"); assert(\"0007.long\" in l && l[7] == \"0007.long\");",
    );
    desk.fails("folder.list(\"0*.long\")[1000];", "there are 1000");
    desk.fails("folder.list(\"0*.long\")[-1];", "from 0 on");
    desk.fails("folder.list(\"0*.long\").to_array();", "too large");
    desk.run("assert(folder.bytes() > 0);");
}

#[test]
fn old_files_are_listed_by_a_pattern_a_thousand_at_a_time() {
    let desk = Desk::new();
    let old = SystemTime::now() - Duration::from_secs(3 * 86_400);
    for n in 0..1_200 {
        let file = File::create(desk.path(&format!("{n}.tmp"))).unwrap();
        file.set_modified(old).unwrap();
    }
    File::create(desk.path("young.tmp")).unwrap();
    desk.run(
        r#"
        let day = 86_400;
        assert_eq(folder.older("*.tmp", 4 * day).len(), 0);
        assert_eq(folder.older("11?.tmp", 2 * day).len(), 10);
        let old = folder.older("*.tmp", 2 * day);
        assert_eq(old.len(), 1000);
        assert(!("young.tmp" in old));
        for name in old { assert(name in old); }
        "#,
    );
    desk.fails("folder.older(\"*\", -1);", "must not be below 0");
    // Longer ago than there is time.
    desk.run("assert_eq(folder.older(\"*\", 9_223_372_036_854_775_807).len(), 0);");
}

#[test]
fn a_number_of_m2y_config_is_one_or_the_script_fails_in_words() {
    let desk = Desk::new();
    let config = "[OnMeta]\n[n]\na = 20\nb = 2K\nki = 2 Ki\ng = 3gi\nc = many\nd\ne = -3\n";
    fs::write(desk.path("m2y.config"), config).unwrap();
    desk.run(
        r#"
        assert_eq(config.number("n", "a", 1), 20);
        assert_eq(config.number("n", "b", 1), 2000);
        assert_eq(config.number("n", "ki"), 2048);
        assert_eq(config.number("n", "g", 1), 3 * 1024 * 1024 * 1024);
        assert_eq(config.number("n", "nothing"), ());
        assert_eq(config.number("n", "e", 1), -3);
        assert_eq(config.number("n", "nothing", 1), 1);
        assert_eq(config.get("n", "nothing", "x"), "x");
        assert_eq(config.get("n", "c", "x"), "many");
        "#,
    );
    for key in ["c", "d"] {
        let words = format!("see {key} under [n] in m2y.config");
        desk.fails(&format!("config.number(\"n\", \"{key}\", 1);"), &words);
    }
}

#[test]
fn keys_are_listed_by_a_pattern() {
    let desk = Desk::new();
    desk.run(
        r#"
        assert(state.keys("*").is_empty());
        for key in ["b 2", "b 1", "a 1"] { state.set(key, 1); }
        assert_eq(state.keys("b *").to_array(), ["b 1", "b 2"]);
        assert("a 1" in state.keys("* 1"));
        for key in state.keys("*") { state.remove(key); }
        assert(state.keys("*").is_empty());
        "#,
    );
    desk.fails("let x = \"\"; x.pad(129, '*'); state.keys(x);", "longer");
}

#[test]
fn fields_go_along_with_what_is_sent() {
    let desk = Desk::new();
    let ran = desk.run(
        "send(#{to: \"zhenqiang\", folder: \"photo\", file: \"abc.txt\", fields: #{via: [\"x\"]}});",
    );
    let effect = &ran.effects[0];
    let again = Effect::from_document(effect.kind(), &effect.to_document());
    assert_eq!(again.as_ref(), Some(effect));
    assert!(
        effect.to_string().contains("fields: #{\"via\":[\"x\"]}"),
        "{effect}"
    );
}

#[test]
fn a_sender_of_too_many_files_is_counted_no_more() {
    let desk = Desk::new();
    desk.run("assert_eq(folder.bytes_from(\"zhenqiang\"), 13);");
    // Neither a broken .meta nor a missing one counts.
    fs::write(desk.path("a.data"), "aaa").unwrap();
    fs::write(desk.path("b.data"), "bbb").unwrap();
    fs::write(desk.path("b.meta"), "{").unwrap();
    desk.run("assert_eq(folder.bytes_from(\"zhenqiang\"), 13);");
    for n in 0..5_000 {
        File::create(desk.path(&format!("{n}.data"))).unwrap();
    }
    desk.fails("folder.bytes_from(\"zhenqiang\");", "more than 5000 files");
}

#[test]
fn the_deadline_stops_a_hash_and_no_catch_catches_it() {
    let desk = Desk::with_deadline(Duration::from_millis(100));
    let file = File::create(desk.path("sparse.bin")).unwrap();
    // So large that no machine reads it in time.
    file.set_len(1 << 40).unwrap();
    for call in ["hash.sha256", "hash.crc32"] {
        let begun = Instant::now();
        let script = format!("try {{ {call}(\"sparse.bin\"); }} catch {{ }} 1");
        let error = desk.run_as(&script, true).map(|_| ()).unwrap_err();
        assert!(matches!(error, HookError::Deadline { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn only_a_small_text_is_read() {
    let desk = Desk::new();
    fs::write(desk.path("small"), "x".repeat(4_096)).unwrap();
    fs::write(desk.path("large"), "x".repeat(4_097)).unwrap();
    fs::write(desk.path("binary"), b"\xff\xfe").unwrap();
    desk.run("assert_eq(folder.read(\"small\").len(), 4096);");
    desk.fails("folder.read(\"large\");", "larger than 4096 bytes");
    desk.fails("folder.read(\"binary\");", "not UTF-8");
    desk.run("assert_eq(folder.head(\"large\", 512).len(), 512);");
    desk.run("assert_eq(folder.head(\"abc.txt\", 512).len(), 3);");
    for call in [
        "folder.head(\"large\", 513)",
        "folder.head(\"large\", -1)",
        "folder.starts_with(\"large\", [256])",
        "folder.starts_with(\"large\", [-1])",
        "folder.starts_with(\"large\", [\"x\"])",
    ] {
        desk.fails(&format!("{call};"), "must be");
    }
    desk.run("assert(!folder.starts_with(\"abc.txt\", [97, 98, 99, 100]));");
}

#[test]
fn what_is_to_be_sent_is_checked_and_waits_for_the_verdict() {
    let desk = Desk::new();
    let ran = desk.run(
        r#"
        notify.email(user.email, "a subject", "text\nof two lines");
        notify.webhook("https://example.org/x", #{ n: 1, list: ["a"] });
        send(#{ to: "zhenqiang", folder: "photo", file: "abc.txt" });
        "#,
    );
    assert_eq!(ran.effects.len(), 3);
    assert!(matches!(&ran.effects[0], Effect::Email { to, .. } if to == "roland@example.org"));
    assert!(matches!(&ran.effects[1], Effect::Webhook { body, .. } if body["n"] == 1));
    assert!(matches!(&ran.effects[2], Effect::Send { file, .. } if file == "abc.txt"));
    for (script, words) in [
        (
            "notify.email(\"nobody\", \"s\", \"t\");",
            "is not an address",
        ),
        (
            "notify.email(\"a@b\\r\\nBcc: c@d\", \"s\", \"t\");",
            "is not an address",
        ),
        (
            "notify.email(\"a@b\", \"s\\nBcc: c@d\", \"t\");",
            "one line",
        ),
        ("notify.webhook(\"file:///etc/passwd\", #{});", "https://"),
        ("notify.webhook(\"http://me:pw@a/\", #{});", "password"),
        (
            "notify.webhook(\"http://a/\", #{x: 1.5});",
            "not a whole number",
        ),
        (
            "let x = \"\"; x.pad(4000, \"\\x01\"); notify.webhook(\"http://a/\", #{a: x});",
            "16384",
        ),
        (
            "send(#{to: \"nobody\", folder: \"photo\", file: \"abc.txt\"});",
            "no contact nobody",
        ),
        (
            "send(#{to: \"../x\", folder: \"photo\", file: \"abc.txt\"});",
            "cannot be a name",
        ),
        (
            "send(#{to: \"zhenqiang\", folder: \"pubKey\", file: \"abc.txt\"});",
            "holds the keys",
        ),
        (
            "send(#{to: \"zhenqiang\", folder: \"photo\", file: \"none\"});",
            "is not there",
        ),
        (
            "send(#{to: \"zhenqiang\", folder: \"photo\"});",
            "file must be text",
        ),
        (
            "send(#{to: \"zhenqiang\", folder: \"photo\", file: \"abc.txt\", x: 1});",
            "no field \"x\"",
        ),
        (
            "send(#{to: \"zhenqiang\", folder: \"photo\", file: \"abc.txt\", fields: 1});",
            "must be a map",
        ),
        (
            "send(#{to: \"zhenqiang\", folder: \"photo\", file: \"abc.txt\", fields: #{from: 1}});",
            "\"from\" is a field of m2y's own",
        ),
        (
            "let x = \"\"; x.pad(1000, \"\\x01\"); send(#{to: \"zhenqiang\", folder: \"photo\", \
             file: \"abc.txt\", fields: #{x: x}});",
            "4096 bytes",
        ),
        (
            "for n in 0..33 { notify.email(\"a@b\", \"s\", \"t\"); }",
            "at most 32",
        ),
    ] {
        desk.fails(script, words);
    }
}

#[test]
fn a_run_has_one_moment_however_long_it_takes() {
    let desk = Desk::new();
    desk.run(
        r#"
        let now = time.now();
        for n in 0..10000 { assert_eq(time.now(), now); }
        assert_eq(time.format(now, "%Y-%m-%d %H:%M:%S"), time.date() + " " + time.clock());
        assert_eq(time.parse(time.format(now, "%d-%m-%Y_%H-%M-%S")), now);
        "#,
    );
    for (script, words) in [
        (
            "time.format(9223372036854775807, \"%Y\");",
            "time.format(): ",
        ),
        (
            "time.format(-9223372036854775807, \"%Y\");",
            "time.format(): ",
        ),
        ("time.format(0, \"%\");", "time.format(): "),
        ("time.format(0, \"%Q%!\");", "time.format(): "),
        (
            "let f = \"\"; f.pad(65, \"x\"); time.format(0, f);",
            "may have 64 bytes",
        ),
        ("time.parse(\"2018-12-30\");", "is not a time"),
        ("time.parse(\"31-02-2018_00-00-00\");", "is not a time"),
        ("time.parse(\"\");", "is not a time"),
    ] {
        desk.fails(script, words);
    }
    desk.run("assert_eq(time.format(-1, \"%Y\"), \"1969\");");
    desk.run("let f = \"%255d%255d%255d%255d%255d%255d\"; assert(time.format(0, f).len() < 2000);");
}

#[test]
fn texts_are_cut_and_filled_as_hooks_need_it() {
    let desk = Desk::new();
    desk.run(
        r#"
        assert_eq(text.pad_left(-7, 4), "-007");
        assert_eq(text.pad_left(-9223372036854775807 - 1, 0), "-9223372036854775808");
        assert_eq(text.pad_left(1234, 2), "1234");
        assert_eq(text.pad_left("ü", 3), "  ü");
        assert_eq(text.lines(""), []);
        assert_eq(text.stem(".bashrc"), ".bashrc");
        assert_eq(text.extension(".bashrc"), "");
        assert_eq(text.extension("a."), "");
        assert_eq(text.one_line("a\r\nb\tc"), "a b c");
        "#,
    );
    desk.fails("text.pad_left(1, 257);", "0 to 256");
    desk.fails("text.pad_left(1, -1);", "0 to 256");
    desk.fails(
        "let x = \"\"; x.pad(1001, \"\\n\"); text.lines(x);",
        "more than 1000",
    );
}

#[test]
fn values_stay_from_one_run_to_the_next_and_belong_to_the_folder() {
    let desk = Desk::new();
    desk.run("state.set(\"a\", #{ list: [1, \"x\", true, ()] });");
    desk.run("assert_eq(state.get(\"a\").list, [1, \"x\", true, ()]);");
    desk.run("state.set(\"a\", ()); assert_eq(state.get(\"a\"), ());");
    for n in 1..4 {
        desk.run(&format!("assert_eq(state.add(\"n\", 1), {n});"));
    }
    for (script, words) in [
        ("state.set(\"\", 1);", "1 to 128 bytes"),
        ("state.get(\"a\\nb\");", "on one line"),
        (
            "let k = \"\"; k.pad(129, \"k\"); state.add(k, 1);",
            "1 to 128 bytes",
        ),
        (
            "let v = \"\"; v.pad(4095, \"v\"); state.set(\"v\", v);",
            "may have 4096",
        ),
        ("state.set(\"f\", 1.5);", "not a whole number"),
        (
            "state.set(\"t\", \"x\"); state.add(\"t\", 1);",
            "not a number",
        ),
        (
            "state.set(\"m\", 9223372036854775807); state.add(\"m\", 1);",
            "too large",
        ),
    ] {
        desk.fails(script, words);
    }
    let (user, folder) = (common::name(ROLAND), common::name("photo"));
    let other = common::name("archive");
    assert_eq!(desk.state.get(&user, &folder, "n").unwrap(), Some(3.into()));
    assert_eq!(desk.state.get(&user, &other, "n").unwrap(), None);
}

#[test]
fn a_folder_keeps_so_many_values_and_no_more() {
    let desk = Desk::new();
    for n in 0..MAX_KEYS / 100 {
        desk.run(&format!(
            "for k in 0..100 {{ state.set(`{n} ${{k}}`, 1); }}"
        ));
    }
    desk.fails("state.set(\"more\", 1);", "keeps 1000 values already");
    desk.fails("state.add(\"more\", 1);", "keeps 1000 values already");
    // What is there can change, and what goes makes room, in the same run too.
    desk.run("state.set(\"0 0\", 2); state.remove(\"0 1\"); state.add(\"more\", 1);");
    desk.fails("state.set(\"another\", 1);", "keeps 1000 values already");
}

#[test]
fn of_two_scripts_that_read_the_same_value_at_once_one_begins_again() {
    let state = MemoryState::default();
    let user = common::name(ROLAND);
    let edits = |before: Option<i64>, after: i64| {
        let mut edits = Edits::default();
        edits.reads.insert("n".to_owned(), before.map(Into::into));
        edits.writes.insert("n".to_owned(), Some(after.into()));
        std::collections::BTreeMap::from([("photo".to_owned(), edits)])
    };
    assert!(state.apply(&user, &edits(None, 1)).unwrap());
    assert!(!state.apply(&user, &edits(None, 1)).unwrap());
    assert!(state.apply(&user, &edits(Some(1), 2)).unwrap());
    let folder = common::name("photo");
    assert_eq!(state.get(&user, &folder, "n").unwrap(), Some(2.into()));
}

#[test]
fn a_script_still_decides_by_its_last_word() {
    let desk = Desk::new();
    let ran = desk.run("if folder.starts_with(\"abc.txt\", [97]) { reject(\"text\"); }");
    assert_eq!(ran.decision, Decision::Reject("text".to_owned()));
}
