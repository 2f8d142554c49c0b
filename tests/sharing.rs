//! What hooks say to contacts who look and fetch: OnList, OnGet, OnSent.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use cap_std::{ambient_authority, fs::Dir};
use common::{Local, ROLAND, World, ZHENQIANG, names, store::Memory};
use m2y::{
    client::{Route, peer::Peer},
    error::{Code, Error},
    journal::{self, Journal},
    observer::Unobserved,
    root::conflict::Conflict,
    transfer::receive::download::Download,
};

const SHARE: &str = "[share]\nzhenqiang = list get mkdir rm mv\n";

async fn peer(world: &World, address: &str) -> Peer {
    let route = Route::to(&world.sender, ROLAND, Some(address)).unwrap();
    Peer::connect(&route, Arc::new(Unobserved)).await.unwrap()
}

/// What a listing shows, sorted.
async fn list(peer: &Peer, path: &str) -> Result<Vec<String>, Error> {
    let mut listing = peer.list(path, true)?;
    let mut paths = Vec::new();
    while let Some(entries) = listing.next().await {
        paths.extend(entries?.into_iter().map(|entry| entry.path));
    }
    paths.sort();
    Ok(paths)
}

/// Fetches a file; its bytes.
async fn get(world: &World, peer: &Peer, path: &str) -> Result<Vec<u8>, Error> {
    let to = world.dir.path().join("fetched");
    let _ = fs::remove_dir_all(&to);
    fs::create_dir(&to).unwrap();
    let dir = Arc::new(Dir::open_ambient_dir(&to, ambient_authority()).unwrap());
    let download = Download::new(&dir, "file", Conflict::Refuse, (ROLAND, path), 100).unwrap();
    let downloaded = peer.get(path, download)?.downloaded().await?;
    assert_eq!(downloaded.name, "file");
    Ok(fs::read(to.join("file")).unwrap())
}

fn is_missing<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.unwrap_err();
    let told = (error.code, error.sentence.as_str());
    assert_eq!(told, (Code::NotFound, "no such file or directory"));
}

