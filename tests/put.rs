//! Contacts put files where `[share]` lets them: what arrives is looked at by the folder's
//! hooks like any other file, and then lies at its path.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{
    Local, M2Y, PETER, Process, ROLAND, Random, World, ZHENQIANG, names, noise, read_meta,
    relay::Relay, said,
};
use futures_util::future::join_all;
use m2y::{
    client::{Route, peer::Peer, put::put_all},
    error::{Code, Error},
    meta::{Meta, datetime_now},
    observer::{Observer, Unobserved},
    root::{conflict::Conflict, destination::Destination, tree::TreePath},
    transfer::send::{put::Put, send_job::SendJob},
};
use tokio::sync::mpsc;

const KIB: usize = 1_024;

/// What came of a file: where it is, and whether it was there; `None` where hooks have it.
type Stored = Option<(String, bool)>;

fn sharing(hooks: &str, rights: &str) -> String {
    format!("{hooks}[share]\n{ZHENQIANG} = {rights}\n")
}

/// Puts a file as a program does that ends before it takes notice: what became of it is
/// known, and whoever puts it again goes on.
async fn attempt(
    world: &World,
    address: &str,
    local: &Path,
    path: &str,
    conflict: Conflict,
) -> Result<(Put, Result<Meta, Error>), Error> {
    let route = Route::to(&world.sender, ROLAND, Some(address)).unwrap();
    let job = Put::open(&world.sender, (ROLAND, path), local, conflict)?;
    let (give, mut jobs) = mpsc::channel(1);
    let (results, mut told) = mpsc::unbounded_channel();
    give.try_send(job).ok().unwrap();
    drop(give);
    let observer: Arc<dyn Observer> = Arc::new(Unobserved);
    let stop = std::future::pending();
    put_all(&route, &mut jobs, &results, &observer, stop).await?;
    let (job, result, _) = told.try_recv().unwrap();
    Ok((job, result))
}

async fn put_as(
    world: &World,
    address: &str,
    local: &Path,
    path: &str,
    conflict: Conflict,
) -> Result<Stored, Error> {
    let (mut job, result) = attempt(world, address, local, path, conflict).await?;
    if !matches!(&result, Err(error) if error.code == Code::Later) {
        job.forget();
    }
    result.map(|_| job.place().map(|(path, same)| (path.to_owned(), same)))
}

async fn put(world: &World, address: &str, local: &Path, path: &str) -> Result<Stored, Error> {
    put_as(world, address, local, path, Conflict::Refuse).await
}

fn at(path: &str) -> Stored {
    Some((path.to_owned(), false))
}

fn is_missing<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.unwrap_err();
    let told = (error.code, error.sentence.as_str());
    assert_eq!(told, (Code::NotFound, "no such file or directory"));
}

