//! Every example of `examples/hooks` does what its README says, and the one of the library runs.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;
#[allow(dead_code)]
#[path = "../examples/library.rs"]
mod library;
mod servers;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use common::{Local, PETER, ROLAND, World, ZHENQIANG, read_meta, samples};
use hyper::{Response, body::Bytes};
use m2y::{
    error::{Code, Error},
    event::{Event, EventId, Kind, Outcome, Subject, Verdict},
    hooks::{Pinned, dispatch::Dispatcher},
    json,
    meta::Meta,
    root::{config::Config, user::User},
    store::{Stores, quarantine},
};
use servers::{
    http::Http,
    smtp::{Smtp, Ways},
};
use sha2::{Digest, Sha256};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/hooks")
}

/// A world whose folder `photo` has been made as the README of the example says; programs
/// run only from `ROOT/scripts`.
fn installed(example: &str) -> World {
    installed_with(example, |config| config)
}

fn installed_with(example: &str, change: impl Fn(String) -> String) -> World {
    let world = World::new("");
    fs::write(world.there.path().join("m2y.ini"), "").unwrap();
    fs::create_dir_all(world.there.path().join("scripts")).unwrap();
    install(&world, &world.receiver, example, change);
    world
}

fn install(world: &World, user: &User, example: &str, change: impl Fn(String) -> String) {
    let folder = user.path().join("photo");
    for entry in fs::read_dir(examples().join(example)).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        if file == "m2y.config" {
            let config = change(fs::read_to_string(&path).unwrap());
            fs::write(folder.join(file), config).unwrap();
        } else if file.ends_with(".sh") {
            // With its run bit.
            fs::copy(&path, world.there.path().join("scripts").join(file)).unwrap();
        } else if file.ends_with(".rhai") && !file.ends_with("_test.rhai") {
            fs::copy(&path, folder.join(file)).unwrap();
        }
    }
}

/// Another setting than that of the example.
fn put(config: &str, line: &str, instead: &str) -> String {
    assert!(config.contains(line), "{line:?} is not in\n{config}");
    config.replace(line, instead)
}

async fn deliver(world: &World, server: &Local, file: &str, bytes: &[u8]) -> Result<Meta, Error> {
    let file = world.file(file, bytes);
    world.deliver(&server.address, &file).await
}

#[track_caller]
fn refused(result: Result<Meta, Error>, words: &str) {
    let error = result.expect_err("it was let in");
    assert_eq!(error.code, Code::Refused, "{error}");
    assert!(error.sentence.contains(words), "{error}");
}

/// Why each file of the folder is in quarantine.
fn quarantined(world: &World) -> Vec<String> {
    let folder = world.receiver.folder(&common::name("photo")).unwrap();
    let held = quarantine::list(&*Stores::default().of(&folder), &folder).unwrap();
    held.into_iter()
        .map(|(_, meta)| meta.unwrap().extra["quarantine"].as_str().unwrap().into())
        .collect()
}

fn inbox(world: &World) -> String {
    fs::read_to_string(world.receiver.path().join("inbox.log")).unwrap_or_default()
}

/// Fires an event of the folder, as the server does when it sees a file or a time comes.
async fn fire(world: &World, kind: Kind, file: Option<&str>) -> Verdict {
    let folder = world.receiver.folder(&common::name("photo")).unwrap();
    let event = Event {
        id: EventId::new().unwrap(),
        kind,
        config: folder.config().unwrap(),
        folder,
        file: file.map(str::to_owned),
        subject: None,
        asked: None,
        store: None,
    };
    let settings = world.there.settings().unwrap();
    let dispatcher = Dispatcher::new(&world.there, &settings).unwrap();
    let verdict = dispatcher.fire(event, &Pinned::default()).await;
    assert_eq!(verdict.runs.len(), 1, "a script ran");
    verdict
}

