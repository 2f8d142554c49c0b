//! Files that appear, change and go, whoever did it; and times that come.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;

use std::{
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use common::{Local, Process, World};
use m2y::{
    hooks::{dispatch::Dispatcher, schedule},
    journal::{self, Journal, file_index},
    root::config::Config,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// How long a file rests in these tests.
const SETTLE: Duration = Duration::from_millis(100);

const ALL: &str = "[OnMeta]\n[OnNew]\nsay.rhai\n[OnChanged]\nsay.rhai\n[OnDeleted]\nsay.rhai\n";

/// A world whose folder can tell of its events in a file that is no part of it, and a
/// second folder, by which it is known that all else was seen.
fn watched(config: &str) -> World {
    let world = World::new(config);
    let ini = format!(
        "[watch]\nsettle = {}ms\n[hooks]\nexecutables = all\n",
        SETTLE.as_millis()
    );
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    world.script("say.rhai", SAY);
    let sentinel = world.folder("sentinel", "[OnMeta]\n[OnNew]\nsay.rhai\n");
    fs::write(sentinel.path_of("say.rhai"), "// nothing").unwrap();
    world
}

const SAY: &str = "notify.inbox(`|${event.name}|${event.folder}|${event.file}`);";

/// What was told, in its order.
fn told(world: &World) -> Vec<String> {
    let inbox = world.receiver.path().join("inbox.log");
    let text = fs::read_to_string(inbox).unwrap_or_default();
    let lines = text.lines().map(|l| l.split_once('|').unwrap().1);
    // Behind each stands the id of its event.
    let lines = lines.map(|line| line.rsplit_once(" [").unwrap().0);
    lines.map(str::to_owned).collect()
}

/// Waits until so much was told; then, whether more comes.
async fn told_in_all(world: &World, count: usize) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while told(world).len() < count && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sentinel(world).await;
    told(world)
}

/// Makes a file in another folder and waits until it was seen: what happened before has
/// come to rest by then.
async fn sentinel(world: &World) {
    let journal = Journal::open(&world.there).unwrap();
    let dir = world.receiver.path().join("sentinel");
    let file = format!("s{}", fs::read_dir(&dir).unwrap().count());
    fs::write(dir.join(&file), "").unwrap();
    indexed(&journal, "sentinel", &file).await;
    idle(&journal).await;
}

/// Waits until the index has a file.
async fn indexed(journal: &Journal, folder: &str, file: &str) {
    let db = journal.reader().unwrap();
    wait("the index has the file", || {
        file_index::get(&db, common::ROLAND, folder, file)
            .unwrap()
            .is_some()
    })
    .await;
}

/// Waits until the server has seen that nobody waits for news of the folder's files, and
/// the index has none of them.
async fn quiet(world: &World) {
    let db = Journal::open(&world.there).unwrap().reader().unwrap();
    wait("the folder is quiet", || {
        file_index::is_quiet(&db, common::ROLAND, "photo").unwrap()
    })
    .await;
    assert_eq!(in_index(world), [""; 0]);
}

/// Whether this process has a watch on what is there.
fn is_watched(path: &Path) -> bool {
    let inode = format!(" ino:{:x} ", fs::metadata(path).unwrap().ino());
    let open = fs::read_dir("/proc/self/fdinfo").unwrap();
    // Others are closed meanwhile.
    let infos = open.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let mut lines = infos.flat_map(|info| info.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.any(|line| line.starts_with("inotify ") && line.contains(&inode))
}

/// What the index has of the folder.
fn in_index(world: &World) -> Vec<String> {
    let db = Journal::open(&world.there).unwrap().reader().unwrap();
    let known = file_index::after(&db, common::ROLAND, "photo", "", 100).unwrap();
    known.into_iter().map(|(file, _)| file).collect()
}

/// Waits until nothing is to be done.
async fn idle(journal: &Journal) {
    let db = journal.reader().unwrap();
    wait("the journal is empty", || {
        journal::list(&db, None, 1).unwrap().is_empty()
    })
    .await;
}

async fn wait(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "not in half a minute: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_new_then_changed_then_gone_and_each_once() {
    let world = watched(ALL);
    let server = Local::serve(&world.there).await;
    let file = world.photo().join("a.txt");
    fs::write(&file, "one").unwrap();
    assert_eq!(told_in_all(&world, 1).await, ["OnNew|photo|a.txt"]);
    fs::write(&file, "three").unwrap();
    assert_eq!(told_in_all(&world, 2).await[1..], ["OnChanged|photo|a.txt"]);
    // As editors save.
    fs::write(world.photo().join(".a.txt.swp"), "seven").unwrap();
    fs::rename(world.photo().join(".a.txt.swp"), &file).unwrap();
    assert_eq!(told_in_all(&world, 3).await[2..], ["OnChanged|photo|a.txt"]);
    fs::remove_file(&file).unwrap();
    assert_eq!(told_in_all(&world, 4).await[3..], ["OnDeleted|photo|a.txt"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_file_goes_and_then_comes() {
    let world = watched(ALL);
    for n in 0..20 {
        fs::write(world.photo().join(format!("a{n}")), "x").unwrap();
    }
    let server = Local::serve(&world.there).await;
    told_in_all(&world, 20).await;
    for n in 0..20 {
        let to = world.photo().join(format!("b{n}"));
        fs::rename(world.photo().join(format!("a{n}")), to).unwrap();
    }
    let told = told_in_all(&world, 60).await;
    let at = |line: String| told.iter().position(|t| *t == line).expect(&line);
    for n in 0..20 {
        let (gone, come) = (format!("OnDeleted|photo|a{n}"), format!("OnNew|photo|b{n}"));
        assert!(at(gone) < at(come), "{told:?}");
    }
    assert_eq!(told.len(), 60);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_slowly_fires_once_when_it_is_closed() {
    let world = watched(ALL);
    let server = Local::serve(&world.there).await;
    sentinel(&world).await;
    let mut file = fs::File::create(world.photo().join("slow")).unwrap();
    for n in 0..20 {
        file.write_all(b"piece").unwrap();
        // One pause is longer than a file has to rest.
        let pause = if n == 10 { SETTLE * 5 } else { SETTLE / 5 };
        tokio::time::sleep(pause).await;
    }
    assert!(told(&world).is_empty());
    drop(file);
    assert_eq!(told_in_all(&world, 1).await, ["OnNew|photo|slow"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_link_needs_no_writer_to_be_new() {
    let world = watched(ALL);
    let server = Local::serve(&world.there).await;
    sentinel(&world).await;
    let file = world.file("elsewhere", b"x");
    fs::hard_link(file, world.photo().join("link")).unwrap();
    assert_eq!(told_in_all(&world, 1).await, ["OnNew|photo|link"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_received_file_is_new_once_with_its_meta_and_after_onreceived() {
    let config = "[OnMeta]\n[OnReceived]\nsay.rhai\n[OnNew]\nmeta.rhai\n[OnDeleted]\nsay.rhai\n";
    let world = watched(config);
    world.script(
        "meta.rhai",
        "notify.inbox(`|${event.name}|${meta.from}|${meta.filename}|${event.file.ends_with(\".data\")}`);",
    );
    let server = Local::serve(&world.there).await;
    let file = world.file("f.png", b"picture");
    world.deliver(&server.address, &file).await.unwrap();
    let told = told_in_all(&world, 2).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].starts_with("OnReceived|photo|zhenqiang_"),
        "{told:?}"
    );
    assert_eq!(told[1], "OnNew|zhenqiang|f.png|true");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_quarantine_never_was_there() {
    let config = "[OnMeta]\n[OnReceived]\nhide.rhai\n[OnNew]\nsay.rhai\n[OnDeleted]\nsay.rhai\n";
    let world = watched(config);
    world.script("hide.rhai", "quarantine(\"let me see\");");
    let server = Local::serve(&world.there).await;
    let file = world.file("f.png", b"picture");
    world.deliver(&server.address, &file).await.unwrap();
    sentinel(&world).await;
    assert_eq!(told(&world), [""; 0]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_content_of_the_folder_fires_nothing() {
    let world = watched(&format!("{ALL}[OnStartup]\nprogram.sh\n"));
    world.script("program.sh", "#!/bin/sh\n");
    let server = Local::serve(&world.there).await;
    sentinel(&world).await;
    let photo = world.photo();
    for name in [
        ".hidden",
        "x.meta",
        "x.done",
        "x.failed",
        "x.ini",
        "new.rhai",
        "inbox.log",
        "m2y.config",
        "program.sh",
    ] {
        let text = if name == "m2y.config" {
            format!("{ALL}[OnStartup]\nprogram.sh\n#\n")
        } else {
            "x".to_owned()
        };
        fs::write(photo.join(name), text).unwrap();
    }
    fs::create_dir(photo.join("directory")).unwrap();
    fs::write(photo.join("directory/inside"), "x").unwrap();
    std::os::unix::fs::symlink("x.meta", photo.join("link")).unwrap();
    fs::remove_file(photo.join("x.done")).unwrap();
    fs::write(photo.join("seen"), "x").unwrap();
    assert_eq!(told_in_all(&world, 1).await, ["OnNew|photo|seen"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_writes_is_its_own() {
    let world = watched(
        "[OnMeta]\n[OnNew]\nthumb.sh\nsay.rhai\n[OnChanged]\nsay.rhai\n[OnDeleted]\nsay.rhai\n",
    );
    fs::write(world.photo().join("old"), "x").unwrap();
    let script = "#!/bin/sh\nf=$(basename \"$M2Y_FILE\")\ncp \"$f\" \"thumb_$f\"\nchmod 600 \"$f\"\n\
        echo more >> \"$f\"\nrm -f old\nmv -f moved moved2 2>/dev/null; true\n";
    world.script("thumb.sh", script);
    let server = Local::serve(&world.there).await;
    assert_eq!(told_in_all(&world, 1).await, ["OnNew|photo|old"]);
    fs::write(world.photo().join("a.png"), "x").unwrap();
    assert_eq!(told_in_all(&world, 2).await[1..], ["OnNew|photo|a.png"]);
    assert_eq!(world.arrived("png"), ["a.png", "thumb_a.png"]);
    // A person does the same after it.
    sentinel(&world).await;
    fs::write(world.photo().join("thumb_a.png"), "by hand").unwrap();
    assert_eq!(
        told_in_all(&world, 3).await[2..],
        ["OnChanged|photo|thumb_a.png"]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_no_server_ran_fires_and_nothing_else() {
    let world = watched(ALL);
    let photo = world.photo();
    for name in ["same", "changed", "gone", "renamed"] {
        fs::write(photo.join(name), name).unwrap();
    }
    let server = Process::serve(&world.there);
    assert_eq!(told_in_all(&world, 4).await.len(), 4);
    // At any point: the index is written with the events.
    drop(server);
    fs::write(photo.join("changed"), "another").unwrap();
    fs::remove_file(photo.join("gone")).unwrap();
    fs::rename(photo.join("renamed"), photo.join("afterwards")).unwrap();
    let server = Process::serve(&world.there);
    let mut meanwhile = told_in_all(&world, 8).await.split_off(4);
    meanwhile.sort();
    assert_eq!(
        meanwhile,
        [
            "OnChanged|photo|changed",
            "OnDeleted|photo|gone",
            "OnDeleted|photo|renamed",
            "OnNew|photo|afterwards"
        ]
    );
    server.stop();
    let server = Process::serve(&world.there);
    sentinel(&world).await;
    assert_eq!(told(&world).len(), 8);
    server.stop();
}

/// Every file new, and each once.
fn assert_each_once(world: &World, count: usize) {
    let mut told = told(world);
    assert_eq!(told.len(), count);
    told.sort();
    told.dedup();
    assert_eq!(told.len(), count);
    assert!(told.iter().all(|line| line.starts_with("OnNew|")));
}

fn copy_many(dir: &Path, count: usize) {
    for n in 0..count {
        fs::write(dir.join(format!("f{n}")), "some text").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_2000_files_that_are_copied_at_once_is_new_once() {
    let world = watched(ALL);
    let server = Local::serve(&world.there).await;
    sentinel(&world).await;
    copy_many(&world.photo(), 2_000);
    told_in_all(&world, 2_000).await;
    assert_each_once(&world, 2_000);
    server.stop().await;
}

/// For the rate: `cargo test --release --test watch -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes long, measures"]
async fn each_of_10000_files_that_are_copied_at_once_is_new_once() {
    let world = watched(ALL);
    let server = Local::serve(&world.there).await;
    sentinel(&world).await;
    let begun = Instant::now();
    copy_many(&world.photo(), 10_000);
    let copied = begun.elapsed();
    let journal = Journal::open(&world.there).unwrap();
    indexed(&journal, "photo", "f9999").await;
    let journalled = begun.elapsed();
    told_in_all(&world, 10_000).await;
    let took = begun.elapsed();
    assert_each_once(&world, 10_000);
    println!(
        "10,000 files: copied in {copied:.2?}, in the journal after {journalled:.2?}, all told after \
         {took:.2?}, {:.0} OnNew/s",
        10_000.0 / took.as_secs_f64()
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_come_while_the_server_runs_are_watched_and_those_that_go_are_not() {
    let world = watched(ALL);
    let server = Local::serve(&world.there).await;
    sentinel(&world).await;
    // By hand, and the config last: until then it is no folder.
    let late = world.receiver.path().join("late");
    fs::create_dir(&late).unwrap();
    fs::write(late.join("first"), "x").unwrap();
    sentinel(&world).await;
    fs::copy(world.photo().join("say.rhai"), late.join("say.rhai")).unwrap();
    fs::write(late.join("m2y.config"), ALL).unwrap();
    assert_eq!(told_in_all(&world, 1).await, ["OnNew|late|first"]);
    fs::write(late.join("second"), "x").unwrap();
    assert_eq!(told_in_all(&world, 2).await[1..], ["OnNew|late|second"]);
    // Another directory takes its name.
    fs::rename(&late, world.receiver.path().join("early")).unwrap();
    fs::create_dir(&late).unwrap();
    let mut told = told_in_all(&world, 4).await.split_off(2);
    told.sort();
    assert_eq!(told, ["OnNew|early|first", "OnNew|early|second"]);
    fs::write(late.join("third"), "x").unwrap();
    sentinel(&world).await;
    assert_eq!(told_in_all(&world, 4).await.len(), 4);
    // A whole user.
    let peter = common::person(&world.there, common::PETER);
    let folder = peter.create_folder(&common::name("inbox")).unwrap();
    fs::write(folder.path_of("m2y.config"), ALL).unwrap();
    fs::write(folder.path_of("say.rhai"), "notify.inbox(event.file);").unwrap();
    fs::write(folder.path_of("hello"), "x").unwrap();
    let inbox = peter.path().join("inbox.log");
    wait("peter hears of his file", || {
        fs::read_to_string(&inbox).is_ok_and(|text| text.contains(" hello [OnNew "))
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_under_a_broken_config_fires_when_it_is_mended() {
    let world = watched(ALL);
    // Broken from the start: there is no version before that would hold.
    fs::write(world.photo().join("m2y.config"), "[OnNeww]\n").unwrap();
    let server = Local::serve(&world.there).await;
    sentinel(&world).await;
    fs::write(world.photo().join("a"), "x").unwrap();
    sentinel(&world).await;
    assert!(told(&world).is_empty());
    fs::write(world.photo().join("m2y.config"), ALL).unwrap();
    assert_eq!(told_in_all(&world, 1).await, ["OnNew|photo|a"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_breaks_changes_nothing_of_what_is_watched() {
    let world = watched(ALL);
    let (photo, config) = (world.photo(), world.photo().join("m2y.config"));
    let server = Process::serve(&world.there);
    fs::write(photo.join("a"), "x").unwrap();
    assert_eq!(told_in_all(&world, 1).await, ["OnNew|photo|a"]);
    // What it said before holds.
    fs::write(&config, "[OnNeww]\n").unwrap();
    fs::write(photo.join("b"), "x").unwrap();
    assert_eq!(told_in_all(&world, 2).await[1..], ["OnNew|photo|b"]);
    server.stop();
    // Now nobody knows what that was.
    let server = Process::serve(&world.there);
    fs::remove_file(photo.join("a")).unwrap();
    sentinel(&world).await;
    assert_eq!(in_index(&world), ["a", "b"]);
    fs::write(&config, ALL).unwrap();
    assert_eq!(told_in_all(&world, 3).await[2..], ["OnDeleted|photo|a"]);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_old_when_the_first_section_comes_and_those_after_it_are_new() {
    let world = watched("[OnMeta]\n");
    fs::write(world.photo().join("old"), "x").unwrap();
    let server = Local::serve(&world.there).await;
    quiet(&world).await;
    fs::write(world.photo().join("m2y.config"), ALL).unwrap();
    // At once: what counts is which was written first.
    fs::write(world.photo().join("after"), "x").unwrap();
    assert_eq!(told_in_all(&world, 1).await, ["OnNew|photo|after"]);
    fs::write(world.photo().join("old"), "more").unwrap();
    assert_eq!(told_in_all(&world, 2).await[1..], ["OnChanged|photo|old"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_holds_for_a_section_that_comes_while_no_server_runs() {
    let world = watched("[OnMeta]\n");
    fs::write(world.photo().join("old"), "x").unwrap();
    let server = Process::serve(&world.there);
    quiet(&world).await;
    server.stop();
    let mut between = fs::File::create(world.photo().join("between")).unwrap();
    between.write_all(b"x").unwrap();
    // A file system's clock moves in ticks.
    let tick = SystemTime::now() - Duration::from_secs(1);
    between.set_modified(tick).unwrap();
    fs::write(world.photo().join("m2y.config"), ALL).unwrap();
    fs::write(world.photo().join("after"), "x").unwrap();
    let server = Process::serve(&world.there);
    assert_eq!(told_in_all(&world, 1).await, ["OnNew|photo|after"]);
    assert_eq!(in_index(&world), ["after", "between", "old"]);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_and_went_while_there_was_no_section_is_no_news_when_it_comes_back() {
    let world = watched(ALL);
    let (photo, config) = (world.photo(), world.photo().join("m2y.config"));
    for name in ["stays", "goes", "changes"] {
        fs::write(photo.join(name), "x").unwrap();
    }
    let server = Local::serve(&world.there).await;
    told_in_all(&world, 3).await;
    // An empty section waits for nothing.
    fs::write(&config, "[OnMeta]\n[OnNew]\n[OnDeleted]\n").unwrap();
    quiet(&world).await;
    fs::write(photo.join("comes"), "x").unwrap();
    fs::write(photo.join("changes"), "more").unwrap();
    fs::remove_file(photo.join("goes")).unwrap();
    sentinel(&world).await;
    fs::write(&config, ALL).unwrap();
    fs::write(photo.join("after"), "x").unwrap();
    assert_eq!(told_in_all(&world, 4).await[3..], ["OnNew|photo|after"]);
    fs::remove_file(photo.join("comes")).unwrap();
    assert_eq!(told_in_all(&world, 5).await[4..], ["OnDeleted|photo|comes"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_the_config_is_noticed_however_an_editor_saves() {
    let world = watched("[OnMeta]\n");
    let server = Local::serve(&world.there).await;
    let photo = world.photo();
    let config = photo.join("m2y.config");
    let mut count = 0;
    for way in ["in place", "by rename", "taken away first"].repeat(2) {
        for text in [ALL, "[OnMeta]\n"] {
            match way {
                "in place" => fs::write(&config, text).unwrap(),
                "by rename" => {
                    fs::write(photo.join(".swp"), text).unwrap();
                    fs::rename(photo.join(".swp"), &config).unwrap();
                }
                _ => {
                    fs::rename(&config, photo.join(".old")).unwrap();
                    sentinel(&world).await;
                    fs::write(&config, text).unwrap();
                }
            }
            if text != ALL {
                quiet(&world).await;
                continue;
            }
            count += 1;
            fs::write(photo.join(format!("f{count}")), "x").unwrap();
            let told = told_in_all(&world, count).await;
            assert_eq!(told.len(), count, "{way}: {told:?}");
            assert_eq!(told[count - 1], format!("OnNew|photo|f{count}"), "{way}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_watched_only_while_a_section_has_a_script() {
    let world = watched("[OnMeta]\n");
    let server = Local::serve(&world.there).await;
    let photo = world.photo();
    let config = photo.join("m2y.config");
    for _ in 0..2 {
        wait("only its config is watched", || {
            is_watched(&config) && !is_watched(&photo)
        })
        .await;
        fs::write(&config, ALL).unwrap();
        wait("the folder is watched", || {
            is_watched(&photo) && !is_watched(&config)
        })
        .await;
        fs::write(&config, "[OnMeta]\n").unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_arrive_where_nobody_waits_for_news_are_in_no_index() {
    let world = watched(common::OPEN);
    let server = Local::serve(&world.there).await;
    for n in 0..5 {
        let file = world.file(&format!("f{n}.png"), b"picture");
        world.deliver(&server.address, &file).await.unwrap();
    }
    fs::write(world.photo().join("by hand"), "x").unwrap();
    sentinel(&world).await;
    quiet(&world).await;
    // Nor in the time before.
    assert!(told(&world).is_empty());
    server.stop().await;
}

/// A schedule that is told the minutes by the test.
struct Scheduled {
    minutes: mpsc::Sender<u64>,
    shutdown: watch::Sender<bool>,
    running: JoinHandle<()>,
}

impl Scheduled {
    fn start(world: &World) -> Self {
        let settings = world.there.settings().unwrap();
        let dispatcher = Dispatcher::new(&world.there, &settings).unwrap();
        let (minutes, clock) = mpsc::channel(1);
        let (shutdown, stop) = watch::channel(false);
        let running = schedule::run(dispatcher, world.there.clone(), clock, stop);
        Self {
            minutes,
            shutdown,
            running: tokio::spawn(running),
        }
    }

    async fn minute(&self, minute: u64) {
        self.minutes.send(minute).await.unwrap();
    }

    /// Waits until all that was fired has ended.
    async fn stop(self) {
        // The last minute was taken when there is room for another one.
        drop(self.minutes.reserve().await.unwrap());
        self.shutdown.send(true).unwrap();
        self.running.await.unwrap();
    }
}

/// A minute since 1970 at which an hour begins.
const HOUR: u64 = 60 * 500_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_fires_once_in_its_minute() {
    let world = watched(
        "[OnMeta]\n[OnSchedule]\n*/10 * * * * = say.rhai\n5 * * * * = no.rhai say.rhai\n7 * * * * = say.rhai\n",
    );
    world.script("say.rhai", "notify.inbox(`|${event.name}`);");
    // Nothing of a run that fails stays.
    world.script("no.rhai", "notify.inbox(\"|no\"); throw \"enough\";");
    let schedule = Scheduled::start(&world);
    let inbox = |count| {
        let world = &world;
        async move { wait("the schedule fires", || told(world).len() >= count).await }
    };
    // The minute in which the server starts is not its own.
    schedule.minute(HOUR).await;
    schedule.minute(HOUR).await;
    schedule.minute(HOUR + 5).await;
    schedule.minute(HOUR + 10).await;
    inbox(2).await;
    schedule.minute(HOUR + 10).await;
    schedule.minute(HOUR + 9).await;
    schedule.minute(HOUR + 11).await;
    // What a machine slept through is not made up for.
    schedule.minute(HOUR + 55).await;
    schedule.minute(HOUR + 55).await;
    // The first of both is over when the second one was taken.
    drop(schedule.minutes.reserve().await.unwrap());
    // An edit counts at the next minute.
    let config = "[OnMeta]\n[OnSchedule]\n* * * * * = other.rhai\n";
    world.script("other.rhai", "notify.inbox(\"|other\");");
    fs::write(world.photo().join("m2y.config"), config).unwrap();
    schedule.minute(HOUR + 56).await;
    inbox(3).await;
    schedule.stop().await;
    assert_eq!(told(&world), ["OnSchedule", "OnSchedule", "other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_still_runs_is_passed_over_and_others_are_not() {
    let config = "[OnMeta]\n[OnSchedule]\n* * * * * = slow.sh\n*/2 * * * * = quick.rhai\n";
    let world = watched(config);
    // Until the test lets it go.
    world.script(
        "slow.sh",
        "#!/bin/sh\necho x >> runs\nuntil [ -e go ]; do sleep 0.02; done\n",
    );
    world.script("quick.rhai", "notify.inbox(\"|quick\");");
    let schedule = Scheduled::start(&world);
    let runs = || fs::read_to_string(world.photo().join("runs")).unwrap_or_default();
    schedule.minute(HOUR).await;
    schedule.minute(HOUR + 1).await;
    wait("the slow one runs", || runs().lines().count() == 1).await;
    let mut minute = 1;
    // One that has said its word may not have ended yet: then it is passed over, too.
    while told(&world).len() < 4 {
        assert!(minute < 3_000, "the quick one never ran again");
        minute += 1;
        schedule.minute(HOUR + minute).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(runs().lines().count(), 1);
    fs::write(world.photo().join("go"), "").unwrap();
    // It ends at some time; from then on it fires again.
    while runs().lines().count() == 1 {
        assert!(minute < 6_000, "it never ran again");
        minute += 1;
        schedule.minute(HOUR + minute).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    schedule.stop().await;
}

#[test]
fn a_line_is_due_between_two_minutes_once() {
    let config = Config::parse("[OnSchedule]\n* * * * * = a\n0 * * * * = b\n").unwrap();
    let due = |from, to| {
        let lines = schedule::due_between(&config, from, to);
        lines
            .iter()
            .map(|line| line.scripts.join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(due(HOUR, HOUR), [""; 0]);
    assert_eq!(due(HOUR - 1, HOUR), ["a", "b"]);
    assert_eq!(due(HOUR - 3, HOUR + 1), ["a", "b"]);
    assert_eq!(due(HOUR, HOUR + 1), ["a"]);
    assert_eq!(due(0, HOUR + 59), ["a"]);
    assert_eq!(due(HOUR, HOUR - 1), [""; 0]);
}