/// All names in the folder but the m2y.config and scripts.
fn there(world: &World) -> Vec<String> {
    let mut there = names(&world.photo(), "");
    there.retain(|name| name != "m2y.config" && !name.ends_with(".rhai"));
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_lies_at_its_path_with_its_time_and_nothing_beside_it() {
    let world = World::new(&sharing("[OnMeta]\n", "list put"));
    fs::create_dir(world.photo().join("2026")).unwrap();
    let server = Local::serve(&world.there).await;
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_546_214_399, 123_456_789);
    for (name, len) in [
        ("empty", 0),
        ("small.jpg", 10),
        ("block", 64 * KIB),
        ("large.bin", 3_000_000),
    ] {
        let local = world.file(name, &noise(len));
        let file = fs::File::options().write(true).open(&local).unwrap();
        file.set_modified(old).unwrap();
        let path = format!("photo/2026/{name}");
        let stored = put(&world, &server.address, &local, &path).await.unwrap();
        assert_eq!(stored, at(&path));
        let is = world.photo().join("2026").join(name);
        assert_eq!(fs::read(&is).unwrap(), noise(len));
        assert_eq!(is.metadata().unwrap().modified().unwrap(), old);
        // Once more, and it is there.
        let stored = put(&world, &server.address, &local, &path).await.unwrap();
        assert_eq!(stored, Some((path, true)));
    }
    let local = world.file("top.txt", b"top");
    put(&world, &server.address, &local, "/photo/top.txt")
        .await
        .unwrap();
    server.stop().await;
    assert_eq!(there(&world), ["2026", "top.txt"]);
    assert_eq!(names(&world.sender.path().join(".puts"), ""), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_put_puts_and_only_where_something_can_be() {
    for rights in ["", "list get mkdir rm mv", "put"] {
        let world = World::new(&sharing("[OnMeta]\n", rights));
        let outgoing = world.receiver.path().join("outgoing").join(ZHENQIANG);
        fs::create_dir_all(&outgoing).unwrap();
        let server = Local::serve(&world.there).await;
        let local = world.file("a.jpg", b"a");
        let result = put(&world, &server.address, &local, "photo/a.jpg").await;
        match rights {
            "put" => assert_eq!(result.unwrap(), at("photo/a.jpg")),
            _ => is_missing(result),
        }
        for path in [
            "",
            "a.jpg",
            "photo",
            "photo/",
            "photo/none/a.jpg",
            "photo/.hidden",
            "photo/m2y.config",
            "photo/x.rhai",
            "photo/x.meta",
            "photo/x.done",
            "photo/../photo/b.jpg",
            "private/a.jpg",
            "outgoing/zhenqiang/a.jpg",
        ] {
            is_missing(put(&world, &server.address, &local, path).await);
        }
        server.stop().await;
        assert_eq!(there(&world).is_empty(), rights != "put");
        assert_eq!(names(&outgoing, ""), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_there_is_left_or_replaced_or_joined_as_one_says() {
    for rights in ["put", "list put rm"] {
        let world = World::new(&sharing("[OnMeta]\n", rights));
        fs::write(world.photo().join("a.jpg"), "other").unwrap();
        fs::create_dir(world.photo().join("dir")).unwrap();
        let server = Local::serve(&world.there).await;
        let local = world.file("a.jpg", b"mine");
        let put = |path, conflict| put_as(&world, &server.address, &local, path, conflict);
        for conflict in Conflict::ALL {
            let error = put("photo/dir", conflict).await.unwrap_err();
            assert_eq!(error.code, Code::Exists, "{error}");
        }
        let error = put("photo/a.jpg", Conflict::Refuse).await.unwrap_err();
        assert_eq!(error.code, Code::Exists, "{error}");
        let joined = put("photo/a.jpg", Conflict::Rename).await.unwrap();
        assert_eq!(joined, at("photo/a_2.jpg"));
        let replaced = put("photo/a.jpg", Conflict::Overwrite).await;
        let is = fs::read_to_string(world.photo().join("a.jpg")).unwrap();
        match rights {
            "put" => {
                // Nobody destroys what he may not remove.
                assert_eq!(replaced.unwrap_err().code, Code::Refused);
                assert_eq!(is, "other");
            }
            _ => {
                assert_eq!(replaced.unwrap(), at("photo/a.jpg"));
                assert_eq!(is, "mine");
            }
        }
        server.stop().await;
        assert_eq!(there(&world), ["a.jpg", "a_2.jpg", "dir"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_hear_of_it_as_of_any_file_and_may_refuse() {
    let hooks = "[OnMeta]\nmeta.rhai\n[OnReceived]\nreceived.rhai\n";
    let world = World::new(&sharing(hooks, "put"));
    fs::create_dir(world.photo().join("sub")).unwrap();
    world.script(
        "meta.rhai",
        "if event.path.starts_with(\"no\") { reject(`not ${meta.filename}`); }
         if event.contact != \"zhenqiang\" || meta.from != event.contact { throw \"who?\"; }",
    );
    world.script(
        "received.rhai",
        "folder.write(\"seen.txt\", `${event.path} ${folder.size(event.data_file)} ${folder.exists(event.meta_file)}`);",
    );
    let server = Local::serve(&world.there).await;
    let local = world.file("a.jpg", b"mine");
    let refused = put(&world, &server.address, &local, "photo/no.jpg").await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.code, refused.sentence.as_str()),
        (Code::Refused, "not a.jpg")
    );
    let stored = put(&world, &server.address, &local, "photo/sub/a.jpg").await;
    assert_eq!(stored.unwrap(), at("photo/sub/a.jpg"));
    let counter = server.stop().await;
    assert_eq!(counter.hooks(), 3);
    let seen = fs::read_to_string(world.photo().join("seen.txt")).unwrap();
    assert_eq!(seen, "sub/a.jpg 4 true");
    assert_eq!(fs::read(world.photo().join("sub/a.jpg")).unwrap(), b"mine");
    // What is left of the refused one tells why.
    let left = there(&world);
    let metas: Vec<&String> = left.iter().filter(|name| name.ends_with(".meta")).collect();
    assert_eq!(metas.len(), 1, "{left:?}");
    assert_eq!(read_meta(&world.photo().join(metas[0])).error, "not a.jpg");
    assert!(!left.iter().any(|name| name.ends_with(".data")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hook_gives_a_place_stays_there() {
    let hooks = "[OnMeta]\n[OnReceived]\nreceived.rhai\n";
    let world = World::new(&sharing(hooks, "put"));
    world.folder("archive", "[OnMeta]\n");
    world.script(
        "received.rhai",
        "if event.path == \"renamed.jpg\" { folder.rename(event.data_file, \"by hook.jpg\"); }
         if event.path == \"moved.jpg\" { folder.move_to(event.data_file, \"archive\"); }
         if event.path == \"gone.jpg\" { folder.remove(event.data_file); }
         if event.path == \"hidden.jpg\" { quarantine(\"look at it\"); }",
    );
    let server = Local::serve(&world.there).await;
    let local = world.file("a.jpg", b"mine");
    for name in ["renamed", "moved", "gone", "hidden"] {
        let path = format!("photo/{name}.jpg");
        let stored = put(&world, &server.address, &local, &path).await;
        assert_eq!(stored.unwrap(), None, "{name}");
    }
    server.stop().await;
    let is = there(&world);
    assert_eq!(is, [".quarantine", "by hook.jpg", "by hook.meta"]);
    let meta = fs::read_to_string(world.photo().join("by hook.meta")).unwrap();
    assert!(!meta.contains("pendingPut"), "{meta}");
    let archive = world.receiver.path().join("archive");
    assert_eq!(names(&archive, ".data").len(), 1);
    assert_eq!(names(&world.photo().join(".quarantine"), ".data").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hook_hands_on_is_sent_from_where_it_is() {
    let hooks = "[OnMeta]\n[OnReceived]\nreceived.rhai\n";
    let world = World::new(&sharing(hooks, "put"));
    fs::create_dir(world.photo().join("sub")).unwrap();
    world.script(
        "received.rhai",
        "send(#{ to: \"zhenqiang\", folder: \"photo\", file: event.data_file });",
    );
    let server = Process::serve(&world.there);
    let local = world.file("a.jpg", b"mine");
    let stored = put(&world, &server.address, &local, "photo/sub/a.jpg").await;
    assert_eq!(stored.unwrap(), at("photo/sub/a.jpg"));
    let meta = world.photo().join("a.meta");
    wait_for(|| meta.exists()).await;
    assert_eq!(server.stop(), Some(0));
    let out = SendJob::open_of(&world.receiver, &meta).unwrap();
    assert_eq!(out.meta().filename, "a.jpg");
    assert_eq!((out.meta().to.as_str(), out.len()), (ZHENQIANG, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_hook_fails_is_safe_and_gets_its_path_when_the_hook_is_mended() {
    let hooks = "[OnMeta]\n[OnReceived]\nreceived.rhai\n";
    let world = World::new(&sharing(hooks, "put"));
    let ini = "[hooks]\nretry_delay = 10ms\nretry_limit = 1000\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    world.script("received.rhai", "throw \"not today\";");
    let server = Local::serve(&world.there).await;
    let local = world.file("a.jpg", b"mine");
    let stored = put(&world, &server.address, &local, "photo/a.jpg").await;
    assert_eq!(stored.unwrap(), None);
    assert_eq!(names(&world.photo(), ".data").len(), 1);
    world.script("received.rhai", "");
    let path = world.photo().join("a.jpg");
    wait_for(|| path.exists() && names(&world.photo(), ".meta").is_empty()).await;
    server.stop().await;
    assert_eq!(there(&world), ["a.jpg"]);
}

/// Waits for what the watch over a directory cannot tell.
async fn wait_for(is: impl Fn() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(std::time::Instant::now() < until, "it did not come to be");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_goes_on_in_the_same_call() {
    let world = World::new(&sharing("[OnMeta]\n", "put"));
    let server = Local::serve(&world.there).await;
    let relay = Relay::before(server.address.clone(), 5_000_000);
    let bytes = noise(12_000_000);
    let local = world.file("large.bin", &bytes);
    let stored = put(&world, &relay.address, &local, "photo/large.bin").await;
    assert_eq!(stored.unwrap(), at("photo/large.bin"));
    assert_eq!(relay.connections(), 3);
    let counter = server.stop().await;
    assert_eq!(fs::read(world.photo().join("large.bin")).unwrap(), bytes);
    // Hardly anything came twice.
    assert!(counter.bytes() < 12_500_000, "{}", counter.bytes());
    assert_eq!(there(&world), ["large.bin"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_goes_on_and_a_file_that_changed_starts_over() {
    let world = World::new(&sharing("[OnMeta]\n", "put"));
    let server = Local::serve(&world.there).await;
    let bytes = noise(6_000_000);
    let local = world.file("large.bin", &bytes);
    let open = || {
        Put::open(
            &world.sender,
            (ROLAND, "photo/large.bin"),
            &local,
            Conflict::Refuse,
        )
    };
    // Two at once would spoil each other's work.
    let first = open().unwrap();
    assert_eq!(open().err().unwrap().code, Code::Later);
    drop(first);
    // A program that another test starts holds the lock too, for as long as it takes to begin.
    let open = || {
        let begun = std::time::Instant::now();
        loop {
            match open() {
                Err(e) if e.code == Code::Later && begun.elapsed() < Duration::from_secs(5) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                opened => return opened,
            }
        }
    };
    let begin = async |relay: &Relay| {
        let route = Route::to(&world.sender, ROLAND, Some(&relay.address)).unwrap();
        let (give, mut jobs) = mpsc::channel(1);
        let (results, mut told) = mpsc::unbounded_channel();
        give.try_send(open().unwrap()).ok().unwrap();
        drop(give);
        let observer: Arc<dyn Observer> = Arc::new(Unobserved);
        // The program is told to end when the connection has broken.
        let stop = async {
            while relay.connections() < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Error::new(Code::Interrupted, "interrupted")
        };
        let ended = put_all(&route, &mut jobs, &results, &observer, stop).await;
        assert_eq!(ended.unwrap_err().code, Code::Interrupted);
        assert!(told.try_recv().is_err());
    };
    begin(&Relay::before(server.address.clone(), 4_000_000)).await;
    let before = server.counter.bytes();
    assert!(before > 3_000_000, "{before}");
    assert!(!open().unwrap().changed());
    let stored = put(&world, &server.address, &local, "photo/large.bin").await;
    assert_eq!(stored.unwrap(), at("photo/large.bin"));
    assert!(server.counter.bytes() < 6_500_000);
    // And again with a file that changes in between.
    fs::remove_file(world.photo().join("large.bin")).unwrap();
    begin(&Relay::before(server.address.clone(), 4_000_000)).await;
    let mut other = bytes.clone();
    other[10] ^= 1;
    fs::write(&local, &other).unwrap();
    let later = SystemTime::now() + Duration::from_secs(3);
    let file = fs::File::options().write(true).open(&local).unwrap();
    file.set_modified(later).unwrap();
    assert!(open().unwrap().changed());
    let stored = put(&world, &server.address, &local, "photo/large.bin").await;
    assert_eq!(stored.unwrap(), at("photo/large.bin"));
    server.stop().await;
    assert_eq!(fs::read(world.photo().join("large.bin")).unwrap(), other);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_go_through_one_connection_and_each_is_whole() {
    let world = World::new(&sharing("[OnMeta]\n[OnReceived]\nr.rhai\n", "list put"));
    world.script("r.rhai", "");
    fs::create_dir(world.photo().join("sub")).unwrap();
    let server = Local::serve(&world.there).await;
    let relay = Relay::before(server.address.clone(), usize::MAX);
    let route = Route::to(&world.sender, ROLAND, Some(&relay.address)).unwrap();
    let (give, mut jobs) = mpsc::channel(16);
    let (results, mut told) = mpsc::unbounded_channel();
    let observer: Arc<dyn Observer> = Arc::new(Unobserved);
    let source = world.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let giving = async {
        for number in 0..400_usize {
            let local = source.join(format!("{number}"));
            fs::write(&local, noise(number * 100)).unwrap();
            let path = match number % 2 {
                0 => format!("photo/{number}"),
                _ => format!("photo/sub/{number}"),
            };
            let job = Put::open(&world.sender, (ROLAND, &path), &local, Conflict::Refuse);
            give.send(job.unwrap()).await.ok().unwrap();
        }
        drop(give);
    };
    let stop = std::future::pending();
    let putting = put_all(&route, &mut jobs, &results, &observer, stop);
    let ((), ended) = tokio::join!(giving, putting);
    ended.unwrap();
    drop(results);
    let mut stored = 0;
    while let Some((job, result, _)) = told.recv().await {
        result.unwrap();
        assert_eq!(job.place(), Some((job.path(), false)));
        stored += 1;
    }
    assert_eq!((stored, relay.connections()), (400, 1));
    server.stop().await;
    for number in 0..400_usize {
        let path = match number % 2 {
            0 => world.photo().join(number.to_string()),
            _ => world.photo().join("sub").join(number.to_string()),
        };
        assert_eq!(fs::read(path).unwrap(), noise(number * 100), "{number}");
    }
    assert_eq!(names(&world.photo(), ".meta"), [""; 0]);
    assert_eq!(names(&world.photo(), ".data"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_want_one_path_at_once_do_not_lose_a_file() {
    let config = format!("[OnMeta]\n[share]\n{ZHENQIANG} = put\n{PETER} = put\n");
    let world = World::new(&config);
    let server = Local::serve(&world.there).await;
    let locals: Vec<PathBuf> = (0..8)
        .map(|n| world.file(&format!("f{n}"), format!("{n}").as_bytes()))
        .collect();
    for conflict in [Conflict::Refuse, Conflict::Rename] {
        let path = format!("photo/{}.txt", conflict.word());
        let all = locals
            .iter()
            .map(|local| put_as(&world, &server.address, local, &path, conflict));
        let all = join_all(all).await;
        let good = all.iter().filter(|result| result.is_ok()).count();
        match conflict {
            Conflict::Rename => assert_eq!(good, 8, "{all:?}"),
            _ => {
                assert_eq!(good, 1, "{all:?}");
                let exists = |e: &Error| e.code == Code::Exists;
                assert!(all.iter().filter_map(|r| r.as_ref().err()).all(exists));
            }
        }
    }
    server.stop().await;
    let mut texts: Vec<String> = names(&world.photo(), ".txt")
        .iter()
        .filter(|name| name.starts_with("rename"))
        .map(|name| fs::read_to_string(world.photo().join(name)).unwrap())
        .collect();
    texts.sort();
    assert_eq!(texts, ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_attempts_at_one_file_leave_it_once() {
    let hooks = "[OnMeta]\n[OnReceived]\nreceived.rhai\n";
    let world = World::new(&sharing(hooks, "put"));
    let ini = "[hooks]\nretry_delay = 10ms\nretry_limit = 1000\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    world.script("received.rhai", "throw \"not today\";");
    let server = Local::serve(&world.there).await;
    let local = world.file("a.jpg", b"mine");
    for _ in 0..2 {
        let stored = put(&world, &server.address, &local, "photo/a.jpg").await;
        assert_eq!(stored.unwrap(), None);
    }
    assert_eq!(names(&world.photo(), ".data").len(), 2);
    world.script("received.rhai", "");
    wait_for(|| there(&world) == ["a.jpg"]).await;
    server.stop().await;
    assert_eq!(fs::read(world.photo().join("a.jpg")).unwrap(), b"mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_list_sees_it_at_once() {
    let world = World::new(&sharing("[OnMeta]\n", "list get put mkdir"));
    let server = Process::serve(&world.there);
    let route = Route::to(&world.sender, ROLAND, Some(&server.address)).unwrap();
    let peer = Peer::connect(&route, Arc::new(Unobserved)).await.unwrap();
    peer.make_dir("photo/new").await.unwrap();
    let local = world.file("a.jpg", b"mine");
    put(&world, &server.address, &local, "photo/new/a.jpg")
        .await
        .unwrap();
    assert_eq!(peer.stat("photo/new/a.jpg").await.unwrap().size, 4);
}

/// What the program says to `m2y put`, in the directory of the world.
fn run(world: &World, address: &str, args: &[&str]) -> Output {
    Command::new(M2Y)
        .args(["put", "--server", address])
        .args(args)
        .env("M2Y_ROOT", world.here.path())
        .env_remove("M2Y_LOG")
        .current_dir(world.dir.path())
        .output()
        .unwrap()
}

#[test]
fn files_and_directories_are_put_by_command() {
    let world = World::new(&sharing("[OnMeta]\n", "list put mkdir"));
    let server = Process::serve(&world.there);
    let put = |args: &[&str]| run(&world, &server.address, args);
    for file in ["a.jpg", "b.jpg", "2026/may/c.jpg", "2026/.hidden"] {
        let path = world.dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    fs::create_dir(world.dir.path().join("2026/empty")).unwrap();
    let output = put(&["a.jpg", "b.jpg", "roland-frei:photo"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("stored 2 files: "));
    let output = put(&["-r", "--json", "2026", "roland-frei:photo"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(r#""path":"photo/2026/may/c.jpg""#));
    let output = put(&["a.jpg", "roland-frei:photo/2026/as.jpg"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = put(&["a.jpg", "roland-frei:photo/2026"]);
    assert!(output.status.success(), "{}", said(&output));
    let photo = world.photo();
    for (path, text) in [
        ("a.jpg", "a.jpg"),
        ("b.jpg", "b.jpg"),
        ("2026/may/c.jpg", "2026/may/c.jpg"),
        ("2026/as.jpg", "a.jpg"),
        ("2026/a.jpg", "a.jpg"),
    ] {
        assert_eq!(
            fs::read_to_string(photo.join(path)).unwrap(),
            text,
            "{path}"
        );
    }
    assert!(photo.join("2026/empty").is_dir());
    // Once more, and nothing moves.
    let output = put(&["-r", "a.jpg", "2026", "roland-frei:photo"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("stored 0 files: "),
        "{}",
        said(&output)
    );
    assert!(said(&output).contains("2 identical"), "{}", said(&output));
    // Another file in the place of one.
    fs::write(world.dir.path().join("a.jpg"), "other").unwrap();
    for (args, code, words) in [
        (&["a.jpg", "roland-frei:photo"][..], 1, "use --conflict"),
        (
            &["a.jpg", "b.jpg", "roland-frei:photo"],
            3,
            "1 file not stored",
        ),
        (
            &["--conflict", "skip", "a.jpg", "roland-frei:photo"],
            0,
            "1 skipped",
        ),
        (
            &["--conflict", "overwrite", "a.jpg", "roland-frei:photo"],
            10,
            "right to remove",
        ),
        (
            &["--conflict", "rename", "a.jpg", "roland-frei:photo"],
            0,
            "stored 1 file",
        ),
        (&["2026", "roland-frei:photo"], 2, "add -r"),
        (
            &["a.jpg", "roland-frei:photo/none/a.jpg"],
            4,
            "photo/none does not exist, or you may not upload to it",
        ),
        (
            &["none.jpg", "roland-frei:photo"],
            4,
            "cannot open none.jpg",
        ),
        (&["a.jpg", "roland-frei"], 2, "a path is missing"),
        (&["a.jpg", "roland-frei:photo/x.rhai"], 1, "are reserved"),
        (&["a.jpg", "nobody:photo"], 12, "no contact nobody"),
        (&["a.jpg"], 2, "PEER:PATH"),
    ] {
        let output = put(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            said(&output)
        );
        assert!(said(&output).contains(words), "{args:?}: {}", said(&output));
    }
    assert_eq!(fs::read_to_string(photo.join("a_2.jpg")).unwrap(), "other");
}

/// Puts files while the server is killed again and again. What the program said is stored
/// lies there, whole; what it did not say gets there in the end; nothing else stays.
#[test]
fn a_server_that_is_killed_fifteen_times_loses_nothing_that_was_put() {
    for hooks in ["[OnMeta]\n", "[OnMeta]\n[OnReceived]\nr.rhai\n"] {
        let world = World::new(&sharing(hooks, "list put"));
        world.script("r.rhai", "state.add(event.path, 1);");
        fs::create_dir(world.photo().join("sub")).unwrap();
        let source = world.dir.path().join("source");
        fs::create_dir(&source).unwrap();
        let mut random = Random(7);
        let mut files = HashMap::new();
        for number in 0..60 {
            let name = format!("f{number}");
            let bytes = noise([0, 1_000, 70_000, 1_500_000][random.index(4)] + number);
            fs::write(source.join(&name), &bytes).unwrap();
            files.insert(name, bytes);
        }
        let names_of: Vec<String> = files.keys().map(|name| format!("source/{name}")).collect();
        let mut server = Process::serve(&world.there);
        let (mut kills, mut calls) = (0, 0);
        loop {
            let address = server.address.clone();
            let mut args = vec!["--json"];
            args.extend(names_of.iter().map(String::as_str));
            args.push("roland-frei:photo/sub");
            let output = std::thread::scope(|scope| {
                let putting = scope.spawn(|| run(&world, &address, &args));
                if kills < 15 {
                    // At a moment that looks random.
                    std::thread::sleep(Duration::from_millis(random.below(150)));
                    server.child.kill().unwrap();
                    server.child.wait().unwrap();
                    kills += 1;
                }
                putting.join().unwrap()
            });
            for line in String::from_utf8(output.stdout.clone()).unwrap().lines() {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                if line["status"] == "stored" || line["status"] == "same" {
                    let path = line["path"].as_str().unwrap();
                    let name = path.rsplit('/').next().unwrap();
                    // Its hooks may still have to run again.
                    let waits = names(&world.photo(), ".data");
                    let waits = waits.iter().map(|name| world.photo().join(name));
                    let mut places = waits.chain([world.receiver.path().join(path)]);
                    let is = |at| fs::read(at).is_ok_and(|is| is == files[name]);
                    assert!(places.any(is), "{path}");
                }
            }
            calls += 1;
            if output.status.success() {
                break;
            }
            assert!(calls < 100, "{}", said(&output));
            if !server.is_alive() {
                server = Process::serve(&world.there);
            }
        }
        if !server.is_alive() {
            server = Process::serve(&world.there);
        }
        // What a server that was killed left of earlier attempts is hidden, or goes soon after
        // the start of the next one; and no file has a second place.
        let left = || {
            let mut left = names(&world.photo(), "");
            left.retain(|name| !name.starts_with('.') && name != "m2y.config" && name != "r.rhai");
            left
        };
        let begun = std::time::Instant::now();
        while left() != ["sub"] {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{hooks}: {:?}",
                left()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(server.stop(), Some(0));
        for (name, bytes) in &files {
            let is = fs::read(world.photo().join("sub").join(name)).unwrap();
            assert!(is == *bytes, "{name}");
        }
        assert_eq!(names(&world.photo().join("sub"), "").len(), files.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leaves_no_room_for_a_number_is_taken() {
    let world = World::new(&sharing("[OnMeta]\n", "put"));
    let server = Local::serve(&world.there).await;
    let (local, other) = (world.file("a.jpg", b"mine"), world.file("b.jpg", b"other"));
    let path = format!("photo/{}.jpg", "n".repeat(251));
    let put = |local, path| put_as(&world, &server.address, local, path, Conflict::Rename);
    assert_eq!(put(&local, &path).await.unwrap(), at(&path));
    let again = tokio::time::timeout(Duration::from_secs(20), put(&other, &path)).await;
    let again = again.expect("it looks for a name for ever");
    assert_eq!(again.unwrap_err().code, Code::Exists);
    // Nobody waits behind it.
    put(&other, "photo/b").await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_path_is_the_name_that_it_arrived_under_stays() {
    let hooks = "[OnMeta]\n[OnReceived]\nreceived.rhai\n";
    let world = World::new(&sharing(hooks, "put"));
    world.script("received.rhai", "");
    let server = Local::serve(&world.there).await;
    let local = world.file("a.jpg", b"mine");
    loop {
        let name = format!("{ZHENQIANG}_{}.data", datetime_now());
        let path = format!("photo/{name}");
        let stored = put(&world, &server.address, &local, &path).await;
        // It is there, whatever was said of it.
        stored.unwrap();
        let is = fs::read(world.photo().join(&name)).unwrap_or_default();
        assert_eq!(is, b"mine", "{name}");
        if world.arrived(".data").len() == 1 {
            break;
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_did_not_hear_that_it_is_there_hears_it_without_leave_to_look() {
    let world = World::new(&sharing("[OnMeta]\n", "put"));
    let server = Local::serve(&world.there).await;
    let local = world.file("large.bin", &noise(200_000));
    for conflict in [Conflict::Refuse, Conflict::Overwrite] {
        for _ in 0..2 {
            let path = "photo/l.bin";
            let tried = attempt(&world, &server.address, &local, path, conflict);
            let (job, result) = tried.await.unwrap();
            result.unwrap();
            // Nobody may say that hooks have it.
            assert_eq!(job.place(), Some((path, false)));
        }
    }
    server.stop().await;
    assert_eq!(there(&world), ["l.bin"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_sent_waits_where_its_name_was_taken_meanwhile() {
    let world = World::new("[OnMeta]\ntake.sh\n");
    // The first time, somebody else's file gets the name that this one was to get.
    world.script(
        "take.sh",
        "#!/bin/sh\n[ -e taken ] && exit 0\ntouch taken\nfor m in *.meta; do touch \"${m%.meta}.data\"; done\n",
    );
    let server = Local::serve(&world.there).await;
    let local = world.file("a.jpg", &noise(200_000));
    let meta = world.meta("photo", &local);
    let error = common::deliver(&meta, &server.address).await.unwrap_err();
    assert_eq!(error.code, Code::Later, "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_did_not_come_to_remove_goes_when_it_starts() {
    let world = World::new(&sharing("[OnMeta]\n", "put"));
    let server = Local::serve(&world.there).await;
    let local = world.file("a.jpg", b"mine");
    let path = "photo/a.jpg";
    let tried = attempt(&world, &server.address, &local, path, Conflict::Refuse);
    let (_, result) = tried.await.unwrap();
    let mut meta = result.unwrap();
    server.stop().await;
    assert_eq!(there(&world), ["a.jpg"]);
    let modified = local.metadata().unwrap().modified().unwrap();
    let modified = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // It was killed between the two: the file has its path, and its .meta is still there.
    let destination = Destination {
        path: TreePath::parse("a.jpg").unwrap(),
        modified: modified.as_nanos().try_into().unwrap(),
        conflict: Conflict::Refuse,
        keeps_meta: false,
    };
    destination.note(&mut meta);
    let left = format!("{}_{}.meta", meta.from, meta.datetime);
    fs::write(world.photo().join(left), meta.to_file()).unwrap();
    let server = Local::serve(&world.there).await;
    wait_for(|| there(&world) == ["a.jpg"]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_puts_what_would_pass_for_the_file_of_another() {
    let world = World::new(&sharing("[OnMeta]\n", "list put rm"));
    let server = Local::serve(&world.there).await;
    let local = world.file("a.jpg", b"mine");
    // Of a file that is still on its way, or was refused.
    let stem = format!("{PETER}_30-12-2018_23-59-59");
    fs::write(world.photo().join(format!("{stem}.meta")), "{}").unwrap();
    let path = format!("photo/{stem}.data");
    for conflict in [Conflict::Refuse, Conflict::Overwrite] {
        let error = put_as(&world, &server.address, &local, &path, conflict).await;
        assert_eq!(error.unwrap_err().code, Code::Exists);
    }
    let joined = put_as(&world, &server.address, &local, &path, Conflict::Rename).await;
    assert_eq!(joined.unwrap(), at(&format!("photo/{stem}_2.data")));
    server.stop().await;
    assert!(!world.photo().join(format!("{stem}.data")).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_news_hears_of_what_was_put_under_its_name_and_of_nothing_else() {
    let news = "[OnNew]\nsay.rhai\n[OnChanged]\nsay.rhai\n[OnDeleted]\nsay.rhai\n";
    for hooks in ["", "[OnReceived]\nr.rhai\n", "[OnReceived]\nprogram.sh\n"] {
        let config = format!("[OnMeta]\n{hooks}{news}");
        let world = World::new(&sharing(&config, "put rm"));
        let ini = "[watch]\nsettle = 100ms\n[hooks]\nexecutables = all\n";
        fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
        world.script("say.rhai", "notify.inbox(`|${event.name} ${event.file}`);");
        world.script("r.rhai", "");
        world.script("program.sh", "#!/bin/sh\n");
        let server = Local::serve(&world.there).await;
        let told = || {
            let text = fs::read_to_string(world.receiver.path().join("inbox.log"));
            let text = text.unwrap_or_default();
            let lines = text.lines().map(|line| line.split_once('|').unwrap().1);
            let lines = lines.map(|line| line.rsplit_once(" [").unwrap().0);
            // The program is new in the folder too.
            let files = lines.filter(|line| !line.ends_with(" program.sh"));
            files.map(str::to_owned).collect::<Vec<_>>()
        };
        let (local, other) = (world.file("a", b"mine"), world.file("b", b"others"));
        let file = fs::File::options().write(true).open(&local).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
            .unwrap();
        for (local, conflict, all) in [
            (&local, Conflict::Refuse, vec!["OnNew a.txt"]),
            (
                &other,
                Conflict::Rename,
                vec!["OnNew a.txt", "OnNew a_2.txt"],
            ),
            (
                &other,
                Conflict::Overwrite,
                vec!["OnNew a.txt", "OnNew a_2.txt", "OnChanged a.txt"],
            ),
        ] {
            put_as(&world, &server.address, local, "photo/a.txt", conflict)
                .await
                .unwrap();
            let until = std::time::Instant::now() + Duration::from_secs(10);
            while told().len() < all.len() && std::time::Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(told(), all, "{hooks}");
        }
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_files_for_one_path_the_second_hears_of_the_first_also_while_hooks_run() {
    let hooks = "[OnMeta]\n[OnReceived]\nreceived.rhai\n";
    let world = World::new(&sharing(hooks, "list put"));
    world.script("received.rhai", "");
    let server = Process::serve(&world.there);
    fs::create_dir(world.dir.path().join("d")).unwrap();
    world.file("a.jpg", b"mine");
    world.file("d/a.jpg", b"other");
    let args = ["a.jpg", "d/a.jpg", "roland-frei:photo"];
    let output = run(&world, &server.address, &args);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(
        said(&output).contains("use --conflict"),
        "{}",
        said(&output)
    );
    // The path is free for who says what to do.
    let args = [
        "--conflict",
        "rename",
        "d/a.jpg",
        "a.jpg",
        "roland-frei:photo",
    ];
    let output = run(&world, &server.address, &args);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(server.stop(), Some(0));
    let left = there(&world);
    assert!(!left.iter().any(|name| name.ends_with(".data")), "{left:?}");
    let texts = ["a.jpg", "a_2.jpg"].map(|name| fs::read(world.photo().join(name)).unwrap());
    assert_ne!(texts[0], texts[1]);
}