fn fill(world: &World) {
    for (name, text) in [("a.jpg", "a"), ("b.tmp", "b"), ("draft.txt", "d")] {
        fs::write(world.photo().join(name), text).unwrap();
    }
    fs::create_dir(world.photo().join("sub")).unwrap();
    fs::write(world.photo().join("sub/c.tmp"), "c").unwrap();
    fs::write(world.photo().join("sub/e.jpg"), "e").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hook_hides_is_neither_listed_nor_given_nor_changed() {
    let world = World::new(&format!("[OnMeta]\n[OnList]\nhide.rhai\n{SHARE}"));
    world.script(
        "hide.rhai",
        "if event.contact == \"zhenqiang\" { hide([\"*.tmp\", \"draft*\"]); }",
    );
    fill(&world);
    let server = Local::serve(&world.there).await;
    let peer = peer(&world, &server.address).await;
    let shown = ["a.jpg", "sub", "sub/e.jpg"];
    assert_eq!(list(&peer, "photo").await.unwrap(), shown);
    let below = shown.map(|path| format!("photo/{path}"));
    let all = [&["photo".to_owned()], below.as_slice()].concat();
    assert_eq!(list(&peer, "").await.unwrap(), all);
    for path in ["photo/b.tmp", "photo/draft.txt", "photo/sub/c.tmp"] {
        is_missing(peer.stat(path).await);
        is_missing(get(&world, &peer, path).await);
        is_missing(peer.remove(path).await);
        is_missing(peer.rename(path, "photo/seen").await);
        is_missing(peer.rename("photo/a.jpg", path).await);
    }
    assert_eq!(get(&world, &peer, "photo/sub/e.jpg").await.unwrap(), b"e");
    drop(peer);
    server.stop().await;
    assert!(world.photo().join("b.tmp").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hook_refuses_looks_like_what_is_not_there() {
    let world = World::new(&format!(
        "[OnMeta]\n[OnList]\nlist.rhai\n[OnGet]\nget.rhai\n{SHARE}"
    ));
    world.script(
        "list.rhai",
        "if event.path == \"sub\" { reject(\"private\"); }",
    );
    world.script(
        "get.rhai",
        "if event.path.starts_with(\"draft\") { throw \"a draft\"; }",
    );
    fill(&world);
    let server = Local::serve(&world.there).await;
    let peer = peer(&world, &server.address).await;
    is_missing(list(&peer, "photo/sub").await);
    is_missing(list(&peer, "photo/nothing").await);
    is_missing(get(&world, &peer, "photo/draft.txt").await);
    is_missing(get(&world, &peer, "photo/drafts").await);
    assert_eq!(get(&world, &peer, "photo/a.jpg").await.unwrap(), b"a");
    // Edited while the server runs; a check that fails, or is gone, lets nobody in.
    world.script("get.rhai", "launch();");
    is_missing(get(&world, &peer, "photo/a.jpg").await);
    let config = world.photo().join("m2y.config");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("get.rhai", "gone.rhai")).unwrap();
    is_missing(get(&world, &peer, "photo/a.jpg").await);
    drop(peer);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_hears_of_a_file_that_was_fetched_and_again_until_it_succeeds() {
    let world = World::new(&format!("[OnMeta]\n[OnSent]\nsent.rhai\n{SHARE}"));
    fs::write(
        world.there.path().join("m2y.ini"),
        "[hooks]\nretry_delay = 20ms\n",
    )
    .unwrap();
    world.script(
        "sent.rhai",
        "if !folder.exists(\"go\") { throw \"not yet\"; }\n\
         notify.inbox(`${event.contact} has ${event.path}`);",
    );
    fill(&world);
    let server = Local::serve(&world.there).await;
    let peer = peer(&world, &server.address).await;
    assert_eq!(get(&world, &peer, "photo/sub/e.jpg").await.unwrap(), b"e");
    let inbox = world.receiver.path().join("inbox.log");
    let begun = Instant::now();
    let journal = Journal::open(&world.there).unwrap();
    let db = journal.reader().unwrap();
    let failed = |entry: &journal::Entry| entry.attempts >= 2;
    while !journal::list(&db, None, 9).unwrap().iter().any(failed) {
        assert!(begun.elapsed() < Duration::from_secs(30), "it did not fail");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fs::write(world.photo().join("go"), "").unwrap();
    let said = loop {
        let said = fs::read_to_string(&inbox).unwrap_or_default();
        if !said.is_empty() {
            break said;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "nobody was told");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(
        said.contains(&format!("{ZHENQIANG} has sub/e.jpg")),
        "{said}"
    );
    drop(peer);
    server.stop().await;
    assert_eq!(
        fs::read_to_string(&inbox).unwrap(),
        said,
        "it was told once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_that_nobody_wants_any_more_leave_room_for_others() {
    let world = World::in_memory(&format!("[OnMeta]\n{SHARE}"));
    // More than a server sends before it hears that something was read.
    for number in 0..8_000 {
        fs::write(world.photo().join(number.to_string()), "").unwrap();
    }
    let server = Local::serve(&world.there).await;
    let peer = peer(&world, &server.address).await;
    for _ in 0..60 {
        drop(peer.list("photo", true).unwrap());
        peer.stat("photo/1").await.unwrap();
    }
    assert_eq!(list(&peer, "photo").await.unwrap().len(), 8_000);
    drop(peer);
    // It waits for no last word.
    let stopped = tokio::time::timeout(Duration::from_secs(20), server.stop());
    stopped.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_rest_outside_of_the_folder_are_seen_by_scripts_and_contacts_alike() {
    let config = "[OnMeta]\n[OnReceived]\nlook.rhai\n[share]\nzhenqiang = list get rm mv\n";
    let world = World::new(config);
    world.script(
        "look.rhai",
        "let came = event.data_file;
         notify.inbox(`${folder.read(came)} ${hash.crc32(came)} ${folder.bytes_from(meta.from)}`);
         folder.rename(came, \"sea.txt\");
         folder.write(\"note.txt\", \"by the way\");
         notify.inbox(`${folder.list(\"*.txt\").len()} texts`);",
    );
    let contents = Memory::default();
    let store = Arc::new(contents.clone());
    let server = Local::storing(&world.there, move |_| store.clone()).await;
    let file = world.file("f", b"hello");
    world.deliver(&server.address, &file).await.unwrap();
    let notices = fs::read_to_string(world.receiver.path().join("inbox.log")).unwrap();
    let crc = crc32fast::hash(b"hello");
    assert!(notices.contains(&format!("hello {crc} 5 [")), "{notices}");
    assert!(notices.contains("2 texts ["), "{notices}");

    // What the script did survives a loss of power, and leaves no second name.
    let safe: Vec<String> = contents.after_power_loss().into_keys().collect();
    assert_eq!(safe, ["note.txt", "sea.txt"]);

    let peer = peer(&world, &server.address).await;
    let paths = ["note.txt", "sea.txt"];
    assert_eq!(list(&peer, "photo").await.unwrap(), paths);
    assert_eq!(get(&world, &peer, "photo/sea.txt").await.unwrap(), b"hello");
    peer.rename("photo/sea.txt", "photo/lake.txt")
        .await
        .unwrap();
    peer.remove("photo/note.txt").await.unwrap();
    assert_eq!(list(&peer, "photo").await.unwrap(), ["lake.txt"]);
    assert_eq!(
        get(&world, &peer, "photo/lake.txt").await.unwrap(),
        b"hello"
    );
    server.stop().await;
    // The folder holds documents only.
    assert_eq!(names(&world.photo(), ".txt"), [""; 0]);
    assert_eq!(names(&world.photo(), ".data"), [""; 0]);
    assert_eq!(contents.after_power_loss()["lake.txt"], b"hello");
}

/// The names of the files that arrived in the folder, as its owner sees them.
fn contents(world: &World) -> Vec<String> {
    names(&world.photo(), ".data")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_its_hooks_have_not_accepted_is_there_for_nobody() {
    let share = "[share]\nzhenqiang = list get put mkdir rm mv\n";
    let world = World::new(&format!("[OnMeta]\n[OnReceived]\nscan.sh\n{share}"));
    let ini = "[hooks]\nexecutables = all\nretry_delay = 5ms\nretry_limit = 10000\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    // The scanner is down until there is a file `up`, and works while there is one `busy`.
    world.script(
        "scan.sh",
        "#!/bin/sh\ntouch ../began; while [ -e ../busy ]; do sleep 0.01; done\n[ -e ../up ]\n",
    );
    let at = world.receiver.path();
    fs::write(at.join("busy"), "").unwrap();
    let server = Local::serve(&world.there).await;
    let peer = peer(&world, &server.address).await;
    let file = world.file("f", b"what was sent");
    let address = server.address.clone();
    let meta = world.meta("photo", &file);
    let sending = tokio::spawn(async move { common::deliver(&meta, &address).await });
    while !at.join("began").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let name = contents(&world).pop().unwrap();
    let path = format!("photo/{name}");
    let before = fs::read(world.photo().join(&name)).unwrap();
    for is_down in [false, true] {
        assert_eq!(list(&peer, "photo").await.unwrap(), Vec::<String>::new());
        is_missing(list(&peer, &path).await);
        is_missing(get(&world, &peer, &path).await);
        is_missing(peer.remove(&path).await);
        is_missing(peer.rename(&path, "photo/mine").await);
        fs::write(world.photo().join("mine"), "mine").unwrap();
        assert!(peer.rename("photo/mine", &path).await.is_err());
        fs::remove_file(world.photo().join("mine")).unwrap();
        assert_eq!(fs::read(world.photo().join(&name)).unwrap(), before);
        if !is_down {
            // From now on the scanner fails, and the file waits for the next attempt.
            fs::remove_file(at.join("busy")).unwrap();
        }
    }
    sending.await.unwrap().unwrap();
    assert_eq!(list(&peer, "photo").await.unwrap(), Vec::<String>::new());
    fs::write(at.join("up"), "").unwrap();
    let begun = Instant::now();
    while list(&peer, "photo").await.unwrap() != [name.as_str()] {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(get(&world, &peer, &path).await.unwrap(), b"what was sent");
    server.stop().await;
}