/// Has the scripts behind a time of `[OnSchedule]` run, whatever time it is.
fn at_once(config: String) -> String {
    let parsed = Config::parse(&config).unwrap();
    if parsed
        .scripts("OnSchedule")
        .iter()
        .all(|s| s.ends_with(".rhai"))
    {
        return config;
    }
    let line = config.lines().find(|line| line.contains(" * * * = "));
    let (_, script) = line.unwrap().split_once('=').unwrap();
    put(&config, line.unwrap(), script.trim())
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn album_puts_pictures_into_the_album_of_their_year() {
    let world = installed("album");
    let server = Local::serve(&world.there).await;
    let meta = deliver(&world, &server, "a.png", b"x").await.unwrap();
    let album = format!("album {}", &meta.datetime[6..10]);
    assert_eq!(meta.extra["album"], album.as_str());
    refused(
        deliver(&world, &server, "a.txt", b"x").await,
        "only pictures",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pictures_takes_what_is_a_picture_and_not_what_is_called_so() {
    let world = installed("onlyPictures");
    let server = Local::serve(&world.there).await;
    let pictures: [(&str, &[u8]); 4] = [
        ("a.png", PNG),
        ("b.JPEG", b"\xff\xd8\xff\xe0 and so on"),
        ("c.gif", b"GIF89a and so on"),
        ("d.webp", b"RIFF\x24\x00\x00\x00WEBPVP8 "),
    ];
    for (n, (file, bytes)) in pictures.into_iter().enumerate() {
        deliver(&world, &server, file, bytes).await.unwrap();
        assert_eq!(world.arrived(".data").len(), n + 1, "{file}");
    }
    refused(
        deliver(&world, &server, "e.mp3", PNG).await,
        "only pictures, please",
    );
    for (n, bytes) in [b"MZ".as_slice(), b"", b"RIFF\x24\x00\x00\x00WAVEfmt "]
        .into_iter()
        .enumerate()
    {
        let file = format!("f{n}.jpg");
        deliver(&world, &server, &file, bytes).await.unwrap();
        assert_eq!(quarantined(&world).len(), n + 1);
    }
    assert_eq!(world.arrived(".data").len(), 4);
    assert_eq!(quarantined(&world)[0], "calls itself a picture and is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pictures_removes_what_is_none_where_it_is_told_to() {
    let world = installed_with("onlyPictures", |config| {
        put(&config, "otherwise = quarantine", "otherwise = remove")
    });
    let server = Local::serve(&world.there).await;
    deliver(&world, &server, "a.jpg", b"MZ").await.unwrap();
    assert!(world.arrived(".data").is_empty() && world.arrived(".meta").is_empty());
    assert!(quarantined(&world).is_empty());
    assert!(inbox(&world).contains("a.jpg of zhenqiang was no picture"));
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_refuses_who_has_used_up_a_share() {
    let world = installed_with("quota", |config| {
        put(&put(&config, "= 2G", "= 1Ki"), "= 10G", "= 2Ki")
    });
    let server = Local::serve(&world.there).await;
    let kilobyte = common::noise(1_024);
    deliver(&world, &server, "a", &kilobyte).await.unwrap();
    refused(
        deliver(&world, &server, "b", b"x").await,
        "1024 bytes in this folder is used up",
    );
    // What is taken away makes room, but not in the month.
    for file in world.arrived("") {
        if file.starts_with(ZHENQIANG) {
            fs::remove_file(world.photo().join(file)).unwrap();
        }
    }
    deliver(&world, &server, "c", &kilobyte[..1_000])
        .await
        .unwrap();
    fs::remove_file(world.photo().join(&world.arrived(".data")[0])).unwrap();
    refused(
        deliver(&world, &server, "d", &kilobyte[..25]).await,
        "2048 bytes a month is used up",
    );
    deliver(&world, &server, "e", &kilobyte[..24])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sort_by_date_names_files_and_moves_them_to_their_year() {
    let world = installed("sortByDate");
    let server = Local::serve(&world.there).await;
    let sent = deliver(&world, &server, "sea.jpg", b"1").await.unwrap();
    let parts: Vec<&str> = sent.datetime.split(['-', '_']).collect();
    let date = |sent: &Meta| {
        let (day, time) = sent.datetime.split_once('_').unwrap();
        let day: Vec<&str> = day.split('-').rev().collect();
        format!("{}_{time}", day.join("-"))
    };
    // There is no folder of that year, so it stays.
    let name = format!("{} sea", date(&sent));
    assert_eq!(world.arrived(".jpg"), [format!("{name}.jpg")]);
    assert_eq!(world.arrived(".meta"), [format!("{name}.meta")]);
    assert!(world.arrived(".data").is_empty());

    let year = world.folder(&format!("photo-{}", parts[2]), common::OPEN);
    let sent = deliver(&world, &server, "m2y.config", b"2").await.unwrap();
    let name = format!("{} m2y.config_", date(&sent));
    assert_eq!(common::names(year.path(), ".config_"), [name]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sort_pictures_moves_them_to_the_month_when_they_were_taken() {
    let world = installed("sortPictures");
    let server = Local::serve(&world.there).await;
    let photo = samples::photo();
    let path = |path: &str| world.photo().join(path);
    for _ in 0..2 {
        deliver(&world, &server, "sea.JPG", &photo).await.unwrap();
    }
    for name in ["2026/05/sea", "2026/05/sea_2"] {
        assert_eq!(fs::read(path(&format!("{name}.jpg"))).unwrap(), photo);
        assert_eq!(
            read_meta(&path(&format!("{name}.meta"))).filename,
            "sea.JPG"
        );
    }
    let undated = samples::png(&[], (1, 1));
    deliver(&world, &server, "chart.png", &undated)
        .await
        .unwrap();
    assert_eq!(fs::read(path("undated/chart.png")).unwrap(), undated);
    deliver(&world, &server, "a.jpg", b"MZ").await.unwrap();
    assert_eq!(world.arrived(".data").len(), 1);
    let long = format!("{}.jpg", "ü".repeat(120));
    deliver(&world, &server, &long, &photo).await.unwrap();
    assert_eq!(fs::read_dir(path("2026/05")).unwrap().count(), 6);
    assert_eq!(world.arrived(".data").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sort_pictures_refuses_what_is_none_where_it_is_told_to() {
    let world = installed_with("sortPictures", |config| {
        put(&config, "otherwise = leave", "otherwise = refuse")
    });
    let server = Local::serve(&world.there).await;
    let result = deliver(&world, &server, "a.jpg", b"MZ").await;
    refused(result, "only pictures, please");
    assert!(world.arrived(".data").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn forward_hands_files_on_and_never_in_a_circle() {
    let world = installed("forward");
    let peter = common::person(&world.there, PETER);
    common::introduce(&world.receiver, &peter);
    peter.create_folder(&common::name("photo")).unwrap();
    // He sends all that he gets to Roland.
    install(&world, &peter, "forward", |config| {
        let config = put(&config, "to     = peter-norton", "to     = roland-frei");
        put(&config, "zhenqiang = always", "roland-frei = always")
    });
    let server = Local::serve(&world.there).await;
    deliver(&world, &server, "sea.jpg", PNG).await.unwrap();
    let to_be_sent = |user: &User| {
        let dir = user.path().join("photo");
        let metas = common::names(&dir, ".meta").into_iter();
        let own = metas.filter(|file| read_meta(&dir.join(file)).from == user.name().as_str());
        own.map(|file| dir.join(file)).collect::<Vec<_>>()
    };
    until("a .meta for Peter", || {
        to_be_sent(&world.receiver).len() == 1
    })
    .await;
    let meta = &to_be_sent(&world.receiver)[0];
    common::deliver(meta, &server.address).await.unwrap();

    let at_peter = common::read_metas(&peter.path().join("photo"), ".meta");
    assert_eq!(at_peter.len(), 1);
    assert_eq!(at_peter[0].filename, "sea.jpg");
    assert_eq!(at_peter[0].from, ROLAND);
    let via: Vec<&str> = at_peter[0].extra["via"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_str().unwrap())
        .collect();
    assert_eq!(via, [ZHENQIANG]);
    // Long enough for what the journal has.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(to_be_sent(&peter).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn outbox_sends_what_is_put_into_the_folder() {
    let world = installed("outbox");
    // Zhenqiang receives, this time.
    let folder = world.sender.create_folder(&common::name("photo")).unwrap();
    fs::write(folder.path_of("m2y.config"), common::OPEN).unwrap();
    let (here, there) = (
        Local::serve(&world.here).await,
        Local::serve(&world.there).await,
    );
    fs::write(world.photo().join("report.pdf"), "%PDF").unwrap();
    fs::write(world.photo().join("half.part"), "%P").unwrap();
    until("a .meta for Zhenqiang", || {
        !world.arrived(".meta").is_empty()
    })
    .await;
    assert_eq!(world.arrived(".meta"), ["report.meta"]);
    common::deliver(&world.photo().join("report.meta"), &here.address)
        .await
        .unwrap();
    assert_eq!(world.arrived(".done"), ["report.done"]);
    assert!(world.photo().join("report.pdf").exists());
    let arrived = common::names(folder.path(), ".data");
    assert_eq!(fs::read(folder.path_of(&arrived[0])).unwrap(), b"%PDF");
    // It takes nothing.
    deliver(&world, &there, "a", b"x").await.unwrap_err();
}

/// Names as long as a sender may give a file: 4,096 bytes.
fn longest_names() -> Vec<String> {
    let most = m2y::meta::MAX_TEXT;
    ["a", "ü", "€", "🦀", "\"", "\u{1}", ".", "İ"]
        .map(|c| {
            let room = most - ".png".len();
            let (fits, rest) = (room / c.len(), room % c.len());
            let name = format!("{}{}.png", c.repeat(fits), "x".repeat(rest));
            assert_eq!(name.len(), most);
            name
        })
        .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_and_bundled_hook_takes_the_longest_name_of_a_file() {
    let mut ran = std::collections::BTreeSet::new();
    for example in fs::read_dir(examples()).unwrap() {
        let example = example.unwrap();
        if !example.path().is_dir() {
            continue;
        }
        let example = example.file_name().into_string().unwrap();
        let world = installed(&example);
        program(&world, "scanner", "#!/bin/sh\nexit 0\n");
        let peter = common::person(&world.there, PETER);
        common::introduce(&world.receiver, &peter);
        let folder = world.receiver.folder(&common::name("photo")).unwrap();
        let settings = world.there.settings().unwrap();
        let dispatcher = Dispatcher::new(&world.there, &settings).unwrap();
        // What these two look at.
        let contents = if example == "invoices" { b"%PDF" } else { PNG };
        let digest = hex::encode(Sha256::digest(contents));
        fs::write(folder.path_of("allowed.txt"), digest).unwrap();
        for (n, filename) in longest_names().into_iter().enumerate() {
            let mut meta = common::document(ZHENQIANG, ROLAND, "photo");
            meta.filename = filename;
            meta.filesize = Some(contents.len() as u64);
            meta.datetime = m2y::meta::datetime_now();
            for kind in [Kind::Meta, Kind::Received] {
                let stem = format!("zhenqiang_{n}");
                fs::write(folder.path_of(&format!("{stem}.meta")), meta.to_file()).unwrap();
                fs::write(folder.path_of(&format!("{stem}.data")), contents).unwrap();
                let event = Event {
                    id: EventId::new().unwrap(),
                    kind,
                    config: folder.config().unwrap(),
                    folder: folder.clone(),
                    file: Some(format!("{stem}.data")),
                    subject: Some(Subject {
                        meta: meta.clone(),
                        stem,
                    }),
                    asked: None,
                    store: None,
                };
                let verdict = dispatcher.fire(event, &Pinned::default()).await;
                let name = &meta.filename[..meta.filename.ceil_char_boundary(8)];
                let said = format!("{example} {kind} {name:?}: {:?}", verdict.runs);
                assert_eq!(verdict.outcome, Outcome::Accepted, "{said}");
                ran.extend(verdict.runs.into_iter().map(|run| run.script));
                meta = verdict.meta.unwrap();
            }
        }
    }
    for script in ["checkPermission.rhai", "notifyUser.rhai", "scan.sh"] {
        assert!(ran.contains(script), "{script}: {ran:?}");
    }
}

const EICAR: &str = "X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*";

/// Puts a program into `ROOT/scripts`.
fn program(world: &World, file: &str, text: &str) {
    let path = world.there.path().join("scripts").join(file);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn scan_puts_what_the_scanner_finds_into_quarantine() {
    let world = installed("scan");
    let scripts = world.there.path().join("scripts");
    fs::rename(scripts.join("fakeScanner.sh"), scripts.join("scanner")).unwrap();
    let server = Local::serve(&world.there).await;
    deliver(&world, &server, "good.txt", b"hello")
        .await
        .unwrap();
    let meta = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
    assert_eq!(meta.extra["scan"], "clean");

    // Its sender says that it is clean.
    let path = world.meta("photo", &world.file("bad.txt", EICAR.as_bytes()));
    let mut claims = read_meta(&path);
    claims.extra.insert("scan".to_owned(), "clean".into());
    fs::write(&path, claims.to_file()).unwrap();
    common::deliver(&path, &server.address).await.unwrap();
    assert_eq!(quarantined(&world), ["found Eicar-Test-Signature"]);
    assert_eq!(world.arrived(".data").len(), 1);
    assert!(
        common::names(&world.photo(), "")
            .iter()
            .all(|f| !f.starts_with(".scan"))
    );

    // Where the scanner fails, the file is not let through, and waits.
    program(&world, "scanner", "#!/bin/sh\nexit 2\n");
    deliver(&world, &server, "c.txt", EICAR.as_bytes())
        .await
        .unwrap();
    let waiting = common::read_metas(&world.photo(), ".meta");
    let waiting = waiting
        .iter()
        .find(|meta| meta.filename == "c.txt")
        .unwrap();
    assert_eq!(waiting.extra["pendingHook"], "OnReceived");
    assert_eq!(waiting.extra["scan"], "to do");
}

/// Stands in for ImageMagick: takes only what it is told to be a PNG.
const MAGICK: &str = r#"#!/bin/sh
for last; do case $last in png:*) from=${last#png:};; esac; done
[ -n "${from-}" ] || exit 1
head -c 8 "${from%\[0\]}" > "${last#jpeg:}"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn thumbnail_puts_a_small_picture_beside_a_picture() {
    let world = installed("thumbnail");
    // A program sees the PATH of the server; that of a test stays as it is, so the script
    // finds the tool where this line says.
    program(&world, "magick", MAGICK);
    let script = world.there.path().join("scripts/thumbnail.sh");
    let text = fs::read_to_string(&script).unwrap();
    let path = "set -u\nPATH=$(dirname \"$0\"):$PATH\n";
    program(&world, "thumbnail.sh", &put(&text, "set -u\n", path));
    let server = Local::serve(&world.there).await;
    deliver(&world, &server, "sea.png", PNG).await.unwrap();
    let stem = world.arrived(".data")[0].replace(".data", "");
    let small = format!("{stem}.thumb.jpg");
    assert_eq!(world.arrived(".jpg"), [small.as_str()]);
    let meta = read_meta(&world.photo().join(format!("{stem}.meta")));
    assert_eq!(meta.extra["thumbnail"], small.as_str());
    // What is no picture, or cannot be read, is taken all the same.
    for (file, bytes) in [
        ("a.svg", b"<svg/>".as_slice()),
        ("b.jpg", b"\xff\xd8\xff\xe0 broken"),
    ] {
        deliver(&world, &server, file, bytes).await.unwrap();
    }
    assert_eq!(world.arrived(".data").len(), 3);
    assert_eq!(world.arrived(".jpg").len(), 1);
    let metas = common::read_metas(&world.photo(), ".meta");
    assert!(
        metas
            .iter()
            .all(|meta| !meta.extra.contains_key("pendingHook"))
    );
    assert!(world.arrived("").iter().all(|f| !f.starts_with(".thumb-")));
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_refuses_one_too_many_and_says_when_to_come_again() {
    let world = installed_with("rateLimit", |config| put(&config, "= 20", "= 3"));
    // Not at the end of an hour.
    let hour = |offset| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        (since.unwrap().as_secs() + offset) / 3600
    };
    if hour(0) != hour(30) {
        tokio::time::sleep(Duration::from_secs(31)).await;
    }
    let server = Local::serve(&world.there).await;
    for file in ["a", "b", "c"] {
        deliver(&world, &server, file, b"x").await.unwrap();
    }
    let again = format!("try again after {:02}:00 UTC", (hour(0) + 1) % 24);
    let result = deliver(&world, &server, "d", b"x").await;
    assert!(result.as_ref().unwrap_err().sentence.contains(&again));
    refused(result, "at most 3 files an hour, please");
    assert_eq!(world.arrived(".data").len(), 3);
}

/// Settings that name a mail server on this machine.
fn smtp(address: SocketAddr) -> String {
    format!(
        "[smtp]\nhost = 127.0.0.1\nport = {}\nfrom = m2y <m2y@example.org>\nsecurity = none\n",
        address.port()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn daily_digest_sends_one_email_about_all_files() {
    let world = installed_with("dailyDigest", at_once);
    let mails = Smtp::start(Ways::default());
    fs::write(world.there.path().join("m2y.ini"), smtp(mails.address)).unwrap();
    let server = Local::serve(&world.there).await;
    for (file, bytes) in [("a", b"one".as_slice()), ("b", b"four")] {
        deliver(&world, &server, file, bytes).await.unwrap();
    }
    fire(&world, Kind::Schedule, None).await;
    until("an e-mail", || !mails.arrived().is_empty()).await;
    let mail = &mails.arrived()[0];
    let text = String::from_utf8_lossy(&mail.data).into_owned();
    assert!(mail.to[0].contains("roland-frei@example.org"), "{mail:?}");
    assert!(text.contains("2 files have come to photo"), "{text}");
    assert!(text.contains("zhenqiang: 2 files, 7 bytes\r\n"), "{text}");
    // On a day without a file there is none.
    let verdict = fire(&world, Kind::Schedule, None).await;
    assert!(verdict.effects.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn invoices_go_to_their_sender_and_month_and_one_email_tells_of_them() {
    let world = installed("invoices");
    let mails = Smtp::start(Ways::default());
    fs::write(world.there.path().join("m2y.ini"), smtp(mails.address)).unwrap();
    let server = Local::serve(&world.there).await;
    refused(
        deliver(&world, &server, "virus.pdf", b"MZ").await,
        "only invoices as PDF",
    );
    let sent = deliver(&world, &server, "seven.pdf", b"%PDF one")
        .await
        .unwrap();
    deliver(&world, &server, "eight.pdf", b"%PDF eight")
        .await
        .unwrap();
    let day: Vec<&str> = sent.datetime.split(['-', '_']).collect();
    let month = world
        .photo()
        .join(format!("zhenqiang/{}-{}", day[2], day[1]));
    assert_eq!(common::names(&month, ".pdf"), ["eight.pdf", "seven.pdf"]);
    assert_eq!(common::names(&month, ".meta"), ["eight.meta", "seven.meta"]);
    fire(&world, Kind::Schedule, None).await;
    until("an e-mail", || !mails.arrived().is_empty()).await;
    let text = String::from_utf8_lossy(&mails.arrived()[0].data).into_owned();
    assert!(text.contains("2 invoices received"), "{text}");
    assert!(text.contains("zhenqiang: 2 invoices\r\n"), "{text}");
    let verdict = fire(&world, Kind::Schedule, None).await;
    assert!(verdict.effects.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allow_list_of_ten_thousand_lines_takes_what_is_on_it_and_ten_files_a_day() {
    let world = installed("allowList");
    let mut list: Vec<String> = (0..10_000_u32)
        .map(|n| hex::encode(Sha256::digest(n.to_le_bytes())))
        .collect();
    list.push(hex::encode(Sha256::digest(b"allowed")));
    fs::write(world.photo().join("allowed.txt"), list.join("\n")).unwrap();
    let server = Local::serve(&world.there).await;
    deliver(&world, &server, "a", b"allowed").await.unwrap();
    refused(
        deliver(&world, &server, "b", b"not allowed").await,
        "not on the list",
    );
    for n in 0..8_u32 {
        deliver(&world, &server, &format!("c{n}"), &n.to_le_bytes())
            .await
            .unwrap();
    }
    refused(
        deliver(&world, &server, "d", b"allowed").await,
        "at most 10 files a day",
    );
    assert_eq!(world.arrived(".data").len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn expire_removes_what_is_old_and_its_meta() {
    let world = installed_with("expire", at_once);
    let server = Local::serve(&world.there).await;
    for file in ["old", "young"] {
        deliver(&world, &server, file, b"x").await.unwrap();
    }
    let old = &world.arrived(".data")[0];
    let month_ago = SystemTime::now() - Duration::from_secs(31 * 86_400);
    let touch = |file: &str| {
        let file = fs::File::options()
            .write(true)
            .open(world.photo().join(file));
        file.unwrap().set_modified(month_ago).unwrap();
    };
    touch(old);
    touch("m2y.config");
    let verdict = fire(&world, Kind::Schedule, None).await;
    assert_eq!(verdict.outcome, Outcome::Accepted);
    let left = world.arrived(".data");
    assert_eq!(left.len(), 1);
    assert_ne!(&left[0], old);
    assert_eq!(world.arrived(".meta"), [left[0].replace(".data", ".meta")]);
    assert!(world.photo().join("m2y.config").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_tells_a_web_server_of_each_file() {
    let web = Http::start(Response::new(Bytes::new()), None).await;
    let world = installed_with("webhook", |config| {
        let url = format!("http://{}/m2y", web.address);
        put(&config, "https://example.org/m2y", &url)
    });
    let ini = format!("[webhook]\nallow = {}\n", web.address);
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let server = Local::serve(&world.there).await;
    let sent = deliver(&world, &server, "sea.jpg", b"four").await.unwrap();
    until("a request", || !web.heard().is_empty()).await;
    let heard = &web.heard()[0];
    assert_eq!(
        (heard.method.as_str(), heard.path.as_str()),
        ("POST", "/m2y")
    );
    let body = json::parse(&heard.body).unwrap();
    assert_eq!(body["event"], "OnReceived");
    assert_eq!(body["from"], ZHENQIANG);
    assert_eq!(body["filename"], "sea.jpg");
    assert_eq!(body["size"], 4);
    assert_eq!(body["sent"], sent.datetime.as_str());
    assert_eq!(body["id"].as_str().map(str::len), Some(32));
    assert_eq!(body["file"], world.arrived(".data")[0].as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_uses_the_library_moves_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let arrived = library::transfer(dir.path()).await.unwrap();
    assert_eq!(arrived.text, "Hello, Roland");
    assert_eq!(arrived.shelf, "letters from zhenqiang");
}

#[test]
fn every_example_says_in_a_few_lines_what_it_does() {
    let mut count = 0;
    for entry in fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        for file in [
            "m2y.config".to_owned(),
            format!("{name}.rhai"),
            format!("{name}_test.rhai"),
        ] {
            assert!(path.join(&file).is_file(), "{name} has no {file}");
        }
        let readme = fs::read_to_string(path.join("README.md")).unwrap();
        assert!(
            readme.starts_with("# ") && readme.lines().count() <= 12,
            "{name}"
        );
        let config = fs::read_to_string(path.join("m2y.config")).unwrap();
        Config::parse(&config).unwrap_or_else(|e| panic!("{name}: {e}"));
        for script in fs::read_dir(&path).unwrap() {
            let script = script.unwrap().path();
            let text = fs::read_to_string(&script).unwrap();
            assert!(text.lines().count() <= 40, "{} is long", script.display());
        }
        count += 1;
    }
    assert!(count >= 13);
}

#[test]
fn the_tests_of_every_example_succeed() {
    for entry in fs::read_dir(examples()).unwrap() {
        let path = entry.unwrap().path();
        let output = Command::new(common::M2Y)
            .args(["hook", "test"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", common::said(&output));
    }
}
